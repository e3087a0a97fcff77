"""Whole samplers under perfect predictions against their enumerated laws: counts of texts by chi-square, with
a false-alarm rate of 1e-3 a test. At few steps the law of a sampler is not the source, and the same test
against the source must fail; samplers that are exact must pass it."""

from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from scaling.families import family_class, get_family
from scaling.sampling import FREE
from scaling.sampling.remasking import (
    flow_matching_step,
    loop_alphas,
    mask_moves,
    mask_weights,
    remasking_rates,
)
from tests.golden_runners.common import tensor
from tests.golden_runners.sampling.distributions import TAILS, family_of, source_of
from tests.scaling.enumeration import Planted, planted
from tests.scaling.sampling.laws import FALSE_ALARMS, draw_texts, law_of, p_value, posterior_weights

GOLDEN = Path(__file__).parents[2] / "golden" / "sampling" / "sampler_distributions.json"
CASES = json.loads(GOLDEN.read_text(encoding="utf-8"))["cases"]
CERTAIN = 1e-9
"""A p-value below this is no accident."""

State = tuple[int | None, ...]
"""A text with masks, None."""
SOURCE = planted(3, 2, 5)


def even(steps: int) -> Tensor:
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


# -- laws that a reference gave ------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_samplers_follow_the_laws_of_the_references(case: dict[str, Any]) -> None:
    params, family, source = case["params"], family_of(case), source_of(case)
    about: dict[str, Any] = {"steps": params["steps"]}
    if "kappa" in params:
        about |= {"sampler": "psi", "kappa": params["kappa"]}
    tail = TAILS[params.get("argmax_of")]
    if tail == "greedy_tail":
        about["greedy_tail"] = True
    elif tail != "draw":
        about["tail"] = tail
    ids = draw_texts(family, source, **about).ids
    assert p_value(ids, source, case["expected"]["probs"]) > FALSE_ALARMS
    if params["steps"] <= 8 and tail != "posterior":
        assert p_value(ids, source, source.probs) < CERTAIN, "few steps are not the source"


# -- laws by pushing all states through the steps ------------------------------------------------


