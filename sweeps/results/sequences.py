"""Losses of single held-out sequences of a sweep, from the journals of its runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.comparison.pairwise import COLUMNS
from scaling.evaluation.sequence_losses import KIND, read_levels, read_sequence_record
from sweeps.attempt.journal import JOURNAL, Record, attempt_folders, last, run_folder

FILE = "sequence_losses.parquet"


def sequence_losses(frame: pd.DataFrame, sweep_folder: Path) -> pd.DataFrame:
    """One row per network of the finished runs in `frame`, columns `pairwise.COLUMNS`.

    Runs of earlier versions have none, and neither have tables that are no sweep's: then there are no rows.
    """
    needed = ["family", "size", "budget", "key"]
    rows: list[dict[str, Any]] = []
    if set(needed) <= set(frame.columns):
        done = frame[frame["loss"].notna()].drop_duplicates("key")
        for run in done[needed].to_dict("records"):
            rows += [{**run, **part} for part in _of_run(run_folder(sweep_folder, run["family"], run["key"]))]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _of_run(folder: Path) -> Iterator[dict[str, Any]]:
    record = _newest(folder)
    if record is None:
        return
    try:
        losses, levels = read_sequence_record(record.values), read_levels(record.values)
    except ValueError:
        return  # damaged: the run has its loss, and is not compared sequence by sequence
    for replica, values in enumerate(losses.astype("float32")):
        yield {
            "replica": replica,
            "losses": values.tolist(),
            "levels": [] if levels is None else levels.astype("float32").tolist(),
        }


def _newest(folder: Path) -> Record | None:
    """Of the last attempt that came that far."""
    for attempt in reversed(attempt_folders(folder).values()):
        if record := last(attempt / JOURNAL, kind=KIND):
            return record
    return None
