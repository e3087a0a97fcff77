"""How results are drawn: a result names its figure, and only drawing it loads the figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import plotly.graph_objects as go


class Plotted:
    """A result with a figure in `analysis.figures.FIGURES`."""

    figure: ClassVar[str]

    def plot(self, **options: Any) -> go.Figure:
        """The result as a Plotly figure; options are those of the figure's function."""
        from analysis import figures

        return figures.FIGURES[self.figure].draw(self, **options)
