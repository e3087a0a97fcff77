"""uniform (Duo, arXiv 2506.10892): tokens are redrawn uniformly; the network tells which to trust.

Forward: x_t keeps x_0 with probability alpha_t, else is uniform over all V ids (x_0 included).
With xbar = V alpha onehot(x_0) + 1 - alpha and xbar_theta the same with the predicted distribution,
ratios r_j = xbar_j / xbar_z and rhat_j = xbar_theta_j / xbar_theta_z, z = x_t, the Rao-Blackwellised
continuous-time bound (Duo eq. 17) is, per token,

    -alpha' / (V alpha) * sum_j [ rhat_j - r_j + r_j log(r_j / rhat_j) ]        (every term >= 0)

r_j takes three values only (x_0, z, every other id), so the sum needs S = sum_j log xbar_theta_j and
no second V-wide array. The paper's expression is this one rearranged.

With `curriculum` the first steps read softened tokens (`scaling.families.curriculum`). That phase trains on
something easier than the bound; the reported loss is the bound all the same.

B batch, L length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from scaling import flops
from scaling.families.base import Common, Family, Noised, label_view, suppress
from scaling.families.curriculum import Curriculum, build_curriculum, embed
from scaling.families.mixture import LogMixture
from scaling.models import Transformer, head_loss

LARGEST_SIGMA = 6.907755278982137
"""-log 1e-3: the largest noise level the network is given, as in the published schedule's end."""

SMALLEST_SHARE = 1e-30
"""Signal and noise are at least this: the bound is finite at t = 0 and t = 1, and no float32 overflows."""


