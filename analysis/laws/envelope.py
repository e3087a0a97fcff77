"""Approach 1: the lower envelope of loss over compute, and power laws along it.

Hoffmann et al. 2022 (arXiv 2203.15556, section 3.1) take the minimum over loss curves, and so does this law
if it is given curves (a table with a column step, see `laws.solver.curves`). From a table of finished runs
the envelope is the lower convex hull of (log flops, log loss), as in Gemstones (arXiv 2502.06857): the runs
that no mixture of cheaper and more expensive runs improves on. Few runs lie on it, so its intervals,
percentiles over resamples of the runs, are wide. Repeats of a run, with other seeds, count as their mean.
Prefer the surface and IsoFLOP laws, which use all runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from analysis.errors import UserError
from analysis.laws.powerlaws import PowerLaw, PowerLawFrontier
from analysis.laws.result import FitStatus, common_fields
from analysis.laws.solver.bootstrap import check_options, resample_weights
from analysis.laws.solver.curves import CAUTION, read_curves
from analysis.table.fit_table import prepare
from analysis.text import flops_text

MIN_VERTICES = 3


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class EnvelopeLaw(PowerLawFrontier):
    """N*, D* and L* as powers of compute, along the runs that no other run beats."""

    method: ClassVar[str] = "envelope"
    vertices: pd.DataFrame
    """The runs on the envelope, cheapest first: flops, params, tokens, loss."""


def fit_envelope(
    runs: pd.DataFrame, *, bootstrap: int = 1000, seed: int = 0, level: float = 0.95
) -> EnvelopeLaw:
    """Power laws through the runs on the lower convex hull of (log flops, log loss).

    With a column step, runs holds loss curves: the law goes through the lowest curve at every compute, and
    whole runs are resampled. UserError if fewer than 3 runs (budgets) lie on the envelope, or all runs spend
    one budget.
    """
    check_options(bootstrap, seed, level)
    columns = ["flops", "params", "tokens", "loss"]
    # a table's envelope is a set of runs, that of curves a run at each budget; points() gives either for a
    # choice of runs, as columns above
    points: Callable[[np.ndarray], dict[str, np.ndarray]]
    if isinstance(runs, pd.DataFrame) and "step" in runs.columns:
        grid = read_curves(runs)

        def points(chosen: np.ndarray) -> dict[str, np.ndarray]:
            at, best = grid.winners(chosen)
            flops, tokens = grid.flops[at], grid.flops[at] / grid.flops_per_token[best]
            return {
                "flops": flops, "params": grid.params[best], "tokens": tokens, "loss": grid.loss[best, at]
            }  # fmt: skip

        num_runs = len(grid.params)
        lowest = pd.DataFrame(points(np.arange(num_runs)))
        if len(lowest) < MIN_VERTICES:
            raise UserError(
                f"envelope: at only {len(lowest)} budgets the lowest curve is of neither the smallest nor "
                f"the largest size, a power law needs {MIN_VERTICES}; add sizes"
            )
        if "family" in runs.columns:
            if runs["family"].nunique() > 1:
                raise UserError("family: one envelope is of one family; select one, or use analysis.compare")
            lowest = lowest.assign(family=runs["family"].iloc[0])
        table = prepare(lowest)
        sentence = f"the lowest of {num_runs} curves at {len(lowest)} of {len(grid.flops)} budgets"
        caution = [CAUTION]
    else:
        table = prepare(runs)
        if table.one_budget:
            raise UserError(
                f"runs: all {len(table)} runs spend one budget ({flops_text(table.flops_range[0])} FLOPs); "
                "an envelope needs several"
            )
        # of repeats the mean: the luckiest of many seeds is no better run
        cells, count = table.cells, np.bincount(table.cells)
        means = {name: np.bincount(cells, weights=getattr(table, name)) / count for name in columns}
        if len(count) == len(table):
            means = {name: getattr(table, name) for name in columns}
        log_flops, log_loss = np.log(means["flops"]), np.log(means["loss"])

        def points(chosen: np.ndarray) -> dict[str, np.ndarray]:
            vertices = hull(log_flops, log_loss, chosen)
            return {name: means[name][vertices] for name in columns}

        num_runs = len(means["loss"])
        lowest = pd.DataFrame(points(np.arange(num_runs)))
        if len(lowest) < MIN_VERTICES:
            raise UserError(
                f"envelope: only {len(lowest)} runs lie on the lower envelope of loss over compute, a power "
                f"law needs {MIN_VERTICES}; add budgets"
            )
        sentence, caution = f"{len(lowest)} of {num_runs} runs lie on the envelope", []
        if num_runs < len(table):
            sentence = f"{len(lowest)} of {num_runs} means of repeats lie on the envelope"

    reference = float(np.log(table.flops).mean())

    def lines(vertices: dict[str, np.ndarray]) -> list[tuple[float, float]]:
        """(value at log FLOPs `reference`, slope) of params, tokens and loss over the vertices."""
        x = np.log(vertices["flops"]) - reference
        dx = x - x.mean()
        fits = []
        for name in ("params", "tokens", "loss"):
            y = np.log(vertices[name])
            slope = float(dx @ y / (dx @ dx))
            fits.append((float(y.mean() - slope * x.mean()), slope))
        return fits

    fits, dropped = [lines(points(np.arange(num_runs)))], 0
    for weights in resample_weights(num_runs, bootstrap, seed):
        for row in weights:
            drawn = points(np.flatnonzero(row))
            if len(drawn["flops"]) >= MIN_VERTICES:
                fits.append(lines(drawn))
            else:
                dropped += 1
    values = np.array(fits)
    warnings = list(table.warnings)
    if dropped > 0.01 * bootstrap:
        warnings.append(
            f"{dropped} of {bootstrap} resamples have fewer than {MIN_VERTICES} points on the envelope"
        )
    return EnvelopeLaw(
        **common_fields(table, {"bootstrap": bootstrap, "seed": seed, "level": level}),
        status=FitStatus.CONVERGED,
        sentence=sentence,
        warnings=(*warnings, *caution),
        power_laws={
            name: PowerLaw(middle=values[:, i, 0], exponent=values[:, i, 1], log_reference=reference)
            for i, name in enumerate(("params", "tokens", "loss"))
        },
        vertices=lowest[columns],
    )


def hull(x: np.ndarray, y: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Indices among `chosen` of the falling part of the lower convex hull of (x, y), in ascending x."""
    order = chosen[np.lexsort((y[chosen], x[chosen]))]
    kept: list[int] = []
    for i in order.tolist():
        if kept and x[i] == x[kept[-1]]:
            continue
        # drop the last vertex while it lies on or above the line from the one before it to the new point
        while len(kept) >= 2:
            a, b = kept[-2], kept[-1]
            if (x[b] - x[a]) * (y[i] - y[a]) > (y[b] - y[a]) * (x[i] - x[a]):
                break
            kept.pop()
        kept.append(i)
    lowest = int(np.argmin(y[kept]))
    return np.array(kept[: lowest + 1])
