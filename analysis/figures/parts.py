"""Pieces that several figures are made of: panels, legend entries, bands, intervals, labels, words on hover.

`scatter` makes every trace, and puts on it what it belongs to (see `analysis.figures`).
"""

from __future__ import annotations

import hashlib
import html
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import TYPE_CHECKING, Any

from analysis.errors import UserError
from analysis.figures import theme
from analysis.text import count_text, flops_text, interval_text, is_missing, number_text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from analysis.laws.result import Law

BRACKETED = "bracketed"
"""Status of a budget whose minimum can be used."""
LEGEND_CHARACTER_PX, LEGEND_SAMPLE_PX = 7.5, 62
BARE_RIGHT_PX, MIN_RIGHT_PX = 30, 110
TOP_PX, CAPTION_LINE_PX, PANEL_TITLE_PX, BOTTOM_PX = 62, 19, 26, 64
WIDTH_PX, GAP_PX = 1000, 48
CAPTION_CHARACTERS = 125
FAR = 1e3
LABEL_PX, LABEL_CHARACTER_PX = 15, 6.6
ORDER = ("legend", "band", "reference", "interval", "line", "points", "minimum")
"""What is drawn first is underneath: bands of all families lie below the lines of all."""


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
    styles: dict[str, theme.Style] = {}
    for name, law in laws.items():
        style = theme.family_style(name if name in theme.FAMILY_STYLES else law.family)
        if style in styles.values() and spare:
            style = spare.pop(0)
        styles[name] = style
    return styles


def by_budget(law: Law, budgets: Iterable[float] | None = None) -> pd.DataFrame:
    """The runs of a law with near, the nearest of `budgets` (by default the law's), and at: that budget if it
    is about what the run spent, else the run's own FLOPs."""
    import numpy as np

    typed = "budget" in law.runs.columns and law.runs["budget"].notna().all()
    spent = law.runs["budget" if typed else "flops"].to_numpy(dtype=np.float64)
    known = np.array(list(budgets or law.budget_flops), dtype=np.float64)
    distance = np.abs(np.log(spent[:, None] / known))
    nearest = known[distance.argmin(axis=1)]
    return law.runs.assign(at=np.where(distance.min(axis=1) < 0.2, nearest, spent), near=nearest)


def budgets_of(laws: Iterable[Law]) -> set[float]:
    """The budgets of all laws; of a law whose runs have none (each spent what it spent) there are none."""
    budgets: set[float] = set()
    for law in laws:
        runs = by_budget(law)
        budgets |= set(law.budget_flops) if (runs["at"] == runs["near"]).mean() > 0.9 else set()
    return budgets


def best_runs(law: Law) -> pd.DataFrame:
    """The run with the lowest loss of every budget, with tokens_per_param."""
    runs = by_budget(law).reset_index(drop=True)
    best = with_labels(runs.loc[runs.groupby("near")["loss"].idxmin()])
    return best.assign(tokens_per_param=best["tokens"] / best["params"])


def panels(rows: int, columns: int, *, row_px: int, titles: Sequence[tuple[str, str]] = (),
           apart: float = 0.12) -> go.Figure:  # fmt: skip
    """Empty subplots, each `row_px` high; `titles` are (text, name) of each panel, above it at the left."""
    from plotly.subplots import make_subplots

    gap = GAP_PX + (PANEL_TITLE_PX if titles else 0)
    height = rows * row_px + (rows - 1) * gap
    count = len(titles) or rows * columns
    places = [[row * columns + column for column in range(columns)] for row in range(rows)]
    figure = make_subplots(
        rows, columns, specs=[[{} if place < count else None for place in row] for row in places],
        horizontal_spacing=apart, vertical_spacing=gap / height,
    )  # fmt: skip
    for number, (text, name) in enumerate(titles, start=1):
        place = str(number) if number > 1 else ""
        figure.add_annotation(
            text=text, name=name or None, x=0, xref=f"x{place} domain", xanchor="left", y=1, yshift=4,
            yref=f"y{place} domain", yanchor="bottom", font={"size": theme.FONT_PX},
        )  # fmt: skip
    return figure.update_layout(height=height, margin={"t": PANEL_TITLE_PX if titles else 0})


