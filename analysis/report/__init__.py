"""A report that travels: the answer, laws, comparison, figures and provenance in one HTML file.

The drawing library and the figures are inside the file, compressed, so it opens from disk without a server
or a network, and stays under 6 MB with 10,000 runs. Every figure comes from `analysis.figures`, every number
from the laws handed in, but for the answer, which is that of `analysis.recommend`; the tables are complete
without JavaScript.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import figures
from analysis.answer.methods import fit_families
from analysis.answer.recommendation import answer_from, usual_budget
from analysis.answer.shown import ranking_caption, ranking_table
from analysis.checks.diagnostics import MOST_DIAGNOSED, diagnose
from analysis.errors import UserError
from analysis.figures.saving import document, placed
from analysis.figures.theme import family_order
from analysis.files import write_whole
from analysis.laws.result import FitStatus
from analysis.printed import estimates
from analysis.speed.comparison import MANY, ONE, speed_quality
from analysis.table import provenance
from analysis.text import flops_text, interval_text, time_text, value_text, without_secrets

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
    path: str | Path, runs: pd.DataFrame, laws: Laws, *, title: str = "Scaling laws", source: str = "",
    comparison: Comparison | None = None, refused: Mapping[str, Sequence[str]] | None = None,
    losses: pd.DataFrame | None = None, samples: pd.DataFrame | None = None,
) -> Path:  # fmt: skip
    """Write the report as `path`, whole or not at all, and return the path.

    runs: the table the laws were fitted to. source: where it came from, as the reader will see it. refused:
    by family, why a law could not be fitted. losses: training loss along the runs, see
    `analysis.table.runs.loss_curves`. samples: a table of samples of these runs, see `analysis.load_samples`.
    UserError if nothing was fitted or the file cannot be written.
    """
    path, source = Path(path), without_secrets(source)
    if not any(laws.values()):
        raise UserError("report: there is no law to report; fit one first")
    drawn: dict[str, go.Figure] = {}
    reference = comparison.reference if comparison is not None else "ar"
    sections = [_answer(runs, reference, drawn), _overview(laws)]
    if comparison is not None:  # what most readers came for
        sections.append(_comparison(comparison, drawn))
    if samples is not None:
        sections.append(_speed(samples, drawn))
    for family in family_order(laws):
        sections.append(_family(family, laws[family], (refused or {}).get(family, ()), runs, losses, drawn))
    sections += [_runs(runs), _provenance(runs, laws, source)]
    links = "".join(f'<a href="#{anchor}">{_text(heading)}</a>' for anchor, heading, _ in sections)
    main = "".join(
        f'<section id="{anchor}"><h2>{_text(heading)}</h2>{body}</section>'
        for anchor, heading, body in sections
    )
    origin = f"{len(runs)} runs{f' from {_text(source)}' if source else ''}"
    body = f"""<header>
