"""A number with its interval: every number of a law is one of these."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri

from analysis.text import interval_text, number_text


class Estimate(float):
    """A float that carries an interval: `low` and `high` at confidence `level`.

    Without resamples there is no interval and both ends are None. An end may be infinite (or 0 for a
    positive quantity) if the data leave it open; nothing here is ever NaN: ValueError.
    Arithmetic gives a plain float, because an interval does not survive it.
    """

    __slots__ = ("high", "level", "low")
    low: float | None
    high: float | None
    level: float

    def __new__(
        cls, value: float, low: float | None = None, high: float | None = None, level: float = 0.95
    ) -> Estimate:
        if (low is None) != (high is None):
            raise ValueError(f"an interval has two ends or none: low={low}, high={high}")
        for name, number in (("value", value), ("low", low), ("high", high)):
            if number is not None and math.isnan(number):
                raise ValueError(f"an estimate is never NaN: {name} is")
        self = super().__new__(cls, value)
        self.low = None if low is None else float(low)
        self.high = None if high is None else float(high)
        self.level = float(level)
        return self

    def __getnewargs__(self) -> tuple[Any, ...]:
        return (float(self), self.low, self.high, self.level)

    def __repr__(self) -> str:
        if self.low is None or self.high is None:
            return number_text(float(self), 4)
        width, digits = self.high - self.low, 4
        if math.isfinite(width) and width > 0 and self != 0:  # so many that the width shows two digits
            digits = min(max(math.floor(math.log10(abs(self) / width)) + 3, 3), 6)
        return interval_text(float(self), self.low, self.high, digits=digits)

    __str__ = __repr__

    def to_dict(self) -> dict[str, float | None]:
        """Plain JSON: an open end is None."""
        numbers = {"value": float(self), "low": self.low, "high": self.high, "level": self.level}
        return {name: x if x is not None and math.isfinite(x) else None for name, x in numbers.items()}


def spread(draws: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval along the first axis: (low, high). Infinite draws are allowed, NaN is not."""
    tail = (1 - level) / 2
    # "lower"/"higher" never average two draws, so an infinite draw cannot turn into inf - inf
    ordered = np.sort(draws, axis=0)
    last = len(ordered) - 1
    return ordered[math.floor(tail * last)], ordered[math.ceil((1 - tail) * last)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How an interval is read from values (1 + R + J, ...): the estimate, R resamples, J leave-outs."""

    level: float
    leave_outs: int = 0
    """How many of the last values are refits without one run (or group); with them intervals are BCa."""


def interval(values: np.ndarray, rule: Rule) -> tuple[np.ndarray, np.ndarray] | None:
    """Interval of values (1 + R + J, ...) along the first axis; None without resamples.

    Percentiles of the resamples; with leave-outs bias-corrected and accelerated (BCa: Efron 1987, J. Am.
    Stat. Assoc. 82, 171, eqs. 2.3 and 6.6): the percentiles move with the share of resamples below the
    estimate, and with the skewness of the leave-outs. Infinite values are allowed, NaN is not.
    """
    last = len(values) - rule.leave_outs
    if last <= 1:
        return None
    if rule.leave_outs < 2:
        return spread(values[1:last], rule.level)
    return _bca(values[0], values[1:last], values[last:], rule.level)


def _bca(
    value: np.ndarray, draws: np.ndarray, leave_outs: np.ndarray, level: float
) -> tuple[np.ndarray, np.ndarray]:
    count = len(draws)
    below = np.mean((draws < value) + 0.5 * (draws == value), axis=0)
    # all draws on one side say no more than that the share is below one in that many
    z0 = ndtri(np.clip(below, 1 / (count + 1), count / (count + 1)))
    # an infinite leave-out has no distance from the mean: it counts as not moving the estimate
    finite = np.where(np.isfinite(leave_outs), leave_outs, np.where(np.isfinite(value), value, 0.0))
    pull = finite.mean(axis=0) - finite
    squares = np.sum(pull**2, axis=0)
    acceleration = np.sum(pull**3, axis=0) / (6 * np.where(squares > 0, squares, 1.0) ** 1.5)
    ordered = np.sort(draws, axis=0)
    ends = []
    for tail, rounded in (((1 - level) / 2, np.floor), ((1 + level) / 2, np.ceil)):
        z = z0 + ndtri(tail)
        moved = ndtr(z0 + z / np.maximum(1 - acceleration * z, 0.05))
        place = rounded(moved * (count - 1)).astype(int)
        ends.append(np.take_along_axis(ordered, np.asarray(place)[None], axis=0)[0])
    return ends[0], ends[1]


def estimate_of(values: np.ndarray, rule: Rule) -> Estimate:
    """The estimate values[0] of values (1 + R + J,) with its interval, see `interval`."""
    ends = interval(values, rule)
    low, high = (None, None) if ends is None else (float(ends[0]), float(ends[1]))
    return Estimate(float(values[0]), low, high, rule.level)
