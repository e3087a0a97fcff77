"""Predictions of dearer runs by laws of the cheaper ones: how far off, by how far beyond."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.figures import axes, parts
from analysis.text import flops_text, interval_text, is_missing, number_text

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
    titles = [(f"<b>{parts.safe(name)}</b>", "") for name in quantities]
    figure = parts.panels(1, len(quantities), row_px=320, titles=titles)
    colours, entries = parts.budget_entries(sorted(table["trained_to"].unique()))
    parts.add(figure, entries)
    for column, quantity in enumerate(quantities, start=1):
        of_quantity = table[table["quantity"] == quantity]
        for flops, window in of_quantity.groupby("trained_to"):
            rows = window.to_dict(orient="records")
            outside = [not is_missing(row["covered"]) and not row["covered"] for row in rows]
            texts = [
                f"{row['quantity']} at {flops_text(row['flops'])} FLOPs<br>measured "
                f"{number_text(row['measured'], 4)}, predicted "
                f"{interval_text(row['predicted'], row['low'], row['high'], number_text)}<br>"
                f"off by {row['error_percent']:+.2f}%"
                for row in rows
            ]
            errors = parts.scatter(
                "reference", window["beyond"], window["error_percent"], budget=float(flops), text=texts,
                mode="markers", marker=parts.marker(colours[flops], parts.hollow("circle", outside), 8),
            )  # fmt: skip
            parts.add(figure, [errors], 1, column)
        x_axis = axes.log_axis("FLOPs over those fitted", of_quantity["beyond"], number_text, room=6)
        figure.update_xaxes(**x_axis, row=1, col=column)
        parts.level_line(figure, 0.0, "solid", column)
    figure.update_yaxes(title_text="Predicted above measured (%)", row=1, col=1)
    caption = f"Hollow: outside the {rollout.level:.0%} interval. Law: {rollout.method}."
    provenance = parts.run_provenance([table], what="predictions")
    title = "Rollout: more expensive runs predicted"
    return parts.finish(figure, "rollout", title, caption, provenance, legend="Fitted up to")
