"""Speed, measured: each module is a script, run by `make bench` or with `python -m benchmarks.NAME`."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.ladder import Size

if TYPE_CHECKING:
    from scaling.data import Dataset
    from scaling.spec import RunSpec
    from scaling.training import TrainResult

TINY = Size(name="4x1", hidden=4, num_layers=1, num_heads=1, cond_dim=4, time_features=4)
"""For runs that are to train next to nothing."""


def options(text: str | None, name: str) -> argparse.ArgumentParser:
    """The command line of a benchmark: its text as help, and --out, the file for its numbers."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(f"build/benchmarks/{name}.json"))
    return parser


def save(path: Path, numbers: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    print(f"all numbers: {path}")


def tiny_data(folder: Path) -> Dataset:
    """A corpus of a few kilobytes in `folder`, made on the first call; two processes may ask for one."""
    from scaling.data import prepare

    texts = folder / "texts"
    if not texts.exists():
        texts.mkdir(parents=True)
        for i in range(12):
            (texts / f"{i}.txt").write_text(f"{i} bottles of milk on the wall, take one down. " * 40)
    return prepare(f"text:{texts}/*.txt", "bytes", folder / "data")


def tiny_spec(data: Dataset, *, seed: int = 0, steps: int = 20) -> RunSpec:
    """A run of about `steps` milliseconds."""
    from scaling.spec import DataSpec, EvaluationSpec, OptimizerSpec, RunSpec

    return RunSpec(
        family="uniform",
        size=TINY,
        budget=1e7,
        sequences=4 * steps,
        batch_size=4,
        data=DataSpec.of(data, context_length=16),
        optimizer=OptimizerSpec(learning_rate=1e-3),
        evaluation=EvaluationSpec(sequences=4, noise_levels=2),
        seed=seed,
    )


def train_once(data: Dataset, context_length: int, **fields: Any) -> TrainResult:
    """The result of a run on one thread that keeps no files. fields: those of its `RunSpec`."""
    import torch

    from scaling.spec import DataSpec, RunSpec
    from scaling.training import train

    torch.set_num_threads(1)
    spec = RunSpec(data=DataSpec.of(data, context_length), **fields)
    with tempfile.TemporaryDirectory() as folder:
        result = train(spec, data, Path(folder), log=lambda _: None)
    if result.bound is None:
        raise RuntimeError(f"{spec.family} at {spec.budget:.0e} FLOPs, seed {spec.seed}: {result.sentence}")
    return result
