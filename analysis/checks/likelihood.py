"""The likelihood that a robust fit maximises, so that fits of the same runs compare."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import ndtr


def huber_deviance(huber: float, count: int, delta: float) -> float:
    """-2 log likelihood of residuals with that sum of Huber terms, at the scale s that makes it least.

    The density is exp(-Huber_delta(r) / s^2) / Z(s), Z = s sqrt(2 pi) (2 Phi(delta/s) - 1)
    + 2 s^2/delta exp(-delta^2 / (2 s^2)). A sum of 0 (an exact fit) counts as rounding.
    """
    huber = max(huber, count * 1e-30)

    def deviance(log_scale: float) -> float:
        s = np.exp(log_scale)
        inner = s * np.sqrt(2 * np.pi) * (2 * ndtr(delta / s) - 1)
        normaliser = inner + 2 * s**2 / delta * np.exp(-(delta**2) / (2 * s**2))
        return float(2 * count * np.log(normaliser) + 2 * huber / s**2)

    middle = 0.5 * np.log(2 * huber / count)
    found = minimize_scalar(
        deviance, bounds=(middle - 12, middle + 12), method="bounded", options={"xatol": 1e-10}
    )
    return float(found.fun)
