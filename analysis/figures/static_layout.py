"""Everything of a Plotly figure but its traces, drawn with matplotlib: axes, title, legend, notes, shapes.

Sizes come in Plotly's pixels, 100 to the inch, and go out in points, 72 to the inch.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from analysis.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS_PER_PX = 0.72
DASHES: dict[str, Any] = {
    "solid": "-",
    "dash": (0, (5, 3)),
    "dot": (0, (1, 2)),
    "dashdot": (0, (5, 3, 1, 3)),
    "longdash": (0, (9, 4)),
}


class Frame:
    """The plotting area, and its relation to matplotlib's 0 to 1 of the whole picture."""

    def __init__(self, width: float, height: float, margin: Mapping[str, float]) -> None:
        self.width, self.height = width, height
        self.left, self.bottom = margin["l"], margin["b"]
        self.right, self.top = width - margin["r"], height - margin["t"]

    def x(self, paper: float) -> float:
        return float(self.left + paper * (self.right - self.left)) / self.width

    def y(self, paper: float) -> float:
        return float(self.bottom + paper * (self.top - self.bottom)) / self.height


# ---- axes


class Plot:
    """One subplot: its matplotlib axes and the layout of its two Plotly axes."""

    def __init__(
        self, drawing: Figure, frame: Frame, layout: Mapping[str, Any], x_name: str, y_name: str
    ) -> None:
        self.font, self.x_name, self.y_name = layout["font"], x_name, y_name
        self.x, self.y = dict(layout.get(x_name, {})), dict(layout.get(y_name, {}))
        (x0, x1), (y0, y1) = self.x.get("domain", (0, 1)), self.y.get("domain", (0, 1))
        left, bottom = frame.x(x0), frame.y(y0)
        self.axes = drawing.add_axes((left, bottom, frame.x(x1) - left, frame.y(y1) - bottom))
        self.axes.set_facecolor(colour_of(layout["plot_bgcolor"]))
        self.axes.set_axisbelow(True)
        if self.x.get("type") == "log":
            self.axes.set_xscale("log")
        if self.y.get("type") == "log":
            self.axes.set_yscale("log")

    def share(self, others: Mapping[str, Plot]) -> None:
        """Axes with `matches` have one range in common, as in Plotly."""
        for side, settings in (("x", self.x), ("y", self.y)):
            target = f"{side}axis{settings.get('matches', '').removeprefix(side)}"
            other = others.get(target)
            if not settings.get("matches") or other is None or other is self:
                continue
            (self.axes.sharex if side == "x" else self.axes.sharey)(other.axes)
            settings.setdefault("range", (other.x if side == "x" else other.y).get("range"))

    def finish(self) -> None:
        """Ranges, ticks, grid and titles, once all data are drawn."""
        for side, settings in (("x", self.x), ("y", self.y)):
            self._set_range(side, settings)
            self._set_ticks(side, settings)
            title = settings.get("title", {})
            set_label = self.axes.set_xlabel if side == "x" else self.axes.set_ylabel
            set_label(
                text_of(title.get("text")),
                labelpad=title.get("standoff", 8) * POINTS_PER_PX,
                **font_of(self.font, title.get("font", {})),
            )
        lines = {"bottom": self.x, "left": self.y}
        for name, spine in self.axes.spines.items():
            settings = lines.get(name, {})
            spine.set_visible(bool(settings.get("showline")))
            spine.set_edgecolor(colour_of(settings.get("linecolor", "#444444")))
            spine.set_linewidth(POINTS_PER_PX)

    def _set_range(self, side: str, settings: Mapping[str, Any]) -> None:
        limits = settings.get("range")
        if limits is not None:
            ends = [10.0**end for end in limits] if settings.get("type") == "log" else list(limits)
            (self.axes.set_xlim if side == "x" else self.axes.set_ylim)(*ends)

    def _set_ticks(self, side: str, settings: Mapping[str, Any]) -> None:
        axis = self.axes.xaxis if side == "x" else self.axes.yaxis
        minor = settings.get("minor", {})
        _place_ticks(axis, settings, minor)
        font = font_of(self.font, settings.get("tickfont", {}))
        drawn = settings.get("ticks") == "outside"
        colour = colour_of(settings.get("tickcolor", "#444444"))
        axis.set_tick_params(
            which="major",
            length=settings.get("ticklen", 5) * POINTS_PER_PX if drawn else 0,
            color=colour,
            labelsize=font["fontsize"],
            labelcolor=font["color"],
            label1On=settings.get("showticklabels", True),
        )
        length = minor.get("ticklen", 3) * POINTS_PER_PX if minor.get("ticks") == "outside" else 0
        axis.set_tick_params(which="minor", length=length, color=colour)
        if settings.get("showgrid", True):
            colour = colour_of(settings.get("gridcolor", "#eeeeee"))
            axis.grid(which="major", color=colour, linewidth=POINTS_PER_PX)


