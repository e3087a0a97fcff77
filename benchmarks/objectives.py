"""masked: does the low-variance objective train better than the bound itself, and by how much compute?

Both objectives train the same size from the same weights on the same batches and noise (equal seed), at
three budgets of two scales and 32 seeds, eight of them stacked in a process. Reported: the difference in
bound at equal FLOPs, paired over seeds, and the compute ratio at equal bound from power laws L = a C^-g
through each objective's runs, each with a 95% interval from Student's t over seeds. arXiv 2602.15014
reports low variance "about 12% more FLOPs-efficient".

    python -m benchmarks.objectives [--scale small desk] [--seeds 32] [--workers 2]
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import options, save, train_once
from scaling import flops
from scaling.data import open_dataset, prepare
from scaling.families import family_class
from scaling.ladder import LADDERS
from scaling.spec import EvaluationSpec, OptimizerSpec
from sweeps.pools.base import WORKER_ENVIRONMENT

SCALES = {
    "small": {5e9: "8x1", 1.2e10: "8x1", 3e10: "16x1"},
    "desk": {3e10: "16x1", 9e10: "24x1", 2.7e11: "32x1"},
}
"""Training FLOPs and a size near the optimum there."""
OBJECTIVES = ("low_variance", "nelbo")
STACKED = 8
"""Seeds that one process trains as one stacked network."""
CONTEXT_LENGTH, BATCH_SIZE, LEARNING_RATE = 32, 16, 8e-3


def bounds_of(objective: str, budget: float, name: str, seed: int, count: int, folder: str) -> list[float]:
    """Held-out bounds, nats per token, of the runs of seeds seed, seed + 1, ..."""
    data = open_dataset(folder)
    size = LADDERS["desk"][name]
    vocab_size = family_class("masked").vocab_size_for(data.num_token_ids)
    sequences = flops.sequences_for(budget, size, vocab_size, CONTEXT_LENGTH)
    steps = -(-sequences // BATCH_SIZE)
    result = train_once(
        data,
        CONTEXT_LENGTH,
        family="masked",
        family_options={"objective": objective},
        size=size,
        budget=budget,
        sequences=sequences,
        batch_size=BATCH_SIZE,
        optimizer=OptimizerSpec(learning_rate=LEARNING_RATE, warmup_steps=max(20, steps // 20)),
        evaluation=EvaluationSpec(sequences=4096, noise_levels=1),
        seed=seed,
        replicas=count,
    )
    bounds = [one.bound for one in result.replicas] or [result.bound]
    if None in bounds:
        raise RuntimeError(f"{objective} at {budget:.0e} FLOPs: a seed from {seed} on has diverged")
    return [bound for bound in bounds if bound is not None]


def run_all(scale: str, seeds: int, workers: int) -> Iterator[tuple[str, float, int, list[float]]]:
    """(objective, budget, first seed, bounds) of every stack of runs, as they finish."""
    budgets = SCALES[scale]
    with tempfile.TemporaryDirectory() as cache:
        folder = str(prepare("stdlib", "bytes", Path(cache)).folder)
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            waiting = {
                pool.submit(
                    bounds_of, objective, budget, budgets[budget], seed, min(STACKED, seeds - seed), folder
                ): (objective, budget, seed)
                for budget in sorted(budgets, reverse=True)
                for seed in range(0, seeds, STACKED)
                for objective in OBJECTIVES
            }
            for future in as_completed(waiting):
                yield (*waiting[future], future.result())


def log_compute_ratio(bounds: np.ndarray, budgets: np.ndarray) -> float:
    """Log of the FLOPs low variance needs for the bound nelbo reaches over nelbo's, at the middle budget.

    bounds: (2 objectives, budgets) of one seed. Power laws: log L is linear in log C.
    """
    log_c = np.log(budgets)
    low, full = (np.polyfit(log_c, np.log(b), 1) for b in bounds)
    middle = log_c.mean()
    return float((np.polyval(full, middle) - low[1]) / low[0] - middle)


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """Mean over seeds and the half width of its 95% Student interval."""
    from scipy import stats

    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(half)


def compare(scale: str, seeds: int, workers: int) -> dict[str, Any]:
    """Run one scale, print what it says, and return its numbers."""
    budgets = np.array(sorted(SCALES[scale]))
    bounds = np.full((2, len(budgets), seeds), np.nan)
    for objective, budget, seed, some in run_all(scale, seeds, workers):
        bounds[OBJECTIVES.index(objective), budgets == budget, seed : seed + len(some)] = some
        done = int(np.isfinite(bounds).sum())
        print(f"{done}/{bounds.size}  {budget:.1e} FLOPs  {objective:12s}  {np.mean(some):.4f}", flush=True)

    print("\nbound of low_variance minus bound of nelbo, nats per token, paired over seeds")
    for i, budget in enumerate(budgets):
        mean, half = mean_interval(bounds[0, i] - bounds[1, i])
        print(f"  {budget:.1e} FLOPs  {SCALES[scale][budget]:5s}  {mean:+.4f} +- {half:.4f}")
    logs = np.array([log_compute_ratio(bounds[..., seed], budgets) for seed in range(seeds)])
    mean, half = mean_interval(logs)
    low, ratio, high = np.exp([mean - half, mean, mean + half])
    middle = float(np.exp(np.log(budgets).mean()))
    print(
        f"\n{scale}: compute of low_variance over nelbo at equal bound, near {middle:.1e} FLOPs, "
        f"{seeds} seeds: {ratio:.3f} [{low:.3f}, {high:.3f}]; the published 12% would be about 0.88\n"
    )
    return {"budgets": budgets.tolist(), "bounds": bounds.tolist(), "objectives": OBJECTIVES}


def main() -> None:
    parser = options(__doc__, "objectives")
    parser.add_argument("--scale", nargs="*", default=list(SCALES), choices=SCALES)
    parser.add_argument("--seeds", type=int, default=32)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    # the allocator reads its settings when a process starts, and workers are started with these
    os.environ.update(WORKER_ENVIRONMENT)
    save(
        arguments.out,
        {scale: compare(scale, arguments.seeds, arguments.workers) for scale in arguments.scale},
    )


if __name__ == "__main__":
    main()
