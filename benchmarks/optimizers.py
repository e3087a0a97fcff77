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
from typing import Any, Literal

import torch

from benchmarks import options, save
from scaling.data import prepare
from scaling.ladder import LADDERS
from scaling.spec import DataSpec, EvaluationSpec, OptimizerSpec, RunSpec
from scaling.training import train
from scaling.training.muon import flops_per_step

CONTEXT_LENGTH, BATCH_SIZE = 64, 16
RATES = (0.01, 0.02, 0.04)
METHODS: dict[str, Literal["adamw", "muon"]] = {"AdamW": "adamw", "Muon": "muon"}
AVERAGED = 0.02
"""Share of the steps over which the weights are averaged: 1 - decay times the steps is its inverse."""


def bounds(
    family: str, size: str, steps: int, seeds: int, rate: float, method: Literal["adamw", "muon"]
) -> dict[str, Any]:
    """Bounds of every seed, of its last and of its averaged weights; seconds; the FLOPs of one step that are
    counted, and of Muon's."""
    torch.set_num_threads(1)
    data = prepare("stdlib", "bytes", Path("build/benchmarks/data"))
    decay = 1 - 1 / (AVERAGED * steps)
    spec = RunSpec(
        family=family,
        size=LADDERS["desk"][size],
        budget=1.0,
        sequences=BATCH_SIZE * steps,
        batch_size=BATCH_SIZE,
        data=DataSpec.of(data, CONTEXT_LENGTH),
        optimizer=OptimizerSpec(learning_rate=rate, warmup_steps=steps // 10, method=method, ema_decay=decay),
        evaluation=EvaluationSpec(sequences=2048, noise_levels=1),
        replicas=seeds,
    )
    with tempfile.TemporaryDirectory() as folder:
        result = train(spec, data, Path(folder), log=lambda _: None, keep_weights=False)
    each = result.replicas or (result,)
    return {
        "bounds": [one.bound_last for one in each],
        "averaged": [one.bound_average for one in each],
        "train_s": result.train_s,
        "step_flops": spec.training_flops() / steps,
        "muon_flops": flops_per_step(spec.size) if method == "muon" else 0.0,
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
    families = arguments.families.split(",")
    rows = []
    for family in families:
        for name, method in METHODS.items():
            for rate in RATES:
                run = bounds(family, arguments.size, arguments.steps, arguments.seeds, rate, method)
                rows.append({"family": family, "optimizer": name, "rate": rate} | run)
                print(rows[-1], flush=True)
                save(arguments.out, rows)
    print_table(families, rows)


def print_table(families: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Of each optimizer its best rate; Muon minus AdamW, averaged minus last weights, and what Muon costs."""
    print("| family | AdamW | rate | Muon | rate | Muon - AdamW | averaged - last (AdamW) | time | FLOPs |")
    print("|---" * 9 + "|")
    for family in families:
        own = {name: [r for r in rows if (r["family"], r["optimizer"]) == (family, name)] for name in METHODS}
        adamw, muon = (best(own[name]) for name in METHODS)
        seconds = [sum(run["train_s"] for run in runs) for runs in own.values()]
        cells = [
            *(f"{fmean(run['bounds']):.3f} | {run['rate']:g}" for run in (adamw, muon)),
            "{:+.3f} ± {:.3f}".format(*paired(muon["bounds"], adamw["bounds"])),
            "{:+.3f} ± {:.3f}".format(*paired(adamw["averaged"], adamw["bounds"])),
            f"{seconds[1] / seconds[0]:.2f}",
            f"{1 + muon['muon_flops'] / muon['step_flops']:.2f}",
        ]
        print(f"| `{family}` | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
