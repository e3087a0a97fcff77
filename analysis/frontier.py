"""The compute-optimal frontier of a surface law, and the cost of a token.

Training compute is C = k N^q D. With k = 6, q = 1 that is the usual 6ND; if a table's FLOPs count more
(attention scores, the output layer) k and q are fitted to it, so that the optimum respects the real cost.
Minimising E + A N^-alpha + B D^-beta under that constraint (Hoffmann et al. 2022, eq. 4, is q = 1) gives

    N* = (alpha A / (q beta B))^(1/s) (C/k)^(beta/s),  D* = (C/k) N*^-q,  s = alpha + q beta
    L* = E + K C^-(alpha beta / s)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.errors import UserError
from analysis.estimate import Estimate
from analysis.text import flops_text, interval_text

SAME_AS_6ND = 1e-6
"""Relative difference below which a FLOPs column is taken for 6ND; published tables have ten digits or fewer.
"""
WARN_ABOVE = 0.1
REFUSE_ABOVE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Training FLOPs = k N^q D, and how well that describes the table's FLOPs."""

    k: float = 6.0
    q: float = 1.0
    largest_error: float = 0.0
    """Largest relative difference between the table's FLOPs and k N^q D."""

    @property
    def is_6nd(self) -> bool:
        return self.k == 6.0 and self.q == 1.0

    def flops(self, params: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        return self.k * params**self.q * tokens

    def tokens(self, params: np.ndarray, flops: np.ndarray) -> np.ndarray:
        return flops / (self.k * params**self.q)

    def __str__(self) -> str:
        return "6 N D" if self.is_6nd else f"{self.k:.4g} N^{self.q:.4f} D"


def fit_cost(params: np.ndarray, tokens: np.ndarray, flops: np.ndarray) -> Cost:
    """Least squares of log(flops/tokens) on log(params); exactly 6ND if the FLOPs are 6ND.

    UserError if no power of the size describes the cost of a token within 50%: then the columns do not belong
    together.
    """
    log_cost = np.log(flops) - np.log(tokens)
    log_params = np.log(params)
    if np.max(np.abs(np.expm1(log_cost - log_params - np.log(6.0)))) <= SAME_AS_6ND:
        return Cost()
    centred = log_params - log_params.mean()
    spread = np.sum(centred**2)
    q = float(np.sum(centred * log_cost) / spread) if spread > 0 else 1.0
    log_k = float(np.mean(log_cost) - q * log_params.mean())
    worst = float(np.max(np.abs(np.expm1(log_cost - log_k - q * log_params))))
    if worst > REFUSE_ABOVE or q <= 0:
        raise UserError(
            f"flops: no cost k N^q D describes the table (best {np.exp(log_k):.3g} N^{q:.2f} D, off by "
            f"{worst:.0%}); "
            "give flops, params and tokens of one convention, or drop the column flops to use 6 params tokens"
        )
    return Cost(k=float(np.exp(log_k)), q=q, largest_error=worst)


def surface_loss(theta: np.ndarray, params: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """E + A N^-alpha + B D^-beta for theta (..., 5) and params, tokens (m,): (..., m) nats per token."""
    E, A, B, alpha, beta = (theta[..., i, None] for i in range(5))
    return E + A * params**-alpha + B * tokens**-beta


def optimal_logs(theta: np.ndarray, flops: np.ndarray, cost: Cost) -> tuple[np.ndarray, np.ndarray]:
    """Logs of the compute-optimal (params, tokens), each (..., m), for theta (..., 5) and flops (m,)."""
    _, A, B, alpha, beta = (theta[..., i, None] for i in range(5))
    total = alpha + cost.q * beta
    log_params = (np.log(alpha * A) - np.log(cost.q * beta * B) + beta * np.log(flops / cost.k)) / total
    return log_params, np.log(flops / cost.k) - cost.q * log_params


def optimal_loss(theta: np.ndarray, log_params: np.ndarray, log_tokens: np.ndarray) -> np.ndarray:
    """Loss above E for theta (..., 5) at logs of params and tokens (..., m); finite even if N* is not."""
    _, A, B, alpha, beta = (theta[..., i, None] for i in range(5))
    return np.asarray(np.exp(np.log(A) - alpha * log_params) + np.exp(np.log(B) - beta * log_tokens))


def frontier_exponents(theta: np.ndarray, cost: Cost) -> dict[str, np.ndarray]:
    """Exponents in C of N*, D*, D*/N* and of L* - E, for theta (..., 5)."""
    alpha, beta = theta[..., 3], theta[..., 4]
    total = alpha + cost.q * beta
    return {
        "params": beta / total,
        "tokens": alpha / total,
        "tokens_per_param": (alpha - beta) / total,
        "reducible_loss": -alpha * beta / total,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Frontier loss against compute, L*(C) = E + K C^-c, with its resamples; E is 0 for a pure power law."""

    E: np.ndarray
    """(1 + R,): the estimate first, then the resamples; so are log_K and c."""
    log_K: np.ndarray
    c: np.ndarray
    flops_range: tuple[float, float]
    """Smallest and largest budget with data."""

    def __len__(self) -> int:
        return len(self.E)

    @property
    def floor(self) -> float:
        """No budget reaches a loss at or below it."""
        return float(self.E[0])

    def loss(self, flops: np.ndarray) -> np.ndarray:
        """(1 + R, m) for flops (m,)."""
        return self.E[:, None] + np.exp(self.log_K[:, None] - self.c[:, None] * np.log(flops))

    def loss_each(self, flops: np.ndarray) -> np.ndarray:
        """(1 + R,) for flops (1 + R,): every resample at its own budget."""
        return np.asarray(self.E + np.exp(self.log_K - self.c * np.log(flops)))

    def first(self, size: int) -> Curve:
        """The same curve with its first `size` rows: the estimate and size - 1 resamples."""
        return replace(self, E=self.E[:size], log_K=self.log_K[:size], c=self.c[:size])

    def flops_at(self, loss: np.ndarray) -> np.ndarray:
        """Compute that reaches loss (1 + R, m); infinite if the loss lies at or below E."""
        above = loss - self.E[:, None]
        log_above = np.log(np.where(above > 0, above, 1.0))
        return np.where(above > 0, np.exp((self.log_K[:, None] - log_above) / self.c[:, None]), np.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class GridCurve:
    """Frontier loss against compute without a formula: on a grid of budgets, straight in log C between."""

    log_flops: np.ndarray
    """(m,) evenly spaced, ascending."""
    losses: np.ndarray
    """(1 + R, m): the estimate first."""
    flops_range: tuple[float, float]
    """Smallest and largest budget with data."""

    def __len__(self) -> int:
        return len(self.losses)

    @property
    def floor(self) -> float:
        """The lowest loss of the estimate."""
        return float(self.losses[0].min())

    def loss(self, flops: np.ndarray) -> np.ndarray:
        """(1 + R, m) for flops (m,); beyond the grid, the loss at its end."""
        piece, part = self._places(flops)
        return self.losses[:, piece] * (1 - part) + self.losses[:, piece + 1] * part

    def loss_each(self, flops: np.ndarray) -> np.ndarray:
        """(1 + R,) for flops (1 + R,): every resample at its own budget."""
        piece, part = self._places(flops)
        rows = np.arange(len(self))
        return np.asarray(self.losses[rows, piece] * (1 - part) + self.losses[rows, piece + 1] * part)

    def first(self, size: int) -> GridCurve:
        """The same curve with its first `size` rows: the estimate and size - 1 resamples."""
        return replace(self, losses=self.losses[:size])

    def flops_at(self, loss: np.ndarray) -> np.ndarray:
        """Compute that reaches loss (1 + R, m), seen from the smallest budget with data: up from there the
        first that does, down from there the last that still does. Infinite if the grid does not."""
        start = int(np.searchsorted(self.log_flops, np.log(self.flops_range[0])))
        below = np.maximum.accumulate(self.losses[:, start::-1], axis=1)[:, ::-1]
        above = np.minimum.accumulate(self.losses[:, start:], axis=1)
        lowest = np.concatenate([below, above[:, 1:]], axis=1)
        loss = np.broadcast_to(loss, (len(self), np.shape(loss)[-1]))
        rows = [np.interp(-at, -own, self.log_flops, right=np.inf)
                for at, own in zip(loss, lowest, strict=True)]  # fmt: skip
        return np.exp(rows)

    def _places(self, flops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        at = (np.log(flops) - self.log_flops[0]) / (self.log_flops[1] - self.log_flops[0])
        at = np.clip(at, 0.0, len(self.log_flops) - 1.0)
        piece = np.minimum(at.astype(int), len(self.log_flops) - 2)
        return piece, at - piece


def surface_curve(thetas: np.ndarray, cost: Cost, flops_range: tuple[float, float]) -> Curve:
    """The frontier of a surface law: thetas (1 + R, 5), the estimate first."""
    c = -frontier_exponents(thetas, cost)["reducible_loss"]
    log_reference = np.mean(np.log(flops_range))
    logs = optimal_logs(thetas, np.exp([log_reference]), cost)
    log_above = np.log(optimal_loss(thetas, *logs)[:, 0])
    return Curve(E=thetas[:, 0], log_K=log_above + c * log_reference, c=c, flops_range=flops_range)


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimum:
    """The compute-optimal run at one budget, each number with its interval."""

    flops: float
    """An Estimate, with an interval, if the run was asked for by its loss."""
    params: Estimate
    tokens: Estimate
    loss: Estimate
    tokens_per_param: Estimate
    note: str = ""
    """Why a number has no interval, although the law has resamples."""

    def __str__(self) -> str:
        ends = getattr(self.flops, "low", None), getattr(self.flops, "high", None)
        return (
            f"at {interval_text(self.flops, *ends, flops_text)} FLOPs: params {self.params}, "
            f"tokens {self.tokens}, tokens per parameter {self.tokens_per_param}, loss {self.loss}"
            + (f" ({self.note})" if self.note else "")
        )


def complete_run(cost: Cost, params: object, tokens: object, flops: object) -> dict[str, object]:
    """params and tokens from two of the three, and flops if it was one of them; UserError unless two."""
    three = {"params": params, "tokens": tokens, "flops": flops}
    two = {name: value for name, value in three.items() if value is not None}
    if len(two) != 2:
        has = {0: "none", 1: f"{', '.join(two)} alone"}.get(len(two), "all three")
        raise UserError(f"predict: give two of params, tokens and flops (FLOPs = {cost}), not {has}")
    if flops is None:
        return two
    arrays = same_shape("predict", **two)
    if params is None:
        arrays["params"] = (arrays["flops"] / cost.k / arrays["tokens"]) ** (1 / cost.q)
    else:
        arrays["tokens"] = cost.tokens(arrays["params"], arrays["flops"])
    return {name: arrays[name] for name in three}


def as_flops(flops: object) -> np.ndarray:
    """Budgets as a flat float array; UserError unless all are positive and finite."""
    values = np.atleast_1d(_numbers(flops)).ravel()
    if not values.size or not np.all(np.isfinite(values) & (values > 0)):
        raise UserError(f"flops = {flops!r}: a budget is a positive number of FLOPs")
    return values


def positive_numbers(what: str, **values: object) -> list[np.ndarray]:
    """Numbers or arrays as float64 arrays; UserError unless all are finite numbers above 0."""
    arrays = [_numbers(value) for value in values.values()]
    if not all(np.all(np.isfinite(array) & (array > 0)) for array in arrays):
        raise UserError(f"{what}: {' and '.join(values)} must be finite numbers above 0")
    return arrays


def same_shape(what: str, **values: object) -> dict[str, np.ndarray]:
    """`positive_numbers` of one shape, by name; UserError for arrays of different lengths."""
    arrays = positive_numbers(what, **values)
    try:
        return dict(zip(values, np.broadcast_arrays(*arrays), strict=True))
    except ValueError:
        sizes = " and ".join(f"{len(np.ravel(a))} {name}" for name, a in zip(values, arrays, strict=True))
        raise UserError(f"{what}: give arrays of one length, or single numbers, not {sizes}") from None


def _numbers(value: object) -> np.ndarray:
    """float64; not a number for text, which numpy would convert without a word."""
    try:
        array = np.asarray(value)
        text = array.dtype.kind in "USb" or any(isinstance(item, str) for item in array.ravel()[:1].tolist())
        return np.asarray(np.nan) if text else array.astype(np.float64)
    except (TypeError, ValueError):
        return np.asarray(np.nan)


def number_column(values: Sequence[float | None]) -> pd.Series:
    """A table column: float64, or nullable Float64 if a number is missing (missing is never NaN)."""
    if any(value is None for value in values):
        return pd.Series([pd.NA if value is None else float(value) for value in values], dtype="Float64")
    return pd.Series(values, dtype="float64")
