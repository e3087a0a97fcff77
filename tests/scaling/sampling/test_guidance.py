"""Guided sampling: the rule of each process against enumerated laws, and what one pass must be enough for."""

from __future__ import annotations

from itertools import pairwise, permutations
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scaling.errors import UserError
from scaling.families import FAMILIES, get_family
from scaling.families.base import Family
from scaling.labels import Labels
from scaling.models import Transformer
from scaling.sampling import Filters, Guidance, generate
from scaling.sampling.guidance import label_log_probs, mix, tilt
from tests.scaling.enumeration import (
    Planted,
    as_network,
    best_predictor,
    forward_probs,
    noise_at,
    planted,
    told_the_time,
)
from tests.scaling.sampling.laws import COUNT, FALSE_ALARMS, Chain, p_value, together
from tests.scaling.sampling.test_loop import CACHED, LENGTH, SEEDS, SIZE, VOCAB

IDS, CLASSES = 3, 2


def labelled(kind: str, **options: object) -> tuple[Family, Transformer]:
    """A network in float64 that is far from uniform and heeds its labels."""
    family = get_family(kind, vocab_size=VOCAB, **options)
    family.labels = Labels(of="topic", classes=3)
    generator = torch.Generator().manual_seed(0)
    model = family.build_model(SIZE, generator).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.0 if name.endswith("bias") or "schedule" in name else 0.15
            scale = 1.0 if name == "label_vectors" else scale
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return family, model


def variants() -> list[tuple[str, str]]:
    return [(name, sampler) for name in FAMILIES for sampler in get_family(name, vocab_size=VOCAB).samplers]


# -- one pass is enough at 0 and 1 ---------------------------------------------------------------------


@pytest.mark.parametrize(("name", "sampler"), variants())
def test_scale_one_is_the_label_and_scale_zero_is_none(name: str, sampler: str) -> None:
    """Bit for bit: as a network whose null label is the label, and as the network without guidance."""
    family, model = labelled(name)
    about: dict[str, Any] = {"sampler": sampler, "steps": family.sampling_steps(LENGTH)}
    plain = generate(model, family, SEEDS, LENGTH, **about)
    off = generate(model, family, SEEDS, LENGTH, guidance=Guidance(label=1, scale=0), **about)
    whole = generate(model, family, SEEDS, LENGTH, guidance=Guidance(label=1), **about)
    with torch.no_grad():
        model.label_vectors[-1] = model.label_vectors[1]
    baked = generate(model, family, SEEDS, LENGTH, **about)
    assert torch.equal(off.ids, plain.ids)
    assert torch.equal(whole.ids, baked.ids)
    if sampler == next(iter(family.samplers)):  # greedy ones may do as they did
        assert not torch.equal(whole.ids, plain.ids)
    for texts, same in ((off, plain), (whole, baked)):
        assert (texts.calls, texts.tokens) == (same.calls, same.tokens)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_mixture_takes_one_pass_of_every_text_twice(name: str) -> None:
    family, model = labelled(name)
    steps = family.sampling_steps(LENGTH)
    plain = generate(model, family, SEEDS, LENGTH, steps=steps)
    mixed = generate(model, family, SEEDS, LENGTH, steps=steps, guidance=Guidance(label=1, scale=2.5))
    assert (mixed.calls, mixed.tokens) == (plain.calls, 2 * plain.tokens)
    for number, seed in enumerate(SEEDS):
        alone = generate(model, family, [seed], LENGTH, steps=steps, guidance=Guidance(label=1, scale=2.5))
        assert torch.equal(alone.ids[0], mixed.ids[number])


@pytest.mark.parametrize("name", CACHED)
def test_guided_caches_change_no_id(name: str) -> None:
    family, model = labelled(name)
    about: dict[str, Any] = {"steps": family.sampling_steps(LENGTH), "guidance": Guidance(label=2, scale=3.0)}
    kept, anew = (generate(model, family, SEEDS, LENGTH, cache=c, **about) for c in (True, False))
    assert torch.equal(kept.ids, anew.ids)


