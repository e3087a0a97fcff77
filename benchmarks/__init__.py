"""Speed, measured: each module is a script, run by `make bench` or with `python -m benchmarks.NAME`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from scaling.ladder import Size

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
