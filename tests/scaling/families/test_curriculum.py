"""Duo's curriculum: what is drawn follows the laws it should, and the loss is the bound at its alpha."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from scaling import flops
from scaling.families import get_family
from scaling.families.base import Family, Noised
from scaling.families.curriculum import (
    HARD,
    Curriculum,
    distinct_others,
    embed,
    falling_inverse_temperature,
    gamma_at,
    gaussian_latent,
    largest_normals,
    log_mean_exp_below,
    signal_at,
    tempered_weights,
    top_k_input,
)
from scaling.families.duality import to_discrete
from scaling.families.uniform import Uniform
from scaling.models import Transformer
from scaling.training import RunStatus, train
from tests.scaling.toys import ToyData, toy_size, toy_spec

FORMS: dict[str, dict[str, Any]] = {
    "full": {"curriculum": "full"},
    "top_k": {"curriculum": "top_k"},
    "top_3": {"curriculum": "top_k", "top_k": 3, "curriculum_share": 0.3},
    "soft": {"curriculum": "top_k", "temperature": 0.2, "alpha_range": (0.8, 0.2)},
}
VOCAB = 7


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def uniform(vocab_size: int = VOCAB, **options: Any) -> Uniform:
    family = get_family("uniform", vocab_size=vocab_size, **options)
    assert isinstance(family, Uniform)
    return family


def texts(rows: int = 8, length: int = 6, vocab: int = VOCAB) -> Tensor:
    return torch.randint(vocab, (rows, length), generator=generator(99))


def network(family: Family) -> Transformer:
    """In float64, every weight away from its zero start."""
    model = family.build_model(toy_size(), generator(5)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator(6), dtype=torch.float64)
    return model


def full_in_float64(
    x0: Tensor, gamma: Tensor, vocab: int, inverse: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Argmax and weights of the full form in float64."""
    epsilon = torch.randn((*x0.shape, vocab), generator=generator(seed), dtype=torch.float64)
    latent = gaussian_latent(x0, gamma, epsilon)
    return latent.argmax(-1), tempered_weights(latent, inverse)


def same_law(first: Tensor, second: Tensor) -> None:
    """Chi-square of two samples of category numbers, within five standard deviations."""
    count = int(max(first.max(), second.max())) + 1
    a, b = (torch.bincount(x.reshape(-1), minlength=count).double() for x in (first, second))
    frequent = a + b > 10
    chi2 = float(
        (((b.sum() / a.sum()).sqrt() * a - (a.sum() / b.sum()).sqrt() * b) ** 2 / (a + b))[frequent].sum()
    )
    free = int(frequent.sum()) - 1
    assert chi2 < free + 5 * math.sqrt(2 * free)


# -- the draws -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("vocab", "top_k"), [(3, 2), (6, 1), (6, 2), (6, 3), (6, 6)])
def test_top_k_follows_the_full_form(vocab: int, top_k: int) -> None:
    """Which ids come first and second, and how far apart they are, have the law of the full latent."""
    count, inverse = 60_000, 4.0
    x0 = torch.zeros(count, 1, dtype=torch.long)
    for gamma_value in (-2.0, 0.5):
        gamma = torch.full((count,), gamma_value, dtype=torch.float64)
        ids, weights = top_k_input(x0, gamma, vocab, top_k, inverse, generator(1))
        assert (weights[..., :-1] >= weights[..., 1:]).all()
        assert float(weights.sum(-1).max()) <= 1 + 1e-12
        z, full = full_in_float64(x0, gamma, vocab, inverse, 2)
        same_law(ids[..., 0], z)
        if top_k == 1:
            continue
        top = full.topk(top_k, dim=-1)
        apart = [(w[..., 1] / w[..., 0] * 8).long() for w in (weights, top.values)]
        pairs = [i[..., 0] * vocab + i[..., 1] for i in (ids, top.indices)]
        same_law(*(p * 8 + a for p, a in zip(pairs, apart, strict=True)))
        if top_k == vocab:
            torch.testing.assert_close(weights.sum(-1), torch.ones(count, 1, dtype=torch.float64))
            same_law(*((32 * w[..., 0]).long() for w in (weights, top.values)))


