"""Loss at one budget as a cubic in log params, for sizes over which no parabola describes it.

Far from the best size the loss of small networks rises steeply and that of large ones, hardly trained, levels
off: a parabola has the same slope on both sides, a cubic has not. Its minimum is the zero of the slope at
which it bends upwards; one that lies above the curve at an end of the sizes is no minimum of theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.laws.solver.parabola import solve_polynomials


@dataclass(frozen=True, slots=True, eq=False)
class Cubics:
    """loss = c0 + c1 u + c2 u^2 + c3 u^3 with u = log params - centre; one row of coefficients each."""

    centre: float
    ends: tuple[float, float]
    """Smallest and largest log params."""
    coefficients: np.ndarray
    """(1 + R, 4)."""

    def at(self, log_params: np.ndarray) -> np.ndarray:
        return np.asarray(self.coefficients @ np.vander(log_params - self.centre, 4, increasing=True).T)

    def lowest(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Per row: is there a minimum, its place in log params, and its loss, each (1 + R,)."""
        c0, c1, c2, c3 = self.coefficients.T
        inside_root = c2**2 - 3 * c3 * c1
        root = np.sqrt(np.maximum(inside_root, 0.0))
        # of the slope's zeros the one where it rises, by whichever formula cancels nothing
        over, under = np.where(c2 >= 0, -c1, root - c2), np.where(c2 >= 0, c2 + root, 3 * c3)
        exists = (inside_root > 0) & (under != 0)
        u = np.divide(over, under, out=np.zeros_like(over), where=exists)
        loss = ((c3 * u + c2) * u + c1) * u + c0
        at_ends = self.at(np.array(self.ends))
        within = (u >= self.ends[0] - self.centre) & (u <= self.ends[1] - self.centre)
        exists &= ~within | (loss <= at_ends.min(axis=1))
        return exists, np.where(exists, self.centre + u, 0.0), np.where(exists, loss, at_ends.min(axis=1))

    def curvature(self) -> float:
        convex, place, _ = self.lowest()
        u = place[0] - self.centre if convex[0] else 0.0
        return float(self.coefficients[0, 2] + 3 * self.coefficients[0, 3] * u)

    def falls_towards(self) -> str:
        smallest, largest = self.at(np.array(self.ends))[0]
        return "largest" if largest < smallest else "smallest"


def solve_cubics(log_params: np.ndarray, loss: np.ndarray, weight: np.ndarray) -> Cubics:
    """Weighted least squares for losses (r, n) with weights (r, n).

    Rows whose weights leave fewer than 4 distinct sizes get a flat line, which has no minimum.
    """
    centre = float(log_params.mean())
    ends = float(log_params.min()), float(log_params.max())
    return Cubics(centre, ends, solve_polynomials(log_params, loss, weight, centre, degree=3))
