"""IsoFLOP curves: loss against size at every budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from analysis.figures import axes, parts, theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from analysis.laws.isoflop import IsoflopLaw

MAX_PANELS_PER_ROW = 3
NUMBERS = (
    "flops",
    "params",
    "params_low",
    "params_high",
    "tokens",
    "tokens_per_param",
    "loss",
    "loss_low",
    "loss_high",
    "loss_se",
)


def isoflop_table(law: IsoflopLaw) -> pd.DataFrame:
    """What `isoflop` shows: rows of kind "curve" (fitted parabola), "run" and "minimum", budget by budget.

    Columns kind, flops (the budget), params, params_low, params_high, tokens, tokens_per_param, loss,
    loss_low, loss_high, loss_se (nats per token), status and reason (of the budget), label (of the run).
    """
    import numpy as np
    import pandas as pd

    minima = law.minima.sort_values("flops").astype(object)
    typed = "budget" in law.runs.columns and law.runs["budget"].notna().all()
    spent = law.runs["budget" if typed else "flops"].to_numpy(dtype=np.float64)
    budgets = minima["flops"].to_numpy(dtype=np.float64)
    nearest = np.abs(np.log(spent[:, None] / budgets)).argmin(axis=1)
    rows: list[dict[str, Any]] = []
    for number, minimum in enumerate(minima.to_dict(orient="records")):
        shared = {name: minimum[name] for name in ("flops", "status", "reason")}
        curve = law.curves(minimum["flops"])[["params", "loss"]]
        runs = parts.with_labels(law.runs[nearest == number].sort_values("params"))
        rows += [{"kind": "curve"} | row | shared for row in curve.to_dict(orient="records")]
        rows += [{"kind": "run"} | row | shared for row in runs.to_dict(orient="records")]
        rows.append({"kind": "minimum"} | minimum)
    table = pd.DataFrame(rows).reindex(columns=["kind", *NUMBERS, "status", "reason", "label"])
    return table.assign(**{name: pd.to_numeric(table[name], errors="coerce") for name in NUMBERS})


def isoflop(laws: IsoflopLaw | Mapping[str, IsoflopLaw]) -> go.Figure:
    """Loss against size at every budget, with the fitted parabolas and their minima; one panel per family.

    A budget without a usable minimum is drawn hollow and dotted, and says why under the pointer.
    """
    named = parts.named(laws)
    tables = {name: isoflop_table(law) for name, law in named.items()}
    rows = -(-len(named) // MAX_PANELS_PER_ROW)
    columns = -(-len(named) // rows)
    figure = parts.panels(rows, columns, [parts.safe(name) for name in named] if len(named) > 1 else [])
    budgets = sorted({flops for table in tables.values() for flops in table["flops"]})
    colours = dict(zip(budgets, theme.budget_colours(len(budgets)), strict=True))
    in_legend: set[str] = set()
    parts.add(figure, [parts.point_entry(axes.flops_text(flops), colours[flops]) for flops in budgets], 1, 1)
    for number, (name, table) in enumerate(tables.items()):
        traces = []
        for flops, of_budget in table.groupby("flops"):
            traces += _budget_traces(of_budget, float(flops), colours[float(flops)], named[name].level)
        traces.append(parts.once(_frontier_line(named[name]), in_legend))
        parts.add(figure, traces, number // columns + 1, number % columns + 1)
    _set_axes(figure, tables, columns)
    refused = any((table["status"] != parts.BRACKETED).any() for table in tables.values())
    note = f"Circles: runs. Diamonds: fitted minima with {next(iter(named.values())).level:.0%} intervals"
    note += ". Hollow: budget without a usable minimum" if refused else ""
    title = parts.titled("IsoFLOP curves", "" if len(named) > 1 else next(iter(named)))
    height = 600 if rows == 1 else 380 * rows + 100
    return parts.finish(figure, title, note, height=height, legend="Budget (FLOPs)")


def _budget_traces(part: pd.DataFrame, flops: float, colour: str, level: float) -> list[go.Scatter]:
    """Parabola, runs and minimum of one budget; its legend entry stands for all of them."""
    import plotly.graph_objects as go

    used = part["status"].iloc[0] == parts.BRACKETED
    reason = "" if used else f"<br>{parts.safe(part['reason'].iloc[0])}"
    runs, curve, minimum = (part[part["kind"] == kind] for kind in ("run", "curve", "minimum"))
    text = axes.flops_text(flops)
    shared = {"name": text, "legendgroup": text, "showlegend": False}
    line = go.Scatter(
        **shared,
        x=curve["params"],
        y=curve["loss"],
        mode="lines",
        # unsimplified: Plotly would straighten a smooth curve into a visible polygon
        line={"color": colour, "width": 1.8, "dash": "solid" if used else "dot", "simplify": False},
        hoverinfo="skip",
    )
    points = go.Scatter(
        **shared,
        x=runs["params"],
        y=runs["loss"],
        mode="markers",
        marker=parts.marker(colour, "circle" if used else "circle-open", 8),
        hoverinfo="text",
        hovertext=[parts.run_text(run, flops) + reason for run in runs.to_dict(orient="records")],
    )
    if not used:
        return [line, points]
    lowest = go.Scatter(
        **shared,
        x=minimum["params"],
        y=minimum["loss"],
        mode="markers",
        marker=parts.marker(colour, "diamond", 12),
        error_x=parts.bars(minimum["params"], minimum["params_low"], minimum["params_high"], colour),
        error_y=parts.bars(minimum["loss"], minimum["loss_low"], minimum["loss_high"], colour),
        hoverinfo="text",
        hovertext=[parts.optimum_text("minimum", row, level) for row in minimum.to_dict(orient="records")],
    )
    return [line, points, lowest]


def _frontier_line(law: IsoflopLaw) -> go.Scatter:
    import numpy as np
    import plotly.graph_objects as go

    path = law.frontier(np.geomspace(*law.flops_range, 30))
    return go.Scatter(
        x=path["params"],
        y=path["loss"],
        mode="lines",
        line={"color": theme.NEUTRAL, "width": 1.5, "dash": "dash"},
        name="frontier",
        legendgroup="frontier",
        hoverinfo="skip",
    )


def _set_axes(figure: go.Figure, tables: Mapping[str, pd.DataFrame], columns: int) -> None:
    params = [value for table in tables.values() for value in table["params"]]
    figure.update_xaxes(**axes.log_axis("", params, axes.count_text, room=axes.LABELS_WIDE / columns))
    figure.update_yaxes(tickformat=axes.LOSS_DIGITS)
    for number in range(len(tables)):
        place = {"row": number // columns + 1, "col": number % columns + 1}
        lowest = number + columns >= len(tables)  # nothing stands below it
        if lowest and (columns < 3 or number % columns == 1):  # three titles in a row would touch
            figure.update_xaxes(title_text=axes.PARAMS, **place)
        if number % columns == 0:
            figure.update_yaxes(title_text=axes.LOSS, **place)
        if number:
            figure.update_yaxes(matches="y", **place)
