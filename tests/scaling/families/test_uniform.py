"""The uniform family: published numbers, its hand-written gradient, float32 at both ends of the schedule."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.families import get_family
from scaling.families.uniform import LARGEST_SIGMA, Uniform


def uniform(vocab_size: int, **options: object) -> Uniform:
    family = get_family("uniform", vocab_size=vocab_size, **options)
    assert isinstance(family, Uniform)
    return family


def direct_sum(probs: torch.Tensor, x0: int, z: int, alpha: float, dalpha: float) -> float:
    """Duo (arXiv 2506.10892) eq. 17, term by term, as it is printed."""
    vocab = len(probs)
    true = vocab * alpha * torch.nn.functional.one_hot(torch.tensor(x0), vocab).double() + 1 - alpha
    guess = vocab * alpha * probs + 1 - alpha
    inner = (true / true[z] * (guess[z] * true / (guess * true[z])).log()).sum()
    return float(dalpha / (vocab * alpha) * (vocab / true[z] - vocab / guess[z] - inner))


@pytest.mark.parametrize(
    ("alpha", "z", "x0", "expected"),
    [  # computed from eq. 17 with x_theta = (.1, .2, .3, .4) and alpha' = -1
        (0.25, 0, 0, 1.0630069893),
        (0.25, 1, 2, 0.5408636517),
        (0.25, 2, 2, 0.5288926065),
        (0.75, 0, 0, 1.7617509975),
        (0.75, 1, 2, 6.0072694170),
        (0.75, 2, 2, 0.5725800367),
    ],
)
def test_worked_numbers(alpha: float, z: int, x0: int, expected: float) -> None:
    probs = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    scalars = [torch.tensor([x], dtype=torch.float64) for x in (alpha, 1 - alpha, -1.0)]
    got = uniform(4).bound_at(probs.log()[None, None], torch.tensor([[x0]]), torch.tensor([[z]]), *scalars)
    assert float(got) == pytest.approx(expected, abs=1e-10)
    assert direct_sum(probs, x0, z, alpha, -1.0) == pytest.approx(expected, abs=1e-10)


@given(vocab=st.integers(2, 30), seed=st.integers(0, 10_000), alpha=st.floats(0.01, 0.99))
@settings(max_examples=60, deadline=None)
def test_every_state_equals_the_printed_sum(vocab: int, seed: int, alpha: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(vocab, generator=generator, dtype=torch.float64)
    x0, z = (int(torch.randint(vocab, (), generator=generator)) for _ in range(2))
    scalars = [torch.tensor([x], dtype=torch.float64) for x in (alpha, 1 - alpha, -0.7)]
    got = uniform(vocab).bound_at(logits[None, None], torch.tensor([[x0]]), torch.tensor([[z]]), *scalars)
    expected = direct_sum(logits.softmax(-1), x0, z, alpha, -0.7)
    assert float(got) == pytest.approx(expected, rel=1e-10, abs=1e-11)


def test_gradient_of_the_bound_equals_plain_autograd() -> None:
    """Against the textbook form without a custom function, mask column suppressed."""
    vocab, t = 7, torch.tensor([0.02, 0.5, 0.97], dtype=torch.float64)
    family = uniform(vocab, mask_column=True)
    generator = torch.Generator().manual_seed(1)
    x0 = torch.randint(vocab - 1, (3, 4), generator=generator)
    xt = torch.randint(vocab, (3, 4), generator=generator)
    logits = torch.randn(3, 4, vocab, generator=generator, dtype=torch.float64, requires_grad=True)
    alpha = (1 - t)[:, None, None]
    true = vocab * alpha * torch.nn.functional.one_hot(x0, vocab) + 1 - alpha
    masked = logits.index_fill(-1, torch.tensor([vocab - 1]), -math.inf)
    guess = vocab * alpha * masked.softmax(-1) + 1 - alpha
    r, r_hat = true / true.gather(-1, xt[..., None]), guess / guess.gather(-1, xt[..., None])
    plain = ((r_hat - r + r * (r / r_hat).log()).sum(-1) / (vocab * alpha[..., 0])).sum()
    ours = family.token_bound(logits, x0, xt, t).sum()
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (ours, plain)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)
    assert (gradients[0][..., vocab - 1] == 0).all()


@pytest.mark.parametrize("vocab", [5, 257, 32001])
@pytest.mark.parametrize("moved", [False, True])
def test_float32_is_enough_at_any_noise_level(vocab: int, moved: bool) -> None:
    """Rounding of sums of V terms, 1e-7 V nats, and of large values, 1e-6 of them; no cancellation beyond."""
    family = uniform(vocab)
    for t in (1e-12, 1e-6, 1e-3, 0.1, 0.5, 0.9, 0.999, 1 - 1e-6, 1 - 1e-12, 1.0):
        generator = torch.Generator().manual_seed(2)
        logits = torch.randn(8, 1, vocab, generator=generator)
        x0 = torch.randint(vocab, (8, 1), generator=generator)
        xt = (x0 + 1) % vocab if moved else x0
        times = torch.full((8,), t, dtype=torch.float64)
        single, double = (family.token_bound(x, x0, xt, times) for x in (logits, logits.double()))
        allowed = 1e-6 + 2e-7 * vocab + 2e-6 * double.abs()
        assert ((single - double).abs() < allowed).all(), f"at t = {t}"


@pytest.mark.parametrize("vocab", [11, 32001])
def test_float32_gradient_where_training_goes(vocab: int) -> None:
    """Relative error of the gradient over t in [1e-3, 0.999]."""
    family = uniform(vocab)
    for t in (1e-3, 0.1, 0.5, 0.9, 0.999):
        generator = torch.Generator().manual_seed(3)
        logits = 3 * torch.randn(8, 1, vocab, generator=generator)
        x0 = torch.randint(vocab, (8, 1), generator=generator)
        xt = torch.where(torch.arange(8)[:, None] % 2 == 0, x0, (x0 + 1) % vocab)
        times = torch.full((8,), t, dtype=torch.float64)
        gradients: list[torch.Tensor] = []
        for dtype in (torch.float32, torch.float64):
            leaf = logits.to(dtype).requires_grad_()
            gradients += torch.autograd.grad(family.token_bound(leaf, x0, xt, times).sum(), leaf)
        error = (gradients[0].double() - gradients[1]).norm() / gradients[1].norm()
        assert float(error) < 1e-4, f"at t = {t}"


def test_what_the_network_is_told() -> None:
    family = uniform(5)
    t = torch.tensor([0.0, 0.25, 0.999, 1 - 1e-9, 1.0], dtype=torch.float64)
    noise = family.conditioning(t)
    torch.testing.assert_close(noise[:3], -torch.log1p(-t[:3]), rtol=1e-12, atol=1e-12)
    assert (noise[3:] == LARGEST_SIGMA).all(), "the noise level is capped where the published schedule ends"
    assert math.exp(-LARGEST_SIGMA) == pytest.approx(1e-3)


def test_zero_logits_of_the_published_study() -> None:
    """10.36299 nats at V = 32001 with id 32000 never predicted, eps = 1e-3, t uniform on [1e-3, 1].

    And over all of (0, 1) what theory says: ln 32000 less what is still known of x_0 where the schedule ends.
    """
    vocab, eps = 32001, 1e-3
    family = uniform(vocab, mask_column=True, schedule_eps=eps)

    def mean(t: torch.Tensor, weight: torch.Tensor) -> float:
        logits = torch.zeros(len(t), 1, vocab, dtype=torch.float64)
        x0 = torch.zeros(len(t), 1, dtype=torch.long)
        stay, other, mask = (
            family.token_bound(logits, x0, torch.full_like(x0, z), t)[:, 0] for z in (0, 1, vocab - 1)
        )
        alpha = family.schedule(t)[0]
        jump = (1 - alpha) / vocab
        nats = (alpha + jump) * stay + (vocab - 2) * jump * other + jump * mask
        return float((nats * weight).sum())

    x, w = _gauss(80)
    assert mean(1e-3 + 0.999 * x**2, 2 * x * w) == pytest.approx(10.36299, abs=6e-6)
    same, jump = eps + (1 - eps) / vocab, (1 - eps) / vocab
    guess = (same + (vocab - 2) * jump) / (vocab - 1)
    exact = same * math.log(same / guess) + (vocab - 2) * jump * math.log(jump / guess)
    assert mean(x**4, 4 * x**3 * w) == pytest.approx(math.log(32000) - exact, abs=3e-4)  # known: 0.0026


def _gauss(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    x, w = np.polynomial.legendre.leggauss(count)
    return torch.from_numpy((x + 1) / 2), torch.from_numpy(w / 2)


def test_mask_column_belongs_to_the_vocabulary() -> None:
    assert Uniform.vocab_size_for(32000) == 32000
    assert Uniform.vocab_size_for(32000, mask_column=True) == 32001
    family = uniform(9, mask_column=True)
    assert family.mask_id == 8
    noise = family.corrupt(
        torch.zeros(100, 10, dtype=torch.long), torch.ones(100), torch.Generator().manual_seed(0)
    )
    assert set(noise.unique().tolist()) == set(range(9)), "noise lands on every id, the mask id included"


def test_greedy_tail_takes_the_likeliest_token() -> None:
    logits = torch.tensor([0.0, 3.0, 1.0])

    def model(ids: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return logits.expand(*ids.shape, 3)

    ids = uniform(3).sample(model, (20, 5), 4, torch.Generator().manual_seed(0), greedy_tail=True)
    assert (ids == 1).all()
    with pytest.raises(ValueError, match="'uniform': sampler 'ancestral' has no option 'heat'"):
        uniform(3).sample(model, (2, 2), 4, torch.Generator(), heat=1.0)
    with pytest.raises(ValueError, match="steps is 0"):
        uniform(3).sample(model, (2, 2), 0, torch.Generator())
