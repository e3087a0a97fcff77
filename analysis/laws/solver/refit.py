"""Refits of one surface to other weights or other losses of the same runs: resamples, leave-outs,
simulations.

Every refit starts from a known optimum of the same runs, so it costs a few Newton steps, not a search.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.laws.solver.bootstrap import chunk_rows
from analysis.laws.solver.newton import minimise
from analysis.laws.solver.objective import NO_E, Derivatives, Problem

if TYPE_CHECKING:
    import pandas as pd

    from analysis.laws.surface import SurfaceLaw


def refit_surface(
    law: SurfaceLaw,
    *,
    weights: np.ndarray | None = None,
    losses: np.ndarray | None = None,
    delta: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Refit a law with its own options: E, A, B, alpha, beta (R, 5), and which refits converged (R,).

    weights (R, n) multiply the Huber terms of `law.runs`; losses (R, n) take the place of the measured ones,
    nats per token, above 0. At least one of the two is given. delta: another Huber threshold.
    """
    problem = problem_of(law.runs, law.options)
    start_Rp = centred(problem, law.thetas[:1])
    threshold = (float(law.options["delta"]) if delta is None else delta) / problem.unit
    theta_Rp, converged = refit(Derivatives(problem), start_Rp, threshold, weights, losses, problem.means[2])
    thetas = problem.natural(theta_Rp)
    if problem.space.lower[0] == problem.space.upper[0]:
        thetas[:, 0] = law.thetas[0, 0]
    return thetas, converged


def refit(
    objective: Derivatives,
    start_Rp: np.ndarray,
    delta: float,
    weights: np.ndarray | None,
    losses: np.ndarray | None,
    mean_log_loss: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The same in the solver's coordinates, from one start (1, p): (R, p) and (R,)."""
    given = losses if weights is None else weights
    assert given is not None, "a refit needs other weights or other losses"
    num_refits, num_runs = given.shape
    theta_Rp, converged = np.empty((num_refits, start_Rp.shape[1])), np.empty(num_refits, dtype=bool)
    chunk = chunk_rows(num_runs)
    for first in range(0, num_refits, chunk):
        rows = slice(first, min(first + chunk, num_refits))
        size = rows.stop - rows.start
        weight_Rn = np.ones((size, num_runs)) if weights is None else weights[rows]
        z_Rn = None if losses is None else np.log(losses[rows]) - mean_log_loss
        start = np.repeat(start_Rp, size, axis=0)
        # a resample that no surface describes may send a trial step beyond the largest float; it is refused
        with np.errstate(over="ignore", invalid="ignore"):
            ended = minimise(objective, start, weight_Rn, delta, tolerance=1e-11, z_Rn=z_Rn)
        theta_Rp[rows], converged[rows] = ended.theta_Rp, ended.converged_R
    return theta_Rp, converged


def problem_of(runs: pd.DataFrame, options: Mapping[str, Any]) -> Problem:
    """The solver's problem for a surface law's runs and options."""
    columns = (runs[name].to_numpy(dtype=np.float64) for name in ("params", "tokens", "loss"))
    held = options["E"]
    E = None if held is None else 0.0 if held == "none" else float(held)
    return Problem.of(*columns, tied=options["tied"], E=E, on_loss=options["residual"] == "loss")


def centred(problem: Problem, thetas: np.ndarray) -> np.ndarray:
    """The coordinates of `Problem` for E, A, B, alpha, beta (R, 5) in the user's units."""
    x_mean, y_mean, z_mean = problem.means
    E, A, B, alpha, beta = thetas.T
    e = np.where(E > 0, np.log(np.where(E > 0, E, 1.0)) - z_mean, NO_E)
    a, b = np.log(A) - alpha * x_mean - z_mean, np.log(B) - beta * y_mean - z_mean
    return np.stack([e, a, b, alpha, beta], axis=1)


def leave_one_out(groups: np.ndarray) -> np.ndarray:
    """Weights (G, n) that leave out one group after the other; groups (n,) are numbered 0, 1, ..."""
    return (groups[None, :] != np.arange(groups.max() + 1)[:, None]).astype(np.float64)
