"""A fitted law beside published ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.figures import axes, parts, theme
from analysis.figures.frontiers import Line, draw_lines

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from analysis.published.beside import Beside

POINTS = 40
DASHES = ("dash", "dot", "dashdot")


def against_table(beside: Beside) -> pd.DataFrame:
    """What `against` shows: the frontiers of `beside.table` over a fine grid of the same budgets."""
    import numpy as np
    import pandas as pd

    from analysis.published.beside import against as compare

    flops = beside.table["flops"]
    names = beside.published["name"].tolist()
    grid = np.geomspace(flops.min(), flops.max(), POINTS) if flops.nunique() > 1 else flops.unique()
    parts_of = [compare(beside.law, name, flops=grid, withdrawn=True).table for name in names]
    rest = [table[table["law"].isin(names)] for table in parts_of]
    return pd.concat([parts_of[0][~parts_of[0]["law"].isin(names)], *rest], ignore_index=True)


def against(beside: Beside) -> go.Figure:
    """Loss, size, tokens and tokens per parameter of the best run at every budget.

    The law with its band is in the colour of its family, published laws are grey, each with its own dashes.
    Panels that a law says nothing about lack its line.
    """
    table = against_table(beside)
    law = beside.law
    lines = []
    for order, name in enumerate(dict.fromkeys(table["law"])):
        part = table[table["law"] == name].assign(extrapolated=False)
        if order == 0:
            style = theme.family_style(law.family)
            lines.append(
                Line(
                    name=name,
                    family=law.family,
                    table=part,
                    style=style,
                    level=law.level,
                    law=law,
                    best=parts.best_runs(law),
                )
            )
            continue
        symbol = theme.SPARE_SYMBOLS[(order - 1) % len(theme.SPARE_SYMBOLS)]
        grey = theme.Style(colour=theme.NEUTRAL, symbol=symbol)
        dash = DASHES[(order - 1) % len(DASHES)]
        lines.append(Line(name=name, family=None, table=part, style=grey, level=law.level, dash=dash))
    figure = draw_lines(lines, axes.params_title([law.runs]))
    caption = (
        "Points: the best run of each budget. Losses compare on equal text and tokenizer alone; sizes and "
        "tokens as each law counts them. C: training FLOPs."
    )
    title = parts.titled("Beside published laws", law.family or "")
    return parts.finish(figure, "against", title, caption, parts.law_provenance([law]))
