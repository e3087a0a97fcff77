"""Attention layouts: the keys that each query of the shared transformer may see, by family.

A layout answers three questions about an input of n tokens: which key each query may see, which rotary
position each token has, and for how many leading tokens an output is wanted. Rows are queries.

B batch, H heads, K head dimension.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

GROUP = 64
"""Queries of a doubled input that are attended in one call on a CPU: smaller groups skip more pairs that the
mask forbids, larger ones make fewer calls."""

FLEX_HEAD_DIM = 16
"""The smallest head that FlexAttention's kernels take."""


class Layout(Protocol):
    """How the tokens of one input see each other."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(B, H, q, K) of queries q and keys k >= q; the k - q further keys come first (a cache)."""

    def positions(self, count: int) -> int:
        """How many positions `count` tokens stand at, from 0."""

    def outputs(self, count: int) -> int:
        """How many leading tokens of `count` an output is wanted of; the others only lend keys and values."""


@dataclass(frozen=True, slots=True)
class Full:
    """Everyone sees everyone."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value)

    def positions(self, count: int) -> int:
        return count

    def outputs(self, count: int) -> int:
        return count


@dataclass(frozen=True, slots=True)
class Causal(Full):
    """Everyone sees itself and all before it, cached keys included."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        count, cached = query.shape[2], key.shape[2] - query.shape[2]
        if not cached:
            return F.scaled_dot_product_attention(query, key, value, is_causal=True)
        mask = torch.ones(count, key.shape[2], dtype=torch.bool, device=query.device).tril(cached)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


