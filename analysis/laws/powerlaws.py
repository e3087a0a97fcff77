"""Laws whose frontier is three power laws of compute, of the best size, tokens and loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.estimate import Estimate, estimate_of
from analysis.frontier import Curve
from analysis.laws.result import Law

INSIDE = 1.01
"""Budgets up to this factor beyond the largest one count as measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerLaw:
    """log y = middle + exponent (log C - log_reference); arrays (1 + R,), the estimate first."""

    middle: np.ndarray
    exponent: np.ndarray
    log_reference: float
    """Centre of the log budgets, at which middle and exponent are least correlated."""

    def log_at(self, flops: np.ndarray) -> np.ndarray:
        """log y at flops (m,): (1 + R, m)."""
        return self.middle[:, None] + self.exponent[:, None] * (np.log(flops) - self.log_reference)

    @property
    def log_coefficient(self) -> np.ndarray:
        """log k of y = k C^p, (1 + R,)."""
        return self.middle - self.exponent * self.log_reference

    def stretched(self, factor: float) -> PowerLaw:
        """The same estimate with its resamples that much farther from it."""
        middle = self.middle[0] + factor * (self.middle - self.middle[0])
        exponent = self.exponent[0] + factor * (self.exponent - self.exponent[0])
        return PowerLaw(middle=middle, exponent=exponent, log_reference=self.log_reference)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PowerLawFrontier(Law):
    """A law whose frontier is three power laws of compute without offset."""

    power_laws: dict[str, PowerLaw]
    """Of params, tokens and loss."""

    def _parameters(self) -> dict[str, Estimate]:
        return {
            f"coefficient of {name}": estimate_of(np.exp(law.log_coefficient), self.rule)
            for name, law in self.power_laws.items()
        }

    @property
    def exponents(self) -> dict[str, Estimate]:
        """Of N*, D*, D*/N* and L* as powers of compute (L* itself: there is no offset E)."""
        laws = {name: law.exponent for name, law in self.power_laws.items()}
        laws["tokens_per_param"] = laws["tokens"] - laws["params"]
        return {name: estimate_of(v, self.rule) for name, v in laws.items()}

    @property
    def curve(self) -> Curve:
        law = self.power_laws["loss"]
        drawn = slice(0, len(law.exponent) - self.leave_outs)
        return Curve(
            E=np.zeros_like(law.exponent[drawn]),
            log_K=law.log_coefficient[drawn],
            c=-law.exponent[drawn],
            flops_range=self.flops_range,
        )

    def _beyond(self, budgets: np.ndarray) -> np.ndarray:
        # without an offset E the fitted line falls too steeply, and its interval knows nothing of that
        return np.asarray(budgets > self.flops_range[1] * INSIDE)

    def _along(self, flops: np.ndarray) -> dict[str, np.ndarray]:
        logs = {name: law.log_at(flops) for name, law in self.power_laws.items()}
        return logs | {"loss": np.exp(logs["loss"])}

    def __getattr__(self, name: str) -> Any:
        why = "; it describes the best runs, see optimal, and a surface law predicts any run"
        raise AttributeError(f"a law with method {self.method!r} has no {name!r}{why * (name == 'predict')}")
