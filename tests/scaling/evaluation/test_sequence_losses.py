"""Losses of single sequences: they survive a journal, and a damaged record is an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from scaling.evaluation import sequence_losses
from scaling.evaluation.sequence_losses import read_levels, read_sequence_record, sequence_record
from sweeps.attempt.journal import JOURNAL, Journal, last, read
from tests.scaling.toys import toy_spec
from tests.scaling.training.test_loop import run


@pytest.mark.parametrize("shape", [(5,), (3, 7)])
def test_losses_come_back_from_a_journal_in_single_precision(shape: tuple[int, ...], tmp_path: Path) -> None:
    losses = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 2
    with Journal(tmp_path / JOURNAL) as journal:
        journal.append(sequence_record(losses))
    (record,) = read(tmp_path / JOURNAL)
    back = read_sequence_record(record.values)
    assert back.shape == (1, *shape)[-2:]
    np.testing.assert_array_equal(back, losses.numpy().astype("f4").reshape(back.shape))


def test_a_record_longer_than_the_tail_hides_nothing_before_it(tmp_path: Path) -> None:
    with Journal(tmp_path / JOURNAL) as journal:
        journal.append({"kind": "train", "step": 7, "loss": 1.0})
        journal.append(sequence_record(torch.rand(8192)))
    train, newest = last(tmp_path / JOURNAL, kind="train"), last(tmp_path / JOURNAL)
    assert train is not None
    assert train.step == 7
    assert newest is not None
    assert newest.kind == sequence_losses.KIND


def test_the_only_level_of_each_sequence_comes_along(tmp_path: Path) -> None:
    spec = toy_spec("masked", evaluation={"noise_levels": 1})
    _, records = run(spec, tmp_path)
    (record,) = (r for r in records if r["kind"] == sequence_losses.KIND)
    levels = read_levels(record)
    assert levels is not None
    assert sorted(np.ceil(16 * levels)) == list(range(1, 17))
    with pytest.raises(ValueError, match="damaged"):
        read_levels({**record, "shape": [15]})
    assert read_levels(sequence_record(torch.rand(3))) is None


@pytest.mark.parametrize("values", [{}, {"shape": [3], "float32": "AAAA"}, {"shape": [1], "float32": "!"}])
def test_a_damaged_record_is_an_error(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="damaged"):
        read_sequence_record(values)


def test_the_mean_over_a_finished_runs_sequences_is_its_bound(tmp_path: Path) -> None:
    for name, optimizer in (("masked", {}), ("ar", {"ema_decay": 0.9})):
        result, records = run(toy_spec(name, optimizer=optimizer), tmp_path / name)
        (record,) = (r for r in records if r["kind"] == sequence_losses.KIND)
        losses = read_sequence_record(record)
        assert losses.shape == (1, 16)
        assert losses.mean() == pytest.approx(result.bound, rel=1e-6)
