"""What stands behind the checks of a law: variants of the fit, influence of runs, resampled parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

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
    shown = [("Exponent of N* in compute", law.exponents["params"], table["exponent"])]
    if table["E"].notna().any() and hasattr(law, "E"):
        shown.append(("E (nats per token)", law.E, table["E"]))
    figure = parts.panels(1, len(shown), row_px=ROW_PX * (len(labels) + 1) + 20)
    colour = theme.family_style(law.family).colour
    places = [-place for place in range(len(labels))]
    for column, (title, own, others) in enumerate(shown, start=1):
        values = [None if is_missing(value) else float(value) for value in (float(own), *others)]
        traces, ends = [], [value for value in values if value is not None]
        if own.low is not None and own.high is not None:
            top, bottom = 0.6, 0.5 - len(labels)
            area = ([own.low, own.high], [bottom, bottom], [top, top])
            traces += parts.band(*area, (-math.inf, math.inf), theme.NEUTRAL, family=law.family)
            ends += [own.low, own.high]
            note = f"{law.level:.0%} interval of the law"
            figure.add_annotation(
                text=note, x=(own.low + own.high) / 2, y=1, yref=f"y{column if column > 1 else ''} domain",
                xref=f"x{column if column > 1 else ''}", yanchor="top", font={"size": theme.FONT_PX - 3},
            )  # fmt: skip
        texts = [
            f"{label}: {'none' if value is None else number_text(value, 4)}"
            for label, value in zip(labels, values, strict=True)
        ]
        look = parts.marker(colour, ["diamond", *["circle"] * (len(labels) - 1)], 9)
        traces.append(
            parts.scatter(
                "reference", values, places, family=law.family, text=texts, mode="markers", marker=look
            )
        )
        parts.add(figure, traces, 1, column)
        pad = 0.12 * (max(ends) - min(ends)) or 0.01  # so that the ends of the band are seen
        figure.update_xaxes(title_text=title, range=[min(ends) - pad, max(ends) + pad], row=1, col=column)
    figure.update_yaxes(tickvals=places, ticktext=[""] * len(places), range=[0.5 - len(labels), 1.3])
    figure.update_yaxes(ticktext=labels, row=1, col=1)
    caption = "Diamond: the law as fitted. Circles: the same runs fitted otherwise."
    title = parts.titled("The same runs fitted otherwise", law.family or "")
    finished = parts.finish(figure, "variants", title, caption, parts.law_provenance([law]))
    return finished.update_layout(margin={"l": round(LETTER_PX * max(map(len, labels)) + 20)})


def influence_table(diagnosis: Diagnosis) -> pd.DataFrame:
    """What `influence` shows: `diagnosis.influence`. UserError for a law that is no surface."""
    from analysis.errors import UserError

    if diagnosis.influence is None:
        raise UserError(f"influence of single runs is told of a surface, not of a {diagnosis.law.method} law")
    return parts.with_labels(diagnosis.influence)


def influence(diagnosis: Diagnosis) -> go.Figure:
    """Leverage of every run against how far the exponent of N* moves without it; outliers are hollow.

    The runs that move it most are named by their row in the table.
    """
    table = influence_table(diagnosis)
    law = diagnosis.law
    style = theme.family_style(law.family)
    named = set(table["exponent_change"].abs().nlargest(NAMED).index)
    records = list(zip(table.index, table.to_dict(orient="records"), strict=True))
    figure = parts.panels(1, 1, row_px=380)
    points = parts.scatter(
        "points", table["leverage"], table["exponent_change"], family=law.family, keys=table,
        text=[_run_text(row, run) for row, run in records], mode="markers",
        marker=parts.marker(style.colour, parts.hollow(style.symbol, table["outlier"]), 9),
    )  # fmt: skip
    parts.add(figure, [points])
    for row, run in records:
        if row in named:
            name = run["label"] or f"row {parts.safe(row)}"
            figure.add_annotation(
                text=name,
                name=parts.belongs(law.family),
                x=run["leverage"],
                y=run["exponent_change"],
                yshift=12,
            )
    parts.level_line(figure, 0.0, "solid")
    figure.update_xaxes(title_text="Leverage (1: fitted by itself)", rangemode="tozero")
    figure.update_yaxes(title_text="Change of the exponent of N* without the run")
    caption = "Named: the runs that move it most." + (" Hollow: outliers." if table["outlier"].any() else "")
    title = parts.titled("Influence of single runs", law.family or "")
    return parts.finish(figure, "influence", title, caption, parts.law_provenance([law]))


def _run_text(row: object, run: Mapping[str, Any]) -> str:
    return (
        f"row {parts.safe(row)}<br>{parts.run_text(run, run['flops'])}<br>leverage {run['leverage']:.3f}, "
        f"residual {run['residual_percent']:+.2f}%<br>without it: exponent of N* "
        f"{run['exponent_without']:.4f}, E {run['E_without']:.4f}"
    )


def draws_table(diagnosis: Diagnosis) -> pd.DataFrame:
    """What `draws` shows: E, A, B, alpha, beta of the estimate and of at most 2000 resamples; kind says
    which. UserError for a law that is no surface, or has no resamples."""
    import pandas as pd

    from analysis.errors import UserError
    from analysis.laws.surface import SYMBOLS, SurfaceLaw

    law = diagnosis.law
    if not isinstance(law, SurfaceLaw):
        raise UserError(f"parameters are drawn of a surface, not of a {law.method} law")
    last = len(law.thetas) - law.leave_outs
    if last < 2:
        raise UserError("the law has no resamples to draw; fit it with bootstrap > 0")
    thetas = law.thetas[: min(last, 1 + MOST_DRAWS)]
    return pd.DataFrame(thetas, columns=list(SYMBOLS)).assign(
        kind=["estimate", *["resample"] * (len(thetas) - 1)]
    )


def draws(diagnosis: Diagnosis) -> go.Figure:
    """Resamples of the parameters against each other: a thin curve is a pair that trades off.

    The dotted line in the last panel is the lowest loss; E above it means a wrong form.
    """
    table = draws_table(diagnosis)
    law = diagnosis.law
    figure = parts.panels(1, len(PAIRS), row_px=320)
    colour = theme.family_style(law.family).colour
    looks = {"resample": ("circle", 4, theme.NEUTRAL), "estimate": ("diamond", 11, colour)}
    for column, (x, y) in enumerate(PAIRS, start=1):
        for kind, (symbol, size, shade) in looks.items():
            part = table[table["kind"] == kind]
            texts = [f"{x} {a:.4g}, {y} {b:.4g}" for a, b in zip(part[x], part[y], strict=True)]
            dots = parts.scatter(
                "reference", part[x], part[y], family=law.family, mode="markers",
                marker=parts.marker(shade, symbol, size), text=texts if kind == "estimate" else None,
            )  # fmt: skip
            parts.add(figure, [dots], 1, column)
        figure.update_xaxes(title_text=x, row=1, col=column)
        if y == "E":
            figure.update_yaxes(title_text=y, row=1, col=column)
        else:
            figure.update_yaxes(**axes.log_axis(y, table[y], number_text), row=1, col=column)
    lowest = float(law.runs["loss"].min())
    parts.level_line(figure, lowest, "dot", len(PAIRS))
    title = parts.titled("Resamples of the parameters", law.family or "")
    caption = (
        "Diamond: the estimate. Dots: resamples. Dotted: the lowest loss; E above it means a wrong form."
    )
    finished = parts.finish(figure, "draws", title, caption, parts.law_provenance([law]))
    return finished.update_layout(margin={"l": 100})
