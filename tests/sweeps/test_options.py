"""Names that commands take: families, sweeps, methods, text of one's own; and what a shell offers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest

from scaling.families import FAMILIES
from sweeps.ledger.ledger import Ledger
from tests.sweeps.command_line import here, quick_machine, refused, scaling, write_table
from tests.sweeps.simulation import entry

__all__ = ["here", "quick_machine"]


# --- names


def test_the_version_is_that_of_the_package(here, capsys):
    assert scaling("--version") == 0
    assert capsys.readouterr().out == f"scaling {version('scaling')}\n"


def test_families_are_listed_with_their_names_in_papers(here, capsys):
    assert scaling("families") == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"^ {name} ", text, flags=re.M) for name in FAMILIES)
    assert re.search(r"^ block +BD3-LM +arXiv 2503.09573 +blocks of tokens", text, flags=re.M)


@pytest.mark.parametrize("name", ["BD3-LM", "bd3lm", "Bd3_Lm", "Block"])
def test_names_of_papers_plan_the_same_runs(here, capsys, name):
    plans = []
    for family in ("block", name):
        assert scaling("plan", "--config", "../small.yaml", "--family", family) == 0
        plans.append(capsys.readouterr().out.partition("sweep small")[2])
    assert plans[0] == plans[1] != ""


def test_a_table_keeps_its_own_names_of_families(here, capsys):
    """A name that the table has comes first; else a paper's name means ours."""
    write_table("own.csv", {"ar": 3, "mdlm": 3, "uniform": 3})
    fit = ("fit", "--store", "own.csv", "--bootstrap", "0", "--family")
    assert scaling(*fit, "mdlm", "--family", "Duo") == 0
    assert {path.parent.name for path in Path("runs/own").glob("*/law.json")} == {"mdlm", "uniform"}
    assert "family 'masked' is not in own.csv" in refused(capsys, *fit, "masked")


def test_sweeps_are_listed_with_their_runs(here, capsys):
    with Ledger(Path("runs/mine/ledger")) as ledger:
        ledger.register([entry("a"), entry("b")])
    assert scaling("sweeps") == 0
    text = capsys.readouterr().out
    assert re.search(r"^ desk +1.2e10 to 4.0e11 +The default sweep", text, flags=re.M)
    assert re.search(r"^ mine +2 runs: 2 planned +in runs/mine", text, flags=re.M)
    # such a sweep needs no config to be looked at
    assert scaling("status", "--sweep", "mine") == 0
    assert "sweep mine: 2 runs: 2 planned" in capsys.readouterr().out
    assert "its config is not known; give it, --config FILE.yaml" in refused(
        capsys, "plan", "--sweep", "mine"
    )


def test_sweeps_of_a_store_are_listed_and_selected_by_name(here, capsys):
    write_table("two.csv", {"ar": 3, "uniform": 3})
    table = pd.read_csv("two.csv")
    table.assign(sweep=["old"] * 15 + ["new"] * 15, status="finished").to_csv("two.csv", index=False)
    assert scaling("sweeps", "--store", "two.csv") == 0
    text = capsys.readouterr().out
    assert re.search(r"^ new +15 runs: 15 finished +uniform", text, flags=re.M)
    assert re.search(r"^ old +15 runs: 15 finished +ar", text, flags=re.M)
    assert scaling("fit", "--store", "two.csv", "--sweep", "old", "--bootstrap", "0") == 0
    assert Path("runs/old/ar/law.json").exists()
    write_table("one.csv", {"ar": 3})
    assert "one.csv has no column sweep" in refused(capsys, "sweeps", "--store", "one.csv")


def test_fit_takes_methods_by_name(here, capsys):
    write_table("t.csv", {"ar": 3})
    fit = ("fit", "--store", "t.csv", "--bootstrap", "0", "--method", "approach 1")
    assert scaling(*fit, "--method", "surface") == 0
    assert json.loads(Path("runs/t/ar/law.json").read_text())["laws"].keys() == {"envelope", "surface"}
    assert "method = 'surfase' is unknown; choose one of surface" in refused(
        capsys, "fit", "--store", "not-read.csv", "--method", "surfase"
    )


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("scaling fam", ["families"]),
        ("scaling plan --family m", ["masked", "mdlm"]),
        ("scaling status --sweep d", ["desk"]),
        ("scaling fit --method iso", ["isoflop"]),
    ],
)
def test_shells_offer_names(here, typed, offered):
    """What bash asks after the Tab key; zsh and fish ask the same in other words."""
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    code = "from sweeps.cli import main; main()"
    completed = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, "_SCALING_COMPLETE": "complete_bash", **words},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert completed.stdout.split() == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_can_be_shown(here, capsys, monkeypatch, shell):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    assert scaling("--show-completion", shell) == 0
    assert "_SCALING_COMPLETE" in capsys.readouterr().out


# --- text of one's own


def test_a_sweep_of_own_text_needs_no_config(here, capsys):
    texts = here.parent / "texts"
    plan = ("plan", "--family", "ar", "--config", "../small.yaml")
    assert scaling(*plan) == 0
    without = capsys.readouterr().out
    assert scaling(*plan, "--data", str(texts)) == 0
    text = capsys.readouterr().out
    assert f"sweep small-texts; data text:{texts}/**/*.txt" in text
    keys = re.findall(r"\b[0-9a-f]{8}\b", without)
    assert len(keys) == 12
    assert not set(keys) & set(re.findall(r"\b[0-9a-f]{8}\b", text))  # another text, so other runs
    assert scaling(*plan) == 0
    assert re.findall(r"\b[0-9a-f]{8}\b", capsys.readouterr().out) == keys
    assert "sweep 'small-texts' has no runs" in refused(
        capsys, "status", "--config", "../small.yaml", "--data", str(texts)
    )
    sentence = refused(capsys, *plan, "--data", "nix.txt")
    assert "--data is 'nix.txt', and there is no such file or folder" in sentence
