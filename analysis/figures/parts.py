"""Pieces that several figures are made of: panels, legend entries, bands, bars, and the words on hover."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from analysis.errors import UserError
from analysis.figures import axes, theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

BRACKETED = "bracketed"
"""Status of a budget whose minimum can be used."""
LEGEND_CHARACTER_PX = 7.5
LEGEND_SAMPLE_PX = 62
BARE_RIGHT_PX = 30
MIN_RIGHT_PX = 110
TOP_PX, PANEL_TITLE_PX = 84, 24


# ---- laws and figures


def named(laws: Any) -> dict[str, Any]:
    """One law or several as a dictionary by name, families in the order of every legend."""
    if not isinstance(laws, Mapping):
        return {laws.family or "": laws}
    if not laws:
        raise UserError("laws is empty; give at least one fitted law")
    return {name: laws[name] for name in theme.family_order(laws)}


def styles(laws: Mapping[str, Any]) -> dict[str, theme.Style]:
    """Colour and marker of every law: its family's; of laws of one family, the later ones are grey."""
    spare = [theme.Style(colour=theme.NEUTRAL, symbol=symbol) for symbol in theme.SPARE_SYMBOLS]
    found: dict[str, theme.Style] = {}
    for name, law in laws.items():
        style = theme.family_style(name if name in theme.FAMILY_STYLES else law.family)
        if style in found.values() and spare:
            style = spare.pop(0)
        found[name] = style
    return found


def panels(rows: int, columns: int, titles: Sequence[str] = ()) -> go.Figure:
    """Empty subplots; titles stand above their panels."""
    from plotly.subplots import make_subplots

    figure = make_subplots(
        rows,
        columns,
        subplot_titles=[f"<b>{title}</b>" for title in titles] or None,
        horizontal_spacing=0.12 if columns < 3 else 0.05,
        vertical_spacing=0.11 if titles else 0.09,
    )
    # a size of their own: subplot titles are annotations, and the theme makes those small
    return figure.update_annotations(font={"size": theme.FONT_PX}, yshift=4)


def add(figure: go.Figure, traces: Iterable[go.Scatter], row: int, column: int) -> None:
    for trace in traces:
        figure.add_trace(trace, row=row, col=column)


def level_line(figure: go.Figure, height: float, dash: str, column: int = 1) -> None:
    """A reference line across a panel of the first row."""
    line = {"dash": dash, "color": theme.NEUTRAL, "width": 1.2}
    # above the data: plotly.js 3 draws a line "below" under the grid, and one "between" not at all
    figure.add_hline(y=height, line=line, layer="above", row=1, col=column)


def finish(figure: go.Figure, title: str, note: str, *, height: int, legend: str = "") -> go.Figure:
    """Title, subtitle, size, room for the legend, and the light theme."""
    names = [trace.name for trace in figure.data if trace.showlegend is not False and trace.name]
    longest = max((len(name) for name in [*names, legend]), default=0)
    titled_panels = any(note.yref == "paper" for note in figure.layout.annotations)
    right = max(LEGEND_SAMPLE_PX + LEGEND_CHARACTER_PX * longest, MIN_RIGHT_PX) if names else BARE_RIGHT_PX
    figure.update_layout(
        title={"text": title, "subtitle": {"text": note}},
        height=height,
        margin={"r": round(right), "t": TOP_PX + (PANEL_TITLE_PX if titled_panels else 0)},
        legend={"title": {"text": legend}},
        showlegend=bool(names),
    )
    return theme.set_theme(figure, "light")


# ---- traces


def line_entry(name: str, style: theme.Style) -> go.Scatter:
    """A trace without points that stands in the legend for all traces of its group."""
    import plotly.graph_objects as go

    return go.Scatter(
        x=[None],
        y=[None],
        mode="lines+markers",
        line={"color": style.colour, "width": 2.2},
        marker=marker(style.colour, style.symbol, 9),
        name=name,
        legendgroup=name,
    )


def point_entry(name: str, colour: str) -> go.Scatter:
    """As `line_entry`, with a point alone."""
    import plotly.graph_objects as go

    return go.Scatter(
        x=[None], y=[None], mode="markers", marker=marker(colour, "circle", 9), name=name, legendgroup=name
    )


