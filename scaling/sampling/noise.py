"""Random numbers of a text: each depends on the text's seed, the step, the purpose and the place, and on
nothing else.

So a text is the same alone and in any batch, with a cache and without, on any device; and a draw costs only
where it is wanted. A counter is mixed by the finalizer of SplitMix64 (Steele et al., 2014), once for each of
the four; the top 53 bits make a uniform number in (0, 1), fine enough for any law over a vocabulary.

B batch, L length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor


class Purpose(IntEnum):
    """What a draw is for; two draws of one step and place differ in it."""

    START = 0
    """The noise a text begins with."""
    PART = 1
    """Which part of the posterior: stay, a clean id, or fresh noise."""
    CLEAN = 2
    """The clean id."""
    FRESH = 3
    """Fresh noise."""
    ORDER = 4
    """The order in which places are decoded."""


ROOM = 6
"""Purposes of a step; another number would change every text."""


def _signed(word: int) -> int:
    """64 bits as the int64 that torch takes."""
    return word - (1 << 64) if word >> 63 else word


GOLDEN = _signed(0x9E3779B97F4A7C15)
FIRST, SECOND = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finalizer on int64 words, whose products wrap around."""
    for shift, factor in ((30, FIRST), (27, SECOND)):
        x = (x ^ _shifted(x, shift)) * factor
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Shifted right, zeros moving in."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


class Noise:
    """The draws of a batch of texts, one seed each."""

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        words = torch.tensor([_signed(seed % (1 << 64)) for seed in seeds], dtype=torch.int64, device=device)
        self._keys = _mix(words + GOLDEN)

    def __len__(self) -> int:
        return len(self._keys)

    def rows(self, rows: Tensor) -> Noise:
        """The draws of some of the texts."""
        part = Noise([])
        part._keys = self._keys[rows]
        return part

    def everywhere(self, step: int, purpose: Purpose, count: int) -> Tensor:
        """(B, count) uniforms in (0, 1), float64, of the places 0 to count - 1."""
        return self._uniforms(
            self._keys[:, None], step, purpose, torch.arange(count, device=self._keys.device)
        )

    def at(self, step: int, purpose: Purpose, where: Tensor) -> Tensor:
        """(n,) uniforms of the places (B, L) that are True, row by row: those of `everywhere` there."""
        rows, places = where.nonzero(as_tuple=True)
        return self._uniforms(self._keys[rows], step, purpose, places)

    def normals(self, step: int, purpose: Purpose, count: int) -> Tensor:
        """(B, count) standard normals, float64."""
        return torch.special.ndtri(self.everywhere(step, purpose, count))

    @staticmethod
    def _uniforms(keys: Tensor, step: int, purpose: Purpose, places: Tensor) -> Tensor:
        draws = _mix(keys + _signed(GOLDEN * (step * ROOM + purpose + 1) % (1 << 64)))
        words = _mix(draws + GOLDEN * (places + 1))
        return (_shifted(words, 11).double() + 0.5) * 2.0**-53


def choose(probs: Tensor, uniforms: Tensor) -> Tensor:
    """(n,) ids of rows of weights (n, V) >= 0, by inversion in float64: the first id whose running sum
    exceeds its share of the whole. uniforms: (n,) in (0, 1).

    A race against float32 noise would cut the tail of the law off, the more so the larger V and the more
    steps (arXiv 2409.02908); an id without weight is never drawn.
    """
    sums = probs.cumsum(-1, dtype=torch.float64)
    # at most the last number below 1, times any whole, lies below the whole: the id found has a weight
    share = uniforms.double()[:, None].clamp(max=1 - 2.0**-53) * sums[:, -1:]
    return torch.searchsorted(sums, share, right=True)[:, 0]