@pytest.mark.parametrize(
    ("vocab", "top_k", "gamma"),
    [(2, 2, 0.0), (11, 2, -2.0), (1000, 5, -2.5), (50257, 2, -2.6), (50257, 3, -2.6)],
)
def test_the_noisy_token_is_clean_as_often_as_alpha_says(vocab: int, top_k: int, gamma: float) -> None:
    """Not whenever it is among the k largest: that would be 0.37 instead of 0.295 at 50257 ids, k = 2."""
    count = 60_000
    x0 = torch.randint(vocab, (count, 1), generator=generator(3))
    gammas = torch.full((count,), gamma, dtype=torch.float64)
    ids, _ = top_k_input(x0, gammas, vocab, top_k, 1000.0, generator(4))
    at = to_discrete(torch.tensor(gamma), vocab)
    expected = float(at.alpha + at.noise / vocab)
    hits = float((ids[..., 0] == x0).double().mean())
    assert abs(hits - expected) < 4 * math.sqrt(expected * (1 - expected) / count)
    if (vocab, top_k) == (50257, 2):
        assert expected == pytest.approx(0.295, abs=1e-3)
        assert float((ids == x0[..., None]).any(-1).double().mean()) == pytest.approx(0.371, abs=0.01)


@pytest.mark.parametrize(("vocab", "top_k"), [(3, 1), (12, 2), (200, 3)])
def test_unseen_ids_weigh_their_mean(vocab: int, top_k: int) -> None:
    """1 / largest weight, a sum of exp(differences), is linear in the unseen: its mean is the full one's."""
    count, inverse = 60_000, 3.0
    x0 = torch.ones(count, 1, dtype=torch.long)
    gamma = torch.full((count,), -0.5, dtype=torch.float64)
    _, weights = top_k_input(x0, gamma, vocab, top_k, inverse, generator(21))
    _, full = full_in_float64(x0, gamma, vocab, inverse, 22)
    ours, theirs = 1 / weights[..., 0], 1 / full.amax(-1)
    error = math.sqrt(float(ours.var() + theirs.var()) / count)
    assert abs(float(ours.mean() - theirs.mean())) < 4 * error
    assert float(ours.mean()) > 1 + 20 * error


@given(vocab=st.integers(2, 12), data=st.data(), seed=st.integers(0, 999))
@settings(max_examples=40)
def test_kept_ids_are_different(vocab: int, data: st.DataObject, seed: int) -> None:
    top_k = data.draw(st.integers(1, vocab))
    x0 = torch.randint(vocab, (5, 4), generator=generator(seed))
    gamma = torch.linspace(-4, 2, 5, dtype=torch.float64)
    ids, weights = top_k_input(x0, gamma, vocab, top_k, 50.0, generator(seed + 1))
    assert ids.shape == weights.shape == (5, 4, top_k)
    assert ((ids >= 0) & (ids < vocab)).all()
    assert (ids.sort(-1).values.diff(dim=-1) > 0).all()
    assert torch.isfinite(weights).all()


def test_others_come_in_every_order_alike() -> None:
    x0 = torch.full((40_000,), 2)
    ids = distinct_others(x0, 3, 5, generator(7))
    codes = (ids * torch.tensor([25, 5, 1])).sum(-1)
    counts = torch.bincount(codes, minlength=125).double()
    assert int((counts > 0).sum()) == 4 * 3 * 2, "every ordered choice of 3 of the 4 others, and nothing else"
    expected = len(x0) / 24
    chi2 = float(((counts[counts > 0] - expected) ** 2 / expected).sum())
    assert chi2 < 23 + 5 * math.sqrt(46)


