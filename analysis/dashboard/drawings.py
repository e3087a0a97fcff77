"""The figures of `analysis.figures` as the page gets them: plain JSON, with few enough points to draw.

`plain` turns a Plotly figure into {"data", "layout", "caption", ...}; `first_paint` draws it as an SVG, which
the page shows until plotly.js has loaded; `picture` is a file of what a visitor sees, filters applied.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.dashboard.columns import plain as plain_value

if TYPE_CHECKING:
    import plotly.graph_objects as go

MOST_POINTS = 1400
"""Of one figure; of points on top of each other one is kept, which says how many it stands for."""
FIRST_WIDTH, PICTURE_WIDTH = 1380, 1200
DIGITS = 5
BARE_PX, TITLE_PX = 40, 84
"""Room above the panels, without and with a title."""
FINEST, COARSER = 400, 1.3
"""Cells along an axis that are tried first, and the factor by which there are fewer then."""


def plain(figure: go.Figure, nominal: Mapping[float, float] | None = None) -> dict[str, Any]:
    """The figure as JSON without title and template, which the page adds in its own theme.

    nominal: the budget by which the page knows each budget of the law, where another count changes it.
    """
    content = figure.to_plotly_json()
    heading, meta = content["layout"].get("title", {}), content["layout"].get("meta") or {}
    layout = {k: v for k, v in content["layout"].items() if k not in ("template", "width", "title", "meta")}
    layout, by_page = _json(layout), nominal or {}
    margin = layout.get("margin", {})
    top = margin.get("t", TITLE_PX)  # with the title, which the page writes elsewhere
    layout["margin"] = margin | {"t": BARE_PX}
    if "height" in layout:
        layout["height"] -= top - BARE_PX
    for note in (*layout.get("annotations", ()), *layout.get("shapes", ())):
        kind, _, value = str(note.get("name") or "").partition(":")
        if kind == "budget":
            note["name"] = f"budget:{_nominal(float(value), by_page)}"
    _thin(content["data"], layout)
    texts: dict[str, int] = {}
    data = []
    for number, trace in enumerate(content["data"]):
        own = {name: value for name, value in (trace.get("meta") or {}).items() if name != "keys"}
        if own.get("budget") is not None:
            own["budget"] = _nominal(float(own["budget"]), by_page)
        plain_trace = _json({name: value for name, value in trace.items() if name != "meta"}) | {"meta": own}
        if isinstance(plain_trace.get("hovertext"), list):
            # panels that show the same points say the same of them: the page looks it up
            first = texts.setdefault("\n".join(map(str, plain_trace["hovertext"])), number)
            plain_trace["hovertext"] = plain_trace["hovertext"] if first == number else first
        data.append(plain_trace)
    return {
        "data": data, "layout": layout, "heading": _json(heading), "top": top,
        "caption": meta.get("caption", ""), "provenance": meta.get("provenance", ""),
    }  # fmt: skip


def _nominal(budget: float, nominal: Mapping[float, float]) -> float:
    nearest = min(nominal, key=lambda own: abs(math.log(own / budget)), default=None)
    return float(f"{budget if nearest is None else nominal[nearest]:.7g}")


def _json(value: Any) -> Any:
    value = _values(value)
    if isinstance(value, Mapping):
        return {str(name): _json(inner) for name, inner in value.items() if inner is not None}
    if hasattr(value, "tolist") and getattr(value, "ndim", None):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_json(inner) for inner in value]
    number = plain_value(value, DIGITS)
    return None if number in ("inf", "-inf") else number


def _values(column: Any) -> Any:
    """The values of a trace's column, which Plotly may have packed."""
    import numpy as np

    if isinstance(column, Mapping) and "bdata" in column:
        return np.frombuffer(base64.b64decode(column["bdata"]), column["dtype"])
    return column


