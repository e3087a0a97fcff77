"""Exact minimiser of the robust surface objective, for many weightings of one table at once.

Damped Newton with the exact Hessian. Steps are damped by the curvature of iteratively reweighted least
squares, which majorises the Huber terms, kept inside a box by holding coordinates that push against it, and
taken in coordinates in which the objective's long valley is straight. Stopping tests are relative to the
objective.

Arrays end in shape letters: R problems, n runs, p = 5 coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.laws.solver.objective import LOWER, ROUNDING, Objective, Point, Space, Terms

MAX_STEPS = 300
SMALLEST_SHARE = 0.01
"""Below this share of E the straightened coordinates, which divide by it, are left alone."""
LEAVE_TOGETHER = 0.2
MIN_DAMPING, MAX_DAMPING = 1e-12, 1e10


@dataclass(frozen=True, slots=True)
class Minimum:
    """Where R problems ended."""

    theta_Rp: np.ndarray
    f_R: np.ndarray
    converged_R: np.ndarray
    """The predicted further decrease is negligible, or the residuals are rounding."""


@dataclass(slots=True)
class _Batch:
    """The problems still being worked on; `number_R` says which of the caller's rows each one is."""

    number_R: np.ndarray
    theta_Rp: np.ndarray
    weight_Rn: np.ndarray
    scale_Rpp: np.ndarray
    damping_R: np.ndarray
    ended_R: np.ndarray
    f_R: np.ndarray
    gradient_Rp: np.ndarray
    hessian_Rpp: np.ndarray
    z_Rn: np.ndarray | None

    def keep(self, chosen_R: np.ndarray) -> None:
        for name in self.__slots__:
            if getattr(self, name) is not None:
                setattr(self, name, getattr(self, name)[chosen_R])

    def move(self, theta_Rp: np.ndarray, point: Point, accept_R: np.ndarray) -> None:
        every = bool(accept_R.all())
        for name, new in (
            ("theta_Rp", theta_Rp),
            ("f_R", point.f_R),
            ("gradient_Rp", point.gradient_Rp),
            ("hessian_Rpp", point.hessian_Rpp),
        ):
            if every:
                setattr(self, name, new)
            else:
                getattr(self, name)[accept_R] = new[accept_R]

    def end(self, ended: Minimum, chosen_R: np.ndarray, theta_Rp: np.ndarray, *, converged: bool) -> None:
        """Write down how the chosen problems ended, unless they ended before."""
        new_R = chosen_R & ~self.ended_R
        if new_R.any():
            out_R = self.number_R[new_R]
            ended.theta_Rp[out_R], ended.f_R[out_R] = theta_Rp[new_R], self.f_R[new_R]
            ended.converged_R[out_R] = converged
            self.ended_R |= new_R


def minimise(
    derivatives: Objective,
    start_Rp: np.ndarray,
    weight_Rn: np.ndarray,
    delta: float,
    *,
    tolerance: float = 1e-13,
    damping: float = 1e-2,
    max_steps: int = MAX_STEPS,
    terms: Terms | None = None,
    z_Rn: np.ndarray | None = None,
) -> Minimum:
    """Damped Newton from each start until a step promises less than `tolerance` times the objective.

    weight_Rn (R, n) multiplies the Huber terms (not the residuals: that would change delta). The last step is
    taken unchecked: if it promises 1e-11 of the objective, Newton's error after it is the square of that.
    terms: the runs' terms at the start, if all problems share it; saves the first evaluation.
    z_Rn: centred log losses of each problem, if they are not those of the table (simulated losses).
    """
    theta_Rp = derivatives.space.clip(start_Rp)
    if terms is None:
        point = derivatives.at(theta_Rp, weight_Rn, delta, z_Rn)
        scale_Rpp = derivatives.majoriser(theta_Rp, weight_Rn, delta, z_Rn)
    else:
        point, scale_Rpp = terms.weighted(weight_Rn)
    num = len(theta_Rp)
    batch = _Batch(
        number_R=np.arange(num), theta_Rp=theta_Rp, weight_Rn=weight_Rn, scale_Rpp=scale_Rpp,
        damping_R=np.full(num, damping), ended_R=np.zeros(num, dtype=bool), f_R=point.f_R,
        gradient_Rp=point.gradient_Rp, hessian_Rpp=point.hessian_Rpp, z_Rn=z_Rn,
    )  # fmt: skip
    ended = Minimum(theta_Rp.copy(), point.f_R.copy(), np.zeros(num, dtype=bool))
    for _ in range(max_steps):
        trial_Rp, predicted_R = _step(batch, derivatives.space)
        small_R = (predicted_R >= 0) & (predicted_R <= tolerance * batch.f_R) & (batch.damping_R <= damping)
        rounding_R = batch.f_R <= ROUNDING**2 * batch.weight_Rn.shape[1]
        batch.end(ended, small_R, trial_Rp, converged=True)
        batch.end(ended, rounding_R, batch.theta_Rp, converged=True)
        batch.end(ended, batch.damping_R > MAX_DAMPING, batch.theta_Rp, converged=False)
        # dropping rows copies the weights of the others: worth it only for many at once
        if batch.ended_R.sum() >= LEAVE_TOGETHER * len(batch.ended_R):
            trial_Rp, predicted_R = trial_Rp[~batch.ended_R], predicted_R[~batch.ended_R]
            batch.keep(~batch.ended_R)
        if not batch.number_R.size:
            break
        trial = derivatives.at(trial_Rp, batch.weight_Rn, delta, batch.z_Rn)
        gain_R = batch.f_R - trial.f_R
        accept_R = (gain_R > 0) & (predicted_R > 0)
        good_R = accept_R & (gain_R > 0.5 * predicted_R)
        # a refused step whose promise drowns in the rounding of f is the end
        drowned_R = ~accept_R & (np.abs(predicted_R) <= 1e-13 * batch.f_R)
        batch.end(ended, drowned_R, batch.theta_Rp, converged=True)
        kept_R = np.maximum(batch.damping_R * np.where(good_R, 0.1, 1.0), MIN_DAMPING)
        retry_R = batch.damping_R * np.where(batch.damping_R < 1e-3, 100.0, 10.0)
        batch.damping_R = np.where(accept_R, kept_R, retry_R)
        batch.move(trial_Rp, trial, accept_R)
    batch.end(ended, ~batch.ended_R, batch.theta_Rp, converged=False)
    return ended


