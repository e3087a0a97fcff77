"""Predictions of more expensive runs by laws of the cheaper ones: how far off, by how far beyond."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.figures import axes, parts
from analysis.text import flops_text, interval_text, is_missing, number_text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from analysis.checks.heldout import Rollout


def rollout_table(rollout: Rollout) -> pd.DataFrame:
    """What `rollout` shows: `rollout.table` with beyond, the FLOPs predicted over those fitted to."""
    return rollout.table.assign(beyond=rollout.table["flops"] / rollout.table["trained_to"])


def rollout(rollout: Rollout) -> go.Figure:
    """Error of every prediction against how far beyond the fitted budgets it is; one panel per quantity.

    Hollow points lie outside their interval. Colours are the largest budget fitted.
    """
    table = rollout_table(rollout)
    quantities = list(dict.fromkeys(table["quantity"]))
    titles = [(f"<b>{parts.safe(name)}</b>", "") for name in quantities]
    figure = parts.panels(len(quantities), len(quantities), row_px=320, titles=titles)
    colours = parts.budget_legend(figure, sorted(table["trained_to"].unique()))
    for panel, quantity in enumerate(quantities, start=1):
        of_quantity = table[table["quantity"] == quantity]
        points = []
        for flops, window in of_quantity.groupby("trained_to"):
            outside = [not (is_missing(covered) or covered) for covered in window["covered"]]
            texts = [
                f"{row['quantity']} at {flops_text(row['flops'])} FLOPs<br>measured "
                f"{number_text(row['measured'], 4)}, predicted "
                f"{interval_text(row['predicted'], row['low'], row['high'], number_text)}<br>"
                f"off by {row['error_percent']:+.2f}%"
                for row in window.to_dict("records")
            ]
            points.append(
                parts.scatter(
                    "reference", window["beyond"], window["error_percent"], budget=float(flops), text=texts,
                    mark=(colours[flops], parts.hollow("circle", outside), 8),
                )
            )  # fmt: skip
        x_axis = axes.log_axis("FLOPs over those fitted", of_quantity["beyond"], number_text, room=6)
        y_title = "Predicted above measured (%)" if panel == 1 else ""
        parts.add(figure, points, panel, x=x_axis, y={"title_text": y_title})
        parts.level_line(figure, 0.0, "solid", panel)
    return parts.finish(
        figure, "rollout", "Rollout: more expensive runs predicted",
        f"Hollow: outside the {rollout.level:.0%} interval. Law: {rollout.method}.",
        parts.run_provenance([table], what="predictions"), legend="Fitted up to",
    )  # fmt: skip
