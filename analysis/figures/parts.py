"""Pieces that several figures are made of: panels, legends, bands, intervals, labels, words on hover.

`tags` writes on a trace what it belongs to (see `analysis.figures`); `scatter` makes a trace with them.
Panels are numbered from 1, row by row.
"""

from __future__ import annotations

import hashlib
import html
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
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
LABEL_PX, LABEL_CHARACTER_PX, MARK_PX = 15, 6.6, 16
SMALL = {"size": theme.FONT_PX - 3}
ORDER = ("legend", "band", "reference", "interval", "line", "points", "minimum")
"""What is drawn first is underneath: bands of all families lie below the lines of all."""


# ---- laws and their runs


def laws_by_name(laws: Any) -> dict[str, Any]:
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
        styles[name] = spare.pop(0) if style in styles.values() and spare else style
    return styles


def by_budget(law: Law, budgets: Iterable[float] = ()) -> pd.DataFrame:
    """The runs of a law with near, the nearest of `budgets` (by default the law's); and at: that
    budget if it is about what the run spent, else the run's own FLOPs."""
    import numpy as np

    has_budgets = "budget" in law.runs.columns and law.runs["budget"].notna().all()
    spent = law.runs["budget" if has_budgets else "flops"].to_numpy(dtype=np.float64)
    choices = np.array(list(budgets) or law.budget_flops, dtype=np.float64)
    distance = np.abs(np.log(spent[:, None] / choices))
    near = choices[distance.argmin(axis=1)]
    return law.runs.assign(at=np.where(distance.min(axis=1) < 0.2, near, spent), near=near)


def budgets_of(laws: Iterable[Law]) -> set[float]:
    """The budgets of all laws; of a law whose runs have none (each spent what it spent) there are none."""
    budgets: set[float] = set()
    for law in laws:
        runs = by_budget(law)
        budgets |= set(law.budget_flops) if (runs["at"] == runs["near"]).mean() > 0.9 else set()
    return budgets


def best_runs(law: Law) -> pd.DataFrame:
    """The run with the lowest loss of every budget, with tokens_per_param."""
    runs = with_labels(by_budget(law)).reset_index(drop=True)
    best = runs.loc[runs.groupby("near")["loss"].idxmin()]
    return best.assign(tokens_per_param=best["tokens"] / best["params"])


# ---- figures


