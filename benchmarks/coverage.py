"""Do 95% intervals hold the truth in 95% of sweeps? Simulated sweeps of known surfaces, by design and noise.

    python -m benchmarks.coverage                      # 1000 sweeps a cell, about 50 minutes of one core
    python -m benchmarks.coverage --sweeps 300 --design desk

Designs are the sizes and budgets of the published table `sahoo2026` (its masked runs) and of
sweeps/configs/desk.yaml; losses are those of a surface near what such runs give, times log-normal noise.
Estimated are the exponents of N and D in the loss and of N* in compute, and N* and the loss at ten times the
largest budget. `docs/coverage.md` has the results. All numbers go to build/benchmarks/coverage.json.
"""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from analysis import fit_law, published
from analysis.errors import UserError
from analysis.frontier import Cost, fit_cost, frontier_exponents, optimal_logs, optimal_loss, surface_loss
from analysis.laws.result import Law
from benchmarks import options, save
from scaling.flops import forward_flops, param_count
from scaling.ladder import LADDERS

NOISES = (0.002, 0.005, 0.01)
LEVEL = 0.95
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "surface": ("surface", {}),
    "surface bca": ("surface", {"interval": "bca"}),
    "surface rows": ("surface", {"resample": "rows"}),
    "surface allowance": ("surface", {"interval": "allowance"}),
    "surface delta auto": ("surface", {"delta": "auto"}),
    "isoflop": ("isoflop", {}),
    "isoflop corrected": ("isoflop", {"correct_bias": True}),
}
ESTIMATED = ("alpha", "beta", "exponent of N*", "N*", "loss")


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """The runs of a sweep and the surface of their losses."""

    runs: pd.DataFrame
    """params, tokens, flops (and budget)."""
    theta: np.ndarray
    """E, A, B, alpha, beta."""

    @property
    def cost(self) -> Cost:
        return fit_cost(*(self.runs[name].to_numpy() for name in ("params", "tokens", "flops")))

    @property
    def top(self) -> float:
        """Ten times the largest budget."""
        return 10 * float(self.runs["budget" if "budget" in self.runs else "flops"].max())

    def truth(self) -> dict[str, float]:
        logs = optimal_logs(self.theta, np.array([self.top]), self.cost)
        return {
            "alpha": float(self.theta[3]),
            "beta": float(self.theta[4]),
            "exponent of N*": float(frontier_exponents(self.theta, self.cost)["params"]),
            "N*": float(np.exp(logs[0][0])),
            "loss": float(self.theta[0] + optimal_loss(self.theta, *logs)[0]),
        }

    def sweep(self, noise: float, seed: int) -> pd.DataFrame:
        clean = surface_loss(self.theta, self.runs["params"].to_numpy(), self.runs["tokens"].to_numpy())
        generator = np.random.default_rng([seed, round(1e6 * noise)])
        return self.runs.assign(loss=clean * np.exp(noise * generator.standard_normal(len(clean))))


def sahoo2026() -> Design:
    """29 masked runs at 5 budgets; the surface fitted to them, rounded."""
    runs = published.runs("sahoo2026").query("family == 'masked'")[["params", "tokens", "flops"]]
    return Design(runs=runs.reset_index(drop=True), theta=np.array([2.235, 4106.0, 7570.0, 0.484, 0.4095]))


def desk() -> Design:
    """The 24 runs of desk.yaml; a surface whose best sizes and losses are near those of its ar runs.

    Tokens are those of the cost k N^q D that describes the ladder (within 11%), so that the optimum is known
    in closed form: what is measured is the noise, not that approximation.
    """
    config = yaml.safe_load((Path(__file__).parents[1] / "sweeps/configs/desk.yaml").read_text())
    length, rows = config["context_length"], []
    for budget, sizes in config["grid"]["sizes"].items():
        for name in sizes:
            size = LADDERS["desk"][name]
            per_token = 3 * forward_flops(size, 257, length, convention="exact") / length
            params = param_count(size, 257, kind="non_embedding")
            rows.append((float(budget), float(budget), float(params), float(budget) / per_token))
    runs = pd.DataFrame(rows, columns=["budget", "flops", "params", "tokens"])
    cost = fit_cost(*(runs[name].to_numpy() for name in ("params", "tokens", "flops")))
    runs["tokens"] = cost.tokens(runs["params"].to_numpy(), runs["flops"].to_numpy())
    return Design(runs=runs, theta=np.array([1.2, 18.81, 37.01, 0.42, 0.34]))