# -- laws --------------------------------------------------------------------------------------------------


def sources(length: int) -> list[Planted]:
    """The source of each label, then that without: both labels are equally likely."""
    parts = [planted(IDS, length, seed) for seed in (1, 2)]
    probs = torch.stack([part.probs for part in parts]).mean(0)
    return [*parts, Planted(IDS, length, parts[0].ids, probs)]


class Perfect:
    """Perfect predictions of a text, given its label or the null label."""

    classes = CLASSES

    def __init__(self, family: Family, length: int) -> None:
        self.networks = [as_network(best_predictor(family, s), family, length) for s in sources(length)]

    def __call__(self, ids: Tensor, noise: Tensor, *, labels: Tensor | None = None, **view: Any) -> Tensor:
        labels = torch.full((len(ids),), CLASSES) if labels is None else labels
        every = torch.stack([network(ids, noise, **view) for network in self.networks])
        return every[labels, torch.arange(len(ids))]


def family_of(name: str, **options: Any) -> Family:
    cls_size = IDS + (name != "uniform")
    return get_family(name, vocab_size=cls_size, **options)


def one_by_one(length: int, scale: float, orders: list[tuple[int, ...]]) -> Tensor:
    """(N,): the mean over orders of the product of guided conditionals, each given the places before."""
    with_label, _, without = sources(length)
    ids, law = without.ids, torch.zeros(len(without.ids), dtype=torch.float64)

    def conditional(source: Planted, before: tuple[int, ...], place: int) -> Tensor:
        """(N, K) of the place, given what text n has at the places before."""
        same = (ids[:, None, list(before)] == ids[None, :, list(before)]).all(-1).double()
        rows = (same * source.probs) @ F.one_hot(ids[:, place], IDS).double()
        return rows / rows.sum(-1, keepdim=True)

    for order in orders:
        product = torch.ones_like(law)
        for step, place in enumerate(order):
            both = (conditional(s, order[:step], place) for s in (with_label, without))
            powers = [p**e for p, e in zip(both, (scale, 1 - scale), strict=True)]
            guided = powers[0] * powers[1]
            product *= (guided / guided.sum(-1, keepdim=True)).gather(-1, ids[:, place, None])[:, 0]
        law += product / len(orders)
    return law


def tilted_joint(length: int, scale: float) -> Tensor:
    with_label, _, without = sources(length)
    weights = with_label.probs**scale * without.probs ** (1 - scale)
    return weights / weights.sum()


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_masks_one_by_one_follow_guided_conditionals_in_random_order(scale: float) -> None:
    """Not p(x | label)^scale p(x)^(1 - scale): each step is guided, the whole is not."""
    length, family = 3, told_the_time(family_of("masked"))
    texts = generate(
        Perfect(family, length),
        family,
        range(COUNT),
        length,
        sampler="first_hitting",
        steps=length,
        guidance=Guidance(label=0, scale=scale),
    )
    source = sources(length)[2]
    law = one_by_one(length, scale, list(permutations(range(length))))
    assert p_value(texts.ids, source, law) > FALSE_ALARMS
    assert p_value(texts.ids, source, tilted_joint(length, scale)) < 1e-6


def test_ar_follows_guided_conditionals_from_left_to_right() -> None:
    length, family, scale = 3, family_of("ar"), 2.0
    guidance = Guidance(label=0, scale=scale)
    texts = generate(Perfect(family, length), family, range(COUNT), length, guidance=guidance, cache=False)
    law = one_by_one(length, scale, [tuple(range(length))])
    assert p_value(texts.ids, sources(length)[2], law) > FALSE_ALARMS


