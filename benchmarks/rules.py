"""Does a rule of `scaling tune` hold out of sample? Runs under the rule and without it, at the same seeds.

    python -m benchmarks.rules ar --rule runs/desk-tune/ar/rule.yaml [--cells 1.2e10:24x1,...] [--seeds 4]

The cells (FLOPs and size) are to be none of the study's points, and the seeds are none of its seeds. Seeds
are trained as one stacked network. Printed: the loss without the rule and with it, and the difference in
pairs with a 95% interval from Student's t over seeds, of each cell and of the mean over cells.
"""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import yaml

from benchmarks import options, save
from benchmarks.objectives import mean_interval
from scaling.data import open_dataset, prepare
from scaling.spec import DataSpec, RunSpec
from scaling.training import train
from sweeps.config.load import SHIPPED, parse_config
from sweeps.plan.plan import DataFacts, plan_specs
from sweeps.pools.base import WORKER_ENVIRONMENT

CELLS = "1.2e10:24x1,4e10:24x1,4e10:32x1,1.2e11:32x1,1.2e11:48x1"
"""No points of the desk sweep's study."""


def specs_of(family: str, cells: str, seeds: int, rule: Path | None, facts: DataFacts) -> list[RunSpec]:
    """A run of stacked seeds for each cell, by the desk sweep's rules, or by `rule`."""
    raw = yaml.safe_load((SHIPPED / "desk.yaml").read_text())
    sizes: dict[float, list[str]] = defaultdict(list)
    for cell in cells.split(","):
        budget, _, size = cell.partition(":")
        sizes[float(budget)].append(size)
    raw["grid"] = {"budgets": list(sizes), "sizes": dict(sizes), "replicas": seeds}
    raw |= {"seeds": list(range(1, seeds + 1)), "evaluation": {"sequences": 8192, "noise_levels": 1}}
    if rule is not None:
        raw["include"] = [str(rule.resolve())]
    config = parse_config(yaml.safe_dump(raw), source="desk.yaml", folder=Path())
    return list(plan_specs(config, facts, [family])[0])


def bounds_of(spec: RunSpec, folder: str) -> list[float]:
    """Held-out bound of each seed, nats per token."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        result = train(spec, open_dataset(folder), Path(place), log=lambda _: None)
    bounds = [one.bound for one in result.replicas] or [result.bound]
    if None in bounds:
        raise RuntimeError(f"{spec.size.name} at {spec.budget:.1e} FLOPs: {result.sentence}")
    return [bound for bound in bounds if bound is not None]


def main() -> None:
    parser = options(__doc__, "rules")
    parser.add_argument("family")
    parser.add_argument("--rule", type=Path, required=True)
    parser.add_argument("--cells", default=CELLS)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    # the allocator reads its settings when a process starts, and workers are started with these
    os.environ.update(WORKER_ENVIRONMENT)
    with tempfile.TemporaryDirectory() as cache:
        data = prepare("stdlib", "bytes", Path(cache))
        of_text = DataSpec.of(data, 2)
        facts = DataFacts(
            corpus=of_text.corpus, tokenizer=of_text.tokenizer, fingerprint=of_text.fingerprint,
            num_token_ids=of_text.num_token_ids,
        )  # fmt: skip
        ways = [
            specs_of(arguments.family, arguments.cells, arguments.seeds, rule, facts)
            for rule in (None, arguments.rule)
        ]
        with ProcessPoolExecutor(arguments.workers, get_context("spawn")) as pool:
            waiting = [[pool.submit(bounds_of, spec, str(data.folder)) for spec in specs] for specs in ways]
            bounds = np.array([[one.result() for one in row] for row in waiting])

    print("| size, budget | steps | rate without | with | loss without | with | difference |")
    print("|---" * 7 + "|")
    gains = bounds[1] - bounds[0]
    for i, (plain, ruled) in enumerate(zip(*ways, strict=True)):
        mean, half = mean_interval(gains[i])
        rates = f"{plain.optimizer.learning_rate:.4f} | {ruled.optimizer.learning_rate:.4f}"
        losses = f"{bounds[0, i].mean():.3f} | {bounds[1, i].mean():.3f}"
        cell = f"{plain.size.name}, {plain.budget:.1e} | {plain.steps:,}"
        print(f"| {cell} | {rates} | {losses} | {mean:+.3f} ± {half:.3f} |")
    mean, half = mean_interval(gains.mean(axis=0))
    print(f"all {len(gains)} cells: {mean:+.4f} ± {half:.4f} nats per token")
    save(arguments.out, {"bounds": bounds.tolist(), "cells": arguments.cells})


if __name__ == "__main__":
    main()
