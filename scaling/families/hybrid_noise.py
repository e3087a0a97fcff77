"""The noise of family hybrid: shares of clean, MASK and redrawn tokens at time t, and their rates.

p_u    GIDD (arXiv 2503.04482; here as released, v1.1.0): with c = B (t (1 - t))^(gamma / 2) and
       B = 2^gamma p_u / (1 - p_u), the shares of clean, MASK and redrawn tokens are (1 - t, t, c) / (1 + c).
       At t = 1/2 a share p_u of all tokens is redrawn; at t = 1 all are MASK. gamma at most 2, or noise
       would have to flow back. Earlier releases and the preprint give B and c other meanings.
noise  arXiv 2512.10858: of the noise, a share s = sigmoid(lambda + b) is redrawn tokens, where lambda =
       log(alpha / (1 - alpha)). Uniform noise comes first and mask noise later; b = -inf is mask noise
       alone, b = +inf uniform noise alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scaling.families.base import Schedule

NOISE_TYPES = {
    "masked": -math.inf,
    "low-uniform": -2.0,
    "balanced": 0.0,
    "high-uniform": 2.0,
    "uniform": math.inf,
}
"""Shift b of the log-SNR (arXiv 2512.10858; its code writes -1000 and 1000 for the two limits)."""

SMALLEST = 1e-30
"""Times, signal and noise count as at least this: every weight is finite and fits into float32."""


@dataclass(frozen=True, slots=True)
class Levels:
    """The noise process at given times; every tensor has the times' shape and is float64."""

    alpha: Tensor
    noise: Tensor
    """1 - alpha."""
    masked: Tensor
    """Share of the noise that is MASK, 1 - s."""
    uniform: Tensor
    """Share of the noise that is redrawn tokens, s."""
    mask_rate: Tensor
    """d/dt log(noise masked / alpha): the bound's weight if x_t is MASK."""
    uniform_rate: Tensor
    """d/dt log(noise uniform / alpha): the bound's weight if x_t is another token than x_0."""
    snr_rate: Tensor
    """-d/dt log(alpha / noise)."""


@dataclass(frozen=True, slots=True)
class Peaked:
    """The p_u schedule."""

    peak: float
    """B."""
    gamma: float

    @classmethod
    def of(cls, p_u: float, gamma: float) -> Peaked:
        return cls(2**gamma * p_u / (1 - p_u), gamma)

    def _bump(self, t: Tensor) -> Tensor:
        """c(t): redrawn tokens per clean or masked one."""
        both = t * (1 - t)
        return torch.where(both > 0, self.peak * both.clamp(min=SMALLEST) ** (self.gamma / 2), 0.0)

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha(t) and its derivative, which is infinite at t = 0 if gamma < 2; there: that of mask noise."""
        bump, late = self._bump(t), 1 - t
        total = 1 + bump
        late_slope = self.gamma / 2 * bump * (1 - 2 * t) / t.clamp(min=SMALLEST)  # (1 - t) c'
        return late / total, -(total + late_slope) / total**2

    def noise_share(self, t: Tensor) -> Tensor:
        """1 - alpha(t) without cancellation."""
        bump = self._bump(t)
        return (t + bump) / (1 + bump)

    def levels(self, t: Tensor) -> Levels:
        """At float64 times t."""
        gamma = self.gamma
        early, late = t.clamp(min=SMALLEST), (1 - t).clamp(min=SMALLEST)
        bump = self.peak * (early * late) ** (gamma / 2)
        bump_rate = gamma / 2 * (late - early) / (early * late)  # c' / c
        total, spread = 1 + bump, early + bump
        return Levels(
            alpha=late / total,
            noise=spread / total,
            masked=early / spread,
            uniform=bump / spread,
            mask_rate=1 / (early * late),
            uniform_rate=(gamma * (late - early) + 2 * early) / (2 * early * late),
            snr_rate=(total / late + bump * bump_rate) / spread,
        )


def shifted_levels(alpha: Tensor, slope: Tensor, noise: Tensor, shift: float) -> Levels:
    """With shift b, at given alpha, alpha' and 1 - alpha, all float64."""
    alpha, noise = alpha.clamp(min=SMALLEST), noise.clamp(min=SMALLEST)
    place = alpha.log() - noise.log() + shift  # an infinite shift makes the sigmoids 0 and 1 exactly
    uniform, snr_rate = torch.sigmoid(place), -slope / (alpha * noise)
    return Levels(
        alpha=alpha,
        noise=noise,
        masked=torch.sigmoid(-place),
        uniform=uniform,
        mask_rate=(1 + uniform) * snr_rate,
        uniform_rate=uniform * snr_rate,
        snr_rate=snr_rate,
    )


def check_noise(
    require: Callable[[bool, str], None],
    p_u: float | None,
    gamma: float | None,
    noise: str | float | None,
    schedule: Schedule,
    schedule_eps: float,
) -> None:
    """Refuse values out of range and options that do not go together, by `Family.require`."""
    for option, number in (("p_u", p_u), ("gamma", gamma)):
        require(isinstance(number, int | float | None), f"{option} is {number!r}, it must be a number")
    require(p_u is None or noise is None, f"p_u is {p_u} and noise is {noise!r}, give one of them only")
    in_range = p_u is None or 0 <= p_u < 1
    require(in_range, f"p_u is {p_u}, it must lie in [0, 1); noise 'uniform' has no masks")
    if noise is not None:
        require(gamma is None, f"gamma is {gamma}, but it belongs to p_u, and noise is {noise!r}")
        fine = noise in NOISE_TYPES or (isinstance(noise, int | float) and math.isfinite(noise))
        require(fine, f"noise is {noise!r}, it must be {', '.join(NOISE_TYPES)} or a finite number")
        return
    require(gamma is None or 0 < gamma <= 2, f"gamma is {gamma}, it must lie in (0, 2]")
    for option, value, only in (("schedule", schedule, "log_linear"), ("schedule_eps", schedule_eps, 0)):
        advice = f"leave {option} out, or give noise instead of p_u"
        require(value == only, f"{option} is {value!r}, but p_u has a schedule of its own; {advice}")
