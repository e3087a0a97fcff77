"""Block diffusion: blocks from left to right, masked diffusion inside each.

A text may be of any length, longer than the texts of training too: the last block is drawn whole and cut.

B batch, L length, N blocks of a text, V vocabulary, w tokens of a window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from scaling.errors import UserError
from scaling.families.block import Block
from scaling.models import FULL, Cache, Transformer
from scaling.sampling.confidence import above, confidence_of
from scaling.sampling.left_to_right import check_beginning, check_end
from scaling.sampling.loop import Draft
from scaling.sampling.noise import Purpose, choose
from scaling.sampling.plan import groups_by_time, groups_of
from scaling.sampling.reader import Reader

WINDOW = 256
"""Tokens whose entropy tells that a text has come to repeat itself, as published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """When a text ends before its length; the network reads it no more from then on.

    end: an id that ends a text where it stands for the `ends`-th time, given places included (published: 2,
    for its texts begin with it). least_entropy: a text also ends where the last `window` ids have less, in
    nats, and loses these (published: 4).
    """

    end: int | None = None
    ends: int = 1
    least_entropy: float | None = None
    window: int = WINDOW


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

    end, ends, least_entropy, window: see `Ending`. `Draft.lengths` says where a text ends; what lies behind
    is no part of it. UserError for values out of range.
    """
    family, size = _block_of(draft)
    if first_hitting and draft.steps > size:
        raise UserError(
            f"family {family.name!r} with first_hitting decodes at least a token a step: steps is "
            f"{draft.steps}, it must be at most block_size {size}"
        )
    ending = Ending(end=end, ends=ends, least_entropy=least_entropy, window=window)
    page = _Page(draft, family, cache, ending)
    yield
    group, calls = _plan(draft, family, page.free, first_hitting)
    uniforms = draft.noise.everywhere(0, Purpose.CLEAN, page.ids.shape[1])
    for number, start in enumerate(page.starts):
        texts = page.texts
        own = group[texts, start : start + size]
        for call in range(int(calls[texts, number].amax())):
            rows, columns = (own == call).nonzero(as_tuple=True)
            probs = page.read(start, rows, columns)
            places = texts[rows], start + columns
            page.ids[places] = choose(probs, uniforms[places])
            yield
        if page.ends_after(start + size):
            return


def by_threshold(
    draft: Draft,
    *,
    threshold: float = 0.9,
    cache: bool = True,
    end: int | None = None,
    ends: int = 1,
    least_entropy: float | None = None,
    window: int = WINDOW,
) -> Iterator[None]:
    """Block by block; a call decodes all places of the block whose likeliest id has at least that
    probability before filters, and always the surest (Fast-dLLM, arXiv 2505.22618): the network decides how
    many calls that takes, `steps` does not matter.

    Likeliest ids in an order that depends on them: not the model's law, see `scaling.sampling.confidence`.
    The cache is exact here, for finished blocks see nothing of later ones. Other options as of
    `semi_autoregressive`.
    """
    family, size = _block_of(draft)
    page = _Page(draft, family, cache, Ending(end=end, ends=ends, least_entropy=least_entropy, window=window))
    yield
    for start in page.starts:
        texts = page.texts
        masked = page.free[texts, start : start + size]
        while bool(masked.any()):
            rows, columns = masked.nonzero(as_tuple=True)
            plain = page.read(start, rows, columns, filtered=False)
            ids = draft.reader.filters(plain).argmax(-1)
            surety = torch.full(masked.shape, -torch.inf, dtype=plain.dtype, device=plain.device)
            surety[rows, columns] = confidence_of(plain, ids, "probability")
            here = above(surety, threshold)
            chosen, place = here.nonzero(as_tuple=True)
            page.ids[texts[chosen], start + place] = ids[here[rows, columns]]
            masked &= ~here
            yield
        if page.ends_after(start + size):
            return


def _block_of(draft: Draft) -> tuple[Block, int]:
    assert isinstance(draft.family, Block), "a sampler of this family"
    return draft.family, draft.family.block_size


class _Page:
    """The texts as whole blocks, what is read of them, and which have not ended."""

    def __init__(self, draft: Draft, family: Block, cache: bool, ending: Ending) -> None:
        size, self.length = family.block_size, draft.ids.shape[1]
        check_beginning(draft, size)
        check_end(family, ending.end)
        for name in ("ends", "window"):
            value = getattr(ending, name)
            family.require(value >= 1, f"{name} is {value}, it must be at least 1")
        pad = -self.length % size
        self.ids, self.free = F.pad(draft.ids, (0, pad)), F.pad(draft.free, (0, pad), value=True)
        self.ids[self.free] = family.mask_id
        draft.ids = self.ids[:, : self.length]
        self.draft, self.ending, self.mask_id = draft, ending, family.mask_id
        self.read = Reading(draft.reader, self.ids, family, cache)
        self.starts = range(0, self.length, size)

    @property
    def texts(self) -> Tensor:
        """Numbers of the texts that have not ended."""
        return self.read.texts

    def ends_after(self, place: int) -> bool:
        """Whether all texts have ended, now that the places before this one are decoded."""
        ending = self.ending
        if ending.end is None and ending.least_entropy is None:
            return False
        texts = self.texts
        stop, kept, _ = text_ends(self.ids[texts, : min(place, self.length)], ending)
        if not bool(stop.any()):
            return False
        over = texts[stop]
        self.draft.lengths[over] = kept[stop]
        ids = self.ids[over]
        self.ids[over] = ids.masked_fill(ids == self.mask_id, 0 if ending.end is None else ending.end)
        self.read.keep(~stop)
        return not len(self.texts)


def text_ends(ids: Tensor, ending: Ending) -> tuple[Tensor, Tensor, Tensor]:
    """Which of the texts ids (B, L) end here, how many of their tokens they keep, and the entropy of their
    last `ending.window` ids in nats; each (B,).

    A text of at most `window` tokens does not end by its entropy. Where both hold the entropy counts.
    """
    length = ids.shape[1]
    entropy = entropy_of(ids[:, -ending.window :])
    stop = torch.zeros_like(entropy, dtype=torch.bool)
    kept = torch.full_like(stop, length, dtype=torch.long)
    if ending.end is not None:
        count = (ids == ending.end).cumsum(dim=1)
        stop = count[:, -1] >= ending.ends
        kept = torch.where(stop, (count < ending.ends).sum(dim=1) + 1, kept)
    if ending.least_entropy is not None and length > ending.window:
        low = entropy < ending.least_entropy
        stop, kept = stop | low, kept.masked_fill(low, length - ending.window)
    return stop, kept, entropy


def entropy_of(ids: Tensor) -> Tensor:
    """(B,) nats: the entropy of the frequencies of the ids (B, w) of each row, float64."""
    same = (ids[:, :, None] == ids[:, None, :]).sum(dim=2)
    return -(same.double() / ids.shape[1]).log().mean(dim=1)


def _plan(draft: Draft, family: Block, free: Tensor, first_hitting: bool) -> tuple[Tensor, Tensor]:
    """The call of its block (B, L) in which each place is decoded, and the calls of each block (B, N)."""
    size = family.block_size
    of_blocks = draft.noise.everywhere(0, Purpose.ORDER, free.shape[1]).view(-1, size)
    places = free.view(-1, size)
    if first_hitting:
        count = (places.sum(dim=1, keepdim=True) / draft.steps).ceil().long().clamp(min=1)
        group = groups_of(of_blocks, places, count)
    else:
        group = groups_by_time(of_blocks, places, family.noise_share(draft.times))[0]
    calls = group.view(len(free), -1, size).amax(dim=2) + 1
    return group.view(free.shape), calls


class Reading:
    """x_theta of a block behind finished ones."""

    def __init__(self, reader: Reader, ids: Tensor, family: Block, cache: bool) -> None:
        self.reader, self.ids, self.family = reader, ids, family
        self.transformer = isinstance(reader.model, Transformer)
        self.cache = Cache(ids.shape[1]) if cache and self.transformer else None
        self.read = 0
        """Places that were read as finished."""
        self.texts = torch.arange(len(ids), device=ids.device)
        """Which of the texts are read."""

    def keep(self, texts: Tensor) -> None:
        """From now on read only these of the texts that are read, (B,) bool."""
        self.texts = self.texts[texts]
        if self.cache is not None:
            self.cache.keep(texts)

    def __call__(self, start: int, rows: Tensor, columns: Tensor, *, filtered: bool = True) -> Tensor:
        """(n, V) at the wanted places, rows of the texts that are read and columns (n,) of the block at
        `start`."""
        size = self.family.block_size
        read = self.reader if filtered else self.reader.unfiltered
        if self.cache is None and not self.transformer:
            ids = self.ids[self.texts, : start + size]
            if not start:
                return read(ids, where=(rows, columns))
            both = torch.cat([ids, ids], dim=1)
            return read(both, where=(rows, start + columns), layout=self.family.layout)
        kept = Cache(start + size) if self.cache is None else self.cache
        first = 0 if self.cache is None else self.read
        until = None
        if first < start:
            places = torch.arange(first, start + size, device=self.ids.device)
            until = (places // size + 1) * size - 1
        where = (rows, start - first + columns)
        ids = self.ids[self.texts, first : start + size]
        probs = read(ids, where=where, layout=FULL, cache=kept, slots=first, until=until)
        self.read = start
        return probs
