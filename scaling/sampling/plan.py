"""In which call each masked place is decoded, for samplers in which that does not depend on the network.

A place is masked at time t if its uniform number lies below the noise share at t, as in training; so one
number per place says in which step of a grid it is decoded. Texts need not wait for each other: call k
decodes the k-th group of every text, whatever step that is, and steps that decode nothing cost nothing.

B batch, L length.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEVER = -1
"""The group of a place that is not decoded."""


def groups_by_time(uniforms: Tensor, free: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """The group (B, L) of each place and its step (B, L), both NEVER at places that are not free or still
    masked at the last time.

    shares: (T + 1,) noise shares at the times, falling. Groups of a row are numbered from 0 without gaps.
    """
    step = len(shares) - 1 - torch.searchsorted(shares.flip(0), uniforms.contiguous(), right=True)
    step = step.clamp(min=0).where(free & (uniforms >= shares[-1]), NEVER)
    return without_gaps(step, len(shares)), step


def without_gaps(step: Tensor, steps: int) -> Tensor:
    """Steps (B, L) below `steps`, or NEVER, with those of each row numbered from 0 without gaps."""
    present = torch.zeros(len(step), steps + 1, dtype=torch.long, device=step.device)
    present.scatter_(1, step + 1, 1)  # column 0: NEVER
    present[:, 0] = 0
    return (present.cumsum(1) - 1).gather(1, step + 1).where(step >= 0, NEVER)


def groups_of(uniforms: Tensor, free: Tensor, size: int | Tensor) -> Tensor:
    """The group (B, L) of each place if every call decodes `size` of the free ones, one number or one a row
    (B, 1), in the order of falling uniforms; NEVER elsewhere."""
    rank = uniforms.where(free, -1.0).argsort(dim=1, descending=True).argsort(dim=1)
    return torch.where(free, rank // size, NEVER)
