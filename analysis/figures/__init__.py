"""Every figure, once: for the notebook, the report, the dashboard and the docs alike.

Each figure is a table function (`isoflop_table`, ...: what is shown, as a DataFrame) and a drawing function
(`isoflop`, ...: that table as a Plotly figure). `FIGURES` lists them; the report and the dashboard read it,
so a new figure is one file and one line there. `save` writes a figure as PNG, SVG or PDF (drawn again by
matplotlib: no browser) or as one HTML file that opens without a network. Figures come in the light theme;
`set_theme(figure, "dark")` changes colours and nothing else.

The dashboard filters by showing and hiding parts of a figure, so every part names what it belongs to:

    trace.meta         {"family": name or None, "budget": FLOPs or None, "role": ..., "keys": [run keys]}
                       role: "points" (runs), "line", "band", "interval", "minimum" (fitted), "reference"
                       (belongs to no family and no budget), "legend" (no data: an entry of the legend);
                       keys only on "points", in the order of the points
    trace.customdata   run keys, on "points"; a click opens that run
    trace.legendgroup  the family, or the budget as `flops_text` writes it; the legend names nothing else
    trace.showlegend   True on "legend" traces only
    annotation.name,   "family:NAME" or "budget:1e+10" (Python's repr of the float) if it belongs to one
    shape.name         family or one budget; otherwise None
    layout.meta        {"name": key in FIGURES, "caption": what lines, bands and marks mean (plain text),
                       "provenance": runs, data hash, version, date (plain text)}

The title and, as its subtitle, the caption stand in the figure for notebooks; a page that writes both as HTML
takes `layout.title` out. Titles of panels and labels of lines are annotations in the coordinates of their
panel ("x2 domain", or data), so a page may move panels by their axes' `domain` alone. Text is escaped.

`theme.DARK` maps the data colours that change in the dark theme ({light: dark}, as they are written in the
JSON: "#rrggbb" and "rgba(r, g, b,"): replace them in the JSON text, and use the template of that theme.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analysis.figures.answers import answer, answer_table
from analysis.figures.curves import loss_curves, loss_curves_table
from analysis.figures.diagnostics import (
    draws,
    draws_table,
    influence,
    influence_table,
    variants,
    variants_table,
)
from analysis.figures.frontiers import against, against_table, frontier, frontier_table
from analysis.figures.isoflops import isoflop, isoflop_table
from analysis.figures.measured import best_losses, best_losses_table, measured, measured_table
from analysis.figures.multipliers import compare, compare_table
from analysis.figures.residuals import surface_residuals, surface_residuals_table
from analysis.figures.rollouts import rollout, rollout_table
from analysis.figures.saving import page, save
from analysis.figures.schedules import schedule
from analysis.figures.settings.rates import tuning, tuning_table
from analysis.figures.speeds import speed_quality, speed_quality_table
from analysis.figures.theme import set_theme

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = [
    "FIGURES", "Kind", "against", "against_table", "answer", "answer_table", "best_losses",
    "best_losses_table", "compare", "compare_table", "drawn", "draws", "draws_table", "frontier",
    "frontier_table", "influence", "influence_table", "isoflop", "isoflop_table", "loss_curves",
    "loss_curves_table", "measured", "measured_table", "page", "rollout", "rollout_table", "save",
    "schedule", "set_theme", "speed_quality", "speed_quality_table", "surface_residuals",
    "surface_residuals_table", "tuning", "tuning_table", "variants", "variants_table",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """An entry of `FIGURES`."""

    draw: Callable[..., go.Figure]
    of: str
    """What it draws, by the name it has in `drawn`."""
    shows: str
    in_report: bool = False


FIGURES: dict[str, Kind] = {
    "isoflop": Kind(draw=isoflop, of="isoflop", in_report=True,
        shows="loss against size at every budget, with parabolas and minima"),
    "frontier": Kind(draw=frontier, of="laws", in_report=True,
        shows="loss, size, tokens and tokens per parameter of the best run at every budget"),
    "loss_curves": Kind(draw=loss_curves, of="runs", in_report=True,
        shows="the training objective along runs, and the held-out bound during training and at the end"),
    "measured": Kind(draw=measured, of="table", shows="loss against size of runs, before any law"),
    "best_losses": Kind(draw=best_losses, of="table", shows="the best loss of each family and budget"),
    "compare": Kind(draw=compare, of="comparison", in_report=True,
        shows="compute of families over a reference at equal loss"),
    "answer": Kind(draw=answer, of="answer", in_report=True,
        shows="how far families end above the best one at a budget, and at which sizes"),
    "against": Kind(draw=against, of="beside", shows="a law beside published ones"),
    "surface_residuals": Kind(draw=surface_residuals, of="surface", shows="how far runs lie from a surface"),
    "variants": Kind(draw=variants, of="diagnosis", shows="the same runs fitted otherwise"),
    "influence": Kind(
        draw=influence, of="diagnosis", shows="leverage of every run, and the law without it"
    ),
    "draws": Kind(draw=draws, of="diagnosis", shows="resamples of a surface's parameters against each other"),
    "rollout": Kind(
        draw=rollout, of="rollout", shows="how far laws of the cheaper runs are off the more expensive ones"
    ),
    "speed_quality": Kind(draw=speed_quality, of="speed", in_report=True,
        shows="perplexity and entropy of samples over the speed at which they are made"),
    "tuning": Kind(draw=tuning, of="tuning",
        shows="loss against learning rate of tuning trials, and the law of the best rate"),
    "schedule": Kind(draw=schedule, of="schedule", shows="which run of a sweep runs on which GPU, and when"),
}  # fmt: skip


def drawn(report: bool = False, **material: Any) -> dict[str, go.Figure]:
    """Every figure that `material` is enough for, by name; with `report` only those that a report shows.

    material: the argument of the drawing function under the name in `Kind.of`; a tuple is several arguments.
    """
    figures = {}
    for name, kind in FIGURES.items():
        if kind.of in material and (kind.in_report or not report):
            arguments = material[kind.of]
            figures[name] = kind.draw(*(arguments if isinstance(arguments, tuple) else (arguments,)))
    return figures
