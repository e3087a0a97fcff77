"""Runs with labels: they start like runs without, repeat exactly, and say what the labels told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scaling.labels import Labels
from scaling.randomness import generator_for
from scaling.training import TrainResult, train
from scaling.training.labels import with_null
from tests.scaling.toys import NUM_IDS, ToyData, toy_size, toy_spec
from tests.scaling.training.test_loop import ALL, Stopper, spec_of, weights

LABELS = Labels(of="topic", classes=NUM_IDS)
FEW = ["ar", "masked", "esoteric-half", "gaussian"]


class LabelledToy(ToyData):
    """The label of a text is its last token."""

    def train_labels(
        self, first_sequence: int, count: int, context_length: int, seed: int, labels: Labels
    ) -> np.ndarray:
        numbers = range(first_sequence, first_sequence + count)
        return np.array([self._sequence(seed, n, context_length)[-1] for n in numbers])

    def heldout_labels(self, count: int, context_length: int, labels: Labels) -> np.ndarray:
        return self.heldout(count, context_length)[:, -1]


def run(spec: Any, folder: Path, **options: Any) -> tuple[TrainResult, list[dict[str, Any]]]:
    records: list[dict[str, Any]] = []
    return train(spec, LabelledToy(), folder, log=records.append, **options), records


def losses(records: list[dict[str, Any]]) -> list[float]:
    return [r.get("loss", r.get("biased_loss")) for r in records if r["kind"] == "train"]


@pytest.mark.parametrize("name", ALL)
def test_a_run_with_labels_starts_like_one_without(name: str, tmp_path: Path) -> None:
    """Labels are 0 at first: the first losses are equal to the bit, later ones are not."""
    plain = losses(run(spec_of(name), tmp_path / "plain")[1])
    labelled = losses(run(spec_of(name, labels=LABELS), tmp_path / "labelled")[1])
    assert labelled[0] == plain[0]
    assert labelled != plain


@pytest.mark.parametrize("name", FEW)
def test_resumed_and_cut_otherwise_it_is_the_same_run(name: str, tmp_path: Path) -> None:
    spec = spec_of(name, labels=LABELS)
    often = {"checkpoint_every_s": 0.0}
    whole, _ = run(spec, tmp_path / "whole", **often)
    run(spec, tmp_path / "one", should_stop=Stopper(7))
    parts, _ = run(spec, tmp_path / "two", resume_from=[tmp_path / "one"], **often)
    assert (parts.bound, parts.loss_with_label) == (whole.bound, whole.loss_with_label)
    torch.testing.assert_close(
        weights(spec, tmp_path / "two"), weights(spec, tmp_path / "whole"), rtol=0, atol=0
    )
    cut, _ = run(spec, tmp_path / "cut", micro_batch_size=3)
    assert cut.loss_with_label == pytest.approx(whole.loss_with_label, abs=1e-4)


@pytest.mark.parametrize("name", FEW)
def test_the_leak_is_the_difference_of_two_bounds(name: str, tmp_path: Path) -> None:
    """A label that gives the last token away lowers the bound; the run's loss is the one without."""
    size = toy_size(hidden=32, cond_dim=16)
    rate, text = {"learning_rate": 2e-2}, {"sequences": 256, "noise_levels": 8}
    spec = spec_of(name, labels=LABELS, sequences=400 * 8, size=size, optimizer=rate, evaluation=text)
    result, records = run(spec, tmp_path)
    assert result.bound is not None
    assert result.loss_with_label is not None
    assert result.label_leak == pytest.approx(result.bound - result.loss_with_label, abs=1e-12)
    assert result.label_leak_se is not None
    assert result.label_leak > 3 * result.label_leak_se > 0
    assert result.label_cost is not None
    assert 0 < result.label_cost <= np.log(NUM_IDS) / 6 + 1e-12
    (record,) = (r for r in records if r["kind"] == "bound")
    assert record["label_leak"] == result.label_leak


def test_a_run_without_labels_reports_no_leak(tmp_path: Path) -> None:
    result, records = run(toy_spec(), tmp_path)
    assert result.label_leak is result.loss_with_label is None
    assert all("label_leak" not in record for record in records)


@pytest.mark.parametrize("name", ALL)
def test_parameters_are_counted_and_flops_unchanged(name: str) -> None:
    """A label is looked up, not multiplied."""
    spec, plain = spec_of(name, labels=LABELS), spec_of(name)
    model = spec.build_family().build_model(spec.size, generator_for(0, "x"))
    assert sum(p.numel() for p in model.parameters()) == spec.param_count()
    assert spec.param_count() == plain.param_count() + (NUM_IDS + 1) * spec.size.cond_dim
    assert spec.param_count("non_embedding") == plain.param_count("non_embedding")
    assert spec.training_flops() == plain.training_flops()


def test_a_tenth_of_the_labels_is_null_whatever_came_before() -> None:
    spec = toy_spec(labels=LABELS)
    labels = torch.zeros(1000, dtype=torch.long)
    null = torch.cat([with_null(labels, spec, step) == NUM_IDS for step in range(20)])
    # 20,000 draws of probability 0.1: five standard errors
    assert abs(float(null.double().mean()) - 0.1) < 5 * (0.09 / 20000) ** 0.5
    assert torch.equal(with_null(labels, spec, 3), with_null(labels, spec, 3))
    assert not torch.equal(with_null(labels, spec, 3), with_null(labels, spec, 4))
