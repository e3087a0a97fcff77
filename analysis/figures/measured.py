"""The runs themselves, before any law: loss against size, and the best loss of each budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from analysis.figures import axes, parts, theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

COLUMNS = 3
"""Panels side by side."""


def measured_table(runs: pd.DataFrame) -> pd.DataFrame:
    """The finished runs that count in fits, with a label and with `nominal`, the budget they belong to (NaN:
    none). Their own column nominal is kept if they have one."""
    import pandas as pd

    done = runs["loss"].notna()
    if "status" in runs:
        done &= runs["status"] == "finished"
    if "excluded" in runs:
        done &= runs["excluded"].isna() | (runs["excluded"] == "")
    shown = parts.with_labels(runs[done])
    spent = shown["nominal" if "nominal" in shown else "budget"] if _typed(shown) else float("nan")
    return shown.assign(nominal=pd.to_numeric(spent), family=shown.get("family", ""))


def _typed(runs: pd.DataFrame) -> bool:
    return "nominal" in runs or ("budget" in runs and bool(runs["budget"].notna().any()))


def measured(runs: pd.DataFrame) -> go.Figure:
    """Loss against size of every finished run, one panel per family, in the colours of their budgets."""
    import plotly.graph_objects as go

    table = measured_table(runs)
    families = theme.family_order(table["family"].unique())
    budgets = sorted(table["nominal"].dropna().unique())
    colours = dict(zip(budgets, theme.budget_colours(len(budgets)), strict=True))
    columns = max(1, min(COLUMNS, len(families)))
    rows = max(1, -(-len(families) // columns))
    figure = parts.panels(rows, columns, [parts.safe(name) for name in families] if len(families) > 1 else [])
    for note, family in zip(figure.layout.annotations, families, strict=False):
        note.name = f"family:{family}"
    parts.add(figure, [parts.point_entry(axes.flops_text(one), colours[one]) for one in budgets], 1, 1)
    for number, family in enumerate(families):
        place = {"row": number // columns + 1, "col": number % columns + 1}
        own = table[table["family"] == family]
        for budget, part in own.groupby("nominal", dropna=False):
            known = budget == budget
            text = axes.flops_text(float(budget)) if known else "no budget"
            figure.add_trace(
                go.Scatter(
                    x=part["params"],
                    y=part["loss"],
                    mode="markers",
                    name=text,
                    legendgroup=text,
                    showlegend=False,
                    marker=parts.marker(colours[budget] if known else theme.NEUTRAL, "circle", 7),
                    **_points(part, family, budget if known else None),
                ),
                **place,
            )
        figure.update_xaxes(**axes.log_axis(axes.PARAMS, own["params"], axes.count_text, room=6), **place)
        figure.update_yaxes(
            title_text=axes.LOSS if place["col"] == 1 else "", tickformat=axes.LOSS_DIGITS, **place
        )
    caption = "Finished runs; colours are budgets"
    return parts.finish(
        figure,
        "Loss against size",
        caption,
        height=400 if rows == 1 else 330 * rows + 90,
        legend="Budget (FLOPs)",
    )


def best_losses_table(runs: pd.DataFrame) -> pd.DataFrame:
    """The run with the lowest loss of each family at every budget, smallest budget first."""
    table = measured_table(runs)
    best = table[table["nominal"].notna()].sort_values("loss", kind="stable")
    return best.drop_duplicates(["family", "nominal"]).sort_values("nominal")


def best_losses(runs: pd.DataFrame) -> go.Figure:
    """The lowest loss of each family at every budget, and a line through them."""
    import plotly.graph_objects as go

    best = best_losses_table(runs)
    figure = parts.panels(1, 1)
    for family in theme.family_order(best["family"].unique()):
        part = best[best["family"] == family]
        style = theme.family_style(family)
        figure.add_trace(
            go.Scatter(
                x=part["nominal"],
                y=part["loss"],
                mode="lines+markers",
                name=parts.safe(family),
                legendgroup=family,
                line={"color": style.colour, "width": 1.6},
                marker=parts.marker(style.colour, style.symbol, 9),
                **_points(part, family, None),
            )
        )
    budgets = sorted(best["nominal"].unique())
    figure.update_xaxes(**axes.log_axis("Budget (FLOPs)", budgets, axes.compute_text))
    figure.update_yaxes(title_text=axes.LOSS, tickformat=axes.LOSS_DIGITS)
    return parts.finish(figure, "Best loss of each budget", "Lowest held-out loss of any run", height=440)


def _points(part: pd.DataFrame, family: str, budget: float | None) -> dict[str, Any]:
    """What every point carries: its run's key and description, and what a reader may choose it by."""
    rows = part.to_dict(orient="records")
    keys = [str(row["key"]) for row in rows] if "key" in part else None
    spent = [row["flops"] if "flops" in row else row["nominal"] for row in rows]
    return {
        "customdata": keys,
        "meta": {"family": family, "budget": budget, "role": "points", "keys": keys},
        "hoverinfo": "text",
        "hovertext": [parts.run_text(row, flops) for row, flops in zip(rows, spent, strict=True)],
    }
