"""Two families at equal loss: the multiplier as a curve, savings in percent, and whether exponents differ.

Every number pairs resample i of one family with resample i of the other; families are resampled on their own
(with a shared E together), so a difference carries the noise of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.estimate import spread
from analysis.frontier import number_column
from analysis.laws.result import Law
from analysis.laws.surface import SurfaceLaw

POINTS = 60
BEYOND = 10.0
"""The curve goes this factor beyond the family's budgets on either side."""
SAME = 1.01
"""Budgets this close (factor) count as inside the data."""


def multiplier_curve(family: str, law: Law, reference: str, base: Law, points: int = POINTS) -> pd.DataFrame:
    """The multiplier over the loss, from ten times below to ten times above the family's budgets.

    Columns family, reference, at_flops (the family's), at_loss (its frontier loss there, nats per token),
    reference_flops, multiplier, low, high (pandas.NA without resamples), extrapolated (either law is read
    outside its budgets). Losses at or below the floor of the reference have no row.
    """
    size = min(len(law.curve.E), len(base.curve.E))
    curve, other = law.curve.first(size), base.curve.first(size)
    smallest, largest = law.flops_range
    flops = np.geomspace(smallest / BEYOND, largest * BEYOND, points)
    loss = curve.loss(flops)
    reached = other.flops_at(loss)
    known = np.isfinite(reached[0])
    flops, loss, reached = flops[known], loss[:, known], reached[:, known]
    ratio = flops / reached
    outside = (flops < smallest / SAME) | (flops > largest * SAME)
    low, high = other.flops_range
    outside |= (reached[0] < low / SAME) | (reached[0] > high * SAME)
    ends = spread(ratio[1:], law.level) if size > 1 else ([None] * len(flops), [None] * len(flops))
    return pd.DataFrame(
        {
            "family": family,
            "reference": reference,
            "at_flops": flops,
            "at_loss": loss[0],
            "reference_flops": reached[0],
            "multiplier": ratio[0],
            "low": number_column(list(ends[0])),
            "high": number_column(list(ends[1])),
            "extrapolated": outside,
        }
    )


def savings(multipliers: pd.DataFrame) -> pd.DataFrame:
    """Multipliers as statements in percent, each with its interval (pandas.NA without resamples).

    percent_fewer = 100 (1 - multiplier): FLOPs the family saves at equal loss (negative: it needs
    more). percent_more_efficient = 100 (1 / multiplier - 1): loss of the reference reached per FLOP,
    which is what "x% more FLOPs-efficient" says. Columns family, reference, at_flops, at_loss, then both with
    _low, _high.
    """
    found = multipliers[["family", "reference", "at_flops", "at_loss"]].copy()
    for name, of in (
        ("percent_fewer", lambda multiplier: 100 * (1 - multiplier)),
        ("percent_more_efficient", lambda multiplier: 100 * (1 / multiplier - 1)),
    ):
        found[name] = [of(value) for value in multipliers["multiplier"]]
        # the statement falls with the multiplier, so its low end is the multiplier's high one
        for end, source in (("low", "high"), ("high", "low")):
            values = [None if pd.isna(value) else _finite(of, value) for value in multipliers[source]]
            found[f"{name}_{end}"] = number_column(values).to_numpy()
    return found


def _finite(of: Any, multiplier: float) -> float:
    return float(of(multiplier)) if multiplier > 0 else np.inf


def exponent_differences(laws: Mapping[str, Law], reference: str) -> pd.DataFrame:
    """Do exponents differ from those of the reference? One row per family and exponent.

    Columns family, reference, exponent ("params", "tokens", "loss" or "reducible_loss": of the frontier in
    compute; "alpha", "beta": of a surface), value, reference_value, difference, low, high, p. p is the
    two-sided share of the paired resamples that put the difference on the other side of 0, counted so that it
    is never below 2 / (R + 1); pandas.NA without resamples.
    """
    base = _exponents(laws[reference])
    rows: list[dict[str, Any]] = []
    for family, law in laws.items():
        if family == reference:
            continue
        for name, values in _exponents(law).items():
            if name in base:
                head = {"family": family, "reference": reference, "exponent": name}
                rows.append(head | _difference(values, base[name], law.level))
    numbers = ("value", "reference_value", "difference", "low", "high", "p")
    frame = pd.DataFrame(rows, columns=["family", "reference", "exponent", *numbers])
    return frame.astype(dict.fromkeys(numbers, "Float64"))


def _difference(values: np.ndarray, base: np.ndarray, level: float) -> dict[str, Any]:
    size = min(len(values), len(base))
    off = values[:size] - base[:size]
    row = {
        "value": values[0],
        "reference_value": base[0],
        "difference": off[0],
        "low": None,
        "high": None,
        "p": None,
    }
    if size > 1:
        low, high = spread(off[1:], level)
        fewer = min(int(np.sum(off[1:] <= 0)), int(np.sum(off[1:] >= 0)))
        row |= {"low": float(low), "high": float(high), "p": min(1.0, 2 * (fewer + 1) / size)}
    return row


def _exponents(law: Law) -> dict[str, np.ndarray]:
    """Exponents with their resamples, (1 + R,) each."""
    flops = np.array(law.flops_range)
    # the frontiers are power laws (their loss above E), so two budgets tell every exponent
    along = law._along(flops)
    last = len(along["params"]) - law.leave_outs
    step = float(np.diff(np.log(flops))[0])
    found = {name: np.diff(along[name][:last], axis=1)[:, 0] / step for name in ("params", "tokens")}
    found["reducible_loss" if isinstance(law, SurfaceLaw) else "loss"] = -law.curve.c
    if isinstance(law, SurfaceLaw):
        found |= {"alpha": law.thetas[:last, 3], "beta": law.thetas[:last, 4]}
    return found
