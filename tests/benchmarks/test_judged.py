"""Sets of texts are compared in pairs, and an entropy is met by the value that gives it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.judged import Judged, Match, at_equal_entropy, compare, head, matching, row

TEXTS, LENGTH, IDS = 200, 16, 8


@pytest.fixture
def texts() -> Judged:
    random = np.random.default_rng(0)
    return Judged(
        nats=random.gamma(4.0, 8.0, TEXTS),
        tokens=np.full(TEXTS, LENGTH - 1),
        entropy=random.normal(1.5, 0.2, TEXTS),
        counts=random.multinomial(LENGTH, np.full(IDS, 1 / IDS), TEXTS).astype(float),
        distinct_2=random.uniform(0.5, 1, TEXTS),
    )


def test_a_set_beside_itself_is_the_same_without_doubt(texts: Judged) -> None:
    apart = compare(texts, texts)
    assert apart.pop("gen_ppl") == (1.0, 1.0, 1.0)
    assert set(apart.values()) == {(0.0, 0.0, 0.0)}


def test_what_all_texts_share_has_no_interval_in_pairs(texts: Judged) -> None:
    likelier = replace(texts, nats=texts.nats - 0.1 * texts.tokens)
    assert compare(likelier, texts)["gen_ppl"] == pytest.approx((np.exp(-0.1),) * 3)
    value, low, high = likelier.summary()["gen_ppl"]
    assert low < 0.95 * value < value < 1.05 * value < high


def test_the_interval_of_a_mean_is_the_normal_one(texts: Judged) -> None:
    value, low, high = texts.summary()["entropy"]
    error = 1.96 * texts.entropy.std() / np.sqrt(TEXTS)
    assert (low, high) == pytest.approx((value - error, value + error), abs=0.1 * error)


def test_entropy_of_all_texts_is_that_of_their_ids_together(texts: Judged) -> None:
    one_id_each = replace(texts, counts=LENGTH * np.eye(IDS)[np.arange(TEXTS) % IDS])
    assert one_id_each.summary()["entropy_of_all"][0] == pytest.approx(np.log(IDS))


@pytest.mark.parametrize("entropy", [0.9, 1.5, 2.1])
def test_the_entropy_is_met(texts: Judged, entropy: float) -> None:
    def sample(value: float) -> Judged:
        return replace(texts, entropy=np.full(TEXTS, 2 * np.sqrt(value)))

    match = matching(sample, entropy, 0.1, 1.7)
    assert 2 * np.sqrt(match.value) == pytest.approx(entropy, abs=0.03)
    assert match.texts.entropy.mean() == pytest.approx(2 * np.sqrt(match.value))


@pytest.mark.parametrize(("entropy", "end"), [(0.2, 0.3), (9.0, 1.7)])
def test_an_entropy_that_no_value_gives_has_the_nearest_end(
    texts: Judged, entropy: float, end: float
) -> None:
    def sample(value: float) -> Judged:
        return replace(texts, entropy=np.full(TEXTS, value))

    assert matching(sample, entropy, 0.3, 1.7).value == end


def test_likelier_by_temperature_alone_is_nothing_at_equal_entropy(texts: Judged) -> None:
    def sample(value: float) -> Judged:
        return replace(texts, entropy=value * texts.entropy, nats=(1 + value) * texts.nats)

    one = sample(0.83)
    assert compare(one, sample(1.0))["gen_ppl"][2] < 0.9
    match = matching(sample, float(one.entropy.mean()), 0.5, 1.2)
    assert at_equal_entropy(one, match) == pytest.approx((1, 1, 1), abs=0.01)
    better = replace(one, nats=one.nats - 0.1 * one.tokens)
    assert at_equal_entropy(better, match) == pytest.approx((np.exp(-0.1),) * 3, rel=0.02)


def test_what_the_entropies_are_apart_is_allowed_for(texts: Judged) -> None:
    slope = 2.0
    duller = replace(texts, entropy=texts.entropy - 0.05, nats=texts.nats - 0.05 * slope * texts.tokens)
    match = Match(value=1.0, texts=texts, slope=slope)
    assert at_equal_entropy(duller, match) == pytest.approx((1, 1, 1))


def test_a_line_fits_its_head(texts: Judged) -> None:
    match = Match(value=0.9, texts=texts, slope=1.0)
    first, _ = head("a", "b").splitlines()
    assert first.count("|") == row("it", texts, texts, match).count("|")
