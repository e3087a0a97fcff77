"""The compute-optimal frontier: the best run at every budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from analysis.figures import axes, parts, theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from analysis.laws.result import Law

EXTRAPOLATE = 10.0
"""A frontier is drawn up to this factor beyond its largest budget."""
WIDEST_BAND = 30.0
"""A band further than this factor from its line does not stretch the axis."""
PANELS = {
    "loss": axes.LOSS,
    "params": axes.PARAMS,
    "tokens": axes.TOKENS,
    "tokens_per_param": axes.TOKENS_PER_PARAM,
}


def frontier_table(law: Law, *, points: int = 60) -> pd.DataFrame:
    """What `frontier` shows of one law: `law.frontier` over its budgets and ten times beyond the largest one.

    Column extrapolated tells the two parts apart; the largest budget ends one and starts the other.
    """
    import numpy as np
    import pandas as pd

    low, high = law.flops_range
    inside = law.frontier(np.geomspace(low, high, points)).assign(extrapolated=False)
    beyond = law.frontier(np.geomspace(high, high * EXTRAPOLATE, points // 3)).assign(extrapolated=True)
    return pd.concat([inside, beyond], ignore_index=True)


def frontier(laws: Law | Mapping[str, Law]) -> go.Figure:
    """Loss, size, tokens and tokens per parameter of the best run at every budget, for one law or several.

    `laws` is a law, or laws by name: the family, or the method where they are laws of one family. Bands are
    intervals; beyond the measured budgets lines are dashed. Points are the fitted minima, or, where a law has
    no minima, the runs themselves (in the loss panel).
    """
    named = parts.named(laws)
    tables = {name: frontier_table(law) for name, law in named.items()}
    styles = parts.styles(named)
    figure = parts.panels(2, 2)
    if len(named) > 1:
        parts.add(figure, [parts.line_entry(parts.safe(name), style) for name, style in styles.items()], 1, 1)
    for number, panel in enumerate(PANELS):
        for name, law in named.items():
            traces = [
                *_lines(name, law, tables[name], panel, styles[name]),
                _points(name, law, panel, styles[name]),
            ]
            for trace in traces:
                trace.update(name=parts.safe(name), legendgroup=parts.safe(name), showlegend=False)
            parts.add(figure, traces, number // 2 + 1, number % 2 + 1)
    _set_axes(figure, named, tables)
    note = "Dashed: beyond the measured budgets"
    if any(table["loss_low"].notna().any() for table in tables.values()):
        note = f"Bands: {next(iter(named.values())).level:.0%} intervals. {note}"
    families = {law.family or "" for law in named.values()}
    title = parts.titled("Compute-optimal frontier", families.pop() if len(families) == 1 else "")
    return parts.finish(figure, title, note, height=780)


def _lines(name: str, law: Law, table: pd.DataFrame, panel: str, style: theme.Style) -> list[go.Scatter]:
    """Band and line of one law in one panel, inside and beyond its budgets."""
    import plotly.graph_objects as go

    traces = []
    for extrapolated, part in table.groupby("extrapolated"):
        banded = part[part[f"{panel}_low"].notna() & part[f"{panel}_high"].notna()]
        if len(banded):
            traces.append(parts.band(banded, panel, theme.see_through(style.colour, 0.16)))
        line = go.Scatter(
            x=part["flops"],
            y=part[panel],
            mode="lines",
            line={"color": style.colour, "width": 2.2, "dash": "dash" if extrapolated else "solid"},
            hoverinfo="text",
            hovertext=[parts.optimum_text(name, row, law.level) for row in part.to_dict(orient="records")],
        )
        traces.append(line)
    return traces


def _points(name: str, law: Law, panel: str, style: theme.Style) -> go.Scatter:
    import plotly.graph_objects as go

    minima = _minima(law)
    if len(minima):
        rows = minima.to_dict(orient="records")
        return go.Scatter(
            x=minima["flops"],
            y=minima[panel],
            mode="markers",
            marker=parts.marker(style.colour, style.symbol, 9),
            error_y=parts.bars(minima[panel], minima[f"{panel}_low"], minima[f"{panel}_high"], style.colour),
            hoverinfo="text",
            hovertext=[parts.optimum_text(f"{name} minimum".strip(), row, law.level) for row in rows],
        )
    runs = parts.with_labels(law.runs if panel == "loss" else law.runs.iloc[:0])
    return go.Scatter(
        x=runs["flops"].tolist(),
        y=runs["loss"].tolist(),
        mode="markers",
        marker=parts.marker(style.colour, style.symbol, 6) | {"opacity": 0.55},
        hoverinfo="text",
        hovertext=[parts.run_text(run, run["flops"]) for run in runs.to_dict(orient="records")],
    )


def _minima(law: Law) -> pd.DataFrame:
    """The usable minima of an IsoFLOP law, no rows for any other."""
    import pandas as pd

    minima = getattr(law, "minima", None)
    if minima is None:
        return pd.DataFrame(columns=[f"{name}{end}" for name in PANELS for end in ("", "_low", "_high")])
    return minima[minima["status"] == parts.BRACKETED].astype({"flops": "float64"})


def _set_axes(figure: go.Figure, laws: Mapping[str, Law], tables: Mapping[str, pd.DataFrame]) -> None:
    flops = [value for table in tables.values() for value in table["flops"]]
    flops += [value for law in laws.values() for value in law.runs["flops"]]
    for number, (panel, title) in enumerate(PANELS.items()):
        place = {"row": number // 2 + 1, "col": number % 2 + 1}
        compute = axes.log_axis(
            axes.COMPUTE if number > 1 else "", flops, axes.compute_text, pad=0.02, room=7
        )
        figure.update_xaxes(**compute, **place)
        if number:
            figure.update_xaxes(matches="x", **place)
        if panel == "loss":
            figure.update_yaxes(title_text=title, tickformat=axes.LOSS_DIGITS, **place)
            continue
        values = [value for table in tables.values() for value in _to_show(table, panel)]
        values += [value for law in laws.values() for value in _to_show(_minima(law), panel)]
        text = axes.number_text if panel == "tokens_per_param" else axes.count_text
        figure.update_yaxes(**axes.log_axis(title, values, text, room=7), **place)


def _to_show(table: pd.DataFrame, panel: str) -> list[float]:
    """Values that the axis must show: the line, and its band as far as it is near."""
    line = table[panel].astype("float64")
    low = table[f"{panel}_low"].astype("float64").clip(lower=line / WIDEST_BAND)
    high = table[f"{panel}_high"].astype("float64").clip(upper=line * WIDEST_BAND)
    return [*line, *low.dropna(), *high.dropna()]
