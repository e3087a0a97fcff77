"""Exact answers on vocabularies so small that every sequence and every noisy state can be listed.

Of a family's own formulas only its signal level and mixing distribution are used here, and, through
`exact_bound`, its bound, which is what is tested: the transition matrices and the best possible predictors
are written from the definition of such a process.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scaling.families.absorbing import Absorbing
from scaling.families.base import Family
from scaling.models import Doubled

Predictor = Callable[[Tensor, Tensor], Tensor]
"""(ids (n, L), times (n,)) -> logits (n, L, V)."""


def all_sequences(num_ids: int, length: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(num_ids), repeat=length)))


@dataclass(frozen=True)
class Planted:
    """A known joint distribution over all sequences of `length` tokens out of `num_ids`."""

    num_ids: int
    length: int
    ids: Tensor  # (n, L)
    probs: Tensor  # (n,)

    @property
    def entropy(self) -> float:
        """Nats per sequence."""
        return float(-(self.probs * self.probs.log()).sum())


def planted(num_ids: int, length: int, seed: int = 0) -> Planted:
    ids = all_sequences(num_ids, length)
    weights = torch.rand(len(ids), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weights = 0.02 + weights**3  # uneven, nothing impossible
    return Planted(num_ids, length, ids, weights / weights.sum())


def quadrature(step: float = 0.06, reach: float = 3.1) -> tuple[Tensor, Tensor]:
    """Tanh-sinh nodes and weights on (0, 1): accurate for integrands with log singularities at the ends."""
    x = torch.arange(-reach, reach + step / 2, step, dtype=torch.float64)
    inner = math.pi / 2 * torch.sinh(x)
    nodes = 1 / (1 + torch.exp(-2 * inner))
    weights = step * math.pi / 4 * torch.cosh(x) / torch.cosh(inner) ** 2
    return nodes, weights / weights.sum()


def matrix_to(alpha: float, noise: Tensor) -> Tensor:
    """Rows x_0, columns x_t: kept with probability alpha, else drawn from `noise`."""
    states = len(noise)
    return alpha * torch.eye(states, dtype=torch.float64) + (1 - alpha) * noise[None]


def noise_at(family: Family, t: Tensor) -> Tensor:
    """Where noise leads at times t, (*t.shape, V): what the family says, by default to the mask."""
    if hasattr(family, "mixing"):
        return family.mixing(t)
    everything = torch.nn.functional.one_hot(torch.tensor(family.mask_id), family.vocab_size).double()
    return everything.expand(*t.shape, -1)


def marginal_matrix(family: Family, t: float) -> Tensor:
    """Rows x_0, columns x_t: q(x_t | x_0) from the family's signal level and mixing distribution."""
    time = torch.tensor(t, dtype=torch.float64)
    return matrix_to(float(family.schedule(time)[0]), noise_at(family, time))


def step_matrix(family: Family, s: float, t: float) -> Tensor:
    """Rows x_s, columns x_t: the one step of rank one that carries the marginals from s on to t."""
    to_s, to_t = marginal_matrix(family, s), marginal_matrix(family, t)
    alpha_s, alpha_t = (float(family.schedule(torch.tensor(x, dtype=torch.float64))[0]) for x in (s, t))
    kept = alpha_t / alpha_s
    eye = torch.eye(len(to_s), dtype=torch.float64)
    jump = (to_t - alpha_t * eye)[0] - kept * (to_s - alpha_s * eye)[0]
    return kept * eye + jump[None]


