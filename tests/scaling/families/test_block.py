"""The block family: its bound by enumeration, its limits, what clipping leaves alone, and exact caching."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scaling.families import get_family
from scaling.families.base import Noised
from scaling.families.block import Block, clip_ranges, search_clip
from scaling.models import Doubled, Transformer
from tests.scaling.enumeration import Planted, all_sequences, planted, quadrature, sum_over_steps
from tests.scaling.toys import NUM_IDS, toy_size

Predictor = Callable[[Tensor, Tensor], Tensor]
"""(clean tokens before the block (n, c), noisy block (n, b)) -> logits (n, b, V)."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def block(block_size: int, vocab_size: int = NUM_IDS + 1, **options: object) -> Block:
    family = get_family("block", vocab_size=vocab_size, block_size=block_size, **options)
    assert isinstance(family, Block)
    return family


def network(family: Block, seed: int = 0, **size: int) -> Transformer:
    """With random gates and head, so that every token matters; float64."""
    model = family.build_model(toy_size(**size), generator(seed)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator(seed + 1)))
    return model


def best(source: Planted, mask_id: int) -> Predictor:
    def predict(clean: Tensor, noisy: Tensor) -> Tensor:
        state = torch.cat([clean, noisy], dim=1)
        end = state.shape[1]
        fits = (source.ids[None, :, :end] == state[:, None]) | (state[:, None] == mask_id)
        weights = fits.all(-1).double() * source.probs
        logits = torch.zeros(*noisy.shape, mask_id + 1, dtype=torch.float64)
        for i in range(noisy.shape[1]):
            is_token = F.one_hot(source.ids[:, clean.shape[1] + i], source.num_ids).double()
            logits[:, i, :mask_id] = (weights @ is_token).log()
        return logits

    return predict


def arbitrary(vocab: int, seed: int) -> Predictor:
    table = torch.randn(211, vocab, generator=generator(seed), dtype=torch.float64)

    def predict(clean: Tensor, noisy: Tensor) -> Tensor:
        state = torch.cat([clean, noisy], dim=1)
        codes = (state * vocab ** torch.arange(state.shape[1])).sum(-1, keepdim=True)
        return table[(7 * codes + torch.arange(noisy.shape[1])) % 211]

    return predict


def exact_bound(family: Block, source: Planted, predictor: Predictor) -> float:
    """Sum over blocks of E over x_0, block states and time: nats per sequence, no sampling."""
    nodes, weights = quadrature()
    size, total = family.block_size, 0.0
    states = all_sequences(family.vocab_size, size)
    for start in range(0, source.length, size):
        clean, own = source.ids[:, :start], source.ids[:, start : start + size]
        for n in range(len(source.ids)):
            x0 = own[n].expand(len(states), size)
            logits = predictor(clean[n].expand(len(states), start), states)
            reachable = ((states == x0) | (states == family.mask_id)).all(-1)
            masked = (states == family.mask_id).double()
            for t, weight in zip(nodes, weights, strict=True):
                time = t.expand(len(states))
                share = family.noise_share(t)
                mass = (masked * share + (1 - masked) * (1 - share)).prod(-1) * reachable
                nats = family.token_bound(logits, x0, states, time).sum(-1)
                total += float(source.probs[n] * weight * (mass * nats)[mass > 0].sum())
    return total


@pytest.mark.parametrize("block_size", [1, 2, 4])
def test_the_best_predictor_reaches_the_entropy_at_every_block_size(block_size: int) -> None:
    source = planted(2, 4, 3)
    family = block(block_size, 3)
    assert exact_bound(family, source, best(source, 2)) == pytest.approx(source.entropy, rel=1e-5)
    assert exact_bound(family, source, arbitrary(3, 0)) > source.entropy + 0.05


def test_the_bound_is_the_sum_over_many_steps() -> None:
    """Discrete time, T steps a block: KL between the posteriors of truth and guess over all states."""
    source, family = planted(2, 2, 5), block(2, 3)
    predictor = arbitrary(3, 1)
    one_block = lambda states: predictor(states[:, :0], states)  # noqa: E731
    coarse, fine = (sum_over_steps(family, source, one_block, steps) for steps in (100, 200))
    ours = exact_bound(family, source, predictor)
    assert coarse > fine > ours
    assert 2 * fine - coarse == pytest.approx(ours, rel=1e-3)