DESIGNS = {"sahoo2026": sahoo2026, "desk": desk}


def estimates(law: Law, top: float) -> dict[str, Any]:
    """The law's estimates, by name."""
    best = law.optimal(top)
    intervals: dict[str, Any] = {
        "exponent of N*": law.exponents["params"],
        "N*": best.params,
        "loss": best.loss,
    }
    if law.method == "surface":
        intervals |= {"alpha": law.alpha, "beta": law.beta}  # type: ignore[attr-defined]
    return intervals


def cover(design: Design, noise: float, method: str, sweeps: int, bootstrap: int) -> dict[str, Any]:
    """Share of the sweeps whose interval holds each true number, and the intervals' median width."""
    truth, top = design.truth(), design.top
    kind, settings = METHODS[method]
    held: dict[str, list[bool]] = {name: [] for name in ESTIMATED}
    width: dict[str, list[float]] = {name: [] for name in ESTIMATED}
    refused, started = 0, time.process_time()
    for seed in range(sweeps):
        runs = design.sweep(noise, seed)
        try:
            law = fit_law(runs, kind, bootstrap=bootstrap, seed=seed, level=LEVEL, **settings)
        except UserError:
            refused += 1
            continue
        for name, value in estimates(law, top).items():
            if value.low is None or value.high is None:
                continue  # the loss of an IsoFLOP law beyond its budgets
            held[name].append(value.low <= truth[name] <= value.high)
            relative = name in ("N*", "loss")
            width[name].append((value.high - value.low) / (truth[name] if relative else 1.0))
    return {
        "sweeps": sweeps,
        "refused": refused,
        "cpu_s": round(time.process_time() - started, 1),
        "coverage": {name: float(np.mean(of)) for name, of in held.items() if of},
        "median_width": {name: float(np.median(of)) for name, of in width.items() if of},
    }


def main() -> None:
    parser = options(__doc__, "coverage")
    parser.add_argument("--sweeps", type=int, default=1000, help="simulated sweeps per cell")
    parser.add_argument("--bootstrap", type=int, default=200, help="resamples per fit")
    parser.add_argument("--design", nargs="*", choices=DESIGNS, default=list(DESIGNS))
    parser.add_argument("--method", nargs="*", choices=METHODS, default=list(METHODS))
    args = parser.parse_args()
    print(f"{date.today()}, {platform.machine()}, {args.sweeps} sweeps a cell, {args.bootstrap} resamples")
    print(f"one standard error of a share of 95%: {np.sqrt(0.05 * 0.95 / args.sweeps):.1%}")
    print(f"| design | noise | method | {' | '.join(ESTIMATED)} | width: exponent of N* | loss | refused |")
    print("|" + "---|" * (len(ESTIMATED) + 6))
    rows = []
    for design, noise, method in product(args.design, NOISES, args.method):
        row = cover(DESIGNS[design](), noise, method, args.sweeps, args.bootstrap)
        rows.append({"design": design, "noise": noise, "method": method, **row})
        covered, widths = row["coverage"], row["median_width"]
        shares = [f"{100 * covered[name]:.1f}" if name in covered else "" for name in ESTIMATED]
        shares += [f"{widths[name]:.3f}" if name in widths else "" for name in ("exponent of N*", "loss")]
        words = [design, f"{noise:.1%}", method, *shares, str(row["refused"])]
        print(f"| {' | '.join(words)} |", flush=True)
    save(args.out, rows)


if __name__ == "__main__":
    main()
