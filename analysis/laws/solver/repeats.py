"""Laws for text that is read more than once: their formulas, and their terms for the solver.

N parameters, D tokens read, U unique tokens, R = max(D/U - 1, 0) repeats (one epoch is R = 0).

effective   Muennighoff et al. 2023 (arXiv 2305.16264, section 3.1 and its notebook of fits). Repeats are
            worth less and less, and so are parameters beyond what the unique tokens can feed:
                L = E + A/N'^alpha + B/D'^beta
                D' = U_D + U_D R_D (1 - exp(-R/R_D)),      U_D = min(D, U)
                N' = U_N + U_N R_N (1 - exp(-R'/R_N)),     U_N = min(N, N*(U_D)),  R' = N/U_N - 1
            with N*(U_D) the size for which U_D is compute-optimal: alpha A N^-alpha = beta B U_D^-beta.
            R_D and R_N are e-folding scales, not half-lives; loss never rises with epochs.
additive    a penalty on top of all tokens counted alike (the form of Lovelace et al. 2026, arXiv 2605.01640):
                L = E + A/N^alpha + B/D^beta + P R^delta (N/U)^kappa
            Loss can rise with epochs, the sooner the larger the network for its text.

In both, text read once gives the surface E + A/N^alpha + B/D^beta. Arrays end in shape letters: R problems, n
runs, p coordinates (e, a, b, alpha, beta, then those of the form), logs centred as in `objective.Problem`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from analysis.laws.solver.objective import LOWER, UPPER, Problem, Space

FORMS = {
    "effective": ("E", "A", "B", "alpha", "beta", "R_D", "R_N"),
    "additive": ("E", "A", "B", "alpha", "beta", "P", "delta", "kappa"),
}
"""Parameters of each form, in the order of the rows of `ConstrainedLaw.thetas`."""
SMALLEST_SCALE, LARGEST_SCALE = 1e-2, 1e6
"""R_D and R_N are searched between these."""
ONCE = 1e-6
"""Fewer repeats than this are rounding of the table: text read once."""
MOST_SPARE_LOG = 50.0
NEVER_LOG = -1e4
"""Log of a term that is not there: its exponential is 0."""
STARTS = {
    "effective": [np.log(start) for start in product((2.0, 8.0, 30.0, 100.0), (1.0, 5.0, 25.0, 500.0))],
    "additive": [np.array(start) for start in product((-7.0, -4.0, -2.0), (0.7, 1.5), (0.3, 1.0))],
}
"""Where the search starts in the coordinates beyond those of the surface."""


# ---- in the user's units


def effective_data(scale: np.ndarray, tokens: np.ndarray, unique_tokens: np.ndarray) -> np.ndarray:
    """D' for R_D (m, 1) and tokens, unique tokens (k,): fresh tokens that are worth as much."""
    once = np.minimum(tokens, unique_tokens)
    return np.asarray(once * (1 - scale * np.expm1(-(tokens / once - 1) / scale)))


def constrained_loss(
    form: str, thetas: np.ndarray, params: np.ndarray, tokens: np.ndarray, unique_tokens: np.ndarray
) -> np.ndarray:
    """Loss (m, k), nats per token, for thetas (m, p) and params, tokens, unique_tokens (k,) or (m, k)."""
    E, A, B, alpha, beta, *rest = (thetas[:, i, None] for i in range(thetas.shape[1]))
    if form == "effective":
        R_D, R_N = rest
        log_params, log_once = np.log(params), np.log(np.minimum(tokens, unique_tokens))
        log_best = (np.log(alpha) + np.log(A) - np.log(beta) - np.log(B) + beta * log_once) / alpha
        log_fed = np.minimum(log_params, log_best)
        spare = np.expm1(np.minimum(log_params - log_fed, MOST_SPARE_LOG))
        log_size = log_fed + np.log1p(-R_N * np.expm1(-spare / R_N))
        data = effective_data(R_D, tokens, unique_tokens)
        # a law that means nothing may feed no network at all: its loss is infinite
        with np.errstate(over="ignore"):
            return np.asarray(E + np.exp(np.log(A) - alpha * log_size) + B * data**-beta)
    return np.asarray(
        E + A * params**-alpha + B * tokens**-beta + penalty(thetas, params, tokens, unique_tokens)
    )


def penalty(
    thetas: np.ndarray, params: np.ndarray, tokens: np.ndarray, unique_tokens: np.ndarray
) -> np.ndarray:
    """P R^delta (N/U)^kappa of the additive form, (m, k) nats; 0 for text read once."""
    P, delta, kappa = (thetas[:, i, None] for i in (5, 6, 7))
    repeats = tokens / unique_tokens - 1
    again = repeats > ONCE
    log_size = np.log(np.maximum(P, np.finfo(float).tiny)) + delta * np.log(np.where(again, repeats, 1.0))
    # far from the runs it may overflow: an infinite loss
    with np.errstate(over="ignore"):
        size = np.exp(log_size + kappa * (np.log(params) - np.log(unique_tokens)))
    return np.asarray(np.where(again, size, 0.0))


# ---- in the solver's coordinates


