"""The shared transformer with a continuous front: latents in, logits and an expected embedding out.

Plaid (arXiv 2305.18619). Beside the network this model holds what family gaussian learns with it: a unit
vector per token, which takes the place of the input embedding, and the noise schedule. gamma is the
negative log of the signal-to-noise ratio: alpha^2 = sigmoid(-gamma), sigma^2 = sigmoid(gamma).

The network is the one all families share, so that families compare: adaLN (on gamma) stays, and Plaid's
own input maps stand before it. Plaid's RMSNorm and its residual branches divided by sqrt(layers) are left
out, and so is its muP for the option that all families share (`scaling.models.parametrization`).

B batch, L length, E embedding width, D hidden size, V vocabulary, n positions, U units of the schedule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaling.ladder import Size
from scaling.models import head
from scaling.models.parametrization import STANDARD, Parametrization
from scaling.models.replicas import Linear, per_row
from scaling.models.transformer import Transformer, build_model

FREQUENCIES = 32
"""Of gamma, e^-5 to e^5: the input map reads a sine and a cosine of each."""
NORM_EPS = 1e-8


class NoiseSchedule(nn.Module):
    """gamma(t) = gamma_0 + (gamma_1 - gamma_0) s(t), s rising from 0 to 1: a learned monotone function.

    s comes from one hidden layer of tanh units whose weights pass through a softplus (the published code;
    its factor 0.01 cancels in the normalisation). All in float64.
    """

    def __init__(self, gamma_0: float, gamma_1: float, units: int) -> None:
        super().__init__()
        self.endpoints = nn.Parameter(torch.tensor([gamma_0, gamma_1]))
        self.steepness = nn.Parameter(torch.empty(units))
        self.offset = nn.Parameter(torch.empty(units))
        self.height = nn.Parameter(torch.empty(units))

    def course(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """s(t) and ds/dt of times t (B,), each (B,) in float64."""
        weights = (self.steepness, self.offset, self.height)
        if self.steepness.ndim == 1:
            return _course(t, *weights)
        courses = [_course(*own) for own in zip(t.chunk(len(self.steepness)), *weights, strict=True)]
        levels, slopes = zip(*courses, strict=True)
        return torch.cat(levels), torch.cat(slopes)

    def ends(self, rows: int) -> tuple[Tensor, Tensor]:
        """gamma_0 and gamma_1 in float64: scalars; with replicas one of each of so many rows, (rows,)."""
        ends = self.endpoints.double()
        first, last = (ends if ends.ndim == 1 else per_row(ends, rows)).unbind(-1)
        return first, last

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """gamma(t) and its derivative at times t (B,), each (B,) in float64."""
        course, slope = self.course(t)
        gamma_0, gamma_1 = self.ends(len(t))
        return gamma_0 + (gamma_1 - gamma_0) * course, (gamma_1 - gamma_0) * slope


def _course(t: Tensor, steepness_U: Tensor, offset_U: Tensor, height_U: Tensor) -> tuple[Tensor, Tensor]:
    """`NoiseSchedule.course` from the weights before the softplus, each (U,)."""
    steepness_U, height_U = (F.softplus(w.double()) for w in (steepness_U, height_U))
    times = torch.cat([t.double(), t.new_tensor([0, 1], dtype=torch.float64)])
    inner = torch.tanh(steepness_U * (times[:, None] - 0.5) + offset_U.double())
    level = inner @ height_U
    slope = (1 - inner * inner) @ (steepness_U * height_U)
    span = level[-1] - level[-2]
    return (level[:-2] - level[-2]) / span, slope[:-2] / span


class GaussianTransformer(Transformer):
    """Latents and gamma in, logits out; `restore` gives the loss's part of them in bounded memory."""

    def __init__(
        self,
        size: Size,
        vocab_size: int,
        *,
        embed_dim: int,
        endpoints: tuple[float, float],
        schedule_units: int,
        auxiliary_rate: float,
        classes: int = 0,
        parametrization: Parametrization = STANDARD,
    ) -> None:
        super().__init__(size, vocab_size, classes=classes, parametrization=parametrization)
        self.embed_dim = embed_dim
        self.embedding = nn.Parameter(torch.empty(vocab_size, embed_dim))
        self.input_linear = Linear(embed_dim, size.hidden, bias=False)
        self.selfcond_linear = Linear(embed_dim, size.hidden, bias=False)
        self.gamma_linear = Linear(2 * FREQUENCIES, size.hidden, bias=False)
        self.schedule = NoiseSchedule(*endpoints, schedule_units)
        # No weight decay. The published one shrinks the endpoints by 1e-3 a step at the peak rate: the loss
        # holds against that over 92,000 steps, while a desk run of 950 lost two fifths of both.
        self.own_rates: Mapping[str, tuple[float, float | None]] = {
            "schedule.endpoints": (auxiliary_rate, 0.0),
            "schedule": (auxiliary_rate, 0.0),
            "embedding": (auxiliary_rate, 0.0),
        }

    def rows(self) -> Tensor:
        """(V, E) the tokens' unit vectors."""
        return unit(self.embedding)

    def forward(  # type: ignore[override]
        self,
        latents: Tensor,
        gamma: Tensor,
        *,
        guess: Tensor | None = None,
        strength: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, L, V) of latents (B, L, E) at noise levels gamma (B,), output prior included.

        guess: (B, L, E) the expected embeddings of an earlier pass (self-conditioning); none: zeros.
        strength: (B,) weight of the output prior, 1 by default. labels: as of `Transformer.trunk`.
        """
        features = self._features(latents, gamma, guess, labels)
        logits = self.predict(features, self.vocab_size).to(latents.dtype)
        return logits + _pull(latents, gamma, strength) @ self.rows().mT

    def restore(
        self,
        latents: Tensor,
        gamma: Tensor,
        ids: Tensor,
        *,
        guess: Tensor | None = None,
        strength: Tensor | None = None,
        rows: Tensor | None = None,
        kept: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Expected embeddings x_hat = sum_v p_v e_v (B, L, E), and -log p(ids) (B, L) in nats.

        Arguments as in `forward`; ids (B, L) is the clean text. rows: `self.rows()`, if the caller has
        them already. kept: (B,) bool, whose gradient reaches the rows through logits and x_hat; by default
        all. Logits of at most `head.CHUNK_ELEMENTS` exist at once; if that takes several chunks the
        backward pass makes them anew.
        """
        features = self._features(latents, gamma, guess, labels)
        length = ids.shape[1]
        if kept is None:
            kept = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
        device = ids.device.type
        compute = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else latents.dtype
        weights = (self.head.weight, self.head.bias, self.rows() if rows is None else rows)
        pull = _pull(latents, gamma, strength).flatten(0, 1)
        about = (features.flatten(0, 1), pull, kept.repeat_interleave(length), ids.flatten())
        with torch.autocast(device, enabled=False):
            if self.replicas == 1:
                x_hat, nats = _Restored.apply(*weights, *about, compute)
            else:
                groups = (x.chunk(self.replicas) for x in about)
                each = [_Restored.apply(*own, compute) for own in zip(*weights, *groups, strict=True)]
                x_hat, nats = (torch.cat(parts) for parts in zip(*each, strict=True))
        return x_hat.unflatten(0, ids.shape), nats.view_as(ids)

    def _features(
        self, latents: Tensor, gamma: Tensor, guess: Tensor | None, labels: Tensor | None = None
    ) -> Tensor:
        """(B, L, D) after the last normalisation: the three input maps, then the shared network."""
        size = (torch.sigmoid(-gamma) / self.embed_dim + torch.sigmoid(gamma)).rsqrt()
        x = self.input_linear(latents * size.to(latents.dtype)[:, None, None])  # variance 1 per dimension
        if guess is None:
            guess = torch.zeros_like(latents)
        x = x + self.selfcond_linear(guess * math.sqrt(self.embed_dim))
        x = x + self.gamma_linear(_waves(gamma).to(latents.dtype))[:, None]
        return self.trunk(x, gamma) if labels is None else self.trunk(x, gamma, labels=labels)