def test_blocks_of_one_token_are_the_exact_likelihood_of_ar() -> None:
    """A bigram table as the network of both: equal to the last digits, and nothing is drawn."""
    family, ar = block(1, 6), get_family("ar", vocab_size=6)
    assert family.bound == ar.bound == "exact"
    table = torch.randn(6, 6, generator=generator(), dtype=torch.float64)
    x0 = torch.randint(5, (3, 7), generator=generator(1))
    shifted = ar.corrupt(x0, torch.zeros(3), generator())
    expected = ar.token_bound(table[shifted], x0, shifted, torch.zeros(3))

    def model(ids: Tensor, noise: Tensor, layout: Doubled) -> Tensor:
        assert layout == Doubled(1)
        clean = ids[:, 7:]
        assert (ids[:, :7] == 5).all()
        return table[torch.cat([torch.full_like(clean[:, :1], 5), clean[:, :-1]], dim=1)]

    for seed in (0, 1):
        noised = family.evaluation_batch(x0, torch.rand(3, generator=generator(seed)), generator(seed))
        got = family.sequence_bound(model, noised)
        torch.testing.assert_close(got, expected.mean(-1), rtol=1e-7, atol=0)  # logits pass through float32
    noised = family.training_batch(x0, generator(), 0.0)
    nats = family.token_bound(table[shifted], x0, noised.xt, noised.t)
    torch.testing.assert_close(nats, expected, rtol=1e-12, atol=0)


def test_one_block_of_the_whole_context_is_masked() -> None:
    family, masked = block(6), get_family("masked", vocab_size=NUM_IDS + 1, objective="nelbo")
    model = network(family)
    x0 = torch.randint(NUM_IDS, (4, 6), generator=generator(2))
    place = torch.rand(4, generator=generator(3), dtype=torch.float64)
    ours, theirs = (f.evaluation_batch(x0, place, generator(4)) for f in (family, masked))
    assert torch.equal(ours.xt, theirs.xt)
    torch.testing.assert_close(
        family.sequence_bound(model, ours), masked.sequence_bound(model, theirs), rtol=1e-12, atol=0
    )
    assert family.work(6) == masked.work(6)


def test_the_reported_bound_knows_nothing_of_clipping() -> None:
    x0 = torch.randint(NUM_IDS, (4, 8), generator=generator())
    place = torch.rand(4, generator=generator(1), dtype=torch.float64)
    model = network(block(4))
    plain, clipped = block(4), block(4, clip=(0.45, 0.95))
    assert (plain.objective, clipped.objective) == ("nelbo", "clipped")
    values = [f.sequence_bound(model, f.evaluation_batch(x0, place, generator(2))) for f in (plain, clipped)]
    assert torch.equal(*values)


@given(rows=st.integers(1, 40), blocks=st.integers(1, 6), size=st.integers(1, 8), low=st.floats(0.001, 0.4))
@settings(max_examples=30, deadline=None)
def test_training_times_fill_the_range_evenly(rows: int, blocks: int, size: int, low: float) -> None:
    """One level per block, one in each equal slice of the range over all blocks of the batch."""
    family = block(size, clip=(low, 0.9))
    x0 = torch.zeros(rows, blocks * size, dtype=torch.long)
    t = family.training_batch(x0, generator(rows), 0.0).t
    per_block = t.unflatten(1, (blocks, size))
    assert (per_block == per_block[..., :1]).all()
    slices = (per_block[..., 0].flatten() - low) / (0.9 - low) * rows * blocks
    assert (slices.sort().values - torch.arange(rows * blocks) - 0.5).abs().max() <= 0.5 + 1e-9


def test_evaluation_shows_every_block_every_level() -> None:
    family, levels = block(2), 8
    x0 = torch.zeros(3, 10, dtype=torch.long)
    noise_levels = []
    for level in range(levels):
        place = (level + torch.rand(3, generator=generator(9), dtype=torch.float64)) / levels
        noised = family.evaluation_batch(x0, place, generator(level))
        assert ((noised.t > 0) & (noised.t <= 1)).all()
        torch.testing.assert_close(noised.weight, 2 * noised.t.sqrt())
        noise_levels.append(noised.t.sqrt())
    places = torch.stack(noise_levels).sort(dim=0).values
    gaps = places.diff(dim=0)
    torch.testing.assert_close(gaps, torch.full_like(gaps, 1 / levels))


def test_redrawn_masks_lie_in_the_range() -> None:
    family = block(4, clip=(0.45, 0.8), resample=True)
    noised = family.training_batch(torch.zeros(50, 16, dtype=torch.long), generator(), 0.0)
    share = (noised.xt == family.mask_id).unflatten(1, (4, 4)).double().mean(-1)
    assert set(share.unique().tolist()) == {0.5, 0.75}
    with pytest.raises(ValueError, match="no masks of 2 tokens have a share within clip"):
        block(2, clip=(0.6, 0.9), resample=True).training_batch(torch.zeros(9, 4).long(), generator(), 0.0)


