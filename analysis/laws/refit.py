"""Refits of one surface to other weights or other losses of the same runs: resamples, leave-outs,
simulations.

Every refit starts from a known optimum of the same runs, so it costs a few Newton steps instead of a search.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.laws.bootstrap import chunk_rows
from analysis.laws.newton import minimise
from analysis.laws.objective import Derivatives, Problem


def refit_surface(
    runs: pd.DataFrame,
    theta: np.ndarray,
    delta: float,
    *,
    weights: np.ndarray | None = None,
    losses: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Refit E + A N^-alpha + B D^-beta (R, 5) from the optimum theta (5,), and which refits converged (R,).

    runs: columns params, tokens, loss (n rows); weights (R, n) multiply the runs' Huber terms; losses (R, n)
    take the place of the measured ones, nats per token, above 0. At least one of the two is given.
    """
    problem = Problem.of(*(runs[name].to_numpy(dtype=np.float64) for name in ("params", "tokens", "loss")))
    derivatives = Derivatives(problem)
    start = centred(problem, theta)
    num_refits = len(losses if weights is None else weights)  # type: ignore[arg-type]
    thetas, converged = np.empty((num_refits, 5)), np.empty(num_refits, dtype=bool)
    chunk = chunk_rows(len(runs))
    for first in range(0, num_refits, chunk):
        rows = slice(first, min(first + chunk, num_refits))
        size = rows.stop - rows.start
        weight_Rn = np.ones((size, len(runs))) if weights is None else weights[rows]
        z_Rn = None if losses is None else np.log(losses[rows]) - problem.means[2]
        start_Rp = np.repeat(start[None], size, axis=0)
        ended = minimise(derivatives, start_Rp, weight_Rn, delta, tolerance=1e-11, z_Rn=z_Rn)
        thetas[rows], converged[rows] = problem.natural(ended.theta_Rp), ended.converged_R
    return thetas, converged


def centred(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """The coordinates of `Problem` for E, A, B, alpha, beta (..., 5) in the user's units."""
    x_mean, y_mean, z_mean = problem.means
    E, A, B, alpha, beta = np.moveaxis(np.asarray(theta, dtype=np.float64), -1, 0)
    logs = (np.log(E), np.log(A) + -alpha * x_mean, np.log(B) - beta * y_mean)
    return np.stack([*(value - z_mean for value in logs), alpha, beta], axis=-1)


def leave_one_out(groups: np.ndarray) -> np.ndarray:
    """Weights (G, n) that leave out one group after the other; groups (n,) are numbered 0, 1, ..."""
    return (groups[None, :] != np.arange(groups.max() + 1)[:, None]).astype(np.float64)
