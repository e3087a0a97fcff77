"""Losses along runs: the training objective, and the held-out bound during training and at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from analysis.errors import UserError
from analysis.figures import axes, parts, theme
from analysis.text import count_text, flops_text, is_missing, number_text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

MAX_CURVE_POINTS = 60
OBJECTIVE = "Training objective (nats per token)"
MEASURED_SIZE, FINAL_SIZE = 4, 8
"""Markers of held-out losses during training, and of the final ones."""
SCALES: dict[str, tuple[str, Callable[[float], str]]] = {
    "flops": (axes.COMPUTE, axes.compute_text),
    "tokens": (axes.TOKENS, count_text),
}


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
    usable = curves[(curves[x] > 0) & curves["loss"].notna()].assign(
        _log=lambda part: np.log(part[x].to_numpy(dtype=np.float64))
    )
    first, last = (usable.groupby("key")["_log"].transform(end) for end in ("min", "max"))
    share = (usable["_log"] - first) / (last - first).where(last > first, 1.0)
    stretch = np.floor(share * MAX_CURVE_POINTS).clip(upper=MAX_CURVE_POINTS - 1)
    means = usable.assign(_stretch=stretch).groupby(["key", "_stretch"], sort=True)
    measures = {name: (name, "mean") for name in ("flops", "tokens", "loss")}
    points = means.agg(step=("step", "max"), **measures, points=("step", "size")).reset_index()
    of_run = ["key", "label", *(name for name in ("family", "budget") if name in runs.columns)]
    named = _one_per_key(parts.with_labels(runs))[of_run]
    return points.drop(columns="_stretch").merge(named, on="key")


def _one_per_key(runs: pd.DataFrame) -> pd.DataFrame:
    """The first of the replicas of each run: they have one curve together."""
    return runs[~runs["key"].duplicated() | runs["key"].isna()]


def loss_curves(runs: pd.DataFrame, curves: pd.DataFrame, *, x: str = "flops") -> go.Figure:
    """Training objective along every run, from `analysis.table.runs.loss_curves`; `x` is "flops" or "tokens".

    The held-out bound has a panel of its own, for the objective is no estimate of it: that of finished runs,
    and points measured during training where `curves` has them. Colours are families, or budgets if there is
    one family only.
    """
    table = loss_curves_table(runs, curves, x=x)
    runs = parts.with_labels(runs)
    finished = runs["status"] == "finished" if "status" in runs.columns else True
    ended = runs[runs["loss"].notna() & finished]
    runs = _one_per_key(runs)
    families = theme.family_order(runs["family"].dropna().unique()) if "family" in runs.columns else []
    several = len(families) > 1
    budgets = runs["budget" if "budget" in runs.columns else "flops"].astype(float)
    objectives = sorted(runs["objective"].dropna().unique()) if "objective" in runs.columns else []
    name = f"{parts.safe(objectives[0]).replace('_', '-')} objective" if len(objectives) == 1 else "objective"

    figure = parts.panels(2, 1, row_px=270)
    symbol = theme.family_style("".join(families)).symbol
    grey = theme.Style(colour=theme.NEUTRAL, symbol=symbol)
    for family in families if several else ():
        parts.legend_entry(figure, theme.family_style(family), dash="solid", family=family)
    colours = parts.budget_legend(figure, [] if several else sorted(budgets.dropna().unique()), symbol)
    if not several and budgets.isna().any():
        parts.legend_entry(figure, grey, group="unknown")
    lines, ends = [], []
    measured = (
        curves[curves["held_out_loss"].notna() & (curves[x] > 0)] if "held_out_loss" in curves else None
    )
    measured = None if measured is None or not len(measured) else measured
    curve_of = dict(tuple(table.groupby("key", sort=False)))
    for run, spent in zip(runs.to_dict("records"), budgets, strict=True):
        budget = None if is_missing(spent) else spent
        group = parts.safe(run["family"]) if several else "unknown" if budget is None else flops_text(budget)
        owner: dict[str, Any] = {"family": run.get("family"), "budget": budget, "group": group}
        style = theme.family_style(run["family"]) if several else grey
        colour = style.colour if several or budget is None else colours[budget]
        if run["key"] in curve_of:
            curve = curve_of[run["key"]]
            texts = [
                f"<b>{parts.safe(run['label'])}</b><br>{name} {row['loss']:.4f} (mean of {row['points']} "
                f"up to step {row['step']:,.0f})<br>{count_text(row['tokens'])} tokens, "
                f"{flops_text(row['flops'])} FLOPs"
                for row in curve.to_dict("records")
            ]
            look = {"color": colour, "width": 1.3}
            line = parts.scatter("line", curve[x], curve["loss"], text=texts, line=look, **owner)
            lines.append(line.update(opacity=0.85, customdata=[str(run["key"])] * len(curve)))
        along = None if measured is None else measured[measured["key"] == run["key"]].sort_values(x)
        if along is not None and len(along):
            texts = [
                f"<b>{parts.safe(run['label'])}</b><br>held-out {row['held_out_loss']:.4f} ± "
                f"{row['held_out_loss_se']:.4f} on a small text at step {row['step']:,.0f}<br>"
                f"{count_text(row['tokens'])} tokens, {flops_text(row['flops'])} FLOPs"
                for row in along.to_dict("records")
            ]
            look = {"color": colour, "width": 1.3}
            mark = (colour, style.symbol, MEASURED_SIZE)
            line = parts.scatter(
                "line", along[x], along["held_out_loss"], text=texts, line=look, mark=mark, **owner
            )
            ends.append(line.update(opacity=0.85, customdata=[str(run["key"])] * len(along)))
        own = ended[ended["key"] == run["key"]]
        if len(own):
            ends.append(parts.run_points(own, x, "loss", (colour, style.symbol, FINAL_SIZE), **owner))
    x_title, text = SCALES[x]
    values = [*table[x], *ended[x]]
    objective_title = f"Training {name}<br>(nats per token, not the bound)"
    parts.add(
        figure, lines, 1, x=axes.log_axis("", values, text),
        y=axes.log_axis(objective_title, table["loss"], number_text, room=6),
    )  # fmt: skip
    bounds: dict[str, Any] = {"title_text": axes.LOSS, "tickformat": axes.LOSS_DIGITS}
    if measured is not None:  # they begin as high as the objective does
        bounds = axes.log_axis(axes.LOSS, [*measured["held_out_loss"], *ended["loss"]], number_text, room=6)
    parts.add(figure, ends, 2, x=axes.log_axis(x_title, values, text) | {"matches": "x"}, y=bounds)
    caption = (
        f"Above: the training {name}, means over short stretches of each run; not comparable with the bound. "
        "Below: held-out bound of finished runs."
    )
    if measured is not None:
        caption += " Small markers: measured during training, at every point on the same small held-out text."
    return parts.finish(
        figure, "loss_curves", "Losses along runs", caption, parts.run_provenance([runs]),
        of="" if several else "".join(families), legend="" if several else "Budget (FLOPs)",
    )  # fmt: skip


def run_curves(*, held_out: bool, several: bool = False) -> dict[str, Any]:
    """The figure of one run without its points, or of `several` runs with a legend; the page fills them in.

    The objective, and below it, if `held_out`, the held-out losses measured during training and the final
    one: a trace of each, which the page repeats for every run.
    """
    axis: dict[str, Any] = {"type": "log", "automargin": True}
    y = axis | {"tickformat": "~g", "title": {"text": OBJECTIVE}}
    objective: dict[str, Any] = {"type": "scatter", "mode": "lines", "line": {"width": 1.8}, "meta": {}}
    x = axis | {"tickmode": "array"}
    layout: dict[str, Any] = {
        "height": 380,
        "margin": {"t": 24},
        "xaxis": x,
        "yaxis": y,
        "showlegend": several,
    }
    if several:
        layout |= {"height": 460, "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}}
    along = "runs" if several else "run"
    if not held_out:
        caption = f"The training objective along the {along}, which is no estimate of the held-out loss."
        return {"data": [objective], "layout": layout, "caption": caption}
    measured = objective | {"mode": "lines+markers", "marker": {"size": 2 * MEASURED_SIZE}, "yaxis": "y2"}
    final = measured | {"mode": "markers", "marker": {"size": 1.5 * FINAL_SIZE, "symbol": "diamond"}}
    layout |= {
        "height": 700 if several else 620,
        "xaxis": x | {"anchor": "y2"},
        "yaxis": y | {"domain": [0.54, 1.0]},
        "yaxis2": y | {"domain": [0.0, 0.46], "title": {"text": axes.LOSS}},
    }
    caption = (
        f"Above: the training objective along the {along}. Below: the held-out loss, measured at times on a "
        "small text (points), and at the end on the whole (diamond); the two panels are not comparable."
    )
    return {"data": [objective, measured, final], "layout": layout, "caption": caption}
