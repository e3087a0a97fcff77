"""A run of a second on a corpus of a few kilobytes, for tests with real training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks import tiny_data as tiny_data
from benchmarks import tiny_spec as tiny_spec
from scaling.data import Dataset
from sweeps.attempt.job import Job
from sweeps.ledger.types import Entry
from sweeps.plan.rows import spec_columns


def tiny_entry(
    data: Dataset, *, seed: int = 0, steps: int = 20, replicas: int = 1, **options: object
) -> Entry:
    spec = replace(tiny_spec(data, seed=seed, steps=steps), replicas=replicas)
    return Entry(
        spec=spec,
        dataset=str(data.folder),
        predicted_s=1.0 + seed / 100,
        columns=spec_columns(spec),
        options=options,
    )


def tiny_job(data: Dataset, run_folder: Path, *, attempt: int = 1, steps: int = 20, **values: object) -> Job:
    spec = tiny_spec(data, steps=steps)
    return Job(
        key=spec.key,
        family=spec.family,
        attempt=attempt,
        spec=spec.to_dict(),
        dataset=str(data.folder),
        folder=str(run_folder / f"attempt-{attempt:03d}"),
        **values,
    )