def _place_ticks(axis: Any, settings: Mapping[str, Any], minor: Mapping[str, Any]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

    if settings.get("tickvals") is not None:
        values = [float(value) for value in settings["tickvals"]]
        given = settings.get("ticktext")
        texts = list(given) if given is not None else [f"{value:g}" for value in values]
        axis.set_major_locator(FixedLocator(values))
        labels = {value: text_of(text) for value, text in zip(values, texts, strict=True)}
        axis.set_major_formatter(FuncFormatter(lambda value, _: labels.get(float(value), "")))
    elif settings.get("type") != "log":
        axis.set_major_locator(MaxNLocator(nbins=settings.get("nticks", 7), steps=[1, 2, 5, 10]))
        style = str(settings.get("tickformat") or ".6g")
        suffix = settings.get("ticksuffix", "")
        axis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value:{style}}{suffix}".replace("-", "\u2212"))
        )
    marks = minor.get("tickvals")
    axis.set_minor_formatter(NullFormatter())
    axis.set_minor_locator(FixedLocator(list(marks)) if marks is not None else NullLocator())


# ---- title and legend


def draw_title(drawing: Figure, frame: Frame, layout: Mapping[str, Any]) -> None:
    title = layout["title"]
    if not title.get("text"):
        return
    x = frame.x(title["x"]) if title.get("xref") == "paper" else title["x"]
    down = title.get("pad", {}).get("t", 0)
    for part, line_height in ((title, 1.3), (title.get("subtitle", {}), 0.0)):
        font = font_of(layout["font"], part.get("font", {}))
        drawing.text(x, 1 - down / frame.height, text_of(part.get("text")), va="top", ha="left", **font)
        down += line_height * font["fontsize"] / POINTS_PER_PX


def draw_legend(
    drawing: Figure, frame: Frame, layout: Mapping[str, Any], entries: list[tuple[Any, str]]
) -> None:
    """`entries` are (line sample, name)."""
    legend = layout["legend"]
    if layout.get("showlegend") is False or not entries:
        return
    font = font_of(layout["font"], legend.get("font", {}))
    muted = font_of(layout["font"], legend.get("title", {}).get("font", {}))
    vertical = {"top": "upper", "bottom": "lower", "middle": "center"}[legend.get("yanchor", "top")]
    side = legend.get("xanchor", "left")
    where: Any = "center" if (vertical, side) == ("center", "center") else f"{vertical} {side}"
    box = drawing.legend(
        *zip(*entries, strict=True),
        loc=where,
        bbox_to_anchor=(frame.x(legend["x"]), frame.y(legend["y"])),
        ncols=len(entries) if legend.get("orientation") == "h" else 1,
        frameon=False,
        borderaxespad=0,
        borderpad=0,
        labelspacing=0.45,
        handlelength=2.2,
        title=text_of(legend.get("title", {}).get("text")) or None,
        alignment="left",
        fontsize=font["fontsize"],
        labelcolor=font["color"],
    )
    box.get_title().set_fontsize(muted["fontsize"])
    box.get_title().set_color(muted["color"])


# ---- shapes and annotations


