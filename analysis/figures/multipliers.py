"""Families compared: how much more compute one needs than the reference to reach the same loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from analysis.errors import UserError
from analysis.figures import axes, parts, theme
from analysis.text import flops_text, interval_text, is_missing, number_text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from analysis.comparison.multipliers import Comparison

NEAR = 10.0
"""An interval end further than this factor from every multiplier does not stretch the axis."""
SIZE_PX = (720, 460)


def compare_table(comparison: Comparison) -> pd.DataFrame:
    """What `compare` shows, families as in every legend: rows of kind "budget" (`comparison.multipliers`,
    smallest budget first), then of kind "curve" (`Comparison.curve`, the same over the loss)."""
    import pandas as pd

    points = comparison.multipliers
    names = theme.family_order(name for name in comparison.laws if name != comparison.reference)
    tables = [points.iloc[:0].assign(kind="budget")]
    for name in names:
        own = points[points["family"] == name].sort_values("at_flops")
        tables += [own.assign(kind="budget"), comparison.curve(name).assign(kind="curve")]
    return pd.concat(tables, ignore_index=True)


def compare(comparison: Comparison) -> go.Figure:
    """Compute each family needs over the reference's to reach the same loss, over that loss.

    Points are the family's own budgets. Dashed lines and hollow points read a law outside its measured
    budgets. UserError if the comparison has no multiplier.
    """
    import pandas as pd

    table = compare_table(comparison)
    reference = parts.safe(comparison.reference)
    points, curves = (table[table["kind"] == kind] for kind in ("budget", "curve"))
    if not len(table):
        raise UserError(f"the comparison has no multiplier over {comparison.reference}; see its warnings")
    # what lies far from every budget and outside both laws' budgets says nothing new
    inside = [*points["at_loss"], *curves.loc[~curves["extrapolated"].astype(bool), "at_loss"]]
    inside = inside or [*curves["at_loss"]]
    pad = 0.08 * (max(inside) - min(inside)) or 0.05
    curves = curves[curves["at_loss"].between(min(inside) - pad, max(inside) + pad)]
    on_axis = pd.concat([points, curves])
    least, most = on_axis["multiplier"].min() / NEAR, on_axis["multiplier"].max() * NEAR
    near = [
        end for end in (*on_axis["low"], *on_axis["high"]) if not is_missing(end) and least <= end <= most
    ]
    values = [1.0, *on_axis["multiplier"], *map(float, near)]
    y_axis = axes.log_axis(f"Compute over {reference} at equal loss (×)", values, number_text, room=8)
    # lower is better: to the right, on the side of the larger budgets in the other figures
    x_axis: dict[str, Any] = {
        "title": {"text": "Held-out bound (nats per token), better →"}, "tickformat": axes.LOSS_DIGITS,
        "range": [max(inside) + 1.5 * pad, min(inside) - 2.5 * pad],
    }  # fmt: skip
    limits = axes.limits_of(y_axis)
    figure = parts.panels(1, 1, row_px=SIZE_PX[1])
    traces, labels, budget_labels = [], [], []
    for family in dict.fromkeys(table["family"]):
        style, owner = theme.family_style(family), parts.belongs(family)
        parts.legend_entry(figure, style, dash="solid", family=family)
        curve, own = (part[part["family"] == family] for part in (curves, points))
        ends = curve["low"], curve["high"]
        traces += parts.band(curve["at_loss"], *ends, limits, style.colour, family=family)
        stretch = (curve["extrapolated"] != curve["extrapolated"].shift()).cumsum()
        pieces = [piece for _, piece in curve.groupby(stretch)]
        for piece, after in zip(pieces, [*pieces[1:], curve.iloc[:0]], strict=True):
            joined = pd.concat([piece, after.head(1)]) if len(after) else piece
            width, dash = (1.6, "dash") if piece["extrapolated"].iloc[0] else (2.4, "solid")
            look = {"color": style.colour, "width": width, "dash": dash}
            texts = [_text(row) for row in joined.to_dict("records")]
            place = joined["at_loss"], joined["multiplier"]
            traces.append(parts.scatter("line", *place, text=texts, line=look, family=family))
        place = own["at_loss"], own["multiplier"]
        if not len(curve):
            ends = own["low"], own["high"]
            traces += parts.intervals("y", *place, *ends, limits, style.colour, family=family)
        mark = (style.colour, parts.hollow(style.symbol, own["extrapolated"]), 10)
        texts = [_text(row) for row in own.to_dict("records")]
        traces.append(parts.scatter("points", *place, text=texts, mark=mark, family=family))
        for row in (curve if len(curve) else own).tail(1).to_dict("records"):
            label = parts.marked(style, parts.safe(family))
            labels.append((label, owner, row["at_loss"], math.log10(row["multiplier"])))
        for row in (own.iloc[[0, -1]] if len(own) else own).to_dict("records"):
            place = row["at_loss"], math.log10(row["multiplier"])
            budget_labels.append((axes.compute_text(row["at_flops"]), owner, *place))
    parts.add(figure, traces, x=x_axis, y=y_axis)
    ranges = x_axis["range"], y_axis["range"]
    parts.label_ends(figure, 1, labels, ranges, SIZE_PX)
    marks = list(zip(points["at_loss"], points["multiplier"].map(math.log10), strict=True))
    parts.label_points(figure, 1, budget_labels, marks, ranges, SIZE_PX)
    parts.level_line(figure, 1.0, "dot")
    itself = f"{reference} itself"
    parts.note(figure, 1, itself, 0, 0, domain="x", xanchor="left", yanchor="bottom", xshift=4)
    level = next(iter(comparison.laws.values())).level
    caption = (
        "Points: budgets of each family, first and last with their FLOPs where there is room. "
        f"Bands: {level:.0%} intervals. "
        f"Dashed and hollow: extrapolated (at least one of the two laws). Laws: {comparison.method}."
    )
    provenance = parts.law_provenance(comparison.laws.values())
    return parts.finish(figure, "compare", f"Compute multipliers over {reference}", caption, provenance)


def _text(row: Mapping[str, Any]) -> str:
    number = interval_text(row["multiplier"], row["low"], row["high"], number_text)
    family, reference = parts.safe(row["family"]), parts.safe(row["reference"])
    return (
        f"<b>{family}</b> needs {number} times the compute of {reference}<br>"
        f"at {row['at_loss']:.3f} nats per token, its loss at {flops_text(row['at_flops'])} FLOPs;<br>"
        f"{reference} gets there with {flops_text(row['reference_flops'])} FLOPs"
        + (" (extrapolated)" if row["extrapolated"] else "")
    )
