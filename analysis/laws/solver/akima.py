"""Loss against log params through all runs of a budget: Akima's interpolant and its exact minimum.

Porian et al. 2024 (arXiv 2406.19146, section 3) take the minimum of an Akima spline of log loss in log params
on a grid; here it is the zero of the piecewise quadratic derivative. An interpolant has no shape to be wrong
about, so no bias from wide sizes, but it smooths nothing: noise in the runs next to the minimum moves it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import Akima1DInterpolator


@dataclass(frozen=True, slots=True, eq=False)
class Splines:
    """One interpolant of log loss per row of losses, all over the same sizes."""

    sizes: np.ndarray
    """Distinct log params, ascending, (k,)."""
    log_loss: np.ndarray
    """(1 + R, k)."""

    def at(self, log_params: np.ndarray) -> np.ndarray:
        """Loss (1 + R, m) at log params (m,) between the smallest and the largest size."""
        return np.asarray(np.exp(self._interpolant()(log_params)))

    def lowest(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Per row: is there a minimum, its place in log params, and its loss, each (1 + R,).

        A row that is lowest at its smallest or largest size has its minimum beyond: at minus or plus
        infinity, with that size's loss. A row that falls towards both ends has none.
        """
        # the lowest local minimum between the ends, if there is one
        c3, c2, c1, c0 = Akima1DInterpolator(self.sizes, self.log_loss.T).c  # each (k - 1, 1 + R)
        inside_root = c2**2 - 3 * c3 * c1
        # of the derivative's zeros the one where it rises, by whichever formula cancels nothing
        root = np.sqrt(np.maximum(inside_root, 0.0))
        over = np.where(c2 >= 0, -c1, root - c2)
        under = np.where(c2 >= 0, c2 + root, 3 * c3)
        step = np.divide(over, under, out=np.full_like(over, -1.0), where=under != 0)
        fine = (inside_root >= 0) & (step >= 0) & (step <= np.diff(self.sizes)[:, None])
        step = np.where(fine, step, 0.0)
        value = np.where(fine, ((c3 * step + c2) * step + c1) * step + c0, np.inf)
        piece = np.argmin(value, axis=0)
        row = np.arange(value.shape[1])
        exists = fine[piece, row]
        at, value = self.sizes[piece] + step[piece, row], np.where(exists, value[piece, row], 0.0)
        first, last = self.log_loss[:, 0], self.log_loss[:, -1]
        end = np.minimum(first, last)
        inside = exists & (value < end)
        beyond = np.where(first < last, -np.inf, np.inf)
        humped = ~inside & (self.log_loss[:, 1:-1].max(axis=1) > np.maximum(first, last))
        place = np.where(inside, at, np.where(humped, 0.0, beyond))
        return ~humped, place, np.exp(np.where(inside, value, end))

    def curvature(self) -> float:
        """Half the second derivative of the estimate's loss at its minimum (at the middle without one)."""
        convex, place, loss = self.lowest()
        at = place[0] if convex[0] and np.isfinite(place[0]) else self.sizes.mean()
        return float(loss[0] * self._interpolant()(at, 2)[0] / 2)

    def falls_towards(self) -> str:
        """The end with the lower loss: "smallest" or "largest"."""
        return "largest" if self.log_loss[0, -1] < self.log_loss[0, 0] else "smallest"

    def _interpolant(self) -> Akima1DInterpolator:
        return Akima1DInterpolator(self.sizes, self.log_loss, axis=1)


def solve_splines(log_params: np.ndarray, loss: np.ndarray, weight: np.ndarray) -> Splines:
    """Interpolants of losses (r, n); runs of one size enter as their weighted mean of log loss.

    If a row's weights (r, n) leave out a size, the interpolant of its other sizes stands in for it.
    """
    sizes, place = np.unique(log_params, return_inverse=True)
    member = (place[:, None] == np.arange(len(sizes))).astype(np.float64)
    total = weight @ member
    log_loss = ((weight * np.log(loss)) @ member) / np.where(total > 0, total, 1.0)
    for row in np.flatnonzero((total <= 0).any(axis=1)).tolist():
        there = total[row] > 0
        others = Akima1DInterpolator(sizes[there], log_loss[row, there], extrapolate=True)
        log_loss[row, ~there] = others(sizes[~there])
    return Splines(sizes, log_loss)
