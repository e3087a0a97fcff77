"""ar: next-token prediction, the exact likelihood every other family is compared with.

The network sees the sequence shifted right by one behind a start id, under causal attention; position i
predicts token i from the tokens before it. Every one of the L tokens is scored, the first from the
start id alone, so the loss covers the same events as a diffusion bound on the same sequence.

B batch, L length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from scaling.families.base import Family, Noised, suppress

Start = Literal["mask", "none"] | int


class Autoregressive(Family):
    """Exact negative log-likelihood; the start id is the mask id, which is never predicted.

    `start`: "mask" (default), a token id, or "none". "none" reproduces the published runs
    (arXiv 2602.15014, s-sahoo/scaling-dllms): inputs x[0:L-1], targets x[1:L], L - 1 scored tokens.
    """

    name: ClassVar[str] = "ar"
    causal: ClassVar[bool] = True
    tightness: ClassVar[str] = "every token given those before it"
    bound = "exact"
    objectives: ClassVar[tuple[str, ...]] = ("nll",)
    samplers: ClassVar[Mapping[str, str]] = {"left_to_right": "scaling.sampling.left_to_right:left_to_right"}
    time_conditioned = False
    mask_id: int

    def __init__(
        self,
        vocab_size: int,
        *,
        mask_id: int | None = None,
        objective: str | None = None,
        start: Start = "mask",
    ) -> None:
        super().__init__(vocab_size, mask_id=mask_id, objective=objective)
        fine = start in ("mask", "none") or (isinstance(start, int) and 0 <= start < vocab_size)
        self.require(fine, f"start is {start!r}, it must be mask, none or an id below {vocab_size}")
        self.start = start

    def shift(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        """Network inputs and targets, each (B, L), or (B, L - 1) if start is "none"."""
        if self.start == "none":
            return x0[:, :-1], x0[:, 1:]
        return self.inputs(x0[:, :-1]), x0

    def targets(self, x0: Tensor) -> Tensor:
        return self.shift(x0)[1]

    def corrupt(self, x0: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        """The shifted sequence; nothing is drawn and t is not used."""
        return self.shift(x0)[0]

    def training_times(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.zeros(count, dtype=torch.float64, device=generator.device)

    def evaluation_batch(self, x0: Tensor, place: Tensor, generator: torch.Generator) -> Noised:
        return Noised(x0, self.corrupt(x0, place, generator), torch.zeros_like(place))

    def token_bound(self, logits: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        """-log p(x_i | x_<i), (B, L) nats, (B, L - 1) if start is "none"."""
        if x0.shape[1] > logits.shape[1]:
            x0 = self.targets(x0)
        logits = suppress(logits, self.mask_id)
        return F.cross_entropy(logits.flatten(0, 1), x0.flatten(), reduction="none").view(x0.shape)

    @property
    def mixes_posteriors(self) -> bool:
        return False

    def sampling_steps(self, length: int) -> int:
        return length

    def step_ladder(self, length: int) -> tuple[int, ...]:
        return (length,)

    def inputs(self, before: Tensor) -> Tensor:
        """What the network reads to predict the token after ids `before` (B, n): the start id, then these."""
        if self.start != "none":
            first = before.new_full(
                (len(before), 1), self.mask_id if isinstance(self.start, str) else self.start
            )
            return torch.cat([first, before], dim=1)
        self.require(before.shape[1] > 0, "with start 'none' there is no first token to sample from")
        return before
