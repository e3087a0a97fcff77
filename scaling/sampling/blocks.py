"""Block diffusion: blocks from left to right, masked diffusion inside each.

B batch, L length.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from scaling.errors import UserError
from scaling.families.block import Block
from scaling.models import FULL, Cache, Transformer
from scaling.sampling.left_to_right import check_beginning
from scaling.sampling.loop import Draft
from scaling.sampling.noise import Purpose, choose
from scaling.sampling.plan import groups_by_time, groups_of


def semi_autoregressive(draft: Draft, *, first_hitting: bool = False, cache: bool = True) -> Iterator[None]:
    """Block by block, each from all masks in `steps` even steps of time.

    first_hitting: decode one place of a block a call (arXiv 2409.02908), so `steps` must be the block size.
    cache: read each finished block once, with the masks of the next one, if the model is a Transformer; the
    texts are the same. A prompt gives a beginning, and places of the block after it.
    """
    family = draft.family
    assert isinstance(family, Block), "a sampler of this family"
    size, length = family.block_size, draft.ids.shape[1]
    family.check_context(length)
    check_beginning(draft, size)
    if first_hitting and draft.steps != size:
        raise UserError(
            f"family {family.name!r} with first_hitting reveals a token a step: steps is {draft.steps}, "
            f"it must be block_size {size}"
        )
    draft.ids[draft.free] = family.mask_id
    yield
    uniforms = draft.noise.everywhere(0, Purpose.ORDER, length)
    shares = family.noise_share(draft.times)
    reading = _Reading(
        draft, family, Cache(length) if cache and isinstance(draft.reader.model, Transformer) else None
    )
    for start in range(0, length, size):
        block = slice(start, start + size)
        if first_hitting:
            group = groups_of(uniforms[:, block], draft.free[:, block], 1)
        else:
            group = groups_by_time(uniforms[:, block], draft.free[:, block], shares)[0]
        for number in range(int(group.max()) + 1):
            here = torch.zeros_like(draft.free)
            here[:, block] = group == number
            probs = reading(start, here[:, block])
            draft.ids[here] = choose(probs, draft.noise.at(0, Purpose.CLEAN, here))
            yield


class _Reading:
    """x_theta of a block behind finished ones."""

    def __init__(self, draft: Draft, family: Block, cache: Cache | None) -> None:
        self.draft, self.family, self.cache = draft, family, cache
        self.read = 0
        """Places that were read as finished."""

    def __call__(self, start: int, where: Tensor) -> Tensor:
        """(n, V) at the wanted places (B, block size) of the block at `start`."""
        draft, size = self.draft, where.shape[1]
        if self.cache is None:
            ids = draft.ids[:, : start + size]
            if not start:
                return draft.reader(ids, where=where)
            where = torch.cat([torch.zeros_like(ids[:, :start], dtype=torch.bool), where], dim=1)
            return draft.reader(torch.cat([ids, ids], dim=1), where=where, layout=self.family.layout)
        ids = draft.ids[:, self.read : start + size]
        places = torch.arange(self.read, start + size, device=ids.device)
        targets = torch.zeros_like(ids, dtype=torch.bool)
        targets[:, start - self.read :] = where
        until = None if self.read == start else (places // size + 1) * size - 1
        probs = draft.reader(ids, where=targets, layout=FULL, cache=self.cache, slots=self.read, until=until)
        self.read = start
        return probs
