"""What stands behind the checks of a law: variants of the fit, influence of runs, resampled parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from analysis.figures import axes, parts, theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from analysis.checks.diagnostics import Diagnosis

MOST_DRAWS = 2000
ROW_PX, FRAME_PX = 26, 190
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
    figure = parts.panels(1, len(shown))
    colour = theme.family_style(law.family).colour
    for column, (title, own, others) in enumerate(shown, start=1):
        if own.low is not None and own.high is not None:
            figure.add_trace(_band(own.low, own.high, len(labels)), row=1, col=column)
        figure.add_trace(_dots([float(own), *others], labels, colour), row=1, col=column)
        figure.update_xaxes(title_text=title, row=1, col=column)
    places = [-place for place in range(len(labels))]
    figure.update_yaxes(tickvals=places, ticktext=[""] * len(places), range=[0.6 - len(labels), 0.6])
    figure.update_yaxes(ticktext=labels, row=1, col=1)
    note = (
        f"Band: {law.level:.0%} interval of the law as fitted"
        if law.exponents["params"].low is not None
        else ""
    )
    title = parts.titled("The same runs fitted otherwise", law.family or "")
    finished = parts.finish(figure, title, note, height=FRAME_PX + ROW_PX * len(labels))
    return finished.update_layout(margin={"l": round(LETTER_PX * max(map(len, labels)) + 20)})


def _band(low: float, high: float, num_rows: int) -> go.Scatter:
    import plotly.graph_objects as go

    top, bottom = 0.5, 0.5 - num_rows
    return go.Scatter(
        x=[low, high, high, low],
        y=[top, top, bottom, bottom],
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=theme.see_through(theme.NEUTRAL, 0.16),
        showlegend=False,
        hoverinfo="skip",
    )


def _dots(values: list[Any], labels: list[str], colour: str) -> go.Scatter:
    import plotly.graph_objects as go

    shown = [None if axes.is_missing(value) else float(value) for value in values]
    return go.Scatter(
        x=shown,
        y=[-place for place in range(len(labels))],
        mode="markers",
        marker=parts.marker(colour, ["diamond", *["circle"] * (len(labels) - 1)], 9),
        showlegend=False,
        hoverinfo="text",
        hovertext=[
            f"{label}: {'none' if value is None else axes.number_text(value, 4)}"
            for label, value in zip(labels, shown, strict=True)
        ],
    )


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
    import plotly.graph_objects as go

    table = influence_table(diagnosis)
    style = theme.family_style(diagnosis.law.family)
    named = set(table["exponent_change"].abs().nlargest(NAMED).index)
    figure = parts.panels(1, 1)
    figure.add_trace(
        go.Scatter(
            x=table["leverage"],
            y=table["exponent_change"],
            mode="markers+text",
            marker=parts.marker(
                style.colour, [style.symbol + ("-open" if out else "") for out in table["outlier"]], 9
            ),
            text=[f"row {row}" if row in named else "" for row in table.index],
            textposition="top center",
            textfont={"size": theme.FONT_PX - 3, "color": style.colour},
            showlegend=False,
            hoverinfo="text",
            hovertext=[
                _run_text(row, run)
                for row, run in zip(table.index, table.to_dict(orient="records"), strict=True)
            ],
        )
    )
    parts.level_line(figure, 0.0, "solid")
    figure.update_xaxes(title_text="Leverage (1: fitted by itself)", rangemode="tozero")
    figure.update_yaxes(title_text="Change of the exponent of N* without the run")
    note = "Named: the runs that move it most" + (". Hollow: outliers" if table["outlier"].any() else "")
    title = parts.titled("Influence of single runs", diagnosis.law.family or "")
    return parts.finish(figure, title, note, height=520)


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
    import plotly.graph_objects as go

    table = draws_table(diagnosis)
    figure = parts.panels(1, len(PAIRS))
    colour = theme.family_style(diagnosis.law.family).colour
    for column, (x, y) in enumerate(PAIRS, start=1):
        for kind, symbol, size, shade in (
            ("resample", "circle", 4, theme.NEUTRAL),
            ("estimate", "diamond", 11, colour),
        ):
            part = table[table["kind"] == kind]
            points = go.Scatter(
                x=part[x], y=part[y], mode="markers", marker=parts.marker(shade, symbol, size),
                showlegend=False, hoverinfo="skip" if kind == "resample" else "x+y",
            )  # fmt: skip
            figure.add_trace(points, row=1, col=column)
        figure.update_xaxes(title_text=x, row=1, col=column)
        if y == "E":
            figure.update_yaxes(title_text=y, row=1, col=column)
        else:
            figure.update_yaxes(**axes.log_axis(y, table[y], axes.number_text), row=1, col=column)
    lowest = float(diagnosis.law.runs["loss"].min())
    parts.level_line(figure, lowest, "dot", len(PAIRS))
    title = parts.titled("Resamples of the parameters", diagnosis.law.family or "")
    finished = parts.finish(figure, title, "Diamond: the estimate. Dotted: the lowest loss", height=460)
    return finished.update_layout(margin={"l": 100})
