"""How far the runs lie from a fitted surface."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from analysis.figures import axes, parts, theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from analysis.laws.surface import SurfaceLaw

SCALES: dict[str, tuple[str, Callable[[float], str]]] = {
    "flops": (axes.COMPUTE, axes.compute_text),
    "tokens_per_param": (axes.TOKENS_PER_PARAM, axes.number_text),
}


def surface_residuals_table(law: SurfaceLaw) -> pd.DataFrame:
    """What `surface_residuals` shows: the runs of the fit with their prediction.

    Adds predicted (nats per token), residual_percent (100 (log loss - log predicted), what the fit
    minimises), tokens_per_param, outlier (see `influence.outliers`) and label.
    """
    import numpy as np

    from analysis.checks.influence import outliers

    runs = law.runs
    predicted = law.E + law.A * runs["params"] ** -law.alpha + law.B * runs["tokens"] ** -law.beta
    residual = 100 * np.log(runs["loss"] / predicted)
    return parts.with_labels(runs).assign(
        predicted=predicted,
        residual_percent=residual,
        tokens_per_param=runs["tokens"] / runs["params"],
        outlier=outliers(law),
    )


def surface_residuals(laws: SurfaceLaw | Mapping[str, SurfaceLaw]) -> go.Figure:
    """How far every run lies from its surface, against compute and against tokens per parameter.

    `laws` is a law, or laws by family. A pattern (a bow, a trend) says that the surface has the wrong shape
    there; outliers are hollow, and named where there is one law. The dotted lines are the delta of the robust
    fit: beyond them a run pulls no harder, however far it lies. A fit to the loss itself has a delta in nats,
    which is no line here.
    """
    named = parts.named(laws)
    tables = {name: surface_residuals_table(law) for name, law in named.items()}
    figure = parts.panels(1, 2)
    first = next(iter(named.values()))
    delta_percent = 100 * float(first.options["delta"])
    heights = () if first.options.get("residual") == "loss" else (-delta_percent, delta_percent)
    for column, (name, (title, text)) in enumerate(SCALES.items(), start=1):
        for family, table in tables.items():
            style = theme.family_style(family)
            figure.add_trace(_residuals(table, family, name, style, len(named) == 1), row=1, col=column)
        values = [value for table in tables.values() for value in table[name]]
        figure.update_xaxes(**axes.log_axis(title, values, text, room=7), row=1, col=column)
        parts.level_line(figure, 0.0, "solid", column)
        for height in heights:
            parts.level_line(figure, height, "dot", column)
    figure.update_yaxes(title_text="Measured above predicted loss (%)", row=1, col=1)
    figure.update_yaxes(matches="y", row=1, col=2)
    notes = [f"Dotted: delta of the robust fit ({delta_percent:g}%)"] if heights else []
    notes += ["Hollow: outliers"] if any(table["outlier"].any() for table in tables.values()) else []
    title = parts.titled("Residuals of the loss surface", (first.family or "") if len(named) == 1 else "")
    return parts.finish(figure, title, ". ".join(notes), height=480)


def _residuals(table: pd.DataFrame, family: str, x: str, style: theme.Style, single: bool) -> go.Scatter:
    import plotly.graph_objects as go

    rows = table.to_dict(orient="records")
    keys = [str(row.get("key", "")) for row in rows]
    return go.Scatter(
        x=table[x],
        y=table["residual_percent"],
        mode="markers+text" if single else "markers",
        marker=parts.marker(
            style.colour, [style.symbol + ("-open" if row["outlier"] else "") for row in rows], 7
        )
        | {"opacity": 0.8},
        text=[parts.safe(row["label"]) if row["outlier"] else "" for row in rows] if single else None,
        textposition="top center",
        textfont={"size": theme.FONT_PX - 3, "color": style.colour},
        name=parts.safe(family),
        legendgroup=family,
        showlegend=False,
        customdata=keys,
        meta={"family": family, "budget": None, "role": "points", "keys": keys},
        hoverinfo="text",
        hovertext=[
            f"{parts.run_text(row, row['flops'])}<br>"
            f"predicted {row['predicted']:.4f}, off by {row['residual_percent']:+.2f}%"
            for row in rows
        ],
    )
