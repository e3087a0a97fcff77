"""Do intervals of a law of repeated runs hold, and how often does the test of lack of fit cry wolf?

Sweeps from parabolas of a known exponent: 4 budgets, 6 sizes, repeats that scatter (noise) about means
which lie off their parabola (misfit). Printed: in what share of sweeps the 95% interval of the exponent of
N* holds the truth, with repeats told apart from misfit, and with all runs taken for independent ones; and
in what share a fit warns of lack of fit, which without misfit is a false alarm (at most 1%).

    python -m benchmarks.repeats [--sweeps 300] [--bootstrap 200]
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis.laws.isoflop import fit_isoflop
from benchmarks import options, save

BUDGETS = (1e17, 1e18, 1e19, 1e20)
EXPONENT = 0.46
SIZES = 6
REACH = 1.2
"""Sizes lie up to e to this times the best, and as far below."""
CURVATURE = 0.03
"""Relative loss at e times the best size."""
CASES: tuple[dict[str, Any], ...] = (
    {"repeats": 3, "noise": 0.005, "misfit": 0.0},
    {"repeats": 3, "noise": 0.005, "misfit": 0.005},
    {"repeats": 4, "noise": 0.002, "misfit": 0.006},
    {"repeats": (8, 8, 4, 2, 1, 1), "noise": 0.003, "misfit": 0.006},
)


def sweep(repeats: int | tuple[int, ...], noise: float, misfit: float, seed: int) -> pd.DataFrame:
    """The run table of one sweep; misfit is what all repeats of a size have in common."""
    generator, rows = np.random.default_rng(seed), []
    counts = (repeats,) * SIZES if isinstance(repeats, int) else repeats
    for flops in BUDGETS:
        for u, count in zip(np.linspace(-REACH, REACH, SIZES), counts, strict=True):
            params = 0.12 * flops**EXPONENT * np.exp(u)
            mean = 3 * (flops / BUDGETS[0]) ** -0.05 * (1 + CURVATURE * u**2)
            mean *= np.exp(misfit * generator.standard_normal())
            losses = mean * np.exp(noise * generator.standard_normal(count))
            rows += [
                {"budget": flops, "params": params, "tokens": flops / 6 / params, "seed": i, "loss": loss}
                for i, loss in enumerate(losses)
            ]
    return pd.DataFrame(rows)


def holds(runs: pd.DataFrame, bootstrap: int) -> tuple[bool, bool]:
    """Whether the interval holds the exponent, and whether the fit warns of lack of fit."""
    law = fit_isoflop(runs, bootstrap=bootstrap)
    exponent = law.exponents["params"]
    assert exponent.low is not None, "a law with resamples has intervals"
    assert exponent.high is not None, "a law with resamples has intervals"
    return exponent.low <= EXPONENT <= exponent.high, law.lack_of_fit is not None and law.lack_of_fit.fails


def main() -> None:
    parser = options(__doc__, "repeats")
    parser.add_argument("--sweeps", type=int, default=300)
    parser.add_argument("--bootstrap", type=int, default=200)
    arguments = parser.parse_args()
    rows = []
    print("| repeats of a size | noise | misfit | run by run | noise and misfit apart | warned |")
    print("|---" * 6 + "|")
    for case in CASES:
        apart, alone, warned = 0, 0, 0
        for seed in range(arguments.sweeps):
            runs = sweep(**case, seed=seed)
            held, warns = holds(runs, arguments.bootstrap)
            apart, warned = apart + held, warned + warns
            # sizes that differ by nothing to speak of are no repeats of one another
            nudged = runs.assign(params=runs["params"] * (1 + 1e-7 * runs["seed"]))
            alone += holds(nudged, arguments.bootstrap)[0]
        shares = {"run_by_run": alone, "apart": apart, "warned": warned}
        rows.append({**case, **{name: count / arguments.sweeps for name, count in shares.items()}})
        counts = case["repeats"]
        label = counts if isinstance(counts, int) else ", ".join(map(str, counts))
        cells = [f"{case['noise']:.1%}", f"{case['misfit']:.1%}"]
        cells += [f"{rows[-1][name]:.1%}" for name in shares]
        print(f"| {label} | {' | '.join(cells)} |", flush=True)
    save(arguments.out, rows)


if __name__ == "__main__":
    main()
