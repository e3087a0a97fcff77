"""The robust surface objective and its exact derivatives, for many weightings of one table at once.

    f(theta) = sum_i w_i Huber_delta(log L_i - log(E + A/N_i^alpha + B/D_i^beta))

Internally theta = (e, a, b, alpha, beta) with the logs of N, D and L centred on their means, so that nothing
depends on units: E = exp(e), A = exp(a), B = exp(b) in those units. With s the three shares of the
predicted loss and J the gradient of its log, the Hessian sum w [(psi' + psi) J J^T - psi sum_k s_k g_k g_k^T]
is exact and costs no more than Gauss-Newton. With residuals on the loss itself, L_i - T_i, the gradient of
T is T J and the Hessian sum w [psi' T^2 J J^T - psi T sum_k s_k g_k g_k^T]: the same sums, other weights.

Variants of the surface (tied exponents, E absent or given) are a `Space`: directions in which theta may move.

Arrays end in shape letters: R problems, n runs, p = 5 coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import ndtr

# e, a, b are logs relative to the mean loss: below e^-14 (1e-6 of the loss) a term changes no printed digit
LOWER = np.array([-14.0, -40.0, -40.0, 1e-3, 1e-3])
UPPER = np.array([2.0, 10.0, 10.0, 5.0, 5.0])
GRADIENT_TOLERANCE = 1e-6
FLOOR_SHARE = 1e-6
NO_E = -800.0
"""log E of a surface without E: exp of it is 0."""
ROUNDING = 4e-15
"""Residuals of log loss below this are rounding: a noise-free table ends here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The thetas that a fit may reach: start + basis u, inside a box.

    Every coordinate belongs to one column of the basis, or to none: then it stays where it starts.
    """

    lower: np.ndarray
    upper: np.ndarray
    basis_pk: np.ndarray | None = None
    """Columns of zeros and ones; None: every coordinate moves by itself."""
    straight: bool = False
    """The objective has the long valley of a surface with all its coordinates, see `newton._Valley`."""

    @property
    def num_free(self) -> int:
        return len(self.lower) if self.basis_pk is None else self.basis_pk.shape[1]

    @property
    def free(self) -> np.ndarray:
        """Which coordinates can move, (p,)."""
        if self.basis_pk is None:
            return np.ones(len(self.lower), dtype=bool)
        return np.asarray(self.basis_pk.any(axis=1))

    @property
    def tied(self) -> bool:
        """Some coordinates move together."""
        return self.basis_pk is not None and bool((self.basis_pk.sum(axis=0) > 1).any())

    def held(self, theta_Rp: np.ndarray, gradient_Rk: np.ndarray) -> np.ndarray:
        """Directions along which theta lies on the box and would leave it downhill, (R, k)."""
        low, high = theta_Rp <= self.lower, theta_Rp >= self.upper
        if self.basis_pk is not None:
            first = self.basis_pk.argmax(axis=0)
            low, high = low[:, first], high[:, first]
        return (low & (gradient_Rk > 0)) | (high & (gradient_Rk < 0))

    def along(self, vectors_Rp: np.ndarray) -> np.ndarray:
        """Gradients (R, p) as gradients in u, (R, k)."""
        return vectors_Rp if self.basis_pk is None else vectors_Rp @ self.basis_pk

    def clip(self, theta_Rp: np.ndarray) -> np.ndarray:
        return np.clip(theta_Rp, self.lower, self.upper)


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
    space: Space
    on_loss: bool = False
    """Residuals are differences of loss (in units of exp of its mean log), not of log loss."""

    @classmethod
    def of(
        cls,
        params: np.ndarray,
        tokens: np.ndarray,
        loss: np.ndarray,
        *,
        tied: bool = False,
        E: float | None = None,
        on_loss: bool = False,
    ) -> Problem:
        """tied: alpha = beta; E: held at that many nats (0: no E), None: free."""
        logs = [np.log(values) for values in (params, tokens, loss)]
        means = tuple(float(values.mean()) for values in logs)
        x, y, z = (values - mean for values, mean in zip(logs, means, strict=True))
        log_E = None if E is None else NO_E if E == 0 else float(np.log(E)) - means[2]
        lower, upper, basis = LOWER.copy(), UPPER.copy(), np.eye(5)
        if tied:
            basis[4, 3] = 1.0
            basis = np.delete(basis, 4, axis=1)
        if log_E is not None:
            lower[0] = upper[0] = log_E
            basis = np.delete(basis, 0, axis=1)
        basis_pk = basis if tied or log_E is not None else None
        space = Space(lower=lower, upper=upper, basis_pk=basis_pk, straight=log_E is None)
        return cls(x, y, z, means, space, on_loss)  # type: ignore[arg-type]

    @property
    def unit(self) -> float:
        """One unit of the residuals: in nats if they are of the loss, else 1."""
        return float(np.exp(self.means[2])) if self.on_loss else 1.0

    def natural(self, theta_Rp: np.ndarray) -> np.ndarray:
        """(E, A, B, alpha, beta) in the user's units from centred coordinates."""
        x_mean, y_mean, z_mean = self.means
        e, a, b, alpha, beta = theta_Rp.T
        A = np.exp(a + alpha * x_mean + z_mean)
        B = np.exp(b + beta * y_mean + z_mean)
        return np.stack([np.exp(e + z_mean), A, B, alpha, beta], axis=1)

    def centred(self, natural: np.ndarray) -> np.ndarray:
        """The coordinates of (E, A, B, alpha, beta) (R, 5) in the user's units; the inverse of `natural`."""
        x_mean, y_mean, z_mean = self.means
        E, A, B, alpha, beta = np.asarray(natural, dtype=np.float64).T
        e = np.where(E > 0, np.log(np.where(E > 0, E, 1.0)) - z_mean, NO_E)
        a, b = np.log(A) - alpha * x_mean - z_mean, np.log(B) - beta * y_mean - z_mean
        return np.stack([e, a, b, alpha, beta], axis=1)


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


