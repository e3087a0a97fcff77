"""A report that travels: laws, comparison, figures and the provenance of every number in one HTML file.

The drawing library and the figures are inside the file, compressed, so it opens from disk without a server
or a network, and stays under 6 MB with 10,000 runs. Every figure comes from `analysis.figures`, every number
from the laws handed in; the tables are complete without JavaScript.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata, resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from analysis import figures
from analysis.checks.diagnostics import MOST_DIAGNOSED, diagnose
from analysis.errors import UserError
from analysis.estimate import shortest
from analysis.figures.axes import is_missing
from analysis.figures.theme import FONT, PALETTES, family_order, template
from analysis.table import provenance

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from analysis.comparison.multipliers import Comparison
    from analysis.laws.result import Law

MOST_ROWS = 500
"""Runs that the table of runs shows; the file stays small and a browser quick."""
MOST_CURVES = 60
"""Training curves drawn."""
RUN_COLUMNS_SHOWN = (
    "family", "size", "budget", "params", "tokens", "loss", "loss_se", "bits_per_byte", "status",
    "wall_s", "key",
)  # fmt: skip

Laws = Mapping[str, Mapping[str, "Law"]]
"""Family -> method -> law."""


def write_report(
    path: str | Path,
    runs: pd.DataFrame,
    laws: Laws,
    *,
    title: str = "Scaling laws",
    source: str = "",
    comparison: Comparison | None = None,
    refused: Mapping[str, Sequence[str]] | None = None,
    losses: pd.DataFrame | None = None,
) -> Path:
    """Write the report as `path`, whole or not at all, and return the path.

    runs: the table the laws were fitted to. source: where it came from, as the reader is to see it. refused:
    by family, why a law could not be fitted. losses: training loss along the runs, see
    `analysis.table.runs.loss_curves`. UserError where nothing was fitted or the file cannot be written.
    """
    path = Path(path)
    if not any(laws.values()):
        raise UserError("report: there is no law to report; fit one first")
    drawn: dict[str, go.Figure] = {}
    sections = [_overview(laws)]
    for family in family_order(laws):
        sections.append(_family(family, laws[family], (refused or {}).get(family, ()), runs, losses, drawn))
    if comparison is not None:
        sections.append(_comparison(comparison, drawn))
    sections += [_runs(runs), _provenance(runs, laws, source)]
    return _write(path, _page(title, source, runs, sections, drawn))


# -- sections: (anchor, heading, body) ----------------------------------------------------------

Section = tuple[str, str, str]


def _overview(laws: Laws) -> Section:
    rows = []
    for family in family_order(laws):
        for method, law in laws[family].items():
            largest = law.flops_range[1]
            best = law.optimal(largest)
            sizes = [_joined(number, number.low, number.high) for number in (best.params, best.tokens)]
            exponents = [str(law.exponents[name]) for name in ("params", "tokens")]
            rows.append([family, method, len(law.runs), *exponents, f"{largest:.3g}", *sizes, str(best.loss)])
    head = ["family", "law", "runs", "size exponent", "tokens exponent", "budget (FLOPs)",
            "best params", "tokens", "loss (nats)"]  # fmt: skip
    text = (
        "<p>Exponents of the compute-optimal frontier; brackets are intervals at the level of the fits. "
        'What each law was fitted to and how: <a href="#provenance">where the numbers come from</a>.</p>'
    )
    return "overview", "Overview", text + _table(head, rows)


def _family(
    family: str,
    laws: Mapping[str, Law],
    refused: Sequence[str],
    runs: pd.DataFrame,
    losses: pd.DataFrame | None,
    drawn: dict[str, go.Figure],
) -> Section:
    parts = []
    notes = [f"{method}: {note}" for method, law in laws.items() for note in (law.sentence, *law.warnings)]
    parts.append(_list([*notes, *refused]))
    parts += [_belief(law) for law in laws.values()]
    if "isoflop" in laws:
        parts.append(_figure(f"{family}-isoflop", laws["isoflop"].plot(), drawn))
        parts += [_minima(laws["isoflop"]), _stamp(laws["isoflop"])]
    if laws:
        parts.append(_figure(f"{family}-frontier", figures.frontier(dict(laws)), drawn))
        parts.append(_stamp(*laws.values()))
    for method, law in laws.items():
        table = law.summary()
        rows = [[q, *_interval(v, low, high)] for q, v, low, high in table.itertuples(index=False)]
        numbers = _table(["", "value", "interval"], rows) + _stamp(law)
        parts.append(_folded(f"All numbers of the {method} law", numbers))
    own = runs[runs["family"] == family] if "family" in runs else runs
    if losses is not None and len(losses) and 0 < len(own) <= MOST_CURVES:
        of_family = losses[losses["family"] == family] if "family" in losses else losses
        if len(of_family):
            parts.append(_figure(f"{family}-curves", figures.loss_curves(own, of_family), drawn))
    left_out = [str(run) for run in next(iter(laws.values())).excluded] if laws else []
    if left_out:
        parts.append(_folded(f"{len(left_out)} runs left out", _list(left_out)))
    return f"family-{_anchor(family)}", family, "".join(parts)


def _belief(law: Law) -> str:
    """Whether to believe a law: the verdict, and the checks behind it."""
    if len(law.runs) > MOST_DIAGNOSED:
        return (
            f"<p>{law.method} law of {len(law.runs)} runs: too many to check here; see analysis.diagnose.</p>"
        )
    found = diagnose(law)
    rows = found.table[["check", "grade", "finding"]].itertuples(index=False)
    checks = _folded(
        f"Checks of the {law.method} law", _table(["check", "grade", "finding"], rows, wrap=True)
    )
    return f"<p><strong>{law.method} law:</strong> {_text(found.verdict)}.</p>{checks}"


def _minima(law: Any) -> str:
    rows = []
    for row in law.minima.astype(object).to_dict(orient="records"):
        if row["status"] != "bracketed":
            rows.append([f"{row['flops']:.3g}", row["num_runs"], str(row["reason"]), "", "", ""])
            continue
        cells = [
            _joined(row[n], row[f"{n}_low"], row[f"{n}_high"])
            for n in ("params", "tokens", "tokens_per_param", "loss")
        ]
        rows.append([f"{row['flops']:.3g}", row["num_runs"], *cells])
    head = [
        "budget (FLOPs)",
        "runs",
        "best params",
        "tokens",
        "tokens per parameter",
        "loss (nats per token)",
    ]
    return _table(head, rows, caption="Best size at each budget")


def _comparison(comparison: Comparison, drawn: dict[str, go.Figure]) -> Section:
    rows = [
        [
            row["family"], f"{row['at_flops']:.3g}", f"{row['at_loss']:.4f}",
            _joined(row["multiplier"], row["low"], row["high"], unit="x"),
            f"{row['reference_flops']:.3g}", "extrapolated" if row["extrapolated"] else "",
        ]
        for row in comparison.multipliers.astype(object).to_dict(orient="records")
    ]  # fmt: skip
    head = ["family", "at its budget (FLOPs)", "at loss", f"compute over {comparison.reference}",
            f"{comparison.reference} needs (FLOPs)", ""]  # fmt: skip
    body = [
        _list(comparison.warnings),
        _figure("compare-frontiers", figures.frontier(comparison.laws), drawn),
        _figure("compare-multipliers", figures.compare(comparison), drawn),
        _table(head, rows, caption=f"Compute over {comparison.reference} at equal loss"),
        _folded(
            "The laws compared", _list(f"{n}: {provenance.of_law(law)}" for n, law in comparison.laws.items())
        ),
    ]
    return "compare", "Families compared", "".join(body)


def _runs(runs: pd.DataFrame) -> Section:
    names = [name for name in RUN_COLUMNS_SHOWN if name in runs.columns and runs[name].notna().any()]
    shown = runs.head(MOST_ROWS)
    rows = [[_cell(value) for value in row] for row in shown[names].itertuples(index=False)]
    more = f"<p>The first {len(shown)} of {len(runs)} runs.</p>" if len(runs) > len(shown) else ""
    return "runs", "Runs", more + _folded(f"{len(runs)} runs", _table(names, rows))


def _provenance(runs: pd.DataFrame, laws: Laws, source: str) -> Section:
    rows = []
    for family in family_order(laws):
        for method, law in laws[family].items():
            options = ", ".join(f"{name}={value}" for name, value in law.options.items())
            low, high = law.flops_range
            rows.append([family, method, len(law.runs), len(law.excluded), f"{low:.3g} to {high:.3g}",
                         str(law.status), str(law.cost), law.sha256[:16], options])  # fmt: skip
    head = ["family", "law", "runs", "left out", "budgets (FLOPs)", "status", "cost of a run",
            "SHA-256 of the data", "options"]  # fmt: skip
    body = [
        _table(["", ""], provenance.of_runs(runs, source), caption="The runs"),
        _table(head, rows, caption="The laws: every number and figure above names the one it is of"),
        _table(["", ""], provenance.of_program(), caption=f"Fitted and written {_now()} with"),
    ]
    return "provenance", "Where the numbers come from", "".join(body)


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"


def _stamp(*laws: Law) -> str:
    """Below a figure or a table: the laws its numbers are of."""
    return "".join(f'<p class="muted stamp">{_text(provenance.of_law(law))}</p>' for law in laws)


# -- pieces of HTML -----------------------------------------------------------------------------


def _text(value: object) -> str:
    return html.escape(str(value))


def _anchor(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name)


def _table(
    head: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str = "", wrap: bool = False
) -> str:
    titles = "".join(f'<th scope="col">{_text(name)}</th>' for name in head)
    body = "".join("<tr>" + "".join(f"<td>{_text(v)}</td>" for v in row) + "</tr>" for row in rows)
    above = f"<caption>{_text(caption)}</caption>" if caption else ""
    kind = ' class="wrap"' if wrap else ""
    table = f"<table{kind}>{above}<thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def _list(sentences: Iterable[str]) -> str:
    items = "".join(f"<li>{_text(sentence)}</li>" for sentence in dict.fromkeys(sentences))
    return f'<ul class="warnings">{items}</ul>' if items else ""


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{_text(title)}</summary>{body}</details>"


def _figure(name: str, figure: go.Figure, drawn: dict[str, go.Figure]) -> str:
    ident = f"figure-{len(drawn)}"
    drawn[ident] = figure
    height = figure.layout.height or 600
    label = _text(figure.layout.title.text or name)
    return (
        f'<div class="figure" id="{ident}" role="img" aria-label="{label}" style="height:{height}px"></div>'
    )


def _interval(value: Any, low: Any, high: Any) -> list[str]:
    if any(is_missing(number) for number in (value, low, high)):
        return ["" if is_missing(value) else _short(value), ""]
    return [_short(value), f"[{_short(low)}, {_short(high)}]"]


def _joined(value: Any, low: Any, high: Any, *, unit: str = "") -> str:
    shown, ends = _interval(value, low, high)
    return f"{shown}{unit} {ends}".strip()


def _short(number: float) -> str:
    """Four digits; counts in thousands, millions and billions."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if size <= abs(number) < 1e12:
            return f"{shortest(number / (1e3 if letter == 'k' else size), 3)}{letter}"
    return shortest(float(number), 4)


