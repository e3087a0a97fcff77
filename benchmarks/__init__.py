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
    from scaling.training import TrainResult

TINY = Size(name="4x1", hidden=4, num_layers=1, num_heads=1, cond_dim=4, time_features=4)
"""For benchmarks whose runs are to train next to nothing."""


def options(text: str | None, name: str) -> argparse.ArgumentParser:
    """The command line of a benchmark: its text as help, and --out, the file for its numbers."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(f"build/benchmarks/{name}.json"))
    return parser


def save(path: Path, numbers: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    print(f"all numbers: {path}")


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
