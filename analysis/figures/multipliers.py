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
HEIGHT_PX = 460


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
    # what lies far from every budget and outside both laws' budgets is no news
    inside = [*points["at_loss"], *curves.loc[~curves["extrapolated"].astype(bool), "at_loss"]]
    inside = inside or [*curves["at_loss"]]
    pad = 0.08 * (max(inside) - min(inside)) or 0.05
    curves = curves[curves["at_loss"].between(min(inside) - pad, max(inside) + pad)]
    shown = [*points["multiplier"], *curves["multiplier"]]
    given = [*points["low"], *points["high"], *curves["low"], *curves["high"]]
    ends = [float(end) for end in given if not is_missing(end)]
    values = [1.0, *shown, *(end for end in ends if min(shown) / NEAR <= end <= max(shown) * NEAR)]
    y_axis = axes.log_axis(f"Compute over {reference} at equal loss (×)", values, number_text, room=8)
    # lower is better: to the right, on the side of the larger budgets in the other figures
    x_range = [max(inside) + 1.5 * pad, min(inside) - 2.5 * pad]
    figure = parts.panels(1, 1, row_px=HEIGHT_PX)
    families = list(dict.fromkeys(table["family"]))
    styles = {family: theme.family_style(family) for family in families}
    parts.add(figure, [parts.entry(styles[name], lines=True, family=name) for name in families])
    limits = 10.0 ** y_axis["range"][0], 10.0 ** y_axis["range"][1]
    traces, labels, numbers = [], [], []
    for family in families:
        style = styles[family]
        curve, own = (part[part["family"] == family] for part in (curves, points))
        tags = {"family": family}
        area = (curve["at_loss"], curve["low"], curve["high"])
        traces += parts.band(*area, limits, style.colour, **tags)
        stretch = (curve["extrapolated"] != curve["extrapolated"].shift()).cumsum()
        pieces = [piece for _, piece in curve.groupby(stretch)]
        for piece, after in zip(pieces, [*pieces[1:], None], strict=True):
            joined = piece if after is None else pd.concat([piece, after.head(1)])
            dashed = bool(piece["extrapolated"].iloc[0])
            look = {
                "color": style.colour,
                "width": 1.6 if dashed else 2.4,
                "dash": "dash" if dashed else "solid",
            }
            texts = [_text(row) for row in joined.to_dict(orient="records")]
            traces.append(
                parts.scatter(
                    "line",
                    joined["at_loss"],
                    joined["multiplier"],
                    text=texts,
                    mode="lines",
                    line=look,
                    **tags,
                )
            )
        if not len(curve):
            traces += parts.intervals(
                "y", own["at_loss"], own["multiplier"], own["low"], own["high"], limits, style.colour, **tags
            )
        symbols = parts.hollow(style.symbol, own["extrapolated"])
        traces.append(
            parts.scatter(
                "points", own["at_loss"], own["multiplier"], mode="markers",
                text=[_text(row) for row in own.to_dict(orient="records")],
                marker=parts.marker(style.colour, symbols, 10), **tags,
            )
        )  # fmt: skip
        for part in (curve if len(curve) else own).tail(1).to_dict(orient="records"):
            label = parts.marked(style, parts.safe(family))
            labels.append((label, parts.belongs(family), part["at_loss"], math.log10(part["multiplier"])))
        numbers += (
            [(row, parts.belongs(family)) for row in own.iloc[[0, -1]].to_dict(orient="records")]
            if len(own)
            else []
        )
    parts.add(figure, traces)
    for row, owner in numbers:
        figure.add_annotation(
            text=axes.compute_text(row["at_flops"]), name=owner, x=row["at_loss"], yshift=-8, yanchor="top",
            y=math.log10(row["multiplier"]), font={"size": theme.FONT_PX - 3},
        )  # fmt: skip
    figure.update_xaxes(
        title_text="Held-out bound (nats per token), better →", range=x_range, tickformat=axes.LOSS_DIGITS
    )
    figure.update_yaxes(**y_axis)
    parts.label_ends(figure, 1, labels, (x_range, y_axis["range"]), (720, HEIGHT_PX))
    parts.level_line(figure, 1.0, "dot")
    figure.add_annotation(
        text=f"{reference} itself",
        x=0,
        xref="x domain",
        y=0,
        yref="y",
        xanchor="left",
        yanchor="bottom",
        xshift=4,
    )  # y is the exponent of ten, as Plotly wants it on a logarithmic axis
    level = next(iter(comparison.laws.values())).level
    caption = (
        f"Points: budgets of each family, first and last with their FLOPs. Bands: {level:.0%} intervals. "
        f"Dashed and hollow: extrapolated, at least one of the two laws. Laws: {comparison.method}."
    )
    provenance = parts.law_provenance(comparison.laws.values())
    return parts.finish(figure, "compare", f"Compute multipliers over {reference}", caption, provenance)


def _text(row: Mapping[str, Any]) -> str:
    number = interval_text(row["multiplier"], row["low"], row["high"], number_text)
    family, reference = parts.safe(row["family"]), parts.safe(row["reference"])
    where = " (extrapolated)" if row["extrapolated"] else ""
    return (
        f"<b>{family}</b> needs {number} times the compute of {reference}<br>"
        f"at {row['at_loss']:.3f} nats per token, its loss at {flops_text(row['at_flops'])} FLOPs;<br>"
        f"{reference} gets there with {flops_text(row['reference_flops'])} FLOPs{where}"
    )