def test_largest_normals_at_the_edges() -> None:
    edges = torch.tensor([[0.0, 0.0], [1 - 2.0**-53, 1 - 2.0**-53], [0.5, 1e-300]], dtype=torch.float64)
    for count in (2, 50_256):
        values = largest_normals(edges, count)
        assert torch.isfinite(values).all()
        assert (values[:, 0] >= values[:, 1]).all()
    assert float(largest_normals(torch.tensor([0.5], dtype=torch.float64), 1)) == pytest.approx(0, abs=1e-15)


def test_mean_of_the_tail_in_many_digits() -> None:
    """At the published temperature the spread is hundreds, and the plain formula cancels."""
    for limit, spread in [(1200.0, 300.0), (900.0, 300.0), (-30.0, 300.0), (3.0, 0.4), (-2.0, 1.0)]:
        with mpmath.workdps(60):
            c, s = mpmath.mpf(limit), mpmath.mpf(spread)
            log_cdf = [mpmath.log(mpmath.erfc(-x / mpmath.sqrt(2)) / 2) for x in (c / s - s, c / s)]
            expected = float(s * s / 2 + log_cdf[0] - log_cdf[1])
        got = log_mean_exp_below(*(torch.tensor(x, dtype=torch.float64) for x in (limit, spread)))
        assert float(got) == pytest.approx(expected, rel=1e-12), (limit, spread)
        assert float(got) < limit


def test_mean_of_the_tail_by_simulation() -> None:
    draws = 0.8 * torch.randn(400_000, generator=generator(8), dtype=torch.float64)
    below = draws[draws < 0.5].exp()
    got = log_mean_exp_below(torch.tensor(0.5).double(), torch.tensor(0.8).double()).exp()
    assert float(got) == pytest.approx(float(below.mean()), abs=4 * float(below.std()) / len(below) ** 0.5)


@pytest.mark.parametrize("form", ["full", "top_k"])
def test_cold_input_is_the_argmax(form: str) -> None:
    x0 = texts(16, 12)
    t = torch.rand(16, generator=generator(9), dtype=torch.float64)
    last = 0.0
    for temperature in (0.3, 1e-2, 1e-4, 1e-9):
        rules = Curriculum(vocab_size=VOCAB, form=form, temperature=temperature)
        noised = rules.batch(x0, t, generator(10), 0.0)
        weights = noised.extra["weights"]
        at_z = weights[..., 0]
        if form == "full":
            at_z = weights.gather(-1, noised.xt[..., None])[..., 0]
            assert torch.equal(weights.argmax(-1), noised.xt)
        assert float(at_z.mean()) >= last
        last = float(at_z.mean())
    assert float((1 - at_z).max()) < 1e-6


@pytest.mark.parametrize("top_k", [2, 4])
def test_the_expected_mixture_is_the_full_one(top_k: int) -> None:
    """Means of the soft embedding agree up to what the ids left out weigh, and noise."""
    vocab, count = 40, 40_000
    table = torch.randn(vocab, 3, generator=generator(11), dtype=torch.float64)
    x0 = torch.randint(vocab, (count, 1), generator=generator(12))
    gamma = torch.full((count,), -1.5, dtype=torch.float64)
    ids, weights = top_k_input(x0, gamma, vocab, top_k, 100.0, generator(13))
    some = Noised(x0, ids[..., 0], gamma, extra={"ids": ids, "weights": weights})
    whole = Noised(x0, x0, gamma, extra={"weights": full_in_float64(x0, gamma, vocab, 100.0, 14)[1]})
    rows = [embed(table, noised) - table[x0] for noised in (some, whole)]
    left_out = float(1 - weights.sum(-1).mean())
    assert left_out < (0.02, 0.0005)[top_k == 4]
    error = sum(r.var(0) / count for r in rows).sqrt()
    gap = (rows[0].mean(0) - rows[1].mean(0)).abs()
    assert (gap < 4 * error + left_out * table.abs().max()).all()


