"""Draws a Plotly figure with matplotlib: PNG, SVG and PDF without a browser and without a network.

The Plotly figure holds everything; this draws it again, so that page and picture agree. Covered: scatter
traces (lines, markers, areas with fill="toself"), horizontal bars, linear and logarithmic axes with given or
automatic ticks, subplots, shared axes, a legend with a title, title and subtitle, annotations, line and
rectangle shapes, templates; and below the figure its provenance (layout.meta). Not covered: anything else
(UserError names it), hover, colour bars, several legends, and HTML in texts beyond <br>, <b>, <i> and a
coloured mark at the start. Sizes come in Plotly's pixels, 100 to the inch, and go out in points, 72 to it.
"""

from __future__ import annotations

import base64
import html
import io
import re
import textwrap
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from analysis.errors import UserError

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS_PER_PX = 0.72
DOTS_PER_INCH = 100
SOURCE_PX, SOURCE_LINE_PX, SOURCE_CHARACTER_PX = 11, 17, 6.4
_MARKERS: dict[str, Any] = {
    "circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "triangle-down": "v", "pentagon": "p",
    "hexagon": "h", "star": "*", "hexagram": (6, 1, 0), "cross": "P", "x": "X", "bowtie": (4, 1, 0),
    "triangle-left": "<", "triangle-right": ">",
}  # fmt: skip
_SIZES = {
    "star": 1.35, "hexagram": 1.25, "triangle-up": 0.9, "triangle-down": 0.9, "diamond": 0.9, "square": 0.95,
}  # fmt: skip
"""Markers of equal size look unequal in matplotlib; this makes them look as in Plotly."""
_DASHES: dict[str, Any] = {
    "solid": "-", "dash": (0, (5, 3)), "dot": (0, (1, 2)), "dashdot": (0, (5, 3, 1, 3)),
    "longdash": (0, (9, 4)),
}  # fmt: skip
_ANCHORS = {"auto": "center", "middle": "center"}
_COLOUR_MARK = re.compile(r'<span style="color:([^"]+)">(.)</span>')

# Plotly's defaults of everything that is read below, so that the drawing reads complete dictionaries
_LAYOUT: dict[str, Any] = {
    "width": 1000, "height": 600, "paper_bgcolor": "#ffffff", "plot_bgcolor": "#ffffff",
    "font": {"size": 12, "color": "#444444"}, "margin": {"l": 80, "r": 80, "t": 100, "b": 80},
    "meta": {"provenance": ""}, "showlegend": True, "annotations": (), "shapes": (), "xaxis": {}, "yaxis": {},
    "title": {
        "text": "", "x": 0.05, "xref": "container", "pad": {"t": 0}, "font": {},
        "subtitle": {"text": "", "font": {}},
    },
    "legend": {
        "x": 1.02, "y": 1.0, "xanchor": "left", "yanchor": "top", "orientation": "v", "font": {},
        "title": {"text": "", "font": {}},
    },
}  # fmt: skip
_AXIS: dict[str, Any] = {
    "type": "linear", "domain": (0, 1), "range": None, "matches": "", "title": {"standoff": 8, "font": {}},
    "ticks": "", "ticklen": 5, "tickcolor": "#444444", "tickfont": {}, "tickvals": None, "ticktext": None,
    "nticks": 7, "tickformat": ".6g", "ticksuffix": "", "showticklabels": True,
    "minor": {"ticks": "", "ticklen": 3, "tickvals": ()},
    "showgrid": True, "gridcolor": "#eeeeee", "showline": False, "linecolor": "#444444",
}  # fmt: skip
_ANNOTATION: dict[str, Any] = {
    "text": "", "xref": "x", "yref": "y", "xanchor": "center", "yanchor": "middle", "xshift": 0, "yshift": 0,
    "textangle": 0, "font": {}, "showarrow": True, "ax": 0, "ay": -30, "arrowhead": 1,
    "arrowcolor": "#444444", "arrowwidth": 1,
}  # fmt: skip
_SHAPE: dict[str, Any] = {
    "xref": "x", "yref": "y", "type": "rect", "layer": "above", "fillcolor": "rgba(0, 0, 0, 0)",
    "line": {"width": 2, "color": "#444444", "dash": "solid"},
}  # fmt: skip
_TRACE: dict[str, Any] = {
    "type": "scatter", "name": "", "showlegend": True, "visible": True, "xaxis": "x", "yaxis": "y",
    "opacity": 1.0, "fill": "none", "line": {"width": 2, "dash": "solid"},
    "marker": {"symbol": "circle", "size": 6, "line": {"width": 0, "color": "#444444"}},
    "width": 0.8, "base": (0,),
}  # fmt: skip


