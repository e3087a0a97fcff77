"""How far a surface's form is off: a smooth deviation of log loss, and draws of what the runs leave open.

    log L = log surface(N, D) + J b + u(log N, log D) + e

The form limits a law more than the noise of its runs does: published tables deviate smoothly from their
surface by several times that noise (docs/coverage.md). So the residuals of log loss are split into

* J b: a shift of the five parameters. J are the derivatives of log loss in log E, log A, log B, alpha, beta
  at the fit; b is nearly flat, with a normal prior of standard deviations `PARAMETERS`.
* u: a Gaussian process with covariance tau^2 exp(-d^2 / (2 REACH^2)), d the distance in the natural logs of N
  and D.
* e: noise of the runs, of standard deviation sigma. A share of it is common to runs of one size and seed, for
  the seed (weights, order of the data) moves their losses together; it decays by `DECAY` per doubling of
  tokens.

(tau / sigma)^2 runs over a grid, weighted by restricted likelihood (b integrated out) and a prior; sigma is
integrated out under a weak prior, so tails are those of Student's t. u is written as a sum of p = 140 waves
with normal coefficients, by quadrature of the covariance's spectral density. So all of it is one linear
regression, of cost n p^2, and a draw is a function of N and D with 5 + p coefficients.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.special import ndtr, stdtr

REACH = 2.3
"""How far a deviation is alike, in natural logs: one decade. Chosen with the prior below, see
docs/coverage.md."""
PARAMETERS = np.array([1.5, 3.0, 3.0, 0.5, 0.5])
"""Prior standard deviations of log E, log A, log B (at the mean run), alpha and beta about the fit."""
RATIOS = np.concatenate([[0.0], np.geomspace(0.05, 2e4, 15)])
"""The grid of (tau / sigma)^2."""
NO_DEVIATION = 0.5
"""Prior probability that the form is exact."""
MEDIAN, SPREAD = 6.0, 1.2
"""Else tau / sigma is log-normal: median, and standard deviation of its log."""
PRIOR_RUNS, PRIOR_NOISE = 2.0, 0.003
"""What is known of sigma beforehand: as much as two runs say, 0.3% of the loss."""
COMMON, DECAY = 0.71, 0.72
"""Share of the noise variance common to runs of one size and seed, and its decay per doubling of tokens: the
losses of small networks correlate by 0.51 one doubling apart, by 0.37 two (docs/coverage.md)."""
NODES, SMALLEST_WEIGHT = 20, 1e-6
OUTLIER = 6.0
"""A run further from what the other runs predict, in normal standard deviations, is left out."""
ROUNDS = 4
DRAWS = 0x0A110
"""Tells the draws from every other use of the seed."""


def _quadrature() -> tuple[np.ndarray, np.ndarray]:
    """Frequencies (k, 2) in units of 1 / REACH, and amplitudes (k,), of the waves of u: Gauss-Hermite nodes
    of the spectral density, of which each pair of opposite ones is one wave."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    weights = np.outer(weights, weights) / weights.sum() ** 2
    used = (weights > SMALLEST_WEIGHT) & (nodes[:, None] > 0)
    one, other = np.nonzero(used)
    return np.stack([nodes[one], nodes[other]], axis=1), np.sqrt(2 * weights[used])


FREQUENCIES, AMPLITUDES = _quadrature()


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """What to add to the log loss of a fitted surface: the estimate, and draws. Arrays (1 + R, ...)."""

    theta: np.ndarray
    """E, A, B, alpha, beta of the fit (5,), in the units of `means`."""
    means: tuple[float, float]
    """Means of log params and log tokens of the runs."""
    coefficients: np.ndarray
    """(1 + R, 5 + p): b, then the coefficients of the waves."""
    shared: np.ndarray
    """(1 + R,) error of the held-out text in nats, to be added to the loss: of all runs, and all families."""
    noise: np.ndarray
    """(1 + R,) standard deviation of a single run's log loss."""
    tau: float
    """Posterior mean of the deviation's standard deviation."""
    exact: float
    """Posterior probability that there is no deviation."""
    outliers: np.ndarray
    """Positions of the runs left out."""

    @property
    def estimate(self) -> Deviation:
        """The estimate alone, without draws."""
        return replace(self, coefficients=self.coefficients[:1], shared=self.shared[:1], noise=self.noise[:1])

    def at(self, log_params: np.ndarray, log_tokens: np.ndarray) -> np.ndarray:
        """Log of the loss over the fitted surface's, (1 + R, m), at logs (m,)."""
        features = self._features(log_params, log_tokens)
        return np.asarray(self.coefficients @ features.T)

    def _features(self, log_params: np.ndarray, log_tokens: np.ndarray) -> np.ndarray:
        x, y = log_params - self.means[0], log_tokens - self.means[1]
        return np.concatenate([shares(self.theta, x, y), waves(x, y)], axis=1)