def _step(batch: _Batch, space: Space) -> tuple[np.ndarray, np.ndarray]:
    """The damped Newton step inside the box, and the decrease it promises (-inf: no descent step found).

    Rows of a plain surface away from the box step in coordinates in which the valley of the objective is
    straight, see `_Valley`; tied exponents are tied in those too.
    """
    theta_Rp, gradient_Rp = batch.theta_Rp, batch.gradient_Rp
    held_Rk = space.held(theta_Rp, space.along(gradient_Rp))
    hessian_Rpp, scale_Rpp = batch.hessian_Rpp, batch.scale_Rpp
    straight_R = np.zeros(len(theta_Rp), dtype=bool)
    if space.straight:
        valley = _Valley(theta_Rp)
        straight_R = ~held_Rk.any(axis=1) & (valley.shareE_R > SMALLEST_SHARE)
    if straight_R.any():
        turned = valley.turn(gradient_Rp, hessian_Rpp, scale_Rpp)
        gradient_Rp = np.where(straight_R[:, None], turned[0], gradient_Rp)
        hessian_Rpp = np.where(straight_R[:, None, None], turned[1], hessian_Rpp)
        scale_Rpp = np.where(straight_R[:, None, None], turned[2], scale_Rpp)
    if space.basis_pk is not None:
        gradient_Rp = gradient_Rp @ space.basis_pk
        hessian_Rpp = space.basis_pk.T @ hessian_Rpp @ space.basis_pk
        scale_Rpp = space.basis_pk.T @ scale_Rpp @ space.basis_pk

    # the damped step along the free directions
    system_Rkk = hessian_Rpp + batch.damping_R[:, None, None] * scale_Rpp
    if held_Rk.any():
        gradient_Rp = np.where(held_Rk, 0.0, gradient_Rp)
        system_Rkk = np.where(held_Rk[:, :, None] | held_Rk[:, None, :], 0.0, system_Rkk)
    diagonal = np.einsum("rkk->rk", system_Rkk)
    diagonal += np.where(held_Rk, 1.0, 1e-15 * np.einsum("rkk->r", scale_Rpp)[:, None])
    step_Rk, definite_R = solve_definite(system_Rkk, -gradient_Rp)
    slope_R = np.einsum("rk,rk->r", gradient_Rp, step_Rk)
    bend_R = np.einsum("rk,rkl,rl->r", step_Rk, hessian_Rpp, step_Rk)
    predicted_R = np.where(definite_R & (slope_R <= 0), -(slope_R + 0.5 * bend_R), -np.inf)
    step_Rp = step_Rk if space.basis_pk is None else step_Rk @ space.basis_pk.T
    moved_Rp = theta_Rp + step_Rp
    if straight_R.any():
        moved_Rp = np.where(straight_R[:, None], valley.moved(step_Rp), moved_Rp)
    return space.clip(np.where(definite_R[:, None], moved_Rp, theta_Rp)), predicted_R


