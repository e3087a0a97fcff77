"""The law of a whole sampler under perfect predictions, by pushing a distribution over all states of a short
text through its steps; and the test of drawn texts against a law.

S states, L length, V vocabulary, N texts of a source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from scaling.families import get_family
from scaling.families.base import Family
from scaling.sampling import Texts, generate
from tests.scaling.enumeration import (
    Planted,
    all_sequences,
    as_network,
    best_predictor,
    noise_at,
    told_the_time,
)

FALSE_ALARMS = 1e-3
"""How often a right sampler would fail a test here if its seeds were drawn anew."""
COUNT = 40_000
"""Texts of a test. Over 9 texts they show a total variation of 0.017 with probability 0.99."""

Weights = Callable[[int, Tensor, Tensor, Tensor, Tensor], Tensor]
"""(step, x_theta of the present ids (n,), they (n,), t, s) -> weights (n, 3) of a step's mixture."""


def mixture(weights: Tensor, probs: Tensor, present: Tensor, noise: Tensor) -> Tensor:
    """(n, V): the law of weights (n, 3) of the present ids (n,), of x_theta (n, V) and of noise (V,)."""
    shares = weights / weights.sum(-1, keepdim=True)
    stay = torch.nn.functional.one_hot(present, probs.shape[-1]).to(probs.dtype)
    return shares[:, :1] * stay + shares[:, 1:2] * probs + shares[:, 2:] * noise


def together(places: Tensor, states: Tensor) -> Tensor:
    """(S, S'): the probability of each state if places (S, L, V) are drawn apart."""
    chosen = places[:, None].expand(-1, len(states), -1, -1)
    return chosen.gather(-1, states[None, ..., None].expand(len(places), -1, -1, 1))[..., 0].prod(-1)


class Chain:
    """A distribution over the states of texts of a source, and perfect predictions at each."""

    def __init__(self, family: Family, source: Planted) -> None:
        self.family, self.source = told_the_time(family), source
        self.states = all_sequences(family.vocab_size, source.length)
        self.predict = best_predictor(family, source)
        start = noise_at(family, torch.tensor(1.0, dtype=torch.float64))
        self.probs = start[self.states].prod(-1)

    def x_theta(self, t: Tensor) -> Tensor:
        """(S, L, V); nothing in particular at states that time t does not know."""
        logits = self.predict(self.states, t.double().clamp(min=1e-6).expand(len(self.states)))
        return self.family.restored(logits).nan_to_num(0.0)

    def step(self, number: int, weights: Weights, t: Tensor, s: Tensor) -> None:
        probs, present = self.x_theta(t).flatten(0, 1), self.states.flatten()
        at_present = probs.gather(-1, present[:, None])[:, 0]
        noise = noise_at(self.family, s)
        places = mixture(weights(number, at_present, present, t, s), probs, present, noise)
        self.probs = self.probs @ together(places.view(*self.states.shape, -1), self.states)

    def settle(self, ids: Tensor) -> None:
        """Go from each state to ids (S, L)."""
        base = self.family.vocab_size ** torch.arange(self.source.length - 1, -1, -1)
        self.probs = torch.zeros_like(self.probs).index_add(0, (ids * base).sum(-1), self.probs)

    def texts(self) -> Tensor:
        """(N,) probabilities of the source's texts; all others, unfinished ones too, have none."""
        same = (self.source.ids[:, None] == self.states).all(-1)
        out = same.double() @ self.probs
        assert abs(float(out.sum()) - 1) < 1e-9, "every text is finished"
        return out


def posterior_weights(family: Family) -> Weights:
    def weights(step: int, at_present: Tensor, present: Tensor, t: Tensor, s: Tensor) -> Tensor:
        parts = family.posterior_parts(at_present, present, t, s)
        assert parts is not None
        return parts

    return weights


def law_of(
    family: Family, source: Planted, times: Tensor, weights: Weights | None = None, tail: str = "draw"
) -> Tensor:
    """(N,): what steps between `times` make of noise. tail: as of `ancestral`, and "greedy_tail"."""
    chain = Chain(family, source)
    weights = posterior_weights(family) if weights is None else weights
    steps = list(pairwise(times))
    for number, (t, s) in enumerate(steps):
        last = number == len(steps) - 1
        if last and tail == "greedy_tail":
            chain.settle(chain.x_theta(t).argmax(-1))
        elif last and tail == "posterior":
            many = (x.expand(len(chain.states)) for x in (t, s))
            chain.settle(family.posterior(chain.x_theta(t), chain.states, *many).argmax(-1))
        else:
            chain.step(number, weights, t, s)
    if tail == "network":
        chain.settle(chain.x_theta(times[-1]).argmax(-1))
    return chain.texts()


def draw_texts(family: Family, source: Planted, count: int = COUNT, first: int = 0, **about: Any) -> Texts:
    """Texts of a sampler whose network makes perfect predictions."""
    family = told_the_time(family)
    # with masks alone every family predicts the same, also those that are exact from left to right
    process = get_family("masked", vocab_size=family.vocab_size) if family.masks_only else family
    network = as_network(best_predictor(process, source), family, source.length)
    return generate(network, family, range(first, first + count), source.length, **about)


def p_value(ids: Tensor, source: Planted, law: Iterable[float] | Tensor) -> float:
    """Of the chi-square test of texts (n, L) against probabilities (N,); cells that expect fewer than 5 are
    put together. 0 if a text without probability was drawn."""
    same = (ids[:, None] == source.ids).all(-1)
    assert bool(same.any(dim=1).all()), "every text is one of the source's"
    drawn, expected = same.sum(0).double(), torch.as_tensor(law, dtype=torch.float64) * len(ids)
    if bool((drawn[expected == 0] > 0).any()):
        return 0.0
    few = expected < 5
    cells = [torch.cat([x[~few], x[few].sum()[None]]) for x in (drawn, expected)]
    drawn, expected = (x[cells[1] > 0] for x in cells)
    return float(stats.chisquare(drawn.numpy(), (expected * drawn.sum() / expected.sum()).numpy()).pvalue)
