"""Filters of the predicted clean tokens: temperature, top-k, nucleus, min-p.

They act on the network's distribution over clean ids, never on a posterior: there they would drop the small
probability of changing a token and freeze the text. Neutral filters change nothing, bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scaling.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Applied in this order; UserError for a value out of range."""

    temperature: float = 1.0
    """Probabilities to the power of 1 / temperature."""
    top_k: int | None = None
    """Only the so many likeliest ids; ties at the last of them stay."""
    top_p: float = 1.0
    """Nucleus: the fewest likeliest ids that reach this probability, the one that crosses it included."""
    drop_crossing: bool = False
    """The nucleus without the id that crosses `top_p`, as ReMDM and BD3-LM have it; the likeliest stays."""
    min_p: float = 0.0
    """Only ids at least this share as likely as the likeliest."""

    def __post_init__(self) -> None:
        for name, value, fine, right in (
            ("temperature", self.temperature, 0 < self.temperature < math.inf, "above 0"),
            ("top_k", self.top_k, self.top_k is None or self.top_k >= 1, "at least 1"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "in (0, 1]"),
            ("min_p", self.min_p, 0 <= self.min_p < 1, "in [0, 1)"),
        ):
            if not fine:
                raise UserError(f"{name} is {value}, it must be {right}")

    @property
    def neutral(self) -> bool:
        return self == Filters()

    def __call__(self, probs: Tensor) -> Tensor:
        """Probabilities (..., V), each row summing to 1, filtered and normalised anew."""
        if self.neutral:
            return probs
        if self.temperature != 1:
            probs = (probs.log() / self.temperature).softmax(-1)
        if self.top_k is not None and self.top_k < probs.shape[-1]:
            probs = probs.where(probs >= probs.topk(self.top_k, -1).values[..., -1:], 0.0)
            probs = probs / probs.sum(-1, keepdim=True)
        if self.top_p < 1:
            ordered, ids = probs.sort(dim=-1, descending=True, stable=True)
            sums = ordered.cumsum(-1)
            inside = sums <= self.top_p if self.drop_crossing else sums - ordered < self.top_p
            inside[..., 0] = True
            probs = torch.zeros_like(probs).scatter(-1, ids, ordered.where(inside, 0.0))
        if self.min_p > 0:
            probs = probs.where(probs >= self.min_p * probs.amax(-1, keepdim=True), 0.0)
        return probs / probs.sum(-1, keepdim=True)