def _cell(value: object) -> str:
    if is_missing(value):
        return ""
    return _short(value) if isinstance(value, float) else str(value)


# -- the page -----------------------------------------------------------------------------------


def _page(
    title: str, source: str, runs: pd.DataFrame, sections: Sequence[Section], drawn: Mapping[str, go.Figure]
) -> str:
    colours = {f"{theme}_{name}": getattr(PALETTES[theme], name)
               for theme in PALETTES for name in ("paper", "text", "muted", "grid")}  # fmt: skip
    page = Template(resources.files("analysis").joinpath("report.html").read_text(encoding="utf-8"))
    return page.substitute(
        colours,
        font=FONT,
        title=_text(title),
        subtitle=f"{len(runs)} runs" + (f" from {_text(source)}" if source else "")
        + f". Written {_now()}.",
        links="".join(f'<a href="#{anchor}">{_text(heading)}</a>' for anchor, heading, _ in sections),
        sections="".join(
            f'<section id="{anchor}"><h2>{_text(heading)}</h2>{body}</section>'
            for anchor, heading, body in sections
        ),
        footer=f"scaling {metadata.version('scaling')}; losses are nats per token on held-out text.",
        library=_packed(_library()),
        figures=_packed(_figures_json(drawn).encode()),
    )  # fmt: skip


def _figures_json(drawn: Mapping[str, go.Figure]) -> str:
    """All figures without their templates, which are the same in all, one per theme."""
    plain = {}
    for name, figure in drawn.items():
        content = figure.to_plotly_json()
        layout = {key: value for key, value in content["layout"].items() if key not in ("template", "width")}
        plain[name] = {"data": content["data"], "layout": {**layout, "autosize": True}}
    templates = {theme: template(theme).to_plotly_json() for theme in PALETTES}
    from plotly.utils import PlotlyJSONEncoder

    return json.dumps({"templates": templates, "figures": plain}, cls=PlotlyJSONEncoder)


def _library() -> bytes:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs().encode()


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()


def _write(path: Path, content: str) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(content, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error})") from None
    finally:
        with suppress(OSError):
            temporary.unlink()
    return path
