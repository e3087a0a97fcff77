"""Muon against AdamW, and averaged weights against the last ones: paired over seeds, with what they cost.

Every optimizer trains the same networks (replicas: the same seeds, initial weights, text and noise) at
several learning rates; each is compared at the rate with the lowest mean bound of its own. The rate is chosen
on the seeds that are compared, which favours none. Intervals are Student's over the paired differences.

    python -m benchmarks.optimizers [--families ar,masked,uniform] [--size 32x1] [--steps 400] [--seeds 4]

About five minutes on one quiet core. The table goes to the terminal as Markdown, all numbers to
build/benchmarks/optimizers.json.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from benchmarks import options, save
from scaling.data import prepare
from scaling.ladder import LADDERS
from scaling.spec import DataSpec, EvaluationSpec, OptimizerSpec, RunSpec
from scaling.training import train
from scaling.training.muon import flops_per_step

CONTEXT_LENGTH, BATCH_SIZE = 64, 16
RATES = (0.005, 0.01, 0.02, 0.04)
VARIANTS: dict[str, dict[str, Any]] = {
    "AdamW": {},
    "AdamW, averaged": {"ema_decay": 0.97},
    "Muon": {"method": "muon"},
}


def bounds(
    family: str, size: str, steps: int, seeds: int, rate: float, optimizer: dict[str, Any]
) -> dict[str, Any]:
    """The bound of every seed, seconds, and the FLOPs of the counted products of one step and of Muon's."""
    torch.set_num_threads(1)
    data = prepare("stdlib", "bytes", Path("build/benchmarks/data"))
    spec = RunSpec(
        family=family,
        size=LADDERS["desk"][size],
        budget=1.0,
        sequences=BATCH_SIZE * steps,
        batch_size=BATCH_SIZE,
        data=DataSpec.of(data, CONTEXT_LENGTH),
        optimizer=OptimizerSpec(learning_rate=rate, warmup_steps=steps // 10, **optimizer),
        evaluation=EvaluationSpec(sequences=4096, noise_levels=1),
        replicas=seeds,
    )
    with tempfile.TemporaryDirectory() as folder:
        result = train(spec, data, Path(folder), log=lambda _: None, keep_weights=False)
    kind = "bound_average" if "ema_decay" in optimizer else "bound"
    each = result.replicas or (result,)
    return {
        "bounds": [getattr(one, kind) for one in each],
        "train_s": result.train_s,
        "step_flops": spec.training_flops() / steps,
        "muon_flops": flops_per_step(spec.size) if "method" in optimizer else 0.0,
    }


def paired(values: Sequence[float], others: Sequence[float]) -> tuple[float, float]:
    """Mean of values minus others, pair by pair, and half the width of its 95% interval."""
    from scipy.stats import t

    differences = [a - b for a, b in zip(values, others, strict=True)]
    count = len(differences)
    return fmean(differences), float(t.ppf(0.975, count - 1)) * stdev(differences) / count**0.5


def best(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The run with the lowest mean bound among those that all seeds finished."""
    finished = [run for run in runs if None not in run["bounds"]]
    return min(finished, key=lambda run: fmean(run["bounds"]))


def main() -> None:
    parser = options(__doc__, "optimizers")
    parser.add_argument("--families", default="ar,masked,uniform")
    parser.add_argument("--size", default="32x1", help="of the desk ladder")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=4)
    arguments = parser.parse_args()
    rows = []
    for family in arguments.families.split(","):
        for name, optimizer in VARIANTS.items():
            for rate in RATES:
                run = bounds(family, arguments.size, arguments.steps, arguments.seeds, rate, optimizer)
                rows.append({"family": family, "optimizer": name, "rate": rate} | run)
                print(rows[-1], flush=True)
                save(arguments.out, rows)
    print("| family | optimizer | best rate | bound | minus AdamW's | time of a step | FLOPs of a step |")
    print("|---|---|---|---|---|---|---|")
    for family in arguments.families.split(","):
        own = [row for row in rows if row["family"] == family]
        reference = best([row for row in own if row["optimizer"] == "AdamW"])
        for name in VARIANTS:
            run = best([row for row in own if row["optimizer"] == name])
            seconds = [
                sum(row["train_s"] for row in own if row["optimizer"] == one) for one in (name, "AdamW")
            ]
            mean, half = paired(run["bounds"], reference["bounds"])
            print(
                f"| `{family}` | {name} | {run['rate']:g} | {fmean(run['bounds']):.3f} | "
                f"{f'{mean:+.3f} ± {half:.3f}' if run is not reference else ''} | "
                f"{seconds[0] / seconds[1]:.2f} | {1 + run['muon_flops'] / run['step_flops']:.2f} |"
            )


if __name__ == "__main__":
    main()
