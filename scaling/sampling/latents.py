"""Plaid's sampler: Gaussian latents from noise to text, then ids.

B batch, L length, E embedding dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch

from scaling.errors import UserError
from scaling.families.duality import latent_scales
from scaling.families.gaussian import Gaussian
from scaling.sampling.guided_latents import guided_model
from scaling.sampling.loop import Draft
from scaling.sampling.noise import Purpose, choose


def ancestral(draft: Draft, *, score_temperature: float = 1.0, greedy_tail: bool = False) -> Iterator[None]:
    """`steps` even steps of time, then ids from z_0: steps + 1 calls.

    z_s = (alpha_s / alpha_t)(1 - c) z_t + c alpha_s x_hat + sqrt(c) sigma_s eps with
    c = 1 - e^(gamma_s - gamma_t), in float64; every call reads the x_hat of the one before. score_temperature
    divides the predicted noise (published: 0.9; 1 samples the model). greedy_tail takes the likeliest ids at
    the end, as published, instead of drawing them.
    """
    family, reader = draft.family, draft.reader
    model: Any = guided_model(reader)  # a GaussianTransformer, or what restores latents as it does
    assert isinstance(family, Gaussian), "a sampler of this family"
    family.require(
        0 < score_temperature < math.inf, f"score_temperature is {score_temperature}, it must be positive"
    )
    if not bool(draft.free.all()):
        raise UserError(f"family {family.name!r} makes whole texts: it takes no prompt")
    count, length = draft.ids.shape
    shape = (count, length, family.embed_dim)
    z = draft.noise.normals(0, Purpose.START, length * family.embed_dim).view(shape)
    rows = model.rows()
    guess = torch.zeros_like(z, dtype=rows.dtype)
    gammas = model.schedule(draft.times)[0]
    yield
    for step, (at, to) in enumerate(pairwise(gammas)):
        previous = guess if family.self_conditioning else None
        with reader.counting(draft.ids):
            guess = model.restore(z.to(rows.dtype), at.expand(count), draft.ids, guess=previous)[0]
        alpha_t, (alpha_s, sigma_s) = latent_scales(at)[0], latent_scales(to)
        x = guess.double()
        if score_temperature != 1:
            x = (z - (z - alpha_t * x) / score_temperature) / alpha_t
        fresh = -torch.expm1(to - at)
        noise = draft.noise.normals(step, Purpose.FRESH, length * family.embed_dim).view(shape)
        z = alpha_s / alpha_t * (1 - fresh) * z + fresh * alpha_s * x + fresh.sqrt() * sigma_s * noise
        yield
    previous = guess if family.self_conditioning else None
    with reader.counting(draft.ids):
        logits = model(z.to(rows.dtype), gammas[-1].expand(count), guess=previous)
    probs = reader.filters(logits.double().softmax(-1)).flatten(0, 1)
    ids = probs.argmax(-1) if greedy_tail else choose(probs, draft.noise.at(0, Purpose.CLEAN, draft.free))
    draft.ids[draft.free] = ids
    yield