def add(figure: go.Figure, traces: Iterable[go.Scatter], row: int = 1, column: int = 1) -> None:
    """All traces of one panel, in the order of `ORDER`."""
    for trace in sorted(traces, key=lambda trace: ORDER.index(trace.meta["role"])):
        figure.add_trace(trace, row=row, col=column)


def level_line(figure: go.Figure, height: float, dash: str, column: int = 1) -> None:
    """A reference line across a panel of the first row."""
    line = {"dash": dash, "color": theme.NEUTRAL, "width": 1.2}
    # above the data: plotly.js 3 draws a line "below" under the grid, and one "between" not at all
    figure.add_hline(y=height, line=line, layer="above", row=1, col=column)


def finish(
    figure: go.Figure, name: str, title: str, caption: str, provenance: str, *, legend: str = ""
) -> go.Figure:
    """Title, caption, provenance, room for both and for the legend, and the light theme.

    Until here the height of the figure is that of its panels, and its top margin that of their titles.
    """
    names = [trace.name for trace in figure.data if trace.showlegend is not False and trace.name]
    longest = max((len(name) for name in [*names, legend]), default=0)
    right = max(LEGEND_SAMPLE_PX + LEGEND_CHARACTER_PX * longest, MIN_RIGHT_PX) if names else BARE_RIGHT_PX
    lines = textwrap.wrap(caption, CAPTION_CHARACTERS) or [""]
    top = TOP_PX + CAPTION_LINE_PX * len(lines) + figure.layout.margin.t
    figure.update_layout(
        title={"text": title, "subtitle": {"text": "<br>".join(lines)}},
        meta={"name": name, "caption": html.unescape(caption), "provenance": provenance},
        height=figure.layout.height + top + BOTTOM_PX,
        margin={"r": round(right), "t": top, "b": BOTTOM_PX},
        legend={"title": {"text": legend}},
        showlegend=bool(names),
    )
    return theme.set_theme(figure, "light")


def law_provenance(laws: Iterable[Law]) -> str:
    """The runs behind a figure of laws: how many, which sweep or source, the hash of the data of each."""
    data: dict[str, Any] = {}
    for law in laws:
        data[law.sha256[:8]] = law
    hashes = ", ".join(sha + (f" ({law.family})" if law.family else "") for sha, law in data.items())
    return run_provenance([law.runs for law in data.values()], hashes)


def run_provenance(tables: Sequence[pd.DataFrame], hashes: str = "", what: str = "runs") -> str:
    """As `law_provenance`, from the tables of runs alone."""
    origins = {str(name) for runs in tables if "sweep" in runs for name in runs["sweep"].dropna().unique()}
    origins = {f"sweep {name}" for name in origins} or {
        str(runs.attrs.get("source") or "") for runs in tables
    }
    if not hashes:
        digest = hashlib.sha256()
        for runs in tables:
            digest.update(runs.select_dtypes("number").to_csv(index=False).encode())
        hashes = digest.hexdigest()[:8]
    words = [f"{sum(map(len, tables))} {what}", *sorted(origins - {""}), f"data {hashes}"]
    return program_provenance("; ".join(words))


def program_provenance(runs: str) -> str:
    """`runs`, a sentence on what is drawn, with the version that draws it and the date."""
    return f"{runs}; scaling {metadata.version('scaling')}; {datetime.now(UTC):%Y-%m-%d}"


# ---- traces


