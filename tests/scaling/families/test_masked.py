"""The masked family: known values, exact masking, and the low-variance objective."""

from __future__ import annotations

import math

import pytest
import torch

from scaling.families import get_family
from scaling.families.masked import Masked


def masked(vocab_size: int, **options: object) -> Masked:
    family = get_family("masked", vocab_size=vocab_size, **options)
    assert isinstance(family, Masked)
    return family


@pytest.mark.parametrize(("eps", "expected"), [(1e-3, 10.36312), (0.0, 10.37349)])
def test_zero_logits_of_the_published_study(eps: float, expected: float) -> None:
    """V = 32001: 0.999 ln 32000 with the published eps, ln 32000 with ours, at every noise level alike."""
    vocab = 32001
    family = masked(vocab, objective="nelbo", schedule_eps=eps)
    t = torch.tensor([1e-4, 0.3, 1.0], dtype=torch.float64)
    logits = torch.zeros(3, 1, vocab, dtype=torch.float64)
    xt = torch.full((3, 1), family.mask_id)
    nats = family.token_bound(logits, torch.zeros_like(xt), xt, t)[:, 0]
    mean = family.noise_share(t) * nats  # times the probability of a mask
    assert mean.tolist() == pytest.approx([expected] * 3, abs=5e-6)
    assert expected == pytest.approx((1 - eps) * math.log(32000), abs=5e-6)


def test_zero_logits_low_variance() -> None:
    """5.187 nats when t is uniform on [1e-3, 1]: half of ln 32000, as in the published runs' logs."""
    family = masked(32001, objective="low_variance", schedule_eps=1e-3)
    times = family.training_times(2000, torch.Generator().manual_seed(0))
    share = float(family.noise_share(times).mean())
    logits = torch.zeros(1, 1, 32001, dtype=torch.float64)
    mask = torch.full((1, 1), family.mask_id)
    nats = float(family.token_loss(logits, torch.zeros_like(mask), mask, times[:1]))
    assert share * nats == pytest.approx(5.187, abs=2e-3)


def test_masked_exactly_below_the_noise_share() -> None:
    family = masked(5)
    x0 = torch.tensor([[0, 1, 2, 3]])
    u = torch.tensor([[0.0, 0.2999999, 0.3, 0.9]], dtype=torch.float64)
    t = torch.tensor([0.3], dtype=torch.float64)
    assert family.mask_where(x0, u, t).tolist() == [[4, 4, 2, 3]]
    assert family.mask_where(x0, u, torch.zeros(1)).tolist() == x0.tolist(), "nothing is masked at t = 0"
    assert family.mask_where(x0, u, torch.ones(1)).tolist() == [[4] * 4], "everything at t = 1"


def test_the_weight_is_one_over_t() -> None:
    for eps in (0.0, 1e-3):
        bound, plain = masked(5, objective="nelbo", schedule_eps=eps), masked(5, schedule_eps=eps)
        t = torch.tensor([1e-3, 0.5, 1.0], dtype=torch.float64)
        logits = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        x0, xt = torch.tensor([[0, 1]] * 3), torch.tensor([[4, 1]] * 3)
        weighted, unweighted = bound.token_loss(logits, x0, xt, t), plain.token_loss(logits, x0, xt, t)
        torch.testing.assert_close(weighted[:, 0] * t, unweighted[:, 0], rtol=1e-12, atol=0)
        assert (weighted[:, 1] == 0).all()
        assert torch.equal(plain.token_bound(logits, x0, xt, t), weighted), "the bound is never the objective"


def test_sampling_calls_the_network_at_most_once_per_token() -> None:
    family, calls = masked(4), 0

    def model(ids: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        assert (noise == 0).all()
        return torch.zeros(*ids.shape, 4)

    ids = family.sample(model, (1, 6), 500, torch.Generator().manual_seed(0))
    assert calls <= 6
    assert int(ids.max()) < family.mask_id


def test_a_token_once_shown_stays() -> None:
    family = masked(4)
    xt = torch.tensor([[0, 3, 2, 3]])
    probs = torch.full((1, 4, 4), 1 / 3, dtype=torch.float64)
    probs[..., 3] = 0
    t, s = torch.tensor([0.8]).double(), torch.tensor([0.2]).double()
    q = family.posterior(probs, xt, t, s)
    assert q[0, 0].tolist() == [1, 0, 0, 0]
    assert q[0, 2].tolist() == [0, 0, 1, 0]
    assert q[0, 1].tolist() == pytest.approx([0.25, 0.25, 0.25, 0.25])
