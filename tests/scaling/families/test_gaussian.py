"""gaussian against exact denoisers: a tight bound, free of the schedule, and gradients only where wanted."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from scaling.evaluation import estimate_bound
from scaling.families import gaussian
from scaling.families.base import Noised
from scaling.families.gaussian import Gaussian, latents, prior_nats
from scaling.models.gaussian import GaussianTransformer, unit
from scaling.spec import EvaluationSpec
from tests.scaling.toys import toy_size

Course = Callable[[Tensor], tuple[Tensor, Tensor]]
"""t -> (s, ds/dt), s rising from 0 to 1."""


def straight(t: Tensor) -> tuple[Tensor, Tensor]:
    return t, torch.ones_like(t)


def squared(t: Tensor) -> tuple[Tensor, Tensor]:
    return t * t, 2 * t


def bent(t: Tensor) -> tuple[Tensor, Tensor]:
    end = math.tanh(1.0)
    inner = torch.tanh(2 * t - 1)
    return (inner + end) / (2 * end), (1 - inner * inner) / end


class Exact:
    """The best denoiser there is, for a listed distribution over sequences: p(x | z) by Bayes' rule."""

    def __init__(
        self,
        ids: Tensor,
        probs: Tensor,
        embed_dim: int,
        ends: tuple[float, float] = (-3.0, 6.0),
        course: Course = straight,
    ) -> None:
        self.ids, self.probs, self.ends, self.course = ids, probs, ends, course
        vocab, generator = int(ids.max()) + 1, torch.Generator().manual_seed(5)
        self.vectors = unit(torch.randn(vocab, embed_dim, generator=generator, dtype=torch.float64))

    @property
    def entropy(self) -> float:
        """Nats per token."""
        return float(-(self.probs * self.probs.log()).sum()) / self.ids.shape[1]

    def texts(self, count: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return self.ids[torch.multinomial(self.probs, count, replacement=True, generator=generator)]

    def rows(self) -> Tensor:
        return self.vectors

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        course, slope = self.course(t.double())
        rise = self.ends[1] - self.ends[0]
        return self.ends[0] + rise * course, rise * slope

    def joint(self, z: Tensor, gamma: Tensor) -> Tensor:
        """(B, N) probability of each listed sequence."""
        alpha, variance = torch.sigmoid(-gamma).sqrt(), torch.sigmoid(gamma)
        clean = alpha[:, None, None, None] * self.vectors[self.ids][None]
        far = (z[:, None] - clean).square().sum((-1, -2)) / (2 * variance[:, None])
        return (self.probs.log() - far).softmax(-1)

    def __call__(self, z: Tensor, gamma: Tensor, *, guess: Tensor | None = None) -> Tensor:
        one_hot = F.one_hot(self.ids, len(self.vectors)).double()
        return torch.einsum("bn,nlv->blv", self.joint(z, gamma), one_hot).log().clamp(min=-700)

    def restore(
        self, z: Tensor, gamma: Tensor, ids: Tensor, *, guess: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        logits = self(z, gamma)
        return logits.softmax(-1) @ self.vectors, -logits.gather(-1, ids[..., None])[..., 0]


def zipf(embed_dim: int = 16, **options: Any) -> Exact:
    """27 tokens, the shape of letters: H = 2.7514."""
    weights = 1 / torch.arange(1, 28, dtype=torch.float64)
    return Exact(torch.arange(27)[:, None], weights / weights.sum(), embed_dim, **options)


def pairs(**options: Any) -> Exact:
    """Two tokens out of three that mostly agree."""
    ids = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    weights = torch.where(ids[:, 0] == ids[:, 1], 1.0, 0.04).double()
    return Exact(ids, weights / weights.sum(), 4, **options)


def bound_of(model: Exact, count: int, seed: int = 0) -> tuple[float, float]:
    """The bound on `count` texts at one level each, and its standard error."""
    family = Gaussian(len(model.vectors), embed_dim=model.vectors.shape[1])
    got = estimate_bound(model, family, model.texts(count, seed), EvaluationSpec(noise_levels=2, seed=seed))  # type: ignore[arg-type]
    return got.value, got.se


# -- the bound -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("course", [straight, squared, bent])
def test_the_exact_denoiser_reaches_the_entropy_on_any_schedule(course: Course) -> None:
    model = zipf(course=course)
    value, error = bound_of(model, 15_000)
    assert model.entropy == pytest.approx(2.7514, abs=1e-4)
    assert error < 0.05
    assert abs(value - model.entropy) < 3 * error


def test_moving_the_first_end_moves_nats_between_terms() -> None:
    """Where reconstruction begins is free, the sum not; ends that leave signal cost at most their prior."""
    parts = []
    for ends in [(-3.0, 6.0), (-1.0, 6.0), (-3.0, 2.0)]:
        model = zipf(ends=ends)
        value, error = bound_of(model, 15_000)
        x0 = model.texts(10_000, 1)
        z = latents(model.rows()[x0], noise_like(x0, 16), torch.full((len(x0),), ends[0]).double())
        first = float(model.restore(z, torch.full((len(x0),), ends[0]).double(), x0)[1].mean())
        prior = float(prior_nats(torch.tensor(ends[1], dtype=torch.float64), 16))
        parts.append((value, error, first, prior))
    (whole, error, first, _), (moved, moved_error, later, _), (cut, cut_error, _, prior) = parts
    assert abs(moved - whole) < 3 * math.hypot(error, moved_error)
    assert later > first + 1, "the reconstruction takes over what the diffusion term no longer counts"
    assert prior == pytest.approx(0.121, abs=1e-3)
    entropy = zipf().entropy
    assert -3 * cut_error < cut - entropy < prior + 3 * cut_error


def test_a_decoder_that_treats_tokens_apart_costs_what_binds_them() -> None:
    """The gap is the total correlation of p(x | z_0): nothing at gamma_0 = -3, much at 0."""
    gaps = []
    for gamma_0 in (-3.0, 0.0):
        model = pairs(ends=(gamma_0, 6.0))
        value, error = bound_of(model, 15_000)
        x0 = model.texts(10_000, 2)
        gamma = torch.full((len(x0),), gamma_0, dtype=torch.float64)
        z = latents(model.rows()[x0], noise_like(x0, 4), gamma)
        joint = model.joint(z, gamma)
        apart = -model(z, gamma).exp().mul(model(z, gamma)).sum((-1, -2))
        binding = apart + torch.xlogy(joint, joint).sum(-1)
        gaps.append(float(binding.mean()) / 2)
        slack = 3.5 * math.hypot(error, float(binding.std()) / math.sqrt(len(x0)))
        assert abs(value - model.entropy - gaps[-1]) < slack
    assert gaps[0] < 0.03
    assert gaps[1] > 0.15


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("no half", lambda nats: 2 * nats, 5.41),
        ("mean over dimensions", lambda nats: nats / 16, 0.25),
        ("no diffusion term", lambda nats: 0 * nats, 0.08),
    ],
)
def test_wrong_scales_are_seen(
    name: str, change: Callable[[Tensor], Tensor], expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What mistakes would give, and that the tests above would fail by far: the last two fall below H."""
    right = gaussian.diffusion_nats
    monkeypatch.setattr(gaussian, "diffusion_nats", lambda *about: change(right(*about)))
    model = zipf()
    value, error = bound_of(model, 15_000)
    assert value == pytest.approx(expected, abs=0.2), name
    assert abs(value - model.entropy) > 10 * error


def test_the_bound_is_the_limit_of_discrete_steps() -> None:
    """Sums over T steps of Gaussian KLs, by quadrature and with a wrong denoiser, come down to ours."""
    vocab, ends = 3, (-2.0, 3.0)
    family = Gaussian(vocab, embed_dim=2, gamma_0=ends[0], gamma_1=ends[1])
    rows, probs = family.vectors, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    noise, mass = quadrature_on_the_plane(24)
    table = torch.randn(4, vocab, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def denoise(z: Tensor, gamma: Tensor) -> Tensor:
        """Logits (B, n, V), some function of z and gamma."""
        about = torch.stack(
            [z[..., 0], z[..., 1], gamma[:, None].expand(z.shape[:2]), torch.ones(z.shape[:2])], -1
        )
        return torch.tanh(about @ table)

    def expected(t: Tensor, value: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """(B,) mean over tokens and noise of value(x0 (B, n), z (B, n, E), gamma (B,))."""
        gamma, out = family.levels(t)[0], 0.0
        for token in range(vocab):
            z = latents(rows[token].expand(len(t), len(noise), 2), noise.expand(len(t), -1, -1), gamma)
            x0 = torch.full((len(t), len(noise)), token)
            out = out + probs[token] * value(x0, z, gamma) @ mass
        return out  # type: ignore[return-value]

    def ours(t: Tensor) -> Tensor:
        return expected(t, lambda x0, z, gamma: family.token_bound(denoise(z, gamma), x0, z, t))

    def step_kl(t: Tensor, s: Tensor) -> Tensor:
        to = family.levels(s)[0]

        def value(x0: Tensor, z: Tensor, gamma: Tensor) -> Tensor:
            true, variance = posterior(z, rows[x0], gamma, to)
            guess, _ = posterior(z, denoise(z, gamma).softmax(-1) @ rows, gamma, to)
            return (true - guess).square().sum(-1) / (2 * variance[:, None])

        return expected(t, value)

    sums = []
    for steps in (200, 400):
        edges = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        sums.append(float(step_kl(edges[1:], edges[:-1]).sum()))
    nodes, weights = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(40))
    continuous = float((ours((nodes + 1) / 2) * weights / 2).sum())
    assert abs(sums[0] - continuous) > 1.5 * abs(sums[1] - continuous), "the error falls with the step"
    assert 2 * sums[1] - sums[0] == pytest.approx(continuous, rel=1e-4)
    at_start = float(ours(torch.zeros(1, dtype=torch.float64)))
    reconstruction = expected(
        torch.zeros(1, dtype=torch.float64),
        lambda x0, z, gamma: -denoise(z, gamma).log_softmax(-1).gather(-1, x0[..., None])[..., 0],
    )
    assert at_start == pytest.approx(float(reconstruction), rel=1e-12)


def posterior(z: Tensor, x: Tensor, gamma: Tensor, to: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (B, n, E) and variance (B,) of z_s given z_t and x: the product of the two Gaussians about z_s."""
    alpha_t, var_t, alpha_s, var_s = (
        part[:, None, None] for g in (gamma, to) for part in (torch.sigmoid(-g).sqrt(), torch.sigmoid(g))
    )
    kept = alpha_t / alpha_s
    added = var_t - kept**2 * var_s  # variance of z_t given z_s
    variance = 1 / (1 / var_s + kept**2 / added)
    return variance * (alpha_s * x / var_s + kept * z / added), variance[:, 0, 0]


def quadrature_on_the_plane(count: int) -> tuple[Tensor, Tensor]:
    """Nodes (n, 2) and weights (n,) for means over a standard normal of two dimensions."""
    nodes, weights = (torch.from_numpy(x) for x in np.polynomial.hermite_e.hermegauss(count))
    both = torch.cartesian_prod(weights, weights).prod(-1)
    return torch.cartesian_prod(nodes, nodes), both / both.sum()


def noise_like(x0: Tensor, embed_dim: int) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(*x0.shape, embed_dim, generator=generator, dtype=torch.float64)


def test_the_prior_is_the_divergence_from_a_standard_normal() -> None:
    x = unit(torch.randn(5, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    for gamma_1 in (-1.0, 2.0, 6.0, 20.0):
        gamma = torch.tensor(gamma_1, dtype=torch.float64)
        noisy = torch.distributions.Normal(torch.sigmoid(-gamma).sqrt() * x, torch.sigmoid(gamma).sqrt())
        exact = torch.distributions.kl_divergence(
            noisy, torch.distributions.Normal(torch.zeros(5).double(), 1.0)
        )
        assert float(prior_nats(gamma, 5)) == pytest.approx(float(exact.sum()), rel=1e-6, abs=1e-12)


# -- what a step draws -----------------------------------------------------------------------------------


@given(count=st.integers(2, 40), share=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_every_row_estimates_one_term(count: int, share: float, seed: int) -> None:
    family = Gaussian(5, embed_dim=3, reconstruction_share=share)
    x0 = torch.zeros(count, 4, dtype=torch.long)
    batch = family.training_batch(x0, torch.Generator().manual_seed(seed), 0.5)
    first = batch.t == 0
    assert 1 <= int(first.sum()) <= count - 1
    assert batch.xt.shape == (count, 4, 3)
    assert batch.weight is not None
    for rows in (first, ~first):
        assert float(batch.weight[rows].sum()) == pytest.approx(count), "each term is a mean over its rows"
    t = batch.t[~first]
    assert (t * len(t)).ceil().tolist() == list(range(1, len(t) + 1)), "one time in each equal slice"
    torch.testing.assert_close(t.diff(), torch.full_like(t.diff(), 1 / len(t)))
    conditioned = batch.extra["conditioned"].nonzero()[:, 0]
    assert (conditioned.diff() == 4).all()
    assert len(conditioned) == pytest.approx(count / 4, abs=1)


def test_a_batch_of_one_row_decides_by_a_coin() -> None:
    family = Gaussian(5, reconstruction_share=0.25)
    x0 = torch.zeros(1, 4, dtype=torch.long)
    batches = [family.training_batch(x0, torch.Generator().manual_seed(s), 0.0) for s in range(400)]
    weights = torch.tensor([float(b.weight) for b in batches])  # type: ignore[arg-type]
    first = torch.tensor([float(b.t) == 0 for b in batches])
    assert float(first.double().mean()) == pytest.approx(0.25, abs=0.08)
    assert (weights == torch.where(first, 4.0, 4 / 3)).all()


def test_the_output_prior_grows_with_progress() -> None:
    x0 = torch.zeros(3, 4, dtype=torch.long)
    family = Gaussian(5, prior_anneal_share=0.2)
    at = [family.training_batch(x0, torch.Generator(), p).extra["strength"] for p in (0.0, 0.1, 0.2, 0.9)]
    assert [x.tolist() for x in at] == [[0.0] * 3, [0.5] * 3, [1.0] * 3, [1.0] * 3]
    whole = Gaussian(5, prior_anneal_share=0.0).training_batch(x0, torch.Generator(), 0.0)
    assert (whole.extra["strength"] == 1).all()


def awake(family: Gaussian, seed: int = 0, **size: Any) -> GaussianTransformer:
    """A float64 network whose every weight has been moved."""
    generator = torch.Generator().manual_seed(seed)
    model = family.build_model(toy_size(**size), generator).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith(("schedule", "embedding")):
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return model


def test_training_and_evaluation_estimate_the_same_bound() -> None:
    family = Gaussian(6, embed_dim=3, self_conditioning=False, prior_anneal_share=0.0, schedule_units=8)
    model, trained, reported = awake(family), [], []
    generator = torch.Generator().manual_seed(2)
    for _ in range(100):
        x0 = torch.randint(6, (120, 3), generator=generator)
        batch = family.training_batch(x0, generator, 1.0)
        trained.append(float(family.training_loss(model, batch).detach()) / x0.numel())
        place = 1 - torch.rand(len(x0), generator=generator, dtype=torch.float64)
        noised = family.evaluation_batch(x0, place, generator)
        reported.append(float(family.sequence_bound(model, noised).mean()))
    spread = math.hypot(float(np.std(trained)), float(np.std(reported))) / 10
    assert spread < 0.03 * np.mean(reported)
    assert abs(np.mean(trained) - np.mean(reported)) < 4 * spread


# -- gradient rules --------------------------------------------------------------------------------------


def gradients(family: Gaussian, model: GaussianTransformer, batch: Noised) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    grads = torch.autograd.grad(family.training_loss(model, batch), list(named.values()))
    return dict(zip(named, grads, strict=True))


def small_batch(family: Gaussian, **changes: Any) -> tuple[GaussianTransformer, Noised]:
    x0 = torch.randint(6, (12, 3), generator=torch.Generator().manual_seed(1))
    batch = family.training_batch(x0, torch.Generator().manual_seed(3), 1.0)
    extra = {**batch.extra, "conditioned": changes.pop("conditioned", batch.extra["conditioned"])}
    return awake(family), Noised(batch.x0, batch.xt.double(), changes.pop("t", batch.t), batch.weight, extra)


FAMILY = Gaussian(6, embed_dim=3, schedule_units=8, reconstruction_share=0.25)
INTERIOR = ("schedule.steepness", "schedule.offset", "schedule.height")


def plain_terms(model: GaussianTransformer, batch: Noised, guess: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted terms (B,) and diffusion losses (B,), written without any gradient rule."""
    gamma, slope = model.schedule(batch.t)
    target = model.rows()[batch.x0]
    z = torch.sigmoid(-gamma).sqrt()[:, None, None] * target
    z = z + torch.sigmoid(gamma).sqrt()[:, None, None] * batch.xt
    probs = model(z, gamma, guess=guess).softmax(-1)
    far = (target - probs @ model.rows()).square().sum(-1).mean(-1)
    diffusion = 0.5 * torch.exp(-gamma) * slope * far
    nats = -probs.gather(-1, batch.x0[..., None]).log()[..., 0].mean(-1)
    prior = prior_nats(model.schedule.endpoints[1], 3)
    assert batch.weight is not None
    return torch.where(batch.t > 0, diffusion, nats) * batch.weight + prior, diffusion


def test_the_interior_of_the_schedule_lowers_the_square_and_the_rest_the_loss() -> None:
    model, batch = small_batch(FAMILY, conditioned=torch.zeros(12, dtype=torch.bool))
    got = gradients(FAMILY, model, batch)
    terms, diffusion = plain_terms(model, batch, torch.zeros_like(batch.xt))
    value = float(FAMILY.training_loss(model, batch).detach())
    assert value == pytest.approx(3 * float(terms.detach().sum()), rel=1e-12)
    named = dict(model.named_parameters())
    loss = dict(
        zip(named, torch.autograd.grad(3 * terms.sum(), list(named.values()), retain_graph=True), strict=True)
    )
    squares = 3 * torch.where(batch.t > 0, diffusion.square() * batch.weight, 0.0).sum()
    square = torch.autograd.grad(squares, [named[name] for name in INTERIOR])
    for name, expected in (loss | dict(zip(INTERIOR, square, strict=True))).items():
        torch.testing.assert_close(got[name], expected, rtol=1e-9, atol=1e-12)
    assert all(got[name].norm() > 0 for name in (*INTERIOR, "schedule.endpoints", "embedding"))


def test_self_conditioned_rows_reach_the_network_alone() -> None:
    model, batch = small_batch(FAMILY, conditioned=torch.ones(12, dtype=torch.bool))
    got = gradients(FAMILY, model, batch)
    for name in (*INTERIOR, "schedule.endpoints", "embedding"):
        assert (got[name] == 0).all(), name
    with torch.no_grad():
        gamma = model.schedule(batch.t)[0]
        z = latents(model.rows()[batch.x0], batch.xt, gamma)
        guess = model(z, gamma).softmax(-1) @ model.rows()
    terms, _ = plain_terms(model, batch, guess)
    weights = [n for n in got if not n.startswith(("schedule", "embedding"))]
    expected = torch.autograd.grad(3 * terms.sum(), [dict(model.named_parameters())[n] for n in weights])
    for name, gradient in zip(weights, expected, strict=True):
        torch.testing.assert_close(got[name], gradient, rtol=1e-9, atol=1e-12)
    assert got["selfcond_linear.weight"].norm() > 0


def test_rows_of_the_reconstruction_do_not_reach_the_interior() -> None:
    conditioned = torch.zeros(12, dtype=torch.bool)
    model, batch = small_batch(FAMILY, conditioned=conditioned, t=torch.zeros(12, dtype=torch.float64))
    got = gradients(FAMILY, model, batch)
    assert all((got[name] == 0).all() for name in INTERIOR)
    assert got["schedule.endpoints"].abs().min() > 0, "gamma_0 by the reconstruction, gamma_1 by the prior"
    assert got["embedding"].norm() > 0


def test_mixed_rows_add_up() -> None:
    """The step's gradient is the sum over rows taken one by one, whichever kind they are."""
    model, batch = small_batch(FAMILY)
    assert 0 < int(batch.extra["conditioned"].sum()) < 12
    whole = gradients(FAMILY, model, batch)
    rows = [gradients(FAMILY, model, batch.rows(slice(i, i + 1))) for i in range(12)]
    for name, gradient in whole.items():
        torch.testing.assert_close(sum(row[name] for row in rows), gradient, rtol=1e-8, atol=1e-11)


# -- samples ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("course", [straight, bent])
def test_samples_follow_the_planted_distribution(course: Course) -> None:
    model, count = pairs(course=course), 2500
    family = Gaussian(3, embed_dim=4)
    generator = torch.Generator().manual_seed(0)
    ids = family.sample(model, (count, 2), 200, generator)  # type: ignore[arg-type]
    shares = (ids[:, None] == model.ids[None]).all(-1).double().mean(0)
    spread = (model.probs * (1 - model.probs) / count).sqrt()
    assert ((shares - model.probs).abs() < 4.5 * spread + 0.01).all()  # 0.01: steps of a two-hundredth


def test_less_score_noise_sharpens_samples() -> None:
    model, family = zipf(), Gaussian(27, embed_dim=16)
    shares = []
    for options in ({}, {"score_temperature": 0.8, "greedy_tail": True}):
        ids = family.sample(model, (600, 1), 50, torch.Generator().manual_seed(0), **options)  # type: ignore[arg-type]
        shares.append(float((ids == 0).double().mean()))
    assert shares[1] > shares[0] + 0.05, "the likeliest token is drawn more often"
    with pytest.raises(ValueError, match="'gaussian': sampler 'ancestral' has no option 'heat'"):
        family.sample(model, (1, 1), 2, torch.Generator(), heat=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"score_temperature is 0, it must be positive"):
        family.sample(model, (1, 1), 2, torch.Generator(), score_temperature=0)  # type: ignore[arg-type]