def scatter(
    role: str,
    x: Any,
    y: Any,
    *,
    family: str | None = None,
    budget: float | None = None,
    group: str = "",
    keys: pd.DataFrame | None = None,
    text: Sequence[str] | None = None,
    **rest: Any,
) -> go.Scatter:
    """A trace that says what it belongs to. `group` is the legend's name of it: by default the family, or
    the budget; `keys` are the runs of its points; `text` is shown on hover."""
    import plotly.graph_objects as go

    group = group or (safe(family) if family else flops_text(budget) if budget else "")
    meta: dict[str, Any] = {"family": family or None, "budget": budget, "role": role}
    if role == "points":
        meta["keys"] = [] if keys is None or "key" not in keys else [str(key) for key in keys["key"]]
        rest["customdata"] = meta["keys"] or None
    hover = {"hoverinfo": "skip"} if text is None else {"hoverinfo": "text", "hovertext": list(text)}
    return go.Scatter(
        x=list(x), y=list(y), name=group or None, legendgroup=group or None, meta=meta,
        showlegend=role == "legend", **hover | rest,
    )  # fmt: skip


def entry(
    style: theme.Style,
    *,
    lines: bool,
    family: str | None = None,
    budget: float | None = None,
    group: str = "",
) -> go.Scatter:
    """A trace without data that stands in the legend for all traces of its group."""
    shown: dict[str, Any] = {"line": {"color": style.colour, "width": 2.2}} if lines else {}
    return scatter(
        "legend", [None], [None], family=family, budget=budget, group=group,
        mode="lines+markers" if lines else "markers", marker=marker(style.colour, style.symbol, 9), **shown,
    )  # fmt: skip


def budget_entries(
    budgets: Sequence[float], symbol: str = "circle"
) -> tuple[dict[float, str], list[go.Scatter]]:
    """Colours of the budgets, and an entry of the legend for each."""
    colours = dict(zip(budgets, theme.budget_colours(len(budgets)), strict=True))
    made = [(budget, theme.Style(colour=colour, symbol=symbol)) for budget, colour in colours.items()]
    return colours, [entry(style, lines=False, budget=float(budget)) for budget, style in made]


def marker(colour: str, symbol: str | list[str], size: float) -> dict[str, Any]:
    # triangles look smaller than squares; the outline is what hollow markers are drawn by
    size *= 1.25 if "triangle" in "".join(symbol[:8] if isinstance(symbol, str) else symbol[:1]) else 1.0
    return {"color": colour, "symbol": symbol, "size": size, "line": {"width": 1.2, "color": colour}}


def hollow(symbol: str, which: Iterable[bool]) -> list[str]:
    """The marker of every point; those `which` says are drawn hollow."""
    return [symbol + "-open" if each else symbol for each in which]


def band(
    x: Any, low: Any, high: Any, limits: tuple[float, float], colour: str, **tags: Any
) -> list[go.Scatter]:
    """The area between low and high over x as one closed outline; no trace where there are no intervals.

    An open end is cut far outside `limits`, those of the axis.
    """
    rows = [row for row in zip(x, low, high, strict=True) if not any(is_missing(value) for value in row)]
    if not rows:
        return []
    places, bottom, top = (list(map(float, column)) for column in zip(*rows, strict=True))
    outline = [min(value, limits[1] * FAR) for value in top] + [max(v, limits[0] / FAR) for v in bottom[::-1]]
    return [
        scatter(
            "band", places + places[::-1], outline, mode="lines", line={"width": 0}, fill="toself",
            fillcolor=theme.see_through(colour, 0.14), **tags,
        )
    ]  # fmt: skip


