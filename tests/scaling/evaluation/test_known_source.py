"""Samples against their source: known divergences are found, a perfect sampler has none."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from scaling.data.synthetic import MarkovSource, Source, parse_source
from scaling.evaluation.known_source import against_source, text_nats

SOURCE = parse_source("synthetic:markov?order=1&vocab=12")


def draws(source: Source, count: int, length: int = 48) -> list[np.ndarray]:
    return list(source.windows(("samples",), 0, count, length))


def law(source: Source, n: int) -> np.ndarray:
    """log p of all n-grams."""
    return source.log_prob(np.array(list(itertools.product(range(source.num_token_ids), repeat=n))))


@pytest.mark.parametrize(
    "other",
    ["markov?order=1&vocab=12&seed=1&sharpness=0.5", "markov?order=0&vocab=12", "hmm?states=3&vocab=12"],
)
def test_the_divergence_of_another_source_is_the_exact_one(other):
    wrong = parse_source(f"synthetic:{other}")
    got = against_source(draws(wrong, 600), SOURCE)
    for n, value in enumerate(got.source_kl, start=1):
        p, q = law(SOURCE, n), law(wrong, n)
        exact = float((np.exp(q) * (q - p)).sum())
        assert value == pytest.approx(exact, rel=0.04)
    assert got.source_nats > got.source_rate + 0.1


@pytest.mark.parametrize("count", [16, 300])
def test_texts_of_the_source_itself_diverge_by_no_more_than_chance(count):
    for name in ("markov?order=1&vocab=12", "markov?order=2&vocab=12", "hmm?vocab=12"):
        source = parse_source(f"synthetic:{name}")
        got = against_source(draws(source, count), source)
        assert all(
            abs(kl) < 5 * spread for kl, spread in zip(got.source_kl, got.source_kl_spread, strict=True)
        )
        spread = np.std(got.text_source_nats, ddof=1) / 48 / math.sqrt(count)
        assert abs(got.source_nats - got.source_rate) < 5 * spread
        assert got.impossible_share == 0


def test_the_rate_is_that_of_texts_of_these_lengths():
    texts = [*draws(SOURCE, 3, 5), *draws(SOURCE, 2, 9)]
    got = against_source(texts, SOURCE)
    entropy = 3 * 5 * SOURCE.entropy_per_token(5) + 2 * 9 * SOURCE.entropy_per_token(9)
    assert got.source_rate == pytest.approx(entropy / 33)
    nats = [-float(SOURCE.log_prob(text[None])[0]) for text in texts]
    assert got.text_source_nats == pytest.approx(nats)
    assert got.source_nats == pytest.approx(sum(nats) / 33)


def test_repetition_fools_the_cross_entropy_but_not_the_divergences():
    """The likeliest token again and again."""
    likely = np.exp(law(SOURCE, 2)).reshape(12, 12)
    text = [int(likely.sum(1).argmax())]
    while len(text) < 48:
        text.append(int(likely[text[-1]].argmax()))
    got = against_source([np.array(text)] * 200, SOURCE)
    assert got.source_nats < got.source_rate
    assert min(got.source_kl) > 0.5


class Alternating(MarkovSource):
    """Two ids in turn: half of all bigrams are impossible."""

    def __init__(self) -> None:
        super().__init__(1, 2, 1.0, 1.5, 0)
        self._tables = [np.array([[0.5, 0.5]]), np.array([[0.0, 1.0], [1.0, 0.0]])]


def test_impossible_bigrams_are_counted_instead_of_an_infinite_mean():
    source = Alternating()
    got = against_source([np.array([0, 1, 0, 1, 1]), np.array([0, 1, 0, 1, 0])], source)
    assert got.impossible_share == 1 / 8
    assert math.isnan(got.source_nats)
    assert math.isnan(got.source_kl[1])
    assert got.text_source_nats == pytest.approx([math.inf, math.log(2)])
    assert math.isfinite(got.source_kl[0])


def test_an_id_that_the_source_does_not_have_is_impossible():
    got = against_source([np.array([0, 1, 12, 3])], SOURCE)
    assert got.impossible_share == 2 / 3
    assert text_nats([np.array([12])], SOURCE)[0] == math.inf
