"""How far the runs lie from a fitted surface."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from analysis.figures import axes, parts, theme
from analysis.text import number_text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from analysis.laws.surface import SurfaceLaw


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
    import pandas as pd

    by_name = parts.laws_by_name(laws)
    tables = {name: surface_residuals_table(law) for name, law in by_name.items()}
    together = pd.concat(tables.values())
    figure = parts.panels(2, 2, row_px=320)
    for name in by_name if len(by_name) > 1 else ():
        parts.legend_entry(figure, theme.family_style(name), family=name)
    robust = [law for law in by_name.values() if law.options.get("residual") != "loss"]
    deltas = sorted({100 * float(law.options["delta"]) for law in robust})
    heights = [sign * delta for delta in deltas for sign in (-1, 1)]
    reach = 1.15 * max([*map(abs, together["residual_percent"]), *map(abs, heights)], default=1.0) or 1.0
    budgets = parts.budgets_of(by_name.values())
    x_axes = {
        "flops": axes.compute_axis(axes.COMPUTE, budgets, together["flops"], room=6),
        "tokens_per_param": axes.log_axis(
            axes.TOKENS_PER_PARAM, together["tokens_per_param"], number_text, room=7
        ),
    }
    y_axes = ({"title_text": "Measured above predicted loss (%)"}, {"matches": "y"})
    for panel, ((x, x_axis), y_axis) in enumerate(zip(x_axes.items(), y_axes, strict=True), start=1):
        for name, table in tables.items():
            family = by_name[name].family or name
            style = theme.family_style(family)
            points = parts.run_points(
                table, x, "residual_percent", family=family,
                mark=(style.colour, parts.hollow(style.symbol, table["outlier"]), 8),
                more=lambda run: (
                    f"<br>predicted {run['loss'] * math.exp(-run['residual_percent'] / 100):.4f}, "
                    f"off by {run['residual_percent']:+.2f}%"
                ),
            ).update(marker_opacity=0.8)  # fmt: skip
            parts.add(figure, [points], panel, x=x_axis, y=y_axis | {"range": [-reach, reach]})
            for row in table[table["outlier"]].to_dict("records"):
                place = math.log10(row[x]), row["residual_percent"]
                label, owner = parts.safe(row["label"]), parts.belongs(family)
                # towards the middle: a panel on a phone is hardly wider than two labels
                left = place[0] < sum(x_axis["range"]) / 2
                side, shift = ("left", -4) if left else ("right", 4)
                parts.note(figure, panel, label, *place, owner, yshift=12, xanchor=side, xshift=shift)
        for height, dash in ((0.0, "solid"), *((height, "dot") for height in heights)):
            parts.level_line(figure, height, dash, panel)
    percents = ", ".join(f"{delta:g}" for delta in deltas)
    caption = "Points: runs." + (f" Dotted: delta of the robust fit ({percents}%)." if deltas else "")
    caption += " Named and hollow: outliers." if together["outlier"].any() else ""
    provenance = parts.law_provenance(by_name.values())
    return parts.finish(
        figure, "surface_residuals", "Residuals of the loss surface", caption, provenance,
        of=name if len(by_name) == 1 else None,
    )  # fmt: skip
