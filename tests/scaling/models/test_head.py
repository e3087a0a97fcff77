"""From features to a loss: only where it matters, chunk by chunk, and always the same number."""

from __future__ import annotations

import math

import pytest
import torch

from scaling.families import get_family
from scaling.families.base import Family, Noised
from scaling.models import Transformer, build_model, head, head_loss
from scaling.spec import RunSpec
from tests.scaling.toys import NUM_IDS, toy_spec

SPECS = [
    toy_spec("ar"),
    toy_spec("ar", family_options={"start": "none"}),
    toy_spec("masked"),
    toy_spec("masked", family_options={"objective": "nelbo"}),
    toy_spec("uniform"),
    toy_spec("uniform", family_options={"mask_column": True}),
]
IDS = [f"{s.family}-{s.family_options}" for s in SPECS]


def set_up(spec: RunSpec, rows: int = 5) -> tuple[Transformer, Family, tuple[torch.Tensor, ...]]:
    family = spec.build_family()
    generator = torch.Generator().manual_seed(0)
    model = build_model(spec.size, spec.vocab_size, causal=family.causal, generator=generator)
    with torch.no_grad():
        model.head.weight.normal_(generator=generator)
        model.head.bias.normal_(generator=generator)
    x0 = torch.randint(NUM_IDS, (rows, 6), generator=generator)
    t = family.training_times(rows, generator)
    return model, family, (x0, family.corrupt(x0, t, generator), t)


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_equals_the_plain_way(spec: RunSpec) -> None:
    """Every position through the whole head, then the family's loss; value and gradients."""
    model, family, (x0, xt, t) = set_up(spec)
    features = model.trunk(xt, family.conditioning(t))
    plain = family.token_loss(model.predict(features, spec.vocab_size), x0, xt, t).sum()
    ours = family.training_loss(model, Noised(x0, xt, t))
    torch.testing.assert_close(ours, plain, rtol=2e-6, atol=1e-6)  # float32 sums in another order
    for gradients in zip(
        *(torch.autograd.grad(x, list(model.parameters()), retain_graph=True) for x in (ours, plain)),
        strict=True,
    ):
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
@pytest.mark.parametrize("elements", [1, 20, 200])
def test_chunks_change_nothing(spec: RunSpec, elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, family, (x0, xt, t) = set_up(spec)
    parameters = list(model.parameters())

    def run() -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        value = family.training_loss(model, Noised(x0, xt, t))
        return value.detach(), torch.autograd.grad(0.37 * value, parameters)

    whole, whole_gradients = run()
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", elements)
    chunked, chunked_gradients = run()
    torch.testing.assert_close(chunked, whole, rtol=2e-6, atol=1e-6)
    for one, other in zip(chunked_gradients, whole_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_nothing_masked_costs_nothing() -> None:
    model, family, (x0, _, t) = set_up(toy_spec("masked"))
    value = family.training_loss(model, Noised(x0, x0, t))
    assert float(value.detach()) == 0
    gradients = torch.autograd.grad(value, list(model.parameters()))
    assert all((g == 0).all() for g in gradients), "and moves nothing, not even to nan"


def test_large_vocabulary_is_chunked_by_itself() -> None:
    """At V = 50,000 the head runs on some 300 rows at once: value and gradient of the whole."""
    vocab, rows = 50_001, 700
    spec = toy_spec("masked")
    family = get_family("masked", vocab_size=vocab)
    generator = torch.Generator().manual_seed(0)
    model = build_model(spec.size, vocab, causal=False, generator=generator)
    x0 = torch.randint(vocab - 1, (rows, 1), generator=generator)
    xt, t = torch.full_like(x0, vocab - 1), torch.full((rows,), 0.5, dtype=torch.float64)
    features = torch.randn(rows, 1, spec.size.hidden, generator=generator).requires_grad_()
    scored = torch.ones(rows, 1, dtype=torch.bool)
    value = head_loss(model, features, (x0, xt, t), family.token_loss, num_ids=vocab - 1, scored=scored)
    assert head.CHUNK_ELEMENTS // (vocab - 1) < rows
    (gradient,) = torch.autograd.grad(value, features)
    assert float(value.detach()) == pytest.approx(rows * math.log(vocab - 1), rel=1e-5)
    assert (gradient == 0).all(), "the head is zero, so features do not matter yet"


def test_bfloat16_features_give_a_float32_loss() -> None:
    model, family, (x0, xt, t) = set_up(toy_spec("uniform"))
    with torch.autocast("cpu", torch.bfloat16):
        value = family.training_loss(model, Noised(x0, xt, t))
    assert value.dtype == torch.float32
    exact = family.training_loss(model, Noised(x0, xt, t))
    assert float(value.detach()) == pytest.approx(float(exact.detach()), rel=0.02)