def test_mixtures_of_embeddings() -> None:
    """Against sums written out."""
    table = torch.randn(VOCAB, 5, generator=generator(15), dtype=torch.float64)
    x0, t = texts(3, 4), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    for form in ("full", "top_k"):
        noised = Curriculum(vocab_size=VOCAB, form=form, temperature=0.3).batch(x0, t, generator(16), 0.0)
        got, weights = embed(table, noised), noised.extra["weights"].double()
        for b in range(3):
            for i in range(4):
                ids = noised.extra["ids"][b, i] if form == "top_k" else torch.arange(VOCAB)
                torch.testing.assert_close(got[b, i], (weights[b, i, :, None] * table[ids]).sum(0))


# -- noise levels and temperatures -----------------------------------------------------------------------


def test_signal_runs_over_the_range() -> None:
    rules = Curriculum(vocab_size=50257, form="top_k")
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    alpha, noise, slope = signal_at(t, rules.gamma_range, 50257)
    assert (float(alpha[0]), float(alpha[-1])) == pytest.approx((0.95, 0.05), rel=1e-12)
    torch.testing.assert_close(alpha + noise, torch.ones_like(alpha))
    h = 1e-5
    ahead, behind = (signal_at(t + d, rules.gamma_range, 50257).alpha for d in (h, -h))
    torch.testing.assert_close(slope, (ahead - behind) / (2 * h), rtol=1e-8, atol=0)
    gammas = gamma_at(t, rules.gamma_range).diff()
    torch.testing.assert_close(gammas, gammas[:1].expand(10))


def test_temperature_stays_or_falls() -> None:
    stays = Curriculum(vocab_size=9, form="full")
    assert {round(stays.inverse_temperature(p), 6) for p in (0.0, 0.2, 0.4999)} == {1000.0}
    falls = Curriculum(vocab_size=9, form="full", share=0.8, temperature=0.1, final_temperature=0.001)
    assert [falls.inverse_temperature(p) for p in (0.0, 0.4)] == pytest.approx([10, 100])
    steps = torch.tensor([0, 100, 300, 400])
    got = falling_inverse_temperature(steps, 100, 300, 0.1, 0.01)
    assert got.tolist() == pytest.approx([10, 10, HARD, HARD])


