"""How every figure looks: one colour and marker per family, one colour ramp for budgets, light and dark.

The seven family colours were found by a search (2026-11-20) among colours with a contrast of at least 3:1
on both backgrounds, for the largest smallest distance under normal vision and three kinds of colour
blindness (Machado, Oliveira and Fernandes 2009): 18.8 in CIELAB, against 16.1 for seven colours of Okabe and
Ito. So a colour means the same on a light page, on a dark one, and to nearly every eye; the marker says it
again. `tests/analysis/figures/test_theme.py` keeps the contrast and the distance.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analysis.errors import UserError

if TYPE_CHECKING:
    import plotly.graph_objects as go

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
FONT_PX = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """Colour and Plotly marker symbol of a family."""

    colour: str
    symbol: str


FAMILY_STYLES = {
    "ar": Style(colour="#3d8ef6", symbol="circle"),
    "masked": Style(colour="#dd700a", symbol="square"),
    "uniform": Style(colour="#1f7a63", symbol="triangle-up"),
    "esoteric": Style(colour="#9b3db9", symbol="diamond"),
    "hybrid": Style(colour="#cc1c2e", symbol="triangle-down"),
    "block": Style(colour="#da62b3", symbol="pentagon"),
    "gaussian": Style(colour="#849460", symbol="hexagram"),
}
NEUTRAL = "#7d8590"
"""Colour of what belongs to no family and no budget; 3:1 on both backgrounds."""
SPARE_SYMBOLS = ("star", "cross", "x", "hexagon", "bowtie")

VIRIDIS = (
    "#440154", "#482475", "#414487", "#355f8d", "#2a788e", "#21918c", "#22a884", "#44bf70", "#7ad151",
    "#bddf26", "#fde725",
)  # fmt: skip
BUDGET_RAMPS = {"light": (0.0, 0.57), "dark": (0.43, 1.0)}
"""The stretch of viridis for budgets, smallest to largest: as far as contrast with the paper is 3:1."""
RAMP_STEPS = 96
GLYPHS = {
    "circle": "●", "square": "■", "triangle-up": "▲", "diamond": "◆", "triangle-down": "▼", "pentagon": "⬟",
    "hexagram": "✶", "star": "★", "cross": "✚", "x": "✖", "hexagon": "⬢", "bowtie": "⋈",
}  # fmt: skip
"""Markers as characters, which stand before a name in the text colour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Palette:
    """Colours of everything that is not data."""

    paper: str
    text: str
    muted: str
    """Notes, subtitles and tick labels: at least 4.5:1 on paper."""
    grid: str
    line: str


PALETTES = {
    "light": Palette(paper="#ffffff", text="#1c2128", muted="#59636e", grid="#e7eaee", line="#8c959f"),
    "dark": Palette(paper="#14171c", text="#e6e9ed", muted="#9aa4af", grid="#2a3038", line="#6e7681"),
}


def family_style(family: str | None) -> Style:
    """Colour and marker of a family; one without its own gets grey and a marker chosen by its name."""
    if family in FAMILY_STYLES:
        return FAMILY_STYLES[family]
    number = zlib.crc32(str(family).encode())  # not hash(): that differs between processes
    return Style(colour=NEUTRAL, symbol=SPARE_SYMBOLS[number % len(SPARE_SYMBOLS)])


def family_order(families: Any) -> list[str]:
    """Families in the order of every legend: first as in `FAMILY_STYLES`, then the others by name."""
    order = list(FAMILY_STYLES)
    return sorted(families, key=lambda name: (order.index(name) if name in order else len(order), str(name)))


def budget_colours(count: int) -> list[str]:
    """`count` colours along the budget ramp of the light theme, first to last."""
    last = RAMP_STEPS - 1
    return [RAMP["light"][round(i * last / max(count - 1, 1))] for i in range(count)]


def _ramp(first: float, last: float) -> list[str]:
    colours = []
    for step in range(RAMP_STEPS):
        place = (first + (last - first) * step / (RAMP_STEPS - 1)) * (len(VIRIDIS) - 1)
        at = min(int(place), len(VIRIDIS) - 2)
        pairs = zip(rgb(VIRIDIS[at]), rgb(VIRIDIS[at + 1]), strict=True)
        colours.append("#" + "".join(f"{round(a + (place - at) * (b - a)):02x}" for a, b in pairs))
    return colours


