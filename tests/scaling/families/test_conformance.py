"""What every family must do. Listed in the table of families means tested here."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scaling.families import FAMILIES, family_class, get_family
from scaling.families.base import Family
from tests.scaling.enumeration import (
    arbitrary_predictor,
    as_network,
    best_predictor,
    exact_bound,
    forward_probs,
    marginal_matrix,
    planted,
    step_matrix,
    told_the_time,
)

CONTINUOUS = {"gaussian"}
"""Families of latents, which no table can enumerate: the same claims are tested in files of their own."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    name: (name, {}) for name in sorted(set(FAMILIES) - CONTINUOUS)
} | {
    "block": ("block", {"block_size": 2}),
    "hybrid-half-uniform": ("hybrid", {"p_u": 0.5, "gamma": 1.6}),
    "hybrid-balanced": ("hybrid", {"noise": "balanced"}),
    "hybrid-high-uniform": ("hybrid", {"noise": 2.0, "time_conditioned": False}),
}
"""By label: a family and options. Every family with its defaults, some also with others."""

NAMES = list(VARIANTS)
DIFFUSION = [label for label, (name, _) in VARIANTS.items() if family_class(name).bound == "upper"]
OWN_SCHEDULE = ["hybrid", "hybrid-half-uniform"]
"""Those whose noise comes with a schedule of its own, so that `schedule` and `schedule_eps` are refused."""
SCHEDULED = [label for label in DIFFUSION if label not in OWN_SCHEDULE]


def vocab_size(num_ids: int, label: str) -> int:
    name, options = VARIANTS[label]
    return family_class(name).vocab_size_for(num_ids, **options)


def over(num_ids: int, label: str, **more: Any) -> Family:
    """The family over `num_ids` tokens, its mask id, if any, on top."""
    name, options = VARIANTS[label]
    return get_family(name, vocab_size=vocab_size(num_ids, label), **options, **more)


def schedules(label: str) -> list[dict[str, Any]]:
    """Options for every schedule that the family can be given."""
    if label in OWN_SCHEDULE:
        return [{}]
    return [{"schedule": "log_linear"}, {"schedule": "cosine"}]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(
    family: Family, num_ids: int, shape: tuple[int, int], seed: int, dtype: torch.dtype
) -> tuple[Any, ...]:
    """Random logits, x0, xt and t, as a training step sees them."""
    x0 = torch.randint(num_ids, shape, generator=generator(seed))
    t = family.training_times(shape[0], generator(seed + 1))
    xt = family.corrupt(x0, t, generator(seed + 2))
    logits = torch.randn(*xt.shape, family.vocab_size, generator=generator(seed + 3), dtype=dtype)
    return logits, x0, xt, t


