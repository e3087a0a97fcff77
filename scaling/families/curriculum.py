"""Duo's Gaussian curriculum for family `uniform`: early steps read softened tokens instead of ids.

A step of the first phase draws a Gaussian latent w of the clean token (`scaling.families.duality`), whose
argmax z is the noisy token of the loss, and shows the network softmax(w / temperature) as a mixture of
embeddings. The loss is the bound's integrand at the latent's alpha, but the input knows more than z and
alpha does not run over all of (0, 1), so the phase is biased: its losses are no bound and lie below it.

Full form (arXiv 2506.10892, section 4.1): the whole latent, B x L x V numbers of the whole batch.
Top-k form (arXiv 2602.21185): of the V - 1 other ids only the largest latents are drawn, as order
statistics; the unseen rest enters the softmax by its mean. Exact for z; the mixture leaves out what the
ids beyond the k largest would weigh.

The published top-k code sets z to the clean token whenever that is among the k largest, so that
P(z = x_0) is 0.37 where alpha says 0.295 (V = 50257, gamma = -2.6, k = 2); and the id of its largest other
latent is never the last one. Here z is the argmax and the ids are drawn in uniform order.

B batch, L length, V vocabulary, K kept ids, M drawn others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scaling.errors import UserError
from scaling.families.base import Noised
from scaling.families.duality import Signal, gamma_of, latent_scales, to_discrete

FORMS = ("full", "top_k")

CHUNK_ELEMENTS = 1 << 22
"""Numbers of a full latent drawn at once: 16 MiB."""

HARD = 1e10
"""Inverse temperature from the end of a falling schedule on: argmax, as in the published code."""


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _require(holds: bool, option: str, value: object, rule: str) -> None:
    if not holds:
        raise UserError(f"family 'uniform': {option} is {value!r}, it must {rule}")


@dataclass(frozen=True, kw_only=True)
class Curriculum:
    """The first phase of training. Defaults are the published ones (Duo section 5.1; Duo++ for `top_k`)."""

    vocab_size: int
    form: str
    share: float = 0.5
    """Share of the steps it lasts."""
    top_k: int = 2
    """Ids whose embeddings are mixed in the top-k form."""
    temperature: float = 1e-3
    final_temperature: float | None = None
    """Where the temperature ends, falling log-linearly over the phase; None: it stays."""
    alpha_range: Sequence[float] = (0.95, 0.05)
    """Signal level at the earliest and at the latest noise time; in between gamma is linear in time."""

    def __post_init__(self) -> None:
        final, pair = self.final_temperature, self.alpha_range
        _require(self.form in FORMS, "curriculum", self.form, "be 'none', 'full' or 'top_k'")
        _require(_number(self.share) and 0 < self.share <= 1, "curriculum_share", self.share, "lie in (0, 1]")
        fine = isinstance(self.top_k, int) and 1 <= self.top_k <= self.vocab_size
        rule = f"be a whole number from 1 to the {self.vocab_size} ids of the vocabulary"
        _require(fine, "top_k", self.top_k, rule)
        fine = _number(self.temperature) and self.temperature > 0
        _require(fine, "temperature", self.temperature, "be positive")
        fine = final is None or (_number(final) and 0 < final <= self.temperature)
        rule = f"lie in (0, {self.temperature}], up to the temperature at the start"
        _require(fine, "final_temperature", final, rule)
        fine = isinstance(pair, list | tuple) and len(pair) == 2 and all(_number(x) for x in pair)
        fine = fine and 1 > pair[0] > pair[1] > 0
        _require(fine, "alpha_range", pair, "be two falling signal levels between 1 and 0")

    def active(self, progress: float) -> bool:
        """Whether a step at this share of the steps belongs to the phase."""
        return progress < self.share

    @cached_property
    def gamma_range(self) -> tuple[float, float]:
        """gamma at noise times 0 and 1, at the discrete signal levels of `alpha_range`."""
        first, last = gamma_of(torch.tensor(list(self.alpha_range), dtype=torch.float64), self.vocab_size)
        return float(first), float(last)

    @property
    def heads(self) -> float:
        """Work of the soft input beside a plain run, averaged over training, in heads.

        The full form multiplies (B, L, V) weights with the embedding, and back for its gradient: two of the
        three products that the head costs. The top-k form gathers rows and multiplies next to nothing.
        """
        return 2 / 3 * self.share if self.form == "full" else 0.0

    def inverse_temperature(self, progress: float) -> float:
        final = self.temperature if self.final_temperature is None else self.final_temperature
        at = torch.tensor(progress, dtype=torch.float64)
        return float(falling_inverse_temperature(at, 0.0, self.share, self.temperature, final))

    def batch(self, x0: Tensor, t: Tensor, generator: torch.Generator, progress: float) -> Noised:
        """x0 (B, L) at noise times t (B,): z in `xt`, and in `extra` the soft input and the signal.

        `signal` (B, 3): alpha, 1 - alpha, d alpha / dt in float64. `weights`: (B, L, V), or (B, L, K) with
        the `ids` (B, L, K) they belong to; float32.
        """
        gamma = gamma_at(t, self.gamma_range)
        signal = torch.stack(signal_at(t, self.gamma_range, self.vocab_size), dim=-1)
        inverse = self.inverse_temperature(progress)
        if self.form == "full":
            z, weights = full_input(x0, gamma, self.vocab_size, inverse, generator)
            return Noised(x0, z, t, extra={"signal": signal, "weights": weights})
        ids, weights = top_k_input(x0, gamma, self.vocab_size, self.top_k, inverse, generator)
        extra = {"signal": signal, "weights": weights.float(), "ids": ids}
        return Noised(x0, ids[..., 0], t, extra=extra)


def build_curriculum(vocab_size: int, form: str, **options: Any) -> Curriculum | None:
    """The curriculum of family `uniform` from its options, None if it has none.

    Options that are None keep their defaults. UserError names one that does not belong to the form.
    """
    settings = {name: value for name, value in options.items() if value is not None}
    for name, value in settings.items():
        forms = "'top_k'" if name == "top_k" else "'full' or 'top_k'"
        fits = form != "none" and (name != "top_k" or form == "top_k")
        _require(fits, name, value, f"come with curriculum {forms}")
    if form == "none":
        return None
    if "curriculum_share" in settings:
        settings["share"] = settings.pop("curriculum_share")
    return Curriculum(vocab_size=vocab_size, form=form, **settings)


def embed(embedding: Tensor, noised: Noised) -> Tensor:
    """The mixtures of the rows of embedding (V, D) that `Curriculum.batch` drew: (B, L, D).

    In the embedding's precision whatever autocast says: weights near 1 would round to 1.
    """
    if embedding.ndim == 3:  # of each replica
        own = zip(embedding, noised.split(len(embedding)), strict=True)
        return torch.cat([embed(table, rows) for table, rows in own])
    weights = noised.extra["weights"].to(embedding.dtype)
    with torch.autocast(embedding.device.type, enabled=False):
        if "ids" not in noised.extra:
            return weights @ embedding
        ids = noised.extra["ids"].flatten(0, 1)
        bags = F.embedding_bag(ids, embedding, per_sample_weights=weights.flatten(0, 1), mode="sum")
    return bags.view(*noised.x0.shape, -1)


# -- noise levels and temperatures ----------------------------------------------------------------


def gamma_at(t: Tensor, gamma_range: tuple[float, float]) -> Tensor:
    """gamma = -log SNR of the latent at noise times t: linear between the two ends."""
    first, last = gamma_range
    return first + (last - first) * t


def signal_at(t: Tensor, gamma_range: tuple[float, float], vocab_size: int) -> Signal:
    """alpha, 1 - alpha and d alpha / dt (not d gamma) at noise times t, each of t's shape, float64."""
    alpha, noise, slope = to_discrete(gamma_at(t, gamma_range), vocab_size)
    return Signal(alpha, noise, slope * (gamma_range[1] - gamma_range[0]))