def _thin(data: list[dict[str, Any]], layout: Mapping[str, Any]) -> None:
    """Keep at most about MOST_POINTS points that stand for runs, spread over what each trace covers."""
    points = [t for t in data if t.get("customdata") is not None and "lines" not in t["mode"]]
    total = sum(len(trace["customdata"]) for trace in points)
    if total <= MOST_POINTS:
        return
    for trace in points:
        count = len(trace["customdata"])
        x, y = (_places(_values(trace[n]), layout, trace.get(f"{n}axis", n)) for n in ("x", "y"))
        first, sizes = _groups(x, y, max(2, round(count * MOST_POINTS / total)))
        for holder in (trace, trace.get("marker", {})):
            columns = {name: _values(column) for name, column in holder.items()}
            holder |= {name: [column[at] for at in first] for name, column in columns.items()
                       if isinstance(column, list | tuple) or hasattr(column, "tolist")
                       if len(column) == count}  # fmt: skip
        if "hovertext" in trace:
            more = [f"<br>and {size - 1} more here" if size > 1 else "" for size in sizes]
            trace["hovertext"] = [a + b for a, b in zip(trace["hovertext"], more, strict=True)]


def _groups(x: Any, y: Any, most: int) -> tuple[list[int], list[int]]:
    """Points close to each other, in at most `most` groups, as the first point of each and their number:
    cells of a grid, coarser until there are few."""
    import numpy as np

    cells = float(FINEST)
    while True:
        cell = (x * cells).astype(int) * (FINEST + 1) + (y * cells).astype(int)
        _, first, sizes = np.unique(cell, return_index=True, return_counts=True)
        if len(first) <= most:
            return first.tolist(), sizes.tolist()
        cells /= COARSER


def _places(values: Any, layout: Mapping[str, Any], axis: str) -> Any:
    """Where the values lie between the least (0) and the greatest (1)."""
    import numpy as np

    places = np.nan_to_num(np.array(values, dtype=np.float64))
    if layout.get(f"{axis[0]}axis{axis[1:]}", {}).get("type") == "log":
        places = np.log(np.where(places > 0, places, 1.0))
    return (places - places.min()) / (np.ptp(places) or 1.0)


def first_paint(content: Mapping[str, Any]) -> str:
    """A plain figure as SVG of the light theme; texts stay texts, so that it is small."""
    import matplotlib as mpl

    from analysis.figures import static, theme

    figure = _figure(content, theme.template("light"))
    figure.update_layout(width=FIRST_WIDTH, margin={"b": 54, **content["layout"]["margin"]})
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "figure", "svg.fonttype": "none"}):
        static.draw(figure).savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"\d+\.\d\d+", lambda number: f"{float(number[0]):.4g}", text[text.index("<svg") :])
    return re.sub(r"\s*\n\s*", "\n", text.replace("DejaVu Sans", "system-ui"))


def picture(content: Mapping[str, Any], path: Path, *, families: Collection[str] = (),
            budgets: Collection[float] = (), theme_name: str = "light") -> Path:  # fmt: skip
    """Save a plain figure by the suffix of `path`, with those families and budgets alone (none: all)."""
    from analysis import figures
    from analysis.figures import theme

    def is_chosen(family: object, budget: object) -> bool:
        right_family = not families or family in (None, "") or family in families
        return right_family and (
            not budgets or budget is None or any(abs(float(str(budget)) / one - 1) < 0.06 for one in budgets)
        )

    def is_note_chosen(note: Mapping[str, Any]) -> bool:
        kind, _, value = str(note.get("name") or "").partition(":")
        return is_chosen(value if kind == "family" else None, value if kind == "budget" else None)

    kept = [t for t in content["data"] if is_chosen(t["meta"].get("family"), t["meta"].get("budget"))]
    layout = dict(content["layout"])
    for name in ("annotations", "shapes"):
        layout[name] = [note for note in layout.get(name, ()) if is_note_chosen(note)]
    figure = _figure({"data": kept, "layout": layout}, theme.template("light"))
    height = (layout.get("height") or 0) + content["top"] - BARE_PX
    figure.update_layout(
        title=content["heading"], width=PICTURE_WIDTH, height=height, margin={"t": content["top"]},
        meta={"provenance": content["provenance"]},
    )  # fmt: skip
    return figures.save(theme.set_theme(figure, theme_name), path)


def _figure(content: Mapping[str, Any], template: Any) -> go.Figure:
    import plotly.graph_objects as go

    # what the pointer shows is no part of a picture
    data = [{name: value for name, value in t.items() if name != "hovertext"} for t in content["data"]]
    return go.Figure(data, {**content["layout"], "template": template})