class Exact:
    """p(label | noisy text) by enumeration."""

    classes = CLASSES

    def __init__(self, family: Family, length: int) -> None:
        self.family, self.sources = family, sources(length)

    def log_probs(self, texts: Tensor, t: Tensor) -> Tensor:
        x0 = self.sources[0].ids
        pairs = [
            forward_probs(self.family, x.expand(len(texts), -1), texts, t.double()) for x in x0
        ]  # N times (B,)
        weights = torch.stack([s.probs for s in self.sources[:CLASSES]])
        return (weights @ torch.stack(pairs)).clamp(min=1e-300).T.log().log_softmax(-1)


def guided_law(
    family: Family, length: int, steps: int, scale: float, *, by_classifier: bool, kappa: float = 1.0
) -> Tensor:
    """(N,) what the guided sampler makes of noise, pushed through all states. kappa below 1: Psi."""
    parts = sources(length)
    first, last = Chain(family, parts[0]), Chain(family, parts[2])
    states, probs = last.states, last.probs
    exact = Exact(family, length)
    everywhere = torch.ones_like(states, dtype=torch.bool)
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)

    def guided_at(t: Tensor, s: Tensor) -> Tensor:
        many = (t.expand(len(states)), s.expand(len(states)))
        without = family.posterior(last.x_theta(t), states, *many)
        if by_classifier:
            guidance = Guidance(label=0, scale=scale, classifier=exact)
            tilts = label_log_probs(guidance, states, many[0], everywhere, family.vocab_size)
            return tilt(without, tilts.view_as(without), scale).nan_to_num(0.0)
        return mix(family.posterior(first.x_theta(t), states, *many), without, scale).nan_to_num(0.0)

    for t, s in pairwise(times):
        places = guided_at(t, s)
        if kappa < 1:
            alpha = family.schedule(s)[0]
            text = alpha * guided_at(t, torch.zeros_like(s)) + (1 - alpha) * noise_at(family, s)
            places = kappa * places + (1 - kappa) * text
        probs = probs @ together(places.nan_to_num(0.0), states)
    last.probs = probs
    return last.texts()


@pytest.mark.parametrize("scale", [0.5, 2.0])
@pytest.mark.parametrize(("name", "options"), [("uniform", {}), ("hybrid", {"p_u": 0.4})])
def test_uniform_and_hybrid_mix_posteriors(name: str, options: dict[str, Any], scale: float) -> None:
    length, steps, family = 2, 4, told_the_time(family_of(name, **options))
    guidance = Guidance(label=0, scale=scale)
    texts = generate(Perfect(family, length), family, range(COUNT), length, steps=steps, guidance=guidance)
    law = guided_law(family, length, steps, scale, by_classifier=False)
    assert p_value(texts.ids, sources(length)[2], law) > FALSE_ALARMS
    plain = guided_law(family, length, steps, 0.0, by_classifier=False)
    assert p_value(texts.ids, sources(length)[2], plain) < 1e-9


@pytest.mark.parametrize("kappa", [0.0, 0.4])
@pytest.mark.parametrize(("name", "options", "by_classifier"), [
    ("uniform", {}, False), ("hybrid", {"p_u": 0.4}, False), ("uniform", {}, True), ("masked", {}, True),
])  # fmt: skip
def test_psi_guides_both_of_its_posteriors_and_leaves_its_noise(
    name: str, options: dict[str, Any], by_classifier: bool, kappa: float
) -> None:
    length, steps, scale, family = 2, 4, 2.0, told_the_time(family_of(name, **options))
    guidance = Guidance(label=0, scale=scale, classifier=Exact(family, length) if by_classifier else None)
    about: dict[str, Any] = {"sampler": "psi", "kappa": kappa, "steps": steps, "guidance": guidance}
    texts = generate(Perfect(family, length), family, range(COUNT), length, **about)
    law = guided_law(family, length, steps, scale, by_classifier=by_classifier, kappa=kappa)
    assert p_value(texts.ids, sources(length)[2], law) > FALSE_ALARMS
    for other in ({"scale": scale}, {"scale": 1.0, "kappa": kappa}):  # ancestral, and less guided
        wrong = guided_law(family, length, steps, by_classifier=by_classifier, **other)
        assert p_value(texts.ids, sources(length)[2], wrong) < FALSE_ALARMS / 10


