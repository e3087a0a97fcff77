"""Autoregressive sampling: one token a call, from left to right.

B batch, L length.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from scaling.errors import UserError
from scaling.families.ar import Autoregressive
from scaling.models import Cache, Transformer
from scaling.sampling.loop import Draft
from scaling.sampling.noise import Purpose, choose


def left_to_right(draft: Draft, *, cache: bool = True) -> Iterator[None]:
    """Each token given those before it. A beginning may be given, and is read in one call; no other places.

    cache: keep keys and values of what was read, if the model is a Transformer; the texts are the same.
    UserError if `steps` is not the length.
    """
    family, reader, length = draft.family, draft.reader, draft.ids.shape[1]
    assert isinstance(family, Autoregressive), "a sampler of this family"
    if draft.steps != length:
        raise UserError(
            f"family {family.name!r} samples one token a step: steps is {draft.steps}, it must be {length}"
        )
    check_beginning(draft)
    first = length if not bool(draft.free.any()) else int(draft.free.any(dim=0).nonzero()[0])
    kept = Cache(length) if cache and isinstance(reader.model, Transformer) else None
    yield
    for place in range(first, length):
        inputs = family.inputs(draft.ids[:, :place])
        where = torch.zeros_like(inputs, dtype=torch.bool)
        where[:, -1] = True
        if kept is None:
            probs = reader(inputs, where=where)
        elif place == first:
            until = torch.arange(inputs.shape[1], device=inputs.device)
            probs = reader(inputs, where=where, cache=kept, until=until)
        else:
            probs = reader(inputs[:, -1:], cache=kept, slots=inputs.shape[1] - 1)
        here = draft.free & (torch.arange(length, device=inputs.device) == place)
        rows = here[:, place]
        draft.ids[rows, place] = choose(probs[rows], draft.noise.at(0, Purpose.CLEAN, here))
        yield


def check_beginning(draft: Draft, block_size: int = 1) -> None:
    """UserError if a place is given behind a free one of an earlier block: it would not be seen there."""
    blocks = draft.free.unflatten(1, (-1, block_size))
    free, fixed = blocks.any(dim=2), ~blocks.all(dim=2)
    if bool((free.long().cummax(dim=1).values.bool()[:, :-1] & fixed[:, 1:]).any()):
        which = "a beginning" if block_size == 1 else f"a beginning, and places of the {block_size} after it"
        raise UserError(
            f"family {draft.family.name!r} writes from left to right: a prompt may give {which} only"
        )