@pytest.mark.parametrize("name", NAMES)
class TestEveryFamily:
    def test_the_best_predictor_reaches_the_entropy(self, name: str) -> None:
        """The known answer: summed over positions, the mean bound is the entropy of a sequence."""
        for num_ids, length, seed in [(3, 1, 0), (5, 1, 1), (3, 2, 2), (2, 3, 3)]:
            source, family = planted(num_ids, length, seed), over(num_ids, name)
            got = exact_bound(family, source, best_predictor(family, source))
            # 1e-5: quadrature of the ends' log singularities; wrong formulas are off by percents
            assert got == pytest.approx(source.entropy, rel=1e-5)

    def test_any_other_predictor_scores_above(self, name: str) -> None:
        source, family = planted(3, 2, 4), over(3, name)
        best = best_predictor(family, source)
        for seed in range(5):
            other = arbitrary_predictor(family.vocab_size, seed)
            assert exact_bound(family, source, other) > source.entropy + 0.05
            nearly = lambda x, t, other=other: best(x, t) + 0.1 * other(x, t)  # noqa: E731
            assert exact_bound(family, source, nearly) > source.entropy + 1e-5

    def test_samples_follow_the_planted_distribution(self, name: str) -> None:
        source, family = planted(3, 2, 5), told_the_time(over(3, name))
        count = 2500
        # even steps decide several positions at once now and then: an error of about 1/steps in the joint
        steps = source.length if family.bound == "exact" else 32
        network = as_network(best_predictor(family, source), family, source.length)
        ids = family.sample(network, (count, source.length), steps, generator())
        shares = (ids[:, None] == source.ids[None]).all(-1).double().mean(0)
        assert float(shares.sum()) == pytest.approx(1), (
            "every sample is a sequence of tokens, no mask among them"
        )
        spread = (source.probs * (1 - source.probs) / count).sqrt()
        assert ((shares - source.probs).abs() < 4.5 * spread + 0.01).all()

    def test_shapes_and_signs(self, name: str) -> None:
        family = over(6, name)
        logits, x0, xt, t = batch(family, 6, (4, 5), 0, torch.float32)
        for loss in (family.token_bound, family.token_loss):
            nats = loss(logits, x0, xt, t)
            assert nats.shape == family.targets(x0).shape
            assert nats.dtype == torch.float32
            assert (nats >= 0).all()

    def test_gradient_is_finite_at_any_time(self, name: str) -> None:
        family = over(6, name)
        for extreme in (0.0, 1e-17, 1e-6, 0.5, 1 - 1e-12, 1.0):
            x0 = torch.randint(6, (4, 5), generator=generator())
            t = torch.full((4,), extreme, dtype=torch.float64)
            xt = family.corrupt(x0, t, generator(1))
            logits = torch.randn(*xt.shape, family.vocab_size, generator=generator(2)).requires_grad_()
            nats = family.token_bound(logits, x0, xt, t)
            (gradient,) = torch.autograd.grad(nats.sum(), logits)
            assert torch.isfinite(nats).all(), f"bound at t = {extreme}"
            assert torch.isfinite(gradient).all(), f"gradient at t = {extreme}"

    def test_positions_may_be_handed_over_as_rows(self, name: str) -> None:
        """The loss calls the family with the scored positions alone."""
        family = over(6, name)
        logits, x0, xt, t = batch(family, 6, (4, 5), 3, torch.float64)
        for loss in (family.token_bound, family.token_loss):
            whole = loss(logits, x0, xt, t)
            targets = family.targets(x0).reshape(-1, 1)
            rows = loss(logits.flatten(0, 1)[:, None], targets, xt.reshape(-1, 1), t.repeat_interleave(5))
            torch.testing.assert_close(rows.view_as(whole), whole, rtol=1e-12, atol=0)

    def test_unscored_positions_cost_nothing(self, name: str) -> None:
        family = over(6, name)
        logits, x0, xt, t = batch(family, 6, (8, 5), 4, torch.float64)
        scored = family.scored(xt)
        if scored is None:
            assert (family.token_loss(logits, x0, xt, t) > 0).all()
            return
        assert 0 < int(scored.sum()) < scored.numel()
        for loss in (family.token_bound, family.token_loss):
            nats = loss(logits, x0, xt, t)
            assert (nats[~scored] == 0).all()
            assert (nats[scored] > 0).all()

    def test_only_the_predicted_ids_need_logits(self, name: str) -> None:
        family = over(6, name)
        logits, x0, xt, t = batch(family, 6, (4, 5), 5, torch.float64)
        for loss in (family.token_bound, family.token_loss):
            fewer = loss(logits[..., : family.predicted_ids], x0, xt, t)
            torch.testing.assert_close(fewer, loss(logits, x0, xt, t), rtol=1e-12, atol=0)

    def test_draws_come_from_the_generator_alone(self, name: str) -> None:
        family = over(6, name)
        x0 = torch.randint(6, (16, 9), generator=generator())
        t = torch.full((16,), 0.5, dtype=torch.float64)
        before = torch.random.get_rng_state()
        first, again, other = (family.corrupt(x0, t, generator(seed)) for seed in (1, 1, 2))
        assert torch.equal(before, torch.random.get_rng_state()), "the global generator is left alone"
        assert torch.equal(first, again)
        assert family.bound == "exact" or not torch.equal(first, other)

    def test_training_times_are_one_per_slice(self, name: str) -> None:
        family = over(6, name)
        times = family.training_times(64, generator())
        assert times.dtype == torch.float64
        if family.bound == "exact":
            assert (times == 0).all()
            return
        slices = (times - 1e-3) / (1 - 1e-3) * 64
        assert slices.floor().long().tolist() == list(range(64))

    def test_unknown_options_are_named(self, name: str) -> None:
        with pytest.raises(ValueError, match=r"no option 'objectiv'; did you mean 'objective'\?"):
            over(6, name, objectiv="nelbo")
        with pytest.raises(ValueError, match="has no objective 'fastest'"):
            over(6, name, objective="fastest")
        with pytest.raises(ValueError, match="mask_id is 99"):
            over(6, name, mask_id=99)
        with pytest.raises(ValueError, match="vocab_size is 1"):
            get_family(VARIANTS[name][0], vocab_size=1)

    @given(
        num_ids=st.integers(2, 40), rows=st.integers(1, 5), length=st.integers(2, 9), seed=st.integers(0, 999)
    )
    @settings(max_examples=25, deadline=None)
    def test_any_shape_and_vocabulary(
        self, name: str, num_ids: int, rows: int, length: int, seed: int
    ) -> None:
        family = over(num_ids, name)
        logits, x0, xt, t = batch(family, num_ids, (rows, length), seed, torch.float64)
        assert xt.min() >= 0
        assert xt.max() < family.vocab_size
        nats = family.token_bound(logits, x0, xt, t)
        assert nats.shape == (rows, length)
        assert torch.isfinite(nats).all()
        assert (nats >= 0).all()
        # the truth, told with certainty, costs nothing
        sure = torch.full_like(logits, -60.0).scatter_(-1, family.targets(x0)[..., None], 60.0)
        assert float(family.token_bound(sure, x0, xt, t).abs().max()) < 1e-9