def draw_shapes(layout: Mapping[str, Any], plots: Mapping[tuple[str, str], Plot]) -> None:
    """Lines and rectangles. UserError names another shape."""
    from matplotlib.patches import Rectangle

    for shape in layout["shapes"]:
        axes, transform = _place(shape, plots)
        line = shape.get("line", {})
        style: dict[str, Any] = {
            "linestyle": DASHES[line.get("dash", "solid")],
            "linewidth": line.get("width", 2) * POINTS_PER_PX,
            "transform": transform,
            "zorder": 0.6 if shape.get("layer") == "below" else 5.0,
        }
        x0, x1, y0, y1 = (shape[name] for name in ("x0", "x1", "y0", "y1"))
        colour = colour_of(line.get("color", "#444444"))
        limits = axes.axis()
        if shape.get("type") == "line":
            axes.plot([x0, x1], [y0, y1], color=colour, **style)
        elif shape.get("type") == "rect":
            fill = colour_of(shape.get("fillcolor", "rgba(0, 0, 0, 0)"))
            axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, facecolor=fill, edgecolor=colour, **style))
        else:
            raise UserError(f"a printed figure shows line and rect shapes only, not {shape.get('type')!r}")
        axes.axis(limits)


def draw_annotations(
    drawing: Figure, frame: Frame, layout: Mapping[str, Any], plots: Mapping[tuple[str, str], Plot]
) -> None:
    for note in layout["annotations"]:
        if note.get("xref") == "paper" and note.get("yref") == "paper":
            point = frame.x(note["x"]), frame.y(note["y"])
            axes, coordinates = next(iter(plots.values())).axes, drawing.transFigure
        else:
            axes, coordinates = _place(note, plots)
            point = _unlogged("x", note, layout), _unlogged("y", note, layout)
        shift = (note.get("xshift", 0) * POINTS_PER_PX, note.get("yshift", 0) * POINTS_PER_PX)
        arrow = None
        if note.get("showarrow", True):
            shift = (note.get("ax", 0) * POINTS_PER_PX, -note.get("ay", -30) * POINTS_PER_PX)
            arrow = {
                "arrowstyle": "-" if note.get("arrowhead") == 0 else "->",
                "color": colour_of(note.get("arrowcolor", "#444444")),
                "linewidth": note.get("arrowwidth", 1) * POINTS_PER_PX,
            }
        style = {
            "xycoords": coordinates,
            "xytext": shift,
            "textcoords": "offset points",
            "annotation_clip": False,
            "zorder": 6,
            "ha": _CENTRED.get(note.get("xanchor", "center"), note.get("xanchor")),
            "va": _CENTRED.get(note.get("yanchor", "middle"), note.get("yanchor")),
            "rotation": -note.get("textangle", 0),
            "fontweight": "bold" if "<b>" in note.get("text", "") else "normal",
            **font_of(layout["font"], note.get("font", {})),
        }
        axes.annotate(text_of(note.get("text")), point, arrowprops=arrow, **style)
        mark = _MARK.match(note.get("text", ""))
        if mark and style["ha"] == "left":  # the mark again, in its colour, on top of the first letter
            axes.annotate(mark[2], point, **style | {"color": colour_of(mark[1])})


_MARK = re.compile(r'<span style="color:([^"]+)">(.)</span>')
_CENTRED = {"auto": "center", "center": "center", "middle": "center"}


def _place(item: Mapping[str, Any], plots: Mapping[tuple[str, str], Plot]) -> tuple[Axes, Any]:
    """The subplot an annotation or shape belongs to, and the transform from its coordinates."""
    from matplotlib.transforms import blended_transform_factory

    wanted, transforms = [], []
    for side in ("x", "y"):
        reference = str(item.get(f"{side}ref", side))
        wanted.append(f"{side}axis{reference.removesuffix(' domain').removeprefix(side)}")
        transforms.append(reference == "paper" or reference.endswith("domain"))
    plot = plots.get((wanted[0], wanted[1])) or next(iter(plots.values()))
    across, upward = (plot.axes.transAxes if whole else plot.axes.transData for whole in transforms)
    return plot.axes, blended_transform_factory(across, upward)


def _unlogged(side: str, note: Mapping[str, Any], layout: Mapping[str, Any]) -> float:
    """Plotly gives annotations on logarithmic axes as exponents of ten."""
    reference = str(note.get(f"{side}ref", side))
    axis = layout.get(f"{side}axis{reference.removeprefix(side)}", {})
    return float(10.0 ** note[side] if axis.get("type") == "log" else note[side])


# ---- fonts, texts, colours


def font_of(default: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "fontsize": own.get("size", default["size"]) * POINTS_PER_PX,
        "color": colour_of(own.get("color", default["color"])),
    }


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