def render(figure: go.Figure, kind: str, *, scale: float = 2.0) -> bytes:
    """The figure as "png", "svg" or "pdf"; `scale` is the number of PNG pixels per Plotly pixel.

    The same figure gives the same bytes: no time of day, no random names.
    """
    import matplotlib as mpl

    buffer = io.BytesIO()
    settings: Any = {
        "svg.hashsalt": "figure", "svg.fonttype": "path", "pdf.fonttype": 42,
        "font.sans-serif": ["DejaVu Sans"],
    }  # fmt: skip
    with mpl.rc_context(settings):
        drawing = draw(figure)
        drawing.savefig(
            buffer, format=kind, dpi=DOTS_PER_INCH * scale, facecolor=drawing.get_facecolor(),
            metadata={{"svg": "Date", "pdf": "CreationDate"}.get(kind, "Software"): None},
        )  # fmt: skip
    return buffer.getvalue()


def draw(figure: go.Figure) -> Figure:
    """The figure as a matplotlib figure of the same width; UserError names what is not covered."""
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox, BboxTransformTo

    traces, layout = _resolved(figure)
    width, margin = layout["width"], layout["margin"]
    source = textwrap.wrap(layout["meta"]["provenance"], round(width / SOURCE_CHARACTER_PX))
    below = SOURCE_LINE_PX * len(source)
    height = layout["height"] + below
    drawing = Figure(figsize=(width / DOTS_PER_INCH, height / DOTS_PER_INCH), dpi=DOTS_PER_INCH)
    drawing.set_facecolor(colour_of(layout["paper_bgcolor"]))
    left, bottom = margin["l"] / width, (margin["b"] + below) / height
    right, top = 1 - margin["r"] / width, 1 - margin["t"] / height
    paper = BboxTransformTo(Bbox.from_extents(left, bottom, right, top))  # from Plotly's "paper" coordinates

    pairs = _pairs(traces, layout)
    plots: dict[str, Axes] = {}
    for x, y in pairs:
        sides = {"x": layout.setdefault(x, _AXIS), "y": layout.setdefault(y, _AXIS)}
        (x0, x1), (y0, y1) = (axis["domain"] for axis in sides.values())
        plot = drawing.add_axes(Bbox(paper.transform([(x0, y0), (x1, y1)])).bounds)
        plot.set_facecolor(colour_of(layout["plot_bgcolor"]))
        plot.set_axisbelow(True)
        for side, axis in sides.items():
            getattr(plot, f"set_{side}scale")("log" if axis["type"] == "log" else "linear")
        plots |= {x: plot, y: plot, x + y: plot}
    for name in [name for pair in pairs for name in pair]:
        target = _axis_name(name[0], layout[name]["matches"])
        if layout[name]["matches"] and target in plots and target != name:  # one range for both
            getattr(plots[name], f"share{name[0]}")(plots[target])
            layout[name]["range"] = layout[name]["range"] or layout[target]["range"]

    for number, trace in enumerate(traces):
        _draw_trace(plots[trace["xaxis"] + trace["yaxis"]], trace, 2 + number / len(traces))
    for x, y in pairs:
        _finish_axes(plots[x + y], layout, {"x": layout[x], "y": layout[y]})
    for shape in layout["shapes"]:
        _draw_shape(shape, *_place(shape, plots, paper + drawing.transFigure))
    for note in layout["annotations"]:
        _annotate(note, layout, *_place(note, plots, paper + drawing.transFigure))

    title, legend = layout["title"], layout["legend"]
    subtitle_font = _font(layout, title["subtitle"]["font"])
    if title["text"]:
        x, font = title["x"], _font(layout, title["font"])
        x = paper.transform((x, 0))[0] if title["xref"] == "paper" else x
        down = title["pad"]["t"] / height
        drawing.text(x, 1 - down, text_of(title["text"]), va="top", ha="left", **font)
        down += 1.3 * font["fontsize"] / POINTS_PER_PX / height
        drawing.text(x, 1 - down, text_of(title["subtitle"]["text"]), va="top", ha="left", **subtitle_font)
    entries = [_legend_entry(trace) for trace in traces if trace["showlegend"] and trace["name"]]
    if layout["showlegend"] and entries:
        font, muted = _font(layout, legend["font"]), _font(layout, legend["title"]["font"])
        vertical = {"top": "upper", "bottom": "lower", "middle": "center"}[legend["yanchor"]]
        loc: Any = f"{vertical} {legend['xanchor']}".replace("center center", "center")
        box = drawing.legend(
            *zip(*entries, strict=True), loc=loc, bbox_to_anchor=paper.transform((legend["x"], legend["y"])),
            ncols=len(entries) if legend["orientation"] == "h" else 1, frameon=False, borderaxespad=0,
            borderpad=0, labelspacing=0.45, handlelength=2.2, title=text_of(legend["title"]["text"]) or None,
            alignment="left", fontsize=font["fontsize"], labelcolor=font["color"],
        )  # fmt: skip
        box.get_title().set(**muted)
    style = {**subtitle_font, "fontsize": SOURCE_PX * POINTS_PER_PX, "va": "bottom", "ha": "left"}
    drawing.text(0.012, 8 / height, "\n".join(source).replace("$", r"\$"), **style)
    return drawing


