"""masked (MDLM, arXiv 2406.07524): tokens turn into MASK one by one; the network restores them.

Forward: x_t keeps x_0 with probability alpha_t, else MASK. Bound (eq. 11, continuous time):
E_t [ -alpha'_t / (1 - alpha_t) * sum over masked positions of -log p(x_0 | x_t) ]; with the log-linear
schedule the weight is 1/t. Unmasked tokens cost nothing: they are carried over.
`low_variance` (arXiv 2602.15014, eq. 8) trains with the weight replaced by 1; it is no bound.

B batch, L length, V vocabulary.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from scaling.families.base import Denoiser, Family, Schedule, draw, sampling_times, suppress


class Masked(Family):
    """Absorbing-state diffusion. The network is not told the noise level (it can count the masks)."""

    name: ClassVar[str] = "masked"
    objectives: ClassVar[tuple[str, ...]] = ("low_variance", "nelbo")
    mask_id: int

    def __init__(
        self,
        vocab_size: int,
        *,
        mask_id: int | None = None,
        objective: str = "low_variance",
        schedule_eps: float = 0.0,
        schedule: Schedule = "log_linear",
    ) -> None:
        mask_id = vocab_size - 1 if mask_id is None else mask_id
        super().__init__(
            vocab_size, mask_id=mask_id, objective=objective, schedule_eps=schedule_eps, schedule=schedule
        )

    def corrupt(self, x0: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        u_BL = torch.rand(x0.shape, generator=generator, device=x0.device)
        return self.mask_where(x0, u_BL, t)

    def mask_where(self, x0: Tensor, u_BL: Tensor, t: Tensor) -> Tensor:
        """x_t from given uniforms (B, L): masked where u < 1 - alpha_t."""
        return torch.where(u_BL < self.noise_share(t)[:, None], self.mask_id, x0)

    def scored(self, xt: Tensor) -> Tensor:
        return xt == self.mask_id

    def _masked_nats(self, logits: Tensor, x0: Tensor, xt: Tensor) -> Tensor:
        logits = suppress(logits, self.mask_id)
        nats_BL = F.cross_entropy(logits.flatten(0, -2), x0.flatten(), reduction="none").view(x0.shape)
        return torch.where(xt == self.mask_id, nats_BL, 0.0)

    def token_bound(self, logits: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        """-alpha' / (1 - alpha) * -log p(x_0 | x_t) on masked positions, 0 elsewhere; (B, L) nats."""
        nats_BL = self._masked_nats(logits, x0, xt)
        weight_B = -self.schedule(t)[1] / self.noise_share(t)
        # where, not *: at t = 0 nothing is masked and inf * 0 would be nan
        return torch.where(xt == self.mask_id, weight_B.to(nats_BL.dtype)[:, None] * nats_BL, 0.0)

    def token_loss(self, logits: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        if self.objective == "low_variance":
            return self._masked_nats(logits, x0, xt)
        return self.token_bound(logits, x0, xt, t)

    def posterior(self, probs: Tensor, xt: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """q(x_s | x_t, x_theta) for s < t, (B, L, V), each row summing to 1 (MDLM eq. 7).

        probs: the network's x_theta (B, L, V), no mass on the mask id. A clean token stays; a mask
        stays with probability (1 - alpha_s) / (1 - alpha_t), else becomes a token drawn from probs.
        """
        stay_B = self.noise_share(s) / self.noise_share(t)
        stay = stay_B.to(probs.dtype)[:, None, None]
        q_BLV = (1 - stay) * probs
        q_BLV[..., self.mask_id] += stay[..., 0]
        clean_BLV = F.one_hot(xt, self.vocab_size).to(probs.dtype)
        return torch.where((xt == self.mask_id)[..., None], q_BLV, clean_BLV)

    def sample(
        self, model: Denoiser, shape: tuple[int, int], steps: int, generator: torch.Generator, **options: Any
    ) -> Tensor:
        """Ancestral sampling from all masks, times 1 to 0 in `steps` even steps.

        The network is not time-conditioned, so its output is reused while no token of the batch
        changes: at most L network calls however many steps.
        """
        xt = torch.full(shape, self.mask_id, device=generator.device)
        probs: Tensor | None = None
        times = sampling_times(steps).to(generator.device)
        for t_now, t_next in pairwise(times):
            t, s = t_now.expand(shape[0]), t_next.expand(shape[0])
            if probs is None:
                logits = suppress(model(xt, self.conditioning(t)).double(), self.mask_id)
                probs = logits.softmax(-1)
            new = draw(self.posterior(probs, xt, t, s), generator)
            if not torch.equal(new, xt):
                probs = None
            xt = new
            if not bool((xt == self.mask_id).any()):
                break
        return xt