@dataclass(frozen=True, slots=True)
class Doubled:
    """A noisy copy of L tokens, then a clean copy of the same: block diffusion's training layout.

    With blocks of `block_size` tokens a noisy token sees the noisy tokens of its own block and the clean
    tokens of earlier blocks; a clean token sees the clean tokens of its own and earlier blocks. Both copies
    stand at positions 0 to L - 1, and only the noisy copy's outputs are wanted (BD3-LM, arXiv 2503.09573,
    section 4.1 and appendix B.6).
    """

    block_size: int

    def mask(self, length: int) -> Tensor:
        """(2L, 2L) True if the query may attend to the key."""
        place = torch.arange(2 * length)
        return self.allowed(place[:, None], place[None, :], length)

    def allowed(self, query: Tensor, key: Tensor, length: int) -> Tensor:
        """Whether token `query` of the 2L may see token `key`."""
        clean_q, clean_k = query >= length, key >= length
        block_q, block_k = ((x - length * (x >= length)) // self.block_size for x in (query, key))
        own = (block_q == block_k) & (clean_q == clean_k)
        earlier = (block_q > block_k) & clean_k
        return own | earlier

    def positions(self, count: int) -> int:
        return count // 2

    def outputs(self, count: int) -> int:
        return count // 2

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Queries are all 2L tokens, or the L noisy ones if no later block reads the clean ones."""
        if query.device.type == "cuda" and query.shape[-1] >= FLEX_HEAD_DIM:
            return self.attend_flex(query, key, value)
        length = key.shape[2] // 2
        both = query.shape[2] > length
        noisy, clean = [], []
        blocks = max(1, round(GROUP / self.block_size))  # whole ones, about GROUP tokens
        group = min(length, self.block_size * blocks)
        for start in range(0, length, group):
            end = min(start + group, length)
            own, visible = slice(start, end), slice(length, length + end)
            queries = query[:, :, own]
            if both:
                queries = torch.cat([queries, query[:, :, length + start : length + end]], dim=2)
            keys, values = (torch.cat([x[:, :, visible], x[:, :, own]], dim=2) for x in (key, value))
            mask = _group_mask(self, length, start, end, both, query.device)
            out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
            noisy.append(out[:, :, : end - start])
            clean.append(out[:, :, end - start :])
        return torch.cat([*noisy, *clean] if both else noisy, dim=2)

    def attend_flex(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The same by FlexAttention, which skips tiles that the mask empties; compiled on a GPU."""
        from torch.nn.attention.flex_attention import flex_attention

        run = _compiled_flex() if query.device.type == "cuda" else flex_attention
        mask = _flex_mask(self, query.shape[2], key.shape[2], str(query.device))
        return run(query, key, value, block_mask=mask)


FULL, CAUSAL = Full(), Causal()


@cache
def _group_mask(
    layout: Doubled, length: int, start: int, end: int, both: bool, device: torch.device
) -> Tensor:
    """Rows: noisy tokens start..end (and their clean copies); columns: clean 0..end, noisy start..end."""
    tokens = torch.arange(start, end)
    rows = torch.cat([tokens, tokens + length]) if both else tokens
    columns = torch.cat([torch.arange(length, length + end), tokens])
    return layout.allowed(rows[:, None], columns[None, :], length).to(device)


@cache
def _compiled_flex():  # type: ignore[no-untyped-def]
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


@cache
def _flex_mask(layout: Doubled, queries: int, keys: int, device: str):  # type: ignore[no-untyped-def]
    from torch.nn.attention.flex_attention import create_block_mask

    length = keys // 2

    def allowed(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return layout.allowed(query, key, length)

    return create_block_mask(allowed, None, None, queries, keys, device=device)


class Cache:
    """Keys and values of tokens that were read already, in numbered slots, one buffer per block of the
    network.

    A pass writes its tokens into their slots, over what was there, and each of its queries sees the slots up
    to its `until`. So a token that was read as a mask is replaced by reading its clean id into the same slot,
    and texts of a batch may be at different places. Exact wherever later tokens do not change what earlier
    ones computed: causal layouts, and whole blocks of block diffusion. A cache may serve another batch of
    texts as it is: no pass sees a slot that was not written since, if the first one begins at slot 0.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        """Slots from 0; one more, of this number, takes tokens that nobody will see."""
        self._kept: dict[int, Tensor] = {}
        """(B, capacity + 1, 2, H, K) of each block: keys and values."""

    def keep(self, texts: Tensor) -> None:
        """Forget all other texts than these, (B,) bool; rows 0 to B - 1, and those of every further B."""
        for block, kept in self._kept.items():
            self._kept[block] = kept[texts.repeat(len(kept) // len(texts))]

    def reading(self, x: Tensor, slots: int | Tensor, until: Tensor | None, end: int | None) -> Reading:
        """A pass that reads tokens x (B, n, D).

        slots: (B, n), or the first of n neighbouring ones, the same in all rows. until: (B, n) or (n,), the
        last slot that a query sees; None: all up to the last one written here. end: how many slots are seen
        at most, if the caller knows it: to ask `until` would make a GPU wait.
        """
        count = x.shape[1]
        if isinstance(slots, int):
            end, places = slots + count, None
        else:
            if end is None:
                end = self.capacity if until is None else int(until.max()) + 1
            rows = torch.arange(len(x), device=x.device)[:, None] * (self.capacity + 1)
            places = (rows + slots).flatten()
        mask = None
        if until is not None:
            hidden = torch.arange(end, device=x.device) > until[..., None]
            mask = torch.zeros(hidden.shape, dtype=x.dtype, device=x.device).masked_fill_(hidden, -math.inf)
            mask = mask[:, None] if mask.ndim == 3 else mask
        first = slots if isinstance(slots, int) else 0
        return Reading(
            kept=self._kept, capacity=self.capacity, first=first, places=places, end=end, mask=mask
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One pass of the network over a cache; what its blocks share is made once."""

    kept: dict[int, Tensor]
    capacity: int
    first: int
    """Of the neighbouring slots that are written, unless there are places."""
    places: Tensor | None
    """(B n,) slots that are written, those of all texts numbered one after the other."""
    end: int
    mask: Tensor | None
    """Added to the scores: (n, end) or (B, 1, n, end)."""

    def attend(self, block: int, qkv: Tensor) -> Tensor:
        """Values (B, H, n, K) mixed for n queries, of rotated queries, keys and values (B, n, 3, H, K)."""
        batch, count, _, heads, width = qkv.shape
        kept = self.kept.get(block)
        if kept is None or len(kept) != batch:
            kept = self.kept[block] = qkv.new_zeros(batch, self.capacity + 1, 2, heads, width)
        if self.places is None:
            kept[:, self.first : self.first + count] = qkv[:, :, 1:]
        else:
            flat = kept.view(-1, 2 * heads * width)
            flat.index_copy_(0, self.places, qkv[:, :, 1:].reshape(batch * count, -1))
        query, keys, values = (
            x.transpose(1, 2) for x in (qkv[:, :, 0], kept[:, : self.end, 0], kept[:, : self.end, 1])
        )
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=self.mask)