def draw_on(figure: go.Figure, axes: Any) -> Any:
    """The panels of the figure, in their order, on the user's own matplotlib axes: one, or several (an array
    of `plt.subplots`). Legend entries go to the first one; title, caption and source stay out. Returns
    `axes`. UserError for what is no axes, or more than there are panels.
    """
    from matplotlib.axes import Axes

    each = [axes] if isinstance(axes, Axes) else getattr(axes, "flat", axes)
    plots = list(each) if isinstance(each, Iterable) else []
    if not plots or not all(isinstance(plot, Axes) for plot in plots):
        raise UserError(f"ax is a {type(axes).__name__}; give axes of matplotlib, e.g. plt.subplots()[1]")
    traces, layout = _resolved(figure)
    pairs = sorted(_pairs(traces, layout), key=lambda pair: int(pair[0].removeprefix("xaxis") or 1))
    if len(plots) > len(pairs):
        raise UserError(
            f"ax: {len(plots)} axes for a figure of {len(pairs)} panel{'s' * (len(pairs) > 1)}; "
            f"give {len(pairs)} or fewer"
        )
    places: dict[str, Axes] = {}
    for (x, y), plot in zip(pairs, plots, strict=False):
        for side, name in (("x", x), ("y", y)):
            axis = layout.setdefault(name, _AXIS)
            target = _axis_name(side, axis["matches"])
            axis["range"] = axis["range"] or layout.get(target, axis)["range"]
            getattr(plot, f"set_{side}scale")("log" if axis["type"] == "log" else "linear")
        # panels above others leave the title of their axis to the lowest one, which may not be drawn
        titles = [layout[name]["title"] for name in (x, *(other for other, _ in pairs))]
        layout[x]["title"] = next((title for title in titles if title.get("text")), titles[0])
        plot.set_axisbelow(True)
        places[x + y] = plot
    for number, trace in enumerate(traces):
        if plot := places.get(trace["xaxis"] + trace["yaxis"]):
            _draw_trace(plot, trace, 2 + number / len(traces))
    for (x, y), plot in zip(pairs, plots, strict=False):
        _finish_axes(plot, layout, {"x": layout[x], "y": layout[y]})
    # what refers to the paper, or to a panel that is not drawn, is left out
    inside = [
        [
            item
            for item in layout[kind]
            if _axis_name("x", item["xref"]) + _axis_name("y", item["yref"]) in places
        ]
        for kind in ("shapes", "annotations")
    ]
    for shape in inside[0]:
        _draw_shape(shape, *_place(shape, places, None))
    for note in inside[1]:
        _annotate(note, layout, *_place(note, places, None))
    entries = [_legend_entry(trace) for trace in traces if trace["showlegend"] and trace["name"]]
    if layout["showlegend"] and entries:
        plots[0].legend(*zip(*entries, strict=True), frameon=False, fontsize="small")
    return axes


def _pairs(traces: list[dict[str, Any]], layout: Mapping[str, Any]) -> dict[tuple[str, str], None]:
    """Every pair of axes that belongs together, also those of an empty subplot."""
    pairs = dict.fromkeys((trace["xaxis"], trace["yaxis"]) for trace in traces)
    for x in [name for name in layout if name.startswith("xaxis") and all(name != x for x, _ in pairs)]:
        pairs[x, _axis_name("y", layout[x].get("anchor") or "y" + x.removeprefix("xaxis"))] = None
    return pairs


