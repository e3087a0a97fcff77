"""The law of a whole sampler, by pushing a distribution over all states of a short text through its steps."""

from __future__ import annotations

import torch
from torch import Tensor


def mixture(weights: Tensor, probs: Tensor, present: Tensor, noise: Tensor) -> Tensor:
    """(n, V): the law of weights (n, 3) of the present ids (n,), of x_theta (n, V) and of noise (V,)."""
    shares = weights / weights.sum(-1, keepdim=True)
    stay = torch.nn.functional.one_hot(present, probs.shape[-1]).to(probs.dtype)
    return shares[:, :1] * stay + shares[:, 1:2] * probs + shares[:, 2:] * noise
