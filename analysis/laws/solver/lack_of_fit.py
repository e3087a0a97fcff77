"""Does the curve describe the runs? The F test of lack of fit, by the scatter of repeated runs.

Runs of one size and training that differ by their seed alone scatter by the noise, whatever the curve. Their
means lie off a true curve by that noise over the root of their number, and farther off a wrong one. With m
cells, n runs and p parameters fitted by least squares, the ratio of the mean squares,

    F = [sum_c r_c (mean_c - curve_c)^2 / (m - p)] / [sum_c sum_i (loss_ci - mean_c)^2 / (n - m)],

has the F distribution with m - p and n - m degrees of freedom if the curve is true and noise is normal and
equal (Draper & Smith 1998, Applied Regression Analysis, section 2.1). Per budget and over all of them.

One p is read from all tests: twice the smaller one of the pooled test and of the least budget's times the
number of budgets. So the false alarms of a threshold on it are at most that many, whatever depends on what.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import fdtrc

from analysis.laws.solver.noise import DEGREES
from analysis.table.fit_table import RunTable
from analysis.text import flops_text

UNLIKELY = 0.01
"""A smaller p is a warning: at most 1% of sweeps whose curve is true have one."""
EQUAL = 1e-9
"""Repeats that scatter less than this, relative to the loss, are copies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FTest:
    """One test of lack of fit."""

    flops: float | None
    """The budget; None: over all budgets."""
    cells: int
    runs: int
    ratio: float
    """F."""
    lack_freedom: int
    error_freedom: int
    p: float
    lack: float
    """Root mean square by which cell means lie off the curve, relative to the loss."""
    error: float
    """Standard deviation between repeats, likewise."""

    def __str__(self) -> str:
        return (
            f"F = {self.ratio:.1f} with {self.lack_freedom} and {self.error_freedom} degrees of freedom, "
            f"p = {self.p:.2g}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LackOfFit:
    """The tests of one fit."""

    pooled: FTest
    budgets: tuple[FTest, ...]
    """Those that can be tested alone; none for a surface, which all budgets share."""
    p: float
    """Of all tests together."""

    @property
    def fails(self) -> bool:
        return self.p < UNLIKELY

    @property
    def sentence(self) -> str:
        """The pooled test, and the budget that fits worst."""
        words = f"{self.pooled}"
        if self.budgets:
            worst = min(self.budgets, key=lambda test: test.p)
            words += f"; least at {flops_text(worst.flops or 0.0)} FLOPs, {worst}"
        return words


def lack_of_fit(
    deviations: np.ndarray,
    cells: np.ndarray | None,
    num_parameters: int,
    budgets: Sequence[tuple[float, np.ndarray, int]] = (),
) -> LackOfFit | None:
    """The tests from the deviations (n,) of runs from a curve fitted by least squares, relative to the loss.

    cells (n,): numbers of the cells; num_parameters: of all curves together. budgets: FLOPs, members and
    number of parameters of each curve that is of one budget alone. None if no run is repeated, or no cell is
    to spare.
    """
    if cells is None:
        return None
    pooled = _test(None, deviations, cells, num_parameters)
    if pooled is None:
        return None
    each = [
        _test(flops, deviations[members], np.unique(cells[members], return_inverse=True)[1], parameters)
        for flops, members, parameters in budgets
    ]
    tests = tuple(test for test in each if test is not None)
    p = pooled.p if not tests else 2 * min(pooled.p, len(tests) * min(test.p for test in tests))
    return LackOfFit(pooled=pooled, budgets=tests, p=min(p, 1.0))


def budgets_lack_of_fit(table: RunTable, shape: str) -> LackOfFit | None:
    """The tests about a least-squares curve per budget; None for an interpolant, which misses nothing, and
    without repeats."""
    if shape not in DEGREES or table.repeats is None:
        return None
    deviations = np.zeros(len(table))
    chosen: list[np.ndarray] = []
    budgets: list[tuple[float, np.ndarray, int]] = []
    for flops, members in table.budgets():
        x, loss = np.log(table.params[members]), table.loss[members]
        if len(np.unique(x)) > DEGREES[shape]:
            u = x - x.mean()
            deviations[members] = loss / np.polyval(np.polyfit(u, loss, DEGREES[shape]), u) - 1
            start = sum(map(len, chosen))
            budgets.append((flops, np.arange(start, start + len(members)), DEGREES[shape] + 1))
            chosen.append(members)
    if not chosen:
        return None
    used = np.concatenate(chosen)
    cells = np.unique(table.cells[used], return_inverse=True)[1]
    return lack_of_fit(deviations[used], cells, sum(budget[2] for budget in budgets), budgets)


def _test(
    flops: float | None, deviations: np.ndarray, cells: np.ndarray, num_parameters: int
) -> FTest | None:
    count = np.bincount(cells)
    means = np.bincount(cells, weights=deviations) / count
    lack_freedom, error_freedom = len(count) - num_parameters, len(cells) - len(count)
    if lack_freedom < 1 or error_freedom < 1:
        return None
    error = float(np.sum((deviations - means[cells]) ** 2)) / error_freedom
    lack = float(np.sum(count * means**2)) / lack_freedom
    if error < EQUAL**2:
        return None
    return FTest(
        flops=flops, cells=len(count), runs=len(cells), ratio=lack / error, lack_freedom=lack_freedom,
        error_freedom=error_freedom, p=float(fdtrc(lack_freedom, error_freedom, lack / error)),
        lack=float(np.sqrt(np.mean(means**2))), error=float(np.sqrt(error)),
    )  # fmt: skip
