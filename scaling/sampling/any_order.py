"""Eso-LM's samplers: tokens in any order, each read once as clean.

A plan says in which order and in which call each place is decoded: by diffusion and then from left to right,
or by offsets within neighbouring parts of the text. Whatever the plan, a call reads the tokens that the one
before it decoded, now clean, and the masks of its own, under attention that is causal in the order of
decoding: each token passes the network about twice.

B batch, L length, C calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from scaling.errors import UserError
from scaling.families.esoteric import Esoteric
from scaling.models import Cache, Transformer
from scaling.sampling.loop import Draft
from scaling.sampling.noise import Purpose, choose
from scaling.sampling.plan import NEVER, groups_by_time, without_gaps


def any_order(draft: Draft, *, cache: bool = True) -> Iterator[None]:
    """Diffusion in `steps` even steps of time, then one token a call. A prompt may give any places.

    Every text has its own random order and its own number of tokens per call; texts do not wait for each
    other. cache: a call reads the tokens decoded by the one before and the masks of its own, if the model is
    a Transformer; the texts are the same.
    """
    family = draft.family
    assert isinstance(family, Esoteric), "a sampler of this family"
    uniforms = draft.noise.everywhere(0, Purpose.ORDER, draft.ids.shape[1])
    shares = family.noise_share(draft.times)
    group = (
        groups_by_time(uniforms, draft.free, shares)[0]
        if family.alpha_0 > 0
        else torch.full_like(draft.ids, NEVER)
    )
    group, keys = one_by_one(group, draft.free, uniforms)
    yield from decode_in_order(draft, keys.argsort(dim=1, stable=True), group, cache)


def block(draft: Draft, *, sub_context: int | None = None, cache: bool = True) -> Iterator[None]:
    """A call decodes all places that have the same offset in sub-contexts of `sub_context` tokens, offsets in
    an order of each text's own: tokens decoded together lie that far apart.

    So `steps` is `sub_context`; either may be left out. A prompt may give any places. cache: see `any_order`.
    """
    family, length = draft.family, draft.ids.shape[1]
    assert isinstance(family, Esoteric), "a sampler of this family"
    size = draft.steps if sub_context is None else sub_context
    if size != draft.steps or not 1 <= size <= length:
        raise UserError(
            f"family {family.name!r}: sampler 'block' decodes one offset of every sub-context a step: "
            f"steps is {draft.steps} and sub_context {size}, they must be the same, at most {length}"
        )
    yield from _by_rank(draft, block_rank(draft.noise.everywhere(0, Purpose.ORDER, size), length), cache)


def block_autoregressive(
    draft: Draft, *, sub_context: int = 8, together: int = 4, cache: bool = True
) -> Iterator[None]:
    """Spans of `together` sub-contexts of `sub_context` tokens from left to right; in each span the first
    token of every sub-context alone, one after the other, then the second of all in one call, and so on.

    `steps` must be the number of calls that gives; `sampling_steps` of the text's length is taken for not
    stated. A prompt may give any places. cache: see `any_order`.
    """
    family, length = draft.family, draft.ids.shape[1]
    assert isinstance(family, Esoteric), "a sampler of this family"
    for name, value in (("sub_context", sub_context), ("together", together)):
        family.require(value >= 1, f"{name} is {value}, it must be at least 1")
    rank = block_autoregressive_rank(length, sub_context, together).to(draft.ids.device)
    calls = int(rank.max()) + 1
    if draft.steps not in (calls, family.sampling_steps(length)):
        raise UserError(
            f"family {family.name!r}: sampler 'block_autoregressive' with sub_context {sub_context} and "
            f"together {together} takes {calls} calls for {length} tokens: steps is {draft.steps}, it must "
            "be that"
        )
    yield from _by_rank(draft, rank.expand_as(draft.ids), cache)


# -- plans -------------------------------------------------------------------------------------------


def one_by_one(group: Tensor, free: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """The group (B, L) of each place, and keys (B, L) whose order is that of decoding: those with a group
    already in the order of falling uniforms, then the other free ones from left to right, one a call.

    What is given has group NEVER and comes before all.
    """
    diffused = group != NEVER
    rest = free & ~diffused
    group = torch.where(rest, group.amax(dim=1, keepdim=True).clamp(min=NEVER) + rest.cumsum(dim=1), group)
    return group, torch.where(diffused, group + (1 - uniforms), group.double())


def block_rank(uniforms: Tensor, length: int) -> Tensor:
    """(B, L) the call that decodes each place: that of its offset, the one with the lowest number (B, S) of
    the S offsets first."""
    rank = uniforms.argsort(dim=1).argsort(dim=1)
    return rank[:, torch.arange(length, device=rank.device) % rank.shape[1]]


def block_autoregressive_rank(length: int, sub_context: int, together: int) -> Tensor:
    """(L,) the call that decodes each place, from 0 without gaps."""
    places = torch.arange(length)
    offset, part = places % sub_context, places // sub_context
    number, span = part % together, part // together
    calls = together + sub_context - 1  # of a whole span
    rank = span * calls + torch.where(offset == 0, number, together + offset - 1)
    return rank.unique(return_inverse=True)[1]  # the last span may be cut short


def _by_rank(draft: Draft, rank: Tensor, cache: bool) -> Iterator[None]:
    """Decode free places in the order of their rank (B, L), equal ones in one call, from left to right."""
    group = without_gaps(rank.where(draft.free, NEVER), rank.shape[1])
    yield from decode_in_order(draft, group.argsort(dim=1, stable=True), group, cache)


# -- decoding ----------------------------------------------------------------------------------------


def decode_in_order(draft: Draft, order: Tensor, group: Tensor, cache: bool) -> Iterator[None]:
    """Fill the places of group 0 in one call, then of group 1, ...

    order: (B, L) places by the index at which they are decoded, given ones first. group: (B, L) by place, not
    falling along the order; in each row without gaps, NEVER where given.
    """
    family, reader, (count, length) = draft.family, draft.reader, draft.ids.shape
    device = draft.ids.device
    assert family.mask_id is not None, "an absorbing family"
    draft.ids[draft.free] = family.mask_id
    yield
    calls = int(group.max()) + 1
    # row k of `decoded` (C + 1, B): how many tokens are decoded, or given, before call k
    sizes = torch.zeros(count, calls + 2, dtype=torch.long, device=device)
    sizes.scatter_add_(1, group + 1, torch.ones_like(group))
    decoded = sizes.cumsum(1)[:, :-1].T.contiguous()
    kept = Cache(length) if cache and isinstance(reader.model, Transformer) else None
    first = torch.zeros_like(decoded) if kept is None else torch.cat([decoded[:1] * 0, decoded[:-1]])
    ends = decoded[1:]
    active = ends > decoded[:-1]
    widths = (ends - first[:-1]).where(active, 0).amax(1).tolist()
    farthest = ends.where(active, 1).amax(1).tolist()
    ids = draft.ids.gather(1, order)
    uniforms = draft.noise.everywhere(0, Purpose.CLEAN, length).gather(1, order)
    numbers = torch.arange(length, device=device)
    for call in range(calls):
        end = ends[call, :, None].where(active[call, :, None], 0)
        index = first[call, :, None] + numbers[: widths[call]]
        present = index < end
        inside = index.clamp(max=length - 1)
        view: dict[str, Any] = {"positions": order.gather(1, inside)}
        if kept is not None:
            slots, until = index.where(present, length), index.where(present, 0)
            view |= {"cache": kept, "slots": slots, "until": until, "end": farthest[call]}
        rows, columns = (present & (index >= decoded[call, :, None])).nonzero(as_tuple=True)
        probs = reader(ids.gather(1, inside), where=(rows, columns), **view)
        at = index[rows, columns]
        ids[rows, at] = new = choose(probs, uniforms[rows, at])
        draft.ids[rows, order[rows, at]] = new
        yield
