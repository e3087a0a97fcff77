"""From a grid of starts to one optimum, and from that to the optima of resamples and of other losses.

Starts come from variable projection on a grid of exponents (Golub & Pereyra 1973): for given (alpha, beta)
the surface is linear in (E, A, B), so each cell needs one small non-negative least-squares solve of the
relative residual, and only two dimensions are left to search. Refits start from the optimum of the same runs,
so each costs a few Newton steps, not a search.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np

from analysis.laws.solver.bootstrap import chunk_rows, resample_weights
from analysis.laws.solver.newton import minimise
from analysis.laws.solver.objective import ROUNDING, Derivatives, Objective, Problem, Terms

GRID = np.geomspace(0.03, 1.5, 16)
NUM_STARTS = 8
RANKING_DELTA = 1e-2
"""Huber threshold that ranks the cells: wide enough to be smooth, narrow enough to disregard gross outliers.
"""
WALK = (3e-2, 1e-2, 4e-3, 2e-3)
"""Huber thresholds to pass through: at wide ones the objective is smooth and has one basin."""
USUAL_STEPS = 10
"""Newton steps after which the unfinished resamples of a chunk wait for those of the other chunks."""


def grid_starts(problem: Problem, derivatives: Derivatives) -> np.ndarray:
    """Every local minimum of the grid, then the best other cells: (S, 5) centred coordinates, best first.

    With tied exponents the grid is its diagonal.
    """
    cells = _project(problem)
    size = len(GRID)
    score = np.empty((size, size))
    for row, theta_Rp in enumerate(cells.reshape(size, size, 5)):
        residual_Rn = derivatives.shares(theta_Rp)[2]
        psi_Rn = np.clip(residual_Rn, -RANKING_DELTA, RANKING_DELTA)
        score[row] = (psi_Rn * (residual_Rn - 0.5 * psi_Rn)).sum(axis=1)
    if problem.space.tied:
        order = np.argsort(score.diagonal(), kind="stable")[:NUM_STARTS]
        return np.asarray(cells[order * (size + 1)])
    padded = np.pad(score, 1, constant_values=np.inf)
    around = [
        padded[1 + i : 1 + i + size, 1 + j : 1 + j + size] for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j
    ]
    basin = (score < np.min(around, axis=0)).ravel()
    flat = score.ravel()
    order = np.lexsort((flat, ~basin))[:NUM_STARTS]
    return np.asarray(cells[order[np.argsort(flat[order], kind="stable")]])


def _project(problem: Problem) -> np.ndarray:
    """Best non-negative (E, A, B) in every cell of the exponent grid, (G * G, 5) centred coordinates."""
    inverse_loss = np.exp(-problem.z)
    termA_Gn = np.exp(-np.outer(GRID, problem.x)) * inverse_loss
    termB_Gn = np.exp(-np.outer(GRID, problem.y)) * inverse_loss
    size = len(GRID)
    gram = np.empty((size, size, 3, 3))
    right = np.empty((size, size, 3))
    gram[..., 0, 0] = inverse_loss @ inverse_loss
    gram[..., 0, 1] = gram[..., 1, 0] = (termA_Gn @ inverse_loss)[:, None]
    gram[..., 0, 2] = gram[..., 2, 0] = (termB_Gn @ inverse_loss)[None, :]
    gram[..., 1, 1] = np.einsum("gn,gn->g", termA_Gn, termA_Gn)[:, None]
    gram[..., 2, 2] = np.einsum("gn,gn->g", termB_Gn, termB_Gn)[None, :]
    gram[..., 1, 2] = gram[..., 2, 1] = termA_Gn @ termB_Gn.T
    right[..., 0] = inverse_loss.sum()
    right[..., 1] = termA_Gn.sum(axis=1)[:, None]
    right[..., 2] = termB_Gn.sum(axis=1)[None, :]
    gram_G33, right_G3 = gram.reshape(-1, 3, 3), right.reshape(-1, 3)
    if problem.space.free[0]:
        coefficients = _nonnegative(gram_G33, right_G3)
    else:
        E = np.exp(problem.space.lower[0])
        rest = _nonnegative(gram_G33[:, 1:, 1:], right_G3[:, 1:] - E * gram_G33[:, 0, 1:])
        coefficients = np.column_stack([np.full(len(rest), E), rest])
    alpha, beta = np.meshgrid(GRID, GRID, indexing="ij")
    # a term that least squares switches off starts small, not absent: its exponent must stay visible
    logs = np.log(np.maximum(coefficients, 1e-3))
    theta = np.column_stack([logs, alpha.ravel(), beta.ravel()])
    return problem.space.clip(theta)


def _nonnegative(gram: np.ndarray, right: np.ndarray) -> np.ndarray:
    """min over c >= 0 of c'Gc - 2 r'c for many small problems, by trying every set of active terms."""
    best = np.zeros_like(right)
    lowest = np.zeros(len(right))
    size = right.shape[1]
    for count in range(1, size + 1):
        for chosen in combinations(range(size), count):
            active = list(chosen)
            ridge = 1e-13 * np.einsum("rii->r", gram)[:, None, None] * np.eye(count)
            c = np.linalg.solve(gram[:, active][:, :, active] + ridge, right[:, active, None])[..., 0]
            value = -np.einsum("ri,ri->r", c, right[:, active])
            better = (c >= 0).all(axis=1) & (value < lowest)
            lowest = np.where(better, value, lowest)
            full = np.zeros_like(right)
            full[:, active] = c
            best = np.where(better[:, None], full, best)
    return best


def best_of(
    objective: Objective,
    theta_Rp: np.ndarray,
    num_runs: int,
    delta: float,
    *,
    tolerance: float = 1e-3,
    max_steps: int = 30,
) -> tuple[np.ndarray, float]:
    """The best optimum (1, p) over the starts theta_Rp, and the share of the starts that reach it.

    tolerance, max_steps: of the thresholds on the way.
    """
    weight_Rn = np.ones((len(theta_Rp), num_runs))
    for step in WALK:
        if step > 1.5 * delta:
            theta_Rp = minimise(
                objective, theta_Rp, weight_Rn, step, tolerance=tolerance, max_steps=max_steps
            ).theta_Rp
    ended = minimise(objective, theta_Rp, weight_Rn, delta)
    value_R = objective.at(ended.theta_Rp, weight_Rn, delta).f_R
    winner = int(np.argmin(value_R))
    floor = num_runs * ROUNDING**2
    share = float(np.mean(value_R <= value_R[winner] * (1 + 1e-6) + floor))
    return ended.theta_Rp[winner : winner + 1], share


def refit_resamples(
    objective: Objective,
    best: np.ndarray,
    num_runs: int,
    draws: int,
    seed: int,
    groups: np.ndarray | None,
    delta: float,
    terms: Terms | None = None,
    start_Rp: np.ndarray | None = None,
) -> tuple[np.ndarray, int]:
    """Refit every resample from the optimum `best` (1, p): (R, p), and how many did not converge.

    terms: the runs' terms there, if available; saves the first evaluation. start_Rp (draws, p): other starts,
    e.g. each with its own held coordinates.
    """
    thetas_list, late_weights, late = [np.empty((0, best.shape[1]))], [], []
    starts_Rp = np.repeat(best, draws, axis=0) if start_Rp is None else start_Rp
    first = 0
    for weight_Rn in resample_weights(num_runs, draws, seed, groups):
        here_Rp = starts_Rp[first : first + len(weight_Rn)]
        first += len(weight_Rn)
        ended = minimise(
            objective, here_Rp, weight_Rn, delta, tolerance=1e-11, terms=terms, max_steps=USUAL_STEPS
        )
        late.append(~ended.converged_R)
        late_weights.append(weight_Rn[~ended.converged_R])
        thetas_list.append(ended.theta_Rp)
    thetas = np.concatenate(thetas_list)
    slow_R = np.flatnonzero(np.concatenate([np.zeros(0, dtype=bool), *late]))
    weights = np.concatenate([np.empty((0, num_runs)), *late_weights])
    # the few slow ones of all chunks together: alone in their chunks they would cost as much as all the rest
    unfinished, chunk = 0, chunk_rows(num_runs)
    for first in range(0, len(slow_R), chunk):
        rows = slow_R[first : first + chunk]
        ended = minimise(objective, thetas[rows], weights[first : first + chunk], delta, tolerance=1e-11)
        thetas[rows] = ended.theta_Rp
        unfinished += int(np.sum(~ended.converged_R))
    return thetas, unfinished


def refit(
    objective: Objective,
    start_Rp: np.ndarray,
    delta: float,
    weights: np.ndarray | None,
    z: np.ndarray | None,
    *,
    tolerance: float = 1e-11,
) -> tuple[np.ndarray, np.ndarray]:
    """Refit from one start (1, p) to other weights or other centred log losses z (R, n) of the same runs:
    optima (R, p), and which converged (R,)."""
    other = z if weights is None else weights
    assert other is not None, "a refit needs other weights or other losses"
    num_refits, num_runs = other.shape
    theta_Rp, converged = np.empty((num_refits, start_Rp.shape[1])), np.empty(num_refits, dtype=bool)
    chunk = chunk_rows(num_runs)
    for first in range(0, num_refits, chunk):
        rows = slice(first, min(first + chunk, num_refits))
        size = rows.stop - rows.start
        weight_Rn = np.ones((size, num_runs)) if weights is None else weights[rows]
        z_Rn = None if z is None else z[rows]
        start = np.repeat(start_Rp, size, axis=0)
        # a resample that no surface describes may send a trial step beyond the largest float; it is refused
        with np.errstate(over="ignore", invalid="ignore"):
            ended = minimise(objective, start, weight_Rn, delta, tolerance=tolerance, z_Rn=z_Rn)
        theta_Rp[rows], converged[rows] = ended.theta_Rp, ended.converged_R
    return theta_Rp, converged


def golden_section(
    loss: Callable[[np.ndarray], np.ndarray], low: np.ndarray, high: np.ndarray, steps: int
) -> np.ndarray:
    """Minima (m,) of m functions, each between its low and high; loss takes and gives (m, 2)."""
    ratio = (np.sqrt(5) - 1) / 2
    for _ in range(steps):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        values = loss(np.stack([left, right], axis=1))
        lower = values[:, 0] < values[:, 1]
        low, high = np.where(lower, low, left), np.where(lower, right, high)
    return np.asarray((low + high) / 2)