# ---- the figure as plain dictionaries


def _resolved(figure: go.Figure) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Visible traces, and the layout, with the template and the defaults filled in."""
    plain = figure.to_dict()
    template = plain["layout"].pop("template", {}).get("layout", {})
    layout = _merged(_LAYOUT, template, plain["layout"])
    for name in layout:
        if re.fullmatch(r"[xy]axis\d*", name):
            layout[name] = _merged(_AXIS, template.get(name[:5], {}), layout[name])
    for items, defaults, own in (
        ("annotations", _ANNOTATION, "annotationdefaults"), ("shapes", _SHAPE, "shapedefaults")
    ):  # fmt: skip
        layout[items] = [_merged(defaults, layout.get(own, {}), item) for item in layout[items]]
    traces = []
    for trace in (_merged(_TRACE, trace) for trace in plain["data"]):
        bars = trace["type"] == "bar" and trace.get("orientation") == "h"
        if not bars and trace["type"] not in ("scatter", "scattergl"):
            kind = trace["type"]
            raise UserError(f"a printed figure shows scatter traces and horizontal bars, not {kind!r}")
        missing = [name for name in ("error_x", "error_y") if trace.get(name, {}).get("array") is not None]
        missing += ["text"] if "text" in trace.get("mode", "") else []
        missing += [trace["fill"]] if trace["fill"] not in ("none", "toself") else []
        if missing:
            raise UserError(
                f"a printed figure shows no {missing[0]!r} of a trace; take it out, or save .html"
            )
        for side in "xy":
            trace[side], axis = numbers_of(trace.get(side)), f"{side}axis"
            trace[axis] = _axis_name(side, trace[axis])
        trace.setdefault("mode", "lines+markers" if len(trace["x"]) < 20 else "lines")
        marker, line = trace["marker"], trace["line"]
        colour = marker.get("color")
        colour = (colour if isinstance(colour, str) else None) or line.get("color") or "#3d8ef6"
        trace["colour"] = colour  # of the trace as a whole
        trace["line"], trace["marker"] = {"color": colour} | line, {"color": colour} | marker
        traces += [trace] if trace["visible"] is True else []
    return traces, layout


def _merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries, the later ones winning."""
    merged: dict[str, Any] = {}
    for name, value in (item for layer in layers for item in layer.items()):
        old = merged.get(name, {})
        nested = isinstance(value, Mapping) and isinstance(old, Mapping)
        merged[name] = _merged(old, value) if nested else value
    return merged


def _axis_name(side: str, reference: str) -> str:
    """The layout's name ("yaxis2") of the axis that a trace or a shape calls "y2" or "y2 domain"."""
    return f"{side}axis{reference.removesuffix(' domain').removeprefix(side)}"


# ---- traces


def _draw_trace(axes: Axes, trace: Mapping[str, Any], order: float) -> None:
    x, y, marker = trace["x"], trace["y"], trace["marker"]
    if not len(x):
        return
    if trace["type"] == "bar":
        axes.barh(
            y, x, height=trace["width"], left=numbers_of(trace["base"]), color=colour_of(trace["colour"]),
            edgecolor=colour_of(marker["line"]["color"]), linewidth=marker["line"]["width"] * POINTS_PER_PX,
            zorder=order,
        )  # fmt: skip
        return
    if trace["fill"] != "none":
        colour = colour_of(trace.get("fillcolor", trace["colour"]))
        axes.fill(x, y, facecolor=colour, linewidth=0, zorder=1.5)
    if "lines" in trace["mode"] and trace["line"]["width"] > 0:
        axes.plot(x, y, zorder=order, alpha=trace["opacity"], solid_capstyle="round", **_line(trace["line"]))
    if "markers" in trace["mode"]:
        styles = [_marker(trace, i) for i in range(len(x))]
        starts = [i for i in range(len(x)) if not i or styles[i] != styles[i - 1]]
        for start, end in zip(starts, [*starts[1:], len(x)], strict=True):  # neighbours that look alike
            axes.plot(x[start:end], y[start:end], linestyle="none", zorder=order, **styles[start])


