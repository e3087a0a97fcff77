"""Autoregressive sampling: one token a call, from left to right.

B batch, L length.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from scaling.errors import UserError
from scaling.families.ar import Autoregressive
from scaling.families.base import Family
from scaling.models import Cache, Transformer
from scaling.sampling.loop import Draft
from scaling.sampling.noise import Purpose, choose


def left_to_right(draft: Draft, *, cache: bool = True, end: int | None = None) -> Iterator[None]:
    """Each token given those before it. A beginning may be given, and is read in one call; no other places.

    cache: keep keys and values of what was read, if the model is a Transformer; the texts are the same. end:
    an id that ends a text; it is the last that counts (`Draft.lengths`), and fills the places behind it,
    which the network does not read. UserError if `steps` is not the length, or `end` is no token.
    """
    family, reader, length = draft.family, draft.reader, draft.ids.shape[1]
    assert isinstance(family, Autoregressive), "a sampler of this family"
    if draft.steps != length:
        raise UserError(
            f"family {family.name!r} samples one token a step: steps is {draft.steps}, it must be {length}"
        )
    check_end(family, end)
    check_beginning(draft)
    beginning = ~draft.free.any(dim=0)
    first = int(beginning.sum())  # columns that are given in all texts come first
    kept = Cache(length) if cache and isinstance(reader.model, Transformer) else None
    uniforms = draft.noise.everywhere(0, Purpose.CLEAN, length)
    rows = torch.arange(len(draft.ids), device=draft.ids.device)
    """Texts that have not ended."""
    behind = 0  # tokens that the network has read
    yield
    for place in range(first, length):
        if kept is None or place == first:
            inputs = family.inputs(draft.ids[rows, :place])
        else:
            inputs = draft.ids[rows, place - 1 : place]
        view: dict[str, Any] = {}
        if kept is not None:
            view = {"cache": kept, "slots": behind}
            if inputs.shape[1] > 1:
                view["until"] = torch.arange(inputs.shape[1], device=inputs.device)
            behind += inputs.shape[1]
        last = torch.arange(len(rows), device=rows.device), torch.full_like(rows, -1)
        probs = reader(inputs, where=last, **view)
        free = draft.free[rows, place]
        ids = choose(probs, uniforms[rows, place]).where(free, draft.ids[rows, place])
        draft.ids[rows, place] = ids
        if end is not None and bool((over := free & (ids == end)).any()):
            draft.lengths[rows[over]] = place + 1
            draft.ids[rows[over], place + 1 :] = end
            rows = rows[~over]
            if kept is not None:
                kept.keep(~over)
        yield
        if not len(rows):
            return


def check_end(family: Family, end: int | None) -> None:
    """UserError unless `end` is an id of a token or None."""
    if end is not None and not (0 <= end < family.vocab_size and end != family.mask_id):
        raise UserError(
            f"family {family.name!r}: end is {end}, it must be the id of a token, below {family.vocab_size}"
        )


def check_beginning(draft: Draft, block_size: int = 1) -> None:
    """UserError if a place is given behind a free one of an earlier block: it would not be seen there."""
    free = F.pad(draft.free, (0, -draft.free.shape[1] % block_size), value=True)
    blocks = free.unflatten(1, (-1, block_size))
    free, fixed = blocks.any(dim=2), ~blocks.all(dim=2)
    if bool((free.long().cummax(dim=1).values.bool()[:, :-1] & fixed[:, 1:]).any()):
        which = "a beginning" if block_size == 1 else f"a beginning, and places of the {block_size} after it"
        raise UserError(
            f"family {draft.family.name!r} writes from left to right: a prompt may give {which} only"
        )
