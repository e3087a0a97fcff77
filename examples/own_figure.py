"""A figure of one's own: how far above the floor E of its surface every run ended.

    python -m examples.own_figure

In the package this would be analysis/figures/reducible.py and one entry in `FIGURES`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from analysis import figures
from analysis.figures import axes, parts, theme
from analysis.text import number_text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from analysis.laws.surface import SurfaceLaw


def reducible_table(law: SurfaceLaw) -> pd.DataFrame:
    """What `reducible` shows: the runs of the fit, with reducible = loss - E in nats per token."""
    return parts.with_labels(law.runs).assign(reducible=law.runs["loss"] - law.E)


def reducible(law: SurfaceLaw) -> go.Figure:
    """Loss above E against compute, both logarithmic: the frontier is nearly a straight line here."""
    table = reducible_table(law)
    style = theme.family_style(law.family)
    frontier = law.frontier(law.budget_flops)
    figure = parts.panels(1, 1, row_px=380)
    mark = (style.colour, style.symbol, 8)
    points = parts.run_points(table, "flops", "reducible", mark, family=law.family)
    look = {"color": style.colour, "width": 2}
    line = parts.scatter("line", frontier["flops"], frontier["loss"] - law.E, line=look, family=law.family)
    x_axis = axes.compute_axis(axes.COMPUTE, law.budget_flops, table["flops"])
    y_axis = axes.log_axis("Loss above E (nats per token)", table["reducible"], number_text)
    parts.add(figure, [line, points], x=x_axis, y=y_axis)
    caption = f"Points: runs. Line: the compute-optimal frontier. E = {number_text(law.E)}."
    provenance = parts.law_provenance([law])
    return parts.finish(figure, "reducible", "Reducible loss", caption, provenance, of=law.family)


def register() -> None:
    """Add the figure to the table of this process; reports of surfaces then show it."""
    figures.FIGURES["reducible"] = figures.Kind(
        draw=reducible, of="surface", shows="loss above the floor E, run by run"
    )


def main(folder: Path = Path("build")) -> list[Path]:
    """Draw it for a published table, as a page and as a picture."""
    import analysis

    register()
    runs = analysis.published.runs("sahoo2026")
    law = analysis.fit_law(runs[runs.family == "masked"], bootstrap=0)
    drawn = figures.drawn(surface=law)["reducible"]
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"reducible{suffix}" for suffix in (".html", ".png")]
    for path in paths:
        figures.save(drawn, path)
    return paths


if __name__ == "__main__":
    print(*main())
