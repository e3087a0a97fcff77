"""Sources of known entropy: the numbers they state against enumeration, simulation and each other."""

import functools
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.data import synthetic
from scaling.data.synthetic import HiddenMarkovSource, MarkovSource, Source, uniforms

parse_source = functools.cache(synthetic.parse_source)  # a hidden Markov source simulates its entropy once

SMALL = [
    "synthetic:markov?order=0&vocab=5",
    "synthetic:markov?order=1&vocab=4&sharpness=2",
    "synthetic:markov?order=2&vocab=3&zipf=0.5",
    "synthetic:hmm?states=3&vocab=3&stay=0.7&sharpness=2",
    "synthetic:hmm?states=1&vocab=4",
    "synthetic:topics?topics=2&vocab=4&sharpness=2",
]


def all_windows(source: Source, length: int) -> np.ndarray:
    return np.array(list(itertools.product(range(source.num_token_ids), repeat=length)))


def block_entropy(source: Source, length: int) -> float:
    """H(X_1..X_L) by summing over every window there is."""
    log_probs = source.log_prob(all_windows(source, length))
    return float(-(np.exp(log_probs) * log_probs).sum())


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("length", [1, 2, 4, 6])
def test_probabilities_of_all_windows_sum_to_one(name: str, length: int) -> None:
    source = parse_source(name)
    assert np.exp(source.log_prob(all_windows(source, length))).sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", SMALL)
def test_the_source_is_stationary(name: str) -> None:
    """The marginal of tokens 2..4 of a window equals that of tokens 1..3."""
    source = parse_source(name)
    vocab = source.num_token_ids
    joint = np.exp(source.log_prob(all_windows(source, 4))).reshape([vocab] * 4)
    np.testing.assert_allclose(joint.sum(axis=0), joint.sum(axis=3), atol=1e-13)


@pytest.mark.parametrize("name", SMALL[:3])
@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_markov_entropy_is_exact(name: str, length: int) -> None:
    source = parse_source(name)
    assert source.entropy_per_token(length) == pytest.approx(
        block_entropy(source, length) / length, rel=1e-12
    )
    assert source.entropy_se(length) == source.entropy_rate_se == 0


def test_order_one_against_linear_algebra() -> None:
    """h = sum_i pi_i H(P_i), pi the left eigenvector of the transition matrix to eigenvalue one."""
    source = parse_source("synthetic:markov?order=1&vocab=20&sharpness=2&seed=3")
    first = np.exp(source.log_prob(all_windows(source, 1)))
    moves = source.conditionals(np.stack([np.arange(20), np.zeros(20, int)], axis=1))[:, 1]
    values, vectors = np.linalg.eig(moves.T)
    weights = np.real(vectors[:, np.argmin(np.abs(values - 1))])
    weights /= weights.sum()
    np.testing.assert_allclose(first, weights, atol=1e-13)
    rate = -(weights[:, None] * moves * np.log(moves)).sum()
    assert source.entropy_rate == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize("length", [1, 3, 7])
def test_hidden_markov_block_entropy_within_its_standard_error(length: int) -> None:
    source = parse_source(SMALL[3])
    exact = block_entropy(source, length) / length
    # The first token's entropy does not depend on the window: no error but rounding.
    assert abs(source.entropy_per_token(length) - exact) <= 4 * source.entropy_se(length) + 1e-12


def test_hidden_markov_rate_lies_between_its_exact_bounds() -> None:
    """H(X_n | X_<n, S_1) <= h <= H(X_n | X_<n) (Cover and Thomas, 2nd edition, section 4.5)."""
    source = synthetic.parse_source(SMALL[3])  # not the shared one: its first state is changed below
    assert isinstance(source, HiddenMarkovSource)
    length, rate, error = 9, source.entropy_rate, source.entropy_rate_se
    upper = block_entropy(source, length) - block_entropy(source, length - 1)
    lower = 0.0
    stationary = source.initial
    for state in range(source.num_states):
        source.initial = np.eye(source.num_states)[state]
        lower += stationary[state] * (block_entropy(source, length) - block_entropy(source, length - 1))
    assert upper - lower < 2e-3, "nine tokens pin the rate down"
    assert lower - 4 * error <= rate <= upper + 4 * error


@pytest.mark.parametrize("name", ["synthetic:hmm", "synthetic:hmm?states=16&vocab=32&stay=0.95"])
def test_entropy_falls_with_context_towards_the_rate(name: str) -> None:
    source = parse_source(name)
    per_token = [source.entropy_per_token(length) for length in (1, 8, 64, 512, 4096)]
    assert all(long < short for short, long in itertools.pairwise(per_token))
    assert per_token[-1] == pytest.approx(source.entropy_rate, rel=1e-3)
    assert source.entropy_rate_se < 0.003 * source.entropy_rate


