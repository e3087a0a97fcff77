"""CompleteP's factors: of every parameter, at the base size, and in what a network makes of a text."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from scaling.ladder import Base, Size
from scaling.models.parametrization import STANDARD, Factors, Parametrization
from scaling.models.transformer import build_model
from scaling.randomness import generator_for
from scaling.spec import RunSpec
from tests.scaling.toys import toy_size
from tests.scaling.training.test_loop import ALL, Stopper, run, spec_of, weights

COMPLETE = Parametrization.of(toy_size(hidden=32, num_layers=6), Base(8, 2))
"""mN = 4, mL = 3."""


def test_factors_of_every_kind_of_parameter() -> None:
    """The sheet's table, by hand: mN = 4, mL = 3."""
    matrix = Factors(rate=1 / 4, decay=4.0, eps=1 / 12)
    expected = {
        "blocks.0.qkv.weight": matrix,
        "blocks.5.out.weight": matrix,
        "blocks.10.up.weight": matrix,
        "blocks.0.down.weight": matrix,
        "blocks.0.norm_mlp": Factors(decay=0.0, eps=1 / 12),
        "blocks.0.up.bias": Factors(init=2.0, decay=0.0, eps=1 / 12),
        "modulation.weight": Factors(eps=1 / 12),
        "modulation.bias": Factors(decay=0.0, eps=1 / 12),
        "embedding": Factors(init=2.0, decay=0.0, eps=1 / 4),
        "input_linear.weight": Factors(eps=1 / 4),
        "norm_final": Factors(decay=0.0, eps=1 / 4),
        "head.weight": Factors(eps=1 / 4),
        "head.bias": Factors(decay=0.0),
        "time_in.weight": Factors(),
        "time_out.bias": Factors(decay=0.0),
        "label_vectors": Factors(decay=0.0),
    }
    assert {name: COMPLETE.factors(name) for name in expected} == expected
    assert {STANDARD.factors(name) for name in expected} == {Factors()}
    assert (COMPLETE.branch, COMPLETE.head) == (1 / 3, 1 / 4)


def test_longer_heads_lower_the_attention_scale() -> None:
    """1/sqrt(K) becomes sqrt(K0)/K."""
    size = Size(name="x", hidden=64, num_layers=1, num_heads=4)
    assert Parametrization.of(size, Base(64, 1)).query == 1
    longer = Parametrization.of(size, Base(64, 1, head_dim=4))
    assert longer.query / math.sqrt(16) == pytest.approx(math.sqrt(4) / 16)


@pytest.mark.parametrize("name", ALL)
def test_the_base_size_without_decay_is_the_standard_run(name: str, tmp_path: Path) -> None:
    """At every family, though under a key of its own; the order of parameters changes rounding."""
    spec = spec_of(name, optimizer={"weight_decay": 0.0})
    size = spec.size
    base = {"base_hidden": size.hidden, "base_layers": size.num_layers, "base_head_dim": size.head_dim}
    complete = replace(spec, optimizer=replace(spec.optimizer, parametrization="completep", **base))  # type: ignore[arg-type]
    assert complete.key != spec.key
    results = [run(one, tmp_path / one.key)[0] for one in (spec, complete)]
    assert results[0].bound == pytest.approx(results[1].bound, rel=1e-6)
    networks = [one.build_family().build_model(size, generator_for(0, "w")) for one in (spec, complete)]
    for ours, theirs in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(ours, theirs)


def scaled(name: str, **changes: object) -> RunSpec:
    """A run at mN = 2, mL = 2 and twice the base's head dimension."""
    base = {"base_hidden": 4, "base_layers": 1, "base_head_dim": 2}
    optimizer = {"parametrization": "completep", **base, "clip_norm": 0.1}
    return spec_of(name, optimizer=optimizer, **changes)


@pytest.mark.parametrize("name", ALL)
def test_a_stacked_replica_ends_as_the_run_alone(name: str, tmp_path: Path) -> None:
    spec = scaled(name, replicas=2)
    result, _ = run(spec, tmp_path / "both")
    for i, one in enumerate(result.replicas):
        alone, _ = run(spec.alone(i), tmp_path / f"{i}")
        assert one.bound == pytest.approx(alone.bound, abs=1e-4)


@pytest.mark.parametrize("name", ["gaussian", "masked"])
def test_resumed_equals_uninterrupted(name: str, tmp_path: Path) -> None:
    spec = scaled(name)
    straight, _ = run(spec, tmp_path / "straight")
    run(spec, tmp_path / "1", should_stop=Stopper(7))
    resumed, _ = run(spec, tmp_path / "2", resume_from=[tmp_path / "1"])
    assert resumed.bound == straight.bound
    assert torch.equal(weights(spec, tmp_path / "2"), weights(spec, tmp_path / "straight"))


def test_initial_scales() -> None:
    """Embedding and biases keep the base's; matrices fall as 1/sqrt(width)."""
    size = Size(name="x", hidden=64, num_layers=3, num_heads=4, cond_dim=8, time_features=8)
    parametrization = Parametrization.of(size, Base(16, 1))
    model = build_model(
        size, 50, causal=False, generator=torch.Generator().manual_seed(0), parametrization=parametrization
    )
    limits = {
        "embedding": 1 / math.sqrt(16),
        "blocks.1.up.bias": 1 / math.sqrt(16),
        "blocks.1.down.bias": 1 / math.sqrt(4 * 16),
        "blocks.1.qkv.weight": 1 / math.sqrt(64),
        "blocks.1.down.weight": 1 / math.sqrt(4 * 64),
        "time_out.weight": 1 / math.sqrt(8),
    }
    for name, limit in limits.items():
        assert 0.9 * limit < float(model.get_parameter(name).detach().abs().max()) <= limit


@torch.no_grad()
def test_outputs_are_those_of_scaled_weights() -> None:
    """Branches at 1/mL and queries at their factor, as gates and query rows scaled by hand would give; logits
    without bias at 1/mN."""
    size = toy_size(hidden=16, num_layers=2)
    generator = torch.Generator().manual_seed(1)
    parametrization = Parametrization.of(size, Base(4, 1, head_dim=2))
    model, plain = (
        build_model(size, 7, causal=False, generator=generator, parametrization=one).double()
        for one in (parametrization, STANDARD)
    )
    for parameter in model.parameters():
        parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    plain.load_state_dict(model.state_dict())
    assert isinstance(plain.modulation, nn.Linear)
    for weights_of_plain in (plain.modulation.weight, plain.modulation.bias):
        parts = weights_of_plain.unflatten(0, (-1, size.hidden))[:-2].unflatten(0, (-1, 6))
        parts[:, 2] /= 2
        parts[:, 5] /= 2
    for block in plain.blocks:
        block.qkv.weight[: size.hidden] *= math.sqrt(2 / size.head_dim)
    plain.head.weight /= 4
    ids, noise = torch.arange(7).repeat(2, 1), torch.tensor([0.3, 0.8])
    torch.testing.assert_close(model(ids, noise), plain(ids, noise), rtol=1e-12, atol=1e-12)
