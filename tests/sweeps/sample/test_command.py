"""A sweep or a run, and options of the other one."""

from __future__ import annotations

from pathlib import Path

import pytest

from scaling.errors import UserError
from sweeps.sample.command import refuse_others, sweep_called
from tests.sweeps.command_line import here, quick_machine, refused

__all__ = ["here", "quick_machine"]


def test_a_name_is_a_sweep_if_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "mine" / "ledger").mkdir(parents=True)
    (tmp_path / "mine" / "ledger" / "ledger.db").touch()
    assert sweep_called("mine", tmp_path) == "mine"
    assert sweep_called("desk", tmp_path) == "desk"
    assert sweep_called("3d8fdaf2", tmp_path) is None


def test_options_of_the_other_one_are_refused() -> None:
    refuse_others({"top_k": None}, "a sweep")
    with pytest.raises(UserError, match="--top-k is for texts of one run; leave it out"):
        refuse_others({"count": None, "top_k": 3}, "texts of one run")


def test_the_command_says_so_in_one_sentence(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = refused(capsys, "sample", "desk", "--prompt", "x")
    assert "--prompt is for texts of one run, and desk is a sweep" in sentence
    sentence = refused(capsys, "sample", "3d8f", "--judge", "gpt2")
    assert "--judge is for a sweep, and 3d8f is none below runs" in sentence
    assert "sweep 'desk' has no runs under runs/desk yet" in refused(capsys, "sample", "desk")
