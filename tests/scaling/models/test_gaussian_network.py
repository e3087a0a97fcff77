"""The continuous front, the expected embedding in bounded memory, and the learned noise schedule."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from scaling.models import head
from scaling.models.gaussian import GaussianTransformer, NoiseSchedule, build_gaussian_model, unit
from tests.scaling.toys import toy_size

VOCAB, EMBED = 11, 5


def fresh(seed: int = 0, **changes: Any) -> GaussianTransformer:
    options = {"embed_dim": EMBED, "endpoints": (-3.0, 6.0), "schedule_units": 6, "auxiliary_rate": 1e-2}
    generator = torch.Generator().manual_seed(seed)
    return build_gaussian_model(toy_size(), VOCAB, generator=generator, **(options | changes)).double()


def awake(seed: int = 0) -> GaussianTransformer:
    model, generator = fresh(seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return model


def inputs(rows: int = 4, length: int = 6) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """Latents, gamma, ids, and guess and strength."""
    generator = torch.Generator().manual_seed(1)
    z, guess = (torch.randn(rows, length, EMBED, generator=generator, dtype=torch.float64) for _ in range(2))
    ids = torch.randint(VOCAB, (rows, length), generator=generator)
    gamma = torch.linspace(-3, 5, rows, dtype=torch.float64)
    return z, gamma, ids, {"guess": guess, "strength": torch.linspace(0, 1, rows, dtype=torch.float64)}


def by_autograd(model: GaussianTransformer, kept: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """x_hat, nats and latents as the plain formulas give them; rows not kept see detached vectors."""
    z, gamma, ids, about = inputs()
    z.requires_grad_()
    kept = torch.ones(4, dtype=torch.bool) if kept is None else kept
    rows = model.rows()
    own = torch.where(kept[:, None, None], rows, rows.detach())  # (B, V, E)
    features = model._features(z, gamma, about["guess"])
    alpha, variance = torch.sigmoid(-gamma).sqrt(), torch.sigmoid(gamma)
    prior = (about["strength"] * alpha / variance)[:, None, None] * torch.einsum("ble,bve->blv", z, own)
    log_probs = (model.head(features) + prior).log_softmax(-1)
    x_hat = torch.einsum("blv,bve->ble", log_probs.exp(), own)
    return x_hat, -log_probs.gather(-1, ids[..., None])[..., 0], z


def scalar(x_hat: Tensor, nats: Tensor) -> Tensor:
    weights = torch.randn(x_hat.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return (x_hat * weights).sum() + (nats.square()).sum()


@pytest.mark.parametrize("chunk", [10**9, 7 * VOCAB, 1])
def test_restore_is_softmax_and_a_mean_with_their_gradients(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many positions are taken at once, and whichever rows may move the vectors."""
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", chunk)
    model = awake()
    kept = torch.tensor([True, False, True, True])
    expected = by_autograd(model, kept)
    z, gamma, ids, about = inputs()
    got = model.restore(z.requires_grad_(), gamma, ids, kept=kept, **about)
    for a, b in zip(got, expected, strict=False):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
    weights = [p for n, p in model.named_parameters() if not n.startswith("schedule")]
    gradients = torch.autograd.grad(scalar(*got), [*weights, z])
    reference = torch.autograd.grad(scalar(*expected[:2]), [*weights, expected[2]])
    for a, b in zip(gradients, reference, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    logits = model(z, gamma, **about)
    torch.testing.assert_close(logits.softmax(-1) @ model.rows(), got[0], rtol=1e-12, atol=1e-13)


def test_a_likelihood_too_small_for_a_float_has_a_logarithm() -> None:
    model = fresh().float()
    z = 50 * model.rows()[:1, None]
    gamma = torch.full((1,), -3.0, dtype=torch.float64)
    far = model.rows() @ model.rows()[0]
    nats = model.restore(z, gamma, far.argmin()[None, None])[1]
    assert 200 < float(nats.detach()) < 1e4


def test_a_fresh_network_is_the_output_prior() -> None:
    """p(v | z) for equally likely tokens, whatever the guess; without the prior, equal logits."""
    model = fresh()
    z, gamma, _, about = inputs()
    alpha, spread = torch.sigmoid(-gamma).sqrt(), torch.sigmoid(gamma).sqrt()
    density = torch.distributions.Normal(
        alpha[:, None, None, None] * model.rows(), spread[:, None, None, None]
    ).log_prob(z[:, :, None]).sum(-1)  # fmt: skip
    got = model(z, gamma, guess=about["guess"]).log_softmax(-1)
    torch.testing.assert_close(got, density.log_softmax(-1))
    assert (model(z, gamma, strength=torch.zeros(4)) == 0).all()


def test_inputs_have_unit_variance_at_any_noise() -> None:
    model, count = fresh(), 4000
    generator = torch.Generator().manual_seed(0)
    batches: list[Tensor] = []
    model.input_linear.register_forward_pre_hook(lambda module, args: batches.append(args[0]))
    for level in (-3.0, 0.0, 6.0):
        gamma = torch.full((count,), level, dtype=torch.float64)
        noise = torch.randn(count, 1, EMBED, generator=generator, dtype=torch.float64)
        x = unit(torch.randn(count, 1, EMBED, generator=generator, dtype=torch.float64))
        model(
            torch.sigmoid(-gamma).sqrt()[:, None, None] * x
            + torch.sigmoid(gamma).sqrt()[:, None, None] * noise,
            gamma,
        )
    assert all(float(x.detach().var()) == pytest.approx(1, abs=0.05) for x in batches)


def test_guess_and_gamma_are_read_once_their_maps_have_moved() -> None:
    model = awake()
    z, gamma, _, about = inputs()
    plain = model(z, gamma)
    assert (model(z, gamma, guess=about["guess"]) - plain).abs().min() > 0
    torch.testing.assert_close(model(z, gamma, guess=torch.zeros_like(z)), plain, rtol=0, atol=0)


def test_mixed_precision_keeps_the_output_prior_whole() -> None:
    """bfloat16 in the network alone: a fresh one, all of whose logits are the prior's, loses nothing."""
    for model, tolerance in ((fresh().float(), 1e-6), (awake().float(), 0.15)):
        z, gamma, ids, about = inputs()
        arguments = (z.float(), gamma, ids)
        guess = about["guess"].float()
        exact = model.restore(*arguments, guess=guess)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model.restore(*arguments, guess=guess)
        assert rounded[0].dtype == torch.float32
        for a, b in zip(rounded, exact, strict=True):
            assert float((a - b).detach().norm() / b.detach().norm()) < tolerance
        gradients = torch.autograd.grad(
            scalar(rounded[0].double(), rounded[1]), list(model.head.parameters())
        )
        assert all(torch.isfinite(g).all() for g in gradients)


# -- the noise schedule ----------------------------------------------------------------------------------


@given(seed=st.integers(0, 10_000), units=st.integers(1, 50), scale=st.floats(0.01, 5))
def test_the_schedule_rises_from_end_to_end(seed: int, units: int, scale: float) -> None:
    schedule = NoiseSchedule(-4.0, 5.0, units)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in (schedule.steepness, schedule.offset, schedule.height):
            weights.copy_(scale * torch.randn(units, generator=generator))
    t = torch.linspace(0, 1, 41, dtype=torch.float64, requires_grad=True)
    gamma, slope = schedule(t)
    assert gamma.dtype == torch.float64
    assert float(gamma[0].detach()) == pytest.approx(-4, abs=1e-12)
    assert float(gamma[-1].detach()) == pytest.approx(5, abs=1e-12)
    assert (gamma.diff() >= 0).all()
    (derivative,) = torch.autograd.grad(gamma.sum(), t)
    torch.testing.assert_close(slope, derivative, rtol=1e-9, atol=1e-9)


def test_weights_are_drawn_from_the_generator_alone() -> None:
    before = torch.random.get_rng_state()
    first, again, other = fresh(1), fresh(1), fresh(2)
    assert torch.equal(before, torch.random.get_rng_state())
    for name, value in first.state_dict().items():
        assert torch.isfinite(value).all()
        assert torch.equal(value, again.state_dict()[name])
    assert not torch.equal(first.embedding, other.embedding)
    torch.testing.assert_close(first.embedding.norm(dim=-1), torch.ones(VOCAB).double(), rtol=1e-6, atol=0)
    assert (first.selfcond_linear.weight == 0).all()
    assert (first.gamma_linear.weight == 0).all()


def test_vectors_and_schedule_have_a_rate_of_their_own() -> None:
    model = fresh(auxiliary_rate=0.5)
    own = {n for n, _ in model.named_parameters() if n.startswith(tuple(model.own_rates))}
    assert own == {
        "embedding", "schedule.endpoints", "schedule.steepness", "schedule.offset", "schedule.height",
    }  # fmt: skip
    assert {rate for rate, _ in model.own_rates.values()} == {0.5}
