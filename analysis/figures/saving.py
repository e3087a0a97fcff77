"""Figures as files: PNG, SVG and PDF without a browser, HTML that opens from disk without a network."""

from __future__ import annotations

import base64
import gzip
import html
import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from analysis.errors import UserError
from analysis.figures import parts, theme
from analysis.files import write_whole

if TYPE_CHECKING:
    import plotly.graph_objects as go

KINDS = (".png", ".svg", ".pdf", ".html")


def save(figure: go.Figure, path: str | Path, *, scale: float = 2.0) -> Path:
    """Write the figure as .png, .svg, .pdf or .html, by the suffix of `path`; returns the path.

    `scale` is the number of PNG pixels per pixel of the figure. Missing folders are made. The file is
    complete or not there: it is written under another name first. UserError for another suffix.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise UserError(f"path is {str(path)!r}; a figure is saved as one of {', '.join(KINDS)}")
    if kind == ".html":
        content = page(figure).encode()
    else:
        from analysis.figures.static import render

        content = render(figure, kind[1:], scale=scale)
    return write_whole(path, content)


def page(figure: go.Figure) -> str:
    """A whole HTML page with the figure, light or dark as the reader's system, the drawing library inside
    (1.6 MB): it needs no other file and no network."""
    drawn: dict[str, go.Figure] = {}
    body = f"<main>{placed(figure, drawn)}</main>"
    return document(figure.layout.title.text or "Figure", body, drawn)


def placed(figure: go.Figure, drawn: dict[str, go.Figure]) -> str:
    """The place of a figure in a page: title, caption, provenance, and the box that `document` draws in.

    Adds the figure to `drawn`.
    """
    ident = f"figure-{len(drawn)}"
    drawn[ident] = figure
    title = html.escape(html.unescape(figure.layout.title.text or "Figure"))
    meta = figure.layout.meta or {}
    caption, provenance = (html.escape(meta.get(name) or "") for name in ("caption", "provenance"))
    return (
        f"<figure><figcaption><strong>{title}</strong><br>{caption}</figcaption>"
        f'<div class="figure" id="{ident}" role="img" aria-label="{title}" '
        f'style="height:{figure.layout.height or 600}px"></div>'
        f"<figcaption>{provenance}</figcaption></figure>"
    )


def document(title: str, body: str, drawn: Mapping[str, go.Figure]) -> str:
    """A whole page: `body` is HTML with the places of the figures `drawn`.

    The figures are packed without what the page has or adds: templates, titles, widths.
    """
    from plotly.utils import PlotlyJSONEncoder

    figures = {}
    for name, figure in drawn.items():
        content = figure.to_plotly_json()
        layout = {key: v for key, v in content["layout"].items() if key not in ("template", "width", "title")}
        caption = figure.layout.title.subtitle.text or ""
        words = parts.TOP_PX - 24 + parts.CAPTION_LINE_PX * (1 + caption.count("<br>"))
        margin = {"t": 100} | (layout.get("margin") or {})
        layout |= {"autosize": True, "margin": margin | {"t": max(margin["t"] - words, 20)}}
        layout["height"] = (layout.get("height") or 600) - min(words, margin["t"] - 20)
        figures[name] = json.dumps({"data": content["data"], "layout": layout}, cls=PlotlyJSONEncoder)
    templates = {name: {"layout": theme.template_layout(name)} for name in theme.PALETTES}
    packed = _packed(json.dumps({"templates": templates, "dark": theme.DARK, "figures": figures}))
    palettes = {
        f"{name}_{part}": getattr(palette, part)
        for name, palette in theme.PALETTES.items()
        for part in ("paper", "text", "muted", "grid")
    }
    page = Template(resources.files("analysis.figures").joinpath("page.html").read_text(encoding="utf-8"))
    return page.substitute(
        palettes, font=theme.FONT, title=html.escape(html.unescape(title)), body=body, library=_library(),
        figures=packed,
    )  # fmt: skip


@cache
def _library() -> str:
    from plotly.offline import get_plotlyjs

    return _packed(get_plotlyjs())


def _packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()
