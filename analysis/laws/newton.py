"""Exact minimiser of the robust surface objective, for many weightings of one table at once.

    f(theta) = sum_i w_i Huber_delta(log L_i - log(E + A/N_i^alpha + B/D_i^beta))

Internally theta = (e, a, b, alpha, beta) with the logs of N, D and L centred on their means, so that nothing
depends on units: E = exp(e), A = exp(a), B = exp(b) in those units. With s the three shares of the
predicted loss and J the gradient of its log, the Hessian sum w [(psi' + psi) J J^T - psi sum_k s_k g_k g_k^T]
is exact and costs no more than Gauss-Newton. Steps are damped by the curvature of iteratively reweighted
least squares, which majorises the Huber terms, and kept inside a box by holding coordinates that push against
it.

Arrays end in shape letters: R problems, n runs, p = 5 coordinates, F free ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# e, a, b are logs relative to the mean loss: below e^-14 (1e-6 of the loss) a term has no say in any digit
# seen
LOWER = np.array([-14.0, -40.0, -40.0, 1e-3, 1e-3])
UPPER = np.array([2.0, 10.0, 10.0, 5.0, 5.0])
MAX_STEPS = 300
LEAVE_TOGETHER = 0.2
MIN_DAMPING, MAX_DAMPING = 1e-6, 1e10
GRADIENT_TOLERANCE = 1e-6
ROUNDING = 4e-15
"""Residuals of log loss below this are rounding: a noise-free table ends here."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One table in centred logs."""

    x: np.ndarray
    """log params minus their mean, (n,)."""
    y: np.ndarray
    """log tokens minus their mean, (n,)."""
    z: np.ndarray
    """log loss minus its mean, (n,)."""
    means: tuple[float, float, float]

    @classmethod
    def of(cls, params: np.ndarray, tokens: np.ndarray, loss: np.ndarray) -> Problem:
        logs = [np.log(values) for values in (params, tokens, loss)]
        means = tuple(float(values.mean()) for values in logs)
        x, y, z = (values - mean for values, mean in zip(logs, means, strict=True))
        return cls(x, y, z, means)  # type: ignore[arg-type]

    def natural(self, theta_Rp: np.ndarray) -> np.ndarray:
        """(E, A, B, alpha, beta) in the user's units from centred coordinates."""
        x_mean, y_mean, z_mean = self.means
        e, a, b, alpha, beta = theta_Rp.T
        A = np.exp(a + alpha * x_mean + z_mean)
        B = np.exp(b + beta * y_mean + z_mean)
        return np.stack([np.exp(e + z_mean), A, B, alpha, beta], axis=1)


@dataclass(slots=True)
class Point:
    """Objective and derivatives of R problems at their current theta."""

    f_R: np.ndarray
    gradient_Rp: np.ndarray
    hessian_Rpp: np.ndarray


@dataclass(frozen=True, slots=True)
class Terms:
    """Each run's part in the objective, its gradient and Hessian, and the majoriser, at one theta."""

    f_n: np.ndarray
    gradient_np: np.ndarray
    hessian_npp: np.ndarray
    majoriser_npp: np.ndarray

    def weighted(self, weight_Rn: np.ndarray) -> tuple[Point, np.ndarray]:
        """The point and the majoriser of each weighting."""
        shape = (len(weight_Rn), 5, 5)
        hessian = (weight_Rn @ self.hessian_npp.reshape(-1, 25)).reshape(shape)
        majoriser = (weight_Rn @ self.majoriser_npp.reshape(-1, 25)).reshape(shape)
        return Point(weight_Rn @ self.f_n, weight_Rn @ self.gradient_np, hessian), majoriser


@dataclass(frozen=True, slots=True)
class Minimum:
    """Where R problems ended."""

    theta_Rp: np.ndarray
    f_R: np.ndarray
    converged_R: np.ndarray
    """The predicted further decrease is negligible, or the residuals are rounding."""
    steps_R: np.ndarray


