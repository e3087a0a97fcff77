"""What scarce text does: the best size for a budget, what repeats are worth, which family wins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from analysis.errors import UserError
from analysis.frontier import Cost, optimal_logs
from analysis.laws.solver.repeats import ONCE, constrained_loss, effective_data, penalty

if TYPE_CHECKING:
    from analysis.laws.constrained import ConstrainedLaw

AROUND = np.log(1e4)
"""The best size is searched within this log factor of the best one with unlimited text."""
FARTHEST_LOG = 200.0
GRID_POINTS = 81
GOLDEN_STEPS = 40
BELOW, ABOVE = 1e-2, 1e4
"""Crossings are looked for from this factor below the smaller budgets to that above the larger ones."""
SCAN_POINTS = 49
BISECTIONS = 30
PAIRING = 23
"""Seed of the order in which resamples of one law meet those of another."""


def best_given_text(
    form: str, thetas: np.ndarray, flops: np.ndarray, unique_tokens: float, cost: Cost
) -> tuple[np.ndarray, np.ndarray]:
    """log of the best size and its loss, each (m, k), for thetas (m, p) at flops (k,) or (m, k)."""
    budgets = np.broadcast_to(flops, (len(thetas), np.shape(flops)[-1]))
    sizes, losses = np.empty(budgets.shape), np.empty(budgets.shape)
    for j in range(budgets.shape[1]):
        middle = optimal_logs(thetas[:, :5], np.ones(1), cost)[0][:, 0]
        slope = thetas[:, 4] / (thetas[:, 3] + cost.q * thetas[:, 4])
        middle = middle + slope * np.log(budgets[:, j])
        # the optimum of a law that means nothing may lie beyond the largest float
        middle = np.clip(middle, -FARTHEST_LOG, FARTHEST_LOG)
        sizes[:, j], losses[:, j] = _best(form, thetas, budgets[:, j], unique_tokens, cost, middle)
    return sizes, losses


def _best(
    form: str, thetas: np.ndarray, budget: np.ndarray, unique_tokens: float, cost: Cost, middle: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Grid, then golden section, over log params; budget and middle are (m,)."""

    def loss(log_params: np.ndarray) -> np.ndarray:
        params = np.exp(log_params)
        tokens = budget[:, None] / (cost.k * params**cost.q)
        # far from the optimum a term may overflow: an infinite loss is no optimum
        with np.errstate(over="ignore"):
            return constrained_loss(form, thetas, params, tokens, np.full_like(tokens, unique_tokens))

    grid = middle[:, None] + np.linspace(-AROUND, AROUND, GRID_POINTS)
    rows = np.arange(len(thetas))
    lowest = np.clip(loss(grid).argmin(axis=1), 1, GRID_POINTS - 2)
    low, high = grid[rows, lowest - 1], grid[rows, lowest + 1]
    ratio = (np.sqrt(5) - 1) / 2
    for _ in range(GOLDEN_STEPS):
        inner = np.stack([high - ratio * (high - low), low + ratio * (high - low)], axis=1)
        values = loss(inner)
        left = values[:, 0] < values[:, 1]
        low, high = np.where(left, low, inner[:, 0]), np.where(left, inner[:, 1], high)
    found = (low + high) / 2
    return found, loss(found[:, None])[:, 0]


def worth_of_repeats(
    form: str, thetas: np.ndarray, epochs: np.ndarray, params: float | None, unique_tokens: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """(marginal, average) worth of a token in fresh tokens, each (m, k), after so many epochs (k,).

    D' are the fresh tokens that would give the same loss at the same size (for the effective form: in its
    data term); marginal is dD'/dD at fixed unique tokens, average D'/D.
    """
    if form == "effective":
        scale = thetas[:, 5, None]
        return np.exp(-(epochs - 1) / scale), effective_data(scale, epochs, np.ones_like(epochs)) / epochs
    assert params is not None
    assert unique_tokens is not None
    B, beta, exponent = (thetas[:, i, None] for i in (2, 4, 6))
    # at one epoch to the limit from above
    repeats = np.maximum(epochs - 1, 2 * ONCE)
    tokens = unique_tokens * (1 + repeats)
    harm = penalty(thetas, np.full_like(tokens, params), tokens, np.full_like(tokens, unique_tokens))
    data_term = B * tokens**-beta + harm
    worth = (data_term / B) ** (-1 / beta)
    steepness = beta * B * tokens ** (-beta - 1) - harm * exponent / repeats / unique_tokens
    return np.asarray(steepness * worth ** (beta + 1) / (beta * B)), np.asarray(worth / tokens)


def critical_compute(law: ConstrainedLaw, other: ConstrainedLaw, unique_tokens: float) -> np.ndarray:
    """Budgets (1 + R,) at which `law` first gets below `other`: 0 where it lies below from the start,
    infinite where it never does; the estimates first, then their resamples in pairs."""
    if law.cost != other.cost and not np.isclose(law.cost.q, other.cost.q, atol=0.02):
        raise UserError(
            f"critical_flops: the tables count FLOPs differently ({law.cost} and {other.cost}); fit both "
            "with one convention"
        )
    count = min(len(law.thetas), len(other.thetas)) - 1
    order = 1 + np.random.default_rng(PAIRING).permutation(len(other.thetas) - 1)[:count]
    ours, theirs = law.thetas[: 1 + count], other.thetas[np.concatenate([[0], order])]

    def gap(flops: np.ndarray) -> np.ndarray:
        mine = best_given_text(law.form, ours, flops, unique_tokens, law.cost)[1]
        return mine - best_given_text(other.form, theirs, flops, unique_tokens, other.cost)[1]

    low = BELOW * min(law.flops_range[0], other.flops_range[0])
    high = ABOVE * max(law.flops_range[1], other.flops_range[1])
    scan = np.geomspace(low, high, SCAN_POINTS)
    gaps = gap(scan)
    falls = (gaps[:, :-1] >= 0) & (gaps[:, 1:] < 0)
    first = falls.argmax(axis=1)
    left, right = np.log(scan[first]), np.log(scan[first + 1])
    for _ in range(BISECTIONS):
        middle = (left + right) / 2
        below = gap(np.exp(middle)[:, None])[:, 0] < 0
        left, right = np.where(below, left, middle), np.where(below, middle, right)
    crossing = np.where(falls.any(axis=1), np.exp((left + right) / 2), np.inf)
    return np.asarray(np.where(gaps[:, 0] < 0, 0.0, crossing))
