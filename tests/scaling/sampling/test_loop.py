"""What holds for every sampler: own seed, given places, counted calls, caches that change nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from scaling.errors import UserError
from scaling.families import FAMILIES, get_family
from scaling.families.base import Family
from scaling.ladder import Size
from scaling.models import Transformer
from scaling.sampling import FREE, Filters, generate
from scaling.sampling.remasking import REMASKING_ETA

VOCAB, LENGTH = 7, 12
SIZE = Size(name="tiny", hidden=16, num_layers=2, num_heads=2)
SEEDS = [11, 12, 13, 14]
CACHED = ("ar", "block", "esoteric")


def family_and_model(kind: str, **options: object) -> tuple[Family, Transformer]:
    """A network in float64 that is far from uniform."""
    family = get_family(kind, vocab_size=VOCAB, **options)
    generator = torch.Generator().manual_seed(0)
    model = family.build_model(SIZE, generator).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.0 if name.endswith("bias") or "schedule" in name else 0.15
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return family, model


OF_MASKS = (
    *(("remasking", {"schedule": name}) for name in REMASKING_ETA),
    ("psi", {"kappa": 0.3}),
    ("psi", {"schedule": "loop"}),
    ("confidence", {"order": "random"}),
    ("confidence", {"order": "left_to_right", "greedy": False}),
    ("confidence", {"block_size": 4, "kind": "margin", "greedy": False}),
    ("confidence", {"kind": "negative_entropy", "filtered": True}),
    ("threshold", {"rule": "factor"}),
    ("threshold", {"rule": "dynamic", "threshold": 0.3, "greedy": False}),
    ("threshold", {"rule": "lowered", "block_size": 5}),
)
OF_UNIFORM_NOISE = (
    ("psi", {"kappa": 0.3}),
    ("psi", {"schedule": "loop"}),
    ("ancestral", {"tail": "posterior"}),
    ("ancestral", {"tail": "network"}),
)


def variants() -> Iterator[tuple[str, str | None, dict[str, object]]]:
    for name in FAMILIES:
        for sampler in get_family(name, vocab_size=VOCAB).samplers:
            yield name, sampler, {}
    yield "block", "semi_autoregressive", {"first_hitting": True}
    yield from (("masked", *options) for options in OF_MASKS)
    yield from (("uniform", *options) for options in OF_UNIFORM_NOISE)


@pytest.mark.parametrize(("name", "sampler", "options"), list(variants()))
def test_a_text_depends_on_its_own_seed_alone(name, sampler, options):
    family, model = family_and_model(name)
    about = {"sampler": sampler, "steps": family.sampling_steps(LENGTH), **options}
    together = generate(model, family, SEEDS, LENGTH, **about)
    assert together.ids.shape == (4, LENGTH)
    assert family.mask_id is None or not bool((together.ids == family.mask_id).any())
    for number, seed in enumerate(SEEDS):
        alone = generate(model, family, [seed], LENGTH, **about)
        assert torch.equal(alone.ids[0], together.ids[number])
    turned = generate(model, family, SEEDS[::-1], LENGTH, **about)
    assert torch.equal(turned.ids, together.ids.flip(0))


@pytest.mark.parametrize("name", CACHED)
@pytest.mark.parametrize("beginning", [0, 3])
def test_caches_change_no_id_and_save_tokens(name, beginning):
    family, model = family_and_model(name)
    prompt = torch.tensor([1, 2, 3])[:beginning]
    for options in ({}, {"first_hitting": True}) if name == "block" else ({},):
        about = {"steps": family.sampling_steps(LENGTH), "prompt": prompt, **options}
        kept, anew = (generate(model, family, SEEDS, LENGTH, cache=c, **about) for c in (True, False))
        assert torch.equal(kept.ids, anew.ids)
        assert kept.calls == anew.calls
        assert kept.tokens < anew.tokens


@pytest.mark.parametrize("name", FAMILIES)
def test_given_places_stay(name):
    family, model = family_and_model(name)
    beginning = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]])
    texts = generate(model, family, [5, 6], LENGTH, prompt=beginning, steps=family.sampling_steps(LENGTH))
    assert torch.equal(texts.ids[:, :4], beginning)
    gaps = torch.tensor([1, FREE, FREE, 2, FREE, 3])
    if name in ("ar", "block"):
        with pytest.raises(UserError, match="writes from left to right: a prompt may give"):
            generate(model, family, [5], LENGTH, prompt=gaps)
    else:
        assert generate(model, family, [5], LENGTH, prompt=gaps).ids[0, [0, 3, 5]].tolist() == [1, 2, 3]


def test_a_prompt_changes_what_follows_it():
    family, model = family_and_model("ar")
    texts = [generate(model, family, [5] * 8, LENGTH, prompt=torch.tensor([first])).ids for first in (0, 1)]
    assert not torch.equal(texts[0][:, 1:], texts[1][:, 1:])


def test_masks_cost_at_most_a_call_for_each_token_of_the_longest_text():
    family, model = family_and_model("masked")
    texts = generate(model, family, range(6), LENGTH, steps=5000)
    assert texts.calls == LENGTH
    assert texts.tokens == 6 * LENGTH * LENGTH
    few = generate(model, family, range(6), LENGTH, steps=2)
    assert few.calls <= 2


def test_filters_reach_the_network_prediction():
    for name in FAMILIES:
        family, model = family_and_model(name)
        sharp = generate(model, family, SEEDS, LENGTH, filters=Filters(temperature=1e-3, top_k=1))
        assert sharp.ids.shape == (4, LENGTH), name
    family, model = family_and_model("ar")
    one, other = (generate(model, family, s, LENGTH, filters=Filters(top_k=1)).ids for s in ([1], [2]))
    assert torch.equal(one, other), "the likeliest token each time needs no draw"


def test_the_share_of_the_network_is_measured_when_wanted():
    family, model = family_and_model("masked")
    assert generate(model, family, [1], LENGTH).network_s == 0
    texts = generate(model, family, [1], LENGTH, timed=True)
    assert 0 < texts.network_s < texts.seconds


def test_every_step_is_shown():
    family, model = family_and_model("masked")
    states: list[int] = []
    generate(
        model,
        family,
        [1],
        LENGTH,
        watch=lambda draft: states.append(int((draft.ids == family.mask_id).sum())),
    )
    assert states[0] == LENGTH
    assert states[-1] == 0
    assert states == sorted(states, reverse=True)


@pytest.mark.parametrize(
    ("name", "about", "sentence"),
    [
        ("ar", {"steps": 5}, "samples one token a step: steps is 5, it must be 12"),
        ("masked", {"steps": 0}, "sampling steps is 0"),
        ("masked", {"sampler": "ancestrel"}, "no sampler 'ancestrel'; did you mean 'ancestral'"),
        ("masked", {"greedy": True}, "has no option 'greedy'"),
        (
            "masked",
            {"prompt": torch.zeros(13, dtype=torch.long)},
            "the prompt has 13 tokens, the text only 12",
        ),
        ("masked", {"prompt": torch.tensor([99])}, "an id that is no token"),
        ("block", {"first_hitting": True, "steps": 5}, "steps is 5, it must be at most block_size 4"),
    ],
)
def test_what_a_sampler_cannot_do_is_refused_in_a_sentence(name, about, sentence):
    family, model = family_and_model(name)
    with pytest.raises(UserError, match=sentence):
        generate(model, family, SEEDS, LENGTH, **about)
