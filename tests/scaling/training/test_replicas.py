"""Replicas trained as one stacked network: each is the run that its seed would be alone."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from scaling.families.base import Noised
from scaling.models import head
from scaling.models.replicas import affine, padded_positions, stack
from scaling.randomness import generator_for
from scaling.spec import RunSpec
from scaling.training import RunStatus, load_run, loop
from scaling.training.optimizer import flatten
from tests.scaling.toys import ToyData
from tests.scaling.training.test_loop import ALL, FEW, Stopper, run, spec_of, weights


def losses_and_gradients(spec: RunSpec, replicas: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """In float64 at random weights: the loss (R,) and the gradient (R, P) of these replicas of `spec`."""
    family, alone = spec.build_family(), [spec.alone(i) for i in replicas]
    networks = [family.build_model(spec.size, generator_for(one.seed, "w")).double() for one in alone]
    flat = flatten(*networks)
    for one, row in zip(alone, flat.view(len(alone), -1), strict=True):
        row.copy_(0.5 * torch.randn(row.shape, generator=generator_for(one.seed, "v"), dtype=torch.float64))
    model = networks[0] if len(networks) == 1 else stack(networks, flat)
    batches = []
    for one in alone:
        x0 = torch.from_numpy(ToyData().train_batch(0, 8, one.data.context_length, one.seed))
        batches.append(family.training_batch(x0, generator_for(one.seed, "noise"), 0.3))
    loss = family.training_loss(model, Noised.join(batches))
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss.sum(), parameters, allow_unused=True, materialize_grads=True)
    rows = [g.reshape(len(alone), -1) for g in gradients]
    return loss.detach().reshape(-1), torch.cat(rows, dim=1)


@pytest.mark.parametrize("chunk", [head.CHUNK_ELEMENTS, 100], ids=["one product", "replica by replica"])
@pytest.mark.parametrize("name", ALL)
def test_stacked_equals_alone(name: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and gradient to 1e-10 in float64, at weights that leave nothing zero."""
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", chunk)
    spec = spec_of(name, replicas=3)
    losses, gradients = losses_and_gradients(spec, [0, 1, 2])
    assert losses.unique().numel() == 3
    for i in range(3):
        loss, gradient = losses_and_gradients(spec, [i])
        torch.testing.assert_close(losses[i : i + 1], loss, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(gradients[i : i + 1], gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ALL)
def test_a_replica_ends_as_the_run_alone(name: str, tmp_path: Path) -> None:
    """Bound, weights and clipping to float32's tolerance, with weights averaged."""
    spec = spec_of(name, replicas=2, optimizer={"ema_decay": 0.9, "clip_norm": 0.1})
    result, records = run(spec, tmp_path / "both", samples=1)
    assert [one.seed for one in result.replicas] == [spec.seed, spec.seed + 1]
    for i, one in enumerate(result.replicas):
        alone, _ = run(spec.alone(i), tmp_path / f"{i}")
        assert one.status is RunStatus.FINISHED
        assert one.bound == pytest.approx(alone.bound, abs=1e-4)
        assert one.bound_last == pytest.approx(alone.bound_last, abs=1e-4)
        assert one.bound_se == pytest.approx(alone.bound_se, abs=1e-4)
        # Adam makes a whole step of a gradient that is all rounding, so not each weight by itself
        apart = weights(spec, tmp_path / "both")[i] - weights(spec.alone(i), tmp_path / f"{i}")
        assert float(apart.abs().mean()) < 1e-4
    bounds = [one.bound for one in result.replicas if one.bound is not None]
    assert result.bound == pytest.approx(sum(bounds) / 2)
    assert "mean of 2 replicas" in result.sentence
    assert [r["kind"] for r in records][-1] == "samples"


@pytest.mark.parametrize("name", FEW)
def test_resumed_equals_uninterrupted(name: str, tmp_path: Path) -> None:
    spec = spec_of(name, replicas=3, optimizer={"ema_decay": 0.9})
    straight, _ = run(spec, tmp_path / "straight")
    stopped, _ = run(spec, tmp_path / "1", should_stop=Stopper(7))
    assert stopped.status is RunStatus.PREEMPTED
    resumed, _ = run(spec, tmp_path / "2", resume_from=[tmp_path / "1"])
    assert [one.bound for one in resumed.replicas] == [one.bound for one in straight.replicas]
    assert torch.equal(weights(spec, tmp_path / "2"), weights(spec, tmp_path / "straight"))


@pytest.mark.parametrize("size", [3, 1])
def test_micro_batches_change_nothing_but_rounding(size: int, tmp_path: Path) -> None:
    spec = spec_of("masked", replicas=2)
    whole, _ = run(spec, tmp_path / "whole")
    cut, _ = run(spec, tmp_path / "cut", micro_batch_size=size)
    for one, other in zip(whole.replicas, cut.replicas, strict=True):
        assert one.bound == pytest.approx(other.bound, abs=1e-4)


def test_one_that_diverges_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = loop._prepare

    def spoilt(*args, **options):  # type: ignore[no-untyped-def]
        parts = prepare(*args, **options)
        with torch.no_grad():
            parts.optimizer.flat[1] = math.inf
        return parts

    spec = spec_of("uniform", replicas=3)
    straight, _ = run(spec, tmp_path / "straight")
    monkeypatch.setattr(loop, "_prepare", spoilt)
    result, records = run(spec, tmp_path / "spoilt", during=3)
    assert result.status is RunStatus.FINISHED
    assert [str(one.status) for one in result.replicas] == ["finished", "diverged", "finished"]
    assert "mean of 2 replicas, 1 diverged" in result.sentence
    for i in (0, 2):
        assert result.replicas[i].bound == straight.replicas[i].bound
    assert result.replicas[1].bound is None
    assert all(math.isfinite(r["loss"]) for r in records if r["kind"] == "train")
    assert all(math.isfinite(r["held_out_loss"]) for r in records if r["kind"] == "held_out")


def test_when_all_diverge_the_run_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop.FlatAdamW, "gradient_norms", lambda self: [math.inf, math.nan])
    result, _ = run(spec_of("ar", replicas=2), tmp_path)
    assert result.status is RunStatus.DIVERGED
    assert [str(one.status) for one in result.replicas] == ["diverged", "diverged"]


