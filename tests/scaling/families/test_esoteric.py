"""The esoteric family: both terms by enumeration, its limits, its orders, and exact caching."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scaling.families import get_family
from scaling.families.base import Noised
from scaling.families.esoteric import Esoteric
from scaling.models import Doubled, Transformer
from tests.scaling.enumeration import Planted, all_sequences, planted, quadrature, sum_over_steps
from tests.scaling.toys import NUM_IDS, toy_size

Predictor = Callable[[Tensor], Tensor]
"""Known tokens in place, mask id elsewhere, (n, L) -> logits (n, L, V) of what each place holds."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def esoteric(alpha_0: float, vocab_size: int = NUM_IDS + 1, **options: Any) -> Esoteric:
    family = get_family("esoteric", vocab_size=vocab_size, alpha_0=alpha_0, **options)
    assert isinstance(family, Esoteric)
    return family


def network(family: Esoteric, seed: int = 0) -> Transformer:
    model = family.build_model(toy_size(), generator(seed)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator(seed + 1)))
    return model


def best(source: Planted) -> Predictor:
    mask_id = source.num_ids

    def predict(visible: Tensor) -> Tensor:
        fits = (source.ids[None] == visible[:, None]) | (visible[:, None] == mask_id)
        weights = fits.all(-1).double() * source.probs
        logits = torch.zeros(*visible.shape, mask_id + 1, dtype=torch.float64)
        for i in range(source.length):
            logits[:, i, :mask_id] = (weights @ F.one_hot(source.ids[:, i], mask_id).double()).log()
        return logits

    return predict


def arbitrary(vocab: int, seed: int) -> Predictor:
    table = torch.randn(211, vocab, generator=generator(seed), dtype=torch.float64)

    def predict(visible: Tensor) -> Tensor:
        codes = (visible * vocab ** torch.arange(visible.shape[1])).sum(-1, keepdim=True)
        return table[(7 * codes + torch.arange(visible.shape[1])) % 211]

    return predict


def diffusion_term(family: Esoteric, source: Planted, predictor: Predictor) -> float:
    """E over x_0, z_t and t of the integrand: nats per sequence."""
    nodes, weights = quadrature()
    states, total = all_sequences(family.vocab_size, source.length), 0.0
    logits = predictor(states)
    masked = (states == family.mask_id).double()
    for x0, prob in zip(source.ids, source.probs, strict=True):
        rows = x0.expand_as(states)
        reachable = ((states == rows) | (states == family.mask_id)).all(-1)
        for t, weight in zip(nodes, weights, strict=True):
            share = family.noise_share(t)
            mass = (masked * share + (1 - masked) * (1 - share)).prod(-1) * reachable
            nats = family.token_bound(logits, rows, states, t.expand(len(states))).sum(-1)
            total += float(prob * weight * (mass * nats)[mass > 0].sum())
    return total


def sequential_term(family: Esoteric, source: Planted, predictor: Predictor) -> float:
    """E over x_0 and z_0; a masked token sees the clean ones and the masked ones before it."""
    share, total, mask_id = 1 - family.alpha_0, 0.0, family.mask_id
    patterns = list(itertools.product([False, True], repeat=source.length))
    cases = [
        (n, hidden, i) for n in range(len(source.ids)) for hidden in patterns for i in range(source.length)
    ]
    for n, hidden, place in cases:
        if not hidden[place]:
            continue
        mass = float(source.probs[n]) * math.prod(share if h else 1 - share for h in hidden)
        visibility = [not h or i < place for i, h in enumerate(hidden)]
        visible = torch.where(torch.tensor([visibility]), source.ids[n], mask_id)
        nats = family.token_bound(
            predictor(visible)[:, place : place + 1],
            source.ids[n : n + 1, place : place + 1],
            torch.tensor([[mask_id]]),
            torch.zeros(1, dtype=torch.float64),
        )
        total += mass * float(nats)
    return total


@pytest.mark.parametrize("alpha_0", [0.0, 0.125, 0.5, 0.9, 1.0])
def test_the_best_predictor_reaches_the_entropy(alpha_0: float) -> None:
    source, family = planted(2, 3, 2), esoteric(alpha_0, 3, objective="nelbo")
    for predictor, reaches in ((best(source), True), (arbitrary(3, 0), False)):
        total = sequential_term(family, source, predictor) if alpha_0 < 1 else 0.0
        total += diffusion_term(family, source, predictor) if alpha_0 > 0 else 0.0
        if reaches:
            assert total == pytest.approx(source.entropy, rel=1e-5)
        else:
            assert total > source.entropy + 0.05