def rgb(colour: str) -> tuple[int, int, int]:
    """(red, green, blue), 0 to 255, of #rrggbb."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def see_through(colour: str, opacity: float) -> str:
    """#rrggbb as the rgba() text that Plotly and CSS read."""
    red, green, blue = rgb(colour)
    return f"rgba({red}, {green}, {blue}, {opacity:g})"


RAMP = {name: _ramp(*stretch) for name, stretch in BUDGET_RAMPS.items()}
DARK = {
    spelled(light): spelled(dark)
    for light, dark in zip(RAMP["light"], RAMP["dark"], strict=True)
    for spelled in (str, lambda colour: see_through(colour, 1).removesuffix("1)"))
}
"""The data colours that the dark theme changes, light to dark, as they stand in a figure's JSON."""


def set_theme(figure: go.Figure, theme: str) -> go.Figure:
    """The same figure, changed in place, in the theme "light" or "dark"; UserError for another."""
    if theme not in PALETTES:
        raise UserError(f"theme = {theme!r}; choose one of {', '.join(PALETTES)}")
    is_dark = figure.layout.template.layout.paper_bgcolor == PALETTES["dark"].paper
    if is_dark != (theme == "dark"):
        swap = {dark: light for light, dark in DARK.items()} if is_dark else DARK
        for part in (*figure.data, *figure.layout.annotations, *figure.layout.shapes):
            part.update(_recoloured(part.to_plotly_json(), swap))
    return figure.update_layout(template=template(theme))


def _recoloured(value: Any, swap: dict[str, str]) -> Any:
    """The parts of a figure's plain form whose colour changes: the leaves, with the keys above them."""
    if isinstance(value, str) and ("#" in value or "rgba(" in value):
        pattern = r"#[0-9a-f]{6}|rgba\(\d+, \d+, \d+, "
        return re.sub(pattern, lambda match: swap.get(match[0], match[0]), value)
    if isinstance(value, dict):
        changed = {key: _recoloured(inner, swap) for key, inner in value.items() if key != "meta"}
        return {key: new for key, new in changed.items() if new is not value[key] and new != value[key]}
    return value


def template(theme: str) -> go.layout.Template:
    """Plotly template of the theme: everything but the colours of data."""
    import plotly.graph_objects as go

    return go.layout.Template(layout=template_layout(theme))


def template_layout(theme: str) -> dict[str, Any]:
    """The layout of `template` as a plain dictionary, to draw without the plotly package."""
    palette = PALETTES[theme]
    axis = {
        "gridcolor": palette.grid, "linecolor": palette.line, "tickcolor": palette.line, "showline": True,
        "ticks": "outside", "ticklen": 5, "zeroline": False, "automargin": True,
        "title": {"font": {"size": FONT_PX}, "standoff": 8},
        "tickfont": {"size": FONT_PX - 2, "color": palette.muted}, "nticks": 8,
    }  # fmt: skip
    small_muted = {"size": FONT_PX - 1, "color": palette.muted}
    return {
        "paper_bgcolor": palette.paper,
        "plot_bgcolor": palette.paper,
        "font": {"family": FONT, "size": FONT_PX, "color": palette.text},
        "title": {
            "x": 0.0, "xref": "paper", "xanchor": "left", "y": 1.0, "yref": "container", "yanchor": "top",
            "pad": {"t": 18}, "font": {"size": FONT_PX + 5}, "subtitle": {"font": small_muted},
        },
        "xaxis": axis,
        "yaxis": axis,
        "legend": {
            "x": 1.02, "y": 1.0, "xanchor": "left", "yanchor": "top", "font": {"size": FONT_PX - 1},
            "title": {"font": small_muted}, "tracegroupgap": 4,
        },
        "annotationdefaults": {
            "font": {"size": FONT_PX - 2, "color": palette.text}, "arrowcolor": palette.muted,
            "showarrow": False,
        },
        "shapedefaults": {"line": {"color": palette.line, "width": 1.2}},
        "hoverlabel": {"align": "left", "font": {"family": FONT, "size": FONT_PX - 1}},
        "hovermode": "closest",
        "margin": {"l": 80, "r": 40, "t": 84, "b": 62},
    }  # fmt: skip
