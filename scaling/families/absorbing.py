"""Tokens turn into MASK one by one: the shared part of masked, block and esoteric diffusion.

Forward: x_t keeps x_0 with probability alpha_t, else MASK. Only masked positions cost anything; the others
are carried over.

B batch, L length, V vocabulary.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from scaling.families.base import Family, per_token, suppress


class Absorbing(Family):
    """Absorbing-state diffusion. The network is not conditioned on the noise level (it can count the masks).

    Noise times may be given per row (B,) or per position (B, L).
    """

    objectives: ClassVar[tuple[str, ...]] = ("low_variance", "nelbo")
    time_conditioned = False
    mask_id: int

    def conditioning(self, t: Tensor) -> Tensor:
        return t.new_zeros(len(t))

    def corrupt(self, x0: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        u_BL = torch.rand(x0.shape, generator=generator, device=x0.device)
        return self.mask_where(x0, u_BL, t)

    def mask_where(self, x0: Tensor, u_BL: Tensor, t: Tensor) -> Tensor:
        """x_t from given uniforms (B, L): masked where u < 1 - alpha_t."""
        return torch.where(u_BL < per_token(self.noise_share(t)), self.mask_id, x0)

    def scored(self, xt: Tensor) -> Tensor:
        return xt == self.mask_id

    def weight(self, t: Tensor) -> Tensor:
        """Weight of a masked token in the bound at time t: -alpha' / (1 - alpha), of t's shape."""
        return -self.schedule(t)[1] / self.noise_share(t)

    def masked_nats(self, logits: Tensor, x0: Tensor, xt: Tensor) -> Tensor:
        """-log p(x_0 | x_t) on masked positions, 0 elsewhere; (B, L) nats."""
        logits = suppress(logits, self.mask_id)
        nats_BL = F.cross_entropy(logits.flatten(0, -2), x0.flatten(), reduction="none").view(x0.shape)
        return torch.where(xt == self.mask_id, nats_BL, 0.0)

    def token_bound(self, logits: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        """-alpha' / (1 - alpha) * -log p(x_0 | x_t) on masked positions, 0 elsewhere; (B, L) nats."""
        nats_BL = self.masked_nats(logits, x0, xt)
        weight = per_token(self.weight(t).to(nats_BL.dtype))
        # where, not *: at t = 0 nothing is masked and inf * 0 would be nan
        return torch.where(xt == self.mask_id, weight * nats_BL, 0.0)

    def token_loss(self, logits: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        if self.objective == "low_variance":
            return self.masked_nats(logits, x0, xt)
        return self.token_bound(logits, x0, xt, t)

    @property
    def masks_only(self) -> bool:
        return True

    def posterior(self, probs: Tensor, xt: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """q(x_s | x_t, x_theta) for s < t, (B, L, V), each row summing to 1 (MDLM eq. 7).

        probs: the network's x_theta (B, L, V), no mass on the mask id. A clean token stays; a mask
        stays with probability (1 - alpha_s) / (1 - alpha_t), else becomes a token drawn from probs.
        """
        stay = per_token(self.noise_share(s) / self.noise_share(t)).to(probs.dtype)[..., None]
        q_BLV = (1 - stay) * probs
        q_BLV[..., self.mask_id] += stay[..., 0]
        clean_BLV = F.one_hot(xt, self.vocab_size).to(probs.dtype)
        return torch.where((xt == self.mask_id)[..., None], q_BLV, clean_BLV)

    def posterior_parts(self, at_present: Tensor, xt: Tensor, t: Tensor, s: Tensor) -> Tensor:
        stay = (self.noise_share(s) / self.noise_share(t)).where(xt == self.mask_id, 1.0)
        return torch.stack([stay, 1 - stay, torch.zeros_like(stay)], dim=1)
