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
from analysis.figures.measured import best_losses, best_losses_table, measured, measured_table
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
    "best_losses",
    "best_losses_table",
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
    "measured",
    "measured_table",
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