@pytest.mark.parametrize("name", DIFFUSION)
class TestEveryDiffusion:
    def test_schedule_and_its_derivative(self, name: str) -> None:
        for options in schedules(name):
            for eps in (0.0, 1e-3, 0.2) if name in SCHEDULED else (0.0,):
                family = over(3, name, **options, **({"schedule_eps": eps} if eps else {}))
                t = torch.linspace(0, 1, 41, dtype=torch.float64, requires_grad=True)
                alpha, slope = family.schedule(t)
                (derivative,) = torch.autograd.grad(alpha.sum(), t)
                torch.testing.assert_close(slope, derivative, rtol=1e-12, atol=1e-15)
                torch.testing.assert_close(family.noise_share(t), 1 - alpha, rtol=0, atol=1e-15)
                alpha = alpha.detach()
                assert float(alpha[0]) == pytest.approx(1)
                assert (alpha[1:] < alpha[:-1]).all()
                if options.get("schedule") != "cosine":
                    assert float(alpha[-1]) == pytest.approx(eps, abs=1e-15)

    def test_corruption_has_the_right_marginals(self, name: str) -> None:
        for options in schedules(name):
            family = over(3, name, **options)
            for time in (0.05, 0.4, 0.9):
                count = 40_000
                x0 = torch.tensor([[0, 2]]).expand(count, 2)
                t = torch.full((count,), time, dtype=torch.float64)
                xt = family.corrupt(x0, t, generator(round(100 * time)))
                codes = xt[:, 0] * family.vocab_size + xt[:, 1]
                counts = torch.bincount(codes, minlength=family.vocab_size**2).double()
                states = torch.cartesian_prod(*2 * [torch.arange(family.vocab_size)])
                truth = forward_probs(family, x0[: len(states)], states, t[: len(states)])
                assert (counts[truth == 0] == 0).all()
                # the chi-square of cells that are hardly ever hit is none: those are taken together
                often = count * truth >= 10
                counts, expected = (
                    torch.cat([x[often], x[~often].sum()[None]]) for x in (counts, count * truth)
                )
                possible = expected > 0
                chi2 = float(((counts - expected) ** 2 / expected)[possible].sum())
                free = int(possible.sum()) - 1
                assert chi2 < free + 5 * math.sqrt(2 * free), "five standard deviations of chi-square"

    def test_posterior_is_bayes(self, name: str) -> None:
        """Against the transition matrices: q(x_s | x_t, x) = (x Q_s)(x_s) Q_t|s(x_s, x_t) / (x Q_t)(x_t)."""
        for num_ids in (2, 4):
            family = over(num_ids, name)
            probs = _distributions(family, num_ids)
            for s, t in [(0.0, 0.3), (0.2, 0.25), (0.5, 0.9), (0.3, 1.0), (0.0, 1.0)]:
                got = _posterior_rows(family, probs, s, t)
                torch.testing.assert_close(got.sum(-1), torch.ones_like(got[..., 0]))
                expected, possible = _bayes(family, probs, s, t)
                torch.testing.assert_close(got[possible], expected[possible], rtol=1e-9, atol=1e-13)

    def test_the_bound_is_the_limit_of_discrete_steps(self, name: str) -> None:
        """KL(q(x_s | x_t, x_0) || q(x_s | x_t, x_theta)) / (t - s) -> token_bound, state by state."""
        clipped = {"schedule": "cosine", "schedule_eps": 0.02} if name in SCHEDULED else {}
        for num_ids, options in [(3, {}), (5, {}), (4, clipped)]:
            family = over(num_ids, name, **options)
            vocab = family.vocab_size
            logits = torch.randn(vocab, vocab, generator=generator(num_ids), dtype=torch.float64)
            guess = _no_mask(family, logits).softmax(-1)  # row: state x_t
            truth = torch.eye(vocab, dtype=torch.float64)[:num_ids]
            for time in (0.1, 0.5, 0.93):
                coarse, fine = (_rates(family, truth, guess, time, h) for h in (2e-4, 1e-4))
                states = torch.cartesian_prod(torch.arange(num_ids), torch.arange(vocab))
                t = torch.full((len(states),), time, dtype=torch.float64)
                rows = (logits[states[:, 1], None], states[:, :1], states[:, 1:], t)
                got = family.token_bound(*rows).view(num_ids, vocab)
                reachable = forward_probs(family, states[:, :1], states[:, 1:], t).view_as(got) > 0
                limit = 2 * fine - coarse  # what is left is of order h squared, 1e-8
                torch.testing.assert_close(got[reachable], limit[reachable], rtol=3e-6, atol=3e-6)

    def test_the_bound_is_the_sum_over_many_steps(self, name: str) -> None:
        """The whole discrete-time bound, T steps from pure noise to text, comes down to ours as T grows."""
        source = planted(4, 1, 10)
        family = over(4, name)
        predictor = arbitrary_predictor(family.vocab_size, 11)
        states = torch.arange(family.vocab_size)[:, None]
        logits = predictor(states, torch.zeros(len(states)))[:, 0]
        guess = _no_mask(family, logits).softmax(-1)
        truth = torch.eye(family.vocab_size, dtype=torch.float64)[: source.num_ids]
        sums = [_discrete_bound(family, truth, guess, source.probs, steps) for steps in (200, 400)]
        ours = exact_bound(family, source, predictor)
        rounding = 1e-9  # one masked position costs the same in any number of steps
        assert sums[0] + rounding > sums[1] > ours - rounding, "finer steps give a tighter bound"
        assert 2 * sums[1] - sums[0] == pytest.approx(ours, rel=1e-3)


