"""A schedule: which run is where, and when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from analysis.figures import parts
from analysis.text import flops_text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

ROW_PX, LEAST_PX, MOST_PX = 18, 200, 1100
MOST_NAMES = 40
"""Names of rows that the axis has room for; of more rows every so many are named."""
UNITS = ((2 * 86400, 86400, "days"), (2 * 3600, 3600, "hours"), (120, 60, "minutes"))
"""From how many seconds on, seconds of one, and what the axis calls them."""


def schedule(table: pd.DataFrame, slots: Sequence[tuple[str, int]], *, title: str, note: str) -> go.Figure:
    """Bars of runs over time, a row per slot, coloured by budget.

    table: a row per run with node, slot, start_s and end_s (seconds), family, size, budget, seed and key.
    slots: every (node, slot) there is, from top to bottom, used or not.
    """
    import plotly.graph_objects as go

    height = min(max(ROW_PX * len(slots), LEAST_PX), MOST_PX)
    figure = parts.panels(1, 1, row_px=height)
    rows = {place: number for number, place in enumerate(slots)}
    end_s = float(table["end_s"].max())
    one_s, unit = next(((one, word) for least, one, word in UNITS if end_s >= least), (1, "seconds"))
    colours = parts.budget_legend(figure, sorted(table["budget"].unique()), "square")
    bars = []
    for budget, colour in colours.items():
        part = table[table["budget"] == budget]
        texts = [_text(row, one_s, unit) for row in part.to_dict("records")]
        bars.append(
            go.Bar(
                orientation="h", base=part["start_s"] / one_s, x=(part["end_s"] - part["start_s"]) / one_s,
                y=[rows[place] for place in zip(part["node"], part["slot"], strict=True)], width=0.86,
                marker={"color": colour, "line": {"width": 0.6, "color": "#ffffff"}}, textposition="none",
                **parts.tags("points", budget=float(budget), keys=part, text=texts),
            )
        )  # fmt: skip
    every = -(-len(slots) // MOST_NAMES)
    alone = {node for node, _ in slots if (node, 2) not in rows}
    y_axis = {
        "tickvals": list(range(0, len(slots), every)),
        "ticktext": [node if node in alone else f"{node} {slot}" for node, slot in slots[::every]],
        "range": [len(slots) - 0.5, -0.5], "showgrid": False,
    }  # fmt: skip
    x_axis = {"title_text": f"Time since the start ({unit})", "range": [0, end_s / one_s * 1.005]}
    parts.add(figure, bars, x=x_axis, y=y_axis)
    return parts.finish(
        figure, "schedule", parts.safe(title), parts.safe(note), f"{len(table)} runs", legend="Budget (FLOPs)"
    ).update_layout(barmode="overlay")


def _text(row: dict[str, Any], one_s: float, unit: str) -> str:
    start, end = row["start_s"] / one_s, row["end_s"] / one_s
    name = f"{parts.safe(row['family'])} {parts.safe(row['size'])}"
    return (
        f"<b>{name}</b> at {flops_text(row['budget'])} FLOPs"
        f"<br>seed {row['seed']}, key {str(row['key'])[:8]}<br>{parts.safe(row['node'])}, slot {row['slot']}"
        f"<br>{start:.3g} to {end:.3g} {unit}"
    )