@pytest.mark.parametrize("name", ["uniform", "hybrid"])
def test_guided_psi_of_kappa_one_is_ancestral_id_for_id(name: str) -> None:
    family, model = labelled(name)
    about: dict[str, Any] = {"steps": 7, "guidance": Guidance(label=1, scale=0.3)}
    plain = generate(model, family, SEEDS, LENGTH, **about)
    psi = generate(model, family, SEEDS, LENGTH, sampler="psi", kappa=1.0, **about)
    assert torch.equal(plain.ids, psi.ids)
    assert (plain.calls, plain.tokens) == (psi.calls, psi.tokens)
    loop = generate(model, family, SEEDS, LENGTH, sampler="psi", schedule="loop", **about)
    assert not torch.equal(loop.ids, psi.ids)


@pytest.mark.parametrize("name", ["masked", "uniform"])
def test_a_classifier_tilts_the_posterior(name: str) -> None:
    length, steps, family, scale = 2, 4, told_the_time(family_of(name)), 1.5
    guidance = Guidance(label=0, scale=scale, classifier=Exact(family, length))
    texts = generate(Perfect(family, length), family, range(COUNT), length, steps=steps, guidance=guidance)
    law = guided_law(family, length, steps, scale, by_classifier=True)
    assert p_value(texts.ids, sources(length)[2], law) > FALSE_ALARMS


@pytest.mark.parametrize("name", ["masked", "uniform"])
def test_a_perfect_classifier_of_scale_one_leads_to_the_label_in_many_steps(name: str) -> None:
    """Bayes' rule; the error is that of places drawn apart, and falls with the number of steps."""
    length, family = 2, told_the_time(family_of(name))
    with_label = sources(length)[0].probs
    apart = [
        float((guided_law(family, length, steps, 1.0, by_classifier=True) - with_label).abs().sum()) / 2
        for steps in (4, 16, 64)
    ]
    assert apart[2] < apart[1] / 2 < apart[0] / 4
    assert apart[2] < 0.02


@pytest.mark.parametrize(("name", "sampler"), [("masked", "ancestral"), ("uniform", "ancestral")])
def test_texts_agree_with_the_label_the_more_the_larger_the_scale(name: str, sampler: str) -> None:
    length, family = 3, told_the_time(family_of(name))
    first, second, _ = sources(length)
    shares = []
    for scale in (0.0, 0.5, 1.0, 2.0, 4.0):
        guidance = Guidance(label=0, scale=scale)
        about: dict[str, Any] = {"sampler": sampler, "steps": 12, "guidance": guidance}
        texts = generate(Perfect(family, length), family, range(4000), length, **about)
        row = (texts.ids[:, None] == first.ids).all(-1).double().argmax(1)
        shares.append(float((first.probs / (first.probs + second.probs))[row].mean()))
    assert shares == sorted(shares)
    assert abs(shares[0] - 0.5) < 0.02
    assert shares[-1] > shares[2] + 0.1


# -- the pieces ----------------------------------------------------------------------------------------------


