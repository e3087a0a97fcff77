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
    tables = [compare(beside.law, name, flops=grid, withdrawn=True).table for name in names]
    published = [table[table["law"].isin(names)] for table in tables]
    return pd.concat([tables[0][~tables[0]["law"].isin(names)], *published], ignore_index=True)


def against(beside: Beside) -> go.Figure:
    """Loss, size, tokens and tokens per parameter of the best run at every budget.

    The law with its band is in the colour of its family, published laws are grey, each with its own dashes.
    Panels that a law says nothing about lack its line.
    """
    table = against_table(beside).assign(extrapolated=False)
    law = beside.law
    own, *published = ((name, table[table["law"] == name]) for name in dict.fromkeys(table["law"]))
    lines = [
        Line(
            name=own[0], family=law.family, table=own[1], style=theme.family_style(law.family),
            level=law.level, law=law, best=parts.best_runs(law),
        )
    ]  # fmt: skip
    for number, (name, part) in enumerate(published):
        symbol, dash = (choices[number % len(choices)] for choices in (theme.SPARE_SYMBOLS, DASHES))
        grey = theme.Style(colour=theme.NEUTRAL, symbol=symbol)
        lines.append(Line(name=name, family=None, table=part, style=grey, level=law.level, dash=dash))
    figure = draw_lines(lines, axes.params_title([law.runs]))
    caption = (
        "Points: the best run of each budget. Losses compare on equal text and tokenizer alone; sizes and "
        "tokens as each law counts them. C: training FLOPs."
    )
    provenance = parts.law_provenance([law])
    return parts.finish(figure, "against", "Beside published laws", caption, provenance, of=law.family)
