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

    from analysis.table.fit_table import comparable

    done = runs["loss"].notna()
    if "status" in runs:
        done &= runs["status"] == "finished"
    if "excluded" in runs:
        done &= runs["excluded"].isna() | (runs["excluded"] == "")
    table = parts.with_labels(runs[done & comparable(runs)])
    nominal = table.get("nominal", table.get("budget", float("nan")))
    columns = {"flops": table.get("flops", nominal), "family": table.get("family", "")}
    return table.assign(nominal=pd.to_numeric(nominal), **columns)


def measured(runs: pd.DataFrame) -> go.Figure:
    """Loss against size of every finished run, one panel per family, in the colours of their budgets."""
    table = measured_table(runs)
    families = theme.family_order(table["family"].unique())
    count = max(1, len(families))
    titles = [parts.family_title(name, name) for name in families] if len(families) > 1 else []
    row_px = 380 if count <= COLUMNS else 280
    figure = parts.panels(count, min(COLUMNS, count), row_px=row_px, titles=titles, apart=0.08)
    colours = parts.budget_legend(figure, sorted(table["nominal"].dropna().unique()))
    for panel, family in enumerate(families, start=1):
        own = table[table["family"] == family]
        points = []
        for nominal, part in own.groupby("nominal", dropna=False):
            budget = None if nominal != nominal else float(nominal)
            mark = (theme.NEUTRAL if budget is None else colours[budget], "circle", 8)
            points.append(parts.run_points(part, "params", "loss", mark, family=family, budget=budget))
        x_axis = axes.log_axis(axes.params_title([own]), own["params"], count_text, room=6)
        y_axis = {"tickformat": axes.LOSS_DIGITS, "title_text": axes.LOSS if panel % COLUMNS == 1 else ""}
        parts.add(figure, points, panel, x=x_axis, y=y_axis)
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
    y_axis = axes.loss_axis(axes.LOSS, best["loss"])
    ends, traces = [], []
    for family in theme.family_order(best["family"].unique()):
        part, style = best[best["family"] == family], theme.family_style(family)
        line, mark = {"color": style.colour, "width": 1.6}, (style.colour, style.symbol, 9)
        traces += [
            parts.scatter("line", part["nominal"], part["loss"], line=line, family=family),
            parts.run_points(part, "nominal", "loss", mark, family=family),
        ]
        label, last = parts.marked(style, parts.safe(family)), part.iloc[-1]
        ends.append((label, parts.belongs(family), math.log10(last["nominal"]), last["loss"]))
    parts.add(figure, traces, x=x_axis, y=y_axis)
    size_px = (parts.WIDTH_PX - 110, 340)
    parts.label_ends(figure, 1, ends, (x_axis["range"], y_axis["range"]), size_px)
    caption = "Points: the run with the lowest loss of each family and budget."
    provenance = parts.run_provenance([best])
    return parts.finish(figure, "best_losses", "Best loss of each budget", caption, provenance)
