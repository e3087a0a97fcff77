"""A driver whose workers see nothing of its disk: what it gets to see of them all the same."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from scaling.errors import UserError
from sweeps.attempt import journal
from sweeps.attempt.job import RESULT, Job, Outcome, Trouble, killed
from sweeps.attempt.journal import JOURNAL, merged, run_folder
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.types import Needs
from sweeps.pools.base import Pool
from sweeps.pools.storage import pool as pool_storage
from sweeps.pools.storage.files import open_storage
from sweeps.pools.storage.pool import StoragePool
from tests.sweeps import bucket
from tests.sweeps.bucket import Bucket
from tests.sweeps.s3_server import S3Server, s3_server
from tests.sweeps.tiny import tiny_data, tiny_job

RUNS, STEPS = 3, 200
PATIENCE_S = 200


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("tiny"))


class Desk:
    """A pool whose jobs run when, and end as, a test says."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.ended: list[tuple[int, Outcome]] = []
        self.killed: list[int] = []
        self.closed = False

    def submit(self, job, needs, *, avoid_host=None):
        self.jobs.append(job)
        return len(self.jobs)

    def wait(self, timeout_s):
        ended, self.ended = self.ended, []
        time.sleep(0.01)
        return ended

    def kill(self, handle):
        self.killed.append(handle)

    def ready(self):
        return

    def close(self):
        self.closed = True


@pytest.fixture
def desk():
    return Desk()


@pytest.fixture
def there():
    return open_storage(bucket.fresh())


@pytest.fixture
def pool(desk, there, data, monkeypatch):
    monkeypatch.setattr(pool_storage, "STOP_FILES_S", 0.02)
    monkeypatch.setattr(pool_storage, "HOLD_S", 1.0)
    pool = StoragePool(desk, there, [data.folder], fetch_s=0.02)
    pool.ready()
    yield pool
    pool.close()


def job_in(out: Path, data, attempt: int = 1) -> Job:
    job = tiny_job(data, out / "toy" / "uniform" / "runs" / "KEY", attempt=attempt)
    return replace(job, stop_files=(str(out / "stop" / "driver"),))


def told(pool: StoragePool, within_s: float = 20.0) -> Outcome:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if ended := pool.wait(0.01):
            assert len(ended) == 1
            return ended[0][1]
    pytest.fail("no end was told in time")


def wait_for(what, within_s: float = 20.0):
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if value := what():
            return value
        time.sleep(0.01)
    pytest.fail("it did not come to that in time")


PLACE = "toy/uniform/runs/KEY"


def test_the_data_is_put_there_before_a_job_starts(pool, there, data):
    assert {"meta.json", "train-00000.bin"} <= there.sizes(f"data/{data.fingerprint}").keys()


def test_data_that_cannot_be_put_is_the_users_to_mend(desk, there, data, monkeypatch):
    monkeypatch.setattr("sweeps.pools.storage.mirror.START_S", 0.0)
    monkeypatch.setattr(pool_storage, "put_dataset", _refused)
    with pytest.raises(UserError, match="cannot be put into storage 'bucket://lab/experiments'"):
        StoragePool(desk, there, [data.folder]).ready()


def test_data_that_a_worker_found_damaged_is_put_again(pool, desk, there, data, tmp_path):
    shard = f"data/{data.fingerprint}/train-00000.bin"
    whole = there.read(shard)
    there.put(bytes(len(whole)), shard)
    handle = pool.submit(job_in(tmp_path, data), Needs())
    desk.ended.append((handle, Outcome(status="failed", sentence="", trouble=Trouble.DATA, journal="")))
    assert told(pool).trouble == Trouble.DATA
    wait_for(lambda: there.read(shard) == whole)


def _refused(*_):
    raise OSError("no room")


def test_jobs_learn_of_the_storage(pool, desk, there, tmp_path, data):
    pool.submit(job_in(tmp_path, data), Needs())
    assert desk.jobs[0].storage == there.uri


