"""The recorder process: dies and comes back, outlives a killed driver, shows no password."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sweeps.attempt.journal import JOURNAL, Journal, attempt_folder, run_folder
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.types import State
from sweeps.record.process import RecorderProcess
from tests.sweeps.simulation import entry

STEPS = 50


def train(ledger: Ledger, key: str) -> None:
    """A run whose journal and end are there to be recorded."""
    ledger.register([entry(key)])
    claim = ledger.claim(key)
    run = run_folder(ledger.folder.parent, "uniform", key)
    with Journal(attempt_folder(run, claim.attempt) / JOURNAL) as journal:
        for step in range(1, STEPS + 1):
            journal.append({"kind": "train", "step": step, "loss": 3.0 / step})
    ledger.end(claim, State.FINISHED, sentence="done", result={"bound": 1.0, "steps_done": STEPS})


def recorded(path: Path) -> dict[str, int]:
    """Run name -> points of its loss."""
    if not path.exists():
        return {}
    db = sqlite3.connect(path)
    try:
        rows = db.execute(
            "SELECT t.value, count(*) FROM metrics m JOIN tags t ON t.run_uuid = m.run_uuid "
            "WHERE t.key = 'scaling.key' AND m.key = 'train_loss' GROUP BY t.value"
        ).fetchall()
    except sqlite3.OperationalError:  # no tables yet
        return {}
    finally:
        db.close()
    return dict(rows)


def wait_for(what, within_s: float = 60.0):
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if value := what():
            return value
        time.sleep(0.05)
    pytest.fail("it did not come to that in time")


def test_a_killed_recorder_is_started_again_and_records_each_step_once(tmp_path, monkeypatch):
    monkeypatch.setattr("sweeps.record.process.RESTART_S", 0.0)
    store = tmp_path / "mlflow.db"
    with Ledger(tmp_path / "s" / "ledger") as ledger, ledger.driving():
        recorder = RecorderProcess(ledger, "s", f"sqlite:///{store}")
        recorder.start()
        train(ledger, "a")
        wait_for(lambda: recorded(store).get("a"))
        recorder._popen.kill()
        recorder._popen.wait()
        train(ledger, "b")
        recorder.check()
        assert recorder._popen.poll() is None
        assert recorder.close() == 0
        assert recorder.trouble is None
    assert recorded(store) == {"a": STEPS, "b": STEPS}


def test_a_recorder_whose_driver_is_killed_still_carries_over_what_there_is(tmp_path):
    store = tmp_path / "mlflow.db"
    with Ledger(tmp_path / "s" / "ledger") as ledger:
        train(ledger, "a")
    script = (
        "import sys, time; from pathlib import Path; from sweeps.ledger.ledger import Ledger\n"
        "from sweeps.record.process import RecorderProcess\n"
        f"ledger = Ledger(Path({str(tmp_path / 's' / 'ledger')!r}))\n"
        f"RecorderProcess(ledger, 's', 'sqlite:///{store}').start()\n"
        "print('started', flush=True); time.sleep(600)\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert driver.stdout.readline() == "started\n"
    [process] = psutil.Process(driver.pid).children()
    driver.kill()
    driver.wait()
    driver.stdout.close()
    wait_for(lambda: not process.is_running())
    assert recorded(store) == {"a": STEPS}
    last = (tmp_path / "s" / "ledger" / "recorder.log").read_text().splitlines()[-1]
    assert json.loads(last)["waiting"] == 0


def test_a_store_that_is_away_is_told_and_its_password_is_not(tmp_path):
    uri = "http://ada:secret@127.0.0.1:1"
    with Ledger(tmp_path / "s" / "ledger") as ledger:
        train(ledger, "a")
        recorder = RecorderProcess(ledger, "s", uri, grace_s=1.0)
        recorder.start()
        assert "secret" not in " ".join(psutil.Process(recorder._popen.pid).cmdline())
        wait_for(lambda: recorder.trouble)
        assert recorder.close() == 1
        log = (tmp_path / "s" / "ledger" / "recorder.log").read_text()
        kept = ledger.query("SELECT name FROM facts")
    assert "secret" not in log + str([tuple(row) for row in kept])
    assert os.path.exists(tmp_path / "s" / "ledger" / "ledger.db")


def test_a_recorder_that_hangs_is_ended_and_told(tmp_path, monkeypatch):
    monkeypatch.setattr("sweeps.record.process.START_S", 1.0)
    with Ledger(tmp_path / "s" / "ledger") as ledger, ledger.driving():
        train(ledger, "a")
        recorder = RecorderProcess(ledger, "s", f"sqlite:///{tmp_path}/mlflow.db", grace_s=0.2)
        recorder.start()
        process = recorder._popen
        os.kill(process.pid, signal.SIGSTOP)
        assert recorder.close() == 1
        assert process.poll() == -signal.SIGKILL
        assert recorder.trouble == "the recorder did not end within 2 s"


def test_a_slow_recorder_is_not_called_one_that_hangs(tmp_path):
    with Ledger(tmp_path / "s" / "ledger") as ledger, ledger.driving():
        train(ledger, "a")
        recorder = RecorderProcess(ledger, "s", f"sqlite:///{tmp_path}/mlflow.db")
        recorder.start()
        assert recorder.close() == 0
        assert recorder.trouble is None


def test_a_recorder_that_cannot_start_is_not_called_slow(tmp_path, monkeypatch):
    """A broken package, say: the process ends with a traceback before it has tried anything."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "psutil.py").write_text("raise ImportError('broken')\n")
    with Ledger(tmp_path / "s" / "ledger") as ledger:
        train(ledger, "a")
        recorder = RecorderProcess(ledger, "s", f"sqlite:///{tmp_path / 'mlflow.db'}")
        recorder.start()
        assert recorder.close() == 1
        assert recorder.trouble == f"the recorder ended with code 1, see {ledger.folder / 'recorder.log'}"
    assert "broken" in (tmp_path / "s" / "ledger" / "recorder.log").read_text()