def test_mixing_keeps_what_is_impossible_impossible() -> None:
    some = torch.tensor([[0.5, 0.5, 0.0, 0.0]], dtype=torch.float64)
    other = torch.tensor([[0.2, 0.0, 0.8, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(mix(some, other, 1.0), some)
    torch.testing.assert_close(mix(some, other, 0.0), other)
    torch.testing.assert_close(mix(some, other, 0.5), torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64))
    strong = mix(some, other, 3.0)
    assert bool(strong.isfinite().all())
    assert strong[0, 2] == strong[0, 3] == 0
    assert strong[0, 1] > 0.99  # without the label it never comes


def test_first_order_equals_exact_for_a_linear_classifier_of_two_labels() -> None:
    """The logarithm of p(label) is linear in the one-hot rows up to the normaliser, which is not."""
    generator = torch.Generator().manual_seed(0)
    weights = 1e-4 * torch.randn(4, 5, 3, generator=generator, dtype=torch.float64)

    class Linear:
        classes = 3

        def log_probs(self, texts: Tensor, t: Tensor) -> Tensor:
            rows = F.one_hot(texts, 5).double() if texts.ndim == 2 else texts
            return torch.einsum("blv,lvc->bc", rows, weights).log_softmax(-1)

    ids = torch.randint(5, (6, 4), generator=generator)
    where = torch.rand(6, 4, generator=generator) < 0.7
    exact, slope = (
        label_log_probs(
            Guidance(label=1, classifier=Linear(), first_order=first), ids, torch.zeros(6), where, 5
        ).log_softmax(-1)
        for first in (False, True)
    )
    assert exact.shape == (int(where.sum()), 5)
    torch.testing.assert_close(exact, slope, rtol=0, atol=1e-7)
    assert float((exact - exact.mean()).abs().max()) > 1e-5


def test_clean_places_of_masked_text_stay_under_a_classifier() -> None:
    length, family = 4, told_the_time(family_of("masked"))
    before: list[Tensor] = []

    def watch(draft: Any) -> None:
        if before:
            clean = before[-1] != family.mask_id
            assert torch.equal(draft.ids[clean], before[-1][clean])
        before.append(draft.ids.clone())

    guidance = Guidance(label=0, scale=4.0, classifier=Exact(family, length))
    generate(Perfect(family, length), family, range(50), length, steps=6, guidance=guidance, watch=watch)
    assert len(before) == 7


# -- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("guidance", "named"),
    [
        (Guidance(label=3), "labels 0 to 2"),
        (Guidance(label="x", names=("a", "b", "c")), "unknown label 'x'"),
        (Guidance(label="x"), "have no names"),
    ],
)
def test_an_unknown_label_is_named(guidance: Guidance, named: str) -> None:
    family, model = labelled("masked")
    with pytest.raises(UserError, match=named):
        generate(model, family, [1], LENGTH, guidance=guidance)


def test_a_network_without_labels_takes_none() -> None:
    family = get_family("masked", vocab_size=VOCAB)
    model = family.build_model(SIZE, torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match="trained without labels"):
        generate(model, family, [1], LENGTH, guidance=Guidance(label=0))


@pytest.mark.parametrize("fields", [{"scale": float("nan")}, {"scale": float("inf")}, {"first_order": True}])
def test_bad_guidance_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="guidance:"):
        Guidance(label=0, **fields)


def test_samplers_that_draw_from_predictions_refuse_to_mix_posteriors() -> None:
    for name, sampler in variants():
        family, model = labelled(name)
        if family.mixes_posteriors and sampler not in ("ancestral", "psi"):
            with pytest.raises(UserError, match="this sampler"):
                generate(
                    model, family, [1], LENGTH, sampler=sampler, steps=4, guidance=Guidance(label=0, scale=2)
                )


def test_filters_do_not_go_with_guided_posteriors() -> None:
    family, model = labelled("uniform")
    guidance, filters = Guidance(label=0, scale=2), Filters(top_p=0.9)
    with pytest.raises(UserError, match="filters cut predictions"):
        generate(model, family, [1], LENGTH, guidance=guidance, filters=filters)


def test_gaussian_has_no_rule_for_a_classifier() -> None:
    family, model = labelled("gaussian")
    guidance = Guidance(label=0, classifier=Exact(told_the_time(family_of("masked")), 2))
    with pytest.raises(UserError, match="no rule"):
        generate(model, family, [1], LENGTH, guidance=guidance)
