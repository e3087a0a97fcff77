"""The Makefile: any value of its variables reaches the command as one word."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from scaling.families import FAMILIES

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
ROOT = Path(__file__).parents[1]


def make(*arguments: str) -> str:
    return subprocess.run(
        ["make", "--no-print-directory", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


def words(*arguments: str) -> list[str]:
    """The words of the `scaling` command that make would run."""
    line = next(line for line in make("-n", *arguments).splitlines() if line.startswith(".venv/bin/scaling"))
    return shlex.split(line)[1:]


@pytest.mark.parametrize("out", ["runs", "per%20cent", "what?now", "two words", "it's #1 [b]", "a;b&c|d>e"])
def test_results_may_go_into_a_folder_of_any_name(out: str) -> None:
    assert words("plan", f"OUT={out}") == ["plan", "--sweep", "desk", "--out", out, "--family", "uniform"]


def test_families_files_and_stores_are_passed_on_as_they_are() -> None:
    arguments = words("fit", "FAMILY=ar masked", "SWEEP=my own.yaml", "STORE=sqlite:///a b.db")
    assert arguments[:4] == ["fit", "--config", "my own.yaml", "--out"]
    assert arguments[5:] == ["--family", "ar", "--family", "masked", "--store", "sqlite:///a b.db"]
    assert words("sweep", "DATA=my books")[1:5] == ["--sweep", "desk", "--data", "my books"]


def test_help_names_every_family() -> None:
    text = make("help")
    assert [name for name in FAMILIES if name not in text] == []
