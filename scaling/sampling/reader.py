"""The network as samplers call it: what it reads is counted, and only wanted places are predicted.

B batch, L length, V vocabulary, n wanted places.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scaling.models import Modulation, Transformer
from scaling.sampling.filters import Filters

if TYPE_CHECKING:
    from scaling.families.base import Denoiser, Family

Places = Tensor | tuple[Tensor, Tensor]
"""Wanted places: (B, n) bool, or rows and columns, each (m,)."""


@dataclass(slots=True)
class Reader:
    """Calls of the network (NFE), counted with the tokens that they pass through its blocks."""

    model: Denoiser
    family: Family
    filters: Filters = field(default_factory=Filters)
    timed: bool = False
    """Whether the seconds in the network are measured, which synchronises a GPU."""
    calls: int = 0
    """Passes of the network, whatever number of texts they read."""
    tokens: int = 0
    """Tokens that passed the network's blocks, of all texts."""
    seconds: float = 0.0
    _constant: Modulation | None = None
    """What a network that is not told the time makes of that, for all calls."""

    def __call__(
        self, ids: Tensor, t: Tensor | float = 0.0, where: Places | None = None, **view: Any
    ) -> Tensor:
        """The filtered distribution over clean ids at the wanted places, (n, V) in float64.

        ids: (B, n). t: the noise time, a number or one a row. where: by default all places, in whose order
        the rows come. view: keyword arguments of `Transformer.trunk`.
        """
        return self.filters(self.unfiltered(ids, t, where, **view))

    def unfiltered(
        self, ids: Tensor, t: Tensor | float = 0.0, where: Places | None = None, **view: Any
    ) -> Tensor:
        """The distribution before the filters; arguments as of a call."""
        return self.family.restored(self.logits(ids, t, where, **view))

    def logits(
        self, ids: Tensor, t: Tensor | float = 0.0, where: Places | None = None, **view: Any
    ) -> Tensor:
        """Raw logits (n, V) of the wanted places; arguments as of a call."""
        with self.counting(ids):
            if not isinstance(self.model, Transformer):
                logits = self.model(ids, self._conditioning(ids, t), **view)
                return logits.flatten(0, 1) if where is None else logits[where]
            features = self.model.trunk(ids, self._modulation(self.model, ids, t), **view)
            targets = features.flatten(0, 1) if where is None else features[where]
            return self.model.predict(targets, self.model.vocab_size)

    def _conditioning(self, ids: Tensor, t: Tensor | float) -> Tensor:
        """(B,) what the network is told of the noise."""
        times = torch.as_tensor(t, dtype=torch.float64, device=ids.device).expand(len(ids))
        return self.family.conditioning(times)

    def _modulation(self, model: Transformer, ids: Tensor, t: Tensor | float) -> Tensor | Modulation:
        if self.family.time_conditioned:
            return self._conditioning(ids, t)
        if self._constant is None:
            self._constant = model.modulate(self._conditioning(ids[:1], 0.0))
        return self._constant

    @contextmanager
    def counting(self, tokens: Tensor) -> Iterator[None]:
        """Around one pass of the network that reads tokens (B, n)."""
        self.calls += 1
        self.tokens += tokens.shape[0] * tokens.shape[1]
        started = self._now(tokens.device)
        yield
        self.seconds += self._now(tokens.device) - started

    def _now(self, device: torch.device) -> float:
        if not self.timed:
            return 0.0
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()
