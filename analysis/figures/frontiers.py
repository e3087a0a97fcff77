"""The compute-optimal frontier: the best run at every budget."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analysis.figures import axes, parts, theme
from analysis.text import count_text, number_text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from analysis.laws.result import Law

EXTRAPOLATE = 10.0
"""A frontier is drawn up to this factor beyond its largest budget."""
WIDEST_BAND = 10.0
"""A band further than this factor from its line does not stretch the axis."""
PANELS = {
    "loss": axes.LOSS,
    "params": "Parameters",
    "tokens": axes.TOKENS,
    "tokens_per_param": axes.TOKENS_PER_PARAM,
}
ROW_PX = 300
LONGEST_LABEL = 12
PANEL_PX = (390.0, float(ROW_PX))


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One law in the four panels. Its table has flops, every panel with _low and _high, and extrapolated."""

    name: str
    family: str | None
    table: pd.DataFrame
    style: theme.Style
    level: float
    dash: str = "solid"
    law: Law | None = None
    """The fitted law, whose power laws stand in the panels."""
    best: pd.DataFrame | None = None
    """See `parts.best_runs`; None where another line shows them."""
    minima: pd.DataFrame | None = None


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
    intervals; beyond the measured budgets lines are dashed. Points are measured: the best run of each budget.
    Diamonds are the minima an IsoFLOP law was fitted to.
    """
    named = parts.named(laws)
    styles = parts.styles(named)
    lines, drawn = [], set()
    for name, law in named.items():
        lines.append(
            Line(
                name=name, family=law.family or name, table=frontier_table(law), style=styles[name],
                level=law.level, law=law, minima=_minima(law),
                best=None if law.sha256 in drawn else parts.best_runs(law),
            )
        )  # fmt: skip
        drawn.add(law.sha256)
    figure = draw_lines(lines, axes.params_title(law.runs for law in named.values()))
    words = ["Points: the best run of each budget."]
    if any(line.minima is not None for line in lines):
        words.append("Diamonds: minima of the IsoFLOP curves.")
    if any(line.table["loss_low"].notna().any() for line in lines):
        words.append(f"Bands: {lines[0].level:.0%} intervals.")
    words.append("Dashed: beyond the measured budgets. C: training FLOPs.")
    families = {law.family or "" for law in named.values()}
    title = parts.titled("Compute-optimal frontier", families.pop() if len(families) == 1 else "")
    return parts.finish(figure, "frontier", title, " ".join(words), parts.law_provenance(named.values()))


def draw_lines(lines: list[Line], params_title: str) -> go.Figure:
    """Four panels with the lines, bands beneath them, points, formulas, and names at the ends."""
    figure = parts.panels(2, 2, row_px=ROW_PX)
    if len(lines) > 1:
        for line in lines:
            given = parts.entry(line.style, lines=True, family=line.family, group=parts.safe(line.name))
            parts.add(figure, [given.update(line={"dash": line.dash})])
    budgets = parts.budgets_of(line.law for line in lines if line.law)
    flops = [value for line in lines for value in line.table["flops"]]
    flops += [value for line in lines if line.law for value in line.law.runs["flops"]]
    longest = max((len(line.name) for line in lines), default=0)
    labelled = longest <= LONGEST_LABEL  # longer names stand in the legend alone, beside the same mark
    label_room = 0.05 + (longest if labelled else 1) * parts.LABEL_CHARACTER_PX / PANEL_PX[0]
    for number, (panel, title) in enumerate(PANELS.items()):
        row, column = number // 2 + 1, number % 2 + 1
        room = label_room if len(lines) > 1 else 0.0
        x_axis = axes.compute_axis(axes.COMPUTE if row == 2 else "", budgets, flops, beyond=room)
        y_values = [value for line in lines for value in _to_show(line.table, panel)]
        for line in lines:
            for shown in (line.best, line.minima):
                y_values += [] if shown is None else [*shown[panel].dropna()]
        if panel == "loss":
            margin = 0.06 * (max(y_values) - min(y_values)) or 0.05
            limits = (min(y_values) - margin, max(y_values) + margin)
            y_axis: dict[str, Any] = {
                "title": {"text": title},
                "tickformat": axes.LOSS_DIGITS,
                "range": list(limits),
            }
        else:
            text = number_text if panel == "tokens_per_param" else count_text
            y_title = params_title if panel == "params" else title
            y_axis = axes.log_axis(y_title, y_values, text, room=7)
            limits = (10 ** y_axis["range"][0], 10 ** y_axis["range"][1])
        parts.add(figure, [trace for line in lines for trace in _traces(line, panel, limits)], row, column)
        figure.update_xaxes(**x_axis, row=row, col=column)
        if number:
            figure.update_xaxes(matches="x", row=row, col=column)
        figure.update_yaxes(**y_axis, row=row, col=column)
        ends, formulas = [], []
        for line in lines:
            owner = parts.belongs(line.family)
            drawn = line.table[line.table[panel].notna()]
            if len(lines) > 1 and len(drawn):
                x, y = float(drawn["flops"].iloc[-1]), float(drawn[panel].iloc[-1])
                label = parts.marked(line.style, parts.safe(line.name) if labelled else "")
                ends.append((label, owner, math.log10(x), y if panel == "loss" else math.log10(y)))
            if line.law is not None and (formula := parts.power_laws(line.law, panel)):
                formulas.append((parts.marked(line.style, formula), owner))
        parts.label_ends(figure, number + 1, ends, (x_axis["range"], y_axis["range"]), PANEL_PX)
        # where no line is: losses fall to the right, sizes and tokens rise
        if panel != "tokens_per_param":
            parts.corner_notes(figure, number + 1, formulas, right=panel == "loss")
    return figure


def _traces(line: Line, panel: str, limits: tuple[float, float]) -> list[go.Scatter]:
    """Bands and lines of one law in one panel, and what was measured or fitted first."""
    tags: dict[str, Any] = {"family": line.family, "group": parts.safe(line.name)}
    colour, table = line.style.colour, line.table[line.table[panel].notna()]
    traces = []
    for extrapolated, part in table.groupby("extrapolated"):
        ends = (part[f"{panel}_low"], part[f"{panel}_high"])
        traces += parts.band(part["flops"], *ends, limits, colour, **tags)
        texts = [parts.optimum_text(line.name, row, line.level) for row in part.to_dict(orient="records")]
        look = {"color": colour, "width": 2.2, "dash": "dash" if extrapolated else line.dash}
        traces.append(
            parts.scatter("line", part["flops"], part[panel], text=texts, mode="lines", line=look, **tags)
        )
    if line.best is not None:
        runs = line.best
        texts = [parts.run_text(run, run["at"]) for run in runs.to_dict(orient="records")]
        look = parts.marker(colour, line.style.symbol, 7)
        traces.append(
            parts.scatter(
                "points", runs["at"], runs[panel], keys=runs, text=texts, mode="markers", marker=look, **tags
            )
        )
    if line.minima is not None:
        minima = line.minima
        ends = (minima[f"{panel}_low"], minima[f"{panel}_high"])
        traces += parts.intervals("y", minima["flops"], minima[panel], *ends, limits, colour, **tags)
        rows = minima.to_dict(orient="records")
        texts = [parts.optimum_text(f"{line.name} minimum".strip(), row, line.level) for row in rows]
        look = parts.marker(colour, "diamond-open", 9)
        traces.append(
            parts.scatter(
                "minimum", minima["flops"], minima[panel], text=texts, mode="markers", marker=look, **tags
            )
        )
    return traces


def _minima(law: Law) -> pd.DataFrame | None:
    """The usable minima of an IsoFLOP law."""
    minima = getattr(law, "minima", None)
    if minima is None:
        return None
    return minima[minima["status"] == parts.BRACKETED].astype({"flops": "float64"})


def _to_show(table: pd.DataFrame, panel: str) -> Iterable[float]:
    """Values that the axis must show: the line, and its band as far as it is near."""
    table = table[table[panel].notna()]
    line = table[panel].astype("float64")
    low, high = (table[f"{panel}_{end}"].astype("float64").fillna(line) for end in ("low", "high"))
    return [*line, *low.clip(lower=line / WIDEST_BAND), *high.clip(upper=line * WIDEST_BAND)]