class _Valley:
    """Coordinates (log(E + A + B), log(A alpha), log(B beta), log alpha, log beta).

    Where the runs hardly bend, they fix the level E + A + B and the slopes A alpha, B beta of the loss in the
    logs of N and D, but not the exponents: the objective has a long valley, curved in theta and straight in
    these.
    """

    def __init__(self, theta_Rp: np.ndarray) -> None:
        self.theta_Rp = theta_Rp
        top_R = theta_Rp[:, :3].max(axis=1)
        terms_R3 = np.exp(theta_Rp[:, :3] - top_R[:, None])
        total_R = terms_R3.sum(axis=1)
        self.log_total_R = top_R + np.log(total_R)
        self.shareE_R, self.shareA_R, self.shareB_R = (terms_R3 / total_R[:, None]).T

    def turn(
        self, gradient_Rp: np.ndarray, hessian_Rpp: np.ndarray, scale_Rpp: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Gradient, Hessian and majoriser of theta, in these coordinates."""
        E_R, A_R, B_R = np.maximum(self.shareE_R, SMALLEST_SHARE), self.shareA_R, self.shareB_R
        alpha_R, beta_R = self.theta_Rp[:, 3], self.theta_Rp[:, 4]
        one_R = np.ones_like(E_R)
        first_Rp = np.stack([one_R, -A_R, -B_R, A_R, B_R], axis=1) / E_R[:, None]
        P = np.zeros_like(hessian_Rpp)
        P[:, 0] = first_Rp
        P[:, 1, 1] = P[:, 2, 2] = 1.0
        P[:, 1, 3] = P[:, 2, 4] = -1.0
        P[:, 3, 3], P[:, 4, 4] = alpha_R, beta_R
        transposed = P.transpose(0, 2, 1)
        # the second derivatives of e = log(total - A - B) and of the exponents add to the Hessian
        bend = -first_Rp[:, :, None] * first_Rp[:, None, :]
        bend[:, 0, 0] += 1 / E_R
        for row, share_R in ((1, A_R / E_R), (2, B_R / E_R)):
            bend[:, row, row] -= share_R
            bend[:, row, row + 2] += share_R
            bend[:, row + 2, row] += share_R
            bend[:, row + 2, row + 2] -= share_R
        bend *= gradient_Rp[:, 0, None, None]
        bend[:, 3, 3] += gradient_Rp[:, 3] * alpha_R
        bend[:, 4, 4] += gradient_Rp[:, 4] * beta_R
        gradient = np.einsum("rpq,rp->rq", P, gradient_Rp)
        return gradient, transposed @ hessian_Rpp @ P + bend, transposed @ scale_Rpp @ P

    def moved(self, step_Rp: np.ndarray) -> np.ndarray:
        """theta after a step in these coordinates; steps are cut so that exponentials do not overflow."""
        step_Rp = np.clip(step_Rp, -5.0, 5.0)
        exponents_R2 = self.theta_Rp[:, 3:] * np.exp(step_Rp[:, 3:])
        a_R = self.theta_Rp[:, 1] + step_Rp[:, 1] - step_Rp[:, 3]
        b_R = self.theta_Rp[:, 2] + step_Rp[:, 2] - step_Rp[:, 4]
        rest_R = np.exp(self.log_total_R + step_Rp[:, 0]) - np.exp(a_R) - np.exp(b_R)
        e_R = np.log(np.maximum(rest_R, np.exp(LOWER[0])))
        return np.column_stack([e_R, a_R, b_R, exponents_R2])


# a trial point far off may have derivatives beyond the largest float: such a row counts as not definite
@np.errstate(over="ignore", invalid="ignore")
def solve_definite(matrix_Rpp: np.ndarray, right_Rp: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Solve R small symmetric systems by L D L^T, all rows at once; says which are positive definite.

    Rows that are not get zeros. One vectorised elimination is several times faster than R calls of LAPACK.
    """
    work = matrix_Rpp.copy()
    solution = right_Rp.copy()
    size = work.shape[1]
    definite_R = np.ones(len(work), dtype=bool)
    for j in range(size):
        definite_R &= work[:, j, j] > 0
        pivot_R1 = np.where(definite_R, work[:, j, j], 1.0)[:, None]
        factor = work[:, j + 1 :, j] / pivot_R1
        work[:, j + 1 :, j + 1 :] -= factor[:, :, None] * work[:, None, j, j + 1 :]
        solution[:, j + 1 :] -= factor * solution[:, j, None]
        work[:, j, j] = pivot_R1[:, 0]
    for j in reversed(range(size)):
        solution[:, j] -= np.einsum("rk,rk->r", work[:, j, j + 1 :], solution[:, j + 1 :])
        solution[:, j] /= work[:, j, j]
    definite_R &= np.isfinite(solution).all(axis=1)
    return np.where(definite_R[:, None], solution, 0.0), definite_R