@pytest.mark.parametrize("name", SCHEDULED)
class TestEveryFreeSchedule:
    def test_small_noise_keeps_its_digits(self, name: str) -> None:
        tiny = torch.tensor([1e-30, 1e-17], dtype=torch.float64)
        torch.testing.assert_close(over(3, name).noise_share(tiny), tiny, rtol=1e-12, atol=0)
        cosine = over(3, name, schedule="cosine").noise_share(tiny)
        torch.testing.assert_close(cosine, math.pi / 2 * tiny, rtol=1e-12, atol=0)

    def test_the_bound_does_not_depend_on_the_schedule(self, name: str) -> None:
        source = planted(3, 2, 6)
        predictor = arbitrary_predictor(vocab_size(3, name), 7)
        linear = exact_bound(over(3, name), source, predictor)
        cosine = exact_bound(over(3, name, schedule="cosine"), source, predictor)
        assert cosine == pytest.approx(linear, rel=1e-6)

    def test_what_eps_leaves_out(self, name: str) -> None:
        """With eps the bound is the same integral, stopped at alpha = eps."""
        source = planted(3, 2, 8)
        predictor = arbitrary_predictor(vocab_size(3, name), 9)
        family = over(3, name)
        nodes, weights = (torch.tensor(x) for x in _gauss_on_tenths())
        stopped = exact_bound(family, source, predictor, times=(0.9 * nodes, 0.9 * weights))
        short = exact_bound(over(3, name, schedule_eps=0.1), source, predictor, times=(nodes, weights))
        assert short == pytest.approx(stopped, rel=1e-9)
        assert short < exact_bound(family, source, predictor) - 1e-3


