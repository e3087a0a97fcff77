"""Approach 1 as published: the lowest of many loss curves at every compute, and power laws along it.

Hoffmann et al. 2022 (arXiv 2203.15556, section 3.1): smooth every run's loss curve, interpolate it in log
FLOPs, and at each of many budgets take the run with the lowest loss. A run in mid-schedule lies above
one that ends there, so exponents come out biased unless the learning rate is constant up to its decay; and
a training objective is not the bound (of `masked` it lies far below). Warnings of the law say both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.errors import UserError
from analysis.table.fit_table import comparable

NUM_BUDGETS = 60
WARM_UP = 0.05
"""The first share of a run's compute, in which the learning rate still rises, is not read."""
BANDWIDTH = 0.1
"""Standard deviation, in log FLOPs, of the Gaussian that smooths a curve."""
CURVES_NEEDED = ("key", "params", "tokens", "flops", "loss")
CAUTION = (
    "the losses are those of unfinished schedules: they lie above those of runs that end there, and a "
    "training objective is not the bound; prefer a law of finished runs"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveGrid:
    """Smoothed losses of K runs at M budgets; infinite if a run has no loss there."""

    flops: np.ndarray
    """(M,) ascending."""
    loss: np.ndarray
    """(K, M) nats per token."""
    params: np.ndarray
    """(K,)"""
    flops_per_token: np.ndarray
    """(K,) training FLOPs of a token."""

    def winners(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(budgets, runs): indices of the budgets with a bracketed best run among `chosen`, and those runs.

        A budget whose best run has the smallest or the largest size of those that reach it is left out: the
        best size may lie beyond.
        """
        if len(chosen) < 3:
            return np.empty(0, dtype=int), np.empty(0, dtype=int)
        loss, params = self.loss[chosen], self.params[chosen]
        there = np.isfinite(loss)
        best = np.argmin(loss, axis=0)
        smallest = np.where(there, params[:, None], np.inf).min(axis=0)
        largest = np.where(there, params[:, None], -np.inf).max(axis=0)
        inside = (params[best] > smallest) & (params[best] < largest)
        budgets = np.flatnonzero(inside)
        return budgets, chosen[best[budgets]]


def read_curves(curves: pd.DataFrame) -> CurveGrid:
    """Smooth each run's curve and read it at NUM_BUDGETS log-spaced budgets.

    curves: one row per run and step, columns key, params, tokens, flops (both up to that step), loss, as
    `table.runs.loss_curves` gives them; those of labelled and distilled runs do not count. UserError for a
    missing column or values that are not positive.
    """
    missing = [name for name in CURVES_NEEDED if name not in curves.columns]
    if missing:
        raise UserError(
            f"curves: column {', '.join(missing)} is missing; `analysis.table.runs.loss_curves` has all"
        )
    curves = curves[comparable(curves)]
    if "held_out_loss" in curves.columns:  # in a row of its own where a family trains on something easier
        curves = curves[curves["loss"].notna() | curves["held_out_loss"].isna()]
    numbers = curves[["params", "tokens", "flops", "loss"]].to_numpy(dtype=np.float64)
    wrong = ~np.all(np.isfinite(numbers) & (numbers > 0), axis=1)
    if wrong.any():
        raise UserError(
            f"curves: {int(wrong.sum())} rows hold a value that is not a finite number above 0 "
            f"(first: row {curves.index[np.argmax(wrong)]}); drop them"
        )
    runs = [part.sort_values("flops") for _, part in curves.groupby("key", sort=True)]
    ends = np.array([[part["flops"].iloc[-1] * WARM_UP, part["flops"].iloc[-1]] for part in runs])
    flops = np.geomspace(ends[:, 0].min(), ends[:, 1].max(), NUM_BUDGETS)
    loss = np.full((len(runs), NUM_BUDGETS), np.inf)
    for row, part, (first, last) in zip(loss, runs, ends, strict=True):
        read = np.flatnonzero((flops >= first) & (flops <= last * (1 + 1e-9)))
        row[read] = _smoothed(np.log(part["flops"].to_numpy()), part["loss"].to_numpy(), np.log(flops[read]))
    return CurveGrid(
        flops=flops,
        loss=loss,
        params=np.array([part["params"].iloc[0] for part in runs], dtype=np.float64),
        flops_per_token=np.array([part["flops"].iloc[-1] / part["tokens"].iloc[-1] for part in runs]),
    )


def _smoothed(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Local linear regression of log y on x with a Gaussian of BANDWIDTH: no bias at the end of a curve."""
    gaps = x[None, :] - at[:, None]
    # if points are sparse, wide enough to hold the nearest three
    nearest = np.sort(np.abs(gaps), axis=1)[:, min(2, len(x) - 1)]
    width = np.maximum(BANDWIDTH, nearest)[:, None]
    weight = np.exp(-0.5 * (gaps / width) ** 2)
    total, first, second = (np.sum(weight * gaps**power, axis=1) for power in (0, 1, 2))
    log_y = np.log(y)[None, :]
    zero, one = np.sum(weight * log_y, axis=1), np.sum(weight * gaps * log_y, axis=1)
    spread = total * second - first**2
    flat = spread <= 1e-12 * total * second + 1e-300
    level = np.where(flat, zero / total, (second * zero - first * one) / np.where(flat, 1.0, spread))
    return np.exp(level)
