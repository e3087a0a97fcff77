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
from analysis.frontier import Curve, GridCurve, number_column
from analysis.laws.result import Law
from analysis.laws.surface import SurfaceLaw

COLUMNS = (
    *("family", "reference", "at_flops", "at_loss", "reference_flops"),
    *("multiplier", "low", "high", "extrapolated", "law"),
)
BEYOND = 10.0
"""A curve goes this factor beyond the family's budgets on either side."""
AnyCurve = Curve | GridCurve
SAME = 1.01
"""Budgets this close (factor) count as inside the data."""


def multipliers_at(
    family: str, law: Law, reference: str, base: Law, flops: np.ndarray
) -> list[dict[str, Any]]:
    """One row per budget of the family at which the reference's frontier reaches the same loss.

    family, reference, at_flops (the family's), at_loss (its frontier loss there, nats per token),
    reference_flops, multiplier, low, high (None without resamples), extrapolated (either law is read outside
    its budgets), law. Losses at or below the floor of the reference have no row.
    """
    curve, other = paired(law.curve, base.curve)
    loss = curve.loss(flops)
    reached = other.flops_at(loss)
    finite = np.isfinite(reached[0])
    flops, loss, reached = flops[finite], loss[0, finite], reached[:, finite]
    with np.errstate(divide="ignore"):  # a resample whose reference has no floor may need next to nothing
        ratio = flops / reached
    ends = spread(ratio[1:], law.level) if len(ratio) > 1 else None
    outside = (flops < law.flops_range[0] / SAME) | (flops > law.flops_range[1] * SAME)
    outside |= (reached[0] < base.flops_range[0] / SAME) | (reached[0] > base.flops_range[1] * SAME)
    return [
        {
            "family": family,
            "reference": reference,
            "at_flops": float(flops[i]),
            "at_loss": float(loss[i]),
            "reference_flops": float(reached[0, i]),
            "multiplier": float(ratio[0, i]),
            "low": None if ends is None else float(ends[0][i]),
            "high": None if ends is None else float(ends[1][i]),
            "extrapolated": bool(outside[i]),
            "law": law.method,
        }
        for i in range(len(flops))
    ]


def multiplier_curve(family: str, law: Law, reference: str, base: Law, points: int) -> pd.DataFrame:
    """The columns of `multipliers_at` but law, over a grid from ten times below to ten times above the
    family's budgets; low and high are pandas.NA without resamples."""
    smallest, largest = law.flops_range
    grid = np.geomspace(smallest / BEYOND, largest * BEYOND, points)
    rows = pd.DataFrame(multipliers_at(family, law, reference, base, grid), columns=list(COLUMNS))
    ends = {name: number_column(rows[name].tolist()) for name in ("low", "high")}
    return rows.assign(**ends).drop(columns="law")


def paired(curve: AnyCurve, other: AnyCurve) -> tuple[AnyCurve, AnyCurve]:
    """Both curves cut to the fewer resamples, so that resample i of one meets resample i of the other."""
    size = min(len(curve), len(other))
    return curve.first(size), other.first(size)


def savings(multipliers: pd.DataFrame) -> pd.DataFrame:
    """Multipliers as statements in percent, each with its interval (pandas.NA without resamples).

    percent_fewer = 100 (1 - multiplier): FLOPs the family saves at equal loss (negative: it needs
    more). percent_more_efficient = 100 (1 / multiplier - 1): loss of the reference reached per FLOP,
    which is what "x% more FLOPs-efficient" says. Columns family, reference, at_flops, at_loss, then both with
    _low, _high.
    """
    table = multipliers[["family", "reference", "at_flops", "at_loss"]].copy()
    for name, power in (("percent_fewer", 1), ("percent_more_efficient", -1)):
        # 100 (1 - m), or 100 (1/m - 1); an open low end of the multiplier, 0, saves without limit
        for end, source in (("", "multiplier"), ("_low", "high"), ("_high", "low")):
            # the statement falls with the multiplier, so its low end is the multiplier's high one
            values = [
                None if pd.isna(m) else np.inf if m <= 0 else float(100 * power * (1 - m**power))
                for m in multipliers[source]
            ]
            table[f"{name}{end}"] = number_column(values).to_numpy()
    return table


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
        for name, values in _exponents(law).items() if family != reference else ():
            if name not in base:
                continue
            size = min(len(values), len(base[name]))
            off = values[:size] - base[name][:size]
            row: dict[str, Any] = {"family": family, "reference": reference, "exponent": name}
            row |= {"value": values[0], "reference_value": base[name][0], "difference": off[0]}
            if size > 1:
                low, high = spread(off[1:], law.level)
                fewer = min(int(np.sum(off[1:] <= 0)), int(np.sum(off[1:] >= 0)))
                row |= {"low": float(low), "high": float(high), "p": min(1.0, 2 * (fewer + 1) / size)}
            rows.append(row)
    numbers = ("value", "reference_value", "difference", "low", "high", "p")
    frame = pd.DataFrame(rows, columns=["family", "reference", "exponent", *numbers])
    return frame.astype(dict.fromkeys(numbers, "Float64"))


def _exponents(law: Law) -> dict[str, np.ndarray]:
    """Exponents with their resamples, (1 + R,) each."""
    last = len(law.curve)
    if isinstance(law, SurfaceLaw):
        exponents = {name: values[:last] for name, values in law.exponent_values().items()}
        del exponents["tokens_per_param"]  # the difference of the other two
        if law.deviation is None:
            exponents |= {"alpha": law.thetas[:last, 3], "beta": law.thetas[:last, 4]}
        return exponents
    flops = np.array(law.flops_range)
    # the frontiers are power laws (their loss above E), so two budgets determine every exponent
    along = law._along(flops)
    step = float(np.diff(np.log(flops))[0])
    exponents = {name: np.diff(along[name][:last], axis=1)[:, 0] / step for name in ("params", "tokens")}
    assert isinstance(law.curve, Curve), "only a surface has another kind"
    return exponents | {"loss": -law.curve.c}
