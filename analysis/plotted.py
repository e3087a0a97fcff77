"""How results are drawn: a result names its figure, and only drawing it loads the figures."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import plotly.graph_objects as go


class Plotted:
    """A result with a figure in `analysis.figures.FIGURES`."""

    figure: ClassVar[str]

    def __repr__(self) -> str:
        return str(self)

    def plot(self, **options: Any) -> go.Figure:
        """The result as a Plotly figure; options are those of the figure's function."""
        return self._drawn(self.figure, **options)

    def _drawn(self, figure: str, **options: Any) -> go.Figure:
        # by name, for the figures know the laws and the checks, and these must not know the figures
        drawn: go.Figure = import_module("analysis.figures").FIGURES[figure].draw(self, **options)
        return drawn
