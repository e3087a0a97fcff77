"""Where a new run may come out: the uncertainty of the law, and the scatter of runs about it.

An interval of the law says where the mean of many runs lies; a new run also misses that mean by what runs of
this table do. Scatter is Huber's Proposal 2 (Huber & Ronchetti 2009, Robust Statistics, section 6.4): the
variance of residuals cut at 2 standard deviations, made consistent for normal noise. Outliers hardly widen
it, and a new run that is an outlier is not covered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, stdtrit

from analysis.errors import UserError

CUT = 2.0
KINDS = ("mean", "run")
MOST_STEPS = 200
NEW_RUN = 7
"""Tells the draws of a new run's noise from every other use of the seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scatter:
    """How far runs lie from their law."""

    sd: float
    """Standard deviation of log loss (relative), or of loss in nats where the fit was to the loss itself."""
    freedom: float
    """Degrees of freedom of that estimate: runs to spare times its efficiency on normal noise."""
    on_loss: bool = False

    def with_run(self, value: np.ndarray, draws: np.ndarray, seed: int) -> np.ndarray:
        """The law's loss (1, m), then losses of a new run: Student's t noise about each draw (R, m).

        The quantiles of the t distribution are handed to the draws in an order given by the seed; one order
        for all columns.
        """
        count = len(draws)
        quantiles = stdtrit(self.freedom, (np.arange(count) + 0.5) / max(count, 1))
        noise = self.sd * np.random.default_rng([seed, NEW_RUN]).permutation(quantiles)[:, None]
        return np.concatenate([value, draws + noise if self.on_loss else draws * np.exp(noise)])


def scatter(residuals: np.ndarray, num_parameters: int, *, on_loss: bool = False) -> Scatter:
    """The scatter of residuals (n,) of a law with so many fitted parameters; n must be larger."""
    spare = len(residuals) - num_parameters
    assert spare > 0, "a fit with no run to spare says nothing about scatter"
    clipped_square, efficiency = _normal_moments(CUT)
    squares = np.square(residuals)
    # half of normal residuals lie within 0.6745 standard deviations
    variance = float(np.median(squares)) / 0.6745**2 or float(squares.mean())
    for _ in range(MOST_STEPS):
        if variance <= np.finfo(float).tiny:
            break
        ratio = float(np.minimum(squares / variance, CUT**2).sum()) / (spare * clipped_square)
        variance *= ratio
        if abs(ratio - 1) < 1e-12:
            break
    return Scatter(sd=math.sqrt(variance), freedom=spare * efficiency, on_loss=on_loss)


def check_kind(kind: str) -> None:
    """UserError for a kind of prediction there is not."""
    if kind not in KINDS:
        raise UserError(f"kind = {kind!r}: choose 'mean' (of the law itself) or 'run' (of one new run)")


def _normal_moments(cut: float) -> tuple[float, float]:
    """For standard normal Z: the mean of min(Z^2, cut^2), and the efficiency of that as a scale.

    A variance estimate has as many degrees of freedom as 2 / (its squared coefficient of variation); the
    linearised Proposal 2 has `efficiency` times those of the plain variance (0.885 at a cut of 2).
    """
    density = math.exp(-(cut**2) / 2) / math.sqrt(2 * math.pi)
    inside = 2 * float(ndtr(cut)) - 1
    second = inside - 2 * cut * density
    fourth = 3 * second - 2 * cut**3 * density
    clipped_square = second + cut**2 * (1 - inside)
    clipped_fourth = fourth + cut**4 * (1 - inside)
    return clipped_square, 2 * second**2 / (clipped_fourth - clipped_square**2)