class Objective(Protocol):
    """What the solver needs of an objective; z_Rn: other centred log losses than the table's."""

    space: Space

    def at(
        self, theta_Rp: np.ndarray, weight_Rn: np.ndarray, delta: float, z_Rn: np.ndarray | None = None
    ) -> Point:
        """Value, gradient and (approximate) Hessian of each problem."""

    def majoriser(
        self, theta_Rp: np.ndarray, weight_Rn: np.ndarray, delta: float, z_Rn: np.ndarray | None = None
    ) -> np.ndarray:
        """Curvature (R, p, p) that the Huber terms never exceed."""


class Derivatives:
    """Objective, gradient and Hessian on one table; holds what all evaluations share.

    Large temporary arrays live in one workspace: fresh ones would cost more in page faults than in
    arithmetic. Arrays from `shares` are overwritten by the next call of any method.
    """

    def __init__(self, problem: Problem) -> None:
        x, y, self.z = problem.x, problem.y, problem.z
        self.space, self.on_loss = problem.space, problem.on_loss
        self.loss_n = np.exp(problem.z)
        one = np.ones_like(x)
        self.line_x_2n = np.stack([one, -x])
        self.line_y_2n = np.stack([one, -y])
        self.x_n3 = np.stack([one, -x, x * x], axis=1)
        self.y_n3 = np.stack([one, -y, y * y], axis=1)
        self.xy_n4 = np.stack([one, -x, -y, x * y], axis=1)
        self._room = np.empty((9, 0))
        # the predicted loss is needed again only for residuals on it; else later arrays take its place
        self._total = 8 if problem.on_loss else 3

    def _buffers(self, num_rows: int) -> np.ndarray:
        """Nine scratch arrays (R, n)."""
        size = num_rows * len(self.z)
        if self._room.shape[1] < size:
            self._room = np.empty((9, size))
        return self._room[:, :size].reshape(9, num_rows, len(self.z))

    def shares(
        self, theta_Rp: np.ndarray, z_Rn: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Shares of the A and B terms in the predicted loss, and the residuals, each (R, n).

        z_Rn: other centred log losses than the table's, here and in what follows.
        """
        shareA_Rn, shareB_Rn, residual_Rn = self._buffers(len(theta_Rp))[:3]
        total_Rn = self._buffers(len(theta_Rp))[self._total]
        np.exp(np.matmul(theta_Rp[:, [1, 3]], self.line_x_2n, out=shareA_Rn), out=shareA_Rn)
        np.exp(np.matmul(theta_Rp[:, [2, 4]], self.line_y_2n, out=shareB_Rn), out=shareB_Rn)
        np.add(shareA_Rn, shareB_Rn, out=total_Rn)
        total_Rn += np.exp(theta_Rp[:, :1])
        if self.on_loss:
            np.subtract(self.loss_n if z_Rn is None else np.exp(z_Rn), total_Rn, out=residual_Rn)
        else:
            np.subtract(self.z if z_Rn is None else z_Rn, np.log(total_Rn, out=residual_Rn), out=residual_Rn)
        shareA_Rn /= total_Rn
        shareB_Rn /= total_Rn
        return shareA_Rn, shareB_Rn, residual_Rn

    def at(
        self, theta_Rp: np.ndarray, weight_Rn: np.ndarray, delta: float, z_Rn: np.ndarray | None = None
    ) -> Point:
        shareA_Rn, shareB_Rn, residual_Rn = self.shares(theta_Rp, z_Rn)
        psi_Rn, pull_Rn, curvature_Rn = self._buffers(len(theta_Rp))[3:6]
        np.clip(residual_Rn, -delta, delta, out=psi_Rn)
        np.multiply(weight_Rn, psi_Rn, out=pull_Rn)
        f_R = np.einsum("rn,rn->r", pull_Rn, residual_Rn) - 0.5 * np.einsum("rn,rn->r", pull_Rn, psi_Rn)
        np.multiply(weight_Rn, psi_Rn == residual_Rn, out=curvature_Rn)
        if self.on_loss:
            total_Rn = self._buffers(len(theta_Rp))[self._total]
            pull_Rn *= total_Rn
            curvature_Rn *= np.square(total_Rn)
        else:
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
        """Each run's part of `at` and `majoriser` at one theta (5,), for weight 1."""
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
        inside = (psi == residual).astype(np.float64)
        reweighted = delta / np.maximum(np.abs(residual), delta)
        if self.on_loss:
            total = self._buffers(1)[self._total, 0]
            pull, bend, reweighted = psi * total, inside * total**2, reweighted * total**2
        else:
            pull, bend = psi, inside + psi
        return Terms(
            psi * (residual - 0.5 * psi),
            -pull[:, None] * jacobian_np,
            bend[:, None, None] * outer_npp - pull[:, None, None] * curvature,
            reweighted[:, None, None] * outer_npp,
        )

    def majoriser(
        self, theta_Rp: np.ndarray, weight_Rn: np.ndarray, delta: float, z_Rn: np.ndarray | None = None
    ) -> np.ndarray:
        """Curvature of iteratively reweighted least squares, (R, 5, 5): never below the Huber terms' own."""
        shareA_Rn, shareB_Rn, residual_Rn = self.shares(theta_Rp, z_Rn)
        np.maximum(np.abs(residual_Rn, out=residual_Rn), delta, out=residual_Rn)
        reweighted_Rn = np.divide(delta, residual_Rn, out=residual_Rn)
        reweighted_Rn *= weight_Rn
        if self.on_loss:
            reweighted_Rn *= np.square(self._buffers(len(theta_Rp))[self._total])
        return self.outer(reweighted_Rn, shareA_Rn, shareB_Rn)

    def outer(self, weight_Rn: np.ndarray, shareA_Rn: np.ndarray, shareB_Rn: np.ndarray) -> np.ndarray:
        """sum_i weight_i J_i J_i^T with J = (sE, sA, sB, -x sA, -y sB) and sE = 1 - sA - sB; (R, 5, 5)."""
        wA_Rn, wB_Rn = self._buffers(len(weight_Rn))[6:8]
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
        """Largest gradient component over the sum of the absolute terms that cancel in it, (R,).

        Coordinates held by the box do not count. Residuals as small as rounding count as that much, and
        shares of the loss below FLOOR_SHARE as that: an exact table, or a vanishing term, is at its optimum.
        """
        gradient = self.at(theta_Rp, weight_Rn, delta).gradient_Rp
        shareA_Rn, shareB_Rn, residual_Rn = self.shares(theta_Rp)
        size_Rn = weight_Rn * np.clip(np.abs(residual_Rn), ROUNDING / GRADIENT_TOLERANCE, delta)
        if self.on_loss:
            size_Rn *= self._buffers(len(theta_Rp))[self._total]
        shareE_Rn = 1 - shareA_Rn - shareB_Rn
        sizeA_R3 = (size_Rn * (shareA_Rn + FLOOR_SHARE)) @ np.abs(self.x_n3)
        sizeB_R3 = (size_Rn * (shareB_Rn + FLOOR_SHARE)) @ np.abs(self.y_n3)
        sizeE_R = (size_Rn * (shareE_Rn + FLOOR_SHARE)).sum(axis=1)
        size = np.stack([sizeE_R, sizeA_R3[:, 0], sizeB_R3[:, 0], sizeA_R3[:, 1], sizeB_R3[:, 1]], axis=1)
        return largest_relative(self.space, theta_Rp, gradient, size)


def largest_relative(
    space: Space, theta_Rp: np.ndarray, gradient_Rp: np.ndarray, size_Rp: np.ndarray
) -> np.ndarray:
    """Largest gradient component along the free directions over its size, (R,); held ones do not count."""
    gradient_Rk, size_Rk = space.along(gradient_Rp), space.along(size_Rp)
    gradient_Rk = np.where(space.held(theta_Rp, gradient_Rk), 0.0, gradient_Rk)
    return np.asarray(np.max(np.abs(gradient_Rk) / np.maximum(size_Rk, np.finfo(float).tiny), axis=1))


def huber_deviance(huber: float, count: int, delta: float) -> float:
    """-2 log likelihood of residuals with that sum of Huber terms, at the scale s that minimises it: fits of
    the same runs compare by it.

    The density is exp(-Huber_delta(r) / s^2) / Z(s), Z = s sqrt(2 pi) (2 Phi(delta/s) - 1)
    + 2 s^2/delta exp(-delta^2 / (2 s^2)). A sum of 0 (an exact fit) counts as rounding.
    """
    huber = max(huber, count * 1e-30)

    def deviance(log_scale: float) -> float:
        s = np.exp(log_scale)
        inner = s * np.sqrt(2 * np.pi) * (2 * ndtr(delta / s) - 1)
        normaliser = inner + 2 * s**2 / delta * np.exp(-(delta**2) / (2 * s**2))
        return float(2 * count * np.log(normaliser) + 2 * huber / s**2)

    middle = 0.5 * np.log(2 * huber / count)
    best = minimize_scalar(
        deviance, bounds=(middle - 12, middle + 12), method="bounded", options={"xatol": 1e-10}
    )
    return float(best.fun)
