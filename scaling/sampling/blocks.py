"""Block diffusion: blocks from left to right, masked diffusion inside each.

A text may be of any length, longer than the texts of training too: the last block is drawn whole and cut.

B batch, L length, N blocks of a text, V vocabulary, w tokens of a window.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from scaling.errors import UserError
from scaling.families.block import Block
from scaling.models import FULL, Cache, Transformer
from scaling.sampling.left_to_right import check_beginning, check_end
from scaling.sampling.loop import Draft
from scaling.sampling.noise import Purpose, choose
from scaling.sampling.plan import groups_by_time, groups_of
from scaling.sampling.reader import Reader

WINDOW = 256
"""Tokens whose entropy tells that a text has come to repeat itself, as published."""


def semi_autoregressive(
    draft: Draft,
    *,
    first_hitting: bool = False,
    cache: bool = True,
    end: int | None = None,
    ends: int = 1,
    least_entropy: float | None = None,
    window: int = WINDOW,
) -> Iterator[None]:
    """Block by block, each from all masks in `steps` even steps of time.

    first_hitting: the same number of places in each of at most `steps` calls a block, ceil(free places of the
    block / steps), in a random order (arXiv 2409.02908); with one place a call, exact for a network that
    knows every token given those before it and any of its block. cache: read each finished block once, with
    the masks of the next one, if the model is a Transformer; the texts are the same. A prompt gives a
    beginning, and places of the block after it.

    end: an id that ends a text where it stands for the `ends`-th time (published: 2, for its texts begin with
    it). least_entropy: a text also ends where the last `window` ids have less, in nats, and lose these
    (published: 4). `Draft.lengths` says where; what lies behind is no part of the text. UserError for values
    out of range.
    """
    family = draft.family
    assert isinstance(family, Block), "a sampler of this family"
    size, length = family.block_size, draft.ids.shape[1]
    check_beginning(draft, size)
    check_end(family, end)
    for name, value in (("ends", ends), ("window", window)):
        family.require(value >= 1, f"{name} is {value}, it must be at least 1")
    if first_hitting and draft.steps > size:
        raise UserError(
            f"family {family.name!r} with first_hitting decodes at least a token a step: steps is "
            f"{draft.steps}, it must be at most block_size {size}"
        )
    pad = -length % size
    ids, free = F.pad(draft.ids, (0, pad)), F.pad(draft.free, (0, pad), value=True)
    ids[free] = family.mask_id
    draft.ids = ids[:, :length]
    yield
    group, calls = _plan(draft, family, free, first_hitting)
    uniforms = draft.noise.everywhere(0, Purpose.CLEAN, length + pad)
    read = Reading(draft.reader, ids, family, cache)
    ended = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    for number, start in enumerate(range(0, length, size)):
        for call in range(calls[number]):
            rows, columns = (group[:, start : start + size] == call).nonzero(as_tuple=True)
            probs = read(start, rows, columns)
            columns = start + columns
            ids[rows, columns] = choose(probs, uniforms[rows, columns])
            yield
        if end is None and least_entropy is None:
            continue
        text = ids[:, : min(start + size, length)]
        stop, kept, _ = text_ends(text, end=end, ends=ends, least_entropy=least_entropy, window=window)
        now = stop & ~ended
        draft.lengths[now] = kept[now]
        ended |= now
        if bool(ended.all()):
            ids[ids == family.mask_id] = 0 if end is None else end
            return


def text_ends(
    ids: Tensor,
    *,
    end: int | None = None,
    ends: int = 1,
    least_entropy: float | None = None,
    window: int = WINDOW,
) -> tuple[Tensor, Tensor, Tensor]:
    """Which of the texts ids (B, L) end here, how many of their tokens they keep, and the entropy of their
    last `window` ids in nats; each (B,). Options as of `semi_autoregressive`.

    A text of at most `window` tokens does not end by its entropy. Where both hold the entropy counts.
    """
    length = ids.shape[1]
    entropy = entropy_of(ids[:, -window:])
    stop = torch.zeros_like(entropy, dtype=torch.bool)
    kept = torch.full_like(stop, length, dtype=torch.long)
    if end is not None:
        count = (ids == end).cumsum(dim=1)
        stop = count[:, -1] >= ends
        kept = torch.where(stop, (count < ends).sum(dim=1) + 1, kept)
    if least_entropy is not None and length > window:
        low = entropy < least_entropy
        stop, kept = stop | low, kept.masked_fill(low, length - window)
    return stop, kept, entropy


def entropy_of(ids: Tensor) -> Tensor:
    """(B,) nats: the entropy of the frequencies of the ids (B, w) of each row, float64."""
    same = (ids[:, :, None] == ids[:, None, :]).sum(dim=2)
    return -(same.double() / ids.shape[1]).log().mean(dim=1)


def _plan(draft: Draft, family: Block, free: Tensor, first_hitting: bool) -> tuple[Tensor, list[int]]:
    """The call of its block (B, L) in which each place is decoded, and the number of calls of each block."""
    size = family.block_size
    of_blocks = draft.noise.everywhere(0, Purpose.ORDER, free.shape[1]).view(-1, size)
    places = free.view(-1, size)
    if first_hitting:
        count = (places.sum(dim=1, keepdim=True) / draft.steps).ceil().long().clamp(min=1)
        group = groups_of(of_blocks, places, count)
    else:
        group = groups_by_time(of_blocks, places, family.noise_share(draft.times))[0]
    calls = group.view(len(free), -1, size).amax(dim=(0, 2)) + 1
    return group.view(free.shape), calls.tolist()


class Reading:
    """x_theta of a block behind finished ones."""

    def __init__(self, reader: Reader, ids: Tensor, family: Block, cache: bool) -> None:
        self.reader, self.ids, self.family = reader, ids, family
        self.transformer = isinstance(reader.model, Transformer)
        self.cache = Cache(ids.shape[1]) if cache and self.transformer else None
        self.read = 0
        """Places that were read as finished."""

    def __call__(self, start: int, rows: Tensor, columns: Tensor) -> Tensor:
        """(n, V) at the wanted places, rows and columns (n,) of the block at `start`."""
        size = self.family.block_size
        if self.cache is None and not self.transformer:
            ids = self.ids[:, : start + size]
            if not start:
                return self.reader(ids, where=(rows, columns))
            both = torch.cat([ids, ids], dim=1)
            return self.reader(both, where=(rows, start + columns), layout=self.family.layout)
        kept = Cache(start + size) if self.cache is None else self.cache
        first = 0 if self.cache is None else self.read
        until = None
        if first < start:
            places = torch.arange(first, start + size, device=self.ids.device)
            until = (places // size + 1) * size - 1
        where = (rows, start - first + columns)
        ids = self.ids[:, first : start + size]
        probs = self.reader(ids, where=where, layout=FULL, cache=kept, slots=first, until=until)
        self.read = start
        return probs
