"""How far the runs lie from a fitted surface."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from analysis.figures import axes, parts, theme
from analysis.text import flops_text, number_text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from analysis.laws.surface import SurfaceLaw

SCALES: dict[str, tuple[str, Callable[[float], str]]] = {
    "flops": (axes.COMPUTE, flops_text),
    "tokens_per_param": (axes.TOKENS_PER_PARAM, number_text),
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


def surface_residuals(law: SurfaceLaw) -> go.Figure:
    """How far every run lies from the surface, against compute and against tokens per parameter.

    A pattern (a bow, a trend) says that the surface has the wrong shape there; outliers are named. The dotted
    lines are the delta of the robust fit: beyond them a run pulls no harder, however far it lies. A fit to
    the loss itself has a delta in nats, which is no line here.
    """
    table = surface_residuals_table(law)
    style = theme.family_style(law.family)
    figure = parts.panels(1, 2)
    delta_percent = 100 * float(law.options["delta"])
    heights = () if law.options.get("residual") == "loss" else (-delta_percent, delta_percent)
    for column, (name, (title, text)) in enumerate(SCALES.items(), start=1):
        figure.add_trace(_residuals(table, name, style), row=1, col=column)
        figure.update_xaxes(**axes.log_axis(title, table[name], text, room=7), row=1, col=column)
        parts.level_line(figure, 0.0, "solid", column)
        for height in heights:
            parts.level_line(figure, height, "dot", column)
    figure.update_yaxes(title_text="Measured above predicted loss (%)", row=1, col=1)
    figure.update_yaxes(matches="y", row=1, col=2)
    notes = [f"Dotted: delta of the robust fit ({delta_percent:g}%)"] if heights else []
    notes += ["Named: outliers"] if table["outlier"].any() else []
    title = parts.titled("Residuals of the loss surface", law.family or "")
    return parts.finish(figure, title, ". ".join(notes), height=480)


def _residuals(table: pd.DataFrame, x: str, style: theme.Style) -> go.Scatter:
    import plotly.graph_objects as go

    rows = table.to_dict(orient="records")
    return go.Scatter(
        x=table[x],
        y=table["residual_percent"],
        mode="markers+text",
        marker=parts.marker(style.colour, style.symbol, 8) | {"opacity": 0.8},
        text=[parts.safe(row["label"]) if row["outlier"] else "" for row in rows],
        textposition="top center",
        textfont={"size": theme.FONT_PX - 3, "color": style.colour},
        showlegend=False,
        hoverinfo="text",
        hovertext=[
            f"{parts.run_text(row, row['flops'])}<br>"
            f"predicted {row['predicted']:.4f}, off by {row['residual_percent']:+.2f}%"
            for row in rows
        ],
    )
