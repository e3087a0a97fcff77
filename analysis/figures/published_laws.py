"""A fitted law beside published ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.figures import axes, parts, theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from analysis.published.beside import Beside

PANELS = {
    "loss": axes.LOSS,
    "params": "Parameters",
    "tokens": axes.TOKENS,
    "tokens_per_param": axes.TOKENS_PER_PARAM,
}
POINTS = 40
WIDEST_BAND = 10.0
"""A band further than this factor from its line does not stretch the axis."""
DASHES = ("dash", "dot", "dashdot")


def against_table(beside: Beside) -> pd.DataFrame:
    """What `against` shows: the frontiers of `beside.table` over a fine grid of the same budgets."""
    import numpy as np
    import pandas as pd

    from analysis.published.beside import against as compare

    flops = beside.table["flops"]
    names = beside.published["name"].tolist()
    grid = np.geomspace(flops.min(), flops.max(), POINTS) if flops.nunique() > 1 else flops.unique()
    parts_of = [compare(beside.law, name, flops=grid, withdrawn=True).table for name in names]
    rest = [table[table["law"].isin(names)] for table in parts_of]
    return pd.concat([parts_of[0][~parts_of[0]["law"].isin(names)], *rest], ignore_index=True)


def against(beside: Beside) -> go.Figure:
    """Loss, size, tokens and tokens per parameter of the best run at every budget.

    The law with its band is in the colour of its family, published laws are grey, each with its own dashes.
    Panels that a law says nothing about lack its line.
    """
    table = against_table(beside)
    names = list(dict.fromkeys(table["law"]))
    own = theme.family_style(beside.law.family)
    figure = parts.panels(2, 2)
    for number, (panel, title) in enumerate(PANELS.items()):
        place = {"row": number // 2 + 1, "col": number % 2 + 1}
        for order, name in enumerate(names):
            part = table[(table["law"] == name) & table[panel].notna()]
            parts.add(
                figure, _traces(part, panel, name, order, own, beside.law.level), place["row"], place["col"]
            )
        compute = axes.log_axis(axes.COMPUTE if number > 1 else "", table["flops"], axes.compute_text, room=7)
        figure.update_xaxes(**compute, **place)
        if panel == "loss":
            figure.update_yaxes(title_text=title, tickformat=axes.LOSS_DIGITS, **place)
        else:
            text = axes.number_text if panel == "tokens_per_param" else axes.count_text
            figure.update_yaxes(**axes.log_axis(title, _to_show(table, panel), text, room=7), **place)
    for order, name in enumerate(names):
        parts.add(figure, [_entry(name, order, own)], 1, 1)
    note = "Losses compare on equal text and tokenizer alone; sizes and tokens as each law counts them"
    title = parts.titled("Beside published laws", beside.law.family or "")
    return parts.finish(figure, title, note, height=780)


def _to_show(table: pd.DataFrame, panel: str) -> list[float]:
    """The lines, and the band as far as it is near."""
    known = table[table[panel].notna()]
    line = known[panel].astype("float64")
    ends = [known[f"{panel}_{end}"].astype("float64").fillna(line) for end in ("low", "high")]
    return [*line, *ends[0].clip(lower=line / WIDEST_BAND), *ends[1].clip(upper=line * WIDEST_BAND)]


def _line(order: int, own: theme.Style) -> dict[str, object]:
    if order == 0:
        return {"color": own.colour, "width": 2.6, "dash": "solid"}
    return {"color": theme.NEUTRAL, "width": 1.8, "dash": DASHES[(order - 1) % len(DASHES)]}


def _entry(name: str, order: int, own: theme.Style) -> go.Scatter:
    import plotly.graph_objects as go

    return go.Scatter(
        x=[None], y=[None], mode="lines", line=_line(order, own), name=parts.safe(name), legendgroup=name
    )


def _traces(
    part: pd.DataFrame, panel: str, name: str, order: int, own: theme.Style, level: float
) -> list[go.Scatter]:
    import plotly.graph_objects as go

    traces = []
    if part[f"{panel}_low"].notna().any():
        traces.append(parts.band(part, panel, theme.see_through(own.colour, 0.16)))
    rows = part.to_dict(orient="records")
    traces.append(
        go.Scatter(
            x=part["flops"].tolist(),
            y=part[panel].astype("float64").tolist(),
            mode="lines",
            line=_line(order, own),
            hoverinfo="text",
            hovertext=[parts.optimum_text(name, row, level) for row in rows],
        )
    )
    for trace in traces:
        trace.update(name=parts.safe(name), legendgroup=name, showlegend=False)
    return traces