def unit(vectors: Tensor) -> Tensor:
    """Vectors (..., E) divided by their norm, as in the published code (the paper names no constraint)."""
    return vectors / (torch.linalg.vector_norm(vectors, dim=-1, keepdim=True) + NORM_EPS)


def build_gaussian_model(
    size: Size, vocab_size: int, *, generator: torch.Generator, **options: Any
) -> GaussianTransformer:
    """A network with fresh weights drawn from `generator` (a CPU generator); options as of the class.

    The transformer starts as for all families; tokens' vectors are Gaussian directions, the schedule's
    weights Gaussian, and the maps of guess and gamma 0.
    """
    with torch.random.fork_rng(devices=[]):  # PyTorch fills fresh layers from its own generator
        model = GaussianTransformer(size, vocab_size, **options)
        plain = build_model(
            size, 1, causal=False, generator=generator, parametrization=model.parametrization
        ).state_dict()
    own = model.state_dict()
    with torch.no_grad():
        for name, value in own.items():
            if name in plain and name not in ("embedding", "head.weight", "head.bias"):
                value.copy_(plain[name])
            elif not name.startswith("schedule."):
                value.zero_()
        bound = 1 / math.sqrt(model.embed_dim)
        model.input_linear.weight.uniform_(-bound, bound, generator=generator)
        model.embedding.copy_(unit(torch.randn(model.embedding.shape, generator=generator)))
        for weights in (model.schedule.steepness, model.schedule.offset, model.schedule.height):
            weights.normal_(generator=generator)
    return model