def falling_inverse_temperature(
    step: Tensor, start: float, end: float, temperature: float, final_temperature: float
) -> Tensor:
    """1 / temperature at `step` (any unit): falls log-linearly from `start` to `end`, HARD from `end` on.

    The schedule of the released configuration (0.1 to 0.01); the published runs hold 1e-3 throughout.
    """
    share = ((step.double() - start) / (end - start)).clamp(0, 1)
    log_first, log_final = math.log(temperature), math.log(final_temperature)
    inverse = torch.exp(-(log_first + share * (log_final - log_first)))
    return torch.where(step < end, inverse, HARD)


# -- full form ------------------------------------------------------------------------------------


def full_input(
    x0: Tensor, gamma: Tensor, vocab_size: int, inverse_temperature: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The argmax (B, L) of the whole latent and its softmax weights (B, L, V), float32.

    x0 (B, L), gamma (B,). Drawn some rows at a time: beside the weights little memory is needed.
    """
    z = torch.empty_like(x0)
    weights = torch.empty((*x0.shape, vocab_size), device=x0.device)
    for rows in torch.arange(len(x0)).split(max(1, CHUNK_ELEMENTS // weights[0].numel())):
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        epsilon = torch.randn(weights[part].shape, generator=generator, device=x0.device)
        latent_BLV = gaussian_latent(x0[part], gamma[part].float(), epsilon)
        z[part] = latent_BLV.argmax(-1)
        weights[part] = tempered_weights(latent_BLV, inverse_temperature)
    return z, weights


def gaussian_latent(x0: Tensor, gamma: Tensor, epsilon: Tensor) -> Tensor:
    """w (B, L, V) of x0 (B, L) at gamma (B,), from standard normal epsilon (B, L, V)."""
    kept_B, spread_B = latent_scales(gamma)
    latent_BLV = epsilon * spread_B[:, None, None]
    kept_BL1 = kept_B[:, None, None].expand(*x0.shape, 1)
    return latent_BLV.scatter_add_(-1, x0[..., None], kept_BL1)


def tempered_weights(latent: Tensor, inverse_temperature: float) -> Tensor:
    """softmax(w / temperature) over the last dimension."""
    return (latent * inverse_temperature).softmax(-1)


# -- top-k form -----------------------------------------------------------------------------------


def top_k_input(
    x0: Tensor,
    gamma: Tensor,
    vocab_size: int,
    top_k: int,
    inverse_temperature: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """The top_k ids of largest latent and their softmax weights, both (B, L, K), largest first.

    x0 (B, L), gamma (B,). ids[..., 0] is the argmax of all V latents. Weights (float64) add up to less
    than 1: the denominator holds every latent, those not drawn by the mean of what lies below the smallest
    one drawn. With top_k = V nothing is left out and the result is the full form's, sorted.
    """
    num_others = min(top_k, vocab_size - 1)
    kept_B, spread_B = latent_scales(gamma.double())
    spread_B11 = spread_B[:, None, None]
    shape, device = (*x0.shape, num_others), x0.device
    uniforms_BLM = torch.rand(shape, generator=generator, dtype=torch.float64, device=device)
    others_BLM = spread_B11 * largest_normals(uniforms_BLM, vocab_size - 1)
    true_BL1 = torch.randn((*x0.shape, 1), generator=generator, dtype=torch.float64, device=device)
    true_BL1 = kept_B[:, None, None] + spread_B11 * true_BL1
    ids = torch.cat([x0[..., None], distinct_others(x0, num_others, vocab_size, generator)], dim=-1)

    scaled = inverse_temperature * torch.cat([true_BL1, others_BLM], dim=-1)
    log_total = torch.logsumexp(scaled, dim=-1, keepdim=True)
    unseen = vocab_size - 1 - num_others
    if unseen:
        log_mean = log_mean_exp_below(scaled[..., -1:], inverse_temperature * spread_B11)
        log_total = torch.logaddexp(log_total, math.log(unseen) + log_mean)
    top, place = scaled.topk(top_k, dim=-1)
    return ids.gather(-1, place), torch.exp(top - log_total)


def largest_normals(uniforms: Tensor, count: int) -> Tensor:
    """The M largest of `count` standard normals, falling, from uniforms in [0, 1), (..., M).

    The largest of n uniforms is distributed as U^(1/n), and the next as the largest of n - 1 below it.
    Computed with logs and from the upper tail, which has the digits.
    """
    left = torch.arange(count, count - uniforms.shape[-1], -1, dtype=uniforms.dtype, device=uniforms.device)
    log_place = (torch.log(uniforms.clamp(min=2.0**-54)) / left).cumsum(-1)
    above = -torch.expm1(log_place)
    upper = above < 0.5
    return torch.where(upper, -torch.special.ndtri(above), torch.special.ndtri(torch.exp(log_place)))


def distinct_others(x0: Tensor, count: int, vocab_size: int, generator: torch.Generator) -> Tensor:
    """(*x0.shape, count) different ids, none of them x0, every ordered choice equally likely."""
    taken, chosen = [x0], []
    for i in range(count):
        ids = torch.randint(vocab_size - 1 - i, x0.shape, generator=generator, device=x0.device)
        for smaller in taken:  # in rising order: the rank among the free ids becomes an id
            ids = ids + (ids >= smaller)
        chosen.append(ids)
        taken = list(torch.stack([*taken, ids]).sort(0).values)
    return torch.stack(chosen, dim=-1)


def log_mean_exp_below(limit: Tensor, spread: Tensor) -> Tensor:
    """log E[exp X | X < limit] of X ~ N(0, spread^2).

    = spread^2 / 2 + log Phi(limit / spread - spread) - log Phi(limit / spread). The first two cancel where
    spread is large (300 at the published temperature); with erfcx their sum is written without them.
    """
    end = limit / spread
    below = end - spread
    safe = below.clamp(max=0)
    # log Phi(y) = -y^2 / 2 + log(erfcx(-y / sqrt 2) / 2), and spread^2 / 2 - below^2 / 2 = limit - end^2 / 2
    scaled = limit - end.square() / 2 + torch.log(torch.special.erfcx(-safe / math.sqrt(2)) / 2)
    plain = spread.square() / 2 + torch.special.log_ndtr(below.clamp(min=0))
    return torch.where(below < 0, scaled, plain) - torch.special.log_ndtr(end)
