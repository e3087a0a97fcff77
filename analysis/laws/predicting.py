"""Laws with a formula for the loss of any run, fitted by a search from many starts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
import pandas as pd

from analysis.estimate import Estimate, Rule, estimate_of
from analysis.frontier import complete_run, same_shape
from analysis.laws.result import FitStatus, Law, common_fields, interval_columns
from analysis.laws.solver.logsum import LogSum
from analysis.laws.solver.noise import Scatter, check_kind, scatter
from analysis.laws.solver.objective import GRADIENT_TOLERANCE, Derivatives
from analysis.table.fit_table import RunTable

FEW_STARTS = 0.2


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PredictingLaw(Law):
    """A law with a formula for the loss (nats per token) of any run, fitted by a search from many starts.

    A subclass gives `symbols`, `num_free` and `_loss`; its parameters are then attributes: `law.alpha`.
    """

    inputs: ClassVar[tuple[str, ...]] = ("params", "tokens")
    """Columns that the formula depends on."""
    symbols: ClassVar[tuple[str, ...]] = ()
    """The parameters, in the order of the columns of `thetas`."""
    thetas: np.ndarray
    """(1 + R, p) parameters: the estimate first, then R resamples (then `leave_outs` refits). Read-only."""
    objective: float
    """Sum of Huber terms at the optimum."""
    gradient: float
    """Largest gradient component there, relative to the sum of the absolute terms it is made of."""
    share_of_starts: float
    """Share of the cold starts that end at the optimum (objective within 1e-6)."""

    @property
    @abstractmethod
    def num_free(self) -> int:
        """How many parameters were fitted."""

    @abstractmethod
    def _loss(self, thetas: np.ndarray, *columns: np.ndarray) -> np.ndarray:
        """Loss (m, k) for thetas (m, p) at the values (k,) of `inputs`."""

    def _held(self) -> np.ndarray:
        """Which parameters (p,) were given, not fitted: they have no interval."""
        return np.array([name == "E" and self.options.get("E") is not None for name in self.symbols])

    def _parameters(self) -> dict[str, Estimate]:
        return {
            name: estimate_of(values[:1] if held else values, self.rule)
            for name, values, held in zip(self.symbols, self.thetas.T, self._held(), strict=True)
        }

    def __getattr__(self, name: str) -> Estimate:
        if not name.startswith("_") and name in self.symbols:
            return self._parameters()[name]
        raise AttributeError(f"a law with method {self.method!r} has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.symbols]

    @property
    def scatter(self) -> Scatter:
        """How far single runs lie from the law, estimated robustly."""
        columns = [self.runs[name].to_numpy(dtype=np.float64) for name in self.inputs]
        predicted, loss = self._loss(self.thetas[:1], *columns)[0], self.runs["loss"].to_numpy()
        on_loss = self.options.get("residual") == "loss"
        residuals = loss - predicted if on_loss else np.log(loss / predicted)
        return scatter(residuals, self.num_free, on_loss=on_loss)

    def predict(
        self, params: Any = None, tokens: Any = None, flops: Any = None, *, kind: str = "mean"
    ) -> Estimate | pd.DataFrame:
        """Loss at params N and tokens D: an Estimate for numbers, for arrays a DataFrame with columns
        params, tokens, loss, loss_low, loss_high. With flops in place of either, along that budget: the other
        follows from the cost of a token (`law.cost`), and flops is a column too.

        kind "mean": the interval of the law itself (the mean of many runs there); "run": of one new run,
        which misses the law by its own noise too, see `scatter`. UserError unless two are given, above 0 and
        finite.
        """
        return self._predicted(kind, **complete_run(self.cost, params, tokens, flops))

    def _losses(self, *columns: np.ndarray) -> np.ndarray:
        """The loss (1 + R, k) at the values (k,) of `inputs`, the estimate first."""
        return self._loss(self.thetas, *columns)

    def _with_run(self, values: np.ndarray) -> np.ndarray:
        """Losses (1 + R, k) of the law, then with the noise of a new run in the resamples."""
        return self.scatter.with_run(values[:1], values[1:], int(self.options["seed"]))

    def _predicted(self, kind: str, **inputs: Any) -> Estimate | pd.DataFrame:
        check_kind(kind)
        arrays = same_shape("predict", **inputs)
        inside = [array.ravel() for name, array in arrays.items() if name in self.inputs]
        values = self._losses(*inside)
        rule = self.rule
        if kind == "run":
            # leave-outs say nothing about the noise of a new run: percentiles
            values = self._with_run(values[: len(values) - self.leave_outs])
            rule = Rule(level=self.level)
        if arrays["params"].ndim == 0:
            return estimate_of(values[:, 0], rule)
        columns = {name: array.ravel() for name, array in arrays.items()}
        return pd.DataFrame(columns | interval_columns("loss", values, rule))

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {
            "objective": self.objective,
            "gradient": self.gradient,
            "share_of_starts": self.share_of_starts,
            "scatter": {"sd": self.scatter.sd, "degrees_of_freedom": self.scatter.freedom},
        }


Searched = TypeVar("Searched", bound=PredictingLaw)


def build_law(
    law_type: type[Searched],
    table: RunTable,
    options: Mapping[str, Any],
    objective: Derivatives | LogSum,
    best: np.ndarray,
    share: float,
    thetas: np.ndarray,
    unfinished: int,
    *,
    delta: float,
    unit: float = 1.0,
    vanished: Sequence[str] = (),
    advice: str = "",
    **fields: Any,
) -> Searched:
    """The law that a search from many starts ended at, with the verdict on the search and its warnings.

    best (1, p): the optimum in the coordinates of `objective`, which `share` of the starts reach; thetas: the
    same, then resamples and leave-outs, in the user's units; unfinished: how many resamples did not converge.
    unit: of the residuals, in nats; vanished: terms with no share in any loss; advice: what to try if the
    search did not converge; fields: those of the law's own type.
    """
    ones, space = np.ones((1, len(table))), objective.space
    gradient = float(objective.relative_gradient(best, ones, delta)[0])
    thetas.flags.writeable = False
    law = law_type(
        **common_fields(table, options),
        status=FitStatus.CONVERGED,
        sentence=f"the gradient is {gradient:.0e} of its terms",
        warnings=(),
        thetas=thetas,
        objective=float(objective.at(best, ones, delta).f_R[0]) * unit**2,
        gradient=gradient,
        share_of_starts=share,
        **fields,
    )
    status, sentence = law.status, law.sentence
    edge = space.free & ((best[0] <= space.lower) | (best[0] >= space.upper))
    if gradient > GRADIENT_TOLERANCE:
        status = FitStatus.NOT_CONVERGED
        sentence = (
            f"the gradient at the best point is {gradient:.1e} of its terms, above {GRADIENT_TOLERANCE:.0e}"
            + (f"; {advice}" if advice else "")
        )
    elif vanished:
        status = FitStatus.BOUND_HIT
        sentence = (
            f"{' and '.join(vanished)} vanished: the runs are best described without that term, so its "
            "numbers mean nothing"
        )
    elif edge.any():
        status = FitStatus.BOUND_HIT
        names = [name for name, at_edge in zip(law.symbols, edge, strict=True) if at_edge]
        sentence = f"{' and '.join(names)} ended at the edge of the search: the runs do not determine it"
    sentence += f"; {share:.0%} of the starts end here"

    caveats = list(table.warnings)
    lowest = float(table.loss.min())
    if "E" in law.symbols and lowest <= law.E:
        caveats.append(
            f"E = {float(law.E):.4g} lies at or above the lowest loss ({lowest:.4g}): the law does not "
            "describe these runs; fit a narrower range of tokens per parameter"
        )
    if status is not FitStatus.CONVERGED:
        caveats.append(sentence)
    if share < FEW_STARTS:
        caveats.append(f"only {share:.0%} of the starts reach the optimum; others may lie close")
    num_draws = len(thetas) - 1 - law.leave_outs
    if unfinished > 0.01 * num_draws:
        caveats.append(f"{unfinished} of {num_draws} resamples did not converge; their last points are used")
    return replace(law, status=status, sentence=sentence, warnings=tuple(caveats))
