"""Loss at one budget as a parabola in log params, and the correction of its bias.

The parabola's vertex is off if the curve is not symmetric (alpha != beta q) or the sizes are off centre
(arXiv 2603.22339): with C = k N^q D the loss of a surface at one budget is L0 + a e^(-alpha u) + b e^(beta q
u) in u = log N, and least squares by a parabola is a linear map of it. So the two numbers of a parabola that
hold the minimum, slope and curvature, fix a and b once alpha and beta q are known, in closed form, and with
them the true minimum: `correct`. Only the shape of the curve is borrowed from a surface; the place of
the minimum is read from the runs of the budget.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Parabolas:
    """loss = c0 + c1 u + c2 u^2 with u = log params - centre; one row of coefficients each."""

    centre: float
    coefficients: np.ndarray
    """(1 + R, 3)."""

    def at(self, log_params: np.ndarray) -> np.ndarray:
        return np.asarray(self.coefficients @ design_matrix(log_params, self.centre).T)

    def lowest(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        c0, c1, c2 = self.coefficients.T
        convex = c2 > 0
        safe = np.where(convex, c2, 1.0)
        place = np.where(convex, self.centre - c1 / (2 * safe), 0.0)
        return convex, place, np.where(convex, c0 - c1**2 / (4 * safe), c0)

    def curvature(self) -> float:
        return float(self.coefficients[0, 2])

    def falls_towards(self) -> str:
        """By the slope in the middle of the sizes, at which the parabola is centred."""
        return "largest" if self.coefficients[0, 1] < 0 else "smallest"


@dataclass(frozen=True, slots=True, eq=False)
class SkewCurves:
    """loss = level + a e^(-alpha u) + b e^(beta u) with u = log params - centre, beta times q; arrays (1 +
    R,)."""

    centre: float
    level: np.ndarray
    a: np.ndarray
    b: np.ndarray
    alpha: np.ndarray
    beta: np.ndarray
    tilt: float
    """Slope of the estimate's parabola in the middle; its sign stands in for a curve without a minimum."""

    def at(self, log_params: np.ndarray) -> np.ndarray:
        u = log_params - self.centre
        fall = self.a[:, None] * np.exp(-self.alpha[:, None] * u)
        return np.asarray(self.level[:, None] + fall + self.b[:, None] * np.exp(self.beta[:, None] * u))

    def lowest(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        convex = (self.a > 0) & (self.b > 0)
        pull, push = (np.where(convex, value, 1.0) for value in (self.alpha * self.a, self.beta * self.b))
        u = np.log(pull / push) / (self.alpha + self.beta)
        with np.errstate(over="ignore"):
            above = self.a * np.exp(-self.alpha * u) + self.b * np.exp(self.beta * u)
        return (
            convex,
            np.where(convex, self.centre + u, 0.0),
            np.where(convex, self.level + above, self.level),
        )

    def curvature(self) -> float:
        convex, place, _ = self.lowest()
        u = place[0] - self.centre if convex[0] else 0.0
        falling = self.a[0] * self.alpha[0] ** 2 * np.exp(-self.alpha[0] * u)
        return float(falling + self.b[0] * self.beta[0] ** 2 * np.exp(self.beta[0] * u)) / 2

    def falls_towards(self) -> str:
        return "largest" if self.tilt < 0 else "smallest"


def design_matrix(log_params: np.ndarray, centre: float) -> np.ndarray:
    u = log_params - centre
    return np.stack([np.ones_like(u), u, u * u], axis=1)


def solve_parabolas(
    log_params: np.ndarray, loss: np.ndarray, weight: np.ndarray, centre: float
) -> np.ndarray:
    """Weighted least squares for losses (r, n) with weights (r, n): coefficients (r, 3).

    Rows whose weights leave fewer than 3 distinct sizes get a flat line, which has no minimum.
    """
    return solve_polynomials(log_params, loss, weight, centre, degree=2)


def solve_polynomials(
    log_params: np.ndarray, loss: np.ndarray, weight: np.ndarray, centre: float, *, degree: int
) -> np.ndarray:
    """`solve_parabolas` for any degree: coefficients (r, degree + 1), zeros where sizes are too few."""
    terms = degree + 1
    design = np.vander(log_params - centre, terms, increasing=True)
    gram = np.einsum("rn,ni,nj->rij", weight, design, design)
    right = np.einsum("rn,rn,ni->ri", weight, loss, design)
    sizes = np.unique(log_params, return_inverse=True)[1]
    present = np.zeros((len(weight), sizes.max() + 1), dtype=bool)
    for i, size in enumerate(sizes.tolist()):
        present[:, size] |= weight[:, i] > 0
    enough = present.sum(axis=1) >= terms
    gram[~enough] = np.eye(terms)
    right[~enough] = 0.0
    return np.asarray(np.linalg.solve(gram, right[..., None])[..., 0])


def correct(
    parabolas: Parabolas, log_params: np.ndarray, weight: np.ndarray, alpha: np.ndarray, beta: np.ndarray
) -> SkewCurves:
    """The curves of rates alpha, beta (1 + R,) whose least-squares parabola is the given one, row by row.

    log_params (n,) and weight (1 + R, n) are those of the parabola; beta is that of the tokens times the q of
    C = k N^q D. A row whose parabola no such curve has gets a or b of 0 or below, so no minimum.
    """
    u = log_params - parabolas.centre
    fall, rise = np.exp(-alpha[:, None] * u), np.exp(beta[:, None] * u)
    p, r = (solve_parabolas(log_params, curve, weight, parabolas.centre) for curve in (fall, rise))
    c0, c1, c2 = parabolas.coefficients.T
    # a p + b r = c in the coefficients of u and u^2
    determinant = p[:, 1] * r[:, 2] - r[:, 1] * p[:, 2]
    solvable = determinant != 0
    determinant = np.where(solvable, determinant, 1.0)
    a = np.where(solvable, (c1 * r[:, 2] - r[:, 1] * c2) / determinant, 0.0)
    b = np.where(solvable, (p[:, 1] * c2 - c1 * p[:, 2]) / determinant, 0.0)
    level = c0 - a * p[:, 0] - b * r[:, 0]
    return SkewCurves(parabolas.centre, level, a, b, alpha, beta, float(c1[0]))
