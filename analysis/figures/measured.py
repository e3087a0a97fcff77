"""The runs themselves, before any law: loss against size, and the best loss of each budget."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from analysis.figures import axes, parts, theme
from analysis.text import count_text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

COLUMNS = 3
"""Panels side by side."""


def measured_table(runs: pd.DataFrame) -> pd.DataFrame:
    """What `measured` shows: the finished runs that count in fits, with a label, and with nominal, the budget
    they belong to (NaN: none); a column nominal of the table is kept."""
    import pandas as pd

    done = runs["loss"].notna()
    if "status" in runs:
        done &= runs["status"] == "finished"
    if "excluded" in runs:
        done &= runs["excluded"].isna() | (runs["excluded"] == "")
    table = parts.with_labels(runs[done])
    nominal = table.get("nominal", table.get("budget", float("nan")))
    columns = {"flops": table.get("flops", nominal), "family": table.get("family", "")}
    return table.assign(nominal=pd.to_numeric(nominal), **columns)


def measured(runs: pd.DataFrame) -> go.Figure:
    """Loss against size of every finished run, one panel per family, in the colours of their budgets."""
    table = measured_table(runs)
    families = theme.family_order(table["family"].unique())
    colours, entries = parts.budget_entries(sorted(table["nominal"].dropna().unique()))
    columns = max(1, min(COLUMNS, len(families)))
    rows = max(1, -(-len(families) // columns))
    titles = [
        (parts.marked(theme.family_style(name), f"<b>{parts.safe(name)}</b>"), parts.belongs(name) or "")
        for name in families
    ]
    titles = titles if len(families) > 1 else []
    figure = parts.panels(rows, columns, row_px=380 if rows == 1 else 280, titles=titles, apart=0.08)
    parts.add(figure, entries)
    for number, family in enumerate(families):
        row, column = number // columns + 1, number % columns + 1
        own = table[table["family"] == family]
        for nominal, part in own.groupby("nominal", dropna=False):
            budget = None if nominal != nominal else float(nominal)
            colour = colours[budget] if budget is not None else theme.NEUTRAL
            points = parts.scatter(
                "points", part["params"], part["loss"], family=family, budget=budget, keys=part,
                text=parts.run_texts(part), mode="markers", marker=parts.marker(colour, "circle", 8),
            )  # fmt: skip
            parts.add(figure, [points], row, column)
        x_axis = axes.log_axis(axes.params_title([own]), own["params"], count_text, room=6)
        figure.update_xaxes(**x_axis, row=row, col=column)
        figure.update_yaxes(tickformat=axes.LOSS_DIGITS, row=row, col=column)
        if column == 1:
            figure.update_yaxes(title_text=axes.LOSS, row=row, col=column)
    caption = "Points: finished runs, in the colours of their budgets."
    provenance = parts.run_provenance([table])
    return parts.finish(figure, "measured", "Loss against size", caption, provenance, legend="Budget (FLOPs)")


def best_losses_table(runs: pd.DataFrame) -> pd.DataFrame:
    """What `best_losses` shows: the run with the lowest loss of each family at every budget."""
    table = measured_table(runs)
    best = table[table["nominal"].notna()].sort_values("loss", kind="stable")
    return best.drop_duplicates(["family", "nominal"]).sort_values("nominal")


def best_losses(runs: pd.DataFrame) -> go.Figure:
    """The lowest loss of each family at every budget, and a line through them."""
    best = best_losses_table(runs)
    figure = parts.panels(1, 1, row_px=340)
    x_axis = axes.compute_axis("Budget (FLOPs)", best["nominal"], best["nominal"])
    x_axis["range"][1] += 0.08 * (x_axis["range"][1] - x_axis["range"][0])
    low, high = (best["loss"].min(), best["loss"].max()) if len(best) else (0.0, 1.0)
    pad = 0.06 * (high - low) or 0.05
    limits, ends, traces = (low - pad, high + pad), [], []
    for family in theme.family_order(best["family"].unique()):
        part, style = best[best["family"] == family], theme.family_style(family)
        line = {"color": style.colour, "width": 1.6}
        traces += [
            parts.scatter("line", part["nominal"], part["loss"], family=family, mode="lines", line=line),
            parts.scatter(
                "points", part["nominal"], part["loss"], family=family, keys=part, mode="markers",
                text=parts.run_texts(part), marker=parts.marker(style.colour, style.symbol, 9),
            ),
        ]  # fmt: skip
        last = part.iloc[-1]
        text = parts.marked(style, parts.safe(family))
        ends.append((text, parts.belongs(family), math.log10(last["nominal"]), last["loss"]))
    parts.add(figure, traces)
    parts.label_ends(figure, 1, ends, (x_axis["range"], limits), (parts.WIDTH_PX - 110, 340))
    figure.update_xaxes(**x_axis)
    figure.update_yaxes(title_text=axes.LOSS, tickformat=axes.LOSS_DIGITS, range=list(limits))
    caption = "Points: the run with the lowest loss of each family and budget."
    provenance = parts.run_provenance([best])
    return parts.finish(figure, "best_losses", "Best loss of each budget", caption, provenance)