def _legend_entry(trace: Mapping[str, Any]) -> tuple[Any, str]:
    """Sample and name of a trace in the legend."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    lined = "lines" in trace["mode"] and trace["line"]["width"] > 0
    if trace["fill"] != "none" and not lined:
        return Patch(facecolor=colour_of(trace.get("fillcolor", trace["colour"]))), text_of(trace["name"])
    line = _line(trace["line"]) if lined else {"linestyle": "none"}
    marker = _marker(trace, 0) if "markers" in trace["mode"] else {}
    return Line2D([], [], **line, **marker), text_of(trace["name"])


def _line(line: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "color": colour_of(line["color"]),
        "linewidth": line["width"] * POINTS_PER_PX,
        "linestyle": _DASHES[line["dash"]],
    }


def _marker(trace: Mapping[str, Any], i: int) -> dict[str, Any]:
    """matplotlib's words for the i-th marker of a trace; a Plotly attribute is one value or one per point."""

    def own(value: Any) -> Any:
        return value[i] if isinstance(value, list | tuple) or hasattr(value, "__array__") else value

    marker = trace["marker"]
    symbol, colour = own(marker["symbol"]), colour_of(own(marker["color"]))
    name, hollow = symbol.removesuffix("-open"), symbol.endswith("-open")
    if name not in _MARKERS:
        raise UserError(f"a printed figure has no marker {symbol!r}; it has {', '.join(_MARKERS)}")
    return {
        "marker": _MARKERS[name],
        "markersize": float(own(marker["size"])) * _SIZES.get(name, 1.0) * POINTS_PER_PX,
        "markerfacecolor": "none" if hollow else colour,
        "markeredgecolor": colour if hollow else colour_of(own(marker["line"]["color"])),
        "markeredgewidth": (own(marker["line"]["width"]) or float(hollow)) * POINTS_PER_PX,
        "alpha": own(marker.get("opacity", trace["opacity"])),
    }


def numbers_of(values: Any) -> Any:
    """Coordinates as float64, missing ones as NaN; Plotly's compact {"dtype", "bdata"} form is read too."""
    import numpy as np

    if isinstance(values, Mapping):
        return np.frombuffer(base64.b64decode(values["bdata"]), dtype=values["dtype"]).astype(np.float64)
    items = () if values is None else values
    return np.array([np.nan if item is None else item for item in items], dtype=np.float64)


# ---- axes, shapes and annotations


