"""How initial values, rates and outputs go with a network's width and depth.

CompleteP (arXiv 2505.01618, Table 1 with alpha = 1; muP for the width alone) scales them so that networks of
all widths and depths change alike in a step of one learning rate: the rate tuned at the base size then holds
at all others. mN is a network's width over that of the base, mL its depth over that of the base.

| part | initial scale | rate | weight decay | eps | output |
|---|---|---|---|---|---|
| blocks' matrices | as it is, 1/sqrt(fan-in) | 1/mN | mN | 1/(mN mL) | each residual branch 1/mL |
| blocks' norms and biases | biases sqrt(mN): fixed | 1 | 0 | 1/(mN mL) | |
| embedding | sqrt(mN): fixed | 1 | 0 | 1/mN | |
| modulation; input; time maps | as it is | 1 | 1, biases 0 | 1/(mN mL); 1/mN; 1 | |
| last norm; head | as it is | 1 | 0; 1, bias 0 | 1/mN, bias 1 | logits 1/mN before the bias |

Attention's scale is 1/sqrt(head dimension) while that is the base's, and falls as 1/(head dimension) where it
is not. At the base size every factor is 1, except that decay spares vectors and the embedding.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from scaling.ladder import Base, Size

BLOCK_MATRIX = re.compile(r"blocks\.\d+\.(qkv|out|up|down)\.weight|clusters\.(inner|outer)\.weight")


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """Of one parameter, times what the run says: its initial scale, learning rate, weight decay and eps."""

    init: float = 1.0
    rate: float = 1.0
    decay: float = 1.0
    eps: float = 1.0
    muon: bool = False
    """Whether it is updated by Muon, not AdamW."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parametrization:
    """The factors of a network. With all defaults, or without a base, those of the standard one: 1."""

    width: float = 1.0
    """mN."""
    depth: float = 1.0
    """mL."""
    query: float = 1.0
    """Times the queries."""
    spares_vectors: bool = False
    """Whether weight decay leaves vectors and the embedding alone."""
    muon: bool = False
    """Whether Muon updates the blocks' matrices. Of its update an entry grows with 1, what it does to an
    activation with the root of the width, not with the width: factors are the roots of AdamW's."""

    @classmethod
    def of(cls, size: Size, base: Base | None, *, muon: bool = False) -> Parametrization:
        """CompleteP's at a size; the standard one without a base."""
        if base is None:
            return cls(muon=muon)
        return cls(
            muon=muon,
            width=size.hidden / base.hidden,
            depth=size.num_layers / base.num_layers,
            query=math.sqrt((base.head_dim or size.head_dim) / size.head_dim),
            spares_vectors=True,
        )

    @property
    def branch(self) -> float:
        """Times what each half of a block adds."""
        return 1 / self.depth

    @property
    def head(self) -> float:
        """Times the features that the head reads."""
        return 1 / self.width

    def factors(self, name: str) -> Factors:
        """Those of the parameter of this name in `Transformer` and what is built on it."""
        muon = self.muon and name.startswith("blocks.") and BLOCK_MATRIX.fullmatch(name) is not None
        if not self.spares_vectors:
            return Factors(muon=muon)
        if muon:
            return Factors(rate=1 / math.sqrt(self.width), decay=math.sqrt(self.width), muon=True)
        width, fixed = 1 / self.width, math.sqrt(self.width)
        in_block = name.startswith(("blocks.", "modulation."))
        eps = width / self.depth if in_block else width
        if BLOCK_MATRIX.fullmatch(name):
            return Factors(rate=width, decay=self.width, eps=eps)
        if name.startswith("time_") or name in ("head.bias", "label_vectors"):
            eps = 1.0  # the network's width is summed over before it reaches them
        if name in ("embedding", "clusters.prototypes"):
            return Factors(init=fixed, decay=0.0, eps=eps)
        if name.endswith(".weight"):
            return Factors(eps=eps)
        # what a bias begins as goes with the fan-in as its matrix does
        scaled = name.startswith(("blocks.", "clusters.")) and name.endswith(".bias")
        return Factors(init=fixed if scaled else 1.0, decay=0.0, eps=eps)


STANDARD = Parametrization()
