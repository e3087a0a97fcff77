"""hybrid (GIDD, arXiv 2503.04482; noise types of arXiv 2512.10858): tokens turn into MASK or are redrawn.

Forward: q_t(. | x) = alpha_t onehot(x) + (1 - alpha_t) pi_t. The mixing distribution pi_t puts 1 - s_t on
MASK and s_t evenly on the N = V - 1 token ids; `scaling.families.hybrid_noise` has the two parametrisations,
GIDD's p_u and the scaling study's noise types.

Bound (GIDD, Prop. 3.9; arXiv 2512.10858, eq. 2), with z = x_t and x_theta the prediction, MASK left out:

    E_t [ w_t(z, x) { KL(q_t(. | x) || q_t(. | x_theta)) + IS(q_t(z | x), q_t(z | x_theta)) } ] per token,
    w = ((beta pi)' - alpha'/alpha beta pi)_z / q_t(z | x),  IS(p, q) = p/q - log(p/q) - 1,  beta = 1 - alpha.

No constant is left out: alpha runs from 1 to 0. KL is over the whole vocabulary, yet q_t(. | x) takes three
values, so with the gain g = alpha N / (beta s) and theta_j = log(1 + g x_theta_j) it is

    beta s / N { (1 + g) (log(1 + g) - theta_x) - sum_{j != x} theta_j },

one V-wide pass. Training replaces w (see `Hybrid.training_weights`); the reported bound never does.

B batch, L length, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from scaling.families.base import Common, Family, Noised, per_token, suppress
from scaling.families.hybrid_noise import NOISE_TYPES, SMALLEST, Levels, Peaked, check_noise, shifted_levels
from scaling.families.mixture import LogMixture
from scaling.families.uniform import LARGEST_SIGMA

PUBLISHED_P_U = 0.1
"""p_u when neither p_u nor noise is given: of the published 0.0, 0.1 and 0.2 the first that is a hybrid."""

PUBLISHED_GAMMA = 1.0
"""In every published run."""

MAX_WEIGHT = 2.0
"""Largest training weight of the objectives that clip (`max_loss_weight` in the released config)."""

GIDD_WEIGHTS = ("dynamic", "dynamic_released")
CLIPPED = ("clamp", *GIDD_WEIGHTS)

LARGEST_GAIN = 1e36
"""The limit of float32: redrawn tokens that are rarer than alpha N / 1e36 count as that rare."""


class Hybrid(Family):
    """Mask and uniform noise in one process.

    p_u, gamma: GIDD's schedule; noise: the other one, a name of NOISE_TYPES or the shift b itself. At most
    one of p_u and noise; with neither, p_u = 0.1. p_u = 0 is family masked exactly (the released code
    floors p_u at e^-20). schedule, schedule_eps: with noise only, where pi depends on alpha alone; GIDD's
    p_u comes with a schedule of its own.
    objective: see `training_weights`; by default the one of each paper, "dynamic"
    with p_u and "unweighted" with noise. max_weight: where the clipping objectives clip, 2 by default.
    time_conditioned: whether the network is conditioned on -log alpha_t, as in GIDD, not in the study.

    Not covered: clean prompts, noise levels of a token's own and empty tokens in training (arXiv
    2512.10858, section 4.1), and a log-SNR slope other than 1.
    """

    name: ClassVar[str] = "hybrid"
    tightness: ClassVar[str] = "reached by a network that knows every token given all others under noise"
    objectives: ClassVar[tuple[str, ...]] = (*GIDD_WEIGHTS, "clamp", "nelbo", "unweighted")
    samplers: ClassVar[Mapping[str, str]] = {
        "ancestral": "scaling.sampling.discrete:ancestral",
        "self_correcting": "scaling.sampling.correction:self_correcting",
        "adaptive": "scaling.sampling.correction:adaptive",
        "psi": "scaling.sampling.remasking:psi",
        "released": "scaling.sampling.correction:released",
    }
    mask_id: int

    def __init__(
        self,
        vocab_size: int,
        *,
        p_u: float | None = None,
        gamma: float | None = None,
        noise: str | float | None = None,
        max_weight: float | None = None,
        time_conditioned: bool = True,
        **common: Unpack[Common],
    ) -> None:
        if noise is not None and common.get("objective") is None:
            common["objective"] = "unweighted"
        super().__init__(vocab_size, **common)
        objective = self.objective
        check_noise(self.require, p_u, gamma, noise, self.schedule_name, self.schedule_eps)
        self.require(
            noise is None or objective not in GIDD_WEIGHTS,
            f"objective {objective!r} is defined by p_u, and noise is {noise!r}; "
            "use 'unweighted', which keeps the weights' ratios",
        )
        self.require(
            max_weight is None or objective in CLIPPED,
            f"max_weight is {max_weight}, but objective {objective!r} clips no weights "
            f"({', '.join(CLIPPED)} do)",
        )
        self.max_weight = MAX_WEIGHT if max_weight is None else max_weight
        fine = 0 < self.max_weight < math.inf
        self.require(fine, f"max_weight is {max_weight}, it must be above 0 and finite")
        self.time_conditioned = time_conditioned
        self.num_tokens = vocab_size - 1
        self.peaked: Peaked | None = None
        self.shift = 0.0
        if noise is not None:
            self.shift = NOISE_TYPES[noise] if isinstance(noise, str) else float(noise)
        else:
            gamma = PUBLISHED_GAMMA if gamma is None else gamma
            self.peaked = Peaked.of(PUBLISHED_P_U if p_u is None else p_u, gamma)
        self.only_masks = self.shift == -math.inf or (self.peaked is not None and not self.peaked.peak)

    # -- the noise process ----------------------------------------------------------------------

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return super().schedule(t) if self.peaked is None else self.peaked.schedule(t)

    def noise_share(self, t: Tensor) -> Tensor:
        return super().noise_share(t) if self.peaked is None else self.peaked.noise_share(t)

    def levels(self, t: Tensor) -> Levels:
        """Shares and rates at times t of any shape."""
        t = t.double()
        if self.peaked is not None:
            return self.peaked.levels(t)
        t = t.clamp(min=SMALLEST)  # some schedules start with an infinite slope
        return shifted_levels(*self.schedule(t), self.noise_share(t), self.shift)

    def mixing(self, t: Tensor) -> Tensor:
        """pi_t, the distribution of the noise at time t: (*t.shape, V) probabilities, float64."""
        levels = self.levels(t)
        pi = (levels.uniform / self.num_tokens)[..., None].repeat_interleave(self.vocab_size, -1)
        pi[..., self.mask_id] = levels.masked
        return pi

    def conditioning(self, t: Tensor) -> Tensor:
        if not self.time_conditioned:
            return super().conditioning(t)
        return (-torch.log(self.schedule(t)[0])).clamp(max=LARGEST_SIGMA)

    def corrupt(self, x0: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        u_BL = torch.rand(x0.shape, generator=generator, device=x0.device)
        noise, masked = per_token(self.noise_share(t)), per_token(self.levels(t).masked)
        noisy = x0
        if not self.only_masks:
            ids = torch.randint(self.num_tokens, x0.shape, generator=generator, device=generator.device)
            noisy = ids + (ids >= self.mask_id)
        xt = torch.where(u_BL < noise, noisy, x0)
        return torch.where(u_BL < noise * masked, self.mask_id, xt)

    def evaluation_batch(self, x0: Tensor, place: Tensor, generator: torch.Generator) -> Noised:
        """One noise level a row, from place (B,), uniform in (0, 1].

        With p_u, tokens are redrawn at a rate of t^(gamma/2 - 1) near t = 0, and each costs about 1/t: under
        t = place^k the variance is an integral of t^(gamma/2 - 1 - 1/k), which for gamma = 1 and the usual
        k = 2 is infinite. k = 1 + 2/gamma keeps it finite for every gamma, and is the usual one at gamma = 2.
        On a Markov source with exact predictions, p_u = 0.1, it had the smallest error of k = 2, 3, 4, 6.
        """
        if self.peaked is None or self.only_masks:
            return super().evaluation_batch(x0, place, generator)
        power = 1 + 2 / self.peaked.gamma
        t = place**power
        return Noised(x0, self.corrupt(x0, t, generator), t, power * place ** (power - 1))

    # -- losses ----------------------------------------------------------------------------------

    def scored(self, xt: Tensor) -> Tensor | None:
        return xt == self.mask_id if self.only_masks else None

    def divergences(self, logits: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """KL of the noised marginals and Itakura-Saito divergence at x_t, each (B, L) nats in float64.

        IS is 0 at masks, where it is constant; with mask noise alone both are 0 elsewhere.
        """
        levels, is_mask = self.levels(t), xt == self.mask_id
        logits = suppress(logits, self.mask_id)
        if self.only_masks:
            nats_BL = F.cross_entropy(logits.flatten(0, -2), x0.flatten(), reduction="none").view(x0.shape)
            kl_BL = torch.where(is_mask, per_token(levels.alpha) * nats_BL.double(), 0.0)
            return kl_BL, torch.zeros_like(kl_BL)
        gain_BL = per_token(self._gain(levels)).to(logits.dtype).expand(x0.shape)
        total_BL, at_z_BL, at_x_BL = (
            theta.double() for theta in LogMixture.apply(logits, gain_BL, torch.where(is_mask, x0, xt), x0)
        )
        # The peak is rounded as the thetas are, so that a certain and true prediction costs nothing.
        behind_BL = torch.log1p(gain_BL).double() - at_x_BL
        gain_BL = gain_BL.double()
        kl_BL = per_token(levels.alpha) / gain_BL * ((1 + gain_BL) * behind_BL - (total_BL - at_x_BL))
        ratio_BL = torch.where(xt == x0, behind_BL, -at_z_BL)
        is_BL = torch.where(is_mask, 0.0, _itakura_saito(ratio_BL))
        return kl_BL.clamp(min=0), is_BL  # negative by rounding alone, as alpha -> 0

    def _gain(self, levels: Levels) -> Tensor:
        """q_t(x | x) / q_t(another token | x) - 1."""
        gain = self.num_tokens * levels.alpha / (levels.noise * levels.uniform)
        return gain.clamp(max=LARGEST_GAIN)

    def weights(self, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        """w_t(x_t, x_0) of the bound, (B, L) in float64, per unit of time."""
        levels = self.levels(t)
        stay = levels.uniform_rate / (1 + self._gain(levels))
        return self._by_state(x0, xt, levels.mask_rate, stay, levels.uniform_rate)

    def training_weights(self, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        """The weights of the training objective, in place of `weights`, (B, L) in float64.

        nelbo       the weights of the bound themselves.
        clamp       the same, at most max_weight.
        unweighted  weights / (-lambda'): the bound over log-SNR with the density p(lambda) replaced by 1,
                    while lambda is still drawn from it (arXiv 2512.10858, section 4.1). With mask noise
                    alone it is alpha times the cross-entropy.
        dynamic     2 at MASK, 1 at another token, (B / N) (t / (1 - t))^(gamma/2) at x_t = x_0, at most
                    max_weight: the weights' own ratios up to order 1/N (GIDD, section on loss weights).
        dynamic_released  what the released code v1.1.0 computes instead: sigmoid(-t) where the logarithm of
                    t / (1 - t) is meant, and V for N. To repeat published runs.
        """
        if self.objective in GIDD_WEIGHTS:
            assert self.peaked is not None, "these objectives are refused without p_u"
            half, one = self.peaked.gamma / 2, torch.ones_like(t, dtype=torch.float64)
            if self.objective == "dynamic":
                odds = t.double() / (1 - t.double()).clamp(min=SMALLEST)
                stay = self.peaked.peak / self.num_tokens * odds**half
            else:
                stay = self.peaked.peak / self.vocab_size * torch.exp(half * torch.sigmoid(-t.double()))
            return self._by_state(x0, xt, 2 * one, stay, one).clamp(max=self.max_weight)
        out = self.weights(x0, xt, t)
        if self.objective == "clamp":
            return out.clamp(max=self.max_weight)
        return out / per_token(self.levels(t).snr_rate) if self.objective == "unweighted" else out

    def _by_state(self, x0: Tensor, xt: Tensor, mask: Tensor, stay: Tensor, other: Tensor) -> Tensor:
        """Numbers per row, by whether x_t is MASK, x_0 or another token: (B, L)."""
        token = torch.where(xt == x0, per_token(stay), per_token(other))
        return torch.where(xt == self.mask_id, per_token(mask), token)

    def token_bound(self, logits: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        kl_BL, is_BL = self.divergences(logits, x0, xt, t)
        return (self.weights(x0, xt, t) * (kl_BL + is_BL)).to(logits.dtype)

    def token_loss(self, logits: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        kl_BL, is_BL = self.divergences(logits, x0, xt, t)
        return (self.training_weights(x0, xt, t) * (kl_BL + is_BL)).to(logits.dtype)

    # -- generation ------------------------------------------------------------------------------

    def posterior(self, probs: Tensor, xt: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """q(x_s | x_t, x_theta) for s < t, (B, L, V), each row summing to 1 (GIDD, section on sampling).

        probs: the network's x_theta (B, L, V), no mass on MASK. With kept = alpha_t / alpha_s, x_t came by
        a jump between s and t with probability jump = (beta_t pi_t - kept beta_s pi_s)(x_t), whatever
        x_s was; so the posterior is the marginal at s, or x_t itself, in the ratio of jump to
        kept q_s(x_t). A state that no jump leads to stays.
        """
        kept_B = self.levels(t).alpha / self.levels(s).alpha
        noise_s_BV = self.levels(s).noise[:, None] * self.mixing(s)
        noise_t_BV = self.levels(t).noise[:, None] * self.mixing(t)
        jump_BL = (noise_t_BV - kept_B[:, None] * noise_s_BV).gather(-1, xt).clamp(min=0)
        alpha_s = self.levels(s).alpha.to(probs.dtype)[:, None, None]
        before_BLV = alpha_s * probs + noise_s_BV.to(probs.dtype)[:, None]
        at_z_BL = before_BLV.gather(-1, xt[..., None])[..., 0].double()
        moved_BL = torch.where(jump_BL > 0, jump_BL / (jump_BL + kept_B[:, None] * at_z_BL), 0.0)
        moved_BL1 = moved_BL.to(probs.dtype)[..., None]
        return (moved_BL1 * before_BLV).scatter_add(-1, xt[..., None], 1 - moved_BL1)

    @property
    def masks_only(self) -> bool:
        return self.only_masks

    def posterior_parts(self, at_present: Tensor, xt: Tensor, t: Tensor, s: Tensor) -> Tensor:
        at_t, at_s = self.levels(t), self.levels(s)
        kept = at_t.alpha / at_s.alpha
        noise_t, noise_s = at_t.noise * self.mixing(t), at_s.noise * self.mixing(s)
        jump = (noise_t - kept * noise_s)[xt].clamp(min=0)
        stay = kept * (at_s.alpha * at_present + noise_s[xt])
        return torch.stack([stay.where(jump > 0, 1.0), jump * at_s.alpha, jump * at_s.noise], dim=1)

    def noise_ids(self, uniforms: Tensor, t: Tensor) -> Tensor:
        levels = self.levels(t)
        place = (uniforms - levels.masked) / levels.uniform.clamp(min=SMALLEST)
        ids = (place * self.num_tokens).long().clamp(min=0, max=self.num_tokens - 1)
        return torch.where(place < 0, self.mask_id, ids + (ids >= self.mask_id))


def _itakura_saito(log_ratio: Tensor) -> Tensor:
    """r - log r - 1 from log r; a series where the difference would cancel."""
    series = log_ratio**2 / 2 * (1 + log_ratio / 3 + log_ratio**2 / 12)
    return torch.where(log_ratio.abs() < 1e-4, series, torch.expm1(log_ratio) - log_ratio)
