"""Named model sizes: the ladder of the published study and one for a laptop.

A size name is a label: nothing parses a number out of it. Counts come from `scaling.flops`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scaling.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """An architecture of the shared transformer.

    Raises UserError if the transformer could not be built: a head dimension that is odd
    (rotary embeddings rotate pairs) or hidden units that the heads do not share evenly.
    """

    name: str
    """A label to be used in the grid."""
    hidden: int
    """Width of the network."""
    num_layers: int
    """Transformer blocks."""
    num_heads: int
    """Attention heads; `hidden / num_heads` must be even."""
    cond_dim: int = 128
    """Width of the conditioning vector that drives adaLN; 128 in the published study."""
    time_features: int = 256
    """Sinusoidal features of the noise level before the conditioning MLP; 256 in the study."""

    def __post_init__(self) -> None:
        for field in ("hidden", "num_layers", "num_heads", "cond_dim", "time_features"):
            value = getattr(self, field)
            if not isinstance(value, int) or value < 1:
                raise UserError(f"size {self.name!r}: {field} is {value!r}, it must be a positive integer")
        if self.hidden % self.num_heads or (self.hidden // self.num_heads) % 2:
            raise UserError(
                f"size {self.name!r}: hidden {self.hidden} must split over {self.num_heads} heads "
                "into an even head dimension"
            )
        if self.time_features % 2:
            raise UserError(f"size {self.name!r}: time_features is {self.time_features}, it must be even")

    @property
    def head_dim(self) -> int:
        return self.hidden // self.num_heads


@dataclass(frozen=True, slots=True)
class Base:
    """The size at which rates are tuned, for `scaling.models.parametrization`.

    head_dim: of its attention; None: that of every size.
    """

    hidden: int
    num_layers: int
    head_dim: int | None = None


def _published() -> dict[str, Size]:
    """28 sizes of arXiv 2602.15014 (configs/model of s-sahoo/scaling-dllms), by growing parameter count."""
    rows = [
        ("6M", 256, 6, 4), ("19M", 384, 8, 6), ("34M", 512, 8, 8), ("48M", 576, 9, 9), ("66M", 640, 10, 10),
        ("85M", 640, 13, 10), ("75M", 640, 16, 8), ("113M", 768, 12, 12), ("142M", 768, 15, 12),
        ("170M", 768, 18, 12), ("180M", 896, 14, 14), ("206M", 896, 16, 14), ("231M", 896, 18, 14),
        ("268M", 1024, 16, 16), ("302M", 1024, 18, 16), ("336M", 1024, 20, 16), ("472M", 1280, 18, 10),
        ("551M", 1280, 21, 10), ("571M", 1408, 18, 11), ("629M", 1280, 24, 10), ("666M", 1408, 21, 11),
        ("761M", 1408, 24, 11), ("831M", 1536, 22, 12), ("944M", 1536, 25, 12), ("1233M", 1792, 24, 14),
        ("1476M", 2048, 22, 16), ("1678M", 2048, 25, 16), ("2121M", 2176, 28, 17),
    ]  # fmt: skip
    return {n: Size(name=n, hidden=d, num_layers=b, num_heads=h) for n, d, b, h in rows}


def _desk() -> dict[str, Size]:
    """Sizes that a laptop trains in seconds to minutes on bytes.

    Named width x depth. Depth comes late: up to 4e11 FLOPs one block is within 0.02 nats of two of the same
    parameters and up to twice as fast. Heads have 8 dimensions, 16 where blocks are more: at 4e10
    FLOPs `uniform` lost 0.03 to 0.09 nats with a single head of 16, and 0.2 to 0.3 with heads of 4. The
    conditioning is narrow: at the published 128 it would hold more parameters than the blocks it conditions.
    """
    rows = [
        ("4x1", 4, 1, 1), ("6x1", 6, 1, 1), ("8x1", 8, 1, 1), ("12x1", 12, 1, 1), ("16x1", 16, 1, 2),
        ("24x1", 24, 1, 3), ("32x1", 32, 1, 4), ("48x1", 48, 1, 6), ("64x1", 64, 1, 8), ("96x1", 96, 1, 12),
        ("96x2", 96, 2, 6), ("128x2", 128, 2, 8), ("128x3", 128, 3, 8), ("160x4", 160, 4, 10),
        ("192x5", 192, 5, 12),
    ]  # fmt: skip
    narrow = {"cond_dim": 8, "time_features": 32}
    return {n: Size(name=n, hidden=d, num_layers=b, num_heads=h, **narrow) for n, d, b, h in rows}


LADDERS: Mapping[str, Mapping[str, Size]] = {"sahoo2026": _published(), "desk": _desk()}
