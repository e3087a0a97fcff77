"""The ar family: the exact likelihood, the shift, and sampling that follows its conditionals."""

from __future__ import annotations

import math

import pytest
import torch

from scaling.families import family_class, get_family

ZERO = torch.zeros(2)


def test_loss_is_the_sum_of_log_conditionals() -> None:
    """A bigram table as the network: minus the log-probability of the whole sequence."""
    generator = torch.Generator().manual_seed(0)
    family = get_family("ar", vocab_size=5)
    table = torch.randn(5, 5, generator=generator, dtype=torch.float64)  # row: the id before
    x0 = torch.randint(4, (3, 6), generator=generator)
    xt = family.corrupt(x0, torch.zeros(3), generator)
    nats = family.token_bound(table[xt], x0, xt, torch.zeros(3))
    probs = table[:, :4].softmax(-1)  # the mask id has no mass
    for row in range(3):
        before, log_prob = 4, 0.0
        for token in x0[row].tolist():
            log_prob += math.log(probs[before, token])
            before = token
        assert float(nats[row].sum()) == pytest.approx(-log_prob, rel=1e-12)


def test_zero_logits() -> None:
    """ln 32000 = 10.37349: the mask id is never predicted."""
    family = get_family("ar", vocab_size=32001)
    nats = family.token_bound(
        torch.zeros(1, 1, 32001).double(), torch.tensor([[7]]), torch.tensor([[0]]), ZERO
    )
    assert float(nats) == pytest.approx(10.37349, abs=5e-6)


def test_the_three_ways_to_start() -> None:
    x0 = torch.tensor([[3, 1, 2], [0, 0, 1]])
    generator = torch.Generator()
    for start, inputs, targets in [
        ("mask", [[4, 3, 1], [4, 0, 0]], [[3, 1, 2], [0, 0, 1]]),
        (2, [[2, 3, 1], [2, 0, 0]], [[3, 1, 2], [0, 0, 1]]),
        ("none", [[3, 1], [0, 0]], [[1, 2], [0, 1]]),
    ]:
        family = get_family("ar", vocab_size=5, start=start)
        assert family.corrupt(x0, ZERO, generator).tolist() == inputs
        assert family.targets(x0).tolist() == targets
    for wrong in (5, -1, "bos"):
        with pytest.raises(ValueError, match="start is"):
            get_family("ar", vocab_size=5, start=wrong)


def test_without_a_start_one_token_fewer_is_scored() -> None:
    family = get_family("ar", vocab_size=5, start="none")
    x0 = torch.tensor([[3, 1, 2]])
    logits = torch.randn(1, 2, 5, generator=torch.Generator().manual_seed(0))
    whole = family.token_bound(logits, x0, x0[:, :-1], ZERO)
    assert whole.shape == (1, 2)
    assert torch.equal(whole, family.token_bound(logits, x0[:, 1:], x0[:, :-1], ZERO))


def test_sampling_needs_one_step_per_token() -> None:
    family = get_family("ar", vocab_size=5)

    def model(ids: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """After id i comes i + 1, for certain; the start id is 4."""
        return 50.0 * torch.nn.functional.one_hot((ids + 1) % 5 % 4, 5)

    ids = family.sample(model, (2, 4), 4, torch.Generator().manual_seed(0))
    assert ids.tolist() == [[0, 1, 2, 3]] * 2
    with pytest.raises(ValueError, match="steps is 3, it must be 4"):
        family.sample(model, (2, 4), 3, torch.Generator())
    with pytest.raises(ValueError, match="no first token"):
        get_family("ar", vocab_size=5, start="none").sample(model, (2, 4), 4, torch.Generator())


def test_the_table_of_families() -> None:
    assert family_class("ar").causal
    assert family_class("ar").vocab_size_for(256) == 257
    with pytest.raises(ValueError, match=r"unknown family 'mask'; did you mean 'masked'\? \(known: ar, "):
        get_family("mask", vocab_size=5)
    with pytest.raises(ValueError, match=r"unknown family 'zzz' \(known: ar, masked, uniform"):
        get_family("zzz", vocab_size=5)
