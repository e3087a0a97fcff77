"""Files in the folder where a command is run never take the place of our modules, in any process."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from analysis import load_runs

ROOT = Path(__file__).parents[2]

CONFIG = """
name: tiny
families: [ar]
grid: {budgets: [1e8], sizes: [4x1]}
context_length: 32
data: {corpus: "text:*.txt"}
learning_rate: {base: 3e-3}
batch: {base_tokens: 384}
evaluation: {sequences: 4, noise_levels: 2}
training: {samples: 0}
"""


def test_a_sweep_runs_and_records_beside_files_named_like_our_modules(tmp_path: Path) -> None:
    for name in ("scaling", "sweeps", "analysis", "torch", "mlflow", "numpy", "ray"):
        (tmp_path / f"{name}.py").write_text("x = 1\n")
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(f"{name} quick brown fox jumps over the lazy dog\n" * 200)
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    command = [sys.executable, "-P", "-c", "from sweeps.cli import main; main()", "sweep"]
    ended = subprocess.run(
        [*command, "--config", "tiny.yaml", "--out", "out", "--bootstrap", "0"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "1 runs: 1 finished\n" in ended.stdout, ended.stdout + ended.stderr
    assert list(load_runs(f"sqlite:///{tmp_path}/out/mlflow.db", sweep="tiny")["status"]) == ["finished"]


def test_every_python_process_of_ours_leaves_the_working_folder_off_its_path() -> None:
    files = [path for name in ("scaling", "sweeps", "analysis") for path in (ROOT / name).rglob("*.py")]
    started = [
        (path.name, match[1])
        for path in files
        for match in re.finditer(r"sys\.executable,\s*(\S+)", path.read_text(encoding="utf-8"))
    ]
    assert len(started) >= 4
    assert [name for name, option in started if option != '"-P",'] == []
