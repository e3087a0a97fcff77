"""`scaling tune` from a config to a rule, on runs with planted losses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from scaling.spec import RunSpec
from sweeps.attempt.job import Job, Outcome
from sweeps.config.load import load_config
from sweeps.ledger.ledger import Ledger
from tests.sweeps.command_line import here as here
from tests.sweeps.command_line import quick_machine as quick_machine
from tests.sweeps.command_line import refused, scaling
from tests.sweeps.tune import planted

ROOT = Path(__file__).parents[3]
DYING = """
import os, sys
from sweeps import cli
from sweeps.plan import timing
from sweeps.tune import drive
from tests.sweeps.simulation import Clock, SimulatedPool
from tests.sweeps.tune import planted

keys = []

def behaviour(job):
    if len(keys) == 50:
        print(*keys, sep="\\n", flush=True)
        os._exit(9)
    keys.append(job.key)
    return planted.finish(job)

timing.matmul_flops_per_s = lambda shapes, threads: dict.fromkeys(shapes, 1e10)
drive.start_pool = lambda *_: SimulatedPool(Clock(), behaviour, slots=8)
cli.main()
"""

optuna = pytest.importorskip("optuna")


@pytest.fixture
def config(here: Path) -> Path:
    return planted.write_config(here, f"text:{here.parent}/texts/*.txt")


def tune(config: Path, *more: str) -> int:
    return scaling("tune", "ar", "--config", str(config), "--pool", "local", *more)


def noted(folder: Path = Path("runs/small-tune")) -> list[dict]:
    with Ledger(folder / "ledger", read_only=True) as ledger:
        trials: list[dict] = ledger.fact("tuning ar")["trials"]
        return trials


def test_a_study_finds_the_planted_rule_and_a_sweep_takes_it(config: Path, monkeypatch, capsys) -> None:
    started = planted.simulate(monkeypatch)
    assert tune(config) == 0
    trials = noted()
    assert len(trials) == 3 * 12
    assert sorted(started) == sorted({key for trial in trials for key in trial["keys"]})
    assert "36 trials: 36 done" in capsys.readouterr().out
    folder = Path("runs/small-tune/ar")
    laws = json.loads((folder / "tuning.json").read_text())["laws"]
    for name, true in (("params", planted.PARAMS), ("steps", planted.STEPS)):
        exponent = laws["learning_rate"]["exponents"][name]
        width = exponent["high"] - exponent["low"]
        assert 0 < width < 0.2
        assert exponent["value"] == pytest.approx(true, abs=width)
    rule = yaml.safe_load((folder / "rule.yaml").read_text())["overrides"]["ar"]
    at = rule["learning_rate"]
    best = planted.BASE * (at["at_params"] / 1e4) ** planted.PARAMS
    best *= (at["steps"]["at"] / 200) ** planted.STEPS
    assert at["base"] == pytest.approx(best, rel=0.1)
    assert rule["batch"]["base_tokens"] == pytest.approx(planted.BATCH, rel=0.2)
    # a config includes it as it is
    mine = config.with_name("mine.yaml")
    mine.write_text(config.read_text() + "include: runs/small-tune/ar/rule.yaml\n")
    loaded = load_config(mine)
    assert loaded.rate_rule("ar").base == at["base"]
    assert loaded.rate_rule("uniform") == load_config(config).learning_rate
    # what is made from the ledger: a table, pictures, and studies that Optuna opens
    assert len(pd.read_csv(folder / "trials.csv")) == 2 * 36
    assert (folder / "tuning.png").stat().st_size > 10_000
    storage = f"sqlite:///{folder / 'optuna.db'}"
    names = optuna.get_all_study_names(storage)
    assert len(names) == 3
    study = optuna.load_study(study_name=names[0], storage=storage)
    values = [sum(map(planted_loss_of, trial.user_attrs["runs"])) / 2 for trial in study.trials]
    assert [trial.value for trial in study.trials] == pytest.approx(values)


def planted_loss_of(key: str) -> float:
    with Ledger(Path("runs/small-tune/ledger"), read_only=True) as ledger:
        return planted.planted_loss(RunSpec.from_dict(ledger.runs([key])[0].spec))


def test_a_study_that_was_killed_goes_on_with_the_same_proposals_and_repeats_none(
    config: Path, monkeypatch, capsys
) -> None:
    planted.simulate(monkeypatch)
    tune(config, "--out", "whole")
    expected = noted(Path("whole/small-tune"))

    # a process that dies at its fifty-first run
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", DYING, "tune", "ar", "--config", str(config), "--pool", "local"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    before = done.stdout.splitlines()[-50:]
    assert len(noted()) == 36, "the second generation was noted before its runs started"
    after = planted.simulate(monkeypatch)
    assert tune(config) == 0
    assert noted() == expected
    assert len(set(before)) == 50
    assert len(set(before) & set(after)) <= 8, "only those whose end was not in the ledger yet"
    again = planted.simulate(monkeypatch)
    assert tune(config) == 0
    assert again == []
    assert tune(config, "--trials", "13") == 0
    assert noted()[:36] == expected
    assert len(again) == 3 * 2


def test_a_diverged_run_makes_its_trial_diverge_and_the_rest_goes_on(
    config: Path, monkeypatch, capsys
) -> None:
    def behaviour(job: Job) -> tuple[float, Outcome]:
        if job.spec["optimizer"]["learning_rate"] > 0.03 and job.spec["seed"] == 101:
            return 1.0, Outcome(status="diverged", sentence="the loss is not finite", result={"key": job.key})
        return planted.finish(job)

    planted.simulate(monkeypatch, behaviour)
    assert tune(config) == 0
    text = capsys.readouterr().out
    table = pd.read_csv("runs/small-tune/ar/trials.csv")
    high = table["learning_rate"] > 0.03
    assert high.any()
    assert table.loc[high, "loss"].isna().all()
    assert table.loc[~high, "loss"].notna().all()
    assert f"{36 - high.sum() // 2} done, {high.sum() // 2} diverged" in text


def test_another_space_under_the_same_name_is_refused(config: Path, monkeypatch, capsys) -> None:
    started = planted.simulate(monkeypatch)
    config.write_text(config.read_text().replace("trials: 12", "trials: 1"))
    assert tune(config) == 1, "three trials give no law"
    assert len(started) == 6
    config.write_text(config.read_text() + "  learning_rate: [0.1, 10]\n")
    capsys.readouterr()
    sentence = refused(capsys, "tune", "ar", "--config", str(config), "--pool", "local")
    assert "study 'small-tune' of ar searched another space: tuning.learning_rate [0.25, 4]" in sentence
    assert "another name with --study" in sentence
    assert len(noted()) == 3
    assert tune(config, "--study", "wide") == 1
    assert len(noted(Path("runs/wide"))) == 3


def test_what_cannot_be_tuned_is_refused_before_anything_starts(config: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sweeps.tune.drive.start_pool", lambda *_: pytest.fail("it starts"))
    text = config.read_text()
    config.write_text(text.partition("tuning:")[0])
    assert "key 'tuning' is missing" in refused(capsys, "tune", "ar", "--config", str(config))
    config.write_text(text)
    assert "unknown family 'aar'" in refused(capsys, "tune", "aar", "--config", str(config))
    monkeypatch.setitem(sys.modules, "optuna", None)
    sentence = refused(capsys, "tune", "ar", "--config", str(config))
    assert sentence.strip().endswith("install it with: pip install -e '.[tune]'")
    assert not list(Path("runs").glob("*/ledger"))


def test_while_another_command_proposes_this_one_adds_no_trials(config: Path, monkeypatch, capsys) -> None:
    planted.simulate(monkeypatch)
    with Ledger(Path("runs/small-tune/ledger")) as other, other.driving():
        assert other.hold("tuning ar")
        tune(config)
        assert "another scaling tune of ar proposes trials" in capsys.readouterr().out
    assert noted() == []
