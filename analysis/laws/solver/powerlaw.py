"""Power laws y = k C^p through a handful of points, for the estimate and all resamples at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerLaw:
    """log y = middle + exponent (log C - log_reference); arrays (1 + R,), the estimate first."""

    middle: np.ndarray
    exponent: np.ndarray
    log_reference: float
    """Centre of the log budgets, where middle and exponent are least correlated."""

    def log_at(self, flops: np.ndarray) -> np.ndarray:
        """log y at flops (m,): (1 + R, m)."""
        return self.middle[:, None] + self.exponent[:, None] * (np.log(flops) - self.log_reference)

    @property
    def log_coefficient(self) -> np.ndarray:
        """log k, (1 + R,)."""
        return self.middle - self.exponent * self.log_reference

    def stretched(self, factor: float) -> PowerLaw:
        """The same estimate with its resamples that much farther from it."""
        return PowerLaw(
            middle=self.middle[0] + factor * (self.middle - self.middle[0]),
            exponent=self.exponent[0] + factor * (self.exponent - self.exponent[0]),
            log_reference=self.log_reference,
        )


def fit_power_laws(
    log_flops: np.ndarray, log_values: np.ndarray, usable: np.ndarray
) -> tuple[PowerLaw, np.ndarray]:
    """Least squares of log_values (1 + R, B) on log_flops (B,), each row over its usable budgets alone.

    Returns the law and which rows have two budgets or more to lie on, (1 + R,); the other rows are not in it.
    """
    reference = float(log_flops.mean())
    enough = usable.sum(axis=1) >= 2
    weight, values = usable[enough].astype(np.float64), log_values[enough]
    count = weight.sum(axis=1)
    centred = log_flops - reference
    mean_x = weight @ centred / count
    mean_y = np.sum(weight * values, axis=1) / count
    dx = centred[None, :] - mean_x[:, None]
    exponent = np.sum(weight * dx * values, axis=1) / np.sum(weight * dx**2, axis=1)
    return PowerLaw(middle=mean_y - exponent * mean_x, exponent=exponent, log_reference=reference), enough