class Derivatives:
    """Objective, gradient and Hessian on one table; holds what all evaluations share.

    Large temporary arrays live in one workspace: fresh ones would cost more in page faults than in
    arithmetic. What `shares` returns is overwritten by the next call of any method.
    """

    def __init__(self, problem: Problem) -> None:
        x, y, self.z = problem.x, problem.y, problem.z
        one = np.ones_like(x)
        self.line_x_2n = np.stack([one, -x])
        self.line_y_2n = np.stack([one, -y])
        self.x_n3 = np.stack([one, -x, x * x], axis=1)
        self.y_n3 = np.stack([one, -y, y * y], axis=1)
        self.xy_n4 = np.stack([one, -x, -y, x * y], axis=1)
        self._space = np.empty((8, 0))

    def _buffers(self, num_rows: int) -> np.ndarray:
        """Eight scratch arrays (R, n)."""
        size = num_rows * len(self.z)
        if self._space.shape[1] < size:
            self._space = np.empty((8, size))
        return self._space[:, :size].reshape(8, num_rows, len(self.z))

    def shares(self, theta_Rp: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Shares of the A and B terms in the predicted loss, and the residuals of log loss, each (R, n)."""
        shareA_Rn, shareB_Rn, residual_Rn, total_Rn = self._buffers(len(theta_Rp))[:4]
        np.exp(np.matmul(theta_Rp[:, [1, 3]], self.line_x_2n, out=shareA_Rn), out=shareA_Rn)
        np.exp(np.matmul(theta_Rp[:, [2, 4]], self.line_y_2n, out=shareB_Rn), out=shareB_Rn)
        np.add(shareA_Rn, shareB_Rn, out=total_Rn)
        total_Rn += np.exp(theta_Rp[:, :1])
        np.subtract(self.z, np.log(total_Rn, out=residual_Rn), out=residual_Rn)
        shareA_Rn /= total_Rn
        shareB_Rn /= total_Rn
        return shareA_Rn, shareB_Rn, residual_Rn

    def at(self, theta_Rp: np.ndarray, weight_Rn: np.ndarray, delta: float) -> Point:
        shareA_Rn, shareB_Rn, residual_Rn = self.shares(theta_Rp)
        psi_Rn, pull_Rn, curvature_Rn = self._buffers(len(theta_Rp))[3:6]
        np.clip(residual_Rn, -delta, delta, out=psi_Rn)
        np.multiply(weight_Rn, psi_Rn, out=pull_Rn)
        f_R = np.einsum("rn,rn->r", pull_Rn, residual_Rn) - 0.5 * np.einsum("rn,rn->r", pull_Rn, psi_Rn)
        np.multiply(weight_Rn, psi_Rn == residual_Rn, out=curvature_Rn)
        curvature_Rn += pull_Rn
        hessian = self.outer(curvature_Rn, shareA_Rn, shareB_Rn)
        # sums of pull times share times (1, -x, x^2): the gradient, and the curvature of the terms themselves
        sumA_R3 = np.multiply(pull_Rn, shareA_Rn, out=shareA_Rn) @ self.x_n3
        sumB_R3 = np.multiply(pull_Rn, shareB_Rn, out=shareB_Rn) @ self.y_n3
        sumE_R = np.einsum("rn->r", pull_Rn) - sumA_R3[:, 0] - sumB_R3[:, 0]
        gradient = -np.stack([sumE_R, sumA_R3[:, 0], sumB_R3[:, 0], sumA_R3[:, 1], sumB_R3[:, 1]], axis=1)
        hessian[:, 0, 0] -= sumE_R
        for row, sums in ((1, sumA_R3), (2, sumB_R3)):
            hessian[:, row, row] -= sums[:, 0]
            hessian[:, row, row + 2] -= sums[:, 1]
            hessian[:, row + 2, row] -= sums[:, 1]
            hessian[:, row + 2, row + 2] -= sums[:, 2]
        return Point(f_R, gradient, hessian)

    def terms(self, theta_p: np.ndarray, delta: float) -> Terms:
        """What each run of weight 1 adds to `at` and `majoriser` at one theta (5,)."""
        shareA_Rn, shareB_Rn, residual_Rn = self.shares(theta_p[None])
        A, B, residual = shareA_Rn[0], shareB_Rn[0], residual_Rn[0]
        E = 1 - A - B
        x, y = self.x_n3[:, 1], self.y_n3[:, 1]
        jacobian_np = np.stack([E, A, B, x * A, y * B], axis=1)
        outer_npp = jacobian_np[:, :, None] * jacobian_np[:, None, :]
        psi = np.clip(residual, -delta, delta)
        curvature = np.zeros_like(outer_npp)
        curvature[:, 0, 0] = E
        for row, share, slope in ((1, A, x), (2, B, y)):
            curvature[:, row, row] = share
            curvature[:, row, row + 2] = curvature[:, row + 2, row] = share * slope
            curvature[:, row + 2, row + 2] = share * slope**2
        inside = psi == residual
        return Terms(
            psi * (residual - 0.5 * psi),
            -psi[:, None] * jacobian_np,
            (inside + psi)[:, None, None] * outer_npp - psi[:, None, None] * curvature,
            (delta / np.maximum(np.abs(residual), delta))[:, None, None] * outer_npp,
        )

    def majoriser(self, theta_Rp: np.ndarray, weight_Rn: np.ndarray, delta: float) -> np.ndarray:
        """Curvature of iteratively reweighted least squares, (R, 5, 5): never below the Huber terms' own."""
        shareA_Rn, shareB_Rn, residual_Rn = self.shares(theta_Rp)
        np.maximum(np.abs(residual_Rn, out=residual_Rn), delta, out=residual_Rn)
        reweighted_Rn = np.divide(delta, residual_Rn, out=residual_Rn)
        reweighted_Rn *= weight_Rn
        return self.outer(reweighted_Rn, shareA_Rn, shareB_Rn)

    def outer(self, weight_Rn: np.ndarray, shareA_Rn: np.ndarray, shareB_Rn: np.ndarray) -> np.ndarray:
        """sum_i weight_i J_i J_i^T with J = (sE, sA, sB, -x sA, -y sB) and sE = 1 - sA - sB; (R, 5, 5)."""
        wA_Rn, wB_Rn = self._buffers(len(weight_Rn))[6:]
        np.multiply(weight_Rn, shareA_Rn, out=wA_Rn)
        np.multiply(weight_Rn, shareB_Rn, out=wB_Rn)
        A_R2 = wA_Rn @ self.x_n3[:, :2]
        B_R2 = wB_Rn @ self.y_n3[:, :2]
        BB_R3 = np.multiply(wB_Rn, shareB_Rn, out=wB_Rn) @ self.y_n3
        AB_R4 = np.multiply(wA_Rn, shareB_Rn, out=wB_Rn) @ self.xy_n4
        AA_R3 = np.multiply(wA_Rn, shareA_Rn, out=wA_Rn) @ self.x_n3
        EA_R2 = A_R2 - AA_R3[:, :2] - AB_R4[:, [0, 1]]
        EB_R2 = B_R2 - BB_R3[:, :2] - AB_R4[:, [0, 2]]
        EE_R = np.einsum("rn->r", weight_Rn) - A_R2[:, 0] - B_R2[:, 0] - EA_R2[:, 0] - EB_R2[:, 0]
        rows = (
            (EE_R, EA_R2[:, 0], EB_R2[:, 0], EA_R2[:, 1], EB_R2[:, 1]),
            (EA_R2[:, 0], AA_R3[:, 0], AB_R4[:, 0], AA_R3[:, 1], AB_R4[:, 2]),
            (EB_R2[:, 0], AB_R4[:, 0], BB_R3[:, 0], AB_R4[:, 1], BB_R3[:, 1]),
            (EA_R2[:, 1], AA_R3[:, 1], AB_R4[:, 1], AA_R3[:, 2], AB_R4[:, 3]),
            (EB_R2[:, 1], AB_R4[:, 2], BB_R3[:, 1], AB_R4[:, 3], BB_R3[:, 2]),
        )
        out = np.empty((len(weight_Rn), 5, 5))
        for i, row in enumerate(rows):
            for j, sums in enumerate(row):
                out[:, i, j] = sums
        return out

    def relative_gradient(self, theta_Rp: np.ndarray, weight_Rn: np.ndarray, delta: float) -> np.ndarray:
        """Largest gradient component over the sum of the absolute terms that cancel in it, (R,): 0 at an
        optimum.

        Coordinates held by the box do not count. Terms as small as rounding of the residuals count as that
        much, so that the optimum of a noise-free table passes too.
        """
        gradient = self.at(theta_Rp, weight_Rn, delta).gradient_Rp
        shareA_Rn, shareB_Rn, residual_Rn = self.shares(theta_Rp)
        size_Rn = weight_Rn * np.clip(np.abs(residual_Rn), ROUNDING / GRADIENT_TOLERANCE, delta)
        sizeA_R3 = (size_Rn * shareA_Rn) @ np.abs(self.x_n3)
        sizeB_R3 = (size_Rn * shareB_Rn) @ np.abs(self.y_n3)
        sizeE_R = (size_Rn * (1 - shareA_Rn - shareB_Rn)).sum(axis=1)
        size = np.stack([sizeE_R, sizeA_R3[:, 0], sizeB_R3[:, 0], sizeA_R3[:, 1], sizeB_R3[:, 1]], axis=1)
        gradient = np.where(held(theta_Rp, gradient), 0.0, gradient)
        return np.max(np.abs(gradient) / np.maximum(size, np.finfo(float).tiny), axis=1)


def held(theta_Rp: np.ndarray, gradient_Rp: np.ndarray) -> np.ndarray:
    """Coordinates that lie on the box and would leave it downhill, (R, 5)."""
    return ((theta_Rp <= LOWER) & (gradient_Rp > 0)) | ((theta_Rp >= UPPER) & (gradient_Rp < 0))


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

    def keep(self, chosen_R: np.ndarray) -> None:
        for name in self.__slots__:
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


def minimise(
    derivatives: Derivatives,
    start_Rp: np.ndarray,
    weight_Rn: np.ndarray,
    delta: float,
    *,
    tolerance: float = 1e-15,
    damping: float = 1e-2,
    max_steps: int = MAX_STEPS,
    terms: Terms | None = None,
) -> Minimum:
    """Damped Newton from each start until a step promises less than `tolerance` times the objective.

    weight_Rn (R, n) multiplies the Huber terms (not the residuals: that would change delta). The last step is
    taken unseen: where it promises 1e-11 of the objective, Newton's error after it is the square of that.
    terms: the runs' terms at the start, where all problems have the same one; saves the first evaluation.
    """
    theta_Rp = np.clip(start_Rp, LOWER, UPPER)
    num = len(theta_Rp)
    if terms is None:
        point = derivatives.at(theta_Rp, weight_Rn, delta)
        scale_Rpp = derivatives.majoriser(theta_Rp, weight_Rn, delta)
    else:
        point, scale_Rpp = terms.weighted(weight_Rn)
    batch = _Batch(
        np.arange(num),
        theta_Rp,
        weight_Rn,
        scale_Rpp,
        np.full(num, damping),
        np.zeros(num, dtype=bool),
        point.f_R,
        point.gradient_Rp,
        point.hessian_Rpp,
    )
    ended = Minimum(theta_Rp.copy(), point.f_R.copy(), np.zeros(num, dtype=bool), np.full(num, max_steps))
    for step in range(max_steps):
        trial_Rp, predicted_R = _step(batch)
        rounding_R = batch.f_R <= ROUNDING**2 * batch.weight_Rn.shape[1]
        small_R = (predicted_R >= 0) & (predicted_R <= tolerance * batch.f_R) & (batch.damping_R <= damping)
        stuck_R = batch.damping_R > MAX_DAMPING
        leave_R = rounding_R | small_R | stuck_R
        new_R = leave_R & ~batch.ended_R
        if new_R.any():
            out_R = batch.number_R[new_R]
            ended.theta_Rp[out_R] = np.where(small_R[new_R, None], trial_Rp[new_R], batch.theta_Rp[new_R])
            ended.f_R[out_R] = batch.f_R[new_R]
            ended.converged_R[out_R] = (rounding_R | small_R)[new_R]
            ended.steps_R[out_R] = step
            batch.ended_R |= new_R
        # dropping rows copies the weights of the others: worth it only for many at once
        if batch.ended_R.sum() >= LEAVE_TOGETHER * len(new_R):
            trial_Rp, predicted_R = trial_Rp[~batch.ended_R], predicted_R[~batch.ended_R]
            batch.keep(~batch.ended_R)
        if not batch.number_R.size:
            break
        trial = derivatives.at(trial_Rp, batch.weight_Rn, delta)
        gain_R = batch.f_R - trial.f_R
        accept_R = (gain_R > 0) & (predicted_R > 0)
        good_R = accept_R & (gain_R > 0.5 * predicted_R)
        factor_R = np.where(good_R, 0.1, np.where(accept_R, 1.0, 10.0))
        batch.damping_R = np.maximum(batch.damping_R * factor_R, MIN_DAMPING)
        # a step too small to measure is the end, not a failure
        batch.damping_R[~accept_R & (np.abs(predicted_R) <= 1e-13 * batch.f_R)] = 10 * MAX_DAMPING
        batch.move(trial_Rp, trial, accept_R)
    batch.keep(~batch.ended_R)
    ended.theta_Rp[batch.number_R], ended.f_R[batch.number_R] = batch.theta_Rp, batch.f_R
    return ended


def _step(batch: _Batch) -> tuple[np.ndarray, np.ndarray]:
    """The damped Newton step inside the box, and the decrease it promises (negative: not a descent step)."""
    theta_Rp, gradient_Rp = batch.theta_Rp, batch.gradient_Rp
    held_Rp = held(theta_Rp, gradient_Rp)
    system_Rpp = batch.hessian_Rpp + batch.damping_R[:, None, None] * batch.scale_Rpp
    gradient_Rp = np.where(held_Rp, 0.0, gradient_Rp)
    if held_Rp.any():
        system_Rpp = np.where(held_Rp[:, :, None] | held_Rp[:, None, :], 0.0, system_Rpp)
    diagonal = np.einsum("rpp->rp", system_Rpp)
    diagonal += np.where(held_Rp, 1.0, 1e-15 * np.einsum("rpp->r", batch.scale_Rpp)[:, None])
    step_Rp, definite_R = solve_definite(system_Rpp, -gradient_Rp)
    slope_R = np.einsum("rp,rp->r", gradient_Rp, step_Rp)
    bend_R = np.einsum("rp,rpq,rq->r", step_Rp, batch.hessian_Rpp, step_Rp)
    predicted_R = np.where(definite_R & (slope_R <= 0), -(slope_R + 0.5 * bend_R), -np.inf)
    return np.clip(theta_Rp + np.where(definite_R[:, None], step_Rp, 0.0), LOWER, UPPER), predicted_R


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
    return np.where(definite_R[:, None], solution, 0.0), definite_R
