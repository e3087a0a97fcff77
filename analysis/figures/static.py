"""Draws a Plotly figure with matplotlib: PNG, SVG and PDF without a browser and without a network.

The figure itself says what is to be seen, this only redraws it, so that page and picture agree.
Covered: scatter traces (lines, markers, areas with fill="toself"), horizontal bars, linear and logarithmic
axes with given or automatic ticks, subplots, shared axes, a legend with a title, title and subtitle,
annotations, line and rectangle shapes, templates; and below the figure its provenance (layout.meta). Not
covered: anything else (UserError names it), hover, colour bars, several legends, and HTML in texts beyond
<br>, <b>, <i> and a coloured mark at the start.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from analysis.errors import UserError
from analysis.figures.static_layout import (
    DASHES,
    POINTS_PER_PX,
    Frame,
    Plot,
    colour_of,
    draw_annotations,
    draw_legend,
    draw_shapes,
    draw_title,
    font_of,
    text_of,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_PX, HEIGHT_PX = 1000, 600
SOURCE_PX, SOURCE_LINE_PX, SOURCE_CHARACTER_PX = 11, 17, 6.4
DOTS_PER_INCH = 100
TYPES = ("scatter", "scattergl", "bar")
_MARKERS: dict[str, Any] = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "triangle-down": "v",
    "pentagon": "p",
    "hexagon": "h",
    "star": "*",
    "hexagram": (6, 1, 0),
    "cross": "P",
    "x": "X",
    "bowtie": (4, 1, 0),
    "triangle-left": "<",
    "triangle-right": ">",
}
_SIZES = {
    "star": 1.35,
    "hexagram": 1.25,
    "triangle-up": 0.9,
    "triangle-down": 0.9,
    "diamond": 0.9,
    "square": 0.95,
}
"""Markers of equal size look unequal in matplotlib; this makes them look as in Plotly."""
_DEFAULTS: dict[str, Any] = {
    "paper_bgcolor": "#ffffff",
    "plot_bgcolor": "#ffffff",
    "font": {"size": 12, "color": "#444444"},
    "margin": {"l": 80, "r": 80, "t": 100, "b": 80},
    "title": {"x": 0.05, "font": {}, "subtitle": {"font": {}}},
    "legend": {"x": 1.02, "y": 1.0, "font": {}, "title": {"font": {}}},
    "xaxis": {},
    "yaxis": {},
}
_COLOUR = "#3d8ef6"


def render(figure: go.Figure, kind: str, *, scale: float = 2.0) -> bytes:
    """The figure as "png", "svg" or "pdf"; `scale` is the number of PNG pixels per Plotly pixel.

    The same figure gives the same bytes: no time of day, no random names.
    """
    import matplotlib as mpl

    buffer = io.BytesIO()
    settings: Any = {
        "svg.hashsalt": "figure",
        "svg.fonttype": "path",
        "pdf.fonttype": 42,
        "font.sans-serif": ["DejaVu Sans"],
    }
    with mpl.rc_context(settings):
        drawing = draw(figure)
        drawing.savefig(
            buffer,
            format=kind,
            dpi=DOTS_PER_INCH * scale,
            facecolor=drawing.get_facecolor(),
            metadata={{"svg": "Date", "pdf": "CreationDate"}.get(kind, "Software"): None},
        )
    return buffer.getvalue()


def draw(figure: go.Figure) -> Figure:
    """The figure as a matplotlib figure of the same width; UserError names what is not covered."""
    from matplotlib.figure import Figure

    traces, layout = _resolved(figure)
    width, height = layout.get("width") or WIDTH_PX, layout.get("height") or HEIGHT_PX
    source = textwrap.wrap(
        (layout.get("meta") or {}).get("provenance") or "", round(width / SOURCE_CHARACTER_PX)
    )
    height += SOURCE_LINE_PX * len(source)
    margin = layout["margin"] | {"b": layout["margin"]["b"] + SOURCE_LINE_PX * len(source)}
    drawing = Figure(figsize=(width / DOTS_PER_INCH, height / DOTS_PER_INCH), dpi=DOTS_PER_INCH)
    drawing.set_facecolor(colour_of(layout["paper_bgcolor"]))
    frame = Frame(width, height, margin)
    plots = {pair: Plot(drawing, frame, layout, *pair) for pair in _axis_pairs(traces, layout)}
    by_axis = {name: plot for (x, y), plot in plots.items() for name in (x, y)}
    for plot in plots.values():
        plot.share(by_axis)
    for number, trace in enumerate(traces):
        _draw_trace(plots[_axes_of(trace)].axes, trace, 2 + number / len(traces))
    for plot in plots.values():
        plot.finish()
    draw_shapes(layout, plots)
    draw_annotations(drawing, frame, layout, plots)
    draw_title(drawing, frame, layout)
    draw_legend(drawing, frame, layout, [_entry(trace) for trace in traces if _in_legend(trace)])
    muted = font_of(layout["font"], layout["title"].get("subtitle", {}).get("font", {}) | {"size": SOURCE_PX})
    drawing.text(0.012, 8 / height, "\n".join(source).replace("$", r"\$"), va="bottom", ha="left", **muted)
    return drawing


# ---- the figure as plain dictionaries, with its template filled in


def _resolved(figure: go.Figure) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    plain = figure.to_dict()
    template = plain["layout"].pop("template", {}).get("layout", {})
    layout = _merged(_DEFAULTS, _merged(template, plain["layout"]))
    for name in layout:
        axis = re.fullmatch(r"([xy]axis)\d*", name)
        if axis:
            layout[name] = _merged(template.get(axis[1], {}), layout[name])
    for items, default in (("annotations", "annotationdefaults"), ("shapes", "shapedefaults")):
        layout[items] = [_merged(layout.get(default, {}), item) for item in layout.get(items, ())]
    for trace in plain["data"]:
        kind = trace.get("type", "scatter")
        missing = [
            f"error_{side}" for side in "xy" if trace.get(f"error_{side}", {}).get("array") is not None
        ]
        missing += ["text"] if "text" in (trace.get("mode") or "") else []
        missing += [trace["fill"]] if trace.get("fill", "none") not in ("none", "toself") else []
        if missing:
            raise UserError(
                f"a printed figure shows no {missing[0]!r} of a trace; take it out, or save .html"
            )
        if kind not in TYPES or (kind == "bar" and trace.get("orientation") != "h"):
            raise UserError(
                f"a printed figure shows scatter traces and horizontal bars, not {trace['type']!r}"
            )
    return [trace for trace in plain["data"] if trace.get("visible", True) is True], layout


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries, `above` winning."""
    merged = dict(below)
    for name, value in above.items():
        old = merged.get(name)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[name] = _merged(old, value) if both else value  # type: ignore[arg-type]
    return merged


