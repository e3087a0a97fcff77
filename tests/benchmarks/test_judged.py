"""Sets of texts are compared in pairs, and an entropy is met by the value that gives it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.judged import Judged, compare, head, matching, row

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
        return replace(texts, entropy=np.full(TEXTS, 2 * value))

    value, same = matching(sample, entropy, 0.3, 1.7)
    assert 2 * value == pytest.approx(entropy, abs=0.02)
    assert same.entropy.mean() == pytest.approx(2 * value)


def test_a_line_fits_its_head(texts: Judged) -> None:
    assert head("a", "b").splitlines()[0].count("|") == row("it", texts, texts, texts).count("|")
