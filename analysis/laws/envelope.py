"""Approach 1: the lower envelope of loss over compute, and power laws along it.

Hoffmann et al. 2022 (arXiv 2203.15556, section 3.1) take the minimum over loss curves, and so does this law
where it is given curves (a table with a column step, see `laws.solver.curves`). From a table of finished
runs the envelope is the lower convex hull of (log flops, log loss) (as in Gemstones, arXiv
2502.06857): the runs no mixture of cheaper and dearer runs improves on. Few runs lie on it, so its intervals,
percentiles over resamples of the runs, are wide; the surface and IsoFLOP laws use all runs and are to be
preferred where they can be fitted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from analysis.errors import UserError
from analysis.laws.result import FitStatus, PowerLawFrontier, common_fields
from analysis.laws.solver.bootstrap import check_options, resample_weights
from analysis.laws.solver.curves import CAUTION, read_curves
from analysis.laws.solver.powerlaw import PowerLaw
from analysis.table.fit_table import RunTable, prepare

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
    whole runs are resampled. UserError where fewer than 3 runs (budgets) lie on the envelope, or all runs
    spend one budget.
    """
    check_options(bootstrap, seed, level)
    if isinstance(runs, pd.DataFrame) and "step" in runs.columns:
        return _of_curves(runs, bootstrap, seed, level)
    table = prepare(runs)
    if table.one_budget:
        raise UserError(
            f"runs: all {len(table)} runs spend one budget ({table.flops_range[0]:.3g} FLOPs); an envelope "
            "needs several"
        )
    logs = {name: np.log(getattr(table, name)) for name in ("flops", "params", "tokens", "loss")}
    everyone = np.arange(len(table))
    vertices = hull(logs["flops"], logs["loss"], everyone)
    if len(vertices) < MIN_VERTICES:
        raise UserError(
            f"envelope: only {len(vertices)} runs lie on the lower envelope of loss over compute, a power "
            f"law needs {MIN_VERTICES}; add budgets"
        )
    reference = float(logs["flops"].mean())
    fits, dropped = [_lines(logs, vertices, reference)], 0
    for weights in resample_weights(len(table), bootstrap, seed):
        for row in weights:
            drawn = hull(logs["flops"], logs["loss"], everyone[row > 0])
            if len(drawn) >= MIN_VERTICES:
                fits.append(_lines(logs, drawn, reference))
            else:
                dropped += 1
    sentence = f"{len(vertices)} of {len(table)} runs lie on the envelope"
    options = {"bootstrap": bootstrap, "seed": seed, "level": level}
    return _law(table, fits, dropped, options, sentence, _table(table, vertices))


def _of_curves(curves: pd.DataFrame, bootstrap: int, seed: int, level: float) -> EnvelopeLaw:
    grid = read_curves(curves)
    budgets, winners = grid.winners()
    if len(budgets) < MIN_VERTICES:
        raise UserError(
            f"envelope: at only {len(budgets)} budgets the lowest curve is of neither the smallest nor the "
            f"largest size, a power law needs {MIN_VERTICES}; add sizes"
        )

    def points(at: np.ndarray, runs: np.ndarray) -> dict[str, np.ndarray]:
        flops = grid.flops[at]
        columns = {"flops": flops, "params": grid.params[runs], "loss": grid.loss[runs, at]}
        return columns | {"tokens": flops / grid.flops_per_token[runs]}

    shown = pd.DataFrame(points(budgets, winners))
    if "family" in curves.columns:
        shown = shown.assign(family=curves["family"].iloc[0])
        if curves["family"].nunique() > 1:
            raise UserError("family: one envelope is of one family; select one, or use analysis.compare")
    table = prepare(shown)
    reference = float(np.log(table.flops).mean())

    def lines(at: np.ndarray, runs: np.ndarray) -> list[tuple[float, float]]:
        logs = {name: np.log(values) for name, values in points(at, runs).items()}
        return _lines(logs, np.arange(len(at)), reference)

    fits, dropped = [lines(budgets, winners)], 0
    for weights in resample_weights(len(grid.params), bootstrap, seed):
        for row in weights:
            at, runs = grid.winners(np.flatnonzero(row))
            if len(at) >= MIN_VERTICES:
                fits.append(lines(at, runs))
            else:
                dropped += 1
    options = {"bootstrap": bootstrap, "seed": seed, "level": level}
    sentence = f"the lowest of {len(grid.params)} curves at {len(budgets)} of {len(grid.flops)} budgets"
    law = _law(table, fits, dropped, options, sentence, shown[["flops", "params", "tokens", "loss"]])
    return replace(law, warnings=(*law.warnings, CAUTION))


def _law(
    table: RunTable,
    fits: list[list[tuple[float, float]]],
    dropped: int,
    options: dict[str, Any],
    sentence: str,
    vertices: pd.DataFrame,
) -> EnvelopeLaw:
    values = np.array(fits)
    warnings = list(table.warnings)
    if dropped > 0.01 * options["bootstrap"]:
        warnings.append(
            f"{dropped} of {options['bootstrap']} resamples have fewer than {MIN_VERTICES} points on the "
            "envelope"
        )
    reference = float(np.log(table.flops).mean())
    return EnvelopeLaw(
        **common_fields(table, options),
        status=FitStatus.CONVERGED,
        sentence=sentence,
        warnings=tuple(warnings),
        power_laws={
            name: PowerLaw(middle=values[:, i, 0], exponent=values[:, i, 1], log_reference=reference)
            for i, name in enumerate(("params", "tokens", "loss"))
        },
        vertices=vertices,
    )


def hull(x: np.ndarray, y: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Indices among `chosen` of the falling part of the lower convex hull of (x, y), in ascending x."""
    order = chosen[np.lexsort((y[chosen], x[chosen]))]
    kept: list[int] = []
    for i in order.tolist():
        if kept and x[i] == x[kept[-1]]:
            continue
        while len(kept) >= 2 and _turns_right(x, y, kept[-2], kept[-1], i):
            kept.pop()
        kept.append(i)
    lowest = int(np.argmin(y[kept]))
    return np.array(kept[: lowest + 1])


def _turns_right(x: np.ndarray, y: np.ndarray, a: int, b: int, c: int) -> bool:
    return bool((x[b] - x[a]) * (y[c] - y[a]) <= (y[b] - y[a]) * (x[c] - x[a]))


def _lines(logs: dict[str, np.ndarray], vertices: np.ndarray, reference: float) -> list[tuple[float, float]]:
    """(value at log FLOPs `reference`, slope) of params, tokens and loss over the vertices."""
    x = logs["flops"][vertices] - reference
    dx = x - x.mean()
    found = []
    for name in ("params", "tokens", "loss"):
        y = logs[name][vertices]
        slope = float(dx @ y / (dx @ dx))
        found.append((float(y.mean() - slope * x.mean()), slope))
    return found


def _table(table: RunTable, vertices: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(
        {name: getattr(table, name)[vertices] for name in ("flops", "params", "tokens", "loss")}
    )
