"""Predictions of dearer runs by laws of the cheaper ones: how far off, by how far beyond."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.figures import axes, parts, theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from analysis.checks.heldout import Rollout


def rollout_table(rollout: Rollout) -> pd.DataFrame:
    """What `rollout` shows: `rollout.table` with beyond, the FLOPs of what is predicted over those fitted
    to."""
    table = rollout.table
    return table.assign(beyond=table["flops"] / table["trained_to"])


def rollout(rollout: Rollout) -> go.Figure:
    """Error of every prediction against how far beyond the fitted budgets it is; one panel per quantity.

    Hollow points lie outside their interval. Colours are the largest budget fitted.
    """
    table = rollout_table(rollout)
    quantities = list(dict.fromkeys(table["quantity"]))
    figure = parts.panels(1, len(quantities), [parts.safe(name) for name in quantities])
    budgets = sorted(table["trained_to"].unique())
    colours = dict(zip(budgets, theme.budget_colours(len(budgets)), strict=True))
    parts.add(figure, [parts.point_entry(axes.flops_text(flops), colours[flops]) for flops in budgets], 1, 1)
    for column, quantity in enumerate(quantities, start=1):
        of_quantity = table[table["quantity"] == quantity]
        for flops, window in of_quantity.groupby("trained_to"):
            figure.add_trace(_errors(window, colours[flops], axes.flops_text(flops)), row=1, col=column)
        x_axis = axes.log_axis("FLOPs over those fitted", of_quantity["beyond"], axes.number_text, room=6)
        figure.update_xaxes(**x_axis, row=1, col=column)
        parts.level_line(figure, 0.0, "solid", column)
    figure.update_yaxes(title_text="Predicted above measured (%)", row=1, col=1)
    note = f"Hollow: outside the {rollout.level:.0%} interval. Law: {rollout.method}"
    return parts.finish(figure, "Rollout: dearer runs foretold", note, height=480, legend="Fitted up to")


def _errors(window: pd.DataFrame, colour: str, name: str) -> go.Scatter:
    import plotly.graph_objects as go

    rows = window.to_dict(orient="records")
    outside = [not axes.is_missing(row["covered"]) and not row["covered"] for row in rows]
    return go.Scatter(
        x=window["beyond"],
        y=window["error_percent"],
        mode="markers",
        marker=parts.marker(colour, ["circle-open" if out else "circle" for out in outside], 8),
        name=name,
        legendgroup=name,
        showlegend=False,
        hoverinfo="text",
        hovertext=[
            f"{row['quantity']} at {axes.flops_text(row['flops'])} FLOPs<br>measured "
            f"{axes.number_text(row['measured'], 4)}, predicted "
            f"{axes.interval_text(row['predicted'], row['low'], row['high'], axes.number_text)}<br>"
            f"off by {row['error_percent']:+.2f}%"
            for row in rows
        ],
    )
