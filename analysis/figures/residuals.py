"""How far the runs lie from a fitted surface."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from analysis.figures import axes, parts, theme
from analysis.text import number_text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from analysis.laws.surface import SurfaceLaw

SCALES: dict[str, tuple[str, Callable[[float], str]]] = {
    "flops": (axes.COMPUTE, axes.compute_text),
    "tokens_per_param": (axes.TOKENS_PER_PARAM, number_text),
}


def surface_residuals_table(law: SurfaceLaw) -> pd.DataFrame:
    """What `surface_residuals` shows: the runs of the fit with their prediction.

    Adds predicted (nats per token), residual_percent (100 (log loss - log predicted), what the fit
    minimises), tokens_per_param, outlier (as `analysis.checks.influence` counts them) and label.
    """
    import numpy as np

    from analysis.checks.influence import outliers

    runs = law.runs
    predicted = law.E + law.A * runs["params"] ** -law.alpha + law.B * runs["tokens"] ** -law.beta
    return parts.with_labels(runs).assign(
        predicted=predicted,
        residual_percent=100 * np.log(runs["loss"] / predicted),
        tokens_per_param=runs["tokens"] / runs["params"],
        outlier=outliers(law),
    )


def surface_residuals(laws: SurfaceLaw | Mapping[str, SurfaceLaw]) -> go.Figure:
    """How far every run lies from the surface, against compute and against tokens per parameter.

    A pattern (a bow, a trend) says that the surface has the wrong shape there; outliers are named and hollow.
    The dotted lines are the delta of the robust fit: beyond them a run pulls no harder, however far it lies.
    A fit to the loss itself has a delta in nats, which is no line here.
    """
    named = parts.named(laws)
    tables = {name: surface_residuals_table(law) for name, law in named.items()}
    figure = parts.panels(1, 2, row_px=320)
    if len(named) > 1:
        entries = [parts.entry(theme.family_style(name), lines=False, family=name) for name in named]
        parts.add(figure, entries)
    deltas = {
        100 * float(law.options["delta"]) for law in named.values() if law.options.get("residual") != "loss"
    }
    heights = [sign * delta for delta in sorted(deltas) for sign in (-1, 1)]
    texts = {
        name: [
            f"{text}<br>predicted {predicted:.4f}, off by {percent:+.2f}%"
            for text, predicted, percent in zip(
                parts.run_texts(table), table["predicted"], table["residual_percent"], strict=True
            )
        ]
        for name, table in tables.items()
    }
    everything = [value for table in tables.values() for value in table["residual_percent"]]
    for column, (x, (title, text)) in enumerate(SCALES.items(), start=1):
        for name, table in tables.items():
            family = named[name].family or name
            style = theme.family_style(family)
            look = parts.marker(style.colour, parts.hollow(style.symbol, table["outlier"]), 8) | {
                "opacity": 0.8
            }
            points = parts.scatter(
                "points", table[x], table["residual_percent"], family=family, keys=table, text=texts[name],
                mode="markers", marker=look,
            )  # fmt: skip
            parts.add(figure, [points], 1, column)
            for row in table[table["outlier"]].to_dict(orient="records"):
                figure.add_annotation(
                    text=parts.safe(row["label"]), name=parts.belongs(family), x=math.log10(row[x]),
                    y=row["residual_percent"], yshift=12, row=1, col=column,
                )  # fmt: skip
        values = [value for table in tables.values() for value in table[x]]
        if x == "flops":
            x_axis = axes.compute_axis(title, parts.budgets_of(named.values()), values, room=6)
        else:
            x_axis = axes.log_axis(title, values, text, room=7)
        figure.update_xaxes(**x_axis, row=1, col=column)
        for height, dash in ((0.0, "solid"), *((height, "dot") for height in heights)):
            parts.level_line(figure, height, dash, column)
    reach = 1.15 * max(map(abs, [*everything, *heights]), default=1.0) or 1.0
    figure.update_yaxes(range=[-reach, reach])
    figure.update_yaxes(title_text="Measured above predicted loss (%)", row=1, col=1)
    figure.update_yaxes(matches="y", row=1, col=2)
    words = ["Points: runs."]
    if deltas:
        words.append(f"Dotted: delta of the robust fit ({', '.join(f'{d:g}' for d in sorted(deltas))}%).")
    words += (
        ["Named and hollow: outliers."] if any(table["outlier"].any() for table in tables.values()) else []
    )
    title = parts.titled("Residuals of the loss surface", "" if len(named) > 1 else next(iter(named)))
    provenance = parts.law_provenance(named.values())
    return parts.finish(figure, "surface_residuals", title, " ".join(words), provenance)
