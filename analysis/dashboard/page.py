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
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from analysis.dashboard.security import OWN_STYLES
from analysis.dashboard.state import Count, State
from analysis.figures import axes
from analysis.figures.curves import run_curves
from analysis.figures.theme import (
    DARK,
    FAMILY_STYLES,
    FONT,
    NEUTRAL,
    PALETTES,
    budget_colours,
    template_layout,
)
from analysis.text import count_text

SCRIPTS = (
    *("dom", "format", "store", "route", "figure", "parts"),
    *("answer", "overview", "isoflop", "frontier", "compare", "speed", "health"),
    *("curves", "notes", "overlay", "filter", "list", "run", "shell", "main"),
)
"""In the order in which they run: the views use what stands before them."""
MOST_CURVES = 20
"""In one figure, of runs chosen in the list."""
LARGEST_FILE = 5_900_000
FRAME_BYTES = 20_000
"""Of an exported file beside its script, style and data."""
START = re.compile(r"#/[a-z]+(\?[A-Za-z0-9_.,:;|=&%+~*-]{0,600})?")
"""Addresses inside the page, as the page itself writes them."""


def _static(name: str) -> str:
    return resources.files("analysis.dashboard").joinpath("static", name).read_text(encoding="utf-8")


@cache
def look() -> str:
    """Colours, markers and words of every figure, as JSON, and the figures of a run's curves, which the page
    fills with the points of the run: a file carries thousands of curves, but no thousands of figures."""
    curves = {
        name + more: run_curves(held_out=bool(more), several=name == "curves")
        for name in ("curve", "curves")
        for more in ("", "_held_out")
    }
    ramps = [budget_colours(count) for count in range(MOST_CURVES + 1)]
    distinct = [style.colour for style in FAMILY_STYLES.values()]
    titles = {"loss": axes.LOSS, "flops": axes.COMPUTE, "tokens": axes.TOKENS, "step": "Steps"}
    places = [digit * 10.0**ten for ten in range(27) for digit in (1, 3)]
    counts = dict.fromkeys(("tokens", "step"), count_text)
    texts: dict[str, Callable[[float], str]] = {"flops": axes.compute_text, **counts}
    ticks = {name: {"tickvals": places, "ticktext": list(map(text, places))} for name, text in texts.items()}
    templates = {theme: template_layout(theme) for theme in PALETTES}
    palettes = {theme: vars_of(theme) for theme in PALETTES}
    return json.dumps({"neutral": NEUTRAL, "dark": DARK, "palettes": palettes, "templates": templates,
                       "titles": titles, "ticks": ticks, "ramps": ramps, "distinct": distinct,
                       **curves})  # fmt: skip


def vars_of(theme: str) -> dict[str, str]:
    """The colours of a theme that are no data."""
    return {name: getattr(PALETTES[theme], name) for name in ("paper", "text", "muted", "grid", "line")}


@cache
def script() -> str:
    parts = [f'"use strict";\nconst LOOK = {look()};']
    parts += [_static(f"js/{name}.js") for name in SCRIPTS]
    return "(() => {\n" + "\n".join(parts) + "\n})();\n"


@cache
def style() -> str:
    colours = {f"{theme}_{name}": colour for theme in PALETTES for name, colour in vars_of(theme).items()}
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


def count_at(state: State, start: str) -> Count:
    """How address `start` of the page counts."""
    query = {**state.runs.facts.get("default", {}), **dict(re.findall(r"[?&](params|flops)=(\w+)", start))}
    return query.get("params", ""), query.get("flops", "")


def carried_laws(state: State, count: Count, figures: Mapping[str, Any]) -> dict[str, bytes]:
    """The laws an exported file carries, by "params|flops", as gzip of JSON: those of `count` with `figures`,
    the others without."""
    carried = {}
    for own, laws in dict(state.laws).items():
        if laws.content:
            kept = json.loads(gzip.decompress(laws.content)) | {"figures": figures if own == count else {}}
            carried["|".join(own)] = _pack(json.dumps(kept, separators=(",", ":")).encode())
    return carried


def room_for_curves(state: State, laws: Mapping[str, bytes]) -> int:
    """Bytes that packed loss curves may have, so that the exported file stays within LARGEST_FILE."""
    held = [packed_library(), state.runs.content, *laws.values()]
    texts = len(script()) + len(style()) + FRAME_BYTES
    return (LARGEST_FILE - texts) * 3 // 4 - sum(map(len, held))


def exported(state: State, curves: bytes, laws: Mapping[str, bytes], *, title: str, start: str = "") -> bytes:
    """The page with its data inside; it opens at address `start` of the page. curves: packed; laws: see
    `carried_laws`."""
    program, drawing, looks = script(), library(), style()
    allowed = " ".join(_hash(text) for text in (program.encode(), drawing))
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src-elem {_hash(looks.encode())} {OWN_STYLES}; "
        "style-src-attr 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    start = start if START.fullmatch(start) else ""
    opening = {"start": start, "written": time.time(), "state": state.summary()}
    parts = {
        "opening": _pack(json.dumps(opening).encode()),
        "runs": _pack(gzip.decompress(state.runs.content) if state.runs.content else b"null"),
        "curves": curves,
        "notes": _pack(json.dumps(state.notes_of_runs()["runs"]).encode()),
        "library": packed_library(),
    }
    parts |= {f"laws-{count}": content for count, content in laws.items()}
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