def forward_probs(family: Family, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
    """q(x_t | x_0), (n,), of rows of x0, xt (n, L) and t (n,)."""
    alpha = family.schedule(t)[0][:, None]
    return (alpha * (x0 == xt) + (1 - alpha) * noise_at(family, t).gather(-1, xt)).prod(-1)


def told_the_time(family: Family) -> Family:
    """The family, changed to tell a network the noise time itself: what the predictors here want to know."""
    family.conditioning = lambda t: t  # type: ignore[method-assign]
    family.time_conditioned = True
    return family


def as_network(predictor: Predictor, family: Family, length: int) -> Callable[..., Tensor]:
    """`predictor`, which sees a whole noisy text in place, behind the ways in which families show texts.

    Tokens in another order are put in place, what is not shown counts as masked. Of a noisy and a clean copy
    side by side, a block of the noisy one is seen behind the clean tokens before it.
    """

    def see(state: Tensor, noise: Tensor) -> Tensor:
        hidden = state.new_full((len(state), length - state.shape[1]), family.mask_id or 0)
        time = (noise if noise.ndim == 1 else noise[:, 0]).double().clamp(min=1e-6)  # at 0 nothing is masked
        return predictor(torch.cat([state, hidden], dim=1), time)[:, : state.shape[1]]

    def network(
        ids: Tensor, noise: Tensor, *, positions: Tensor | None = None, layout: Doubled | None = None
    ) -> Tensor:
        if positions is not None:
            state = ids.new_full((len(ids), length), family.mask_id).scatter(1, positions, ids)
            logits = see(state, noise)
            return logits.gather(1, positions[..., None].expand(*positions.shape, logits.shape[-1]))
        if layout is None:
            return see(ids, noise)
        noisy, clean = ids.chunk(2, dim=1)
        size, ends = layout.block_size, range(0, noisy.shape[1], layout.block_size)
        states = [torch.cat([clean[:, :n], noisy[:, n : n + size]], dim=1) for n in ends]
        return torch.cat([see(state, noise)[:, -size:] for state in states], dim=1)

    return network


def best_predictor(family: Family, source: Planted) -> Predictor:
    """The predictor no other beats: p(x_0^l | everything the process lets position l know, itself left out).

    ar: the tokens before. All others: the other positions' noisy tokens. A position's own noisy token is
    already in the bound's formula, which mixes the prediction with the noise.
    """

    def fits(state: Tensor, t: Tensor, position: int) -> Tensor:
        """(n, N): how well each clean sequence explains a state, `position` left out."""
        x0 = source.ids[None]
        if family.bound == "exact":
            return (x0[:, :, :position] == state[:, None, 1 : position + 1]).double().prod(-1)
        others = [m for m in range(source.length) if m != position]
        alpha = family.schedule(t)[0][:, None, None]
        noise = noise_at(family, t).gather(-1, state)[:, None]
        same = (x0 == state[:, None]).double()
        return (alpha * same + (1 - alpha) * noise)[..., others].prod(-1)

    def predict(state: Tensor, t: Tensor) -> Tensor:
        logits = torch.full((*state.shape, family.vocab_size), 2.5, dtype=torch.float64)
        for position in range(state.shape[1]):
            is_token = torch.nn.functional.one_hot(source.ids[:, position], source.num_ids).double()
            weights = fits(state, t.double(), position) * source.probs
            logits[:, position, : source.num_ids] = (weights @ is_token).log()
        return logits

    return predict


def arbitrary_predictor(vocab: int, seed: int) -> Predictor:
    """Logits that depend on the state up to and with their own position, in no sensible way, not on time."""
    table = torch.randn(vocab**3, vocab, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def predict(state: Tensor, t: Tensor) -> Tensor:
        del t
        codes = (state * vocab ** torch.arange(state.shape[1])).cumsum(-1)
        return 1.5 * table[(codes * 7 + torch.arange(state.shape[1])) % len(table)]

    return predict


def exact_bound(
    family: Family, source: Planted, predictor: Predictor, *, times: tuple[Tensor, Tensor] | None = None
) -> float:
    """E over x_0, x_t and t of the bound summed over positions: nats per sequence, no sampling."""
    if family.bound == "exact":
        zero = torch.zeros(len(source.ids), dtype=torch.float64)
        state = family.corrupt(source.ids, zero, torch.Generator())
        nats = family.token_bound(predictor(state, zero), source.ids, state, zero).sum(-1)
        return float((source.probs * nats).sum())
    nodes, weights = times or quadrature()
    states = all_sequences(family.vocab_size, source.length)
    n0, ns, nt = len(source.ids), len(states), len(nodes)
    x0 = source.ids[:, None, None].expand(n0, ns, nt, -1).reshape(-1, source.length)
    xt = states[None, :, None].expand(n0, ns, nt, -1).reshape(-1, source.length)
    t = nodes.expand(n0, ns, nt).reshape(-1)
    logits = predictor(states.repeat_interleave(nt, 0), nodes.repeat(ns)).repeat(n0, 1, 1)
    mass = forward_probs(family, x0, xt, t)
    nats = family.token_bound(logits, x0, xt, t).sum(-1)
    nats = torch.where(mass > 0, mass * nats, 0.0).view(n0, ns, nt)
    return float(torch.einsum("nst,n,t->", nats, source.probs, weights))


def sum_over_steps(
    family: Absorbing, source: Planted, predictor: Callable[[Tensor], Tensor], steps: int
) -> float:
    """The discrete-time bound of mask noise, every state enumerated: nats per sequence.

    KL between q(x_s | x_t, x_0) and q(x_s | x_t, x_theta) over `steps` even steps of time. predictor: states
    (n, L) -> logits.
    """
    states, total = all_sequences(family.vocab_size, source.length), 0.0
    guess, masked = family.restored(predictor(states)), (states == family.mask_id).double()
    for step in range(1, steps + 1):
        t, s = (torch.full((len(states),), x / steps, dtype=torch.float64) for x in (step, step - 1))
        model = family.posterior(guess, states, t, s)
        share = family.noise_share(t)[:, None]
        for x0, prob in zip(source.ids, source.probs, strict=True):
            one_hot = torch.nn.functional.one_hot(x0, family.vocab_size).double().expand_as(model)
            truth = family.posterior(one_hot, states, t, s)
            logs = torch.where(truth > 0, truth * (truth.log() - model.log()), 0.0).sum((-1, -2))
            fits = ((states == x0) | (states == family.mask_id)).all(-1)
            mass = (masked * share + (1 - masked) * (1 - share)).prod(-1) * fits
            total += float(prob * (mass * logs)[mass > 0].sum())
    return total


class Fixed:
    """A network that says the same at all times, and keeps what it was shown."""

    def __init__(self, logits: Tensor) -> None:
        self.logits, self.told, self.seen = logits, [], []  # type: ignore[var-annotated]

    def __call__(self, ids: Tensor, noise: Tensor) -> Tensor:
        self.told.append(float(noise[0]))
        self.seen.append(ids.clone())
        return self.logits.expand(*ids.shape, -1)