<h1>{_text(title)}</h1>
<p class="muted">{origin}. Written {time_text(datetime.now(UTC))}.</p>
<nav aria-label="sections">{links}</nav>
</header>
<noscript><p>The tables below are complete; the figures need JavaScript.</p></noscript>
<main>{main}</main>
<footer><p>scaling {metadata.version("scaling")}; losses are nats per token on held-out text.</p></footer>"""
    return write_whole(path, document(_text(title), body, drawn).encode())


# -- sections: (anchor, heading, body) ----------------------------------------------------------

Section = tuple[str, str, str]


def _answer(runs: pd.DataFrame, reference: str, drawn: dict[str, go.Figure]) -> Section:
    """For ten times the largest budget, which is what the runs are for, and for the largest one itself."""
    try:
        families, refused = fit_families(runs)
    except UserError as error:
        return "answer", "What to train", f"<p>There is no answer yet: {_text(error)}.</p>"
    largest = max(family.largest_budget for family in families.values())
    answers = [answer_from(families, refused, flops, reference=reference)
               for flops in (usual_budget(families), largest)]  # fmt: skip
    body = ""
    for answer in answers:
        body += f"<p><strong>{_text(answer.sentence)}</strong></p><p>{_text(answer.confidence)}</p>"
        if not answer.sentence_only:
            ranking = ranking_table(answer, ranges=True)
            body += _table(ranking.columns, ranking.rows, caption=ranking_caption(answer))
    if not answers[0].sentence_only and len(answers[0].table) > 1:
        body += _figures(drawn, answer=answers[0])
    if refused:
        body += _list(f"no law of {name or 'these runs'}: {reason}" for name, reason in refused.items())
    return "answer", "What to train", body


def _overview(laws: Laws) -> Section:
    rows = []
    for family in family_order(laws):
        for method, law in laws[family].items():
            largest = flops_text(law.flops_range[1])
            best = law.optimal(law.flops_range[1])
            sizes = {"params": best.params, "tokens": best.tokens}
            cells = [law.exponents["params"], law.exponents["tokens"], largest]
            cells += [value_text(name, number, number.low, number.high) for name, number in sizes.items()]
            rows.append([family, method, len(law.runs), *cells, best.loss])
    head = ["family", "law", "runs", "size exponent", "tokens exponent", "budget (FLOPs)",
            "best params", "tokens", "loss (nats)"]  # fmt: skip
    text = (
        "<p>Exponents of the compute-optimal frontier; brackets are intervals at the level of the fits. "
        'What each law was fitted to and how: <a href="#provenance">where the numbers come from</a>.</p>'
    )
    return "overview", "Overview", text + _table(head, rows)


def _family(
    family: str, laws: Mapping[str, Law], refused: Sequence[str], runs: pd.DataFrame,
    losses: pd.DataFrame | None, drawn: dict[str, go.Figure],
) -> Section:  # fmt: skip
    notes = []
    for method, law in laws.items():
        sentences = [law.sentence] if law.status is not FitStatus.CONVERGED else []
        notes += [f"{method}: {sentence}" for sentence in (*sentences, *law.warnings)]
    body = _caveats([*notes, *refused]) + ("<h3>Can these laws be trusted?</h3>" if laws else "")
    for method, law in laws.items():
        if len(law.runs) > MOST_DIAGNOSED:
            too_many = f"{method} law of {len(law.runs)} runs: too many to check here; see analysis.diagnose."
            body += f"<p>{too_many}</p>"
            continue
        diagnosis = diagnose(law)
        head = ["check", "grade", "finding"]
        checks = _table(head, diagnosis.table[head].itertuples(index=False), wrap=True)
        body += f"<p><strong>{method} law:</strong> {_text(diagnosis.verdict)}.</p>"
        body += _folded(f"Checks of the {method} law", checks)
    own = runs[runs["family"] == family] if "family" in runs else runs
    material: dict[str, Any] = {"laws": dict(laws)} if laws else {}
    material |= {figures.FIGURES[law.figure].of: law for law in laws.values() if law.figure != "frontier"}
    if losses is not None and len(losses) and 0 < len(own) <= MOST_CURVES:
        of_family = losses[losses["family"] == family] if "family" in losses else losses
        if len(of_family):
            material["runs"] = (own, of_family)
    body += _figures(drawn, **material)
    body += "".join(_minima(law) for law in laws.values() if hasattr(law, "minima"))
    body += "".join(_stamp(law) for law in laws.values())
    for method, law in laws.items():
        table = estimates(law.summary(), law.level, digits=4)
        numbers = _table(table.columns, table.rows) + _stamp(law)
        body += _folded(f"All numbers of the {method} law", numbers)
    left_out = list(map(str, next(iter(laws.values())).excluded)) if laws else []
    body += _folded(f"{len(left_out)} runs left out", _list(left_out)) if left_out else ""
    return f"family-{re.sub(r'[^A-Za-z0-9]+', '-', family)}", family, body


def _minima(law: Any) -> str:
    rows = []
    for row in law.minima.astype(object).to_dict("records"):
        cells = [str(row["reason"]), "", "", ""]
        if row["status"] == "bracketed":
            names = ("params", "tokens", "tokens_per_param", "loss")
            cells = [value_text(name, row[name], row[f"{name}_low"], row[f"{name}_high"]) for name in names]
        rows.append([flops_text(row["flops"]), row["num_runs"], *cells])
    head = ["budget (FLOPs)", "runs", "best params", "tokens", "tokens per parameter",
            "loss (nats per token)"]  # fmt: skip
    return _table(head, rows, caption="Best size at each budget")


def _comparison(comparison: Comparison, drawn: dict[str, go.Figure]) -> Section:
    reference = comparison.reference
    rows = [
        [
            row["family"], flops_text(row["at_flops"]), f"{row['at_loss']:.4f}",
            interval_text(row["multiplier"], row["low"], row["high"], unit="x"),
            flops_text(row["reference_flops"]), "extrapolated" if row["extrapolated"] else "",
        ]
        for row in comparison.multipliers.astype(object).to_dict("records")
    ]  # fmt: skip
    head = ["family", "at its budget (FLOPs)", "at loss", f"times the compute of {reference}",
            f"{reference} needs (FLOPs)", ""]  # fmt: skip
    laws = _list(f"{name}: {provenance.of_law(law)}" for name, law in comparison.laws.items())
    body = (
        _caveats(comparison.warnings)
        + _figures(drawn, laws=comparison.laws, comparison=comparison)
        + _table(head, rows, caption=f"Compute over {reference} at equal loss")
        + _folded("The laws compared", laws)
    )
    return "compare", "Families compared", body


def _speed(samples: pd.DataFrame, drawn: dict[str, go.Figure]) -> Section:
    place, heading = "speed", "Speed against quality"
    try:
        speed = speed_quality(samples)
    except UserError as error:
        return place, heading, f"<p>{_text(error)}.</p>"
    body = f"<p><strong>{_text(speed.sentence)}</strong></p>" + _caveats(speed.notes)
    body += _figures(drawn, speed=speed)
    for at in (MANY, ONE):
        table = speed.leads_table(at)
        body += _table(
            table.columns, table.rows, caption=f"The best at each speed, {at}; share: of resamples"
        )
    fronts = speed.text_table()
    return place, heading, body + _folded("The front of each family", _table(fronts.columns, fronts.rows))


def _runs(runs: pd.DataFrame) -> Section:
    names = [name for name in RUN_COLUMNS_SHOWN if name in runs.columns and runs[name].notna().any()]
    first = runs.head(MOST_ROWS)
    rows = [list(map(value_text, names, row)) for row in first[names].itertuples(index=False)]
    cut = f"<p>The first {len(first)} of {len(runs)} runs.</p>" if len(runs) > len(first) else ""
    return "runs", "Runs", cut + _folded(f"{len(runs)} runs", _table(names, rows))


def _provenance(runs: pd.DataFrame, laws: Laws, source: str) -> Section:
    rows = []
    for family in family_order(laws):
        for method, law in laws[family].items():
            options = ", ".join(f"{name}={value}" for name, value in law.options.items())
            budgets = " to ".join(map(flops_text, law.flops_range))
            rows.append([family, method, len(law.runs), len(law.excluded), budgets,
                         str(law.status), str(law.cost), law.sha256[:16], options])  # fmt: skip
    head = ["family", "law", "runs", "left out", "budgets (FLOPs)", "status", "cost of a run",
            "SHA-256 of the data", "options"]  # fmt: skip
    body = (
        _table(["", ""], provenance.of_runs(runs, source), caption="The runs")
        + _table(head, rows, caption="The laws: every number and figure above names its law")
        + _table(["", ""], provenance.of_program(),
                 caption=f"Fitted and written {time_text(datetime.now(UTC))} with")
    )  # fmt: skip
    return "provenance", "Where the numbers come from", body


# -- pieces of HTML -----------------------------------------------------------------------------


def _text(value: object) -> str:
    return html.escape(str(value))


def _figures(drawn: dict[str, go.Figure], **material: Any) -> str:
    return "".join(placed(figure, drawn) for figure in figures.drawn(report=True, **material).values())


def _stamp(law: Law) -> str:
    """Below a figure or a table: the law of its numbers."""
    return f'<p class="muted stamp">{_text(provenance.of_law(law))}</p>'


def _caveats(sentences: Sequence[str]) -> str:
    return f"<h3>Caveats</h3>{_list(sentences)}" if sentences else ""


def _table(
    head: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str = "", wrap: bool = False
) -> str:
    titles = "".join(f'<th scope="col">{_text(name)}</th>' for name in head)
    body = "".join("<tr>" + "".join(f"<td>{_text(v)}</td>" for v in row) + "</tr>" for row in rows)
    above = f"<caption><span>{_text(caption)}</span></caption>" if caption else ""
    kind = ' class="wrap"' if wrap else ""
    table = f"<table{kind}>{above}<thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll" tabindex="0">{table}</div>'


def _list(sentences: Iterable[str]) -> str:
    items = "".join(f"<li>{_text(sentence)}</li>" for sentence in dict.fromkeys(sentences))
    return f'<ul class="warnings">{items}</ul>'


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{_text(title)}</summary>{body}</details>"
