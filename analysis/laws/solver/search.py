"""From many starts to one optimum, and from that to the optima of all resamples."""

from __future__ import annotations

import numpy as np

from analysis.laws.solver.bootstrap import chunk_rows, resample_weights
from analysis.laws.solver.newton import minimise
from analysis.laws.solver.objective import ROUNDING, Objective, Terms

WALK = (3e-2, 1e-2, 4e-3, 2e-3)
"""Huber thresholds to pass through: at wide ones the objective is smooth and has one basin."""
USUAL_STEPS = 10
"""Newton steps after which the unfinished resamples of a chunk wait for those of the other chunks."""


def best_of(
    objective: Objective, theta_Rp: np.ndarray, num_runs: int, delta: float
) -> tuple[np.ndarray, float]:
    """The best optimum (1, p) over the starts theta_Rp, and the share of the starts that reach it."""
    weight_Rn = np.ones((len(theta_Rp), num_runs))
    for step in WALK:
        if step > 1.5 * delta:
            theta_Rp = minimise(objective, theta_Rp, weight_Rn, step, tolerance=1e-3, max_steps=30).theta_Rp
    ended = minimise(objective, theta_Rp, weight_Rn, delta)
    value_R = objective.at(ended.theta_Rp, weight_Rn, delta).f_R
    winner = int(np.argmin(value_R))
    floor = num_runs * ROUNDING**2
    share = float(np.mean(value_R <= value_R[winner] * (1 + 1e-6) + floor))
    return ended.theta_Rp[winner : winner + 1], share


def resample(
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

    terms: the runs' terms there, where they are known; saves the first evaluation. start_Rp (draws, p): where
    each resample starts instead, e.g. each with its own held coordinates.
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