# -- the family --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMS)
class TestUniformWithACurriculum:
    def test_phases(self, name: str) -> None:
        """Up to the share soft and biased, from it on what the family does without a curriculum."""
        family, plain = uniform(**FORMS[name]), uniform()
        assert family.curriculum is not None
        share, x0 = family.curriculum.share, texts()
        for progress in (0.0, share - 1e-9):
            assert family.biased(progress)
            assert {"signal", "weights"} <= set(family.training_batch(x0, generator(1), progress).extra)
        for progress in (share, 0.99):
            assert not family.biased(progress)
            ours, theirs = (f.training_batch(x0, generator(1), progress) for f in (family, plain))
            assert torch.equal(ours.xt, theirs.xt)
            assert torch.equal(ours.t, theirs.t)
            assert not ours.extra

    def test_the_reported_bound_knows_nothing_of_it(self, name: str) -> None:
        family, plain = uniform(**FORMS[name]), uniform()
        model = network(family)
        place = torch.rand(8, generator=generator(2), dtype=torch.float64)
        batches = [f.evaluation_batch(texts(), place, generator(3)) for f in (family, plain)]
        bounds = [f.sequence_bound(model, b) for f, b in zip((family, plain), batches, strict=True)]
        assert torch.equal(*bounds)

    def test_the_loss_is_the_bound_at_its_alpha(self, name: str) -> None:
        """token_bound at t = 1 - alpha has slope -1; the curriculum's is d alpha / dt."""
        family = uniform(**FORMS[name])
        model, noised = network(family), family.training_batch(texts(), generator(4), 0.0)
        alpha, noise, slope = noised.extra["signal"].unbind(-1)
        sigma = -torch.log(alpha)
        logits = model.predict(model.trunk(embed(model.embedding, noised), sigma), VOCAB)
        nats = family.token_bound(logits, noised.x0, noised.xt, noise)
        expected = (-slope[:, None] * nats).sum()
        with torch.no_grad():
            got = family.training_loss(model, noised)
        assert float(got) == pytest.approx(float(expected.detach()), rel=1e-5)  # logits pass through float32

    def test_rows_add_up_and_gradients_flow(self, name: str) -> None:
        family = uniform(**FORMS[name])
        model, noised = network(family).float(), family.training_batch(texts(), generator(5), 0.0)
        whole = family.training_loss(model, noised)
        parts = [family.training_loss(model, noised.rows(slice(i, i + 3))) for i in range(0, 8, 3)]
        torch.testing.assert_close(whole, sum(parts), rtol=1e-5, atol=0)
        gradients = torch.autograd.grad(whole, list(model.parameters()))
        assert all(torch.isfinite(g).all() and bool(g.any()) for g in gradients)

    def test_draws_come_from_the_generator_alone(self, name: str) -> None:
        family = uniform(**FORMS[name])
        before = torch.random.get_rng_state()
        first, again, other = (family.training_batch(texts(), generator(s), 0.0) for s in (1, 1, 2))
        assert torch.equal(before, torch.random.get_rng_state()), "the global generator is left alone"
        for key, value in first.extra.items():
            assert torch.equal(value, again.extra[key])
            assert len(value) == 8, "rows come first, so that the batch can be cut"
        assert torch.equal(first.xt, again.xt)
        assert not torch.equal(first.extra["weights"], other.extra["weights"])

    def test_stopped_and_resumed(self, name: str, tmp_path: Path) -> None:
        """Stopped in either phase: the same run to the bit. 20 steps, the last with fewer rows."""
        spec = toy_spec("uniform", family_options=FORMS[name])
        records: list[dict[str, Any]] = []
        straight = train(spec, ToyData(), tmp_path / "straight", log=records.append)
        assert straight.status is RunStatus.FINISHED
        for stop_at in (2, 15):
            polls = iter(range(1, 21))
            first = tmp_path / f"{stop_at}"
            cut = train(
                spec,
                ToyData(),
                first,
                log=lambda record: None,
                should_stop=lambda polls=polls, at=stop_at: "stop" if next(polls) == at else None,
            )
            assert cut.steps_done == stop_at
            appended: list[dict[str, Any]] = []
            result = train(spec, ToyData(), tmp_path / "on", log=appended.append, resume_from=[first])
            assert (result.bound, result.bound_se) == (straight.bound, straight.bound_se)
            losses = [
                [r.get("biased_loss", r.get("loss")) for r in x if r["kind"] == "train"]
                for x in (records, appended)
            ]
            assert losses[0][stop_at:] == losses[1]
            for path in (tmp_path / "on").iterdir():
                path.unlink()


@pytest.mark.parametrize("form", ["full", "top_k"])
def test_a_cold_step_is_a_step_on_ids(form: str) -> None:
    """At temperature 0 the network reads z itself."""
    family = uniform(curriculum=form, temperature=1e-9)
    model, noised = network(family), family.training_batch(texts(), generator(6), 0.0)
    on_ids = model.trunk(noised.xt, -torch.log(noised.extra["signal"][:, 0]))
    soft = model.trunk(embed(model.embedding, noised), -torch.log(noised.extra["signal"][:, 0]))
    torch.testing.assert_close(soft, on_ids, rtol=1e-5, atol=1e-5)


