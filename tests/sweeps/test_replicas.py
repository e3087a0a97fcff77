"""Replicas the whole way: config, driver, ledger, tracking store, run tables, laws, texts."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

import analysis
from analysis.table.runs import loss_curves
from scaling.spec import RunSpec
from scaling.training import load_run
from sweeps.attempt.journal import run_folder
from sweeps.driver.caps import Caps
from sweeps.launch import Launch, drive
from sweeps.ledger.ledger import Ledger
from sweeps.plan import prepare
from sweeps.record.recorded import recorded_runs
from sweeps.results import laws as results
from sweeps.results.dashboard import LedgerSource
from sweeps.show.audit import audit
from tests.sweeps.command_line import here, quick_machine, scaling

__all__ = ["here", "quick_machine"]

STORE = "sqlite:///runs/mlflow.db"
SEEDS = {1e8: 3, 2e8: 3, 4e8: 1}


@pytest.fixture
def config(here: Path) -> Path:
    """The small config with three seeds at two budgets, of which two share a process at the second."""
    path = here.parent / "small.yaml"
    seeds = "  seeds: {1e8: [1, 2, 3], 2e8: [1, 2, 3], 4e8: 1}\n  replicas: {1e8: 3, 2e8: 2, 4e8: auto}\n"
    path.write_text(
        path.read_text().replace("[8x1, 12x1, 16x1, 24x1]\n", f"[8x1, 12x1, 16x1, 24x1]\n{seeds}")
    )
    return path


def swept(config: Path, **how) -> int:
    request = prepare.request(None, config, ["ar"], Path("runs"))
    return drive(request, Launch(pool="local", bootstrap=20, **how))


def test_every_network_has_a_row_everywhere(config, capfd, monkeypatch) -> None:
    monkeypatch.setattr(results, "save_figures", lambda drawings, folder: [])
    swept(config)
    out = capfd.readouterr().out
    assert "16 runs of 28 networks, 0 done, 16 to do" in out
    assert "(3 replicas): finished, loss" in out

    frame = results.ledger_table(Path("runs/small"), "small").frame
    assert frame.groupby("budget").size().to_dict() == {b: 4 * count for b, count in SEEDS.items()}
    assert (frame["status"] == "finished").all()
    assert frame["loss"].nunique() == len(frame)
    assert frame.groupby(["size", "budget"])["seed"].apply(list).map(len).sum() == 28
    assert frame["replica"].isna().sum() == 4 + 4, "of seed 3 of the second budget, and of the largest"
    assert not frame.duplicated(["key", "replica"]).any()
    with Ledger(Path("runs/small/ledger")) as ledger:
        runs = {run.key: run for run in ledger.runs()}
    for key, rows in frame.groupby("key"):
        result = runs[key].result
        assert rows["wall_s"].sum() == pytest.approx(runs[key].worked_s)
        assert rows["evaluation_flops"].sum() == pytest.approx(result["evaluation_flops"])
        assert rows["loss"].mean() == pytest.approx(result["bound"])
        spec = RunSpec.from_dict(runs[key].spec)
        assert rows["seed"].tolist() == list(spec.seeds)
        assert set(rows["flops"]) == {spec.training_flops()}

    stored = analysis.load_runs(STORE)
    names = ["key", "seed", "replica", "replicas", "status", "loss", "loss_se", "bits_per_byte", "wall_s",
             "evaluation_s", "evaluation_flops", "params", "tokens", "flops", "mlflow_run_id"]  # fmt: skip
    order = ["key", "seed"]
    tables = [table[names].sort_values(order, ignore_index=True) for table in (stored, frame)]
    pd.testing.assert_frame_equal(*tables)
    curves = loss_curves(STORE)
    assert set(curves["key"]) == set(runs)
    assert not curves.duplicated(["key", "step"]).any()
    rows = LedgerSource("runs/small", "small").read(None).rows
    assert sorted(rows["loss"]) == sorted(frame["loss"])
    recorded = recorded_runs(STORE, "small")
    assert len(recorded) == 16
    checks = audit(Path("runs/small"), "small", recorded)
    assert [problem for check in checks for problem in check.problems] == []
    assert any("16 finished runs of 28 networks" in check.examined for check in checks)

    assert scaling("export", "all.parquet", "--config", str(config)) == 0
    assert len(pd.read_parquet("all.parquet")) == 28
    law = analysis.fit_law(pd.read_parquet("all.parquet"), "surface", bootstrap=0)
    assert len(law.runs) == 28

    # a finished sweep trains nothing again, whatever the config says now about processes
    config.write_text(config.read_text().replace("{1e8: 3, 2e8: 2, 4e8: auto}", "1"))
    capfd.readouterr()
    swept(config)
    assert "16 runs of 28 networks, all of them done" in capfd.readouterr().out
    assert len(results.ledger_table(Path("runs/small"), "small").frame) == 28

    key = next(key for key, run in runs.items() if run.replicas == 3)
    assert scaling("sample", key, "--replica", "2") == 0
    assert scaling("sample", key, "--replica", "3") == 2
    assert "has 3 replicas, from 0; there is no replica 3" in capfd.readouterr().err
    loaded = load_run(run_folder(Path("runs/small"), "ar", key), replica=2)
    assert loaded.spec.seed == 3
    assert scaling("status", "--config", str(config)) == 0
    assert "replicas" in capfd.readouterr().out


def test_a_cap_of_flops_counts_every_network(config, capfd, monkeypatch) -> None:
    monkeypatch.setattr(results, "save_figures", lambda drawings, folder: [])
    swept(config, caps=Caps(flops=4 * 3 * 1.01e8))
    frame = results.ledger_table(Path("runs/small"), "small").frame
    assert set(frame[frame["status"] == "finished"]["budget"]) == {1e8}
    assert (frame["status"] == "finished").sum() == 12
    spent = frame[frame["status"] == "finished"]["flops_exact"].sum()
    assert math.isclose(spent, 12e8, rel_tol=0.01)
    assert "12 runs are beyond the cap of 1.2e9 FLOPs" in capfd.readouterr().out