def test_the_clip_search_prefers_the_range_of_least_variance() -> None:
    assert len(clip_ranges()) == 36
    family = block(4)
    x0 = torch.randint(NUM_IDS, (512, 8), generator=generator())
    model = network(family)
    ranges = [(1e-3, 1.0), (0.45, 0.95), (0.001, 0.3)]
    variances = search_clip(family, model, [x0], generator(1), ranges)
    assert min(variances, key=variances.__getitem__) == (0.45, 0.95)
    whole, high, low = variances.values()
    assert high < 0.6 * whole < low
    assert search_clip(family, model, [x0], generator(1), ranges) == variances


def test_noisy_tokens_never_see_their_own_answer() -> None:
    """Logits of a block change with earlier clean tokens, not with its own or later ones."""
    family = block(2)
    model = network(family)
    x0 = torch.randint(NUM_IDS, (1, 6), generator=generator())
    xt = torch.where(torch.tensor([[0, 1, 1, 1, 0, 1]]).bool(), family.mask_id, x0)

    def logits(clean: Tensor) -> Tensor:
        ids, view = family.view(Noised(clean, xt, torch.zeros(1)))
        return model(ids, torch.zeros(1), **view)

    before = logits(x0)
    for changed in range(6):
        other = x0.clone()
        other[0, changed] = (other[0, changed] + 1) % NUM_IDS
        same = (logits(other) == before).all(-1)[0]
        first_to_see = 2 * (changed // 2) + 2
        assert same[:first_to_see].all()
        assert not same[first_to_see:].any()


@pytest.mark.parametrize("first_hitting", [False, True])
@pytest.mark.parametrize("block_size", [1, 2, 3, 6])
def test_cached_sampling_is_exact(block_size: int, first_hitting: bool) -> None:
    """A Transformer keeps what it made of finished blocks; a bare function reads everything anew."""
    family = block(block_size)
    model = network(family)
    steps = block_size if first_hitting else 5

    def plain(ids: Tensor, noise: Tensor, layout: Doubled | None = None) -> Tensor:
        return model(ids, noise, layout=layout)

    with torch.no_grad():
        cached, anew = (
            family.sample(m, (4, 6), steps, generator(7), first_hitting=first_hitting) for m in (model, plain)
        )
    assert torch.equal(cached, anew)
    assert int(cached.max()) < family.mask_id


@pytest.mark.parametrize("first_hitting", [False, True])
def test_samples_follow_the_planted_distribution(first_hitting: bool) -> None:
    source, family, count = planted(3, 4, 8), block(2, 4), 4000
    predictor = best(source, 3)

    def model(ids: Tensor, noise: Tensor, layout: Doubled | None = None) -> Tensor:
        if layout is None:
            return predictor(ids[:, :0], ids)
        half = ids.shape[1] // 2
        own = predictor(ids[:, half : 2 * half - 2], ids[:, half - 2 : half])
        return F.pad(own, (0, 0, half - 2, 0))

    steps = 2 if first_hitting else 64
    ids = family.sample(model, (count, 4), steps, generator(), first_hitting=first_hitting)
    shares = (ids[:, None] == source.ids[None]).all(-1).double().mean(0)
    assert float(shares.sum()) == pytest.approx(1)
    spread = (source.probs * (1 - source.probs) / count).sqrt()
    assert ((shares - source.probs).abs() < 4.5 * spread + 0.005).all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"block_size": 0}, "block_size is 0, it must be a positive integer"),
        ({"block_size": 2.0}, "block_size is 2.0, it must be a positive integer"),
        ({"clip": (0.9, 0.2)}, r"clip is \(0.9, 0.2\), it must be two rates with 0 <= low < high <= 1"),
        ({"clip": (0.3, 0.8), "objective": "nelbo"}, "clip and objective 'clipped' go together"),
        ({"objective": "clipped"}, "clip and objective 'clipped' go together"),
        ({"resample": True}, "resample needs clip"),
        ({"clip": (0.3, 0.8), "schedule": "cosine"}, "goes with schedule 'log_linear'"),
        ({"alpha_0": 0.5}, "family 'block' has no option 'alpha_0'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        get_family("block", vocab_size=8, **options)


def test_a_block_size_must_divide_the_context() -> None:
    with pytest.raises(ValueError, match="block_size is 4, it must divide the context of 6 tokens"):
        block(4).check_context(6)


def test_work_counts_the_pairs_of_the_mask() -> None:
    for length, size in itertools.product((4, 8, 12), (1, 2, 4)):
        work = block(size).work(length)
        mask = Doubled(size).mask(length)
        if size == length:
            continue
        assert work.pairs == float(mask.sum())
        assert work.last_pairs == float(mask[:length].sum())