def test_a_journal_appears_here_as_it_grows_there(pool, there, tmp_path, data):
    job = job_in(tmp_path, data)
    pool.submit(job, Needs())
    path = Path(job.folder) / JOURNAL
    for text in ('{"kind":"start"}\n', '{"kind":"start"}\n{"kind":"train"}\n'):
        there.put(text.encode(), f"{PLACE}/attempt-001/{JOURNAL}")
        wait_for(lambda text=text: path.exists() and path.read_text() == text)
    there.put(b"{}\n", f"{PLACE}/attempt-001/{JOURNAL}")
    time.sleep(0.2)
    assert path.read_text() == text  # what is here never shrinks


def test_an_outcome_brings_its_journal_and_leaves_a_result(pool, desk, tmp_path, data):
    Bucket.down = True  # so it cannot come from there
    job = job_in(tmp_path, data)
    handle = pool.submit(job, Needs())
    text = '{"kind":"start"}\n{"kind":"end"}\n'
    desk.ended.append((handle, Outcome(status="finished", sentence="done", journal=text)))
    outcome = told(pool, within_s=0.5)
    assert outcome == Outcome(status="finished", sentence="done")
    assert (Path(job.folder) / JOURNAL).read_text() == text
    assert (Path(job.folder) / RESULT).exists()
    assert pool.wait(0.0) == []


def lost() -> Outcome:
    return Outcome(status="failed", sentence="the worker was lost", trouble=Trouble.LOST)


def test_what_a_lost_worker_left_is_brought_down_before_its_end_is_told(pool, desk, there, tmp_path, data):
    job = job_in(tmp_path, data)
    handle = pool.submit(job, Needs())
    Bucket.down = True
    there_text = b'{"kind":"start"}\n{"kind":"tr'
    desk.ended.append((handle, lost()))
    assert pool.wait(0.0) == []
    Bucket.down = False
    there.put(there_text, f"{PLACE}/attempt-001/{JOURNAL}")
    assert told(pool).trouble == Trouble.LOST
    assert (Path(job.folder) / JOURNAL).read_bytes() == there_text


def test_a_result_that_only_the_storage_has_counts(pool, desk, there, tmp_path, data):
    handle = pool.submit(job_in(tmp_path, data), Needs())
    there.put(b'{"status": "finished", "sentence": "done"}', f"{PLACE}/attempt-001/{RESULT}")
    desk.ended.append((handle, lost()))
    assert told(pool).status == "finished"


def test_an_end_is_told_some_time_even_if_the_storage_stays_away(pool, desk, tmp_path, data):
    handle = pool.submit(job_in(tmp_path, data), Needs())
    Bucket.down = True
    desk.ended.append((handle, lost()))
    began = time.monotonic()
    assert told(pool).trouble == Trouble.LOST
    assert time.monotonic() - began > 0.9


def test_who_is_killed_is_not_waited_for(pool, desk, tmp_path, data):
    handle = pool.submit(job_in(tmp_path, data), Needs())
    Bucket.down = True
    pool.kill(handle)
    assert desk.killed == [handle]
    desk.ended.append((handle, killed()))
    assert told(pool, within_s=0.5).status == "preempted"


def test_journals_of_earlier_attempts_come_first(pool, desk, there, tmp_path, data):
    """Another driver, since dead, ran the first; the recorder sends what comes later only."""
    Bucket.down = True
    job = job_in(tmp_path, data, attempt=2)
    handle = pool.submit(job, Needs())
    second = '{"kind":"start"}\n{"kind":"train","step":9}\n'
    desk.ended.append((handle, Outcome(status="finished", sentence="done", journal=second)))
    assert pool.wait(0.0) == []
    assert not (Path(job.folder) / JOURNAL).exists()
    Bucket.down = False
    there.put(b'{"kind":"start"}\n', f"{PLACE}/attempt-001/{JOURNAL}")
    assert told(pool).status == "finished"
    assert {path.parent.name for path in Path(job.folder).parent.rglob(JOURNAL)} == {
        "attempt-001",
        "attempt-002",
    }


