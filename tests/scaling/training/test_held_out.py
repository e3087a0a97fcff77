"""Held-out losses along a run: on a small text, paid for beside the training, and without an effect on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from scaling.training import bounds
from tests.scaling.toys import toy_spec
from tests.scaling.training.test_loop import ALL, FEW, Stopper, curve, run, spec_of, weights


def held_out(records: list[dict[str, Any]]) -> list[tuple[float, ...]]:
    names = ("step", "held_out_loss", "held_out_loss_se", "tokens", "flops")
    return [tuple(r[n] for n in names) for r in records if r["kind"] == "held_out"]


@pytest.mark.parametrize("name", ALL)
def test_held_out_losses_along_the_run_change_nothing_else(name: str, tmp_path: Path) -> None:
    spec = spec_of(name)
    plain, without = run(spec, tmp_path / "plain", checkpoint_every_s=0)
    result, records = run(
        spec, tmp_path / "measured", checkpoint_every_s=0, during=5, during_sequences=3, micro_batch_size=8
    )
    assert (result.bound, result.bound_se) == (plain.bound, plain.bound_se)
    assert curve(records) == curve(without)
    assert torch.equal(weights(spec, tmp_path / "measured"), weights(spec, tmp_path / "plain"))
    points = held_out(records)
    assert [p[0] for p in points] == [1, 3, 8, 20], "even on a logarithmic scale, each step once"
    assert all(0 < p[1] < 4 and p[2] >= 0 for p in points)
    assert points[-1][3:] == pytest.approx((spec.tokens, spec.training_flops()))
    assert held_out(without) == []


def test_a_held_out_loss_is_the_bound_on_the_small_text(tmp_path: Path) -> None:
    """With as many sequences as the final bound has, the last one is that bound."""
    spec = toy_spec("uniform")
    result, records = run(spec, tmp_path, during=1, during_sequences=spec.evaluation.sequences)
    assert held_out(records)[0][:3] == (20, result.bound, result.bound_se)


@pytest.mark.parametrize("name", FEW)
def test_a_resumed_run_neither_loses_nor_repeats_a_held_out_loss(name: str, tmp_path: Path) -> None:
    spec, how = spec_of(name), {"during": 8, "during_sequences": 4, "checkpoint_every_s": 0}
    straight, records = run(spec, tmp_path / "straight", **how)
    assert len(held_out(records)) == 6
    for stopped in (1, 5, 11, 19):  # at a point and between two
        first, before = run(spec, tmp_path / f"{stopped}", should_stop=Stopper(stopped), **how)
        result, after = run(spec, tmp_path / f"{stopped}-on", resume_from=[tmp_path / f"{stopped}"], **how)
        assert held_out(before) + held_out(after) == held_out(records)
        assert result.bound == straight.bound
        assert result.evaluation_s > first.evaluation_s, "the costs of earlier attempts are kept"
        assert result.evaluation_flops == pytest.approx(straight.evaluation_flops)


def test_held_out_losses_are_paid_for_beside_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each evaluation takes a minute on this clock, everything else nothing to speak of."""
    spec, real, now = toy_spec("masked"), bounds.estimate_bound, 0.0

    def slow(*args: Any, **options: Any) -> Any:
        nonlocal now
        now += 60
        return real(*args, **options)

    def clock() -> float:
        nonlocal now
        now += 1e-3
        return now

    monkeypatch.setattr(bounds, "estimate_bound", slow)
    monkeypatch.setattr("scaling.training.loop.time.perf_counter", clock)
    result, records = run(spec, tmp_path, during=3, during_sequences=4)
    assert result.train_s < 1
    assert result.evaluation_s == pytest.approx(240, abs=1)
    assert result.evaluation_flops == spec.evaluation_flops(3 * 4 + 16)
    assert result.tokens_per_s == pytest.approx(spec.tokens / result.train_s)
    training = {r["step"]: r for r in records if r["kind"] == "train"}
    assert all(r["tokens_per_s"] > spec.data.context_length * 8 / 1 for r in training.values())
    assert training[3]["elapsed_s"] == pytest.approx(60, abs=1), "before the point of its own step"
    left = {step: round(training[step]["evaluation_left_s"]) for step in (1, 3, 5, 19, 20)}
    assert left == {1: 0, 3: 120, 5: 60, 19: 60, 20: 0}
    steps = [r["step"] for r in records if r["kind"] == "held_out"]
    assert steps == [1, 4, 20]
    assert [round(r["evaluation_s"]) for r in records if r["kind"] == "held_out"] == [60, 120, 180]
