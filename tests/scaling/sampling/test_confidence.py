"""Decoding by confidence: which places a call keeps, in which order, and in how many calls."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from scaling.errors import UserError
from scaling.families import get_family
from scaling.sampling import FREE, Filters, generate
from scaling.sampling.confidence import (
    above,
    above_factor,
    above_lowered,
    above_or_count,
    confidence_of,
    surest,
)
from tests.scaling.sampling.test_loop import LENGTH, SEEDS, family_and_model

NONE = -math.inf
SURETY = torch.tensor([[0.5, NONE, 0.95, 0.92, 0.1], [0.2, 0.3, NONE, NONE, 0.3], [NONE] * 5])


def places(kept: torch.Tensor) -> list[list[int]]:
    return [row.nonzero()[:, 0].tolist() for row in kept]


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        (surest(SURETY, torch.tensor([[2], [1], [1]])), [[2, 3], [1], []]),
        (surest(SURETY, torch.tensor([[9], [0], [3]])), [[0, 2, 3, 4], [], []]),
        (above(SURETY, 0.9), [[2, 3], [1], []]),
        (above(SURETY, 0.5), [[0, 2, 3], [1], []]),
        (above_lowered(SURETY, 0.9), [[2, 3], [1, 4], []]),
        # 1 - 1.2 / (k + 1) for k = 2, 3, 4: 0.6, 0.7, 0.76
        (above_factor(SURETY, 1.2), [[2, 3], [1], []]),
        (above_factor(SURETY, 2.4), [[0, 2, 3], [1, 4], []]),
        (above_or_count(SURETY, torch.tensor([[2], [2], [0]]), 0.9), [[2, 3], [1, 4], []]),
        (above_or_count(SURETY, torch.tensor([[1], [1], [1]]), 0.9), [[2, 3], [1], []]),
    ],
)
def test_each_rule_keeps_what_it_says(kept, expected):
    assert places(kept) == expected


def test_what_rounding_leaves_does_not_decide():
    """A text of masks alone has equally sure places everywhere, up to the last digits of the network."""
    noisy = torch.tensor([[0.3, 0.3 + 1e-12, 0.3 - 1e-12]])
    assert places(surest(noisy, torch.tensor([[1]]))) == [[0]]


def test_the_three_confidences():
    probs = torch.tensor([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]], dtype=torch.float64)
    ids = torch.tensor([1, 0])
    assert confidence_of(probs, ids, "probability").tolist() == [0.3, 1]
    assert confidence_of(probs, ids, "margin").tolist() == pytest.approx([0.2, 1])
    entropy = -sum(p * math.log(p) for p in (0.5, 0.3, 0.2))
    assert confidence_of(probs, ids, "negative_entropy").tolist() == pytest.approx([-entropy, 0])


def sure_of(table: torch.Tensor):
    """A network whose first choice is (place + 1) mod 3, with the given probability at each place."""

    def model(ids, t):
        length = ids.shape[1]
        logits = torch.zeros(length, 4, dtype=torch.float64)
        first = (torch.arange(length) + 1) % 3
        logits[torch.arange(length), first] = (2 * table / (1 - table)).log()
        return logits.expand(len(ids), -1, -1)

    return model


def order_of(table: list[float], **about) -> list[list[int]]:
    """The places that each call decodes, in blocks and orders of a sampler."""
    family, states = get_family("masked", vocab_size=4), []
    texts = generate(
        sure_of(torch.tensor(table, dtype=torch.float64)), family, [3], len(table),
        watch=lambda draft: states.append(draft.ids[0] == family.mask_id), **about,
    )  # fmt: skip
    assert texts.calls == len(states) - 1
    assert texts.ids[0].tolist() == [(place + 1) % 3 for place in range(len(table))]
    return places([before & ~after for before, after in pairwise(states)])


TABLE = [0.5, 0.9, 0.6, 0.95, 0.7, 0.8]


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ({"sampler": "confidence", "steps": 3}, [[1, 3], [4, 5], [0, 2]]),
        ({"sampler": "confidence", "steps": 4}, [[1, 3], [4, 5], [2], [0]]),
        ({"sampler": "confidence", "steps": 64}, [[3], [1], [5], [4], [2], [0]]),
        ({"sampler": "confidence", "steps": 4, "block_size": 3}, [[1, 2], [0], [3, 5], [4]]),
        ({"sampler": "confidence", "steps": 3, "order": "left_to_right"}, [[0, 1], [2, 3], [4, 5]]),
        ({"sampler": "threshold", "threshold": 0.75, "steps": 1}, [[1, 3, 5], [4], [2], [0]]),
        ({"sampler": "threshold", "threshold": 0.75, "block_size": 4}, [[1, 3], [2], [0], [5], [4]]),
        ({"sampler": "threshold", "rule": "lowered", "threshold": 0.85}, [[1, 3], [5], [4], [2], [0]]),
        ({"sampler": "threshold", "rule": "factor", "factor": 1.0}, [[1, 3, 5], [4], [2], [0]]),
        (
            {"sampler": "threshold", "rule": "dynamic", "threshold": 0.85, "steps": 3},
            [[1, 3], [4, 5], [0, 2]],
        ),
        ({"sampler": "threshold", "rule": "dynamic", "threshold": 0.55, "steps": 3}, [[1, 2, 3, 4, 5], [0]]),
    ],
)
def test_places_are_decoded_in_order_of_confidence(about, expected):
    assert order_of(TABLE, **about) == expected


def test_a_random_order_is_the_same_for_any_network():
    """Its first place is any, and the network is asked for the kept places alone."""
    family, model = family_and_model("masked")
    about = {"sampler": "confidence", "order": "random", "steps": LENGTH}
    states: list[torch.Tensor] = []
    generate(model, family, range(600), LENGTH, watch=lambda d: states.append(d.ids.clone()), **about)
    first = (states[1] != family.mask_id).double()
    assert torch.equal(first.sum(1), torch.ones(600, dtype=torch.float64))
    assert float((first.mean(0) - 1 / LENGTH).abs().max()) < 5 * math.sqrt(1 / LENGTH / 600)


def test_given_places_are_neither_judged_nor_changed():
    family, model = family_and_model("masked")
    prompt = torch.tensor([1, FREE, FREE, 2, FREE, 3])
    for about in ({"sampler": "confidence", "steps": 4, "block_size": 3}, {"sampler": "threshold"}):
        texts = generate(model, family, SEEDS, LENGTH, prompt=prompt, **about)
        assert texts.ids[:, [0, 3, 5]].tolist() == [[1, 2, 3]] * 4
        assert not bool((texts.ids == family.mask_id).any())


def test_confidence_is_taken_before_the_filters_unless_told_otherwise():
    """At a tiny nucleus all places are certain after it: then the leftmost goes first."""
    about = {"sampler": "confidence", "steps": 6, "filters": Filters(top_p=0.01)}
    assert order_of(TABLE, **about)[0] == [3]
    assert order_of(TABLE, filtered=True, **about)[0] == [0]


def test_greedy_decoding_needs_no_draw():
    family, model = family_and_model("masked")
    one, other = (generate(model, family, [s], LENGTH, sampler="confidence").ids for s in (1, 2))
    assert torch.equal(one, other)
    drawn = generate(model, family, range(20), LENGTH, sampler="confidence", greedy=False).ids
    assert len(drawn.unique(dim=0)) > 10


@pytest.mark.parametrize(
    ("about", "sentence"),
    [
        ({"sampler": "confidence", "order": "rondom"}, "did you mean 'random'"),
        ({"sampler": "confidence", "kind": "entropy"}, "kind is 'entropy', it must be one of probability"),
        ({"sampler": "confidence", "block_size": 0}, "block_size is 0, it must be at least 1"),
        ({"sampler": "confidence", "block_size": 4, "steps": 4}, "steps is 4, it must be a multiple of that"),
        ({"sampler": "threshold", "rule": "foctor"}, "did you mean 'factor'"),
        ({"sampler": "threshold", "rule": "factor", "factor": 0.0}, "factor is 0.0, it must be above 0"),
    ],
)
def test_values_out_of_range_are_refused(about, sentence):
    family, model = family_and_model("masked")
    with pytest.raises(UserError, match=sentence):
        generate(model, family, SEEDS, LENGTH, **about)
