"""Laws that say the loss of any run: found by a search for a robust optimum, asked by `predict`."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.errors import UserError
from analysis.estimate import Estimate, Rule, estimate_of
from analysis.laws.result import Law, interval_columns
from analysis.laws.solver.newrun import Scatter, check_kind


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PredictingLaw(Law):
    """A law with a formula for the loss (nats per token) of a run, whatever its size and tokens."""

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
    def scatter(self) -> Scatter:
        """How far single runs lie from the law, estimated robustly."""

    @abstractmethod
    def _losses(self, *columns: np.ndarray) -> np.ndarray:
        """Loss (1 + R, m) under every row of `thetas`, from columns (m,)."""

    def _predicted(self, kind: str, **given: Any) -> Estimate | pd.DataFrame:
        """What `predict` answers: an Estimate for numbers, for arrays a DataFrame of them and the loss.

        kind "mean": the interval of the law itself (the mean of many runs there); "run": of one new run,
        which misses the law by its own noise too, see `scatter`. UserError unless all are above 0 and finite.
        """
        check_kind(kind)
        arrays = positive_pairs(**given)
        values = self._losses(*(array.ravel() for array in arrays))
        rule = self.rule
        if kind == "run":
            # leave-outs say nothing about the noise of a new run: percentiles
            drawn = values[1 : len(values) - self.leave_outs]
            values = self.scatter.with_run(values[:1], drawn, int(self.options["seed"]))
            rule = Rule(level=self.level)
        if arrays[0].ndim == 0:
            return estimate_of(values[:, 0], rule)
        columns = {name: array.ravel() for name, array in zip(given, arrays, strict=True)}
        return pd.DataFrame(columns | interval_columns("loss", values, rule))

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {
            "objective": self.objective,
            "gradient": self.gradient,
            "share_of_starts": self.share_of_starts,
            "scatter": {"sd": self.scatter.sd, "degrees_of_freedom": self.scatter.freedom},
        }


def positive_pairs(**values: Any) -> list[np.ndarray]:
    """Numbers or arrays as float64 arrays of one shape; UserError unless all are positive and finite."""
    arrays = np.broadcast_arrays(*(np.asarray(value, dtype=np.float64) for value in values.values()))
    if not all(np.all(np.isfinite(array) & (array > 0)) for array in arrays):
        raise UserError(f"predict: {' and '.join(values)} must be finite numbers above 0")
    return list(arrays)
