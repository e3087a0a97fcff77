"""Figures as files: PNG and SVG without a browser, HTML that opens from disk without a network."""

from __future__ import annotations

import html
import os
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.errors import UserError

if TYPE_CHECKING:
    import plotly.graph_objects as go

KINDS = (".png", ".svg", ".html")

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
  body {{ margin: 0 auto; max-width: {width}px; padding: 12px; background: {paper}; }}
  main {{ min-width: 800px; }}
</style>
</head>
<body>
<main aria-label="{title}">
{figure}
</main>
</body>
</html>
"""


def save(figure: go.Figure, path: str | Path, *, scale: float = 2.0) -> Path:
    """Write the figure as .png, .svg or .html, by the suffix of `path`; returns the path.

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
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def page(figure: go.Figure) -> str:
    """A whole HTML page around the figure, plotly.js inside (4.6 MB): it needs no other file, no network."""
    layout = figure.layout
    drawn = figure.to_html(
        full_html=False,
        include_plotlyjs=True,
        default_height=f"{layout.height or 600}px",
        config={"displaylogo": False, "responsive": True, "toImageButtonOptions": {"format": "svg"}},
        div_id="figure",
    )
    paper = layout.paper_bgcolor or layout.template.layout.paper_bgcolor or "#ffffff"
    title = html.escape(layout.title.text or "Figure")
    return _PAGE.format(title=title, figure=drawn, paper=paper, width=layout.width or 1200)