def test_the_diffusion_term_is_the_sum_over_many_steps() -> None:
    """Discrete time: KL between posteriors, from all masks down to alpha_0, where diffusion hands over."""
    source, family = planted(2, 2, 5), esoteric(0.6, 3)
    predictor = arbitrary(3, 1)
    coarse, fine = (sum_over_steps(family, source, predictor, steps) for steps in (100, 200))
    ours = diffusion_term(family, source, predictor)
    assert coarse > fine > ours
    assert 2 * fine - coarse == pytest.approx(ours, rel=1e-3)


def test_without_diffusion_it_is_ar() -> None:
    """alpha_0 = 0: all masked, left to right, each token predicted from those before it; nothing drawn."""
    family, ar = esoteric(0.0, 6), get_family("ar", vocab_size=6)
    assert family.bound == "exact"
    table = torch.randn(6, 6, generator=generator(), dtype=torch.float64)
    x0 = torch.randint(5, (3, 7), generator=generator(1))
    shifted = ar.corrupt(x0, torch.zeros(3), generator())
    expected = ar.token_bound(table[shifted], x0, shifted, torch.zeros(3))

    def model(ids: Tensor, noise: Tensor, positions: Tensor, layout: Doubled) -> Tensor:
        assert layout == Doubled(1)
        assert torch.equal(positions, torch.arange(7).repeat(2).expand(3, -1))
        assert (ids[:, :7] == 5).all()
        return table[torch.cat([ids[:, :1], ids[:, 7:-1]], dim=1)]

    noised = family.evaluation_batch(x0, torch.rand(3, generator=generator()), generator(3))
    assert torch.equal(noised.x0, x0)
    torch.testing.assert_close(family.sequence_bound(model, noised), expected.mean(-1), rtol=1e-7, atol=0)
    nats = family.token_loss(table[shifted], x0, noised.xt, noised.t)
    torch.testing.assert_close(nats, expected, rtol=1e-12, atol=0)


def test_without_a_sequential_part_the_integrand_is_that_of_masked() -> None:
    x0 = torch.randint(NUM_IDS, (4, 6), generator=generator())
    t = torch.rand(4, generator=generator(1), dtype=torch.float64)
    logits = torch.randn(4, 6, NUM_IDS + 1, generator=generator(2), dtype=torch.float64)
    for objective in ("nelbo", "low_variance"):
        ours = esoteric(1.0, objective=objective)
        theirs = get_family("masked", vocab_size=NUM_IDS + 1, objective=objective)
        xt = ours.corrupt(x0, t, generator(3))
        assert torch.equal(xt, theirs.corrupt(x0, t, generator(3)))
        assert torch.equal(ours.token_loss(logits, x0, xt, t), theirs.token_loss(logits, x0, xt, t))
        assert torch.equal(ours.token_bound(logits, x0, xt, t), theirs.token_bound(logits, x0, xt, t))


@given(rows=st.integers(2, 30), length=st.integers(2, 9), alpha_0=st.floats(0.05, 0.95))
@settings(max_examples=30, deadline=None)
def test_a_training_batch_holds_both_terms_in_reading_order(rows: int, length: int, alpha_0: float) -> None:
    family = esoteric(alpha_0)
    x0 = torch.randint(NUM_IDS, (rows, length), generator=generator(rows))
    noised = family.training_batch(x0, generator(1), 0.0)
    order = noised.extra["order"]
    assert torch.equal(order.sort(dim=1).values, torch.arange(length).expand(rows, -1))
    assert torch.equal(noised.x0, x0.gather(1, order))
    masked = noised.xt == family.mask_id
    assert torch.equal(torch.where(masked, noised.x0, noised.xt), noised.x0)
    assert (masked[:, 1:] >= masked[:, :-1]).all(), "clean tokens come first"
    sequential = noised.t == 0
    assert int((~sequential).sum()) == min(max(round(rows / 2), 1), rows - 1)
    for row in sequential.nonzero().flatten().tolist():
        places = order[row][masked[row]]
        assert torch.equal(places, places.sort().values), "masked tokens from left to right"
    assert noised.weight is not None
    for part in (sequential, ~sequential):
        assert float(noised.weight[part].sum()) == pytest.approx(rows), "each term is a mean over its rows"


