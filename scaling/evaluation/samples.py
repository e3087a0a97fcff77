"""Texts that a trained network makes, for people to read. Nothing is measured on them."""

from __future__ import annotations

import torch
from torch import Tensor

from scaling.families.base import Denoiser, Family

SAMPLED_TOKENS = 128


@torch.no_grad()
def sample_ids(
    model: Denoiser, family: Family, count: int, length: int, generator: torch.Generator
) -> Tensor:
    """(count, L) ids, L being `length` or SAMPLED_TOKENS if that is less.

    UserError if the family cannot sample with its options, or not that length.
    """
    length = min(length, SAMPLED_TOKENS)
    return family.sample(model, (count, length), family.sampling_steps(length), generator)
