"""Self-correction, the adaptive sampler and GIDD's released loop: family hybrid's own samplers."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from scaling.errors import UserError
from scaling.families import get_family
from scaling.families.hybrid import Hybrid
from scaling.sampling import FREE, Filters, generate
from scaling.sampling.correction import LOWEST_SIGNAL, cut_posterior, put_surest, released_times
from scaling.sampling.discrete import time_at
from scaling.sampling.loop import Draft
from scaling.sampling.noise import Noise
from scaling.sampling.reader import Reader
from tests.scaling.enumeration import Fixed, best_predictor, planted, told_the_time

LOGITS = torch.tensor([[4.0, 0.0, 0.0, 9.0], [0.0, 3.0, 0.0, 9.0], [0.0, 0.0, 5.0, 9.0]])
"""Position 2 is surest of a token, then 0, then 1; the mask's logit counts for nothing."""
DEFAULTS = {"edit_temperature": 0.1, "edits": 1, "iterations": 128, "patience": 32, "time": 0.01}


def hybrid(vocab_size: int, **options: Any) -> Hybrid:
    family = get_family("hybrid", vocab_size=vocab_size, **options)
    assert isinstance(family, Hybrid)
    return family


def correct(ids: list[list[int]], seeds: list[int] | None = None, **options: Any) -> tuple[Tensor, Fixed]:
    """Self-correction of texts as they are, without the sampler before it."""
    from scaling.sampling.correction import correct as steps

    family, model, texts = hybrid(4, p_u=0.2), Fixed(LOGITS), torch.tensor(ids)
    draft = Draft(
        family=family, reader=Reader(model, family), noise=Noise(seeds or range(len(ids))), steps=5,
        ids=texts, free=torch.ones_like(texts, dtype=torch.bool), lengths=torch.full((len(ids),), 3),
    )  # fmt: skip
    for _ in steps(draft, **(DEFAULTS | {"released": False} | options)):
        pass
    return draft.ids, model


