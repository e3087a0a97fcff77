"""The hybrid family: both schedules, the printed bound, its limits, training weights, samples."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scaling.families import get_family
from scaling.families.hybrid import Hybrid
from tests.scaling.enumeration import Fixed

PROCESSES: list[dict[str, Any]] = [
    {"p_u": 0.1},
    {"p_u": 0.5, "gamma": 2.0},
    {"p_u": 0.2, "gamma": 0.7},
    {"noise": "low-uniform"},
    {"noise": "balanced"},
    {"noise": 1.3, "schedule": "cosine"},
    {"noise": "high-uniform"},
    {"noise": "uniform"},
]
TIMES = (0.0, 1e-17, 1e-6, 1e-3, 0.1, 0.5, 0.9, 0.999, 1 - 1e-6, 1 - 1e-12, 1.0)


def hybrid(vocab_size: int, **options: Any) -> Hybrid:
    family = get_family("hybrid", vocab_size=vocab_size, **options)
    assert isinstance(family, Hybrid)
    return family


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def times(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def drawn(family: Any, rows: int, length: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Random logits, x0, xt and t over all of (0, 1)."""
    x0 = torch.randint(family.vocab_size - 1, (rows, length), generator=generator(seed))
    t = torch.rand(rows, generator=generator(seed + 1), dtype=torch.float64)
    xt = family.corrupt(x0, t, generator(seed + 2))
    logits = torch.randn(rows, length, family.vocab_size, generator=generator(seed + 3), dtype=torch.float64)
    return 2 * logits, x0, xt, t