def panels(
    count: int, columns: int, *, row_px: int, titles: Sequence[tuple[str, str]] = (), apart: float = 0.12
) -> go.Figure:
    """Empty subplots, each `row_px` high; `titles` are (text, owner) of each panel, above it at the left."""
    from plotly.subplots import make_subplots

    rows = -(-count // columns)
    gap = GAP_PX + (PANEL_TITLE_PX if titles else 0)
    height = rows * row_px + (rows - 1) * gap
    cells: list[Any] = [{}] * count + [None] * (rows * columns - count)
    specs = [cells[row * columns :][:columns] for row in range(rows)]
    spacing = {"horizontal_spacing": apart, "vertical_spacing": gap / height}
    figure = make_subplots(rows, columns, specs=specs, **spacing)
    style = {"xanchor": "left", "yanchor": "bottom", "yshift": 4, "font": {"size": theme.FONT_PX}}
    _add_notes(figure, [
        _note(panel, text, 0, 1, owner, domain="xy", **style)
        for panel, (text, owner) in enumerate(titles, start=1)
    ])  # fmt: skip
    return figure.update_layout(height=height, margin={"t": PANEL_TITLE_PX if titles else 0})


def family_title(name: str, family: str | None) -> tuple[str, str]:
    """Title and owner of the panel of a family."""
    return marked(theme.family_style(family), f"<b>{safe(name)}</b>"), f"family:{name}"


def add(
    figure: go.Figure, traces: Iterable[go.Scatter], panel: int = 1, *, x: Mapping[str, Any] | None = None,
    y: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """All traces of one panel, in the order of `ORDER`, and the settings of its axes."""
    for trace in sorted(traces, key=lambda trace: ORDER.index(trace.meta["role"])):
        figure.add_trace(trace.update(xaxis=_axis("x", panel), yaxis=_axis("y", panel)))
    for side, settings in (("xaxis", x), ("yaxis", y)):
        figure.layout[_axis(side, panel)].update(settings or {})


def _axis(side: str, panel: int) -> str:
    return f"{side}{panel}" if panel > 1 else side


def note(figure: go.Figure, panel: int, *place: Any, **style: Any) -> None:
    """Add a small text, see `_note`."""
    _add_notes(figure, [_note(panel, *place, **style)])


def _note(
    panel: int, text: str, x: float, y: float, owner: str | None = None, *, domain: str = "", **style: Any
) -> dict[str, Any]:
    """A small text; `domain` names the sides ("x", "y", "xy") whose place is a share of the panel.

    On a logarithmic axis Plotly wants the exponent of ten.
    """
    refs = {f"{side}ref": _axis(side, panel) + (" domain" if side in domain else "") for side in "xy"}
    return {"text": text, "name": owner, "x": x, "y": y, **refs, **style}


def _add_notes(figure: go.Figure, notes: Sequence[Mapping[str, Any]]) -> None:
    """All at once: with every change Plotly checks those again that are there."""
    figure.layout.annotations = [*figure.layout.annotations, *notes]


def level_line(figure: go.Figure, height: float, dash: str, panel: int = 1) -> None:
    """A reference line across a panel."""
    # above the data: plotly.js 3 draws a line "below" under the grid, and one "between" not at all
    figure.add_shape(
        type="line", x0=0, x1=1, xref=f"{_axis('x', panel)} domain", y0=height, y1=height,
        yref=_axis("y", panel), line={"dash": dash, "color": theme.NEUTRAL, "width": 1.2}, layer="above",
    )  # fmt: skip


def finish(
    figure: go.Figure, name: str, title: str, caption: str, provenance: str, *, of: str | None = None,
    legend: str = "",
) -> go.Figure:  # fmt: skip
    """Title, caption, provenance, room for both and for the legend, and the light theme.

    `of` is the one family of the figure, `provenance` says what data it shows; version and date follow.
    Until here the height of the figure is that of its panels, and its top margin that of their titles.
    """
    names = [trace.name for trace in figure.data if trace.showlegend is not False and trace.name]
    longest = max((len(name) for name in [*names, legend]), default=0)
    right = max(LEGEND_SAMPLE_PX + LEGEND_CHARACTER_PX * longest, MIN_RIGHT_PX) if names else BARE_RIGHT_PX
    lines = textwrap.wrap(caption, CAPTION_CHARACTERS) or [""]
    top = TOP_PX + CAPTION_LINE_PX * len(lines) + figure.layout.margin.t
    provenance = f"{provenance}; scaling {metadata.version('scaling')}; {datetime.now(UTC):%Y-%m-%d}"
    figure.update_layout(
        title={"text": f"{title}: {safe(of)}" if of else title, "subtitle": {"text": "<br>".join(lines)}},
        meta={"name": name, "caption": html.unescape(caption), "provenance": provenance},
        height=figure.layout.height + top + BOTTOM_PX, margin={"r": round(right), "t": top, "b": BOTTOM_PX},
        legend={"title": {"text": legend}}, showlegend=bool(names),
    )  # fmt: skip
    return theme.set_theme(figure, "light")


def law_provenance(laws: Iterable[Law]) -> str:
    """The runs behind a figure of laws: how many, which sweep or source, the hash of the data of each."""
    data = {law.sha256[:8]: law for law in laws}
    hashes = ", ".join(sha + (f" ({law.family})" if law.family else "") for sha, law in data.items())
    return run_provenance([law.runs for law in data.values()], hashes)


def run_provenance(tables: Sequence[pd.DataFrame], hashes: str = "", what: str = "runs") -> str:
    """As `law_provenance`, from the tables of runs alone."""
    sweeps = {str(name) for runs in tables if "sweep" in runs for name in runs["sweep"].dropna().unique()}
    sources = {str(runs.attrs.get("source") or "") for runs in tables} - {""}
    origins = sorted(f"sweep {name}" for name in sweeps) or sorted(sources)
    if not hashes:
        digest = hashlib.sha256()
        for runs in tables:
            digest.update(runs.select_dtypes("number").to_csv(index=False).encode())
        hashes = digest.hexdigest()[:8]
    return "; ".join([f"{sum(map(len, tables))} {what}", *origins, f"data {hashes}"])


# ---- traces


def tags(
    role: str, *, family: str | None = None, budget: float | None = None, group: str = "",
    keys: pd.DataFrame | None = None, text: Sequence[str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Settings of a trace that say what it belongs to. `group` is the legend's name of it: by default the
    family, or the budget; `keys` are the runs of its points; `text` is shown on hover."""
    group = group or (safe(family) if family else flops_text(budget) if budget else "")
    meta: dict[str, Any] = {"family": family or None, "budget": budget, "role": role}
    if role == "points":
        meta["keys"] = [] if keys is None or "key" not in keys else [str(key) for key in keys["key"]]
    hover = {"hoverinfo": "skip"} if text is None else {"hoverinfo": "text", "hovertext": list(text)}
    return hover | {
        "name": group or None, "legendgroup": group or None, "meta": meta, "showlegend": role == "legend",
        "customdata": meta.get("keys") or None,
    }  # fmt: skip


Mark = tuple[str, str | list[str], float]
"""Colour, symbol (or one per point) and size of markers."""


def scatter(
    role: str, x: Any, y: Any, *, line: Mapping[str, Any] | None = None, mark: Mark | None = None,
    marker: Mapping[str, Any] | None = None, **owner: Any,
) -> go.Scatter:  # fmt: skip
    """A line if `line` is given, and markers if `mark` (or Plotly's `marker`) is; `owner` as in `tags`."""
    import plotly.graph_objects as go

    if mark is not None:
        colour, symbol, size = mark
        # triangles look smaller than squares; the outline is what hollow markers are drawn by
        size *= 1.25 if "".join(symbol).startswith("triangle") else 1.0
        marker = {"color": colour, "symbol": symbol, "size": size, "line": {"width": 1.2, "color": colour}}
    mode = "+".join(["lines"] * (line is not None) + ["markers"] * (marker is not None))
    # a column of numbers is checked as a whole, a list number by number
    x, y = (values if getattr(values, "dtype", None) == "float64" else list(values) for values in (x, y))
    return go.Scatter(x=x, y=y, mode=mode, line=line, marker=marker, **tags(role, **owner))


def run_points(
    runs: pd.DataFrame, x: str, y: str, mark: Mark, *, at: str = "flops",
    more: Callable[[Mapping[str, Any]], str] = lambda run: "", **owner: Any,
) -> go.Scatter:  # fmt: skip
    """Column `y` of runs over column `x`; the pointer shows each run, its FLOPs (column `at`), and `more`,
    which may read `y` too."""
    names = {"label", "loss", "loss_se", "params", "tokens", at, y} & set(runs.columns)
    texts = [run_text(run, run[at]) + more(run) for run in runs[sorted(names)].to_dict("records")]
    return scatter("points", runs[x], runs[y], mark=mark, keys=runs, text=texts, **owner)


def legend_entry(figure: go.Figure, style: theme.Style, *, dash: str | None = None, **owner: Any) -> None:
    """Add a trace without data that stands in the legend for all traces of its group; with a line if `dash`
    says how it is drawn."""
    line = {"color": style.colour, "width": 2.2, "dash": dash} if dash else None
    add(figure, [scatter("legend", [None], [None], line=line, mark=(style.colour, style.symbol, 9), **owner)])


def budget_legend(figure: go.Figure, budgets: Sequence[float], symbol: str = "circle") -> dict[float, str]:
    """Add an entry of the legend for each budget; returns their colours."""
    colours = dict(zip(budgets, theme.budget_colours(len(budgets)), strict=True))
    for budget, colour in colours.items():
        legend_entry(figure, theme.Style(colour=colour, symbol=symbol), budget=float(budget))
    return colours


def hollow(symbol: str, which: Iterable[bool]) -> list[str]:
    """The marker of every point; those `which` says are drawn hollow."""
    return [symbol + "-open" if each else symbol for each in which]


def band(
    x: Any, low: Any, high: Any, limits: tuple[float, float], colour: str, **owner: Any
) -> list[go.Scatter]:
    """The area between low and high over x as one closed outline; no trace if there are no intervals.

    An open end is cut far outside `limits`, those of the axis.
    """
    rows = [row for row in zip(x, low, high, strict=True) if not any(is_missing(value) for value in row)]
    if len(rows) < 2:
        return []
    places, bottom, top = (list(map(float, column)) for column in zip(*rows, strict=True))
    outline = [min(end, limits[1] * 1e3) for end in top] + [max(end, limits[0] / 1e3) for end in bottom[::-1]]
    area = scatter("band", places + places[::-1], outline, line={"width": 0}, **owner)
    return [area.update(fill="toself", fillcolor=theme.see_through(colour, 0.14))]


def intervals(
    along: str, x: Any, y: Any, low: Any, high: Any, limits: tuple[float, float], colour: str, **owner: Any
) -> list[go.Scatter]:
    """Thin lines from low to high along "x" or "y"; one that leaves `limits` ends there in an arrow."""
    arrows = ("triangle-left", "triangle-right") if along == "x" else ("triangle-down", "triangle-up")
    places: list[tuple[float | None, float | None, int, str]] = []
    for at_x, at_y, first, last in zip(x, y, low, high, strict=True):
        if is_missing(first) or is_missing(last):
            continue
        outside = (float(first) < limits[0], float(last) > limits[1])
        for end, limit, leaves, arrow in zip((first, last), limits, outside, arrows, strict=True):
            place, size = (limit, 8) if leaves else (float(end), 0)
            places.append((place, at_y, size, arrow) if along == "x" else (at_x, place, size, arrow))
        places.append((None, None, 0, "circle"))
    if not places:
        return []
    xs, ys, sizes, symbols = (list(column) for column in zip(*places, strict=True))
    heads = {"color": colour, "size": sizes, "symbol": symbols, "line": {"width": 0}}
    return [scatter("interval", xs, ys, line={"color": colour, "width": 1.1}, marker=heads, **owner)]


# ---- labels


def marked(style: theme.Style, text: str) -> str:
    """The text in the text colour, after its mark in the colour of data: small text needs more contrast."""
    return f'<span style="color:{style.colour}">{theme.GLYPHS[style.symbol]}</span> {text}'


def belongs(family: str | None = None, budget: float | None = None) -> str | None:
    """Name of an annotation or a shape, see `analysis.figures`."""
    return f"family:{family}" if family else f"budget:{float(budget)!r}" if budget else None


def _length_px(text: str) -> float:
    return LABEL_CHARACTER_PX * len(text.rsplit("</span>", 1)[-1])


def label_ends(
    figure: go.Figure, panel: int, ends: Sequence[tuple[str, str | None, float, float]],
    limits: tuple[Sequence[float], Sequence[float]], size_px: tuple[float, float],
) -> None:  # fmt: skip
    """Names at the ends of lines, moved apart if they would touch.

    ends: (text, owner, x, y), x and y and `limits` as Plotly wants annotations: logs on a logarithmic axis.
    size_px: width and height of the panel.
    """
    (left, right), (bottom, top) = limits
    width_px, height_px = size_px
    inside = [
        end for end in ends if not is_missing(end[3]) and min(left, right) <= end[2] <= max(left, right)
    ]
    inside.sort(key=lambda end: end[3])
    xs = [(x - left) / (right - left) * width_px for _, _, x, _ in inside]
    ys = [(min(max(y, bottom), top) - bottom) / (top - bottom) * height_px for *_, y in inside]
    widths = [_length_px(text) + 16 for text, *_ in inside]
    # from the lowest up, each above those it would touch; then from the highest down, back into the panel
    for order, sign, edge in ((range(len(ys)), 1, -math.inf), (reversed(range(len(ys))), -1, 4 - height_px)):
        placed: list[int] = []
        for i in order:
            beside = [k for k in placed if xs[i] < xs[k] + widths[k] and xs[k] < xs[i] + widths[i]]
            ys[i] = sign * max([sign * ys[i], edge, *(sign * ys[k] + LABEL_PX for k in beside)])
            placed.append(i)
    heights = [bottom + y / height_px * (top - bottom) for y in ys]
    _add_notes(figure, [
        _note(panel, text, x, height, owner, xanchor="left", yanchor="middle", xshift=6)
        for (text, owner, x, _), height in zip(inside, heights, strict=True)
    ])  # fmt: skip


def label_points(
    figure: go.Figure, panel: int, labels: Sequence[tuple[str, str | None, float, float]],
    marks: Sequence[tuple[float, float]], limits: tuple[Sequence[float], Sequence[float]],
    size_px: tuple[float, float],
) -> None:  # fmt: skip
    """Small text (text, owner, x, y) below a point, else above it; none where it would touch another label
    or another of the points `marks`. `limits` and `size_px` as in `label_ends`."""

    ((left, right), (bottom, top)), (width_px, height_px) = limits, size_px

    def px(x: float, y: float) -> tuple[float, float]:
        return (x - left) / (right - left) * width_px, (y - bottom) / (top - bottom) * height_px

    boxes: list[tuple[float, ...]] = [(*px(*mark), MARK_PX, MARK_PX) for mark in marks]  # centre, size
    for text, owner, x, y in labels:
        for sign, anchor in ((-1, "top"), (1, "bottom")):
            at_x, at_y = px(x, y)
            box = (at_x, at_y + sign * (MARK_PX + LABEL_PX) / 2, _length_px(text), LABEL_PX)
            if not any(all(abs(box[i] - b[i]) < (box[i + 2] + b[i + 2]) / 2 for i in (0, 1)) for b in boxes):
                note(figure, panel, text, x, y, owner, yshift=sign * MARK_PX / 2, yanchor=anchor, font=SMALL)
                boxes.append(box)
                break


def corner_notes(
    figure: go.Figure, panel: int, notes: Sequence[tuple[str, str | None]], *, right: bool = False
) -> None:
    """Lines of small text (text, owner) in the upper left or right corner of a panel."""
    shift = -max((_length_px(text) for text, _ in notes), default=0) - 14 if right else 6
    style = {"xanchor": "left", "yanchor": "top", "xshift": shift, "font": SMALL}
    _add_notes(figure, [
        _note(panel, text, float(right), 1.0, owner, domain="xy", yshift=-4 - LABEL_PX * number, **style)
        for number, (text, owner) in enumerate(notes)
    ])  # fmt: skip


# ---- words


def safe(text: object) -> str:
    """Text of a user's (a run's name, a reason) as Plotly shows it literally: it reads some HTML."""
    return html.escape(str(text), quote=False)


def with_labels(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with a column label: size, seed if there are several, and the key (the start of a hash)."""
    several = "seed" in runs.columns and runs["seed"].nunique() > 1
    labels = []
    named = runs.reindex(columns=["size", "seed", "key"])
    for row in named.to_dict("records"):
        words = [str(row["size"])] if not is_missing(row.get("size")) else []
        words += [f"seed {row['seed']}"] if several else []
        if not is_missing(key := row.get("key")):
            words.append(str(key)[:8] if re.fullmatch("[0-9a-f]{16}", str(key)) else str(key))
        labels.append(" ".join(words))
    return runs.assign(label=labels)


def run_text(run: Mapping[str, Any], flops: float) -> str:
    """What the pointer shows of a run."""
    error = run.get("loss_se")
    lines = [
        *([f"<b>{safe(run['label'])}</b>"] if run["label"] else []),
        f"loss {run['loss']:.4f} nats per token"
        + ("" if is_missing(error) else f" (standard error {number_text(error, 2)})"),
        f"{count_text(run['params'])} parameters, {count_text(run['tokens'])} tokens",
        f"{number_text(run['tokens'] / run['params'])} tokens per parameter",
        f"{flops_text(flops)} FLOPs",
    ]
    return "<br>".join(lines)


def optimum_text(head: str, row: Mapping[str, Any], level: float) -> str:
    """What the pointer shows of a minimum or of a point of a frontier."""
    forms: dict[str, Callable[[float], str]] = {
        "loss": lambda value: f"{value:.4f}", "params": count_text, "tokens": count_text,
        "tokens_per_param": number_text,
    }  # fmt: skip
    words = {"params": "parameters", "tokens_per_param": "tokens per parameter"}
    lines = [f"<b>{safe(head)}</b> at {flops_text(row['flops'])} FLOPs".strip()]
    for name, form in forms.items():
        if not is_missing(row.get(name)):
            number = interval_text(row[name], row.get(f"{name}_low"), row.get(f"{name}_high"), form)
            lines.append(f"{words.get(name, name)} {number}")
    if not is_missing(row.get("loss_low")):
        lines.append(f"<i>brackets: {level:.0%} interval</i>")
    return "<br>".join(lines)
