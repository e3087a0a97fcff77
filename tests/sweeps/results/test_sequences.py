"""Losses of sequences from the journals of a sweep: of the last attempt, each replica in a row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from scaling.evaluation.sequence_losses import sequence_record
from sweeps.attempt.journal import JOURNAL, Journal, attempt_folder, run_folder
from sweeps.results.sequences import sequence_losses


def frame(*keys: str) -> pd.DataFrame:
    return pd.DataFrame(
        [{"family": "masked", "size": "8x1", "budget": 1e10, "key": key, "loss": 2.0} for key in keys]
    )


def write(folder: Path, key: str, attempt: int, *records: dict) -> None:
    with Journal(attempt_folder(run_folder(folder, "masked", key), attempt) / JOURNAL) as journal:
        for record in records:
            journal.append(record)


def test_every_replica_is_a_row_and_the_last_attempt_counts(tmp_path: Path) -> None:
    losses, levels = torch.rand(2, 9), torch.rand(9)
    write(tmp_path, "one", 1, sequence_record(torch.zeros(9)))
    write(tmp_path, "one", 2, {"kind": "train", "step": 3, "loss": 1.0}, sequence_record(losses, levels))
    write(tmp_path, "one", 3, {"kind": "start"})
    write(tmp_path, "two", 1, sequence_record(losses[0]), {"kind": "bound", "bound": 1.0})
    table = sequence_losses(pd.concat([frame("one", "two", "none"), frame("one")]), tmp_path)
    assert table[["key", "replica"]].values.tolist() == [["one", 0], ["one", 1], ["two", 0]]
    np.testing.assert_array_equal(np.array(table["losses"].tolist(), dtype="f4"), losses.numpy()[[0, 1, 0]])
    np.testing.assert_array_equal(np.array(table["levels"][0], dtype="f4"), levels.numpy())
    assert table["levels"][2] == []


def test_damage_and_tables_of_no_sweep_give_no_rows(tmp_path: Path) -> None:
    damaged = {**sequence_record(torch.rand(4)), "shape": [5]}
    write(tmp_path, "one", 1, damaged)
    assert not len(sequence_losses(frame("one"), tmp_path))
    assert not len(sequence_losses(pd.DataFrame({"params": [1.0], "loss": [2.0]}), tmp_path))
    assert not len(sequence_losses(frame("one").assign(loss=np.nan), tmp_path))
