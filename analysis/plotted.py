"""How results are drawn: a result names its figure, and only drawing it loads the figures."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, overload

if TYPE_CHECKING:
    import plotly.graph_objects as go


class Plotted:
    """A result with a figure in `analysis.figures.FIGURES`."""

    figure: ClassVar[str]

    def __repr__(self) -> str:
        return str(self)

    @overload
    def plot(self, *, ax: None = None, **options: Any) -> go.Figure: ...
    @overload
    def plot(self, *, ax: Any, **options: Any) -> Any: ...
    def plot(self, *, ax: Any = None, **options: Any) -> Any:
        """The result as a Plotly figure, which `analysis.figures.save` writes as PNG, SVG, PDF or HTML;
        options are those of the figure's function. With `ax`, axes of matplotlib (one for the first panel, or
        several), it is drawn there instead, and `ax` is returned."""
        return self._drawn(self.figure, ax, **options)

    def _drawn(self, figure: str, ax: Any = None, **options: Any) -> Any:
        # by name, for the figures know the laws and the checks, and these must not know the figures
        drawn = import_module("analysis.figures").FIGURES[figure].draw(self, **options)
        return drawn if ax is None else import_module("analysis.figures.static").draw_on(drawn, ax)