def remasking_law(schedule: str, steps: int) -> Tensor:
    family = get_family("masked", vocab_size=4)
    if schedule == "flow_matching":
        times, moves, t = [1.0], [], 1.0
        while t > 1.001 / steps:
            length, unmask, remask = flow_matching_step(t, steps)
            moves.append((tensor(unmask), tensor(remask)))
            times.append(t := t - length)
        moves.append((tensor(1.0), tensor(0.0)))
        grid = torch.tensor([*times, 0.0], dtype=torch.float64)
    else:
        grid = even(steps)
        if schedule == "loop":
            alphas = loop_alphas(grid, 0.55, 0.05, 0.9)
            holding = (grid[:-1] <= 0.55) & (grid[:-1] > 0.05)
            rates = remasking_rates("cap", alphas, 0.4).where(holding, 0.0)
        else:
            alphas = 1 - grid
            rates = remasking_rates(schedule, alphas, 0.4)
        moves = mask_moves(alphas, rates)

    def weights(step: int, at_present: Tensor, present: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return mask_weights(present == family.mask_id, *moves[step])

    return law_of(family, SOURCE, grid, weights)


@pytest.mark.parametrize("schedule", ["cap", "rescale", "loop", "forward_backward", "flow_matching"])
def test_remasking_follows_its_law(schedule: str) -> None:
    law = remasking_law(schedule, 4)
    ancestral = law_of(get_family("masked", vocab_size=4), SOURCE, even(4))
    assert float((law - ancestral).abs().max()) > 1e-3, "taking tokens back matters"
    rate = {"eta": 0.4} if schedule in ("cap", "rescale", "loop") else {}
    about = {"sampler": "remasking", "schedule": schedule, "steps": 4, **rate}
    ids = draw_texts(get_family("masked", vocab_size=4), SOURCE, **about).ids
    assert p_value(ids, SOURCE, law) > FALSE_ALARMS
    assert p_value(ids, SOURCE, SOURCE.probs) < CERTAIN


def conditional(source: Planted, state: State, place: int) -> list[float]:
    """p(x at the place | what the state knows)."""
    fits = torch.tensor(
        [all(i is None or i == x for i, x in zip(state, text, strict=True)) for text in source.ids.tolist()]
    )
    weights = [float(source.probs[fits & (source.ids[:, place] == i)].sum()) for i in range(source.num_ids)]
    return [w / sum(weights) for w in weights]


Remembered = tuple[State, tuple[float, ...]]
"""A text, and the probability at which each token was decoded, inf at masks."""


def places_after_a_step(
    text: State, sure: tuple[float, ...], unmask: float, most: float
) -> Iterator[list[tuple[int | None, float, float]]]:
    """For each place what it may become, how sure it then is, and with which probability."""
    whole = sum(math.exp(-p) for p in sure)
    for place, (token, p) in enumerate(zip(text, sure, strict=True)):
        if token is None:
            ids = enumerate(conditional(SOURCE, text, place))
            yield [(None, math.inf, 1 - unmask), *((i, q, unmask * q) for i, q in ids)]
        else:
            lose = most * math.exp(-p) / whole
            yield [(token, p, 1 - lose), (None, math.inf, lose)]


def test_remasking_by_confidence_follows_its_law() -> None:
    states: dict[Remembered, float] = {((None, None), (math.inf, math.inf)): 1.0}
    for alpha_t, alpha_s in itertools.pairwise((1 - even(4)).tolist()):
        most = min(1.0, (1 - alpha_s) / alpha_t) if alpha_t > 0 else 1.0
        following: dict[Remembered, float] = defaultdict(float)
        for (text, sure), mass in states.items():
            options = places_after_a_step(text, sure, (alpha_s - alpha_t) / (1 - alpha_t), most)
            for places in itertools.product(*options):
                ids, sureties, chances = zip(*places, strict=True)
                following[ids, sureties] += mass * math.prod(chances)
        states = {state: mass for state, mass in following.items() if mass > 0}
    law: dict[State, float] = dict.fromkeys(map(tuple, SOURCE.ids.tolist()), 0.0)
    for (text, _), mass in states.items():
        law[text] += mass
    family = get_family("masked", vocab_size=4)
    ids = draw_texts(family, SOURCE, sampler="remasking", schedule="conf", steps=4).ids
    assert p_value(ids, SOURCE, list(law.values())) > FALSE_ALARMS
    assert p_value(ids, SOURCE, SOURCE.probs) < CERTAIN


@pytest.mark.parametrize(
    ("steps", "options"), [(3, {"schedule": "rescale", "eta": 0.9}), (6, {"schedule": "loop", "eta": 0.09})]
)
@pytest.mark.parametrize("name", ["masked", "uniform"])
def test_psi_follows_its_law(name: str, steps: int, options: dict[str, Any]) -> None:
    """Written out: kappa times the posterior, the rest a guess of the text with the noise of the new time."""
    family = get_family(name, vocab_size=4 if name == "masked" else 3)
    times, kappas = even(steps), [1.0] * steps
    if options["schedule"] == "rescale":
        for step, s in enumerate(times[1:-1].tolist()):
            alpha_t = 1 - float(times[step])
            sigma = 0.9 * (min(1.0, s / alpha_t) if alpha_t > 0 else 1.0)
            kappas[step] = max(0.0, 1 - sigma / s)
    else:  # 7 times: 3 down to 0.1, 4 there of which the last becomes 0
        times = torch.tensor([1, 0.55, 0.1, 0.1, 0.1, 0.1, 0.0], dtype=torch.float64)
        kappas[3:5] = [1 - 0.09 / 0.1] * 2
    plain = posterior_weights(family)

    def weights(step: int, at_present: Tensor, present: Tensor, t: Tensor, s: Tensor) -> Tensor:
        to_s = plain(step, at_present, present, t, s)
        to_text = plain(step, at_present, present, t, torch.zeros_like(s))
        guess = (1 - s) * to_text / to_text.sum(1, keepdim=True)
        guess[:, 2] += s
        return kappas[step] * to_s / to_s.sum(1, keepdim=True) + (1 - kappas[step]) * guess

    law = law_of(family, SOURCE, times, weights)
    ids = draw_texts(family, SOURCE, sampler="psi", steps=steps, **options).ids
    assert p_value(ids, SOURCE, law) > FALSE_ALARMS
    assert p_value(ids, SOURCE, SOURCE.probs) < CERTAIN


def test_the_three_tails_of_uniform_noise_are_three_laws() -> None:
    family = get_family("uniform", vocab_size=3)
    laws = {tail: law_of(family, SOURCE, even(4), tail=tail) for tail in (*TAILS.values(), "network")}
    entropies = {tail: -float(torch.xlogy(law, law).sum()) for tail, law in laws.items()}
    assert abs(entropies["posterior"] - entropies["draw"]) < 0.2
    assert max(entropies["greedy_tail"], entropies["network"]) < SOURCE.entropy - 0.3
    for tail, law in laws.items():
        options = {"greedy_tail": True} if tail == "greedy_tail" else {"tail": tail}
        ids = draw_texts(family, SOURCE, steps=4, **options).ids
        assert p_value(ids, SOURCE, law) > FALSE_ALARMS, tail
        for other, elsewhere in laws.items():
            assert other == tail or p_value(ids, SOURCE, elsewhere) < FALSE_ALARMS, (tail, other)


# -- masks decoded a few at a time ---------------------------------------------------------------

Choice = Callable[[int, list[int], State, list[float]], list[int]]
"""(call, masked places, the ids drawn for them, their confidences) -> the places that are kept."""


def after_a_call(source: Planted, state: State, call: int, choice: Choice) -> Iterator[tuple[State, float]]:
    """What a call makes of a state, with the probabilities of all draws."""
    masked = [place for place, token in enumerate(state) if token is None]
    probs = [conditional(source, state, place) for place in masked]
    for ids in itertools.product(range(source.num_ids), repeat=len(masked)):
        sure = [p[i] for p, i in zip(probs, ids, strict=True)]
        new = {place: ids[masked.index(place)] for place in choice(call, masked, ids, sure)}
        yield tuple(new.get(place, token) for place, token in enumerate(state)), math.prod(sure)


def decoded_law(source: Planted, choice: Choice) -> list[float]:
    """(N,): each call draws every masked place apart, and keeps those that `choice` says."""
    states: dict[State, float] = {(None,) * source.length: 1.0}
    for call in range(source.length):
        following: dict[State, float] = defaultdict(float)
        for state, mass in states.items():
            for text, chance in after_a_call(source, state, call, choice):
                following[text] += mass * chance
        states = following
    return [states[tuple(text)] for text in source.ids.tolist()]


def by_surety(masked: list[int], sure: list[float]) -> list[int]:
    """The masked places, the surest first."""
    return sorted(masked, key=lambda place: -sure[masked.index(place)])


def count_rule(counts: list[int]) -> Choice:
    return lambda call, masked, ids, sure: by_surety(masked, sure)[: (counts + [0] * 9)[call]]


def threshold_rule(threshold: float) -> Choice:
    return lambda call, masked, ids, sure: [
        place
        for rank, place in enumerate(by_surety(masked, sure))
        if rank == 0 or sure[masked.index(place)] >= threshold
    ]


def factor_rule(factor: float) -> Choice:
    def choice(call: int, masked: list[int], ids: State, sure: list[float]) -> list[int]:
        kept: list[int] = []
        for rank, place in enumerate(by_surety(masked, sure), start=1):
            if rank > 1 and sure[masked.index(place)] < 1 - factor / (rank + 1):
                break
            kept.append(place)
        return kept

    return choice


THREE = planted(3, 3, 8)
DECODERS = {
    "confidence": ({"sampler": "confidence", "steps": 3}, count_rule([1, 1, 1])),
    "confidence in two calls": ({"sampler": "confidence", "steps": 2}, count_rule([2, 1])),
    "fixed": ({"sampler": "threshold", "threshold": 0.4}, threshold_rule(0.4)),
    "factor": ({"sampler": "threshold", "rule": "factor", "factor": 1.8}, factor_rule(1.8)),
}


@pytest.mark.parametrize("label", DECODERS)
def test_decoding_by_confidence_follows_its_law(label: str) -> None:
    about, rule = DECODERS[label]
    law = decoded_law(THREE, rule)
    ids = draw_texts(get_family("masked", vocab_size=4), THREE, greedy=False, **about).ids
    assert p_value(ids, THREE, law) > FALSE_ALARMS
    assert p_value(ids, THREE, THREE.probs) < CERTAIN, "the order depends on what was drawn"


def grouped_law(source: Planted, groups: list[list[int]]) -> Tensor:
    """(N,): the places of each group drawn apart, given those of the groups before."""
    law = torch.ones(len(source.ids), dtype=torch.float64)
    for number, text in enumerate(source.ids.tolist()):
        state: list[int | None] = [None] * source.length
        for group in groups:
            law[number] *= math.prod(conditional(source, tuple(state), p)[text[p]] for p in group)
            for place in group:
                state[place] = text[place]
    return law


def any_pair_first(source: Planted) -> Tensor:
    """Two random places together, then what is left, at most two."""
    places = range(source.length)
    laws = [
        grouped_law(source, [list(pair), [p for p in places if p not in pair]])
        for pair in itertools.combinations(places, 2)
    ]
    return torch.stack(laws).mean(0)


FOUR = planted(2, 4, 9)
ONE_THEN_APART = grouped_law(FOUR, [[0], [2], [1, 3]])
EITHER_OFFSET = (grouped_law(FOUR, [[0, 2], [1, 3]]) + grouped_law(FOUR, [[1, 3], [0, 2]])) / 2


@pytest.mark.parametrize(
    ("name", "options", "about", "law", "calls"),
    [
        ("masked", {}, {"sampler": "first_hitting", "steps": 2}, any_pair_first(FOUR), 2),
        ("block", {"block_size": 4}, {"first_hitting": True, "steps": 2}, any_pair_first(FOUR), 2),
        (
            "block",
            {"block_size": 2},
            {"first_hitting": True, "steps": 1},
            grouped_law(FOUR, [[0, 1], [2, 3]]),
            2,
        ),
        ("esoteric", {}, {"sampler": "block", "steps": 2}, EITHER_OFFSET, 2),
        (
            "esoteric",
            {},
            {"sampler": "block_autoregressive", "sub_context": 2, "together": 2, "steps": 3},
            ONE_THEN_APART,
            3,
        ),
    ],
)
def test_places_decoded_in_one_call_are_drawn_apart(
    name: str, options: dict[str, Any], about: dict[str, Any], law: Tensor, calls: int
) -> None:
    texts = draw_texts(get_family(name, vocab_size=3, **options), FOUR, **about)
    assert texts.calls == calls
    assert p_value(texts.ids, FOUR, law) > FALSE_ALARMS
    assert p_value(texts.ids, FOUR, FOUR.probs) < CERTAIN


def in_steps(steps: int, share: float = 1.0) -> Tensor:
    """Two places, each decoded with probability `share` in one of `steps` even steps: apart if in the same
    one, else exactly."""
    apart = torch.tensor(
        [
            math.prod(conditional(SOURCE, (None, None), place)[i] for place, i in enumerate(text))
            for text in SOURCE.ids.tolist()
        ]
    )
    return (1 - share**2 / steps) * SOURCE.probs + share**2 / steps * apart


@pytest.mark.parametrize(
    ("name", "options", "steps", "law"),
    [
        ("masked", {}, 3, in_steps(3)),
        ("esoteric", {}, 3, in_steps(3)),
        ("esoteric", {"alpha_0": 0.7}, 2, in_steps(2, 0.7)),
        ("block", {"block_size": 2}, 1, in_steps(1)),
        ("block", {"block_size": 2}, 3, in_steps(3)),
    ],
)
def test_two_places_of_masks_have_a_law_in_closed_form(
    name: str, options: dict[str, Any], steps: int, law: Tensor
) -> None:
    family = get_family(name, vocab_size=4, **options)
    ids = draw_texts(family, SOURCE, steps=steps).ids
    assert p_value(ids, SOURCE, law) > FALSE_ALARMS
    assert p_value(ids, SOURCE, SOURCE.probs) < CERTAIN


# -- exact samplers ------------------------------------------------------------------------------


def exact() -> Iterator[Any]:
    for label, name, options, about in (
        ("ar", "ar", {}, {"steps": 3}),
        ("first hitting", "masked", {}, {"sampler": "first_hitting", "steps": 3}),
        ("random order", "masked", {}, {"sampler": "confidence", "order": "random", "greedy": False}),
        ("left to right", "masked", {}, {"sampler": "confidence", "order": "left_to_right", "greedy": False}),
        ("blocks of one", "masked", {}, {"sampler": "confidence", "block_size": 1, "greedy": False}),
        ("esoteric, sequential", "esoteric", {"alpha_0": 0.0}, {"steps": 1}),
        ("block, first hitting", "block", {"block_size": 3}, {"steps": 3, "first_hitting": True}),
        ("block of one", "block", {"block_size": 1}, {"steps": 1}),
        ("esoteric, offsets", "esoteric", {}, {"sampler": "block", "steps": 3}),
        (
            "esoteric, sub-contexts of one",
            "esoteric",
            {},
            {"sampler": "block_autoregressive", "sub_context": 1},
        ),
    ):
        yield pytest.param(name, options, {"steps": 3} | about, id=label)


@pytest.mark.parametrize(("name", "options", "about"), list(exact()))
def test_one_token_a_call_is_exact(name: str, options: dict[str, Any], about: dict[str, Any]) -> None:
    vocab_size = family_class(name).vocab_size_for(3, **options)
    family = get_family(name, vocab_size=vocab_size, **options)
    texts = draw_texts(family, THREE, **about)
    assert texts.calls == 3
    assert p_value(texts.ids, THREE, THREE.probs) > FALSE_ALARMS


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.99])
def test_blocks_by_threshold_are_masks_by_threshold_in_blocks(threshold: float) -> None:
    """Greedy: one text. Later blocks are masks where all is read, and not there where blocks are."""
    about = {"sampler": "threshold", "threshold": threshold, "count": 1}
    block = draw_texts(get_family("block", vocab_size=3, block_size=2), FOUR, **about)
    masked = draw_texts(get_family("masked", vocab_size=3), FOUR, block_size=2, **about)
    assert torch.equal(block.ids, masked.ids)
    assert block.calls == masked.calls


def test_infilling_follows_the_source_given_the_prompt() -> None:
    """One place a call: the texts with that token, as often as the source has them."""
    family = get_family("masked", vocab_size=4)
    prompt = torch.tensor([FREE, 1, FREE])
    ids = draw_texts(family, THREE, sampler="first_hitting", steps=2, prompt=prompt).ids
    law = THREE.probs.where(THREE.ids[:, 1] == 1, 0.0)
    assert p_value(ids, THREE, law / law.sum()) > FALSE_ALARMS


def test_the_error_of_ancestral_steps_falls() -> None:
    """Total variation: with two places of masks exactly as 1 / T; with uniform noise at every doubling."""
    for name, vocab in (("masked", 4), ("uniform", 3)):
        family = get_family(name, vocab_size=vocab)
        laws = [law_of(family, SOURCE, even(steps)) for steps in (1, 2, 4, 8, 16)]
        errors = [float((law - SOURCE.probs).abs().sum()) / 2 for law in laws]
        if name == "masked":
            assert errors == pytest.approx([errors[0] / t for t in (1, 2, 4, 8, 16)], rel=1e-9)
        assert all(fine < coarse for coarse, fine in itertools.pairwise(errors))