def test_the_loss_is_the_sum_of_both_means() -> None:
    family = esoteric(0.5)
    model = network(family)
    x0 = torch.randint(NUM_IDS, (9, 6), generator=generator())
    noised = family.training_batch(x0, generator(1), 0.0)
    total = float(family.training_loss(model, noised).detach()) / x0.numel()
    means = []
    for part in (noised.t > 0, noised.t == 0):
        rows = noised.rows(part)
        ids, view = family.view(rows)
        logits = model(ids, torch.zeros(len(rows)), **view)
        means.append(family.token_loss(logits, rows.x0, rows.xt, rows.t).mean().item())
    assert total == pytest.approx(sum(means), rel=1e-6)
    cut = sum(
        float(family.training_loss(model, noised.rows(slice(i, i + 2))).detach()) for i in range(0, 9, 2)
    )
    assert cut / x0.numel() == pytest.approx(total, rel=1e-6), "however the batch is cut"


def test_tokens_are_blind_to_what_comes_later_in_reading_order() -> None:
    family = esoteric(0.5)
    model = network(family)
    x0 = torch.randint(NUM_IDS, (1, 6), generator=generator())
    order = torch.tensor([[4, 1, 0, 2, 3, 5]])
    xt = torch.cat([x0.gather(1, order)[:, :2], torch.full((1, 4), family.mask_id)], dim=1)

    def logits(clean: Tensor, t: float) -> Tensor:
        ids, view = family.view(Noised(clean, xt, torch.tensor([t]), extra={"order": order}))
        return model(ids, torch.zeros(1), **view)

    read = x0.gather(1, order)
    for changed in range(6):
        other = read.clone()
        other[0, changed] = (other[0, changed] + 1) % NUM_IDS
        same = (logits(other, 0.0) == logits(read, 0.0)).all(-1)[0]
        assert same[: changed + 1].all()
        assert not same[changed + 1 :].any()
        assert torch.equal(logits(other, 0.5), logits(read, 0.5)), "diffusion sees no clean copy"


@pytest.mark.parametrize("alpha_0", [0.0, 0.5, 1.0])
def test_cached_sampling_is_exact(alpha_0: float) -> None:
    family = esoteric(alpha_0)
    model = network(family)

    def plain(ids: Tensor, noise: Tensor, positions: Tensor) -> Tensor:
        return model(ids, noise, positions=positions)

    with torch.no_grad():
        cached, anew = (family.sample(m, (4, 6), 5, generator(7)) for m in (model, plain))
    assert torch.equal(cached, anew)
    assert int(cached.max()) < family.mask_id


@pytest.mark.parametrize("alpha_0", [0.0, 0.5, 1.0])
def test_samples_follow_the_planted_distribution(alpha_0: float) -> None:
    source, family, count = planted(3, 2, 8), esoteric(alpha_0, 4), 4000
    predictor = best(source)

    def model(ids: Tensor, noise: Tensor, positions: Tensor) -> Tensor:
        visible = torch.full((len(ids), 2), 3).scatter_(1, positions, ids)
        logits = predictor(visible)
        return logits.gather(1, positions[..., None].expand(-1, -1, 4))

    drawn = [family.sample(model, (count // 8, 2), 64, generator(seed)) for seed in range(8)]
    ids = torch.cat(drawn)
    shares = (ids[:, None] == source.ids[None]).all(-1).double().mean(0)
    assert float(shares.sum()) == pytest.approx(1)
    spread = (source.probs * (1 - source.probs) / count).sqrt()
    assert ((shares - source.probs).abs() < 4.5 * spread + 0.01).all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"alpha_0": -0.1}, r"alpha_0 is -0.1, it must lie in \[0, 1\]"),
        ({"alpha_0": 1.5}, r"alpha_0 is 1.5, it must lie in \[0, 1\]"),
        ({"alpha_0": 1.0, "batch_split": 0.5}, "there is one term only and it must be 1 or left out"),
        ({"alpha_0": 0.5, "batch_split": 1.0}, r"both terms need rows: it must lie in \(0, 1\)"),
        ({"block_size": 4}, "family 'esoteric' has no option 'block_size'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        get_family("esoteric", vocab_size=8, **options)


def test_work_is_what_its_rows_cost() -> None:
    """Diffusion rows cost what ar does, sequential ones what blocks of one token do."""
    ar, block = get_family("ar", vocab_size=8), get_family("block", vocab_size=8, block_size=1)
    assert esoteric(1.0).work(8) == ar.work(8)
    assert esoteric(0.0).work(8) == block.work(8)
    half = esoteric(0.5).work(8)
    assert half.inputs == 1.5
    assert half.pairs == (ar.work(8).pairs + block.work(8).pairs) / 2  # type: ignore[operator]
