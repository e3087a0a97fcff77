"""The random numbers of texts: a text's own, everywhere the same, and fine enough for large vocabularies."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from scaling.sampling.noise import Noise, Purpose, choose


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5), st.integers(0, 10**6), st.randoms())
def test_a_draw_depends_on_its_own_text_step_purpose_and_place(seeds, step, random):
    noise = Noise(seeds)
    whole = noise.everywhere(step, Purpose.CLEAN, 7)
    alone = torch.cat([Noise([seed]).everywhere(step, Purpose.CLEAN, 7) for seed in seeds])
    assert torch.equal(whole, alone)
    where = torch.tensor([[random.random() < 0.5 for _ in range(7)] for _ in seeds])
    assert torch.equal(noise.at(step, Purpose.CLEAN, where), whole[where])
    rows = torch.tensor([random.randrange(len(seeds))])
    assert torch.equal(noise.rows(rows).everywhere(step, Purpose.CLEAN, 7), whole[rows])


def test_draws_are_uniform_and_independent():
    draws = torch.stack(
        [Noise(range(100)).everywhere(step, purpose, 200) for step in range(3) for purpose in Purpose]
    )
    assert stats.kstest(draws.flatten(), "uniform").pvalue > 1e-3
    assert len(draws.unique()) == draws.numel()
    for axis in range(3):  # neighbours in step and purpose, in text, and in place
        one, other = draws.movedim(axis, 0)[:-1], draws.movedim(axis, 0)[1:]
        assert abs(stats.pearsonr(one.flatten(), other.flatten()).statistic) < 4 / math.sqrt(one.numel())
    assert stats.kstest(Noise(range(50)).normals(0, Purpose.START, 300).flatten(), "norm").pvalue > 1e-3


def test_choose_inverts_the_running_sum_and_draws_no_id_without_weight():
    probs = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]]).expand(4, -1)
    ids = choose(probs, torch.tensor([1e-18, 0.2499, 0.25, 1 - 2.0**-53], dtype=torch.float64))
    assert ids.tolist() == [1, 1, 3, 3]
    weights = torch.tensor([[2.0, 6.0], [0.0, 3.0]])  # need not sum to 1
    assert choose(weights, torch.tensor([0.3, 0.0001])).tolist() == [1, 1]


def zipf(vocab: int) -> torch.Tensor:
    probs = 1 / torch.arange(1, vocab + 1, dtype=torch.float64)
    return probs / probs.sum()


def entropy_of_steps(probs: torch.Tensor, steps: int, count: int, kind: str) -> float:
    """Cross-entropy of ids that `steps` even steps of unmasking draw from `probs`; for a right sampler the
    entropy of `probs`. kind: ours, or a race of 24-bit noise as float32 has."""
    log = probs.log()
    if kind == "ours":
        return float(
            -log[choose(probs.expand(count, -1), Noise([1]).everywhere(0, Purpose.CLEAN, count)[0])].mean()
        )
    # an id wins against "stay masked" with weight 1 / (e^(1/y) - 1), y = 2^24 p / steps, instead of y
    y = 2.0**24 * probs / steps
    weight = 1 / torch.expm1(1 / y)
    return float(-(weight / weight.sum() * log).sum())


@pytest.mark.parametrize("steps", [1000])
def test_the_tail_of_a_large_vocabulary_is_drawn(steps):
    """A Zipf law over 50,000 ids keeps its entropy; a race of float32 noise would lose over a nat of it."""
    probs = zipf(50_000)
    entropy = float(-(probs * probs.log()).sum())
    spread = float((probs * (probs.log() + entropy) ** 2).sum().sqrt()) / math.sqrt(2000)
    assert abs(entropy_of_steps(probs, steps, 2000, "ours") - entropy) < 4 * spread
    assert entropy_of_steps(probs, steps, 2000, "race") < entropy - 1