def test_entropy_beyond_the_simulated_length_continues_at_the_rate() -> None:
    source = parse_source("synthetic:hmm")
    extra = 2048 * source.entropy_per_token(2048) - 1024 * source.entropy_per_token(1024)
    assert extra / 1024 == pytest.approx(source.entropy_rate, rel=1e-12)


@pytest.mark.parametrize(
    "name", ["synthetic:markov?order=1&vocab=8", "synthetic:markov?order=2&vocab=6&seed=1"]
)
def test_frequencies_of_a_large_sample_have_the_stated_entropy(name: str) -> None:
    """Conditional entropy of counted n-grams of 800,000 tokens: within 1%, and unbiased to first order."""
    source = parse_source(name)
    assert isinstance(source, MarkovSource)
    vocab, order = source.num_token_ids, source.order
    ids = source.windows(("sample",), 0, 4000, 200)
    joint = np.zeros(vocab ** (order + 1))
    code = sum(ids[:, back : 200 - order + back] * vocab ** (order - back) for back in range(order + 1))
    np.add.at(joint, np.ravel(code), 1)
    table = joint.reshape(-1, vocab)
    shares = table / table.sum(axis=1, keepdims=True)
    logs = np.log(np.where(shares > 0, shares, 1))
    measured = -(table * logs).sum() / table.sum()
    assert measured == pytest.approx(source.entropy_rate, rel=0.01)


@pytest.mark.parametrize("name", ["synthetic:markov?order=2&vocab=16", "synthetic:hmm?vocab=16"])
@pytest.mark.parametrize("length", [1, 2, 3, 48])
def test_mean_log_prob_of_samples_is_the_block_entropy(name: str, length: int) -> None:
    source = parse_source(name)
    nats = -source.log_prob(source.windows(("sample",), 0, 4000, length)) / length
    error = math.hypot(nats.std() / math.sqrt(4000), source.entropy_se(length))
    assert abs(nats.mean() - source.entropy_per_token(length)) < 4 * error


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["synthetic:markov?order=2&vocab=6", "synthetic:hmm?states=4&vocab=6"]),
    st.integers(0, 2**70),
    st.integers(1, 20),
    st.integers(1, 20),
    st.data(),
)
def test_any_range_of_windows_gives_the_same_windows(
    name: str, first: int, count: int, length: int, data: st.DataObject
) -> None:
    source = parse_source(name)
    batch = source.windows(("train", 7), first, count, length)
    row = data.draw(st.integers(0, count - 1))
    np.testing.assert_array_equal(source.windows(("train", 7), first + row, 1, length)[0], batch[row])
    assert batch.shape == (count, length)
    assert batch.min() >= 0
    assert batch.max() < 6


def test_streams_seeds_and_sources_differ() -> None:
    draws = [
        parse_source(name).windows(stream, first, 1, 40).tobytes()
        for name in ("synthetic:markov", "synthetic:markov?seed=1", "synthetic:hmm")
        for stream in (("train", 0), ("train", 1), ("heldout",))
        for first in (0, 1)
    ]
    assert len(set(draws)) == len(draws)


def test_uniforms_look_uniform() -> None:
    table = uniforms(("key",), 3, 5000, 7)
    assert table.shape == (5000, 7)
    assert table.min() >= 0
    assert table.max() < 1
    # Means of 5,000 and correlations of neighbours: four standard errors.
    assert np.abs(table.mean(axis=0) - 0.5).max() < 4 * math.sqrt(1 / 12 / 5000)
    assert np.abs(np.corrcoef(table.T) - np.eye(7)).max() < 4 / math.sqrt(5000)


def test_frequencies_are_about_zipfian() -> None:
    source = parse_source("synthetic:markov?order=1&vocab=64&zipf=1.0&sharpness=1.0")
    first = source.conditionals(np.zeros((1, 1), int))[0, 0]
    slope = np.polyfit(np.log(np.arange(1, 65)), np.log(first), 1)[0]
    assert slope == pytest.approx(-1, abs=0.15)  # the tilt of each context leaves its noise on the marginal


def test_ids_out_of_range_are_refused() -> None:
    source = parse_source("synthetic:markov?vocab=4")
    with pytest.raises(ValueError, match=r"ids 0\.\.4 should lie in 0\.\.3"):
        source.log_prob(np.array([[0, 4]]))
    with pytest.raises(ValueError, match=r"should be \(windows, tokens\)"):
        source.log_prob(np.array([0, 1]))


def test_a_window_has_the_same_ids_on_every_machine() -> None:
    """Recorded once: a change here means that finished runs on synthetic sources no longer compare."""
    recorded = {
        "synthetic:markov?order=2&vocab=16": [7, 0, 1, 0, 2, 0, 7, 3, 15, 11, 1, 0],
        "synthetic:hmm?vocab=16": [0, 2, 5, 11, 7, 7, 4, 4, 4, 0, 6, 1],
    }
    for name, ids in recorded.items():
        assert parse_source(name).windows(("train", 0), 5, 1, 12)[0].tolist() == ids
