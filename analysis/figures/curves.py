"""Training loss along runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from analysis.errors import UserError
from analysis.figures import axes, parts, theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

MAX_CURVE_POINTS = 60
SCALES: dict[str, tuple[str, Callable[[float], str]]] = {
    "flops": (axes.COMPUTE, axes.compute_text),
    "tokens": (axes.TOKENS, axes.count_text),
}
NO_BUDGET = "unknown"


def loss_curves_table(runs: pd.DataFrame, curves: pd.DataFrame, *, x: str = "flops") -> pd.DataFrame:
    """What `loss_curves` shows: means over at most `MAX_CURVE_POINTS` stretches of each run, evenly spread on
    a logarithmic scale of `x` ("flops" or "tokens"). The loss of single batches jumps too much to look at.

    Columns key, step (the last of the stretch), flops, tokens, loss (nats per token), points (averaged), and
    of the run: label, family, budget.
    """
    import numpy as np

    if x not in SCALES:
        raise UserError(f"x = {x!r}; a loss curve is drawn against {' or '.join(SCALES)}")
    # the start of a run, before anything is spent, has no place on a logarithmic axis
    usable = curves[curves[x] > 0].assign(_log=lambda part: np.log(part[x].to_numpy(dtype=np.float64)))
    first, last = (usable.groupby("key")["_log"].transform(end) for end in ("min", "max"))
    share = (usable["_log"] - first) / (last - first).where(last > first, 1.0)
    stretch = np.floor(share * MAX_CURVE_POINTS).clip(upper=MAX_CURVE_POINTS - 1)
    means = usable.assign(_stretch=stretch).groupby(["key", "_stretch"], sort=True)
    measures = {name: (name, "mean") for name in ("flops", "tokens", "loss")}
    points = means.agg(step=("step", "max"), **measures, points=("step", "size")).reset_index()
    known = ["key", "label", *(name for name in ("family", "budget") if name in runs.columns)]
    return points.drop(columns="_stretch").merge(parts.with_labels(runs)[known], on="key")


def loss_curves(runs: pd.DataFrame, curves: pd.DataFrame, *, x: str = "flops") -> go.Figure:
    """Training loss along every run, from `analysis.table.runs.loss_curves`; `x` is "flops" or "tokens".

    Colours are families, or budgets where there is one family only. The marker at the end is the held-out
    bound of a finished run; a run that did not finish has none.
    """
    table = loss_curves_table(runs, curves, x=x)
    finished = runs["status"] == "finished" if "status" in runs.columns else True
    ended = parts.with_labels(runs[runs["loss"].notna() & finished])
    families = theme.family_order(runs["family"].dropna().unique()) if "family" in runs.columns else []
    several = len(families) > 1
    group_of, styles = _by_family(runs, families) if several else _by_budget(runs, families)
    figure = parts.panels(1, 1)
    for group, style in styles.items():
        traces = [
            _curve(curve, x, group, style)
            for key, curve in table.groupby("key", sort=False)
            if group_of[key] == group
        ]
        bounds = ended[[group_of[key] == group for key in ended["key"]]]
        parts.add(figure, [parts.line_entry(group, style), *traces, _bounds(bounds, x, group, style)], 1, 1)
    title, text = SCALES[x]
    figure.update_xaxes(**axes.log_axis(title, [*table[x], *ended[x]], text))
    losses = [*table["loss"], *ended["loss"]]
    figure.update_yaxes(**axes.log_axis(axes.TRAINING_LOSS, losses, axes.number_text, room=8))
    return parts.finish(
        figure,
        parts.titled("Training loss", "" if several else "".join(families)),
        "Lines: training objective, means over short stretches. Markers: held-out bound of finished runs",
        height=600,
        legend="Family" if several else "Budget (FLOPs)",
    )


def _by_family(runs: pd.DataFrame, families: list[str]) -> tuple[dict[str, str], dict[str, theme.Style]]:
    """Legend group of every key, and the style of every group."""
    group_of = {key: str(family) for key, family in zip(runs["key"], runs["family"], strict=True)}
    return group_of, {family: theme.family_style(family) for family in families}


def _by_budget(runs: pd.DataFrame, families: list[str]) -> tuple[dict[str, str], dict[str, theme.Style]]:
    budgets = runs["budget" if "budget" in runs.columns else "flops"]
    known = sorted(budgets.dropna().unique())
    symbol = theme.family_style("".join(families)).symbol
    colours = theme.budget_colours(len(known))
    styles = {
        axes.flops_text(budget): theme.Style(colour=colour, symbol=symbol)
        for budget, colour in zip(known, colours, strict=True)
    }
    if budgets.isna().any():
        styles[NO_BUDGET] = theme.Style(colour=theme.NEUTRAL, symbol=symbol)
    group_of = {
        key: NO_BUDGET if axes.is_missing(budget) else axes.flops_text(budget)
        for key, budget in zip(runs["key"], budgets, strict=True)
    }
    return group_of, styles


def _curve(curve: pd.DataFrame, x: str, group: str, style: theme.Style) -> go.Scatter:
    import plotly.graph_objects as go

    return go.Scatter(
        x=curve[x],
        y=curve["loss"],
        mode="lines",
        line={"color": style.colour, "width": 1.3},
        opacity=0.85,
        name=group,
        legendgroup=group,
        showlegend=False,
        hoverinfo="text",
        hovertext=[
            f"<b>{parts.safe(row['label'])}</b><br>"
            f"training loss {row['loss']:.4f} (mean of {row['points']} up to step {row['step']:,.0f})<br>"
            f"{axes.count_text(row['tokens'])} tokens, {axes.flops_text(row['flops'])} FLOPs"
            for row in curve.to_dict(orient="records")
        ],
    )


def _bounds(ended: pd.DataFrame, x: str, group: str, style: theme.Style) -> go.Scatter:
    import plotly.graph_objects as go

    return go.Scatter(
        x=ended[x].tolist(),
        y=ended["loss"].tolist(),
        mode="markers",
        marker=parts.marker(style.colour, style.symbol, 8),
        name=group,
        legendgroup=group,
        showlegend=False,
        hoverinfo="text",
        hovertext=[parts.run_text(run, run["flops"]) for run in ended.to_dict(orient="records")],
    )