def test_stop_files_are_put_there_and_removed_at_the_end(pool, there, tmp_path, data):
    pool.submit(job_in(tmp_path, data), Needs())
    Bucket.failing = 0.3
    (tmp_path / "stop").mkdir()
    (tmp_path / "stop" / "driver").write_text("stopped by Ctrl-C")
    wait_for(lambda: "toy/stop/driver" in pool._stop_files)
    Bucket.failing = 0.0
    assert there.read("toy/stop/driver") == b"stopped by Ctrl-C"
    pool.close()
    assert there.sizes("toy/stop") == {}


def test_it_is_a_pool():
    names = [name for name in vars(Pool) if not name.startswith("_")]
    assert all(hasattr(StoragePool, name) for name in names)


# -- a whole sweep ------------------------------------------------------------------------------


def sweep(data_folder: Path, out: Path, *storage: str) -> subprocess.Popen:
    command = [sys.executable, str(Path(__file__).parents[2] / "toy_sweep.py")]
    command += [str(data_folder), str(out), "local", str(RUNS), str(STEPS), *storage]
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environment["SCALING_SCRATCH"] = str(out / "node")
    with (out / "log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def table(out: Path) -> dict[str, tuple]:
    """What a fit would see of each run, and its loss curve, floats and all."""
    with Ledger(out / "toy" / "ledger") as ledger:
        runs = ledger.runs()
    rows = {}
    for run in runs:
        story = merged(run_folder(out / "toy", run.family, run.key))
        curve = [(r.step, r.loss) for r in story if r.kind == "train"]
        rows[run.key] = (str(run.state), run.result.get("bound"), run.result.get("steps_done"), curve)
    return rows


def recorded(out: Path) -> dict[str, list[int]]:
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


def worker_with_checkpoint(out: Path, server: S3Server) -> psutil.Process | None:
    """One that trains, and whose checkpoint is in the storage."""
    with server.lock:
        keys = list(server.objects)
    for key in keys:
        run, _, name = key.rpartition("/")
        step = int(name.removesuffix(".pt").rpartition("-")[2]) if name.startswith("checkpoint-") else 0
        if not STEPS // 5 <= step < STEPS or f"{run}/{RESULT}" in keys:
            continue
        path = out / "start"
        path.write_bytes(server.objects[f"{run}/{JOURNAL}"])
        pid = journal.read(path)[0].values["pid"]
        if psutil.pid_exists(pid):
            return psutil.Process(pid)
    return None


@pytest.mark.chaos
def test_killed_workers_and_drivers_resume_from_the_storage(tmp_path, data):
    """On workers that see nothing of the driver's disk, with refused requests and three seconds of none."""
    data_folder = data.folder.parent.parent
    (tmp_path / "undisturbed").mkdir()
    assert sweep(data_folder, tmp_path / "undisturbed").wait(PATIENCE_S) == 0
    expected = table(tmp_path / "undisturbed")
    out = tmp_path / "out"
    out.mkdir()
    with s3_server() as server:
        server.failing = 0.02
        driver = sweep(data_folder, out, server.uri("lab"))
        wait_for(lambda: worker_with_checkpoint(out, server), PATIENCE_S).kill()
        server.down = True  # the runs that go on, and the one that is to resume, have to wait
        time.sleep(3.0)
        server.down = False
        wait_for(lambda: "attempt-002" in str(list(server.objects)), PATIENCE_S)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        assert sweep(data_folder, out, server.uri("lab")).wait(PATIENCE_S) == 0, (out / "log").read_text()
        assert not list((out / "node" / "attempts").iterdir())
    outcomes = table(out)
    assert len(expected) == RUNS
    assert outcomes == expected  # to the last bit
    assert {key: [step for step, _ in row[3]] for key, row in outcomes.items()} == recorded(out)
    resumed = [
        record.step
        for run in (out / "toy" / "uniform" / "runs").iterdir()
        for record in merged(run)
        if record.kind == "resumed"
    ]
    assert max(resumed) >= STEPS // 5
