"""Families compared: how much more compute one needs than the reference to reach the same loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from analysis.errors import UserError
from analysis.figures import axes, parts, theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from analysis.comparison.multipliers import Comparison

MAX_LABELS = 6
MOST_NUMBERED = 3
"""With more families than this the numbers of all would lie on top of each other."""
NEAR = 10.0
"""An interval end further than this factor from every multiplier does not stretch the axis."""


def compare_table(comparison: Comparison) -> pd.DataFrame:
    """What `compare` shows: `comparison.multipliers`, families as in every legend, smallest budget first."""
    table = comparison.multipliers
    order = {name: number for number, name in enumerate(theme.family_order(table["family"].unique()))}
    sorted_table = table.assign(_place=table["family"].map(order)).sort_values(["_place", "at_flops"])
    return sorted_table.drop(columns="_place").reset_index(drop=True)


def compare(comparison: Comparison) -> go.Figure:
    """Compute each family needs over the reference's to reach the same loss, at the loss where that is taken.

    The number at a point is the family's own budget in FLOPs; with many families the lowest alone has
    numbers, and the others' points stand for the same budgets in turn. Hollow points read the reference's
    law outside its measured budgets. Bars are intervals; one without an end runs out of the picture.
    UserError if the comparison has no multiplier.
    """
    table = compare_table(comparison)
    reference = parts.safe(comparison.reference)
    if not len(table):
        raise UserError(f"the comparison has no multiplier over {comparison.reference}; see its warnings")
    y_axis = axes.log_axis(f"Compute over {reference} at equal loss (×)", _to_show(table), axes.number_text)
    limits = 10.0 ** y_axis["range"][0] / 2, 10.0 ** y_axis["range"][1] * 2
    figure = parts.panels(1, 1)
    lowest = table.groupby("family")["multiplier"].mean().idxmin()
    crowded = table["family"].nunique() > MOST_NUMBERED
    for family, part in table.groupby("family", sort=False):
        figure.add_trace(_multipliers(str(family), part, limits, numbered=not crowded or family == lowest))
    pad = 0.08 * (table["at_loss"].max() - table["at_loss"].min()) or 0.05
    figure.update_xaxes(
        title_text="Held-out bound reached (nats per token)",
        # lower is better: to the right, where the larger budgets are in the other figures
        range=[table["at_loss"].max() + pad, table["at_loss"].min() - pad],
        tickformat=axes.LOSS_DIGITS,
    )
    figure.update_yaxes(**y_axis)
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
    note = f"Bars: {level:.0%} intervals. Numbers: the family's budget (FLOPs). Laws: {comparison.method}"
    note += f". Hollow: {reference} extrapolated" if table["extrapolated"].any() else ""
    return parts.finish(figure, f"Compute multipliers over {reference}", note, height=600)


def _to_show(table: pd.DataFrame) -> list[float]:
    low, high = table["multiplier"].min() / NEAR, table["multiplier"].max() * NEAR
    ends = [end for name in ("low", "high") for end in table[name] if not axes.is_missing(end)]
    return [1.0, *table["multiplier"], *(end for end in ends if low <= end <= high)]


def _multipliers(
    family: str, part: pd.DataFrame, limits: tuple[float, float], *, numbered: bool
) -> go.Scatter:
    import plotly.graph_objects as go

    style = theme.family_style(family)
    texts = [axes.compute_text(flops) for flops in part["at_flops"]]
    if len(texts) > MAX_LABELS:
        texts = [text if i in (0, len(texts) - 1) else "" for i, text in enumerate(texts)]
    symbols = [style.symbol + ("-open" if beyond else "") for beyond in part["extrapolated"]]
    return go.Scatter(
        x=part["at_loss"],
        y=part["multiplier"],
        mode="lines+markers+text" if numbered else "lines+markers",
        line={"color": style.colour, "width": 1.5},
        marker=parts.marker(style.colour, symbols, 10),
        error_y=parts.bars(part["multiplier"], part["low"], part["high"], style.colour, limits),
        text=texts if numbered else None,
        textposition="bottom right" if numbered else None,
        textfont={"size": theme.FONT_PX - 3, "color": style.colour},
        name=parts.safe(family),
        hoverinfo="text",
        hovertext=[_text(row) for row in part.to_dict(orient="records")],
    )


def _text(row: Mapping[str, Any]) -> str:
    number = axes.interval_text(row["multiplier"], row["low"], row["high"], axes.number_text)
    family, reference = parts.safe(row["family"]), parts.safe(row["reference"])
    where = " (extrapolated)" if row["extrapolated"] else ""
    return (
        f"<b>{family}</b> needs {number} times the compute of {reference}<br>"
        f"at {row['at_loss']:.3f} nats per token, its loss at {axes.flops_text(row['at_flops'])} FLOPs;<br>"
        f"{reference} gets there with {axes.flops_text(row['reference_flops'])} FLOPs{where}"
    )


def multiplier_curves_table(comparison: Comparison) -> pd.DataFrame:
    """What `multiplier_curves` shows: the curves of all families, see `Comparison.curve`."""
    import pandas as pd

    names = [name for name in comparison.laws if name != comparison.reference]
    return pd.concat([comparison.curve(name) for name in theme.family_order(names)], ignore_index=True)


def multiplier_curves(comparison: Comparison) -> go.Figure:
    """Compute over the reference's at equal loss as a curve over the loss, with its band.

    Thin where either law is read outside its measured budgets. UserError if no loss is reached by both.
    """
    table = multiplier_curves_table(comparison)
    reference = parts.safe(comparison.reference)
    if not len(table):
        raise UserError(f"no family reaches a loss that {comparison.reference} reaches; see the warnings")
    figure = parts.panels(1, 1)
    for family, part in table.groupby("family", sort=False):
        parts.add(figure, _curve_traces(str(family), part), 1, 1)
    inside = table[~table["extrapolated"]]
    shown = inside if len(inside) else table
    values = [1.0, *table["multiplier"], *shown["low"].dropna(), *shown["high"].dropna()]
    finite = [value for value in values if 1e-3 < value < 1e6]
    y_axis = axes.log_axis(f"Compute over {reference} at equal loss (×)", finite, axes.number_text)
    figure.update_yaxes(**y_axis)
    figure.update_xaxes(
        title_text="Held-out bound reached (nats per token)",
        range=[table["at_loss"].max(), table["at_loss"].min()],
        tickformat=axes.LOSS_DIGITS,
    )
    parts.level_line(figure, 1.0, "dot")
    level = next(iter(comparison.laws.values())).level
    note = f"Bands: {level:.0%} intervals. Laws: {comparison.method}. Dashed: a law outside its budgets"
    return parts.finish(figure, f"Compute multipliers over {reference}", note, height=600)


def _curve_traces(family: str, part: pd.DataFrame) -> list[go.Scatter]:
    """The band, then the curve in stretches: dashed where a law is extrapolated."""
    import plotly.graph_objects as go

    style = theme.family_style(family)
    traces = []
    if part["low"].notna().all():
        losses = part["at_loss"].tolist()
        outline = (
            part["high"].astype(float).clip(1e-6, 1e9).tolist() + part["low"].astype(float).tolist()[::-1]
        )
        traces.append(
            go.Scatter(
                x=losses + losses[::-1],
                y=outline,
                mode="lines",
                line={"width": 0},
                fill="toself",
                fillcolor=theme.see_through(style.colour, 0.16),
                hoverinfo="skip",
                showlegend=False,
            )
        )
    stretch = (part["extrapolated"] != part["extrapolated"].shift()).cumsum()
    for number, (_, piece) in enumerate(part.groupby(stretch)):
        dashed = bool(piece["extrapolated"].iloc[0])
        traces.append(
            go.Scatter(
                x=piece["at_loss"],
                y=piece["multiplier"],
                mode="lines",
                name=parts.safe(family),
                legendgroup=family,
                showlegend=number == 0,
                line={
                    "color": style.colour,
                    "width": 1.5 if dashed else 2.5,
                    "dash": "dash" if dashed else "solid",
                },
                hoverinfo="text",
                hovertext=[_text(row) for row in piece.to_dict(orient="records")],
            )
        )
    return traces
