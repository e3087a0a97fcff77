"""The compute-optimal frontier: the best run at every budget, of fitted laws and beside published ones."""

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
    from analysis.published.beside import Beside

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
SYMBOLS = {"params": "N*", "tokens": "D*"}
LONGEST_LABEL = 12
MOST_FORMULAS = 4
"""Formulas of more laws than this would lie on their lines; `Law.exponents` has their numbers."""
PANEL_PX = (390.0, 300.0)
POINTS = 40
DASHES = ("dash", "dot", "dashdot")


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
    """See `parts.best_runs`; None if another line shows them."""
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

    `laws` is a law, or laws by name: the family, or the method if they are laws of one family. Bands are
    intervals; beyond the measured budgets lines are dashed. Points are measured: the best run of each budget.
    Diamonds are the minima an IsoFLOP law was fitted to.
    """
    by_name = parts.laws_by_name(laws)
    lines: list[Line] = []
    for name, style in parts.styles(by_name).items():
        law, minima = by_name[name], getattr(by_name[name], "minima", None)
        if minima is not None:
            minima = minima[minima["status"] == parts.BRACKETED].astype({"flops": "float64"})
        repeated = any(line.law is not None and line.law.sha256 == law.sha256 for line in lines)
        lines.append(
            Line(
                name=name, family=law.family or name, table=frontier_table(law), style=style, level=law.level,
                law=law, minima=minima, best=None if repeated else parts.best_runs(law),
            )
        )  # fmt: skip
    figure = draw_lines(lines, axes.params_title(law.runs for law in by_name.values()))
    caption = (
        "Points: the best run of each budget. "
        + "Diamonds: minima of the IsoFLOP curves. " * any(line.minima is not None for line in lines)
        + f"Bands: {law.level:.0%} intervals. " * any(line.table["loss_low"].notna().any() for line in lines)
        + "Dashed: beyond the measured budgets."
        + " C: training FLOPs." * (len(lines) <= MOST_FORMULAS)
    )
    families = {law.family for law in by_name.values()}
    return parts.finish(
        figure, "frontier", "Compute-optimal frontier", caption, parts.law_provenance(by_name.values()),
        of=law.family if len(families) == 1 else None,
    )  # fmt: skip


def draw_lines(lines: list[Line], params_title: str) -> go.Figure:
    """Four panels with the lines, bands beneath them, points, formulas, and names at the ends."""
    figure = parts.panels(4, 2, row_px=int(PANEL_PX[1]))
    several = len(lines) > 1
    for line in lines if several else ():
        group = parts.safe(line.name)
        parts.legend_entry(figure, line.style, dash=line.dash, family=line.family, group=group)
    laws = [line.law for line in lines if line.law]
    flops = [value for table in (*(line.table for line in lines), *(law.runs for law in laws))
             for value in table["flops"]]  # fmt: skip
    budgets, longest = parts.budgets_of(laws), max((len(line.name) for line in lines), default=0)
    labelled = longest <= LONGEST_LABEL  # longer names stand in the legend alone, beside the same mark
    room = (0.05 + (longest if labelled else 1) * parts.LABEL_CHARACTER_PX / PANEL_PX[0]) if several else 0.0
    for number, (panel, title) in enumerate(PANELS.items(), start=1):
        x_title = axes.COMPUTE if number > 2 else ""
        x_axis = axes.compute_axis(x_title, budgets, flops, beyond=room)
        x_axis |= {"matches": "x"} if number > 1 else {}
        values = [value for line in lines for value in _on_axis(line, panel)]
        if panel == "loss":
            y_axis = axes.loss_axis(title, values)
        else:
            text = number_text if panel == "tokens_per_param" else count_text
            y_axis = axes.log_axis(params_title if panel == "params" else title, values, text, room=7)
        limits = axes.limits_of(y_axis)
        traces = [trace for line in lines for trace in _traces(line, panel, limits)]
        parts.add(figure, traces, number, x=x_axis, y=y_axis)
        ends, formulas = [], []
        for line in lines:
            owner = parts.belongs(line.family)
            last = line.table[line.table[panel].notna()].tail(1)
            for x, y in zip(last["flops"], last[panel], strict=True):
                label = parts.marked(line.style, parts.safe(line.name) if labelled else "")
                ends.append((label, owner, math.log10(x), float(y) if panel == "loss" else math.log10(y)))
            if line.law is None or len(laws) > MOST_FORMULAS:
                continue
            if formula := _power_law(line.law, panel):
                formulas.append((parts.marked(line.style, formula), owner))
        if several:
            parts.label_ends(figure, number, ends, (x_axis["range"], y_axis["range"]), PANEL_PX)
        # in the corner without lines: losses fall to the right, sizes and tokens rise
        parts.corner_notes(figure, number, formulas, right=panel == "loss")
    return figure


def _traces(line: Line, panel: str, limits: tuple[float, float]) -> list[go.Scatter]:
    """Bands and lines of one law in one panel, and what was measured or fitted first."""
    owner: dict[str, Any] = {"family": line.family, "group": parts.safe(line.name)}
    colour, table = line.style.colour, line.table[line.table[panel].notna()]
    traces = []
    for extrapolated, part in table.groupby("extrapolated"):
        ends = (part[f"{panel}_low"], part[f"{panel}_high"])
        traces += parts.band(part["flops"], *ends, limits, colour, **owner)
        texts = [parts.optimum_text(line.name, row, line.level) for row in part.to_dict("records")]
        look = {"color": colour, "width": 2.2, "dash": "dash" if extrapolated else line.dash}
        traces.append(parts.scatter("line", part["flops"], part[panel], text=texts, line=look, **owner))
    if line.best is not None:
        mark = (colour, line.style.symbol, 7)
        traces.append(parts.run_points(line.best, "at", panel, mark, at="at", **owner))
    if line.minima is not None:
        x, y, low, high = (line.minima[name] for name in ("flops", panel, f"{panel}_low", f"{panel}_high"))
        traces += parts.intervals("y", x, y, low, high, limits, colour, **owner)
        head = f"{line.name} minimum".strip()
        texts = [parts.optimum_text(head, row, line.level) for row in line.minima.to_dict("records")]
        mark = (colour, "diamond-open", 9)
        traces.append(parts.scatter("minimum", x, y, mark=mark, text=texts, **owner))
    return traces


def _on_axis(line: Line, panel: str) -> Iterable[float]:
    """Values that the axis must show: points, the line, and its band as far as it is near."""
    table = line.table[line.table[panel].notna()]
    values = table[panel].astype("float64")
    low, high = (table[f"{panel}_{end}"].astype("float64").fillna(values) for end in ("low", "high"))
    measured = [
        value for part in (line.best, line.minima) if part is not None for value in part[panel].dropna()
    ]
    return [*values, *low.clip(lower=values / WIDEST_BAND), *high.clip(upper=values * WIDEST_BAND), *measured]


def _power_law(law: Law, panel: str) -> str:
    """The frontier as a formula of compute C ("N* = 0.09 C^0.49"), or "" if it is no power law."""
    import numpy as np

    from analysis.frontier import Curve

    if panel == "loss":
        if not isinstance(law.curve, Curve):
            return ""
        E, K, c = (float(values[0]) for values in (law.curve.E, np.exp(law.curve.log_K), law.curve.c))
        floor = f"{number_text(E)} + " if E > 0 else ""
        return f"L* = {floor}{number_text(K)} C^{-c:.3f}"
    if panel not in SYMBOLS:
        return ""
    low, high = law.flops_range
    flops = np.geomspace(low, high if high > low else 10 * low, 3)
    logs = np.log(law.frontier(flops)[panel].to_numpy(dtype=np.float64))
    slopes = np.diff(logs) / np.diff(np.log(flops))
    if not np.isfinite(slopes).all() or abs(slopes[1] - slopes[0]) > 1e-6:
        return ""
    factor = math.exp(logs[0] - slopes[0] * math.log(low))
    return f"{SYMBOLS[panel]} = {number_text(factor)} C^{slopes[0]:.2f}"


def against_table(beside: Beside) -> pd.DataFrame:
    """What `against` shows: the frontiers of `beside.table` over a fine grid of the same budgets."""
    import numpy as np
    import pandas as pd

    from analysis.published.beside import against as compare

    flops = beside.table["flops"]
    names = beside.published["name"].tolist()
    grid = np.geomspace(flops.min(), flops.max(), POINTS) if flops.nunique() > 1 else flops.unique()
    tables = [compare(beside.law, name, flops=grid, withdrawn=True).table for name in names]
    published = [table[table["law"].isin(names)] for table in tables]
    return pd.concat([tables[0][~tables[0]["law"].isin(names)], *published], ignore_index=True)


def against(beside: Beside) -> go.Figure:
    """Loss, size, tokens and tokens per parameter of the best run at every budget.

    The law with its band is in the colour of its family, published laws are grey, each with its own dashes.
    Panels that a law says nothing about lack its line.
    """
    table = against_table(beside).assign(extrapolated=False)
    law = beside.law
    own, *published = ((name, table[table["law"] == name]) for name in dict.fromkeys(table["law"]))
    lines = [
        Line(
            name=own[0], family=law.family, table=own[1], style=theme.family_style(law.family),
            level=law.level, law=law, best=parts.best_runs(law),
        )
    ]  # fmt: skip
    for number, (name, part) in enumerate(published):
        symbol, dash = (choices[number % len(choices)] for choices in (theme.SPARE_SYMBOLS, DASHES))
        grey = theme.Style(colour=theme.NEUTRAL, symbol=symbol)
        lines.append(Line(name=name, family=None, table=part, style=grey, level=law.level, dash=dash))
    figure = draw_lines(lines, axes.params_title([law.runs]))
    caption = (
        "Points: the best run of each budget. Losses compare on equal text and tokenizer alone; sizes and "
        "tokens as each law counts them. C: training FLOPs."
    )
    provenance = parts.law_provenance([law])
    return parts.finish(figure, "against", "Beside published laws", caption, provenance, of=law.family)
