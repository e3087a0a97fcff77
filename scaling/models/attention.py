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
    """Keys and values of tokens that were read already, one pair of tensors per block of the network.

    `Transformer.trunk` reads them all and adds those of the first `keep` tokens of its input, so tokens
    whose content is settled are never computed again. Exact wherever later tokens do not change what
    earlier ones computed: causal layouts, and whole blocks of block diffusion.
    """

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return next(iter(self._kept.values()))[0].shape[2] if self._kept else 0

    def extend(self, block: int, key: Tensor, value: Tensor, keep: int) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, k, K) with the earlier ones in front; the first `keep` new ones stay."""
        earlier = self._kept.get(block)
        count = keep
        if earlier is not None:
            count += earlier[0].shape[2]
            key, value = (torch.cat(pair, dim=2) for pair in zip(earlier, (key, value), strict=True))
        if keep:
            self._kept[block] = key[:, :, :count], value[:, :, :count]
        return key, value
