"""The shared transformer: rotation, attention layouts, initial values. test_golden.py has its logits."""

from __future__ import annotations

import math

import pytest
import torch

from scaling.models import Transformer, build_model
from scaling.models.transformer import ROPE_BASE, _RotatedHeads, _sinusoids, interleave_heads
from tests.scaling.toys import toy_size

VOCAB = 9


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def busy_model(*, causal: bool = False, seed: int = 0) -> Transformer:
    """In float64, with gates and head off zero, so that everything contributes."""
    model = build_model(toy_size(), VOCAB, causal=causal, generator=generator(seed)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator(seed + 1), dtype=torch.float64)
            parameter.add_(noise, alpha=0.3)
    return model


def rotary_table(length: int, head_dim: int) -> torch.Tensor:
    half = head_dim // 2
    angles = torch.outer(torch.arange(length), ROPE_BASE ** (-torch.arange(half) / half)).double()
    return torch.polar(torch.ones_like(angles), angles)[:, None, None]


def test_rotation_gradient() -> None:
    qkv = torch.randn(2, 3, 3, 2, 4, generator=generator(), dtype=torch.float64, requires_grad=True)
    table = rotary_table(3, 4)
    assert torch.autograd.gradcheck(lambda x: _RotatedHeads.apply(x, table), (qkv,))


def test_rotation_is_the_published_one_after_reordering() -> None:
    """Rotating halves (dimension j with j + K/2) equals ours on interleaved rows; scores agree."""
    heads, dim, length = 2, 6, 5
    rows = torch.randn(heads * dim, 7, generator=generator(), dtype=torch.float64)
    inputs = torch.randn(length, 7, generator=generator(1), dtype=torch.float64)
    halves = (inputs @ rows.T).view(length, heads, dim)
    angles = torch.outer(torch.arange(length), ROPE_BASE ** (-torch.arange(dim // 2) / (dim // 2))).double()
    cos, sin = (f(angles).repeat(1, 2)[:, None] for f in (torch.cos, torch.sin))
    swapped = torch.cat([-halves[..., dim // 2 :], halves[..., : dim // 2]], -1)
    published = halves * cos + swapped * sin

    pairs = (
        (inputs @ interleave_heads(rows, heads).T).view(1, length, 1, heads, dim).expand(-1, -1, 3, -1, -1)
    )
    ours, _, untouched = _RotatedHeads.apply(pairs, rotary_table(length, dim))
    scores = torch.einsum("lhk,mhk->hlm", published, published)
    torch.testing.assert_close(torch.einsum("bhlk,bhmk->hlm", ours, ours), scores)
    assert torch.equal(untouched, pairs[:, :, 2].transpose(1, 2)), "values are not rotated"


def test_scores_depend_on_distance_alone() -> None:
    vector = torch.randn(2, 4, generator=generator(), dtype=torch.float64)
    qkv = vector.expand(1, 9, 1, 2, 4).repeat(1, 1, 3, 1, 1)
    query, key, _ = _RotatedHeads.apply(qkv, rotary_table(9, 4))
    scores = torch.einsum("bhlk,bhmk->hlm", query, key)
    for shift in range(1, 4):
        torch.testing.assert_close(scores[:, shift:, shift:], scores[:, :-shift, :-shift])


def test_causal_attention_sees_nothing_later() -> None:
    ids = torch.randint(VOCAB, (2, 8), generator=generator())
    other = ids.clone()
    other[:, 5:] = (other[:, 5:] + 1) % VOCAB
    noise = torch.tensor([0.1, 2.0], dtype=torch.float64)
    for causal in (True, False):
        model = busy_model(causal=causal)
        same = (model(ids, noise) == model(other, noise)).all(-1)
        assert same[:, :5].all() == causal
        assert not same[:, 5:].any()


def test_each_row_is_computed_alone() -> None:
    model = busy_model()
    ids = torch.randint(VOCAB, (3, 6), generator=generator())
    noise = torch.tensor([0.0, 0.7, 5.0], dtype=torch.float64)
    together = model(ids, noise)
    for row in range(3):
        alone = model(ids[row : row + 1], noise[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], rtol=1e-12, atol=1e-12)
    swapped = model(ids, noise.flip(0))
    assert not torch.allclose(swapped[0], together[0]), "the noise level matters"


def test_lengths_share_one_table_of_angles() -> None:
    """Short after long after short, and another precision: always as if computed afresh."""
    model = busy_model(causal=True)
    ids, noise = torch.randint(VOCAB, (1, 12), generator=generator()), torch.zeros(1, dtype=torch.float64)
    short = model(ids[:, :4], noise)
    whole = model(ids, noise)
    torch.testing.assert_close(model(ids[:, :4], noise), short, rtol=0, atol=0)
    torch.testing.assert_close(whole[:, :4], short, rtol=1e-12, atol=1e-12)
    single = model.float()(ids, noise.float())
    torch.testing.assert_close(single.double(), whole, rtol=1e-3, atol=1e-3)


def test_initial_values() -> None:
    size = toy_size(hidden=16, num_heads=2)
    model = build_model(size, VOCAB, causal=False, generator=generator())
    ids, noise = torch.randint(VOCAB, (2, 5), generator=generator()), torch.tensor([0.3, 1.0])
    assert (model(ids, noise) == 0).all(), "every logit is 0 at the start"
    features = model.trunk(ids, noise)
    plain = torch.nn.functional.layer_norm(model.embedding[ids], (16,))
    torch.testing.assert_close(features, plain, msg="every block is the identity at the start")
    bounds = {"embedding": 16, "time_in.weight": 8, "time_out.bias": 4, "blocks.1.down.weight": 64}
    for name, fan_in in bounds.items():
        values = model.get_parameter(name).detach()
        limit = 1 / math.sqrt(fan_in)
        assert float(values.abs().max()) <= limit
        if values.numel() > 200:
            assert float(values.std()) == pytest.approx(limit / math.sqrt(3), rel=0.1)
    assert all((p == 1).all() for n, p in model.named_parameters() if "norm" in n)


def test_weights_come_from_the_generator_alone() -> None:
    before = torch.random.get_rng_state()
    builds = [
        build_model(toy_size(), VOCAB, causal=c, generator=generator(s))
        for c, s in [(False, 1), (True, 1), (False, 2)]
    ]
    first, causal, other = (torch.cat([p.reshape(-1) for p in m.parameters()]) for m in builds)
    assert torch.equal(first, causal)
    assert not torch.equal(first, other)
    # nn.Module constructors may draw; what they drew is overwritten
    torch.random.set_rng_state(before)


def test_predict_gives_the_first_ids() -> None:
    model = busy_model()
    ids, noise = torch.randint(VOCAB, (2, 5), generator=generator()), torch.zeros(2, dtype=torch.float64)
    logits = model(ids, noise)
    fewer = model.predict(model.trunk(ids, noise), 4)
    torch.testing.assert_close(fewer, logits[..., :4], rtol=1e-12, atol=1e-12)


def test_sinusoids() -> None:
    """Cosines, then sines, of noise times 10000^(-k / half); in float64 whatever comes in."""
    features = _sinusoids(torch.tensor([0.0, 2.0]), 6)
    assert features.dtype == torch.float64
    assert features[0].tolist() == [1, 1, 1, 0, 0, 0]
    angles = [2 * 10000 ** (-k / 3) for k in range(3)]
    expected = [*map(math.cos, angles), *map(math.sin, angles)]
    assert features[1].tolist() == pytest.approx(expected, abs=1e-12)
