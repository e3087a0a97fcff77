"""The page: as the server gives it, and as one file with its data inside.

Both are the same HTML, style and script. The file carries the drawing library and the data compressed; its
policy allows those two scripts by their hashes and nothing from outside.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import importlib.util
import json
import re
import time
from functools import cache
from importlib import resources
from pathlib import Path
from string import Template

from analysis.dashboard.board import Board
from analysis.dashboard.security import OWN_STYLES
from analysis.figures import axes
from analysis.figures.theme import (
    FAMILY_STYLES,
    FONT,
    NEUTRAL,
    PALETTES,
    RAMP,
    SPARE_SYMBOLS,
    template_layout,
)

SCRIPTS = (
    *("dom", "format", "store", "route", "ticks", "draw", "sketch", "parts"),
    *("overview", "isoflop", "frontier", "compare", "ask", "health", "curves", "run", "shell", "main"),
)
"""In the order in which they run: the views use what stands before them."""
LARGEST_FILE = 5_900_000
FRAME_BYTES = 20_000
"""Of an exported file beside its script, style and data."""
START = re.compile(r"#/[a-z]+(\?[A-Za-z0-9_.,:;|=&%+~*-]{0,600})?")
"""Addresses inside the page, as the page itself writes them."""


def _static(name: str) -> str:
    return resources.files("analysis.dashboard").joinpath("static", name).read_text(encoding="utf-8")


@cache
def look() -> str:
    """Colours, markers and words that the drawings of the notebook have too, as JSON."""
    return json.dumps(
        {
            "families": {n: {"colour": s.colour, "symbol": s.symbol} for n, s in FAMILY_STYLES.items()},
            "neutral": NEUTRAL,
            "spare": SPARE_SYMBOLS,
            "ramp": RAMP["light"],
            "templates": {theme: template_layout(theme) for theme in PALETTES},
            "titles": {"loss": axes.LOSS, "compute": axes.COMPUTE, "tokens": axes.TOKENS,
                       "ratio": axes.TOKENS_PER_PARAM, "training": "Training objective (nats per token)"},
        }
    )  # fmt: skip


@cache
def script() -> str:
    parts = [f'"use strict";\nconst LOOK = {look()};']
    parts += [_static(f"js/{name}.js") for name in SCRIPTS]
    return "(() => {\n" + "\n".join(parts) + "\n})();\n"


@cache
def style() -> str:
    colours = {f"{theme}_{name}": getattr(PALETTES[theme], name)
               for theme in PALETTES for name in ("paper", "text", "muted", "grid", "line")}  # fmt: skip
    return Template(_static("style.css")).substitute(colours, font=FONT)


@cache
def library() -> bytes:
    """plotly.js as it lies in the plotly package, without importing that package."""
    spec = importlib.util.find_spec("plotly")
    assert spec is not None, "plotly is a dependency of this package"
    assert spec.origin is not None, "plotly is an ordinary package"
    return (Path(spec.origin).parent / "package_data" / "plotly.min.js").read_bytes()


def pack(content: bytes) -> tuple[bytes, str]:
    """gzip and e-tag."""
    return gzip.compress(content, 6, mtime=0), hashlib.sha256(content).hexdigest()[:24]


def unpack(content: bytes) -> bytes:
    return gzip.decompress(content)


def served(title: str) -> str:
    """The page as the server gives it."""
    version = hashlib.sha256(library()).hexdigest()[:12]
    return _page(
        title=title,
        policy="",
        style='<link rel="stylesheet" href="style.css">',
        data=f'<meta name="library" content="plotly.js?{version}">',
        script='<script src="app.js" defer></script>',
        tail="",
    )


def room_for_curves(board: Board) -> int:
    """Bytes that packed loss curves may have, so that the exported file stays within LARGEST_FILE."""
    held = [packed_library(), board.page.content, *(told.content for told in board.laws.values())]
    texts = len(script()) + len(style()) + FRAME_BYTES
    return (LARGEST_FILE - texts) * 3 // 4 - sum(map(len, held))


def exported(board: Board, curves: bytes, *, title: str, start: str = "") -> bytes:
    """The page with all that is known inside; it opens at address `start` of the page. curves: packed."""
    program, drawing, looks = script(), library(), style()
    allowed = " ".join(_hash(text) for text in (program.encode(), drawing))
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src-elem {_hash(looks.encode())} {OWN_STYLES}; "
        "style-src-attr 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    start = start if START.fullmatch(start) else ""
    known = {"start": start, "written": time.time(), "state": board.state()}
    parts = {
        "known": _pack(json.dumps(known).encode()),
        "runs": _pack(gzip.decompress(board.page.content) if board.page.content else b"null"),
        "curves": curves,
        "library": packed_library(),
    }
    parts |= {f"laws-{'|'.join(c)}": t.content for c, t in dict(board.laws).items() if t.content}
    data = "\n".join(_carried(name, content) for name, content in parts.items())
    return _page(
        title=title,
        policy=f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        style=f"<style>{looks}</style>",
        data=data,
        script="",
        tail=f"<script>{program}</script>",
    ).encode()


def _page(**parts: str) -> str:
    parts["title"] = html.escape(parts["title"])
    return Template(_static("index.html")).substitute(parts)


def _pack(content: bytes) -> bytes:
    return gzip.compress(content, 9, mtime=0)


@cache
def packed_library() -> bytes:
    return _pack(library())


def _carried(name: str, packed: bytes) -> str:
    """As base64 of gzip: no text of a run can end the element, whatever it says."""
    text = base64.b64encode(packed).decode()
    return f'<script type="application/octet-stream" data-part="{html.escape(name)}">{text}</script>'


def _hash(content: bytes) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'"


def file_name(title: str) -> str:
    """A name for the downloaded file, of letters, digits and dashes."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", title).strip("-").lower()[:60]
    return f"{plain or 'scaling'}-dashboard.html"
