"""masked: does the low-variance objective train better than the bound itself, and by how much compute?

Both objectives train the same size from the same weights on the same batches and noise (equal seed), at
three budgets and five seeds. Reported: the difference in bound at equal FLOPs, paired over seeds, and the
compute ratio at equal bound from power laws L = a C^-g through each objective's runs, each with a 95%
interval from Student's t over seeds. arXiv 2602.15014 reports low variance "about 12% more FLOPs-efficient".

    python -m benchmarks.objectives [--seeds 5] [--workers 2]
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np

from benchmarks import options, save, train_once
from scaling import flops
from scaling.data import open_dataset, prepare
from scaling.families import family_class
from scaling.ladder import LADDERS
from scaling.spec import EvaluationSpec, OptimizerSpec

BUDGETS = {3e10: "16x1", 9e10: "24x1", 2.7e11: "32x1"}
"""Training FLOPs and a size near the optimum there."""
OBJECTIVES = ("low_variance", "nelbo")
CONTEXT_LENGTH, BATCH_SIZE, LEARNING_RATE = 32, 16, 8e-3


def bound_of(objective: str, budget: float, seed: int, dataset_folder: str) -> float:
    """Held-out bound, nats per token, of one run."""
    data = open_dataset(dataset_folder)
    size = LADDERS["desk"][BUDGETS[budget]]
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
        evaluation=EvaluationSpec(sequences=512, noise_levels=8),
        seed=seed,
    )
    assert result.bound is not None, "or an error was raised"
    return result.bound


def run_all(seeds: int, workers: int) -> Iterator[tuple[str, float, int, float]]:
    """(objective, budget, seed, bound) of every run, as they finish."""
    with tempfile.TemporaryDirectory() as cache:
        folder = str(prepare("stdlib", "bytes", Path(cache)).folder)
        with ProcessPoolExecutor(workers) as pool:
            waiting = {
                pool.submit(bound_of, objective, budget, seed, folder): (objective, budget, seed)
                for budget in sorted(BUDGETS, reverse=True)
                for seed in range(seeds)
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


def main() -> None:
    parser = options(__doc__, "objectives")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()

    budgets = np.array(sorted(BUDGETS))
    bounds = np.full((2, len(budgets), arguments.seeds), np.nan)
    total = bounds.size
    for done, (objective, budget, seed, bound) in enumerate(run_all(arguments.seeds, arguments.workers), 1):
        bounds[OBJECTIVES.index(objective), int(np.flatnonzero(budgets == budget)[0]), seed] = bound
        print(f"{done}/{total}  {budget:.1e} FLOPs  seed {seed}  {objective:12s}  {bound:.4f}", flush=True)

    print("\nbound of low_variance minus bound of nelbo, nats per token, paired over seeds")
    for i, budget in enumerate(budgets):
        mean, half = mean_interval(bounds[0, i] - bounds[1, i])
        print(f"  {budget:.1e} FLOPs  {BUDGETS[budget]:5s}  {mean:+.4f} +- {half:.4f}")
    logs = np.array([log_compute_ratio(bounds[..., seed], budgets) for seed in range(arguments.seeds)])
    mean, half = mean_interval(logs)
    low, ratio, high = np.exp([mean - half, mean, mean + half])
    middle = float(np.exp(np.log(budgets).mean()))
    print(
        f"\ncompute of low_variance over nelbo at equal bound, near {middle:.1e} FLOPs: "
        f"{ratio:.3f} [{low:.3f}, {high:.3f}]; the published 12% would be about 0.88"
    )
    numbers = {"budgets": budgets.tolist(), "bounds": bounds.tolist(), "objectives": OBJECTIVES}
    save(arguments.out, numbers)


if __name__ == "__main__":
    main()