class TestSelfCorrection:
    def test_the_surest_change_comes_first(self) -> None:
        for iterations, expected in ((1, [1, 0, 2]), (2, [0, 0, 2]), (3, [0, 1, 2])):
            ids = correct([[1, 0, 1]], iterations=iterations, edit_temperature=0.5)[0]
            assert ids.tolist() == [expected]
        assert correct([[1, 0, 1]], iterations=1, edits=2)[0].tolist() == [[0, 0, 2]]

    def test_texts_end_on_their_own_and_are_not_read_again(self) -> None:
        ids, model = correct([[0, 1, 2], [1, 0, 1]])
        assert ids.tolist() == [[0, 1, 2], [0, 1, 2]]
        assert [len(ids) for ids in model.seen] == [2, 1, 1, 1]

    def test_a_text_does_not_depend_on_its_neighbours(self) -> None:
        texts, seeds = [[0, 1, 1], [1, 2, 0], [2, 2, 2]], [7, 8, 9]
        together = correct(texts, seeds, edit_temperature=3.0, patience=4)[0]
        for number in range(3):
            alone = correct([texts[number]], [seeds[number]], edit_temperature=3.0, patience=4)[0]
            assert torch.equal(alone[0], together[number])

    def test_it_ends_when_its_accuracy_stalls(self) -> None:
        """At a temperature this high draws are random, and the share of first choices goes nowhere."""
        model = correct([[0, 1, 2]], edit_temperature=1e6, patience=3, iterations=1000)[1]
        assert 4 < len(model.seen) < 200

    def test_the_release_drops_the_edit_that_ends_it_and_needs_more_than_no_accuracy(self) -> None:
        """With no patience, a first edit that leaves no id right ends the release's text, unedited; here it
        counts as a gain, and the next call reads it."""
        right, start, met = torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0]), 0
        about = {"edit_temperature": 1e6, "patience": 0}
        for seed in range(100):
            edited = correct([start.tolist()], [seed], iterations=1, **about)[0][0]
            if bool((edited == right).any()) or torch.equal(edited, start):
                continue
            met += 1
            ids, model = correct([start.tolist()], [seed], released=True, **about)
            assert torch.equal(ids[0], start)
            assert len(model.seen) == 1
            model = correct([start.tolist()], [seed], **about)[1]
            assert torch.equal(model.seen[1][0], edited)
        assert met > 10

    def test_the_network_is_told_one_time(self) -> None:
        model = correct([[1, 0, 1]], time=0.25)[1]
        expected = float(-hybrid(4, p_u=0.2).schedule(torch.tensor(0.25, dtype=torch.float64))[0].log())
        assert model.told == pytest.approx([expected] * len(model.told))

    def test_it_follows_the_ancestral_sampler_and_raises_the_likelihood(self) -> None:
        """Few steps on a source of which the network knows each token given all others: the texts are off,
        and correction makes them likelier."""
        source = planted(3, 4)
        family = told_the_time(hybrid(4, p_u=0.3))
        model, about = best_predictor(family, source), {"steps": 2, "prompt": torch.tensor([FREE, 1])}
        plain, mended = (
            generate(model, family, range(300), 4, sampler=name, **about)
            for name in ("ancestral", "self_correcting")
        )
        assert (mended.ids[:, 1] == 1).all(), "what is given stays"
        assert plain.calls == 2 < mended.calls <= 130
        cells = 3 ** torch.arange(3, -1, -1)
        before, after = (source.probs[(texts.ids * cells).sum(1)].log() for texts in (plain, mended))
        rise = after - before
        assert float(rise.mean()) > 5 * float(rise.std()) / math.sqrt(300)
        varied = []
        for texts in (plain, mended):
            shares = torch.unique(texts.ids, dim=0, return_counts=True)[1] / 300
            varied.append(float(-(shares * shares.log()).sum()))
        assert varied[1] < varied[0] - 0.5, "nats of entropy: the price of likelier texts"
        none = generate(
            model,
            family,
            range(300),
            4,
            sampler="self_correcting",
            iterations=1,
            patience=0,
            released=True,
            **about,
        )
        assert (none.ids != plain.ids).sum(1).max() <= 1, "an iteration makes one edit"

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"edit_temperature": 0.0}, "edit_temperature is 0.0, it must be above 0"),
            ({"edits": 0}, "edits is 0, it must be at least 1"),
            ({"iterations": 0}, "iterations is 0, it must be at least 1"),
            ({"patience": -1}, "patience is -1, it must be at least 0"),
            ({"time": 1.0}, r"time is 1.0, it must lie in \[0, 1\)"),
        ],
    )
    def test_bad_input(self, options: dict[str, Any], sentence: str) -> None:
        with pytest.raises(UserError, match=sentence):
            generate(Fixed(LOGITS), hybrid(4), [1], 3, sampler="self_correcting", **options)


class TestAdaptive:
    def test_masks_are_filled_surest_first_and_then_tokens_are_mended(self) -> None:
        family, model = hybrid(4, noise="balanced", time_conditioned=False), Fixed(LOGITS)
        states: list[list[int]] = []
        texts = generate(
            model, family, [0], 3, sampler="adaptive", steps=3,
            watch=lambda draft: states.append(draft.ids[0].tolist()),
        )  # fmt: skip
        assert states == [[3, 3, 3], [3, 3, 2], [0, 3, 2], [0, 1, 2]]
        assert texts.calls == 3

    def test_wrong_tokens_of_uniform_noise_are_replaced_best_gain_first(self) -> None:
        family = hybrid(4, noise="uniform", time_conditioned=False)
        for seed in range(10):
            states: list[Tensor] = []
            texts = generate(
                Fixed(LOGITS), family, [seed], 3, sampler="adaptive", steps=50, edits=1,
                watch=lambda draft: states.append(draft.ids[0].clone()),  # noqa: B023
            )  # fmt: skip
            wrong = int((states[0] != torch.tensor([0, 1, 2])).sum())
            assert texts.ids.tolist() == [[0, 1, 2]]
            assert texts.calls == wrong + 1, "a text that does not change is not read again"
            assert [int((a != b).sum()) for a, b in pairwise(states)][:wrong] == [1] * wrong

    def test_a_time_conditioned_network_hears_the_grid(self) -> None:
        model, family = Fixed(LOGITS), hybrid(4, p_u=0.2)
        generate(model, family, [0], 3, sampler="adaptive", steps=4)
        expected = family.conditioning(torch.tensor([1.0, 0.75, 0.5, 0.25], dtype=torch.float64))
        assert model.told == pytest.approx(expected.tolist())

    def test_few_steps_fill_every_mask_and_leave_the_prompt(self) -> None:
        for noise in ("masked", "balanced", 15.0):
            family = hybrid(4, noise=noise)
            prompt = torch.tensor([FREE, 0])
            for edits in (None, 1):
                texts = generate(
                    Fixed(LOGITS[:1]),
                    family,
                    range(50),
                    7,
                    sampler="adaptive",
                    steps=2,
                    edits=edits,
                    prompt=prompt,
                )
                assert (texts.ids < 3).all()
                assert (texts.ids[:, 1] == 0).all()

    def test_draws_follow_the_filtered_prediction(self) -> None:
        law = torch.tensor([0.5, 0.3, 0.2])
        logits = torch.cat([law.log(), torch.tensor([4.0])])
        for filters, expected in ((Filters(), law), (Filters(temperature=0.5), law**2 / (law**2).sum())):
            texts = generate(
                Fixed(logits), hybrid(4, noise="masked"), range(4000), 1, sampler="adaptive", steps=1,
                draws=True, filters=filters,
            )  # fmt: skip
            shares = torch.bincount(texts.ids[:, 0], minlength=3) / 4000
            torch.testing.assert_close(shares, expected, atol=0.03, rtol=0)

    def test_the_noise_it_starts_from_has_the_published_log_snr(self) -> None:
        for options in ({"p_u": 0.2}, {"noise": "balanced"}, {"noise": "uniform", "schedule": "cosine"}):
            family = hybrid(5, **options)
            levels = family.levels(time_at(family, LOWEST_SIGNAL))
            assert float((levels.alpha / levels.noise).log()) == pytest.approx(-9.0, abs=1e-9)

    def test_bad_input(self) -> None:
        with pytest.raises(UserError, match="edits is 0, it must be at least 1"):
            generate(Fixed(LOGITS), hybrid(4), [1], 3, sampler="adaptive", edits=0)


