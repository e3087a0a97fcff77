"""Real processes, really killed: the same command again ends with the table of an undisturbed sweep."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sweeps.attempt.journal import attempt_folders, merged, run_folder
from sweeps.ledger.ledger import Ledger
from tests.sweeps.tiny import tiny_data

RUNS, STEPS = 3, 200
PATIENCE_S = 400


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny_data(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, data_folder):
    out = tmp_path_factory.mktemp("undisturbed")
    assert sweep(data_folder, out).wait(PATIENCE_S) == 0
    return table(out)


def sweep(data_folder: Path, out: Path, *, pool: str = "local") -> subprocess.Popen:
    command = [sys.executable, str(Path(__file__).parents[1] / "toy_sweep.py")]
    command += [str(data_folder), str(out), pool, str(RUNS), str(STEPS)]
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    with (out / "log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def said(out: Path) -> str:
    return (out / "log").read_text()


def table(out: Path) -> dict[str, tuple]:
    """What a fit would see of each run, floats and all."""
    with Ledger(out / "toy" / "ledger") as ledger:
        runs = ledger.runs()
    losses = ("bound", "bound_se", "bits_per_byte", "steps_done", "replicas")
    return {run.key: (str(run.state), *(run.result.get(name) for name in losses)) for run in runs}


def curves(out: Path) -> dict[str, list]:
    with Ledger(out / "toy" / "ledger") as ledger:
        folders = {run.key: run_folder(out / "toy", run.family, run.key) for run in ledger.runs()}
    return {
        key: [(r.step, r.loss) for r in merged(folder) if r.kind == "train"]
        for key, folder in folders.items()
    }


def recorded_steps(out: Path) -> dict[str, list[int]]:
    db = sqlite3.connect(out / "mlflow.db")
    rows = db.execute(
        "SELECT t.value, m.step FROM metrics m JOIN tags t ON t.run_uuid = m.run_uuid "
        "WHERE t.key = 'scaling.key' AND m.key = 'train_loss' ORDER BY t.value, m.step"
    ).fetchall()
    db.close()
    steps: dict[str, list[int]] = {}
    for key, step in rows:
        steps.setdefault(key, []).append(step)
    return steps


def wait_for(what, within_s: float = PATIENCE_S):
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if value := what():
            return value
        time.sleep(0.02)
    pytest.fail("it did not come to that in time")


def training_workers(out: Path, *, step: int) -> list[psutil.Process]:
    """Workers that live and have saved a checkpoint at `step` or later."""
    workers = []
    folders = (out / "toy").glob("uniform/runs/*")
    attempts = [attempt for folder in folders for attempt in attempt_folders(folder).values()]
    for attempt in attempts:
        steps = [int(path.stem.rpartition("-")[2]) for path in attempt.glob("checkpoint-*.pt")]
        records = [r for r in merged(attempt.parent) if r.kind == "start"]
        if not steps or max(steps) < step or not records or (attempt / "result.json").exists():
            continue
        if psutil.pid_exists(records[-1].values["pid"]):
            workers.append(psutil.Process(records[-1].values["pid"]))
    return workers


def assert_equal_to(undisturbed, out: Path) -> None:
    assert table(out) == undisturbed
    assert all(row[0] == "finished" for row in undisturbed.values())
    assert len(undisturbed) == RUNS
    assert sum(len(row[-1] or [None]) for row in undisturbed.values()) == RUNS + 1, "one run has two replicas"
    for key, points in curves(out).items():
        assert [step for step, _ in points] == recorded_steps(out)[key]
        assert len({step for step, _ in points}) == len(points)


@pytest.mark.chaos
def test_killed_workers_and_drivers_leave_no_trace_in_the_table(tmp_path, data_folder, undisturbed):
    """kill -9 of a worker, then of the driver at a random moment, then two drivers at once."""
    driver = sweep(data_folder, tmp_path)
    wait_for(lambda: training_workers(tmp_path, step=STEPS // 5))[0].kill()
    time.sleep(random.Random(5).uniform(0.0, 1.0))
    driver.kill()
    driver.wait()
    assert table(tmp_path) != undisturbed
    together = [sweep(data_folder, tmp_path) for _ in range(2)]
    assert [driver.wait(PATIENCE_S) for driver in together] == [0, 0], said(tmp_path)
    assert_equal_to(undisturbed, tmp_path)
    with Ledger(tmp_path / "toy" / "ledger") as ledger:
        attempts = [a for run in ledger.runs() for a in ledger.attempts(run.key)]
    assert max(attempt["attempt"] for attempt in attempts) >= 2
    assert sum(a["state"] == "finished" and a["accepted"] for a in attempts) == RUNS


@pytest.mark.chaos
def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(tmp_path, data_folder, undisturbed):
    driver = sweep(data_folder, tmp_path)
    wait_for(lambda: training_workers(tmp_path, step=1))
    driver.send_signal(signal.SIGINT)
    assert driver.wait(PATIENCE_S) == 130, said(tmp_path)
    assert "run the same command again to go on" in said(tmp_path)
    assert "Traceback" not in said(tmp_path)
    states = {row[0] for row in table(tmp_path).values()}
    assert "preempted" in states
    assert "running" not in states
    assert sweep(data_folder, tmp_path).wait(PATIENCE_S) == 0
    assert_equal_to(undisturbed, tmp_path)
    resumed = [
        r.step for f in (tmp_path / "toy").glob("uniform/runs/*") for r in merged(f) if r.kind == "resumed"
    ]
    assert max(resumed) > 0


@pytest.mark.chaos
@pytest.mark.slow
def test_the_same_on_ray(tmp_path, data_folder, undisturbed):
    """Ray ends its workers itself when their driver is killed."""
    driver = sweep(data_folder, tmp_path, pool="ray")
    wait_for(lambda: training_workers(tmp_path, step=STEPS // 5))[0].kill()
    again = wait_for(lambda: training_workers(tmp_path, step=1))
    driver.kill()
    driver.wait()
    assert sweep(data_folder, tmp_path, pool="ray").wait(PATIENCE_S) == 0, said(tmp_path)
    assert_equal_to(undisturbed, tmp_path)
    wait_for(lambda: not any(process.is_running() for process in again))
