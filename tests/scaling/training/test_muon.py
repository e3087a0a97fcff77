"""Muon against torch's own and against singular values; stacked, resumed, and beside AdamW."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from scaling.ladder import Base
from scaling.models import build_model
from scaling.models.parametrization import Parametrization
from scaling.spec import OptimizerSpec, RunSpec
from scaling.training.muon import Muon, flops_per_step, orthogonal
from scaling.training.optimizer import FlatAdamW
from tests.scaling.toys import toy_size
from tests.scaling.training.test_loop import ALL, Stopper, run, spec_of, weights


def test_singular_values_are_about_one_and_directions_stay() -> None:
    draw = torch.Generator().manual_seed(0)
    matrices = torch.randn(5, 12, 30, generator=draw, dtype=torch.float64)
    matrices *= torch.logspace(-6, 3, 5, dtype=torch.float64)[:, None, None]
    done = orthogonal(matrices)
    values = torch.linalg.svdvals(done)
    assert 0.6 < float(values.min())
    assert float(values.max()) < 1.25
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    inner = left.mT @ done @ right.mT
    torch.testing.assert_close(inner, torch.diag_embed(values.gather(1, order_of(inner, values))))
    assert not orthogonal(torch.zeros(1, 3, 4)).any()


def order_of(inner: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Which of the sorted singular values stands at each place of the diagonal."""
    diagonal = inner.diagonal(dim1=1, dim2=2)
    return (values[:, None] - diagonal[..., None]).abs().argmin(-1)


@pytest.mark.parametrize("shape", [(6, 24), (24, 6), (8, 8)])
def test_equals_torch(shape: tuple[int, int]) -> None:
    """To the rounding of torch's, which iterates in bfloat16."""
    draw = torch.Generator().manual_seed(1)
    start = torch.randn(shape, generator=draw)
    theirs = torch.nn.Parameter(start.clone())
    plain = torch.optim.Muon([theirs], lr=1.0, weight_decay=0.3, adjust_lr_fn="match_rms_adamw")
    values, gradient = start.clone().view(1, -1), torch.zeros(1, start.numel())
    ours = Muon([start.shape], values, gradient, 0.3)
    for step in range(6):
        slope = torch.randn(shape, generator=draw)
        gradient.copy_(slope.view(1, -1))
        theirs.grad = slope
        plain.param_groups[0]["lr"] = rate = 0.1 / (step + 1)
        ours.step(rate)
        plain.step()
    moved, expected = values.view(shape) - start, theirs.detach() - start
    assert float((moved - expected).norm() / expected.norm()) < 0.02


def test_queries_keys_and_values_are_three_matrices() -> None:
    gradient = torch.randn(1, 12 * 4, generator=torch.Generator().manual_seed(2))
    changes = []
    for _ in range(2):
        values = torch.zeros(1, 12 * 4)
        Muon([torch.Size([12, 4])], values, gradient, 0.0).step(1.0)
        changes.append(values.clone())
        gradient[:, 16:32] *= 7
        gradient[:, 16] += 1
    assert torch.equal(changes[0][:, :16], changes[1][:, :16])
    assert torch.equal(changes[0][:, 32:], changes[1][:, 32:])
    assert not torch.equal(changes[0][:, 16:32], changes[1][:, 16:32])


def with_muon(name: str, **changes: object) -> RunSpec:
    return spec_of(name, optimizer={"method": "muon", "clip_norm": 0.1}, **changes)


@pytest.mark.parametrize("name", ALL)
def test_a_stacked_replica_ends_as_the_run_alone(name: str, tmp_path: Path) -> None:
    spec = with_muon(name, replicas=2)
    result, _ = run(spec, tmp_path / "both")
    for i, one in enumerate(result.replicas):
        alone, _ = run(spec.alone(i), tmp_path / f"{i}")
        assert one.bound == pytest.approx(alone.bound, abs=2e-3)  # it makes whole steps of rounding


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("name", ["gaussian", "masked"])
def test_resumed_equals_uninterrupted(name: str, replicas: int, tmp_path: Path) -> None:
    spec = with_muon(name, replicas=replicas)
    straight, _ = run(spec, tmp_path / "straight")
    run(spec, tmp_path / "1", should_stop=Stopper(7))
    resumed, _ = run(spec, tmp_path / "2", resume_from=[tmp_path / "1"])
    assert resumed.bound == straight.bound
    assert torch.equal(weights(spec, tmp_path / "2"), weights(spec, tmp_path / "straight"))


def test_only_the_matrices_of_blocks_move_otherwise() -> None:
    """One step of a fresh network: all else as AdamW moves it."""
    size = toy_size()
    after = []
    for muon in (False, True):
        parametrization = Parametrization.of(size, None, muon=muon)
        model = build_model(
            size, 7, causal=True, generator=torch.Generator().manual_seed(0), parametrization=parametrization
        )
        with torch.no_grad():  # gates that let gradients through
            for parameter in (model.modulation.weight, model.head.weight):
                parameter.normal_(generator=torch.Generator().manual_seed(1))
        flat = FlatAdamW(model, OptimizerSpec(learning_rate=0.1, clip_norm=None))
        ids = torch.arange(7).repeat(2, 1)
        flat.add_gradient(model(ids, torch.zeros(2)).log_softmax(-1)[..., 2].mean(), first=True)
        flat.step(0.1, flat.gradient_norms())
        after.append(dict(model.named_parameters()))
    others = {name for name in after[0] if not torch.allclose(after[0][name], after[1][name])}
    names = [f"{part}.weight" for part in ("qkv", "out", "up", "down")]
    assert others == {f"blocks.{i}.{name}" for i in range(size.num_layers) for name in names}


def test_with_completep_an_update_shrinks_by_the_root_of_the_width() -> None:
    size = toy_size(hidden=32)
    factors = Parametrization.of(size, Base(8, 2), muon=True).factors("blocks.0.up.weight")
    assert (factors.rate, factors.decay, factors.muon) == (0.5, 2.0, True)
    assert not Parametrization.of(size, Base(8, 2), muon=True).factors("head.weight").muon


def test_its_products_are_those_of_the_iterations() -> None:
    """Five of 6 D^3 on four square matrices and of 18 D^3 on two."""
    assert flops_per_step(toy_size(hidden=8, num_layers=3)) == 3 * 300 * 8**3


def test_the_default_leaves_the_key_and_the_rest_changes_it() -> None:
    assert "method" not in spec_of("ar").to_dict()["optimizer"]
    spec = with_muon("ar")
    assert spec.key != spec_of("ar", optimizer={"clip_norm": 0.1}).key
    assert RunSpec.from_dict(spec.to_dict()) == spec
    assert math.isfinite(spec.training_flops())
