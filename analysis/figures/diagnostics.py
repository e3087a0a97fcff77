"""What stands behind the checks of a law: variants of the fit, influence of runs, resampled parameters."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from analysis.errors import UserError
from analysis.figures import axes, parts, theme
from analysis.text import is_missing, number_text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from analysis.checks.diagnostics import Diagnosis

MOST_DRAWS = 2000
ROW_PX = 26
NAMED = 3
LETTER_PX = 7.5
PAIRS = (("alpha", "A"), ("beta", "B"), ("alpha", "E"))


def variants_table(diagnosis: Diagnosis, check: str | None = None) -> pd.DataFrame:
    """What `variants` shows: `diagnosis.variants` that could be fitted, of one check or (None) of all."""
    table = diagnosis.variants[diagnosis.variants["exponent"].notna()]
    return (table if check is None else table[table["check"] == check]).reset_index(drop=True)


def variants(diagnosis: Diagnosis, check: str | None = None) -> go.Figure:
    """The exponent of N* in compute, and E, over other ways to fit the same runs; the law itself on top.

    The band is the law's own interval.
    """
    law = diagnosis.law
    table = variants_table(diagnosis, check)
    labels = ["as fitted", *(parts.safe(name) for name in table["variant"])]
    places = [-place for place in range(len(labels))]
    columns = [("Exponent of N* in compute", law.exponents["params"], table["exponent"])]
    if table["E"].notna().any() and hasattr(law, "E"):
        columns.append(("E (nats per token)", law.E, table["E"]))
    figure = parts.panels(len(columns), len(columns), row_px=ROW_PX * (len(labels) + 1) + 20)
    colour = theme.family_style(law.family).colour
    for panel, (title, own, others) in enumerate(columns, start=1):
        values = [None if is_missing(value) else float(value) for value in (float(own), *others)]
        traces, ends = [], [value for value in values if value is not None]
        if own.low is not None and own.high is not None:
            top, bottom = 0.6, 0.5 - len(labels)
            area = ([own.low, own.high], [bottom, bottom], [top, top])
            traces += parts.band(*area, (-math.inf, math.inf), theme.NEUTRAL, family=law.family)
            ends += [own.low, own.high]
            text, middle = f"{law.level:.0%} interval of the law", (own.low + own.high) / 2
            parts.note(figure, panel, text, middle, 1, domain="y", yanchor="top", font=parts.SMALL)
        texts = [
            f"{label}: {'none' if value is None else number_text(value, 4)}"
            for label, value in zip(labels, values, strict=True)
        ]
        mark = (colour, ["diamond", *["circle"] * (len(labels) - 1)], 9)
        traces.append(parts.scatter("reference", values, places, family=law.family, text=texts, mark=mark))
        pad = 0.12 * (max(ends) - min(ends)) or 0.01  # so that the ends of the band are visible
        y_axis = {
            "tickvals": places, "ticktext": labels if panel == 1 else [""] * len(places),
            "range": [0.5 - len(labels), 1.3],
        }  # fmt: skip
        x_axis = {"title_text": title, "range": [min(ends) - pad, max(ends) + pad]}
        parts.add(figure, traces, panel, x=x_axis, y=y_axis)
    caption = "Diamond: the law as fitted. Circles: the same runs fitted otherwise."
    provenance = parts.law_provenance([law])
    parts.finish(figure, "variants", "The same runs fitted otherwise", caption, provenance, of=law.family)
    return figure.update_layout(margin={"l": round(LETTER_PX * max(map(len, labels)) + 20)})


def influence_table(diagnosis: Diagnosis) -> pd.DataFrame:
    """What `influence` shows: `diagnosis.influence`. UserError for a law that is no surface."""
    if diagnosis.influence is None:
        raise UserError(f"influence shows the runs of a surface, not of a {diagnosis.law.method} law")
    return parts.with_labels(diagnosis.influence)


def influence(diagnosis: Diagnosis) -> go.Figure:
    """Leverage of every run against how far the exponent of N* moves without it; outliers are hollow.

    The runs that move it most are named by their row in the table.
    """
    table = influence_table(diagnosis)
    law = diagnosis.law
    style = theme.family_style(law.family)
    largest = table["exponent_change"].abs().nlargest(NAMED).index
    figure = parts.panels(1, 1, row_px=380)
    texts = []
    for row, run in zip(table.index, table.to_dict("records"), strict=True):
        texts.append(
            f"row {parts.safe(row)}<br>{parts.run_text(run, run['flops'])}<br>"
            f"leverage {run['leverage']:.3f}, residual {run['residual_percent']:+.2f}%<br>"
            f"without it: exponent of N* {run['exponent_without']:.4f}, E {run['E_without']:.4f}"
        )
        if row in largest:
            name, owner = run["label"] or f"row {parts.safe(row)}", parts.belongs(law.family)
            parts.note(figure, 1, name, run["leverage"], run["exponent_change"], owner, yshift=12)
    points = parts.scatter(
        "points", table["leverage"], table["exponent_change"], family=law.family, keys=table, text=texts,
        mark=(style.colour, parts.hollow(style.symbol, table["outlier"]), 9),
    )  # fmt: skip
    x_axis = {"title_text": "Leverage (1: fitted by itself)", "rangemode": "tozero"}
    parts.add(figure, [points], x=x_axis, y={"title_text": "Change of the exponent of N* without the run"})
    parts.level_line(figure, 0.0, "solid")
    caption = "Named: the runs that move it most." + (" Hollow: outliers." if table["outlier"].any() else "")
    provenance = parts.law_provenance([law])
    return parts.finish(figure, "influence", "Influence of single runs", caption, provenance, of=law.family)


def draws_table(diagnosis: Diagnosis) -> pd.DataFrame:
    """What `draws` shows: E, A, B, alpha, beta of the estimate and of at most 2000 resamples; kind says
    which. UserError for a law that is no surface, or has no resamples."""
    import pandas as pd

    from analysis.laws.surface import SYMBOLS, SurfaceLaw

    law = diagnosis.law
    if not isinstance(law, SurfaceLaw):
        raise UserError(f"draws shows the parameters of a surface, not of a {law.method} law")
    last = len(law.thetas) - law.leave_outs
    if last < 2:
        raise UserError("the law has no resamples to draw; fit it with bootstrap > 0")
    thetas = law.thetas[: min(last, 1 + MOST_DRAWS)]
    kinds = ["estimate", *["resample"] * (len(thetas) - 1)]
    return pd.DataFrame(thetas, columns=list(SYMBOLS)).assign(kind=kinds)


def draws(diagnosis: Diagnosis) -> go.Figure:
    """Resamples of the parameters against each other: a thin curve is a pair that trades off.

    The dotted line in the last panel is the lowest loss; E above it means a wrong form.
    """
    table = draws_table(diagnosis)
    law = diagnosis.law
    figure = parts.panels(len(PAIRS), len(PAIRS), row_px=320)
    colour = theme.family_style(law.family).colour
    marks = {"resample": (theme.NEUTRAL, "circle", 4), "estimate": (colour, "diamond", 11)}
    for panel, (x, y) in enumerate(PAIRS, start=1):
        dots = []
        for kind, mark in marks.items():
            part = table[table["kind"] == kind]
            texts = [f"{x} {a:.4g}, {y} {b:.4g}" for a, b in zip(part[x], part[y], strict=True)]
            hover = texts if kind == "estimate" else None
            dots.append(
                parts.scatter("reference", part[x], part[y], family=law.family, mark=mark, text=hover)
            )
        y_axis = {"title_text": y} if y == "E" else axes.log_axis(y, table[y], number_text)
        parts.add(figure, dots, panel, x={"title_text": x}, y=y_axis)
    parts.level_line(figure, float(law.runs["loss"].min()), "dot", len(PAIRS))
    caption = "Diamond: the estimate. Dots: resamples. Dotted: the lowest loss; E above it: a wrong form."
    provenance = parts.law_provenance([law])
    parts.finish(figure, "draws", "Resamples of the parameters", caption, provenance, of=law.family)
    return figure.update_layout(margin={"l": 100})