class Uniform(Family):
    """Uniform-state diffusion, trained on its bound. The network is conditioned on -log alpha_t.

    No mask id by default. With `mask_id` the id stays in the vocabulary and noise may land on it, but
    it is never predicted: the published runs' arrangement (V = 32001 with id 32000).

    curriculum: "none", "full" or "top_k"; the options after it are the fields of `Curriculum` and keep its
    defaults where None.
    """

    name: ClassVar[str] = "uniform"
    masked: ClassVar[bool] = False
    distillable: ClassVar[bool] = True
    tightness: ClassVar[str] = "reached by a network that knows every token given all others under noise"
    samplers: ClassVar[Mapping[str, str]] = {
        "ancestral": "scaling.sampling.discrete:ancestral",
        "psi": "scaling.sampling.remasking:psi",
    }

    def __init__(
        self,
        vocab_size: int,
        *,
        mask_column: bool = False,
        curriculum: str = "none",
        curriculum_share: float | None = None,
        top_k: int | None = None,
        temperature: float | None = None,
        final_temperature: float | None = None,
        alpha_range: Sequence[float] | None = None,
        **common: Unpack[Common],
    ) -> None:
        if mask_column and common.get("mask_id") is None:
            common["mask_id"] = vocab_size - 1
        super().__init__(vocab_size, **common)
        self.curriculum: Curriculum | None = build_curriculum(
            vocab_size,
            curriculum,
            curriculum_share=curriculum_share,
            top_k=top_k,
            temperature=temperature,
            final_temperature=final_temperature,
            alpha_range=alpha_range,
        )

    @classmethod
    def vocab_size_for(cls, num_token_ids: int, **options: Any) -> int:
        return num_token_ids + bool(options.get("mask_column"))

    @property
    def predicted_ids(self) -> int:
        return self.vocab_size  # noise may land on a mask id, so its column stays

    def conditioning(self, t: Tensor) -> Tensor:
        return (-torch.log(self.schedule(t)[0])).clamp(max=LARGEST_SIGMA)

    def mixing(self, t: Tensor) -> Tensor:
        """Distribution of the noise at times t: (*t.shape, V) probabilities, float64."""
        shape = (*t.shape, self.vocab_size)
        return torch.full(shape, 1 / self.vocab_size, dtype=torch.float64, device=t.device)

    def corrupt(self, x0: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        u_BL = torch.rand(x0.shape, generator=generator, device=x0.device)
        noise_BL = torch.randint(self.vocab_size, x0.shape, generator=generator, device=x0.device)
        return self.replace_where(x0, u_BL, noise_BL, t)

    def replace_where(self, x0: Tensor, u_BL: Tensor, noise_BL: Tensor, t: Tensor) -> Tensor:
        """x_t from given uniforms and replacement ids (B, L): replaced where u < 1 - alpha_t."""
        return torch.where(u_BL < self.noise_share(t)[:, None], noise_BL, x0)

    def token_bound(self, logits: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        alpha_B, dalpha_B = self.schedule(t)
        return self.bound_at(logits, x0, xt, alpha_B, self.noise_share(t), dalpha_B)

    def bound_at(
        self, logits: Tensor, x0: Tensor, xt: Tensor, alpha_B: Tensor, noise_B: Tensor, dalpha_B: Tensor
    ) -> Tensor:
        """The integrand at given alpha, 1 - alpha and alpha' (each (B,)); (B, L) nats."""
        vocab, dtype = self.vocab_size, logits.dtype
        # scalars of a row in float64: they span many orders of magnitude at both ends of the schedule
        alpha_B, noise_B = (a.double().clamp(min=SMALLEST_SHARE) for a in (alpha_B, noise_B))
        gain = (vocab * alpha_B / noise_B).to(dtype)[:, None]  # xbar_x0 / xbar_other - 1
        log_peak = torch.log1p(gain)
        scale = (-dalpha_B.double() / (vocab * alpha_B)).to(dtype)[:, None]

        logits = suppress(logits, self.mask_id)
        total_BL, at_z_BL, at_x_BL = LogMixture.apply(logits, gain.expand(x0.shape), xt, x0)
        # sum_j (rhat_j - r_j) is written with expm1, so that nothing of order V cancels as alpha -> 0
        behind_BL = log_peak - at_z_BL
        stayed_BL = torch.exp(-log_peak) * (
            (vocab + gain) * torch.expm1(behind_BL) - (vocab - 1) * behind_BL - (total_BL - at_z_BL)
        )
        moved_BL = (
            (vocab + gain) * torch.expm1(-at_z_BL)
            + (vocab - 2) * at_z_BL
            - (total_BL - at_x_BL - at_z_BL)
            + (1 + gain) * (log_peak - at_x_BL + at_z_BL)
        )
        return scale * torch.where(xt == x0, stayed_BL, moved_BL)

    def work(self, context_length: int) -> flops.Work:
        heads = 0.0 if self.curriculum is None else self.curriculum.heads
        return replace(super().work(context_length), heads=heads)

    def evaluation_work(self, context_length: int) -> list[flops.Work]:
        """Held-out text is read as ids, whatever the curriculum."""
        return [super().work(context_length)]

    def training_batch(self, x0: Tensor, generator: torch.Generator, progress: float) -> Noised:
        if self.curriculum is None or not self.curriculum.active(progress):
            return super().training_batch(x0, generator, progress)
        t = self.training_times(len(x0), generator)
        return self.curriculum.batch(x0, t, generator, progress)

    def training_loss(self, model: Transformer, noised: Noised) -> Tensor:
        signal = noised.extra.get("signal")
        if signal is None:
            return super().training_loss(model, noised)

        def row_loss(logits: Tensor, x0: Tensor, xt: Tensor, signal: Tensor) -> Tensor:
            return self.bound_at(logits, x0, xt, *signal.unbind(-1))

        conditioning = (-torch.log(signal[:, 0])).clamp(max=LARGEST_SIGMA)
        features = model.trunk(embed(model.embedding, noised), conditioning, **label_view(noised))
        about = (noised.x0, noised.xt, signal)
        return head_loss(model, features, about, row_loss, num_ids=self.predicted_ids)

    def biased(self, progress: float) -> bool:
        return self.curriculum is not None and self.curriculum.active(progress)

    def posterior(self, probs: Tensor, xt: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """q(x_s | x_t, x_theta) for s < t, (B, L, V), each row summing to 1 (Duo eq. 5)."""
        alpha_t, alpha_s = self.schedule(t)[0], self.schedule(s)[0]
        return self.posterior_at(probs, xt, alpha_t, alpha_s)

    def posterior_at(self, probs: Tensor, xt: Tensor, alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
        """The posterior at given alpha_t < alpha_s, each (B,)."""
        vocab = self.vocab_size
        a_t, a_s = (a.to(probs.dtype)[:, None, None] for a in (alpha_t, alpha_s))
        kept = a_t / a_s  # alpha_{t|s}
        z_BLV = F.one_hot(xt, vocab).to(probs.dtype)
        prob_z_BL1 = probs.gather(-1, xt[..., None])
        top_BLV = (
            vocab * a_t * probs * z_BLV
            + (kept - a_t) * z_BLV
            + (a_s - a_t) * probs
            + (1 - kept) * (1 - a_s) / vocab
        )
        return top_BLV / (vocab * a_t * prob_z_BL1 + 1 - a_t)

    def posterior_parts(self, at_present: Tensor, xt: Tensor, t: Tensor, s: Tensor) -> Tensor:
        alpha_t, alpha_s = self.schedule(t)[0], self.schedule(s)[0]
        kept = alpha_t / alpha_s  # alpha_{t|s}
        stay = self.vocab_size * alpha_t * at_present + (kept - alpha_t)
        shares = torch.stack([alpha_s - alpha_t, (1 - kept) * (1 - alpha_s)])
        return torch.cat([stay[:, None], shares.expand(len(stay), -1)], dim=1)