@pytest.mark.parametrize("name", OWN_SCHEDULE)
def test_a_schedule_of_its_own_takes_no_other(name: str) -> None:
    for option, value in (("schedule", "cosine"), ("schedule_eps", 1e-3)):
        with pytest.raises(ValueError, match=f"{option} is {value!r}"):
            over(3, name, **{option: value})


def _gauss_on_tenths() -> tuple[list[float], list[float]]:
    """Gauss-Legendre nodes and weights on (0, 1), from numpy, finer towards 0."""
    x, w = np.polynomial.legendre.leggauss(24)
    edges = [0.0, *(10.0 ** -np.arange(9, 0, -1)), 0.4, 1.0]
    nodes, weights = [], []
    for low, high in pairwise(edges):
        nodes += list(low + (high - low) * (x + 1) / 2)
        weights += list((high - low) * w / 2)
    return nodes, weights


def _no_mask(family: Family, logits: Tensor) -> Tensor:
    if family.mask_id is None:
        return logits
    return logits.index_fill(-1, torch.tensor([family.mask_id]), -math.inf)


def _distributions(family: Family, num_ids: int) -> Tensor:
    """(n, V) predictions without mass on a mask: certain ones and spread ones."""
    certain = torch.eye(family.vocab_size, dtype=torch.float64)[:num_ids]
    logits = 2 * torch.randn(6, family.vocab_size, generator=generator(), dtype=torch.float64)
    return torch.cat([certain, _no_mask(family, logits).softmax(-1)])


def _posterior_rows(family: Family, probs: Tensor, s: float, t: float) -> Tensor:
    """family.posterior for every prediction and every state: (n, V states, V)."""
    count, vocab = probs.shape
    xt = torch.arange(vocab).expand(count, vocab)
    times = [torch.full((count,), x, dtype=torch.float64) for x in (t, s)]
    return family.posterior(probs[:, None].expand(-1, vocab, -1), xt, *times)  # type: ignore[attr-defined]


def _matrices(family: Family, s: float, t: float) -> tuple[Tensor, Tensor, Tensor]:
    """Q_s, Q_t|s and Q_t, rows from and columns to."""
    to_s, between, to_t = marginal_matrix(family, s), step_matrix(family, s, t), marginal_matrix(family, t)
    assert (between > -1e-12).all(), "a step has no negative probabilities"
    torch.testing.assert_close(to_s @ between, to_t)  # Chapman-Kolmogorov
    return to_s, between, to_t


def _bayes(family: Family, probs: Tensor, s: float, t: float) -> tuple[Tensor, Tensor]:
    """Posterior (n, V states, V) from the matrices, and which states can occur."""
    to_s, between, to_t = _matrices(family, s, t)
    joint = (probs @ to_s)[:, None] * between.T[None]  # (n, x_t, x_s)
    total = (probs @ to_t)[..., None]
    return joint / total, (total[..., 0] > 1e-12)


def _rates(family: Family, truth: Tensor, guess: Tensor, t: float, h: float) -> Tensor:
    """KL per unit of time of one step from t to t - h: (x_0, x_t)."""
    exact = _bayes(family, truth, t - h, t)[0]  # (x_0, x_t, x_s)
    states = torch.arange(family.vocab_size)
    model = _bayes(family, guess, t - h, t)[0][states, states]  # prediction of state x_t at state x_t
    logs = torch.where(exact > 0, exact.log() - model.log()[None], 0.0)
    return (torch.where(exact > 0, exact * logs, 0.0)).sum(-1) / h


def _discrete_bound(family: Family, truth: Tensor, guess: Tensor, probs: Tensor, steps: int) -> float:
    """Sum over steps of E[KL]; the first step ends at clean text, so its KL is the reconstruction."""
    total = 0.0
    for i in range(1, steps + 1):
        t, h = i / steps, 1 / steps
        rates = _rates(family, truth, guess, t, h)
        reach = truth @ _matrices(family, t - h, t)[2]  # q(x_t | x_0)
        total += h * float((probs[:, None] * torch.where(reach > 0, reach * rates, 0.0)).sum())
    return total
