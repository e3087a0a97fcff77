"""One budget of an IsoFLOP sweep: its curve of loss over log params, its minimum, and the guard around it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from analysis.estimate import Rule, interval
from analysis.text import count_text, flops_text

GRID_POINTS = 1001
FEWEST_SIZES = 3
"""Of one budget, for a curve."""


class BudgetStatus(enum.StrEnum):
    """Whether a budget's minimum can be used, or the reason it cannot."""

    BRACKETED = "bracketed"
    BELOW = "below_smallest"
    ABOVE = "above_largest"
    NOT_CONVEX = "not_convex"
    TOO_FEW = "too_few_sizes"


class Curves(Protocol):
    """Loss over log params at one budget, for the estimate and all its resamples."""

    def at(self, log_params: np.ndarray) -> np.ndarray:
        """Loss (1 + R, m) at log params (m,)."""

    def lowest(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Per row: is there a minimum, its place in log params, and its loss, each (1 + R,)."""

    def curvature(self) -> float:
        """Half the second derivative of the estimate at its minimum, nats per (log params)^2."""

    def falls_towards(self) -> str:
        """The end of the sizes at which the estimate is lower: "smallest" or "largest"."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BudgetFit:
    """The curve of one budget. Arrays (1 + R, ...) hold the estimate, the resamples, then any leave-outs."""

    flops: float
    status: BudgetStatus
    reason: str
    """Empty if bracketed, else one sentence naming budget and side."""
    members: np.ndarray
    """Positions of its runs in the table."""
    sizes: np.ndarray
    """Distinct log params, ascending."""
    curves: Curves | None
    """None if there are too few sizes."""
    convex: np.ndarray
    """(1 + R,) whether the row has a minimum at all."""
    inside: np.ndarray
    """(1 + R,) whether it lies between the smallest and the largest size."""
    log_params: np.ndarray
    """(1 + R,) of the minimum; 0 if not convex."""
    log_tokens: np.ndarray
    loss: np.ndarray

    @property
    def num_runs(self) -> int:
        return len(self.members)

    def ends(self, values: np.ndarray, rule: Rule) -> tuple[float, float] | None:
        """Interval of one of the arrays above over the rows that have a minimum."""
        last = len(values) - rule.leave_outs
        left_out = values[last:][self.convex[last:]]
        drawn = np.concatenate([values[:1], values[1:last][self.convex[1:last]], left_out])
        ends = interval(drawn, Rule(level=rule.level, leave_outs=len(left_out)))
        return None if ends is None else (float(ends[0]), float(ends[1]))

    def within(self, share: float) -> tuple[float | None, float | None]:
        """Log params between which the estimate's loss is at most (1 + share) times its minimum.

        None on a side if it still is at the smallest or largest size.
        """
        if self.curves is None or self.status is not BudgetStatus.BRACKETED:
            return None, None
        x = np.linspace(self.sizes[0], self.sizes[-1], GRID_POINTS)
        over = self.curves.at(x)[0] - (1 + share) * self.loss[0]
        lowest = float(self.log_params[0])
        left, right = np.flatnonzero((x < lowest) & (over > 0)), np.flatnonzero((x > lowest) & (over > 0))

        def crossing(i: int) -> float:
            """Zero of `over` between grid points i and i + 1, by a straight line."""
            part = over[i] / (over[i] - over[i + 1])
            return float(x[i] + np.clip(part, 0.0, 1.0) * (x[i + 1] - x[i]))

        low = None if not len(left) else crossing(int(left[-1]))
        high = None if not len(right) else crossing(int(right[0]) - 1)
        return low, high


def too_few_sizes(count: int, flops: float, fewest: int = FEWEST_SIZES) -> str:
    """Why a budget with `count` sizes has no minimum."""
    sizes = f"{count} size{'s' * (count > 1)} at {flops_text(flops)} FLOPs"
    return f"{sizes}, a {'cubic' if fewest > FEWEST_SIZES else 'parabola'} needs at least {fewest}"


def read_budget(
    flops: float,
    members: np.ndarray,
    log_params: np.ndarray,
    log_cost: np.ndarray,
    curves: Curves | None,
    fewest: int = FEWEST_SIZES,
) -> BudgetFit:
    """Minimum and verdict from curves (None: less than `fewest` sizes); log_cost: of a token at each run."""
    sizes, place = np.unique(log_params, return_inverse=True)
    at = f"at {flops_text(flops)} FLOPs"
    of_budget: dict[str, Any] = {"flops": flops, "members": members, "sizes": sizes, "curves": curves}
    if curves is None:
        reason = too_few_sizes(len(sizes), flops, fewest)
        nowhere: dict[str, Any] = {name: np.empty(0) for name in ("log_params", "log_tokens", "loss")}
        never: dict[str, Any] = {name: np.empty(0, dtype=bool) for name in ("convex", "inside")}
        return BudgetFit(status=BudgetStatus.TOO_FEW, reason=reason, **of_budget, **nowhere, **never)
    cost = np.bincount(place, weights=log_cost) / np.bincount(place)
    convex, minimum, loss = curves.lowest()
    inside = convex & (minimum >= sizes[0]) & (minimum <= sizes[-1])
    smallest, largest = (count_text(size) for size in np.exp(sizes[[0, -1]]).tolist())
    status, reason = BudgetStatus.BRACKETED, ""
    if not convex[0]:
        status = BudgetStatus.NOT_CONVEX
        reason = (
            f"the losses {at} do not curve upwards, so they have no minimum (they fall towards the "
            f"{curves.falls_towards()} size); add sizes on that side"
        )
    elif minimum[0] < sizes[0]:
        status = BudgetStatus.BELOW
        reason = f"the minimum {at} lies below the smallest size ({smallest} parameters); add smaller sizes"
    elif not inside[0]:
        status = BudgetStatus.ABOVE
        reason = f"the minimum {at} lies above the largest size ({largest} parameters); add larger sizes"
    # log cost at the minimum: piecewise linear, the end pieces extended; infinity stays what it is
    finite = np.where(np.isfinite(minimum), minimum, 0.0)
    piece = np.clip(np.searchsorted(sizes, finite) - 1, 0, len(sizes) - 2)
    slope = (cost[piece + 1] - cost[piece]) / (sizes[piece + 1] - sizes[piece])
    cost_there = np.where(np.isfinite(minimum), cost[piece] + slope * (finite - sizes[piece]), minimum)
    return BudgetFit(
        status=status, reason=reason, convex=convex, inside=inside, log_params=minimum,
        log_tokens=np.log(flops) - cost_there, loss=loss, **of_budget,
    )  # fmt: skip