def test_flops_are_what_a_counter_sees() -> None:
    """A step of the full form beside a step on ids: one more product forward, one backward."""
    counts = {}
    for form in ("none", "full", "top_k"):
        family = uniform(31, curriculum=form, **({} if form == "none" else {"curriculum_share": 1}))
        model = family.build_model(toy_size(), generator(1))
        noised = family.training_batch(texts(1, 13, 31), generator(2), 0.0)
        with FlopCounterMode(display=False) as counter:
            family.training_loss(model, noised).backward()
        ours = flops.training_flops(toy_size(), 31, 13, 1, work=family.work(13))
        counts[form] = counter.get_total_flops(), ours
    extra = 2 * 2 * 13 * 31 * toy_size().hidden
    assert counts["full"][0] - counts["none"][0] == extra
    assert counts["full"][1] - counts["none"][1] == pytest.approx(extra)
    assert counts["top_k"] == counts["none"]
    half = uniform(31, curriculum="full").work(13)
    assert flops.training_flops(toy_size(), 31, 13, 1, work=half) - counts["none"][1] == pytest.approx(
        extra / 2
    )


def test_a_mask_column_is_noise_like_any_other() -> None:
    """The published vocabulary: noise lands on the mask id, the network never predicts it."""
    family = uniform(VOCAB + 1, mask_column=True, curriculum="top_k", top_k=8)
    x0 = texts(64, 32)
    noised = family.training_batch(x0, generator(7), 0.0)
    assert noised.extra["signal"].shape == (64, 3)
    assert (noised.xt == VOCAB).any()
    assert torch.isfinite(family.training_loss(network(family), noised))


def test_without_a_curriculum_nothing_changes() -> None:
    family, x0 = uniform(), texts()
    assert family.curriculum is None
    assert not family.biased(0.0)
    noised = family.training_batch(x0, generator(8), 0.0)
    again = generator(8)
    t = family.training_times(len(x0), again)
    assert torch.equal(noised.t, t)
    assert torch.equal(noised.xt, family.corrupt(x0, t, again))
    assert not noised.extra


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"curriculum": "hard"}, "curriculum is 'hard', it must be 'none', 'full' or 'top_k'"),
        ({"curriculum": None}, "curriculum is None, it must be"),
        ({"top_k": 2}, "top_k is 2, it must come with curriculum 'top_k'"),
        ({"curriculum": "full", "top_k": 2}, "top_k is 2, it must come with curriculum 'top_k'"),
        (
            {"curriculum_share": 0.5},
            "curriculum_share is 0.5, it must come with curriculum 'full' or 'top_k'",
        ),
        ({"temperature": 0.1}, "temperature is 0.1, it must come with"),
        ({"alpha_range": (0.9, 0.1)}, "alpha_range is .*, it must come with"),
        ({"curriculum": "top_k", "curriculum_share": 0}, r"curriculum_share is 0, it must lie in \(0, 1\]"),
        ({"curriculum": "top_k", "curriculum_share": 1.5}, "curriculum_share is 1.5"),
        ({"curriculum": "top_k", "curriculum_share": "half"}, "curriculum_share is 'half'"),
        ({"curriculum": "top_k", "top_k": 0}, "top_k is 0, it must be a whole number from 1 to the 7 ids"),
        ({"curriculum": "top_k", "top_k": 8}, "top_k is 8"),
        ({"curriculum": "top_k", "top_k": 2.0}, "top_k is 2.0"),
        ({"curriculum": "full", "temperature": 0.0}, "temperature is 0.0, it must be positive"),
        ({"curriculum": "full", "temperature": math.inf}, "temperature is inf"),
        (
            {"curriculum": "full", "final_temperature": 0.5},
            r"final_temperature is 0.5, it must lie in \(0, 0.001\]",
        ),
        ({"curriculum": "full", "alpha_range": (0.1, 0.9)}, "alpha_range is .*two falling signal levels"),
        ({"curriculum": "full", "alpha_range": [1.0, 0.1]}, "alpha_range is"),
        ({"curriculum": "full", "alpha_range": 0.5}, "alpha_range is 0.5"),
        ({"curriculum": "full", "alpha_range": (0.9, "0.1")}, "alpha_range is"),
    ],
)
def test_refused_options(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        uniform(**options)
