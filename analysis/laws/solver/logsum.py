"""Robust fits of any law that is a sum of positive terms, for many problems at once.

    f(theta) = sum_i w_i Huber_delta(log y_i - log sum_k exp(h_k(theta; i)))

With s_k the share of term k, g_k the gradient of h_k and J = sum_k s_k g_k, the Hessian used is
sum w [(psi' + psi) J J^T - psi sum_k s_k g_k g_k^T]. It is exact if every h_k is linear in theta; else the
second derivatives of h_k are left out, and steps are shorter, not wrong: the gradient is exact. Any number of
coordinates and terms; `objective.Derivatives` is the fast case of a surface.

Arrays end in shape letters: R problems, n runs, p coordinates.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from analysis.laws.solver.objective import (
    FLOOR_SHARE,
    GRADIENT_TOLERANCE,
    ROUNDING,
    Point,
    Space,
    largest_relative,
)

TermsOf = Callable[[np.ndarray], list[tuple[np.ndarray, np.ndarray]]]
"""theta (R, p) -> for every term its log (R, n), and the gradient of that, (R or 1, n, p)."""


class LogSum:
    """Objective of one table: `terms_of` gives the terms, z (n,) are the centred logs of y."""

    def __init__(self, terms_of: TermsOf, z: np.ndarray, space: Space, *, on_loss: bool = False) -> None:
        """on_loss: residuals are differences of y (in units of exp of its mean log), not of log y."""
        self.terms_of, self.z, self.space, self.on_loss = terms_of, z, space, on_loss

    def residuals(self, theta_Rp: np.ndarray, z_Rn: np.ndarray | None = None) -> np.ndarray:
        """(R, n), of log y or of y."""
        return self._parts(theta_Rp, z_Rn)[0]

    def shares(self, theta_Rp: np.ndarray) -> list[np.ndarray]:
        """Of every term in the sum, each (R, n)."""
        return self._parts(theta_Rp, None)[2]

    def _parts(
        self, theta_Rp: np.ndarray, z_Rn: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], list[np.ndarray]]:
        """Residuals, their change per unit of log sum, shares, and gradients of the terms."""
        terms = self.terms_of(theta_Rp)
        logs = np.stack(np.broadcast_arrays(*(log_Rn for log_Rn, _ in terms)))
        top_Rn = logs.max(axis=0)
        shares = np.exp(logs - top_Rn)
        total_Rn = shares.sum(axis=0)
        shares /= total_Rn
        log_total_Rn = top_Rn + np.log(total_Rn)
        z = self.z if z_Rn is None else z_Rn
        if self.on_loss:
            unit_Rn = np.exp(np.minimum(log_total_Rn, 300.0))
            residual_Rn = np.exp(z) - unit_Rn
        else:
            unit_Rn, residual_Rn = np.ones_like(log_total_Rn), z - log_total_Rn
        return residual_Rn, unit_Rn, list(shares), [gradient for _, gradient in terms]

    def at(
        self, theta_Rp: np.ndarray, weight_Rn: np.ndarray, delta: float, z_Rn: np.ndarray | None = None
    ) -> Point:
        residual_Rn, unit_Rn, shares, gradients = self._parts(theta_Rp, z_Rn)
        psi_Rn = np.clip(residual_Rn, -delta, delta)
        f_R = np.sum(weight_Rn * psi_Rn * (residual_Rn - 0.5 * psi_Rn), axis=1)
        pull_Rn = weight_Rn * psi_Rn * unit_Rn
        bend_Rn = weight_Rn * (psi_Rn == residual_Rn) * unit_Rn**2
        if not self.on_loss:
            bend_Rn = bend_Rn + pull_Rn
        jacobian_Rnp = self._jacobian(shares, gradients)
        hessian_Rpp = _weighted_square(bend_Rn, jacobian_Rnp)
        for share_Rn, gradient in zip(shares, gradients, strict=True):
            hessian_Rpp -= _weighted_square(pull_Rn * share_Rn, gradient)
        return Point(f_R, -np.einsum("rn,rnp->rp", pull_Rn, jacobian_Rnp), hessian_Rpp)

    def majoriser(
        self, theta_Rp: np.ndarray, weight_Rn: np.ndarray, delta: float, z_Rn: np.ndarray | None = None
    ) -> np.ndarray:
        residual_Rn, unit_Rn, shares, gradients = self._parts(theta_Rp, z_Rn)
        weight_Rn = weight_Rn * unit_Rn**2 * delta / np.maximum(np.abs(residual_Rn), delta)
        return _weighted_square(weight_Rn, self._jacobian(shares, gradients))

    def relative_gradient(self, theta_Rp: np.ndarray, weight_Rn: np.ndarray, delta: float) -> np.ndarray:
        """Largest gradient component over the sum of the absolute terms that cancel in it, (R,)."""
        gradient_Rp = self.at(theta_Rp, weight_Rn, delta).gradient_Rp
        residual_Rn, unit_Rn, shares, gradients = self._parts(theta_Rp, None)
        size_Rn = np.clip(np.abs(residual_Rn), ROUNDING / GRADIENT_TOLERANCE, delta) * weight_Rn * unit_Rn
        size_Rp = np.zeros_like(theta_Rp)
        for share_Rn, gradient in zip(shares, gradients, strict=True):
            each_Rnp = np.broadcast_to(np.abs(gradient), (*share_Rn.shape, gradient.shape[-1]))
            size_Rp += np.einsum("rn,rnp->rp", size_Rn * (share_Rn + FLOOR_SHARE), each_Rnp)
        return largest_relative(self.space, theta_Rp, gradient_Rp, size_Rp)

    @staticmethod
    def _jacobian(shares: list[np.ndarray], gradients: list[np.ndarray]) -> np.ndarray:
        parts = (share[:, :, None] * gradient for share, gradient in zip(shares, gradients, strict=True))
        return np.asarray(sum(parts))


def _weighted_square(weight_Rn: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """sum_n weight_n g_n g_n^T for g (R or 1, n, p): (R, p, p)."""
    if len(gradient) == 1:
        g_np = gradient[0]
        size = g_np.shape[1]
        outer = (g_np[:, :, None] * g_np[:, None, :]).reshape(-1, size * size)
        return np.asarray((weight_Rn @ outer).reshape(-1, size, size))
    return np.asarray((gradient * weight_Rn[:, :, None]).transpose(0, 2, 1) @ gradient)