class TestNoise:
    def test_p_u_is_the_share_of_redrawn_tokens_half_way(self) -> None:
        for p_u in (0.0, 0.1, 0.2, 0.7):
            for gamma in (0.5, 1.0, 2.0):
                family = hybrid(6, p_u=p_u, gamma=gamma)
                levels = family.levels(times(0.5))
                assert float(levels.noise * levels.uniform) == pytest.approx(p_u)
                assert float(levels.noise * levels.masked) == pytest.approx((1 - p_u) / 2)
                assert float(levels.alpha) == pytest.approx((1 - p_u) / 2)

    def test_every_p_u_starts_from_masks(self) -> None:
        ends = hybrid(6, p_u=0.3).mixing(times(1.0))
        torch.testing.assert_close(ends, F.one_hot(torch.tensor([5]), 6).double())

    def test_uniform_noise_comes_first_and_turns_to_masks_where_the_shift_says(self) -> None:
        for shift in (-2.0, 0.0, 2.0):
            family = hybrid(6, noise=shift)
            turn = 1 / (1 + math.exp(-shift))
            shares = family.levels(times(0.3 * turn, turn, (1 + turn) / 2)).uniform
            assert float(shares[1]) == pytest.approx(0.5)
            assert shares[0] > 0.5 > shares[2]

    def test_names_and_numbers_are_the_same_shifts(self) -> None:
        t = torch.linspace(0, 1, 7, dtype=torch.float64)
        for name, shift in (("low-uniform", -2), ("balanced", 0.0), ("high-uniform", 2.0)):
            assert torch.equal(hybrid(6, noise=name).mixing(t), hybrid(6, noise=shift).mixing(t))
        for name, shift in (("masked", -1000), ("uniform", 1000)):
            torch.testing.assert_close(hybrid(6, noise=name).mixing(t), hybrid(6, noise=shift).mixing(t))

    @pytest.mark.parametrize("options", PROCESSES)
    def test_rates_are_the_derivatives_of_the_shares(self, options: dict[str, Any]) -> None:
        family = hybrid(6, **options)
        t = torch.linspace(0.03, 0.97, 33, dtype=torch.float64, requires_grad=True)
        levels = family.levels(t)
        pairs = [(levels.uniform_rate, levels.uniform * levels.noise / levels.alpha)]
        if options.get("noise") != "uniform":
            pairs.append((levels.mask_rate, levels.masked * levels.noise / levels.alpha))
        pairs.append((levels.snr_rate, levels.noise / levels.alpha))
        for rate, ratio in pairs:
            (derivative,) = torch.autograd.grad(ratio.log().sum(), t, retain_graph=True)
            torch.testing.assert_close(rate.detach(), derivative, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(levels.alpha + levels.noise, torch.ones_like(t))
        torch.testing.assert_close(levels.masked + levels.uniform, torch.ones_like(t))
        assert (levels.uniform_rate >= 0).all(), "no noise flows back"

    def test_small_noise_keeps_its_digits(self) -> None:
        tiny = times(1e-30, 1e-17)
        torch.testing.assert_close(hybrid(6, p_u=0.0).noise_share(tiny), tiny, rtol=1e-12, atol=0)
        share = hybrid(6, p_u=0.2).noise_share(tiny)
        torch.testing.assert_close(share, 0.5 * tiny.sqrt(), rtol=1e-7, atol=0)

    def test_any_id_may_be_the_mask(self) -> None:
        """The mask in the middle of the vocabulary: the same process, the ids renamed."""
        last, middle = hybrid(6, noise="balanced"), hybrid(6, noise="balanced", mask_id=2)
        rename = torch.tensor([0, 1, 3, 4, 5, 2])  # ids of `last` to ids of `middle`
        logits, x0, xt, t = drawn(last, 40, 9)
        assert torch.equal(rename[xt], middle.corrupt(rename[x0], t, generator(2)))
        renamed = torch.empty_like(logits).index_copy_(-1, rename, logits)
        torch.testing.assert_close(
            middle.token_bound(renamed, rename[x0], rename[xt], t), last.token_bound(logits, x0, xt, t)
        )
        assert middle.predicted_ids == 6
        assert last.predicted_ids == 5


def as_printed(family: Hybrid, logits: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
    """w (KL + IS) from V-wide marginals, with the derivative of beta pi taken by autograd."""
    vocab = family.vocab_size
    time = t.clone().requires_grad_()
    alpha = family.schedule(time)[0]
    flow = (1 - alpha)[:, None] * family.mixing(time)  # beta pi
    alpha_rate = torch.autograd.grad(alpha.sum(), time, retain_graph=True)[0]
    flow_rate = torch.stack(
        [torch.autograd.grad(flow[:, j].sum(), time, retain_graph=True)[0] for j in range(vocab)], -1
    )
    alpha, flow = alpha.detach(), flow.detach()
    jump = flow_rate - (alpha_rate / alpha)[:, None] * flow
    probs = logits.index_fill(-1, torch.tensor([family.mask_id]), -math.inf).softmax(-1)
    true = alpha[:, None, None] * F.one_hot(x0, vocab) + flow[:, None]
    guess = alpha[:, None, None] * probs + flow[:, None]
    possible = true > 0  # the mask is not where all noise is uniform
    ratio = torch.where(possible, true, 1.0) / torch.where(possible, guess, 1.0)
    kl = (true * ratio.log()).sum(-1)
    true_z, guess_z = (q.gather(-1, xt[..., None])[..., 0] for q in (true, guess))
    weight = jump.gather(-1, xt) / true_z
    return weight * (kl + true_z / guess_z - (true_z / guess_z).log() - 1)


class TestBound:
    @pytest.mark.parametrize("options", PROCESSES)
    @pytest.mark.parametrize("vocab", [2, 3, 9])
    def test_is_the_printed_formula(self, options: dict[str, Any], vocab: int) -> None:
        family = hybrid(vocab, **options)
        logits, x0, xt, t = drawn(family, 30, 12, seed=vocab)
        logits.requires_grad_()
        ours, printed = family.token_bound(logits, x0, xt, t), as_printed(family, logits, x0, xt, t)
        torch.testing.assert_close(ours, printed, rtol=1e-9, atol=1e-11)
        gradients = [torch.autograd.grad(nats.sum(), logits)[0] for nats in (ours, printed)]
        torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-10)
        assert (gradients[0][..., family.mask_id] == 0).all()

    @pytest.mark.parametrize("options", [{"p_u": 0.0}, {"p_u": 0.0, "gamma": 2.0}, {"noise": "masked"}])
    @pytest.mark.parametrize("schedule", ["log_linear", "cosine"])
    def test_without_uniform_noise_it_is_family_masked(self, options: dict[str, Any], schedule: str) -> None:
        chosen = {"schedule": schedule} if "noise" in options else {}
        family = hybrid(7, objective="nelbo", time_conditioned=False, **options, **chosen)
        masked: Any = get_family("masked", vocab_size=7, objective="nelbo", **chosen)
        logits, x0, xt, t = drawn(family, 50, 8)
        assert torch.equal(xt, masked.corrupt(x0, t, generator(2))), "the same draws, too"
        assert torch.equal(family.scored(xt), masked.scored(xt))
        assert torch.equal(family.conditioning(t), masked.conditioning(t))
        for ours, theirs in zip(family.schedule(t), masked.schedule(t), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=0)
        for dtype in (torch.float64, torch.float32):
            tight = {"rtol": 1e-12 if dtype is torch.float64 else 3e-7, "atol": 0}
            args = (logits.to(dtype), x0, xt, t)
            torch.testing.assert_close(family.token_bound(*args), masked.token_bound(*args), **tight)
            torch.testing.assert_close(family.token_loss(*args), masked.token_loss(*args), **tight)
        probs = logits.index_fill(-1, torch.tensor([6]), -math.inf).softmax(-1)
        posteriors = [f.posterior(probs, xt, t, 0.6 * t) for f in (family, masked)]
        torch.testing.assert_close(*posteriors, rtol=1e-12, atol=1e-15)

    @pytest.mark.parametrize("schedule", ["log_linear", "cosine"])
    def test_without_masks_it_is_family_uniform_over_the_tokens(self, schedule: str) -> None:
        family = hybrid(7, noise="uniform", schedule=schedule, objective="nelbo")
        uniform: Any = get_family("uniform", vocab_size=6, schedule=schedule)
        logits, x0, xt, t = drawn(family, 50, 8)
        assert torch.equal(xt, uniform.corrupt(x0, t, generator(2))), "the same draws, too"
        assert torch.equal(family.conditioning(t), uniform.conditioning(t))
        assert float(family.mixing(t)[:, 6].max()) == 0
        for loss in ("token_bound", "token_loss"):
            ours = getattr(family, loss)(logits, x0, xt, t)
            theirs = getattr(uniform, loss)(logits[..., :6], x0, xt, t)
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
        probs = logits[..., :6].softmax(-1)
        ours = family.posterior(F.pad(probs, (0, 1)), xt, t, 0.6 * t)
        torch.testing.assert_close(ours[..., :6], uniform.posterior(probs, xt, t, 0.6 * t))
        assert (ours[..., 6] == 0).all()

    def test_a_small_p_u_comes_close_to_none(self) -> None:
        """Pointwise at masks and at every time; the released code's floor of e^-20 is one such p_u."""
        logits, x0, _, t = drawn(hybrid(6), 40, 9)
        xt = torch.full_like(x0, 5)
        floor, none = (hybrid(6, p_u=p_u).token_bound(logits, x0, xt, t) for p_u in (math.exp(-20), 0.0))
        torch.testing.assert_close(floor, none, rtol=2e-4, atol=1e-6)

    @given(
        vocab=st.integers(2, 40),
        p_u=st.floats(0, 0.99),
        gamma=st.floats(0.1, 2.0),
        shift=st.floats(-60, 60),
        seed=st.integers(0, 999),
    )
    @settings(max_examples=40, deadline=None)
    def test_never_negative_and_nothing_for_the_truth(
        self, vocab: int, p_u: float, gamma: float, shift: float, seed: int
    ) -> None:
        for options in ({"p_u": p_u, "gamma": gamma}, {"noise": shift}):
            family = hybrid(vocab, **options)
            logits, x0, xt, t = drawn(family, 6, 7, seed)
            nats = family.token_bound(logits.float(), x0, xt, t)
            assert torch.isfinite(nats).all()
            assert (nats >= 0).all()
            sure = torch.full_like(logits, -60.0).scatter_(-1, x0[..., None], 60.0)
            assert float(family.token_bound(sure, x0, xt, t).abs().max()) < 1e-9

    @pytest.mark.parametrize("vocab", [5, 257, 32001])
    @pytest.mark.parametrize("options", [*PROCESSES, {"p_u": 1e-9}, {"noise": -40.0}])
    def test_float32_is_enough_at_any_noise_level(self, options: dict[str, Any], vocab: int) -> None:
        """Rounding of logits, 1e-6 nats and 2e-5 of large values, however many ids; gradients are finite."""
        family = hybrid(vocab, **options)
        logits = 3 * torch.randn(4, 1, vocab, generator=generator(2))
        x0 = torch.randint(vocab - 1, (4, 1), generator=generator(3))
        states = [x0, (x0 + 1) % (vocab - 1)]
        if options.get("noise") != "uniform":
            states.append(torch.full_like(x0, vocab - 1))
        for t in TIMES:
            for xt in states:
                at = torch.full((4,), t, dtype=torch.float64)
                leaf = logits.clone().requires_grad_()
                single = family.token_bound(leaf, x0, xt, at)
                double = family.token_bound(logits.double(), x0, xt, at)
                (gradient,) = torch.autograd.grad(single.sum(), leaf)
                assert torch.isfinite(gradient).all(), f"at t = {t}"
                assert ((single - double).abs() < 2e-6 + 2e-5 * double).all(), f"at t = {t}"

    @pytest.mark.parametrize("options", PROCESSES)
    def test_float32_gradient_where_training_goes(self, options: dict[str, Any]) -> None:
        for vocab in (11, 32001):
            family = hybrid(vocab, **options)
            logits = 3 * torch.randn(9, 1, vocab, generator=generator(3))
            x0 = torch.randint(vocab - 1, (9, 1), generator=generator(4))
            third = torch.arange(9)[:, None] % 3
            mask = x0 if options.get("noise") == "uniform" else torch.full_like(x0, vocab - 1)
            xt = torch.where(third == 0, x0, torch.where(third == 1, (x0 + 1) % (vocab - 1), mask))
            for t in (1e-3, 0.1, 0.5, 0.9, 0.999):
                at = torch.full((9,), t, dtype=torch.float64)
                gradients: list[Tensor] = []
                for dtype in (torch.float32, torch.float64):
                    leaf = logits.to(dtype).requires_grad_()
                    gradients += torch.autograd.grad(family.token_loss(leaf, x0, xt, at).sum(), leaf)
                error = (gradients[0].double() - gradients[1]).norm() / gradients[1].norm()
                assert float(error) < 1e-4, f"at t = {t}"


class TestTraining:
    def states(self, family: Hybrid, t: float) -> Tensor:
        """Training weights at MASK, at x_0 and at another token."""
        xt = torch.tensor([[family.mask_id, 0, 1]])
        return family.training_weights(torch.zeros_like(xt), xt, times(t))[0]

    def test_dynamic_is_the_formula_and_the_released_code_is_not(self) -> None:
        """V = 6, t = 0.9, p_u = 0.2, so B / N = 0.1 and sqrt(t / (1 - t)) = 3."""
        family = hybrid(6, p_u=0.2, objective="dynamic")
        torch.testing.assert_close(self.states(family, 0.9), times(2.0, 0.3, 1.0))
        released = hybrid(6, p_u=0.2, objective="dynamic_released")
        stay = 0.5 / 6 * math.exp(0.5 / (1 + math.exp(0.9)))  # 0.0963
        torch.testing.assert_close(self.states(released, 0.9), times(2.0, stay, 1.0))

    def test_dynamic_keeps_the_ratios_of_the_bound(self) -> None:
        """Up to order 1/N where tokens are many; clipped at max_weight."""
        family = hybrid(50_001, p_u=0.1)
        for t in (0.01, 0.3, 0.8):
            xt = torch.tensor([[family.mask_id, 0, 1]])
            true = family.weights(torch.zeros_like(xt), xt, times(t))[0]
            torch.testing.assert_close(self.states(family, t), true / true[2], rtol=1e-4, atol=0)
        assert float(self.states(hybrid(3, p_u=0.5), 1 - 1e-9)[1]) == 2.0
        assert self.states(hybrid(3, p_u=0.5, max_weight=0.5), 0.5).tolist() == [0.5, 0.5, 0.5]

    def test_unweighted_is_the_integrand_over_log_snr(self) -> None:
        """1 + s at MASK, s at another token, (s^2 / N) / (s / N + e^lambda) at x_0."""
        for shift, t in ((-2.0, 0.2), (0.0, 0.5), (2.0, 0.8)):
            snr = (1 - t) / t
            s = 1 / (1 + math.exp(-shift) / snr)
            expected = times(1 + s, s**2 / 5 / (s / 5 + snr), s)
            torch.testing.assert_close(self.states(hybrid(6, noise=shift), t), expected)

    def test_unweighted_mask_noise_trains_on_alpha_times_the_cross_entropy(self) -> None:
        for options in ({"noise": "masked"}, {"p_u": 0.0, "objective": "unweighted"}):
            family = hybrid(7, **options)
            logits, x0, xt, t = drawn(family, 20, 6)
            nats = F.cross_entropy(logits[..., :6].mT, x0, reduction="none")
            expected = torch.where(xt == 6, (1 - t)[:, None] * nats, 0.0)
            torch.testing.assert_close(family.token_loss(logits, x0, xt, t), expected)

    def test_clamp_cuts_the_weights_of_the_bound(self) -> None:
        for options in ({"p_u": 0.1}, {"noise": "balanced"}):
            family = hybrid(6, objective="clamp", max_weight=3.0, **options)
            logits, x0, xt, t = drawn(family, 30, 8)
            cut = family.training_weights(x0, xt, t)
            torch.testing.assert_close(cut, family.weights(x0, xt, t).clamp(max=3.0))
            assert float(cut.max()) == 3.0
            loss, bound = family.token_loss(logits, x0, xt, t), family.token_bound(logits, x0, xt, t)
            assert (loss <= bound * (1 + 1e-12)).all()
            assert (loss < bound).any()

    def test_the_default_objective_is_the_papers(self) -> None:
        assert hybrid(6).objective == hybrid(6, p_u=0.2).objective == "dynamic"
        assert hybrid(6, noise="balanced").objective == "unweighted"
        assert hybrid(6).levels(times(0.5)).noise * hybrid(6).levels(times(0.5)).uniform == pytest.approx(0.1)

    def test_the_network_may_be_told_the_noise_level(self) -> None:
        t = times(0.0, 0.3, 1.0)
        noise = hybrid(6, p_u=0.3).conditioning(t)
        assert noise[0] == 0
        assert float(noise[1]) == pytest.approx(-math.log(float(hybrid(6, p_u=0.3).schedule(t)[0][1])))
        assert float(noise[2]) == pytest.approx(math.log(1000))
        assert (hybrid(6, p_u=0.3, time_conditioned=False).conditioning(t) == 0).all()

    def test_evaluation_times_average_to_the_bound(self) -> None:
        """Whatever the levels drawn, the weighted mean is the integral over t: here of 1, t and sqrt(t)."""
        place = torch.linspace(0, 1, 20_001, dtype=torch.float64)[1:] - 1 / 40_000
        x0 = torch.zeros(len(place), 1, dtype=torch.long)
        for options in ({"p_u": 0.1}, {"p_u": 0.1, "gamma": 2.0}, {"p_u": 0.0}, {"noise": "balanced"}):
            noised = hybrid(6, **options).evaluation_batch(x0, place, generator())
            assert noised.weight is not None
            for power in (0.0, 0.5, 1.0):
                mean = float((noised.weight * noised.t**power).mean())
                assert mean == pytest.approx(1 / (1 + power), rel=1e-6)


class TestSampling:
    @pytest.mark.parametrize("options", [{"p_u": 0.2}, {"noise": "balanced"}, {"noise": "uniform"}])
    def test_tokens_follow_the_network(self, options: dict[str, Any]) -> None:
        """A network that knows no context: tokens come out with its own probabilities, none is a mask."""
        logits = times(0.1, 0.2, 0.3, 0.4, 5.0).log()
        ids = hybrid(5, **options).sample(Fixed(logits), (200, 50), 12, generator())
        shares = torch.bincount(ids.flatten(), minlength=5).double() / ids.numel()
        torch.testing.assert_close(shares, times(0.1, 0.2, 0.3, 0.4, 0.0), atol=0.02, rtol=0)

    def test_starts_from_the_noise(self) -> None:
        for options, first in (
            ({"p_u": 0.3}, {4}),
            ({"noise": 0.0}, {4}),
            ({"noise": "uniform"}, set(range(4))),
        ):
            model = Fixed(torch.zeros(5, dtype=torch.float64))
            hybrid(5, **options).sample(model, (20, 30), 2, generator())
            assert set(model.seen[0].unique().tolist()) == first

    def test_a_network_not_told_the_time_is_asked_only_when_something_changed(self) -> None:
        for noise, conditioned, calls in (
            ("balanced", True, 200),
            ("balanced", False, 60),
            ("masked", True, 3),
        ):
            model = Fixed(times(0.0, 0.0, -math.inf))
            ids = hybrid(3, noise=noise, time_conditioned=conditioned).sample(model, (1, 3), 200, generator())
            assert (ids < 2).all()
            assert len(model.seen) == calls if calls == 200 else 0 < len(model.seen) <= calls

    def test_options_are_refused(self) -> None:
        with pytest.raises(ValueError, match="'hybrid': sampler 'ancestral' has no option 'heat'"):
            hybrid(5).sample(Fixed(torch.zeros(5)), (1, 2), 3, generator(), heat=0.5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"p_u": 1.0}, r"p_u is 1.0, it must lie in \[0, 1\)"),
        ({"p_u": -0.1}, r"p_u is -0.1, it must lie in \[0, 1\)"),
        ({"p_u": math.nan}, "p_u is nan"),
        ({"p_u": "much"}, "p_u is 'much', it must be a number"),
        ({"p_u": 0.1, "noise": "balanced"}, "p_u is 0.1 and noise is 'balanced', give one of them only"),
        ({"noise": "balanced", "gamma": 1.0}, "gamma is 1.0, but it belongs to p_u, and noise is 'balanced'"),
        ({"p_u": 0.1, "gamma": 0.0}, r"gamma is 0.0, it must lie in \(0, 2\]"),
        ({"p_u": 0.1, "gamma": 2.5}, r"gamma is 2.5, it must lie in \(0, 2\]"),
        (
            {"noise": "bal"},
            "noise is 'bal', it must be masked, low-uniform, balanced, high-uniform, uniform or",
        ),
        ({"noise": math.inf}, "noise is inf, it must be .* or a finite number"),
        ({"p_u": 0.1, "schedule": "cosine"}, "schedule is 'cosine', but p_u has a schedule of its own"),
        ({"schedule_eps": 0.001}, "schedule_eps is 0.001, but p_u has a schedule of its own"),
        ({"noise": "balanced", "objective": "dynamic"}, "objective 'dynamic' is defined by p_u"),
        ({"noise": 0.5, "objective": "dynamic_released"}, "objective 'dynamic_released' is defined by p_u"),
        (
            {"objective": "nelbo", "max_weight": 2.0},
            "max_weight is 2.0, but objective 'nelbo' clips no weights",
        ),
        ({"max_weight": 0.0}, "max_weight is 0.0, it must be above 0 and finite"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        hybrid(6, **options)