class TestReleased:
    def test_calls_hear_the_released_times_and_no_mask_is_left(self) -> None:
        model, family = Fixed(LOGITS), hybrid(4, p_u=0.2)
        texts = generate(model, family, range(20_000), 3, sampler="released", steps=2)
        times = released_times(2)[:, 0]
        assert model.told == pytest.approx(family.conditioning(times).tolist())
        assert (model.seen[1] == 3).any(), "the one move leaves masks"
        assert (texts.ids < 3).all()

    def test_a_cut_posterior_keeps_its_likeliest_entry(self) -> None:
        family, t, s = hybrid(4, p_u=0.2), *torch.tensor([0.6, 0.5], dtype=torch.float64)
        probs = torch.tensor([[[0.5, 0.3, 0.2, 0.0]]], dtype=torch.float64)
        for ids in (torch.tensor([[0]]), torch.tensor([[3]])):
            whole, cut = (cut_posterior(family, probs, ids, t, s, x) for x in (0.0, 0.999))
            assert cut.flatten().tolist() == pytest.approx(
                torch.nn.functional.one_hot(whole.argmax(), 4).tolist()
            )

    @pytest.mark.parametrize(
        ("about", "family", "sentence"),
        [
            ({"steps": 1}, {"p_u": 0.1}, "needs at least 2"),
            ({"posterior_min_p": 1.0}, {"p_u": 0.1}, r"posterior_min_p is 1.0, it must lie in \[0, 1\)"),
            ({}, {"noise": "balanced"}, "belongs to p_u"),
        ],
    )
    def test_bad_input(self, about: dict[str, Any], family: dict[str, Any], sentence: str) -> None:
        with pytest.raises(UserError, match=sentence):
            generate(Fixed(LOGITS), hybrid(4, **family), [1], 3, sampler="released", **about)


def test_no_more_places_change_than_score() -> None:
    ids, new = torch.zeros(2, 4, dtype=torch.long), torch.arange(1, 9).view(2, 4)
    score = torch.tensor([[0.0, 0.2, 0.9, 0.5], [0.0, 0.0, 0.1, 0.0]], dtype=torch.float64)
    score[1, 3] = 0.1 * (1 + 1e-9)  # a tie but for rounding
    assert put_surest(ids, new, score, 1)[1].tolist() == [0, 0, 7, 0]
    score[1, 3] = 0.0
    assert put_surest(ids, new, score, 2).tolist() == [[0, 0, 3, 4], [0, 0, 7, 0]]
    assert put_surest(ids, new, score, torch.tensor([[1], [3]])).tolist() == [[0, 0, 3, 0], [0, 0, 7, 0]]
