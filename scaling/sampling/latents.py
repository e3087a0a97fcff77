"""Plaid's samplers: Gaussian latents from noise to text, then ids.

A step from gamma_t to gamma_s, with c = 1 - e^(gamma_s - gamma_t) and x_hat the network's expected vectors,
in float64 (arXiv 2305.18619; DDIM: arXiv 2010.02502):

    ancestral   z_s = (alpha_s / alpha_t) (1 - c) z_t + c alpha_s x_hat + sqrt(c) sigma_s eps
    ddim        z_s = alpha_s x_hat + sigma_s (z_t - alpha_t x_hat) / sigma_t

Every call reads the x_hat of the one before, so self-conditioning costs no call of its own. Nothing can be
cached, for every call is told another noise level.

score_temperature divides the predicted noise before the step (1 samples the model, published: 0.9), wishes
then move x_hat, and greedy_tail takes the likeliest ids at the end instead of drawing them.

Prompts may give any places. The latents of a given token are drawn anew at every step from its own noise,
which is independent of the other places once the token is known; and x_hat of the free places gains
(sigma^2 / alpha) times the gradient of the sum of ln p(given token), without which the network would see the
prompt through that noise alone. With factor 1 this is Bayes' rule for one given token. For several the
network's laws of each are multiplied in place of their joint law, which counts twice what they say together;
so the factor is 1 / sqrt(n) for n of them, unless `prompt_weight` says otherwise. A call with wishes or a
prompt takes a backward pass beside the one that is counted.

B batch, L length, E embedding dimensions, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from scaling.families.duality import latent_scales
from scaling.families.gaussian import Gaussian, latents
from scaling.sampling.guided_latents import guided_model
from scaling.sampling.loop import Draft
from scaling.sampling.noise import Purpose, choose


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenWish:
    """A token, or a word of several, that texts are pulled towards, or pushed away from, by the network's own
    prediction.

    x_hat gains (sigma^2 / alpha) times the gradient, over the latents, of weight times ln p(token) at a
    place, the sum of that over all places, or, "any", the logarithm of the sum of p over the places
    (published with the length taken off it, which changes no gradient). For one wish of weight 1 at one
    place this is Bayes' rule: with exact predictions and many steps texts follow the law given that token.
    """

    token: int
    weight: float = 2.0
    """Published: 2, which overstates the wish."""
    place: int | Literal["any", "all"] = "any"
    absent: bool = False
    """ln(1 - p) instead: "not this"."""
    then: tuple[int, ...] = ()
    """Tokens that follow it. The probability of the word is taken as the product of theirs, as the network
    predicts each apart, and its place is that of the first."""

    @property
    def tokens(self) -> tuple[int, ...]:
        return (self.token, *self.then)

    def check(self, family: Gaussian, length: int) -> None:
        """UserError for a value out of range."""
        starts = length - len(self.then)
        inside = isinstance(self.place, str) or 0 <= self.place < starts
        word = f" and the wish {len(self.tokens)}" if self.then else ""
        for holds, rule in (
            *(
                (0 <= token < family.vocab_size, f"token is {token}, ids are below {family.vocab_size}")
                for token in self.tokens
            ),
            (starts > 0, f"it has {len(self.tokens)} tokens, the text has {length}"),
            (math.isfinite(self.weight), f"weight is {self.weight}, it must be finite"),
            (inside, f"place is {self.place}, the text has {length} tokens{word}"),
            (
                not isinstance(self.place, str) or self.place in ("any", "all"),
                f"place is {self.place!r}, it must be a number, 'any' or 'all'",
            ),
        ):
            family.require(holds, f"wishes: {rule}")

    def log_chance(self, logits: Tensor) -> Tensor:
        """weight times the logarithm of the wish's probability, (B,), from logits (B, L, V)."""
        whole, starts = logits.logsumexp(-1), logits.shape[1] - len(self.then)
        if self.absent and not self.then:
            others = logits.clone()
            others[..., self.token] = -math.inf
            chances = others.logsumexp(-1) - whole
        else:
            each = [
                (logits[..., token] - whole)[:, after : after + starts]
                for after, token in enumerate(self.tokens)
            ]
            chances = torch.stack(each).sum(0)
            if self.absent:  # of a word that is all but certain, as far as its gradient is finite
                chances = (-torch.expm1(chances.clamp(max=-1e-9))).log()
        if self.place == "any":
            return self.weight * chances.logsumexp(-1)
        return self.weight * (chances.sum(-1) if self.place == "all" else chances[:, self.place])


def ancestral(
    draft: Draft,
    *,
    score_temperature: float = 1.0,
    greedy_tail: bool = False,
    wishes: Sequence[TokenWish] = (),
    prompt_weight: float | None = None,
) -> Iterator[None]:
    """`steps` even steps of time, then ids from z_0: steps + 1 calls."""
    yield from _denoise(draft, score_temperature, greedy_tail, wishes, prompt_weight)


def ddim(
    draft: Draft,
    *,
    score_temperature: float = 1.0,
    greedy_tail: bool = False,
    wishes: Sequence[TokenWish] = (),
    prompt_weight: float | None = None,
) -> Iterator[None]:
    """As `ancestral` without fresh noise: a text is a function of the latents it starts from."""
    yield from _denoise(draft, score_temperature, greedy_tail, wishes, prompt_weight, fresh_noise=False)


def released(
    draft: Draft,
    *,
    score_temperature: float = 0.9,
    greedy_tail: bool = True,
    wishes: Sequence[TokenWish] = (),
    prompt_weight: float | None = None,
) -> Iterator[None]:
    """The published loop with its defaults, to repeat its figures: see `released_times` for what is wrong."""
    yield from _denoise(draft, score_temperature, greedy_tail, wishes, prompt_weight, as_released=True)


