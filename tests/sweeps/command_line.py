"""The command line in this process, in an empty folder, for tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest

from sweeps import cli
from sweeps.plan import timing

SMALL = """
name: small
families: [ar, uniform]
grid:
  budgets: [1e8, 2e8, 4e8]
  sizes: [8x1, 12x1, 16x1, 24x1]
context_length: 32
data: {{corpus: "{corpus}"}}
learning_rate: {{base: 3e-3}}
batch: {{base_tokens: 64}}
evaluation: {{sequences: 8, noise_levels: 2}}
"""


@pytest.fixture(autouse=True)
def quick_machine(monkeypatch):
    monkeypatch.setattr(timing, "matmul_flops_per_s", lambda shapes, threads: dict.fromkeys(shapes, 1e10))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def here(tmp_path: Path, monkeypatch) -> Path:
    """An empty working folder beside a folder with two text files and a config that reads them."""
    texts = tmp_path / "texts"
    texts.mkdir()
    for name in ("a", "b", "c"):
        (texts / f"{name}.txt").write_text(f"{name} quick brown fox jumps over the lazy dog\n" * 200)
    (tmp_path / "small.yaml").write_text(SMALL.format(corpus=f"text:{texts}/*.txt"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def scaling(*arguments: str) -> int:
    """Run the command in this process; its exit code."""
    old = sys.argv
    sys.argv = ["scaling", *arguments]
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = old
    return 0


def refused(capsys, *arguments: str) -> str:
    """The one sentence a refused command says."""
    assert scaling(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("scaling: ")
    assert captured.err.count("\n") == 1, captured.err
    assert "Traceback" not in captured.err
    return captured.err


def write_table(path: str, families: dict[str, int]) -> None:
    """Runs of a sound law, so many budgets of each family."""
    rows = [
        (family, params, c / (6 * params), 1 + 60 / params**0.5 + 600 / (c / (6 * params)) ** 0.5)
        for family, budgets in families.items()
        for c in (1e11, 3e11, 1e12)[:budgets]
        for params in (3e3 * (c / 1e11) ** 0.5 * 2**i for i in range(5))
    ]
    pd.DataFrame(rows, columns=["family", "params", "tokens", "loss"]).to_csv(path, index=False)
