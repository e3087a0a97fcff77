"""Attention layouts: the keys that each query of the shared transformer may see, by family.

A layout answers three questions about an input of n tokens: which key each query may see, which rotary
position each token has, and for how many leading tokens an output is wanted. Rows are queries.

B batch, H heads, K head dimension.
"""

from __future__ import annotations

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
    ones computed: causal layouts, and whole blocks of block diffusion.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        """Slots from 0; one more, of this number, takes tokens that nobody will see."""
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def attend(
        self, block: int, query: Tensor, key: Tensor, value: Tensor, slots: int | Tensor, until: Tensor | None
    ) -> Tensor:
        """Values (B, H, n, K) mixed for n queries, all (B, H, n, K).

        slots: (B, n), or the first of n neighbouring ones, the same in all rows. until: (B, n) or (n,), the
        last slot that a query sees; None: all up to the last one written here.
        """
        if block not in self._kept:
            shape = (*key.shape[:2], self.capacity + 1, key.shape[3])
            self._kept[block] = key.new_zeros(shape), value.new_zeros(shape)
        keys, values = self._kept[block]
        if isinstance(slots, int):
            end = slots + key.shape[2]
            keys[:, :, slots:end], values[:, :, slots:end] = key, value
        else:
            end = self.capacity if until is None else int(until.max()) + 1
            places = slots[:, None, :, None].expand(key.shape)
            keys.scatter_(2, places, key)
            values.scatter_(2, places, value)
        mask = None
        if until is not None:
            mask = torch.arange(end, device=key.device) <= until[..., None]
            mask = mask[:, None] if mask.ndim == 3 else mask
        return F.scaled_dot_product_attention(query, keys[:, :, :end], values[:, :, :end], attn_mask=mask)
