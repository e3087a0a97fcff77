"""Hybrid's samplers under perfect predictions against their laws, by pushing every state through their steps.

The rules are written out here once more, state by state.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from scaling.families import get_family
from scaling.families.base import Family
from tests.scaling.enumeration import noise_at, planted
from tests.scaling.sampling.laws import FALSE_ALARMS, Chain, draw_texts, law_of, p_value, posterior_weights

SOURCE = planted(3, 2)
MASK = 3
CERTAIN = 1e-6


def hybrid(**options: Any) -> Family:
    return get_family("hybrid", vocab_size=4, **options)


def push(chain: Chain, moves: Iterator[list[tuple[tuple[int, ...], float]]]) -> None:
    """Each state goes to the texts of its list, with their probabilities."""
    numbers = {tuple(state): number for number, state in enumerate(chain.states.tolist())}
    out = torch.zeros_like(chain.probs)
    for mass, targets in zip(chain.probs, moves, strict=True):
        for state, prob in targets:
            out[numbers[state]] += mass * prob
    chain.probs = out


def drawn(probs: Tensor) -> Iterator[tuple[tuple[int, ...], float]]:
    """All ids of the places of probs (L, V) that have a probability."""
    for ids in itertools.product(range(MASK), repeat=len(probs)):
        prob = float(torch.stack([probs[place, token] for place, token in enumerate(ids)]).prod())
        if prob > 0:
            yield ids, prob


@pytest.mark.parametrize("options", [{"p_u": 0.3}, {"noise": "balanced"}, {"noise": "uniform"}])
def test_psi_follows_its_law(options: dict[str, Any]) -> None:
    family, kappa = hybrid(**options), 0.5
    plain, zero = posterior_weights(family), torch.zeros((), dtype=torch.float64)

    def weights(step: int, at_present: Tensor, present: Tensor, t: Tensor, s: Tensor) -> Tensor:
        to_s, to_text = (plain(step, at_present, present, t, x) for x in (s, zero))
        alpha = family.schedule(s)[0]
        guess = alpha * to_text / to_text.sum(1, keepdim=True)
        guess[:, 2] += 1 - alpha
        return kappa * to_s / to_s.sum(1, keepdim=True) + (1 - kappa) * guess

    law = law_of(family, SOURCE, torch.linspace(1, 0, 4, dtype=torch.float64), weights)
    ids = draw_texts(family, SOURCE, sampler="psi", steps=3, kappa=kappa).ids
    assert p_value(ids, SOURCE, law) > FALSE_ALARMS
    assert p_value(ids, SOURCE, SOURCE.probs) < CERTAIN


def test_the_released_loop_follows_its_law() -> None:
    family, steps = hybrid(p_u=0.2), 4
    chain = Chain(family, SOURCE)
    grid = torch.linspace(1e-4, 1 - 1e-4, steps + 1, dtype=torch.float64)
    for number in range(steps - 1, 0, -1):
        chain.step(number, posterior_weights(family), grid[number], grid[number - 1])

    def fill(step: int, at_present: Tensor, present: Tensor, t: Tensor, s: Tensor) -> Tensor:
        masked = (present == MASK).double()
        return torch.stack([1 - masked, masked, torch.zeros_like(masked)], dim=1)

    chain.step(0, fill, grid[0], grid[0])
    ids = draw_texts(family, SOURCE, sampler="released", steps=steps).ids
    assert p_value(ids, SOURCE, chain.texts()) > FALSE_ALARMS
    plain = law_of(family, SOURCE, torch.linspace(1, 0, steps + 1, dtype=torch.float64))
    assert p_value(ids, SOURCE, plain) < FALSE_ALARMS, "the right grid is another law"


@pytest.mark.parametrize("iterations", [1, 3])
def test_self_correction_follows_its_law(iterations: int) -> None:
    family, temperature, time = hybrid(p_u=0.3), 0.7, torch.tensor(0.01, dtype=torch.float64)
    chain = Chain(family, SOURCE)
    for number, (t, s) in enumerate(itertools.pairwise(torch.linspace(1, 0, 3, dtype=torch.float64))):
        chain.step(number, posterior_weights(family), t, s)
    sharp = chain.x_theta(time) ** (1 / temperature)
    sharp = sharp / sharp.sum(-1, keepdim=True)

    def edits() -> Iterator[list[tuple[tuple[int, ...], float]]]:
        for state, probs in zip(chain.states.tolist(), sharp, strict=True):
            targets = []
            for ids, prob in drawn(probs) if MASK not in state else ():
                different = [place for place in range(2) if ids[place] != state[place]]
                if different:
                    best = max(different, key=lambda place: float(probs[place, ids[place]]))
                    new = (*state[:best], ids[best], *state[best + 1 :])
                    targets.append((new, prob))
            yield targets

    before, ended = chain.texts(), torch.zeros_like(SOURCE.probs)
    for _ in range(iterations):
        active = chain.probs
        push(chain, edits())
        same = (SOURCE.ids[:, None] == chain.states).all(-1)
        again = torch.tensor([sum(prob for _, prob in targets) for targets in edits()])
        ended += same.double() @ (active * (1 - again))
    law = ended + same.double() @ chain.probs
    assert float(law.sum()) == pytest.approx(1)
    about = {"edit_temperature": temperature, "iterations": iterations, "patience": 9}
    ids = draw_texts(family, SOURCE, sampler="self_correcting", steps=2, **about).ids
    assert p_value(ids, SOURCE, law) > FALSE_ALARMS
    assert p_value(ids, SOURCE, before) < CERTAIN


@pytest.mark.parametrize("draws", [False, True])
@pytest.mark.parametrize(
    ("options", "edits"), [({"p_u": 0.3}, 1), ({"noise": "uniform"}, 1), ({"noise": 1.0}, 2)]
)
def test_the_adaptive_sampler_follows_its_law(options: dict[str, Any], edits: int, draws: bool) -> None:
    family, steps = hybrid(**options), 3
    chain = Chain(family, SOURCE)
    # log-SNR -9 on the log-linear schedule of noise; p_u: found by its definition
    alpha = torch.sigmoid(torch.tensor(-9.0, dtype=torch.float64))
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        above = family.schedule(torch.tensor(middle, dtype=torch.float64))[0] > alpha
        low, high = (middle, high) if above else (low, middle)
    prior = noise_at(family, torch.tensor(high, dtype=torch.float64))
    chain.probs = prior[chain.states].prod(-1)

    def changes(probs: Tensor, last: bool) -> Iterator[list[tuple[tuple[int, ...], float]]]:
        for state, here in zip(chain.states.tolist(), probs, strict=True):
            present = here[range(2), state]
            score = ((here.amax(-1) - present) * prior[state]).tolist()
            order = sorted(range(2), key=lambda place: -score[place])
            places = [place for place in order[:edits] if score[place] > 0]
            if last and MASK in state:
                hidden = [place for place in range(2) if state[place] == MASK]
                rest = [place for place in places if place not in hidden]
                places = hidden + rest[: max(0, edits - len(hidden))]
            options = drawn(here) if draws else [(tuple(here.argmax(-1).tolist()), 1.0)]
            yield [
                (tuple(ids[place] if place in places else state[place] for place in range(2)), prob)
                for ids, prob in options
            ]

    for step in range(steps):
        t = torch.tensor(1 - step / steps, dtype=torch.float64)
        push(chain, changes(chain.x_theta(t), step == steps - 1))
    ids = draw_texts(family, SOURCE, sampler="adaptive", steps=steps, edits=edits, draws=draws).ids
    if draws:
        assert p_value(ids, SOURCE, chain.texts()) > FALSE_ALARMS
        assert p_value(ids, SOURCE, SOURCE.probs) < CERTAIN
        return
    # few texts are left, from masks one
    shares = (ids[:, None] == SOURCE.ids).all(-1).double().mean(0)
    torch.testing.assert_close(shares, chain.texts(), atol=0.01, rtol=0)
