"""Where to start the surface fit: variable projection on a grid of exponents.

For given (alpha, beta) the law is linear in (E, A, B), so each cell of the grid needs one small non-negative
least-squares solve of the relative residual; only two dimensions are left to search (Golub & Pereyra 1973).
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from analysis.laws.solver.objective import Derivatives, Problem

GRID = np.geomspace(0.03, 1.5, 16)
NUM_STARTS = 8
RANKING_DELTA = 1e-2
"""Huber threshold that ranks the cells: wide enough to be smooth, narrow enough to disregard gross outliers.
"""


def grid_starts(problem: Problem, derivatives: Derivatives) -> np.ndarray:
    """Every local minimum of the grid, then the best other cells: (S, 5) centred coordinates, best first.

    With tied exponents the grid is its diagonal.
    """
    cells = _project(problem)
    size = len(GRID)
    weight = np.ones((1, len(problem.x)))
    score = np.concatenate([_score(derivatives, rows, weight) for rows in cells.reshape(size, size, 5)])
    if problem.space.tied:
        diagonal = np.arange(size) * (size + 1)
        return np.asarray(cells[diagonal[np.argsort(score[diagonal], kind="stable")[:NUM_STARTS]]])
    padded = np.pad(score.reshape(size, size), 1, constant_values=np.inf)
    around = [
        padded[1 + i : 1 + i + size, 1 + j : 1 + j + size] for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j
    ]
    basin = score < np.min(around, axis=0).ravel()
    order = np.lexsort((score, ~basin))[:NUM_STARTS]
    return np.asarray(cells[order[np.argsort(score[order], kind="stable")]])


def _score(derivatives: Derivatives, theta_Rp: np.ndarray, weight_Rn: np.ndarray) -> np.ndarray:
    residual_Rn = derivatives.shares(theta_Rp)[2]
    psi_Rn = np.clip(residual_Rn, -RANKING_DELTA, RANKING_DELTA)
    return np.asarray((weight_Rn * psi_Rn * (residual_Rn - 0.5 * psi_Rn)).sum(axis=1))


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
