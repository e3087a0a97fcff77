"""Every figure, once: for the notebook, the report and the dashboard alike.

    isoflop            loss against size at every budget, with parabolas and minima
    frontier           loss, size, tokens and tokens per parameter of the best run at every budget
    loss_curves        training loss along runs
    compare            compute of families over a reference at equal loss
    against            a law beside published ones
    draws              resamples of a surface's parameters against each other
    influence          leverage of every run, and what the law would be without it
    variants           the same runs fitted otherwise
    multiplier_curves  that as a curve over the loss, with bands
    rollout            how far laws of the cheaper runs are off the dearer ones
    schedule           which run of a sweep is where, and when
    surface_residuals  how far runs lie from a fitted surface

Each is a table function (`isoflop_table`, ...: what is shown, as a DataFrame) and a drawing function
(`isoflop`, ...: that table as a Plotly figure). `save` writes a figure as PNG or SVG (drawn again by
matplotlib: no browser) or as one HTML file that opens without a network. Figures come in the light theme;
`set_theme(figure, "dark")` changes that and nothing else.
"""

from analysis.figures.curves import loss_curves, loss_curves_table
from analysis.figures.diagnostics import (
    draws,
    draws_table,
    influence,
    influence_table,
    variants,
    variants_table,
)
from analysis.figures.frontiers import frontier, frontier_table
from analysis.figures.isoflops import isoflop, isoflop_table
from analysis.figures.multipliers import compare, compare_table, multiplier_curves, multiplier_curves_table
from analysis.figures.published_laws import against, against_table
from analysis.figures.residuals import surface_residuals, surface_residuals_table
from analysis.figures.rollouts import rollout, rollout_table
from analysis.figures.saving import page, save
from analysis.figures.schedules import schedule
from analysis.figures.theme import set_theme

__all__ = [
    "against",
    "against_table",
    "compare",
    "compare_table",
    "draws",
    "draws_table",
    "frontier",
    "frontier_table",
    "influence",
    "influence_table",
    "isoflop",
    "isoflop_table",
    "loss_curves",
    "loss_curves_table",
    "multiplier_curves",
    "multiplier_curves_table",
    "page",
    "rollout",
    "rollout_table",
    "save",
    "schedule",
    "set_theme",
    "surface_residuals",
    "surface_residuals_table",
    "variants",
    "variants_table",
]