def _pull(latents: Tensor, gamma: Tensor, strength: Tensor | None) -> Tensor:
    """strength (alpha / sigma^2) z (B, L, E); times e_v, the log-density of z up to a constant.

    N(z; alpha e_v, sigma^2) without -alpha^2 |e_v|^2 / (2 sigma^2), which is the same for unit vectors.
    """
    gain = torch.sigmoid(-gamma).sqrt() / torch.sigmoid(gamma)
    if strength is not None:
        gain = gain * strength
    return latents * gain.to(latents.dtype)[:, None, None]


def _waves(gamma: Tensor) -> Tensor:
    """(B, 2 * FREQUENCIES) in float64: sines, then cosines, of gamma times rising frequencies."""
    exponents = torch.linspace(-5, 5, FREQUENCIES, dtype=torch.float64, device=gamma.device)
    angles = gamma.double()[:, None] * exponents.exp()
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class _Restored(torch.autograd.Function):
    """Expected embeddings and negative log-likelihoods of n positions; one array of V columns at a time.

    Written out because the embedding's gradient comes from some positions only (`kept`), which autograd
    could do at twice the products, and because a product, a softmax and a product leave one array of n x V
    to keep, or none if it is made again chunk by chunk.
    """

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        bias: Tensor,
        rows: Tensor,
        features: Tensor,
        pull: Tensor,
        kept: Tensor,
        ids: Tensor,
        compute: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        ctx.compute = compute
        ctx.chunk = max(1, head.CHUNK_ELEMENTS // len(bias))
        x_hat, nats = torch.empty_like(pull), torch.empty_like(pull[:, 0])
        for start in range(0, len(ids), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            probs, nats[part] = _probabilities(
                features[part], weight, bias, pull[part], rows, ids[part], compute
            )
            torch.mm(probs, rows, out=x_hat[part])
        whole = [probs] if len(ids) <= ctx.chunk else []
        ctx.save_for_backward(features, weight, bias, pull, rows, kept, ids, x_hat, *whole)
        return x_hat, nats

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, bias, pull, rows, kept, ids, x_hat, *whole = ctx.saved_tensors
        grad_x_hat, grad_nats = grads
        kept = kept[:, None]
        grad_features, grad_pull = torch.empty_like(features), torch.empty_like(pull)
        grad_weight, grad_bias, grad_rows = (torch.zeros_like(x) for x in (weight, bias, rows))
        for start in range(0, len(ids), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            about = (features[part], weight, bias, pull[part], rows, ids[part], ctx.compute)
            probs = whole[0] if whole else _probabilities(*about)[0]
            # d/dlogit_v = p_v (<g, e_v> - <g, x_hat> + h) - h [v is the token], g and h the two gradients
            level = (grad_x_hat[part] * x_hat[part]).sum(-1) - grad_nats[part]
            slope = torch.addmm(-level[:, None], grad_x_hat[part], rows.mT).mul_(probs)
            slope.scatter_add_(1, ids[part, None], -grad_nats[part, None])
            narrow = slope.to(ctx.compute)
            grad_features[part] = narrow @ weight.to(ctx.compute)
            grad_weight += narrow.mT @ features[part].to(ctx.compute)
            grad_bias += slope.sum(0)
            grad_pull[part] = slope @ rows
            grad_rows += probs.mT @ (grad_x_hat[part] * kept[part])
            grad_rows += slope.mT @ (pull[part] * kept[part])
        return grad_weight, grad_bias, grad_rows, grad_features, grad_pull, None, None, None


def _probabilities(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    pull: Tensor,
    rows: Tensor,
    ids: Tensor,
    compute: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """p (n, V) and -log p(ids) (n,); the head in `compute`, the output prior in full precision."""
    logits = F.linear(features.to(compute), weight.to(compute), bias.to(compute)).to(pull.dtype)
    log_probs = F.log_softmax(logits.addmm_(pull, rows.mT), -1)
    nats = -log_probs.gather(1, ids[:, None])[:, 0]
    return log_probs.exp_(), nats