def _finish_axes(plot: Axes, layout: Mapping[str, Any], sides: Mapping[str, Mapping[str, Any]]) -> None:
    """Ranges, ticks, grid and titles of one subplot, once all data are drawn."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

    for side, settings in sides.items():
        axis, is_log, minor = getattr(plot, f"{side}axis"), settings["type"] == "log", settings["minor"]
        if settings["range"] is not None:
            ends = [10.0**end if is_log else end for end in settings["range"]]
            getattr(plot, f"set_{side}lim")(*ends)
        if settings["tickvals"] is not None:
            values = [float(value) for value in settings["tickvals"]]
            texts = settings["ticktext"]
            texts = [f"{value:g}" for value in values] if texts is None else [text_of(text) for text in texts]
            labels = dict(zip(values, texts, strict=True))
            axis.set_major_locator(FixedLocator(values))
            axis.set_major_formatter(FuncFormatter(lambda value, _, labels=labels: labels.get(value, "")))
        elif not is_log:
            form = f"{{:{settings['tickformat']}}}{settings['ticksuffix']}"
            write = FuncFormatter(lambda value, _, form=form: form.format(value).replace("-", "\u2212"))
            axis.set_major_locator(MaxNLocator(nbins=settings["nticks"], steps=[1, 2, 5, 10]))
            axis.set_major_formatter(write)
        axis.set_minor_formatter(NullFormatter())
        axis.set_minor_locator(FixedLocator(list(minor["tickvals"])))
        font, colour = _font(layout, settings["tickfont"]), colour_of(settings["tickcolor"])
        axis.set_tick_params(
            which="major", color=colour, labelsize=font["fontsize"], labelcolor=font["color"],
            length=settings["ticklen"] * POINTS_PER_PX if settings["ticks"] == "outside" else 0,
            label1On=settings["showticklabels"],
        )  # fmt: skip
        length = minor["ticklen"] * POINTS_PER_PX if minor["ticks"] == "outside" else 0
        axis.set_tick_params(which="minor", length=length, color=colour)
        if settings["showgrid"]:
            axis.grid(which="major", color=colour_of(settings["gridcolor"]), linewidth=POINTS_PER_PX)
        title = settings["title"]
        pad, font = title["standoff"] * POINTS_PER_PX, _font(layout, title["font"])
        axis.set_label_text(text_of(title.get("text")), **font)
        axis.labelpad = pad
    for name, spine in plot.spines.items():
        settings = {"bottom": sides["x"], "left": sides["y"]}.get(name, _AXIS)
        spine.set_visible(settings["showline"])
        spine.set_edgecolor(colour_of(settings["linecolor"]))
        spine.set_linewidth(POINTS_PER_PX)


def _place(item: Mapping[str, Any], plots: Mapping[str, Axes], paper: Any) -> tuple[Axes, Any]:
    """The subplot of an annotation or a shape, and the transform from its coordinates."""
    from matplotlib.transforms import blended_transform_factory

    x, y = item["xref"], item["yref"]
    plot = plots.get(_axis_name("x", x) + _axis_name("y", y)) or next(iter(plots.values()))
    across, upward = (
        paper if ref == "paper" else plot.transAxes if ref.endswith("domain") else plot.transData
        for ref in (x, y)
    )  # fmt: skip
    return plot, blended_transform_factory(across, upward)


def _draw_shape(shape: Mapping[str, Any], plot: Axes, transform: Any) -> None:
    from matplotlib.patches import Rectangle

    (x0, x1), (y0, y1) = (shape["x0"], shape["x1"]), (shape["y0"], shape["y1"])
    style = {**_line(shape["line"]), "transform": transform}
    style["zorder"] = 0.6 if shape["layer"] == "below" else 5.0
    limits = plot.axis()
    if shape["type"] == "line":
        plot.plot([x0, x1], [y0, y1], **style)
    elif shape["type"] == "rect":
        style |= {"facecolor": colour_of(shape["fillcolor"]), "edgecolor": style.pop("color")}
        plot.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, **style))
    else:
        raise UserError(f"a printed figure shows line and rect shapes only, not {shape['type']!r}")
    plot.axis(limits)


def _annotate(note: Mapping[str, Any], layout: Mapping[str, Any], plot: Axes, transform: Any) -> None:
    point, arrow = [], None
    for side in "xy":  # Plotly gives annotations on logarithmic axes as exponents of ten
        axis = layout.get(f"{side}axis{note[f'{side}ref'].removeprefix(side)}", _AXIS)
        point.append(10.0 ** note[side] if axis["type"] == "log" else note[side])
    shift = (note["xshift"] * POINTS_PER_PX, note["yshift"] * POINTS_PER_PX)
    if note["showarrow"]:
        shift = (note["ax"] * POINTS_PER_PX, -note["ay"] * POINTS_PER_PX)
        arrow = {
            "arrowstyle": "-" if note["arrowhead"] == 0 else "->", "color": colour_of(note["arrowcolor"]),
            "linewidth": note["arrowwidth"] * POINTS_PER_PX,
        }  # fmt: skip
    style = {
        "xycoords": transform, "xytext": shift, "textcoords": "offset points", "annotation_clip": False,
        "zorder": 6, "ha": _ANCHORS.get(note["xanchor"], note["xanchor"]),
        "va": _ANCHORS.get(note["yanchor"], note["yanchor"]), "rotation": -note["textangle"],
        "fontweight": "bold" if "<b>" in note["text"] else "normal", **_font(layout, note["font"]),
    }  # fmt: skip
    plot.annotate(text_of(note["text"]), tuple(point), arrowprops=arrow, **style)
    mark = _COLOUR_MARK.match(note["text"])
    if mark and style["ha"] == "left":  # the mark again, in its colour, on top of the first letter
        plot.annotate(mark[2], tuple(point), **style | {"color": colour_of(mark[1])})


# ---- fonts, texts, colours


def _font(layout: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    font = layout["font"] | own
    return {"fontsize": font["size"] * POINTS_PER_PX, "color": colour_of(font["color"])}


def text_of(text: str | None) -> str:
    """Plain text of Plotly's little HTML, with matplotlib's dollar signs made harmless."""
    lines = re.sub(r"<br\s*/?>", "\n", text or "")
    return html.unescape(re.sub(r"</?(b|i|em|strong|span|sup|sub)\b[^>]*>", "", lines)).replace("$", r"\$")


def colour_of(colour: str) -> Any:
    """A CSS colour as matplotlib reads it: rgba(r, g, b, a) becomes a tuple."""
    parts = re.fullmatch(r"rgba?\(([^)]*)\)", colour.strip())
    if not parts:
        return colour
    numbers = [float(part) for part in parts[1].split(",")]
    return tuple(value / 255 for value in numbers[:3]) + tuple(numbers[3:])
