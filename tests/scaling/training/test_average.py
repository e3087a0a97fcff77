"""The moving average of the weights: it changes nothing else, survives interruptions, and is used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from scaling.evaluation import estimate_bound
from scaling.evaluation.samples import sample_ids
from scaling.randomness import generator_for
from scaling.spec import RunSpec
from scaling.training import TrainResult, load_run, train
from scaling.training.checkpoint import newest_checkpoint
from scaling.training.optimizer import WeightAverage
from tests.scaling.toys import ToyData, toy_spec

FAMILIES = ["masked", "uniform", "gaussian"]
"""With one group of parameters, with a time, and with parameters of a rate of their own."""


def averaged(name: str = "masked", decay: float = 0.8, **changes: Any) -> RunSpec:
    spec = toy_spec(name, **changes)
    return replace(spec, optimizer=replace(spec.optimizer, ema_decay=decay))


def run(spec: RunSpec, folder: Path, **options: Any) -> tuple[TrainResult, list[dict[str, Any]]]:
    records: list[dict[str, Any]] = []
    return train(spec, ToyData(), folder, log=records.append, **options), records


def saved(spec: RunSpec, *folders: Path) -> dict[str, Any]:
    state, _ = newest_checkpoint(folders, spec.key)
    assert state is not None
    return state


def test_the_initial_weights_are_forgotten_early() -> None:
    """Against weights written out: each value's share is what later steps leave of it."""
    values = torch.randn(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    average = WeightAverage(values[:1], 0.3)
    for step, value in enumerate(values[1:], start=1):
        average.update(value[None], step)
    kept = [2 / 11, 3 / 12, 0.3, 0.3, 0.3]
    shares = [
        torch.tensor([1.0, *(1 - d for d in kept)])[i] * torch.tensor(kept[i:]).prod() for i in range(6)
    ]
    expected = sum(float(share) * value for share, value in zip(shares, values, strict=True))
    assert float(average.values[0]) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_it_changes_nothing_of_the_training(name: str, tmp_path: Path) -> None:
    spec, plain = averaged(name), toy_spec(name)
    with_average, records = run(spec, tmp_path / "average", during=4, during_sequences=3)
    without, expected = run(plain, tmp_path / "plain", during=4, during_sequences=3)

    def curve(records: list[dict[str, Any]]) -> list[Any]:
        return [(r["step"], r.get("loss"), r.get("held_out_loss")) for r in records if "tokens" in r]

    assert curve(records) == curve(expected)
    assert with_average.bound_last == without.bound
    assert (without.weights, without.bound_last, without.bound_average) == ("last", None, None)
    states = saved(spec, tmp_path / "average"), saved(plain, tmp_path / "plain")
    assert torch.equal(states[0]["parameters"], states[1]["parameters"])
    assert states[0].keys() - states[1].keys() == {"average"}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_resumed_run_has_the_same_average(name: str, tmp_path: Path) -> None:
    spec = averaged(name)
    straight, _ = run(spec, tmp_path / "straight")
    polls = iter(range(1, 100))
    options: dict[str, Any] = {"should_stop": lambda: "enough" if next(polls) == 9 else None}
    run(spec, tmp_path / "first", **options)
    result, _ = run(spec, tmp_path / "second", resume_from=[tmp_path / "first"])
    assert (result.bound_last, result.bound_average) == (straight.bound_last, straight.bound_average)
    average = saved(spec, tmp_path / "second")["average"]
    assert torch.equal(average, saved(spec, tmp_path / "straight")["average"])


@pytest.mark.parametrize(("learning_rate", "lower"), [(0.05, "average"), (3e-4, "last")])
def test_the_lower_bound_is_reported_and_both_are_logged(
    learning_rate: float, lower: str, tmp_path: Path
) -> None:
    """Steps that are too large are averaged out; of steps that are too small the last is the best."""
    how = {"schedule": "constant", "learning_rate": learning_rate}
    spec = averaged(decay=0.95, optimizer=how, sequences=8 * 150, evaluation={"sequences": 64})
    result, records = run(spec, tmp_path)
    bounds = {"last": result.bound_last, "average": result.bound_average}
    assert result.weights == lower == min(bounds, key=lambda name: bounds[name] or 0.0)
    assert result.bound == bounds[lower]
    assert f"{'moving average of the' if lower == 'average' else 'last'} weights" in result.sentence
    record = records[-1]
    names = ("bound", "bound_last", "bound_average", "weights")
    assert [record[name] for name in names] == [getattr(result, name) for name in names]
    assert result.evaluation_flops == 2 * spec.evaluation_flops(64)


def test_it_is_what_is_loaded_unless_the_last_weights_are_asked_for(tmp_path: Path) -> None:
    spec = averaged("uniform")
    result, _ = run(spec, tmp_path)
    text = torch.from_numpy(ToyData().heldout(spec.evaluation.sequences, spec.data.context_length))
    for average, expected in ((True, result.bound_average), (False, result.bound_last)):
        _, family, model = load_run(tmp_path, spec=spec, average=average)
        assert estimate_bound(model, family, text, spec.evaluation).value == expected


def test_texts_are_drawn_from_it(tmp_path: Path) -> None:
    how = {"learning_rate": 0.03, "schedule": "constant"}
    spec = averaged("uniform", decay=0.99, sequences=8 * 150, optimizer=how)
    _, records = run(spec, tmp_path, samples=16)
    texts = {}
    for average in (True, False):
        _, family, model = load_run(tmp_path, spec=spec, average=average)
        ids = sample_ids(model, family, 16, 6, generator_for(spec.seed, "samples"))
        texts[average] = [ToyData().decode(row) for row in ids.numpy()]
    assert records[-1]["texts"] == texts[True] != texts[False]
