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

from scaling.errors import UserError
from scaling.models import Modulation, Transformer
from scaling.sampling.filters import Filters
from scaling.sampling.guidance import Guidance, mix

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
    guidance: Guidance | None = None
    timed: bool = False
    """Whether the seconds in the network are measured, which synchronises a GPU."""
    calls: int = 0
    """Passes of the network, whatever number of texts they read. Guided by a mixture, one pass reads every
    text twice."""
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
        """The distribution before the filters; arguments as of a call. UserError if guidance changes the
        posterior, which the sampler then has to draw from."""
        if self.guides_posterior:
            why = (
                "mixes posteriors" if self.guidance and self.guidance.mixes else "by a classifier tilts them"
            )
            raise UserError(
                f"family {self.family.name!r}: this sampler does not draw from whole posteriors, and "
                f"guidance {why}; samplers 'ancestral' and 'psi' of masked, uniform and hybrid do"
            )
        if self.guidance is None or not self.guidance.mixes:
            return self.family.restored(self.logits(ids, t, where, **view))
        return mix(*self.both(ids, t, where, **view), self.guidance.scale)

    @property
    def guides_posterior(self) -> bool:
        """Whether guidance changes the posterior, not x_theta."""
        guidance = self.guidance
        if guidance is None:
            return False
        return guidance.classifier is not None or (guidance.mixes and self.family.mixes_posteriors)

    def both(
        self, ids: Tensor, t: Tensor | float = 0.0, where: Places | None = None, **view: Any
    ) -> tuple[Tensor, Tensor]:
        """The distributions given the label and given the null label, from one pass of all texts twice."""
        count = len(ids)
        if isinstance(t, Tensor) and t.ndim:
            t = torch.cat([t, t])
        if isinstance(where, tuple):
            where = torch.cat([where[0], where[0] + count]), torch.cat([where[1], where[1]])
        elif where is not None:
            where = torch.cat([where, where])
        for name, value in view.items():
            if isinstance(value, Tensor) and value.ndim > 1:  # (n,) holds for every text
                view[name] = torch.cat([value, value])
        probs = self.family.restored(self._logits(torch.cat([ids, ids]), t, where, **view))
        return probs[: len(probs) // 2], probs[len(probs) // 2 :]

    def logits(
        self, ids: Tensor, t: Tensor | float = 0.0, where: Places | None = None, **view: Any
    ) -> Tensor:
        """Raw logits (n, V) of the wanted places; arguments as of a call. UserError if guidance mixes two."""
        if self.guidance is not None and self.guidance.mixes:
            raise UserError(
                f"family {self.family.name!r}: this sampler cannot be guided, except at scale 0 or 1"
            )
        return self._logits(ids, t, where, **view)

    def _logits(self, ids: Tensor, t: Tensor | float, where: Places | None, **view: Any) -> Tensor:
        with self.counting(ids):
            if not isinstance(self.model, Transformer):
                labels = self.labels(len(ids), ids.device)
                view |= {} if labels is None else {"labels": labels}
                logits = self.model(ids, self._conditioning(ids, t), **view)
                return logits.flatten(0, 1) if where is None else logits[where]
            features = self.model.trunk(ids, self._modulation(self.model, ids, t), **view)
            targets = features.flatten(0, 1) if where is None else features[where]
            return self.model.predict(targets, self.model.vocab_size)

    def _conditioning(self, ids: Tensor, t: Tensor | float) -> Tensor:
        """(B,) what the network is told of the noise."""
        times = torch.as_tensor(t, dtype=torch.float64, device=ids.device).expand(len(ids))
        return self.family.conditioning(times)

    def labels(self, count: int, device: torch.device) -> Tensor | None:
        """(count,) labels that the texts are read with: half of them the label, then half null, if guidance
        mixes; None without guidance."""
        numbers = self.guidance.labels(getattr(self.model, "classes", 0)) if self.guidance else []
        if not numbers:
            return None
        return torch.tensor(numbers, device=device).repeat_interleave(count // len(numbers))

    def _modulation(self, model: Transformer, ids: Tensor, t: Tensor | float) -> Tensor | Modulation:
        if self.family.time_conditioned:
            return model.modulate(self._conditioning(ids, t), self.labels(len(ids), ids.device))
        if self._constant is None:
            once = ids[: 2 if self.guidance is not None and self.guidance.mixes else 1]
            self._constant = model.modulate(self._conditioning(once, 0.0), self.labels(len(once), ids.device))
        halves = len(self._constant[0][0])
        if halves == 1:
            return self._constant
        return [tuple(x.repeat_interleave(len(ids) // halves, 0) for x in part) for part in self._constant]

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