def intervals(
    along: str, x: Any, y: Any, low: Any, high: Any, limits: tuple[float, float], colour: str, **tags: Any
) -> list[go.Scatter]:
    """Thin lines from low to high along "x" or "y"; one that leaves `limits` ends there in an arrow."""
    arrows = ("triangle-left", "triangle-right") if along == "x" else ("triangle-down", "triangle-up")
    places: list[tuple[float | None, float | None, int, str]] = []
    for at_x, at_y, *ends in zip(x, y, low, high, strict=True):
        if any(is_missing(end) for end in ends):
            continue
        for end, limit, outside, arrow in zip(
            ends, limits, (float(ends[0]) < limits[0], float(ends[1]) > limits[1]), arrows, strict=True
        ):
            shown = limit if outside else float(end)
            size = 8 if outside else 0
            places.append((shown, at_y, size, arrow) if along == "x" else (at_x, shown, size, arrow))
        places.append((None, None, 0, "circle"))
    if not places:
        return []
    xs, ys, sizes, symbols = (list(column) for column in zip(*places, strict=True))
    arrow_heads = {"color": colour, "size": sizes, "symbol": symbols, "line": {"width": 0}}
    line = {"color": colour, "width": 1.1}
    return [scatter("interval", xs, ys, mode="lines+markers", line=line, marker=arrow_heads, **tags)]


# ---- labels


def marked(style: theme.Style, text: str) -> str:
    """The text in the text colour, after its mark in the colour of data: small text needs more contrast."""
    return f'<span style="color:{style.colour}">{theme.GLYPHS[style.symbol]}</span> {text}'


def belongs(family: str | None = None, budget: float | None = None) -> str | None:
    """Name of an annotation or a shape, see `analysis.figures`."""
    return f"family:{family}" if family else f"budget:{float(budget)!r}" if budget else None


def label_ends(
    figure: go.Figure,
    panel: int,
    ends: Sequence[tuple[str, str | None, float, float]],
    limits: tuple[Sequence[float], Sequence[float]],
    size_px: tuple[float, float],
) -> None:
    """Names at the ends of lines, moved apart where they would touch.

    ends: (text, name of the annotation, x, y), x and y and `limits` as Plotly wants annotations: logs on a
    logarithmic axis. size_px: width and height of the panel.
    """
    (left, right), (bottom, top) = limits
    width_px, height_px = size_px
    place = str(panel) if panel > 1 else ""
    shown = [end for end in ends if not is_missing(end[3]) and min(left, right) <= end[2] <= max(left, right)]
    shown.sort(key=lambda end: end[3])
    xs = [(x - left) / (right - left) * width_px for _, _, x, _ in shown]
    ys = [(min(max(y, bottom), top) - bottom) / (top - bottom) * height_px for *_, y in shown]
    widths = [LABEL_CHARACTER_PX * len(text.rsplit("</span>", 1)[-1]) + 16 for text, *_ in shown]
    # from the lowest up, each above those it would touch; then from the highest down, back into the panel
    for order, sign, edge in ((range(len(ys)), 1, -math.inf), (reversed(range(len(ys))), -1, 4 - height_px)):
        placed: list[int] = []
        for i in order:
            beside = [k for k in placed if xs[i] < xs[k] + widths[k] and xs[k] < xs[i] + widths[i]]
            ys[i] = sign * max([sign * ys[i], edge, *(sign * ys[k] + LABEL_PX for k in beside)])
            placed.append(i)
    # all at once: plotly checks every annotation there is again for each that is added
    figure.layout.annotations += tuple(
        {
            "text": text, "name": name, "x": x, "xref": f"x{place}", "yref": f"y{place}", "xshift": 6,
            "y": bottom + y / height_px * (top - bottom), "xanchor": "left", "yanchor": "middle",
        }
        for (text, name, x, _), y in zip(shown, ys, strict=True)
    )  # fmt: skip


def corner_notes(
    figure: go.Figure, panel: int, notes: Sequence[tuple[str, str | None]], *, right: bool = False
) -> None:
    """Lines of small text (text, name of the annotation) in the upper left or right corner of a panel."""
    place = str(panel) if panel > 1 else ""
    longest = max((len(text.rsplit("</span>", 1)[-1]) for text, _ in notes), default=0)
    for number, (text, name) in enumerate(notes):
        figure.add_annotation(
            text=text, name=name, x=float(right), xref=f"x{place} domain", xanchor="left", y=1.0,
            xshift=-LABEL_CHARACTER_PX * longest - 14 if right else 6, yref=f"y{place} domain", yanchor="top",
            yshift=-4 - LABEL_PX * number, font={"size": theme.FONT_PX - 3},
        )  # fmt: skip


