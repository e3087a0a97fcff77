"""How fast an answer is: `analysis.recommend` from a run table, and for another budget of the same laws.

Measured in CPU seconds of one thread, beside what a user without it would write: `fit_law` of every family by
both methods, and `law.optimal` of each (which gives no difference between families, and no grade).

    python -m benchmarks.answer [--rounds 3]

usual   7 families of the 24 runs of desk.yaml's design
many    the same 60 times, 10,080 runs, no two of one size and tokens

Nothing is downloaded. The numbers go to build/benchmarks/answer.json; exit code 1 if a floor is missed.
"""

# ruff: noqa: E402  # threads are limited before numpy is loaded

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import sys
from functools import partial

import numpy as np
import pandas as pd

from analysis import fit_law, recommend
from benchmarks import options, save
from benchmarks.coverage import desk
from benchmarks.fitting import cpu_of

FAMILIES = ("ar", "masked", "uniform", "esoteric", "block", "hybrid", "gaussian")
FLOORS = {"usual_cpu_s": 1.0, "many_cpu_s": 3.0, "another_budget_cpu_s": 0.3}
"""At most so many seconds; set before it was written."""
FLOPS = 1e11


def table(copies: int) -> pd.DataFrame:
    design, generator = desk(), np.random.default_rng(0)
    parts = []
    for number, family in enumerate(FAMILIES):
        for copy in range(copies):
            runs = design.sweep(0.003, 1000 * number + copy)
            parts.append(runs.assign(family=family, loss=runs["loss"] * (1 + 0.05 * number)))
    runs = pd.concat(parts, ignore_index=True)
    if copies > 1:
        moved = np.exp(0.02 * generator.standard_normal(len(runs)))
        runs = runs.assign(params=runs["params"] * moved, tokens=runs["tokens"] / moved)
    return runs


def by_hand(runs: pd.DataFrame) -> list[object]:
    answers: list[object] = []
    for _, part in runs.groupby("family"):
        answers += [fit_law(part, method, bootstrap=500).optimal(FLOPS) for method in ("surface", "isoflop")]
    return answers


def main() -> None:
    parser = options(__doc__, "answer")
    parser.add_argument("--rounds", type=int, default=3, help="the least of so many is reported")
    arguments = parser.parse_args()
    numbers: dict[str, float] = {}
    recommend(table(1), FLOPS, draws=40)  # loads what is loaded once
    for name, copies in (("usual", 1), ("many", 60)):
        runs = table(copies)
        ours = [cpu_of(partial(recommend, runs, FLOPS)) for _ in range(arguments.rounds)]
        hand = min(cpu_of(partial(by_hand, runs))[0] for _ in range(arguments.rounds))
        again = min(cpu_of(partial(ours[-1][1].at, 2 * FLOPS))[0] for _ in range(arguments.rounds))
        numbers[f"{name}_cpu_s"] = own = min(seconds for seconds, _ in ours)
        numbers[f"{name}_over_by_hand"] = own / hand
        numbers["another_budget_cpu_s"] = max(numbers.get("another_budget_cpu_s", 0.0), again)
        print(f"{name}: {len(runs):,} runs: {own:.2f} CPU s, {own / hand:.2f} times the laws alone")
        print(f"{name}: another budget: {again:.3f} CPU s")
    missed = [name for name, floor in FLOORS.items() if numbers[name] > floor]
    save(arguments.out, numbers)
    for name in missed:
        print(f"missed: {name} is {numbers[name]:.2f}, at most {FLOORS[name]:.2f} was wanted")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