def shares(theta: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Derivatives (m, 5) of the log loss of a surface in log E, log A, log B, alpha and beta."""
    E, A, B, alpha, beta = theta
    terms = np.stack([np.full_like(x, E), A * np.exp(-alpha * x), B * np.exp(-beta * y)], axis=1)
    terms /= terms.sum(axis=1, keepdims=True)
    return np.column_stack([terms, -x * terms[:, 1], -y * terms[:, 2]])


def waves(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Features (m, p) whose products are exp(-d^2 / (2 REACH^2)), to 1% for d up to 6 REACH."""
    phase = np.stack([x, y], axis=1) @ (FREQUENCIES.T / REACH)
    return np.concatenate([AMPLITUDES * np.cos(phase), AMPLITUDES * np.sin(phase)], axis=1)


def fit_deviation(
    theta: np.ndarray,
    params: np.ndarray,
    tokens: np.ndarray,
    loss: np.ndarray,
    *,
    basis: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    loss_se: float = 0.0,
    draws: int = 0,
    seed: int = 0,
    shared_seed: int = 0,
) -> Deviation:
    """The deviation of runs (n,) from a fitted surface (E, A, B, alpha, beta), with draws.

    basis (5, k): the directions in which the parameters may move; None: all. groups (n,): runs of one group
    have one size and seed, and so a common share of noise; None: all runs are independent. loss_se: standard
    error of the held-out loss in nats, shared by all runs; its draws depend on shared_seed alone.
    """
    log_params, log_tokens, log_loss = np.log(params), np.log(tokens), np.log(loss)
    means = float(log_params.mean()), float(log_tokens.mean())
    E, A, B, alpha, beta = theta
    centred = np.array([E, A * np.exp(-alpha * means[0]), B * np.exp(-beta * means[1]), alpha, beta])
    x, y = log_params - means[0], log_tokens - means[1]
    fitted = E + A * params**-alpha + B * tokens**-beta
    r = log_loss - np.log(fitted)
    basis = np.eye(5) if basis is None else basis
    J = shares(centred, x, y) @ basis
    num_free = J.shape[1]
    X = np.concatenate([J, waves(x, y)], axis=1)
    # b is nearly flat: the noise that scales its prior may be a guess
    scale = max(float(np.median(np.abs(r))) / 0.6745, 1e-4)
    flat = (scale / (PARAMETERS @ basis)) ** 2

    kept = np.ones(len(r), dtype=bool)
    for _ in range(ROUNDS):
        X_kept, r_kept = X[kept], r[kept]
        Z, inverse_diagonal = _over_noise(np.column_stack([X_kept, r_kept]), groups, y, kept)
        Z, z = Z[:, :-1], Z[:, -1]
        gram, moment, square = X_kept.T @ Z, X_kept.T @ z, float(r_kept @ z)
        freedom = len(r_kept) - num_free + PRIOR_RUNS
        prior_square = PRIOR_RUNS * PRIOR_NOISE**2
        fits = []
        for ratio in RATIOS:
            size = len(gram) if ratio else num_free
            prior = np.concatenate([flat, np.full(size - num_free, 1 / (ratio or 1.0))])
            factor = cho_factor(gram[:size, :size] + np.diag(prior), lower=True)
            mean = cho_solve(factor, moment[:size])
            total = max(square - float(moment[:size] @ mean), 0.0) + prior_square
            evidence = (
                0.5 * np.sum(np.log(prior[num_free:])) - np.sum(np.log(np.diag(factor[0])))
                - 0.5 * freedom * np.log(total)
            )  # fmt: skip
            fits.append((factor, mean, total / freedom, evidence))
        weights = _prior() * np.exp(np.array([fit[3] for fit in fits]) - max(fit[3] for fit in fits))
        weights /= weights.sum()
        # what the other runs say of each run, at the most probable ratio
        factor, mean, variance, _ = fits[int(np.argmax(weights))]
        Z = Z[:, : len(mean)]
        own = inverse_diagonal - np.sum(Z * cho_solve(factor, Z.T).T, axis=1)
        square_apart = (z - Z @ mean) ** 2 / (np.maximum(own, 1e-12) * variance)
        # the noise without the run itself, and as improbable as that many normal standard deviations
        left = np.maximum(freedom - square_apart, 1e-9)
        apart = np.sqrt(square_apart * (freedom - 1) / left)
        far = np.flatnonzero(kept)[stdtr(freedom - 1, -apart) < ndtr(-OUTLIER)]
        if not len(far) or kept.sum() - len(far) <= num_free + 1:
            break
        kept[far] = False

    # the estimate is the mean over the grid; a draw takes one ratio, then sigma, then the coefficients
    generator = np.random.default_rng([seed, DRAWS])
    coefficients = np.zeros((1 + draws, X.shape[1]))
    noise = np.empty(1 + draws)
    noise[0] = np.sqrt(sum(weight * fit[2] for weight, fit in zip(weights, fits, strict=True)))
    chosen = np.searchsorted(np.cumsum(weights), (generator.permutation(draws) + 0.5) / max(draws, 1))
    chi = np.sqrt(freedom / generator.chisquare(freedom, size=draws))
    for number, (weight, (factor, mean, variance, _)) in enumerate(zip(weights, fits, strict=True)):
        coefficients[0, : len(mean)] += weight * mean
        rows = np.flatnonzero(chosen == number)
        noise[1 + rows] = np.sqrt(variance) * chi[rows]
        normal = generator.standard_normal((len(mean), len(rows)))
        spread = solve_triangular(factor[0], normal, lower=True, trans="T").T
        coefficients[1 + rows, : len(mean)] = mean + noise[1 + rows, None] * spread
    shared = np.concatenate([[0.0], loss_se * np.random.default_rng(shared_seed).standard_normal(draws)])
    variances = np.array([fit[2] for fit in fits])
    b, amplitudes = coefficients[:, :num_free] @ basis.T, coefficients[:, num_free:]
    return Deviation(
        theta=centred, means=means, shared=shared, noise=noise,
        coefficients=np.concatenate([b, amplitudes], axis=1),
        tau=float(np.sum(weights * np.sqrt(RATIOS * variances))), exact=float(weights[0]),
        outliers=np.flatnonzero(~kept),
    )  # fmt: skip


def _over_noise(
    columns: np.ndarray, groups: np.ndarray | None, y: np.ndarray, kept: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The inverse noise covariance (unit: sigma^2) times columns (k, m) of kept runs, and its diagonal."""
    product, diagonal = columns.copy(), np.ones(len(columns))
    if groups is None:
        return product, diagonal
    names, doublings = groups[kept], y[kept] / np.log(2)
    order = np.argsort(names, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(names[order])) + 1):
        if len(members) > 1:
            gap = np.abs(doublings[members, None] - doublings[members])
            inverse = np.linalg.inv(COMMON * DECAY**gap + (1 - COMMON) * np.eye(len(members)))
            product[members], diagonal[members] = inverse @ columns[members], np.diag(inverse)
    return product, diagonal


def _prior() -> np.ndarray:
    """Prior probabilities of `RATIOS`."""
    normal = np.exp(-0.5 * ((0.5 * np.log(RATIOS[1:]) - np.log(MEDIAN)) / SPREAD) ** 2)
    return np.concatenate([[NO_DEVIATION], (1 - NO_DEVIATION) * normal / normal.sum()])