@dataclass(frozen=True, slots=True)
class RepeatTerms:
    """The terms of one form on one table: logs and their gradients at theta, for `logsum.LogSum`."""

    form: str
    x: np.ndarray
    y: np.ndarray
    y_once: np.ndarray
    """Centred log of min(D, U)."""
    repeats: np.ndarray
    log_repeats: np.ndarray
    """Centred on its mean over the runs that repeat; 0 for the others."""
    log_size: np.ndarray
    """log(N/U), likewise."""
    offsets: tuple[float, float]
    """Those means."""

    @classmethod
    def of(cls, form: str, problem: Problem, tokens: np.ndarray, unique_tokens: np.ndarray) -> RepeatTerms:
        repeats = tokens / unique_tokens - 1
        again = repeats > ONCE
        repeats = np.where(again, repeats, 0.0)
        log_size = problem.x + problem.means[0] - np.log(unique_tokens)
        log_repeats = np.log(np.where(again, repeats, 1.0))
        offsets = (float(log_repeats[again].mean()), float(log_size[again].mean()))
        return cls(
            form,
            problem.x,
            problem.y,
            np.log(np.minimum(tokens, unique_tokens)) - problem.means[1],
            repeats,
            np.where(again, log_repeats - offsets[0], 0.0),
            np.where(again, log_size - offsets[1], 0.0),
            offsets,
        )

    def __call__(self, theta_Rp: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        return self._effective(theta_Rp) if self.form == "effective" else self._additive(theta_Rp)

    def _constant(self, theta_Rp: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        gradient = np.zeros((1, len(self.x), theta_Rp.shape[1]))
        gradient[0, :, 0] = 1.0
        return np.repeat(theta_Rp[:, :1], len(self.x), axis=1), gradient

    def _additive(self, theta_Rp: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        zero, one, again = np.zeros_like(self.x), np.ones_like(self.x), (self.repeats > 0).astype(np.float64)
        A = np.stack([zero, one, zero, -self.x, zero, zero, zero, zero], axis=1)
        B = np.stack([zero, zero, one, zero, -self.y, zero, zero, zero], axis=1)
        P = np.stack([zero, zero, zero, zero, zero, again, self.log_repeats, self.log_size], axis=1)
        logs = [theta_Rp @ gradient.T for gradient in (A, B, P)]
        logs[2] = np.where(again > 0, logs[2], NEVER_LOG)
        terms = [(log_Rn, gradient[None]) for log_Rn, gradient in zip(logs, (A, B, P), strict=True)]
        return [self._constant(theta_Rp), *terms]

    def _effective(self, theta_Rp: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        _, a, b, alpha, beta, log_R_D, log_R_N = (theta_Rp[:, i, None] for i in range(7))
        data_Rn, by_R_D = _saturated(self.y_once, self.repeats, np.exp(log_R_D))[:2]
        best_Rn = (np.log(alpha) + a - np.log(beta) - b + beta * self.y_once) / alpha
        starved = best_Rn < self.x
        fed_Rn = np.where(starved, best_Rn, self.x)
        # beyond this many times what the text feeds, nothing is gained any more
        spare_Rn = np.expm1(np.minimum(self.x - fed_Rn, MOST_SPARE_LOG))
        size_Rn, by_R_N, slope_Rn = _saturated(fed_Rn, spare_Rn, np.exp(log_R_N))
        # what log N' gains per unit of the log of the size that the text feeds
        by_fed_Rn = np.where(starved, 1 - slope_Rn * (spare_Rn + 1), 0.0)
        A = np.zeros((*size_Rn.shape, 7))
        A[..., 1] = 1 - by_fed_Rn
        A[..., 2] = by_fed_Rn
        A[..., 3] = -size_Rn - by_fed_Rn * (1 / alpha - best_Rn)
        A[..., 4] = -by_fed_Rn * (self.y_once - 1 / beta)
        A[..., 6] = -alpha * by_R_N
        B = np.zeros_like(A)
        B[..., 2] = 1.0
        B[..., 4] = -data_Rn
        B[..., 5] = -beta * by_R_D
        return [self._constant(theta_Rp), (a - alpha * size_Rn, A), (b - beta * data_Rn, B)]

    def natural(self, problem: Problem, theta_Rp: np.ndarray) -> np.ndarray:
        """Parameters in the user's units, (R, p), in the order of `FORMS`."""
        five, rest = problem.natural(theta_Rp[:, :5]), theta_Rp[:, 5:]
        if self.form == "effective":
            return np.column_stack([five, np.exp(rest)])
        P = np.exp(rest[:, 0] - rest[:, 1:] @ np.array(self.offsets) + problem.means[2])
        return np.column_stack([five, P, rest[:, 1:]])


def _saturated(
    log_once: np.ndarray, repeats: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log of U + U S (1 - exp(-r/S)) for scales S (R, 1): (R, n); its derivative in log S; and exp(-r/S) over
    the factor beside U, its derivative in r."""
    left = np.exp(-repeats / scale)
    gained = -scale * np.expm1(-repeats / scale)
    factor = 1 + gained
    return log_once + np.log(factor), (gained - repeats * left) / factor, left / factor


def repeat_space(form: str, *, tied: bool, held_base: bool, one_parameter: bool) -> Space:
    """Where theta may go: exponents tied, the surface held, or (additive) delta = kappa = 1 held."""
    if form == "effective":
        bounds = np.log([SMALLEST_SCALE, SMALLEST_SCALE]), np.log([LARGEST_SCALE, LARGEST_SCALE])
    else:
        bounds = np.array([-40.0, 0.02, -3.0]), np.array([10.0, 6.0, 6.0])
    lower, upper = np.concatenate([LOWER, bounds[0]]), np.concatenate([UPPER, bounds[1]])
    basis = np.eye(len(lower))
    if tied:
        basis[4, 3] = 1.0
    stays = [4] if tied else []
    stays += [0, 1, 2, 3, 4] if held_base else []
    stays += [6, 7] if one_parameter else []
    if held_base:
        lower[:5], upper[:5] = -np.inf, np.inf
    return Space(lower=lower, upper=upper, basis_pk=np.delete(basis, stays, axis=1))