def released_times(steps: int) -> Tensor:
    """(steps, 2) the time that each call is told and the time its step goes to.

    Calls are spaced by 1 / (steps - 1), steps by 1 / steps: latents are a little noisier than the next call
    is told, which 4096 steps hide and 8 do not. The last call moves nothing; its x_hat is a second opinion.
    """
    calls = torch.linspace(1, 0, steps, dtype=torch.float64)
    return torch.stack([calls, (calls - 1 / steps).clamp(min=0)], dim=1)


def _denoise(
    draft: Draft,
    score_temperature: float,
    greedy_tail: bool,
    wishes: Sequence[TokenWish],
    prompt_weight: float | None,
    *,
    fresh_noise: bool = True,
    as_released: bool = False,
) -> Iterator[None]:
    family, reader, (count, length) = draft.family, draft.reader, draft.ids.shape
    model: Any = guided_model(reader)  # a GaussianTransformer, or what restores latents as it does
    assert isinstance(family, Gaussian), "a sampler of this family"
    family.require(
        0 < score_temperature < math.inf, f"score_temperature is {score_temperature}, it must be positive"
    )
    family.require(
        not as_released or draft.steps >= 2,
        f"sampling steps is {draft.steps}, sampler 'released' needs at least 2",
    )
    family.require(
        prompt_weight is None or 0 <= prompt_weight < math.inf,
        f"prompt_weight is {prompt_weight}, it must be at least 0 and finite",
    )
    for wish in wishes:
        wish.check(family, length)
    fixed = ~draft.free
    weight = fixed.sum(dim=1, keepdim=True).clamp(min=1).double().rsqrt()
    if prompt_weight is not None:
        weight = torch.full_like(weight, prompt_weight)
    steered = bool(wishes) or (bool(fixed.any()) and bool((weight > 0).any()))
    pairs = released_times(draft.steps) if as_released else even_times(draft.times)
    gammas = model.schedule(pairs.to(draft.ids.device).flatten())[0].view_as(pairs)
    last = model.schedule(draft.times[-1:])[0]
    rows, free = model.rows(), draft.free[..., None]
    clean = rows[draft.ids].double()

    def normals(step: int, purpose: Purpose) -> Tensor:
        return draft.noise.normals(step, purpose, length * family.embed_dim).view(clean.shape)

    start = normals(0, Purpose.START)
    z = torch.where(free, start, latents(clean, start, gammas[0, :1]))
    guess = torch.zeros_like(clean, dtype=rows.dtype)
    yield
    for step, (at, to) in enumerate(gammas):
        previous = guess if family.self_conditioning else None
        push = torch.zeros_like(z)
        with reader.counting(draft.ids):
            if steered:
                guess, push = guided(model, z.to(rows.dtype), at, previous, wishes, draft.ids, weight * fixed)
            else:
                guess = model.restore(z.to(rows.dtype), at.expand(count), draft.ids, guess=previous)[0]
        if as_released and step == draft.steps - 1:
            break
        x = tempered(z, guess.double(), at, score_temperature) + push.double()
        noise = normals(step, Purpose.FRESH) if fresh_noise else start
        forward = latents(clean, noise, to[None])
        z = torch.where(free, moved(z, x, at, to, noise if fresh_noise else None), forward)
        yield
    previous = guess if family.self_conditioning else None
    with reader.counting(draft.ids):
        logits = model(z.to(rows.dtype), last.expand(count), guess=previous)
    probs = reader.filters(logits.double().softmax(-1))[draft.free]
    ids = probs.argmax(-1) if greedy_tail else choose(probs, draft.noise.at(0, Purpose.CLEAN, draft.free))
    draft.ids[draft.free] = ids
    yield


def even_times(times: Tensor) -> Tensor:
    """(steps, 2) pairs of neighbours of times (steps + 1,)."""
    return torch.stack([times[:-1], times[1:]], dim=1)


def tempered(z: Tensor, x: Tensor, gamma: Tensor, temperature: float) -> Tensor:
    """x_hat after the noise (z - alpha x_hat) / sigma that it implies was divided by a temperature."""
    if temperature == 1:
        return x
    alpha = latent_scales(gamma)[0]
    return (z - (z - alpha * x) / temperature) / alpha


def moved(z: Tensor, x: Tensor, at: Tensor, to: Tensor, noise: Tensor | None) -> Tensor:
    """z at gamma `to` from z at gamma `at` and x_hat; without noise (of z's shape) by DDIM."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = latent_scales(at), latent_scales(to)
    if noise is None:
        return alpha_s * x + sigma_s * (z - alpha_t * x) / sigma_t
    fresh = -torch.expm1(to - at)
    return alpha_s / alpha_t * (1 - fresh) * z + fresh * alpha_s * x + fresh.sqrt() * sigma_s * noise


@torch.enable_grad()
def guided(
    model: Any,
    z: Tensor,
    gamma: Tensor,
    guess: Tensor | None,
    wishes: Sequence[TokenWish],
    ids: Tensor | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """x_hat (B, L, E) at latents z (B, L, E) and one gamma, and what the wishes add to it, together with
    weights (B, L) times ln p(ids)."""
    z = z.detach().requires_grad_()
    logits = model(z, gamma.expand(len(z)), guess=guess)
    chance = logits.new_zeros(())
    for wish in wishes:
        chance = chance + wish.log_chance(logits).sum()
    if ids is not None and weights is not None:
        prompt = logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
        chance = chance + (weights.to(prompt.dtype) * prompt).where(weights > 0, 0.0).sum()
    (slope,) = torch.autograd.grad(chance, z)
    alpha, sigma = (level.to(z.dtype) for level in latent_scales(gamma))
    return (logits.softmax(-1) @ model.rows()).detach(), sigma**2 / alpha * slope
