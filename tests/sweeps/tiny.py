"""A run of a second on a corpus of a few kilobytes, for tests with real training."""

from __future__ import annotations

from pathlib import Path

from scaling.data import Dataset, prepare
from scaling.ladder import Size
from scaling.spec import DataSpec, EvaluationSpec, OptimizerSpec, RunSpec
from sweeps.attempt.job import Job
from sweeps.ledger.types import Entry
from sweeps.plan.rows import spec_columns

CONTEXT = 16


def tiny_data(folder: Path) -> Dataset:
    """The corpus in `folder`, made on the first call; two processes may ask for one that is there."""
    texts = folder / "texts"
    if not texts.exists():
        texts.mkdir(parents=True)
        for i in range(12):
            (texts / f"{i}.txt").write_text(f"{i} bottles of milk on the wall, take one down. " * 40)
    return prepare(f"text:{texts}/*.txt", "bytes", folder / "data")


def tiny_spec(data: Dataset, *, seed: int = 0, steps: int = 20) -> RunSpec:
    return RunSpec(
        family="uniform",
        size=Size(name="4x1", hidden=4, num_layers=1, num_heads=1, cond_dim=4, time_features=4),
        budget=1e7,
        sequences=4 * steps,
        batch_size=4,
        data=DataSpec.of(data, CONTEXT),
        optimizer=OptimizerSpec(learning_rate=1e-3),
        evaluation=EvaluationSpec(sequences=4, noise_levels=2),
        seed=seed,
    )


def tiny_entry(data: Dataset, *, seed: int = 0, steps: int = 20, **options: object) -> Entry:
    spec = tiny_spec(data, seed=seed, steps=steps)
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
