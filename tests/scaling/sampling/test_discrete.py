"""Ancestral sampling, its tails, and first hitting: what they cost and what changes nothing."""

from __future__ import annotations

import math

import pytest
import torch

from scaling.errors import UserError
from scaling.families import get_family
from scaling.sampling import FREE, Filters, generate
from tests.scaling.sampling.test_loop import LENGTH, SEEDS, family_and_model


def calls_and_tokens(name: str, seeds, **about) -> tuple[int, int]:
    family, model = family_and_model(name)
    texts = generate(model, family, seeds, LENGTH, **about)
    return texts.calls, texts.tokens


@pytest.mark.parametrize("steps", [1, 3, 20])
def test_every_sampler_counts_its_calls(steps):
    """NFE, and tokens through the blocks, of the table of costs."""
    for name in ("uniform", "hybrid"):
        assert calls_and_tokens(name, SEEDS, steps=steps) == (steps, 4 * steps * LENGTH)
    assert calls_and_tokens("uniform", SEEDS, steps=steps, tail="posterior")[0] == steps
    assert calls_and_tokens("uniform", SEEDS, steps=steps, tail="network")[0] == steps + 1
    assert calls_and_tokens("uniform", SEEDS, steps=steps, sampler="psi")[0] == steps
    assert calls_and_tokens("gaussian", SEEDS, steps=steps)[0] == steps + 1
    assert calls_and_tokens("ar", SEEDS, steps=LENGTH) == (LENGTH, 4 * LENGTH)
    usable = min(steps, LENGTH)
    size = math.ceil(LENGTH / usable)
    calls = math.ceil(LENGTH / size)
    assert calls_and_tokens("masked", SEEDS, steps=usable, sampler="first_hitting") == (
        calls,
        4 * calls * LENGTH,
    )
    for schedule in ("cap", "rescale", "loop", "conf", "forward_backward"):
        about = {"sampler": "remasking", "schedule": schedule, "steps": steps}
        assert calls_and_tokens("masked", SEEDS, **about)[0] <= steps


def test_first_hitting_refuses_more_steps_than_tokens():
    with pytest.raises(UserError, match=f"steps is {LENGTH + 1}, .* at most {LENGTH}"):
        calls_and_tokens("masked", SEEDS, steps=LENGTH + 1, sampler="first_hitting")


def test_masked_steps_that_decode_nothing_cost_nothing():
    """One text: T (1 - (1 - 1/T)^L) calls expected, on an even grid, within four standard errors."""
    family, model = family_and_model("masked")
    steps = 10
    calls = torch.tensor(
        [generate(model, family, [seed], LENGTH, steps=steps).calls for seed in range(150)],
        dtype=torch.float64,
    )
    expected = steps * (1 - (1 - 1 / steps) ** LENGTH)
    assert abs(float(calls.mean()) - expected) < 4 * float(calls.std()) / math.sqrt(len(calls))


def test_first_hitting_decodes_the_same_number_in_every_call():
    family, model = family_and_model("masked")
    states: list[list[int]] = []
    generate(
        model, family, SEEDS, LENGTH, sampler="first_hitting", steps=5,
        watch=lambda draft: states.append((draft.ids == family.mask_id).sum(1).tolist()),
    )  # fmt: skip
    assert states == [[left] * 4 for left in (12, 9, 6, 3, 0)]


def test_first_hitting_shares_the_free_places_of_each_text_among_the_calls():
    family, model = family_and_model("masked")
    prompt = torch.full((2, LENGTH), FREE)
    prompt[1, 2:] = 3
    texts = generate(model, family, [1, 2], LENGTH, sampler="first_hitting", steps=6, prompt=prompt)
    assert texts.calls == 6
    assert texts.tokens == (6 + 2) * LENGTH, "the text with two free places is read twice"


@pytest.mark.parametrize("name", ["masked", "uniform", "hybrid"])
def test_every_sampler_leaves_given_places_alone_at_every_step(name):
    family, model = family_and_model(name)
    prompt = torch.tensor([1, FREE, FREE, 2, FREE, 3])
    for sampler in family.samplers:
        states: list[torch.Tensor] = []
        generate(
            model, family, SEEDS, LENGTH, prompt=prompt, sampler=sampler,
            watch=lambda draft, states=states: states.append(draft.ids[:, [0, 3, 5]].clone()),
        )  # fmt: skip
        assert all(state.tolist() == [[1, 2, 3]] * 4 for state in states), sampler


@pytest.mark.parametrize("name", ["masked", "uniform", "hybrid"])
def test_neutral_filters_change_no_id(name):
    family, model = family_and_model(name)
    plain = generate(model, family, SEEDS, LENGTH, steps=8).ids
    neutral = Filters(top_p=1.0, temperature=1.0, top_k=None, min_p=0.0)
    assert torch.equal(generate(model, family, SEEDS, LENGTH, steps=8, filters=neutral).ids, plain)


def test_a_nucleus_of_uniform_noise_thins_the_prediction_and_freezes_nothing():
    """On the posterior a small nucleus would keep the present id, which has most of it, for ever."""
    family = get_family("uniform", vocab_size=5)
    logits = torch.tensor([3.0, 2.9, 0.0, 0.0, 0.0], dtype=torch.float64)

    def model(ids, t):
        return logits.expand(*ids.shape, 5)

    about = {"steps": 64, "filters": Filters(top_p=0.5)}
    ids = generate(model, family, range(300), 4, **about).ids
    assert set(ids.unique().tolist()) <= {0, 1}, "ids outside the nucleus end as noise would: they do not"


def test_the_tail_of_the_posterior_keeps_what_the_last_step_would_most_likely_draw():
    family, model = family_and_model("uniform")
    about = {"steps": 50}
    drawn = generate(model, family, range(40), LENGTH, **about).ids
    likeliest = generate(model, family, range(40), LENGTH, tail="posterior", **about).ids
    greedy = generate(model, family, range(40), LENGTH, greedy_tail=True, **about).ids
    assert (likeliest == drawn).double().mean() > 0.9 > (greedy == drawn).double().mean()


def test_with_masks_the_greedy_tails_agree_and_none_is_left_for_a_further_call():
    family, model = family_and_model("masked")
    one = generate(model, family, SEEDS, LENGTH, steps=3, greedy_tail=True).ids
    assert torch.equal(one, generate(model, family, SEEDS, LENGTH, steps=3, tail="posterior").ids)
    with pytest.raises(UserError, match="no mask is left after the draws"):
        generate(model, family, SEEDS, LENGTH, tail="network")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tail": "posteriour"}, "did you mean 'posterior'"),
        ({"tail": "network", "greedy_tail": True}, "two ends of one text"),
    ],
)
def test_tails_that_do_not_exist_are_refused(options, sentence):
    family, model = family_and_model("uniform")
    with pytest.raises(UserError, match=sentence):
        generate(model, family, SEEDS, LENGTH, **options)
