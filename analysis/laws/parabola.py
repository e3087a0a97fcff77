"""One budget of an IsoFLOP sweep: loss as a parabola in log params, its minimum, and the guard around it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np

from analysis.estimate import spread


class BudgetStatus(enum.StrEnum):
    """Whether a budget's minimum can be used, and if not, why."""

    BRACKETED = "bracketed"
    BELOW = "below_smallest"
    ABOVE = "above_largest"
    NOT_CONVEX = "not_convex"
    TOO_FEW = "too_few_sizes"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BudgetFit:
    """The parabola of one budget. Arrays (1 + R, ...) hold the estimate first, then the resamples."""

    flops: float
    status: BudgetStatus
    reason: str
    """Empty if bracketed, else one sentence naming budget and side."""
    members: np.ndarray
    """Positions of its runs in the table."""
    sizes: np.ndarray
    """Distinct log params, ascending."""
    centre: float
    coefficients: np.ndarray
    """(1 + R, 3): loss = c0 + c1 u + c2 u^2 with u = log params - centre; no rows if there are too few sizes.
    """
    convex: np.ndarray
    """(1 + R,) whether the row has a minimum at all."""
    inside: np.ndarray
    """(1 + R,) whether it lies between the smallest and the largest size."""
    log_params: np.ndarray
    """(1 + R,) where the minimum is; 0 where not convex."""
    log_tokens: np.ndarray
    loss: np.ndarray

    @property
    def num_runs(self) -> int:
        return len(self.members)

    @property
    def curvature(self) -> float:
        """c2 of the estimate, nats per (log params)^2."""
        return float(self.coefficients[0, 2])

    def ends(self, values: np.ndarray, level: float) -> tuple[float, float] | None:
        """Interval of one of the arrays above over the resamples that have a minimum."""
        drawn = values[1:][self.convex[1:]]
        if not len(drawn):
            return None
        low, high = spread(drawn, level)
        return float(low), float(high)


def design_matrix(log_params: np.ndarray, centre: float) -> np.ndarray:
    u = log_params - centre
    return np.stack([np.ones_like(u), u, u * u], axis=1)


def solve_parabolas(
    log_params: np.ndarray, loss: np.ndarray, weight: np.ndarray, centre: float
) -> np.ndarray:
    """Weighted least squares for losses (r, n) with weights (r, n): coefficients (r, 3).

    Rows whose weights leave fewer than 3 distinct sizes get a flat line, which has no minimum.
    """
    design = design_matrix(log_params, centre)
    gram = np.einsum("rn,ni,nj->rij", weight, design, design)
    right = np.einsum("rn,rn,ni->ri", weight, loss, design)
    sizes = np.unique(log_params, return_inverse=True)[1]
    present = np.zeros((len(weight), sizes.max() + 1), dtype=bool)
    for i, size in enumerate(sizes.tolist()):
        present[:, size] |= weight[:, i] > 0
    enough = present.sum(axis=1) >= 3
    gram[~enough] = np.eye(3)
    right[~enough] = 0.0
    return np.asarray(np.linalg.solve(gram, right[..., None])[..., 0])


def read_budget(
    flops: float,
    members: np.ndarray,
    log_params: np.ndarray,
    log_cost: np.ndarray,
    coefficients: np.ndarray,
    centre: float,
) -> BudgetFit:
    """Minimum and verdict from coefficients (1 + R, 3); log_cost is log FLOPs per token of each run."""
    sizes, cost = _by_size(log_params, log_cost)
    convex = coefficients[:, 2] > 0
    safe = np.where(convex, coefficients[:, 2], 1.0)
    u = np.where(convex, -coefficients[:, 1] / (2 * safe), 0.0)
    minimum = np.where(convex, centre + u, 0.0)
    inside = convex & (minimum >= sizes[0]) & (minimum <= sizes[-1])
    status, reason = _verdict(flops, sizes, coefficients[0], convex[0], inside[0], minimum[0])
    return BudgetFit(
        flops=flops,
        status=status,
        reason=reason,
        members=members,
        sizes=sizes,
        centre=centre,
        coefficients=coefficients,
        convex=convex,
        inside=inside,
        log_params=minimum,
        log_tokens=np.log(flops) - _interpolate(minimum, sizes, cost),
        loss=np.where(convex, coefficients[:, 0] - coefficients[:, 1] ** 2 / (4 * safe), coefficients[:, 0]),
    )


def too_few(flops: float, members: np.ndarray, log_params: np.ndarray) -> BudgetFit:
    """The verdict on a budget with fewer than 3 sizes."""
    sizes = np.unique(log_params)
    none = np.empty(0)
    count = f"{len(sizes)} size{'s' if len(sizes) > 1 else ''}"
    return BudgetFit(
        flops=flops,
        status=BudgetStatus.TOO_FEW,
        reason=f"{count} at {flops:.1e} FLOPs, a parabola needs at least 3",
        members=members,
        sizes=sizes,
        centre=float(sizes.mean()),
        coefficients=np.empty((0, 3)),
        convex=none.astype(bool),
        inside=none.astype(bool),
        log_params=none,
        log_tokens=none,
        loss=none,
    )


def _verdict(
    flops: float, sizes: np.ndarray, c: np.ndarray, convex: bool, inside: bool, minimum: float
) -> tuple[BudgetStatus, str]:
    if inside:
        return BudgetStatus.BRACKETED, ""
    smallest, largest = np.exp(sizes[[0, -1]])
    if not convex:
        side = "largest" if c[1] + 2 * c[2] * (sizes.mean() - minimum) < 0 else "smallest"
        return BudgetStatus.NOT_CONVEX, (
            f"the losses at {flops:.1e} FLOPs do not curve upwards, so they have no minimum (they fall "
            f"towards the {side} size); add sizes on that side"
        )
    if minimum < sizes[0]:
        return BudgetStatus.BELOW, (
            f"the minimum at {flops:.1e} FLOPs lies below the smallest size ({smallest:.3g} parameters); "
            "add smaller sizes"
        )
    return BudgetStatus.ABOVE, (
        f"the minimum at {flops:.1e} FLOPs lies above the largest size ({largest:.3g} parameters); add "
        "larger sizes"
    )


def _by_size(log_params: np.ndarray, log_cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sizes, where = np.unique(log_params, return_inverse=True)
    return sizes, np.bincount(where, weights=log_cost) / np.bincount(where)


def _interpolate(at: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Piecewise linear through (x, y), the end pieces extended."""
    piece = np.clip(np.searchsorted(x, at) - 1, 0, len(x) - 2)
    slope = (y[piece + 1] - y[piece]) / (x[piece + 1] - x[piece])
    return np.asarray(y[piece] + slope * (at - x[piece]))
