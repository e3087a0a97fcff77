"""Samplers of family hybrid beside the ancestral one, against laws that are enumerated here."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from scaling.families import get_family
from scaling.families.hybrid import Hybrid
from scaling.sampling import generate
from scaling.sampling.correction import LOWEST_SIGNAL, released_times
from scaling.sampling.discrete import time_at
from tests.scaling.enumeration import noise_at, planted, told_the_time
from tests.scaling.sampling.laws import (
    FALSE_ALARMS,
    Chain,
    draw_texts,
    law_of,
    p_value,
    posterior_weights,
    together,
)

SOURCE = planted(3, 2, 5)
CERTAIN = 1e-6
"""A p-value below this is no accident."""


def hybrid() -> Hybrid:
    family = get_family("hybrid", vocab_size=4, p_u=0.2)
    assert isinstance(family, Hybrid)
    return family


def test_the_released_grid_has_a_law_of_its_own() -> None:
    """Posteriors between the released pairs of times, then masks filled from the last call."""
    family = hybrid()
    chain, pairs = Chain(family, SOURCE), released_times(4)

    def fill(step: int, at_present: Tensor, present: Tensor, t: Tensor, s: Tensor) -> Tensor:
        masked = (present == family.mask_id).double()
        return torch.stack([1 - masked, masked, 0 * masked], dim=1)

    for number, (t, s) in enumerate(pairs):
        chain.step(number, fill if number == 3 else posterior_weights(family), t, s)
    law = chain.texts()
    ids = draw_texts(hybrid(), SOURCE, sampler="released", steps=4).ids
    assert p_value(ids, SOURCE, law) > FALSE_ALARMS
    right = law_of(hybrid(), SOURCE, torch.linspace(1, 0, 5, dtype=torch.float64))
    assert p_value(ids, SOURCE, right) < CERTAIN, "its times are not those of the ancestral sampler"


def test_one_round_of_self_correction_follows_its_law() -> None:
    """Every place proposes an id; of those that differ the likeliest is put in."""
    family = hybrid()
    times = torch.linspace(1, 0, 3, dtype=torch.float64)
    before = law_of(family, SOURCE, times)
    chain = Chain(family, SOURCE)
    guesses = chain.x_theta(torch.tensor(0.01, dtype=torch.float64))
    number = {tuple(text): n for n, text in enumerate(SOURCE.ids.tolist())}
    law = torch.zeros_like(before)
    for text, mass in zip(SOURCE.ids.tolist(), before.tolist(), strict=True):
        probs = guesses[(chain.states == torch.tensor(text)).all(1)][0]
        for new in itertools.product(range(3), repeat=2):
            chance = float(probs[0, new[0]] * probs[1, new[1]])
            sure = [float(probs[p, new[p]]) if new[p] != text[p] else 0.0 for p in range(2)]
            edited = list(text)
            if max(sure) > 0:
                place = sure.index(max(sure))
                edited[place] = new[place]
            law[number[tuple(edited)]] += mass * chance
    about = {"sampler": "self_correcting", "steps": 2, "iterations": 1, "edit_temperature": 1.0}
    ids = draw_texts(hybrid(), SOURCE, **about).ids
    assert p_value(ids, SOURCE, law) > FALSE_ALARMS
    assert p_value(ids, SOURCE, before) < CERTAIN


@pytest.mark.parametrize("options", [{"p_u": 0.2}, {"noise": "balanced"}])
def test_psi_follows_its_law(options: dict[str, Any]) -> None:
    """Its noise is that of the new time, masks and tokens, with the share that the process has there."""
    family = get_family("hybrid", vocab_size=4, **options)
    assert isinstance(family, Hybrid)
    plain = posterior_weights(family)

    def weights(step: int, at_present: Tensor, present: Tensor, t: Tensor, s: Tensor) -> Tensor:
        to_s = plain(step, at_present, present, t, s)
        to_text = plain(step, at_present, present, t, torch.zeros_like(s))
        alpha = family.levels(s).alpha
        guess = alpha * to_text / to_text.sum(1, keepdim=True)
        guess[:, 2] += 1 - alpha
        return 0.3 * to_s / to_s.sum(1, keepdim=True) + 0.7 * guess

    law = law_of(family, SOURCE, torch.linspace(1, 0, 4, dtype=torch.float64), weights)
    ids = draw_texts(family, SOURCE, sampler="psi", steps=3, kappa=0.3).ids
    assert p_value(ids, SOURCE, law) > FALSE_ALARMS
    assert p_value(ids, SOURCE, SOURCE.probs) < CERTAIN


def test_with_masks_alone_psi_tells_the_network_the_time() -> None:
    family, times = get_family("hybrid", vocab_size=4, p_u=0.0), set()
    assert family.masks_only
    told_the_time(family)

    def network(ids: Tensor, t: Tensor) -> Tensor:
        times.update(t.tolist())
        return torch.zeros(*ids.shape, 4, dtype=torch.float64)

    generate(network, family, range(50), 6, sampler="psi", kappa=0.5, steps=4)
    assert times == {1.0, 0.75, 0.5, 0.25}


def rounds(steps: int) -> Iterator[tuple[Tensor, bool]]:
    """The time that each round is told, and whether it is the last."""
    for step, t in enumerate(torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1]):
        yield t, step == steps - 1


def test_the_adaptive_sampler_follows_its_law() -> None:
    """The place with the most to gain is drawn anew; in the last round masks come first, all of them."""
    family = hybrid()
    chain = Chain(family, SOURCE)
    start = time_at(family, LOWEST_SIGNAL)
    prior = noise_at(family, start)
    chain.probs = prior[chain.states].prod(-1)
    masked = chain.states == family.mask_id
    for t, last in rounds(3):
        guess = chain.x_theta(t)
        gain = guess.amax(-1) - guess.gather(-1, chain.states[..., None])[..., 0]
        score = gain * prior[chain.states]
        first = score[:, 0] >= score[:, 1] * (1 - 1e-6)
        changed = torch.stack([first, ~first], dim=1) & (score > 0)
        if last:
            changed = torch.where(masked.any(1, keepdim=True), masked, changed)
        stay = torch.nn.functional.one_hot(chain.states, 4).double()
        places = torch.where(changed[..., None], guess, stay)
        chain.probs = chain.probs @ together(places, chain.states)
    law = chain.texts()
    about = {"sampler": "adaptive", "steps": 3, "draws": True, "edits": 1}
    ids = draw_texts(hybrid(), SOURCE, **about).ids
    assert p_value(ids, SOURCE, law) > FALSE_ALARMS
    assert p_value(ids, SOURCE, SOURCE.probs) < CERTAIN