def _axes_of(trace: Mapping[str, Any]) -> tuple[str, str]:
    """Layout names of the trace's axes: ("xaxis", "yaxis2")."""
    x, y = str(trace.get("xaxis") or "x"), str(trace.get("yaxis") or "y")
    return f"xaxis{x.removeprefix('x')}", f"yaxis{y.removeprefix('y')}"


def _axis_pairs(traces: list[dict[str, Any]], layout: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every pair of axes that belongs together, also those of an empty subplot."""
    pairs = dict.fromkeys(_axes_of(trace) for trace in traces)
    for name in layout:
        if name.startswith("xaxis") and all(name != x for x, _ in pairs):
            anchor = layout[name].get("anchor") or "y" + name.removeprefix("xaxis")
            pairs[name, f"yaxis{anchor.removeprefix('y')}"] = None
    return list(pairs)


# ---- traces


def _draw_trace(axes: Axes, trace: Mapping[str, Any], order: float) -> None:
    x, y = numbers_of(trace.get("x")), numbers_of(trace.get("y"))
    if not len(x):
        return
    if trace.get("type") == "bar":
        edge = trace.get("marker", {}).get("line", {})
        axes.barh(
            y, x, height=trace.get("width", 0.8), left=numbers_of(trace["base"]) if "base" in trace else 0,
            color=colour_of(_colour(trace)), edgecolor=colour_of(edge.get("color", "#444444")),
            linewidth=edge.get("width", 0) * POINTS_PER_PX, zorder=order,
        )  # fmt: skip
        return
    if (trace.get("fill") or "none") != "none":
        colour = colour_of(trace.get("fillcolor") or _colour(trace))
        axes.fill(x, y, facecolor=colour, linewidth=0, zorder=1.5)
    mode = _mode(trace)
    if "lines" in mode and trace.get("line", {}).get("width", 2) > 0:
        opacity = trace.get("opacity", 1)
        axes.plot(x, y, zorder=order, alpha=opacity, solid_capstyle="round", **_line(trace))
    if "markers" in mode:
        _draw_markers(axes, trace, x, y, order)


def _draw_markers(axes: Axes, trace: Mapping[str, Any], x: Any, y: Any, order: float) -> None:
    styles = [_marker(trace, i) for i in range(len(x))]
    alike: list[list[int]] = []
    for i, style in enumerate(styles):  # neighbours that look alike are drawn at once
        if i and style == styles[i - 1]:
            alike[-1].append(i)
        else:
            alike.append([i])
    for members in alike:
        axes.plot(x[members], y[members], linestyle="none", zorder=order, **styles[members[0]])


def _in_legend(trace: Mapping[str, Any]) -> bool:
    return bool(trace.get("showlegend", True) and trace.get("name"))


def _entry(trace: Mapping[str, Any]) -> tuple[Any, str]:
    """Line sample and name of a trace in the legend."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    mode = _mode(trace)
    lined = "lines" in mode and trace.get("line", {}).get("width", 2) > 0
    sample: Any
    if (trace.get("fill") or "none") != "none" and not lined:
        sample = Patch(facecolor=colour_of(trace.get("fillcolor") or _colour(trace)))
    else:
        line = _line(trace) if lined else {"linestyle": "none"}
        sample = Line2D([], [], **line, **(_marker(trace, 0) if "markers" in mode else {}))
    return sample, text_of(trace["name"])


def _mode(trace: Mapping[str, Any]) -> str:
    return str(trace.get("mode") or ("lines+markers" if len(numbers_of(trace.get("x"))) < 20 else "lines"))


def _line(trace: Mapping[str, Any]) -> dict[str, Any]:
    line = trace.get("line", {})
    return {
        "color": colour_of(line.get("color") or _colour(trace)),
        "linewidth": line.get("width", 2) * POINTS_PER_PX,
        "linestyle": DASHES[line.get("dash") or "solid"],
    }


def _marker(trace: Mapping[str, Any], i: int) -> dict[str, Any]:
    """matplotlib's words for the i-th marker of a trace."""
    marker = trace.get("marker", {})
    symbol = str(_at(marker.get("symbol"), i) or "circle")
    name = symbol.removesuffix("-open")
    if name not in _MARKERS:
        raise UserError(f"a printed figure has no marker {symbol!r}; it has {', '.join(_MARKERS)}")
    colour = colour_of(_at(marker.get("color"), i) or _colour(trace))
    outline = marker.get("line", {})
    hollow = symbol.endswith("-open")
    width = _at(outline.get("width"), i) or (1.0 if hollow else 0.0)
    return {
        "marker": _MARKERS[name],
        "markersize": _given(_at(marker.get("size"), i), 6) * _SIZES.get(name, 1.0) * POINTS_PER_PX,
        "markerfacecolor": "none" if hollow else colour,
        "markeredgecolor": colour if hollow else colour_of(_at(outline.get("color"), i) or "#444444"),
        "markeredgewidth": width * POINTS_PER_PX,
        "alpha": _at(marker.get("opacity"), i) or trace.get("opacity", 1.0),
    }


def _colour(trace: Mapping[str, Any]) -> str:
    """The colour that stands for the trace as a whole."""
    marker, line = trace.get("marker", {}).get("color"), trace.get("line", {}).get("color")
    return str((marker if isinstance(marker, str) else None) or line or _COLOUR)


def _at(value: Any, i: int) -> Any:
    """A Plotly attribute may be one value or one per point."""
    return value[i] if isinstance(value, (list, tuple)) or hasattr(value, "__array__") else value


def _given(value: Any, default: float) -> float:
    return default if value is None else float(value)


def numbers_of(values: Any) -> Any:
    """Coordinates as float64, missing ones as NaN; Plotly's compact {"dtype", "bdata"} form is read too."""
    import base64

    import numpy as np

    if values is None:
        return np.array([])
    if isinstance(values, Mapping):
        return np.frombuffer(base64.b64decode(values["bdata"]), dtype=values["dtype"]).astype(np.float64)
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
