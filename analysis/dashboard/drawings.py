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
    layout = {k: v for k, v in content["layout"].items() if k not in ("template", "width", "title")}
    meta = dict(layout.pop("meta", None) or {})
    data = [_trace(trace, nominal or {}) for trace in content["data"]]
    _thin(data, layout)
    texts: dict[str, int] = {}
    for number, trace in enumerate(data):
        if isinstance(trace.get("hovertext"), list):
            # panels that show the same points say the same of them: the page looks it up
            first = texts.setdefault("\n".join(map(str, trace["hovertext"])), number)
            trace["hovertext"] = trace["hovertext"] if first == number else first
    shown = {"data": data, "layout": _json(layout), "heading": _json(content["layout"].get("title", {}))}
    shown |= {name: meta.get(name, "") for name in ("caption", "provenance")}
    margin = shown["layout"].get("margin", {})
    shown["top"] = margin.get("t", TITLE_PX)  # with the title, which the page writes elsewhere
    shown["layout"]["margin"] = margin | {"t": BARE_PX}
    if "height" in shown["layout"]:
        shown["layout"]["height"] -= shown["top"] - BARE_PX
    for note in (*shown["layout"].get("annotations", ()), *shown["layout"].get("shapes", ())):
        kind, _, value = str(note.get("name") or "").partition(":")
        if kind == "budget":
            note["name"] = f"budget:{_nominal(float(value), nominal or {})}"
    return shown


def _nominal(budget: float, nominal: Mapping[float, float]) -> float:
    nearest = min(nominal, key=lambda known: abs(math.log(known / budget)), default=None)
    return float(f"{budget if nearest is None else nominal[nearest]:.7g}")


def _trace(trace: Mapping[str, Any], nominal: Mapping[float, float]) -> dict[str, Any]:
    meta = {name: value for name, value in (trace.get("meta") or {}).items() if name != "keys"}
    if meta.get("budget") is not None:
        meta["budget"] = _nominal(float(meta["budget"]), nominal)
    return {**_json({name: value for name, value in trace.items() if name != "meta"}), "meta": meta}


def _json(value: Any) -> Any:
    if isinstance(value, Mapping) and "bdata" in value:  # as Plotly writes arrays of numbers
        import numpy as np

        value = np.frombuffer(base64.b64decode(value["bdata"]), value["dtype"])
    if isinstance(value, Mapping):
        return {str(name): _json(inner) for name, inner in value.items() if inner is not None}
    if hasattr(value, "tolist") and getattr(value, "ndim", None):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_json(inner) for inner in value]
    number = plain_value(value, DIGITS)
    return None if number in ("inf", "-inf") else number


def _thin(data: list[dict[str, Any]], layout: Mapping[str, Any]) -> None:
    """Keep at most about MOST_POINTS points that stand for runs, spread over what each trace covers."""
    points = [trace for trace in data if trace.get("customdata") and "lines" not in trace["mode"]]
    total = sum(len(trace["customdata"]) for trace in points)
    if total <= MOST_POINTS:
        return
    for trace in points:
        count = len(trace["customdata"])
        groups = _groups(trace, layout, max(2, round(count * MOST_POINTS / total)))
        for holder in (trace, trace.get("marker", {})):
            lists = {k: v for k, v in holder.items() if isinstance(v, list) and len(v) == count}
            holder |= {name: [values[group[0]] for group in groups] for name, values in lists.items()}
        if "hovertext" in trace:
            more = [f"<br>and {len(group) - 1} more here" if len(group) > 1 else "" for group in groups]
            trace["hovertext"] = [a + b for a, b in zip(trace["hovertext"], more, strict=True)]


def _groups(trace: Mapping[str, Any], layout: Mapping[str, Any], most: int) -> list[list[int]]:
    """Points close to each other, in at most `most` groups: cells of a grid, coarser until there are few."""
    places = [_places(trace[name], layout, trace.get(f"{name}axis", name)) for name in ("x", "y")]
    cells = float(FINEST)
    while True:
        groups: dict[tuple[int, int], list[int]] = {}
        for at, (x, y) in enumerate(zip(*places, strict=True)):
            groups.setdefault((int(x * cells), int(y * cells)), []).append(at)
        if len(groups) <= most:
            return list(groups.values())
        cells /= COARSER


def _places(values: list[Any], layout: Mapping[str, Any], axis: str) -> list[float]:
    """Where the values lie between the least (0) and the greatest (1)."""
    log = layout.get(f"{axis[0]}axis{axis[1:]}", {}).get("type") == "log"
    shown = [0.0 if v is None else math.log(v) if log and v > 0 else float(v) for v in values]
    low, high = min(shown), max(shown)
    return [(value - low) / ((high - low) or 1.0) for value in shown]


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

    def shown(family: object, budget: object) -> bool:
        right_family = not families or family in (None, "") or family in families
        return right_family and (not budgets or budget is None or _among(float(str(budget)), budgets))

    def shown_note(note: Mapping[str, Any]) -> bool:
        kind, _, value = str(note.get("name") or "").partition(":")
        return shown(value if kind == "family" else None, value if kind == "budget" else None)

    kept = [t for t in content["data"] if shown(t["meta"].get("family"), t["meta"].get("budget"))]
    layout = dict(content["layout"])
    for name in ("annotations", "shapes"):
        layout[name] = [note for note in layout.get(name, ()) if shown_note(note)]
    figure = _figure({"data": kept, "layout": layout}, theme.template("light"))
    height = (layout.get("height") or 0) + content["top"] - BARE_PX
    figure.update_layout(
        title=content["heading"], width=PICTURE_WIDTH, height=height, margin={"t": content["top"]},
        meta={"provenance": content["provenance"]},
    )  # fmt: skip
    return figures.save(theme.set_theme(figure, theme_name), path)


def _among(budget: float, budgets: Collection[float]) -> bool:
    return any(abs(budget / one - 1) < 0.06 for one in budgets)


def _figure(content: Mapping[str, Any], template: Any) -> go.Figure:
    import plotly.graph_objects as go

    # what the pointer shows is no part of a picture
    data = [{name: value for name, value in t.items() if name != "hovertext"} for t in content["data"]]
    return go.Figure(data, {**content["layout"], "template": template})