def test_each_replica_can_be_loaded(tmp_path: Path) -> None:
    spec = spec_of("masked", replicas=2)
    run(spec, tmp_path)
    for i in range(2):
        loaded = load_run(tmp_path, spec=spec, replica=i)
        assert torch.equal(flatten(loaded.model), weights(spec, tmp_path)[i])
        assert loaded.spec == spec.alone(i)


def test_the_key_says_how_many() -> None:
    spec = spec_of("ar")
    assert spec_of("ar", replicas=1).key == spec.key
    assert "replicas" not in spec.to_dict()
    both = spec_of("ar", replicas=2)
    assert both.key != spec.key
    assert RunSpec.from_dict(both.to_dict()) == both
    assert both.alone(0) == spec


def test_positions_are_filled_up_to_the_largest_share() -> None:
    chosen = torch.tensor([[True, False, True], [False, True, False], [False, False, False]])
    assert padded_positions(chosen, 3).view(3, 2).tolist() == [[0, 2], [4, 3], [6, 7]]


@pytest.mark.parametrize(("rows", "inner", "outer"), [(5, 3, 40), (40, 3, 5), (7, 30, 30), (1, 2, 2)])
@pytest.mark.parametrize("biased", [True, False])
def test_an_affine_map_of_replicas_is_one_of_each(rows: int, inner: int, outer: int, biased: bool) -> None:
    """Values and gradients, whichever orientation its products are computed in."""
    draw = torch.Generator().manual_seed(rows)
    shapes = [(3 * rows, inner), (3, outer, inner), (3, outer)]
    inputs = [torch.randn(s, generator=draw, dtype=torch.float64, requires_grad=True) for s in shapes]
    x, weight, bias = inputs

    def alone() -> torch.Tensor:
        parts = zip(x.chunk(3), weight, bias, strict=True)
        return torch.cat([F.linear(own, w, b if biased else None) for own, w, b in parts])

    stacked = affine(x, weight, bias if biased else None)
    torch.testing.assert_close(stacked, alone(), rtol=1e-12, atol=1e-12)
    used = inputs if biased else inputs[:2]
    for one, other in zip(
        torch.autograd.grad(stacked.sin().sum(), used),
        torch.autograd.grad(alone().sin().sum(), used),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_bfloat16_replicas_are_close(tmp_path: Path) -> None:
    bounds = []
    for precision in ("float32", "bfloat16"):
        result, _ = run(spec_of("uniform", replicas=2, precision=precision), tmp_path / precision)
        bounds.append([one.bound for one in result.replicas])
    assert bounds[1] == pytest.approx(bounds[0], rel=0.03)