def power_laws(law: Law, panel: str) -> str:
    """The frontier as a formula of compute C ("N* = 0.09 C^0.49"), or "" where it is no power law."""
    import numpy as np

    low, high = law.flops_range
    high = high if high > low else 10 * low
    if panel == "loss":
        E, K, c = (float(values[0]) for values in (law.curve.E, np.exp(law.curve.log_K), law.curve.c))
        floor = f"{number_text(E)} + " if E > 0 else ""
        return f"L* = {floor}{number_text(K)} C^{-c:.3f}"
    flops = np.geomspace(low, high, 3)
    logs = np.log(law.frontier(flops)[panel].to_numpy(dtype=np.float64))
    slopes = np.diff(logs) / np.diff(np.log(flops))
    if not np.isfinite(slopes).all() or abs(slopes[1] - slopes[0]) > 1e-6:
        return ""
    symbol = {"params": "N*", "tokens": "D*", "tokens_per_param": "D*/N*"}[panel]
    factor = math.exp(logs[0] - slopes[0] * math.log(low))
    return f"{symbol} = {number_text(factor)} C^{slopes[0]:.2f}"


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
    named = runs[[name for name in ("size", "seed", "key") if name in runs.columns]]
    for row in named.to_dict(orient="records") if named.columns.size else [{}] * len(runs):
        words = [str(row["size"])] if not is_missing(row.get("size")) else []
        words += [f"seed {row['seed']}"] if several else []
        words += [str(row["key"])[:8]] if not is_missing(row.get("key")) else []
        labels.append(" ".join(words))
    return runs.assign(label=labels)


def run_texts(runs: pd.DataFrame, flops: float | None = None) -> list[str]:
    """What the pointer shows of each run; flops: by default what each spent."""
    names = [n for n in ("label", "loss", "loss_se", "params", "tokens", "flops") if n in runs.columns]
    rows = runs[names].to_dict(orient="records")
    return [run_text(row, row["flops"] if flops is None else flops) for row in rows]


def run_text(run: Mapping[str, Any], flops: float) -> str:
    """What the pointer shows of a run."""
    lines = [f"<b>{safe(run['label'])}</b>"] if run["label"] else []
    loss = f"loss {run['loss']:.4f} nats per token"
    if not is_missing(run.get("loss_se")):
        loss += f" (standard error {number_text(run['loss_se'], 2)})"
    ratio = number_text(run["tokens"] / run["params"])
    lines += [
        loss,
        f"{count_text(run['params'])} parameters, {count_text(run['tokens'])} tokens",
        f"{ratio} tokens per parameter",
        f"{flops_text(flops)} FLOPs",
    ]
    return "<br>".join(lines)


def optimum_text(head: str, row: Mapping[str, Any], level: float) -> str:
    """What the pointer shows of a minimum or of a point of a frontier."""
    texts = {
        "loss": ("loss", lambda value: f"{value:.4f}"),
        "params": ("parameters", count_text),
        "tokens": ("tokens", count_text),
        "tokens_per_param": ("tokens per parameter", number_text),
    }
    lines = [f"<b>{safe(head)}</b> at {flops_text(row['flops'])} FLOPs".strip()]
    for name, (word, text) in texts.items():
        if is_missing(row.get(name)):
            continue
        number = interval_text(row[name], row.get(f"{name}_low"), row.get(f"{name}_high"), text)
        lines.append(f"{word} {number}")
    if not is_missing(row.get("loss_low")):
        lines.append(f"<i>brackets: {level:.0%} interval</i>")
    return "<br>".join(lines)