def once(trace: go.Scatter, in_legend: set[str]) -> go.Scatter:
    """The trace, shown in the legend only if it is the first of its group there."""
    trace.showlegend = trace.legendgroup not in in_legend
    in_legend.add(trace.legendgroup)
    return trace


def marker(colour: str, symbol: str | list[str], size: float) -> dict[str, Any]:
    # the outline in the same colour: hollow markers are drawn by it, and Plotly's own is dark grey
    return {"color": colour, "symbol": symbol, "size": size, "line": {"width": 1.2, "color": colour}}


def band(part: pd.DataFrame, name: str, colour: str) -> go.Scatter:
    """The area between `name`_low and `name`_high over flops, as one closed outline."""
    import plotly.graph_objects as go

    low, high = (part[f"{name}_{end}"].astype("float64").tolist() for end in ("low", "high"))
    flops = part["flops"].tolist()
    return go.Scatter(
        x=flops + flops[::-1],
        y=high + low[::-1],
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=colour,
        hoverinfo="skip",
    )


def bars(
    values: Iterable[Any],
    low: Iterable[Any],
    high: Iterable[Any],
    colour: str,
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> dict[str, Any]:
    """Error bars from interval ends; a missing end gives no bar, one beyond `limits` is cut there."""
    below = [_length(value, end, limits) for value, end in zip(values, low, strict=True)]
    above = [_length(value, end, limits) for value, end in zip(values, high, strict=True)]
    return {
        "type": "data",
        "symmetric": False,
        "array": above,
        "arrayminus": below,
        "color": colour,
        "thickness": 1.5,
        "width": 4,
    }


def _length(value: Any, end: Any, limits: tuple[float, float]) -> float | None:
    return None if axes.is_missing(end) else abs(min(max(float(end), limits[0]), limits[1]) - float(value))


# ---- words


def safe(text: object) -> str:
    """Text of a user's (a run's name, a reason) as Plotly shows it literally: it reads some HTML."""
    return html.escape(str(text), quote=False)


def titled(title: str, family: str) -> str:
    return f"{title}: {safe(family)}" if family else title


def with_labels(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with a column label: size, seed where there are several, and the start of the key."""
    several = "seed" in runs.columns and runs["seed"].nunique() > 1
    labels = []
    for row in runs.to_dict(orient="records"):
        words = [str(row["size"])] if not axes.is_missing(row.get("size")) else []
        words += [f"seed {row['seed']}"] if several else []
        words += [str(row["key"])[:8]] if not axes.is_missing(row.get("key")) else []
        labels.append(" ".join(words))
    return runs.assign(label=labels)


def run_text(run: Mapping[str, Any], flops: float) -> str:
    """What the pointer shows of a run."""
    lines = [f"<b>{safe(run['label'])}</b>"] if run["label"] else []
    loss = f"loss {run['loss']:.4f} nats per token"
    if not axes.is_missing(run.get("loss_se")):
        loss += f" (standard error {axes.number_text(run['loss_se'], 2)})"
    ratio = axes.number_text(run["tokens"] / run["params"])
    lines += [
        loss,
        f"{axes.count_text(run['params'])} parameters, {axes.count_text(run['tokens'])} tokens",
        f"{ratio} tokens per parameter",
        f"{axes.flops_text(flops)} FLOPs",
    ]
    return "<br>".join(lines)


def optimum_text(head: str, row: Mapping[str, Any], level: float) -> str:
    """What the pointer shows of a minimum or of a point of a frontier."""
    texts = {
        "loss": ("loss", lambda value: f"{value:.4f}"),
        "params": ("parameters", axes.count_text),
        "tokens": ("tokens", axes.count_text),
        "tokens_per_param": ("tokens per parameter", axes.number_text),
    }
    lines = [f"<b>{safe(head)}</b> at {axes.flops_text(row['flops'])} FLOPs".strip()]
    for name, (word, text) in texts.items():
        if axes.is_missing(row.get(name)):
            continue
        number = axes.interval_text(row[name], row.get(f"{name}_low"), row.get(f"{name}_high"), text)
        lines.append(f"{word} {number}")
    if not axes.is_missing(row.get("loss_low")):
        lines.append(f"<i>brackets: {level:.0%} interval</i>")
    return "<br>".join(lines)
