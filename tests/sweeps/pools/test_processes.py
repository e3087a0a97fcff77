"""Processes forked for a job each: fresh, in the right environment, and gone when they should be."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from sweeps.attempt.job import Job, Outcome, Trouble
from sweeps.attempt.journal import read
from sweeps.ledger.types import Needs
from sweeps.pools.base import PoolOptions
from sweeps.pools.processes import ProcessPool, Server
from tests.sweeps.tiny import tiny_data, tiny_job


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("tiny"))


class Runner(Server):
    """A server whose job is waited for."""

    def run(self, job: Job) -> Outcome:
        self.send(job, {})
        return self.receive(job)


@pytest.fixture(scope="module")
def server():
    server = Runner()
    yield server
    server.close()


def pid_of(job: Job, within_s: float = 60.0) -> int:
    """The process that trains `job`, once it does."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        path = Path(job.folder) / "journal.jsonl"
        records = read(path) if path.exists() else []
        if any(record.kind == "train" for record in records):
            return int(records[0].values["pid"])
        time.sleep(0.02)
    pytest.fail("the job does not begin to train")


def test_each_job_has_a_process_of_its_own(server, tmp_path, data):
    jobs = [tiny_job(data, tmp_path / name) for name in "ab"]
    outcomes = [server.run(job) for job in jobs]
    assert [outcome.status for outcome in outcomes] == ["finished", "finished"]
    assert outcomes[0].result["bound"] == outcomes[1].result["bound"]
    pids = {read(Path(job.folder) / "journal.jsonl")[0].values["pid"] for job in jobs}
    assert len(pids) == 2
    end = time.monotonic() + 10
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_failing_job_leaves_the_server_fit_for_the_next(server, tmp_path, data):
    bad = server.run(tiny_job(data, tmp_path / "bad", options={"micro_batch_size": "many"}))
    assert bad.trouble == Trouble.ERROR
    assert "Traceback" in bad.traceback
    assert server.alive
    assert server.run(tiny_job(data, tmp_path / "good")).status == "finished"


def test_a_killed_job_counts_as_lost_and_the_server_goes_on(server, tmp_path, data):
    job = tiny_job(data, tmp_path / "killed", steps=200_000)
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(server.run(job)))
    thread.start()
    os.kill(pid_of(job), signal.SIGKILL)
    thread.join()
    assert outcomes[0].trouble == Trouble.LOST
    assert "killed by SIGKILL" in outcomes[0].sentence
    assert server.run(tiny_job(data, tmp_path / "next")).status == "finished"


@pytest.mark.parametrize("how", ["its input ends", "it is killed"])
def test_without_its_server_a_job_stops_with_a_checkpoint(tmp_path, data, how):
    server = Server()
    job = tiny_job(data, tmp_path / "run", steps=200_000)
    server.send(job, {})
    process = psutil.Process(pid_of(job))
    if how == "it is killed":
        os.kill(process.ppid(), signal.SIGKILL)
    server.close()
    psutil.wait_procs([process], timeout=60)
    assert not process.is_running()
    assert list(Path(job.folder).glob("checkpoint-*.pt"))
    assert json.loads((Path(job.folder) / "result.json").read_text())["status"] == "preempted"


def test_jobs_with_gpus_see_their_own_only(tmp_path, data):
    """GPUs that only pretend: what a job finds in its environment is what counts."""
    pool = ProcessPool(PoolOptions(cpus=4, gpus=2))
    jobs = [
        tiny_job(data, tmp_path / name, steps=200_000, gpus=1.0, options={"device": "cpu"}) for name in "ab"
    ]
    try:
        handles = [pool.submit(job, Needs(gpus=1)) for job in jobs]
        assert pool.rack.find(Needs(gpus=1)) is None
        chosen = [pool._running[handle].gpus for handle in handles]
        assert sorted(chosen) == [(0,), (1,)]
        assert len({pid_of(job) for job in jobs}) == 2
    finally:
        pool.close()


def test_an_outcome_that_breaks_off_counts_as_lost(server, tmp_path, data, monkeypatch):
    monkeypatch.setattr(server, "output", io.BytesIO(b'{"status": "fini'))
    assert server.receive(tiny_job(data, tmp_path)).trouble == Trouble.LOST


def test_a_server_that_died_while_idle_is_replaced(tmp_path, data):
    pool = ProcessPool(PoolOptions(cpus=1, gpus=0))
    try:
        pool.warm(1)
        pool._idle[0].kill()
        while pool._idle[0].alive:
            time.sleep(0.01)
        handle = pool.submit(tiny_job(data, tmp_path), Needs())
        ended = []
        while not ended:
            ended = pool.wait(1.0)
        assert [(number, outcome.status) for number, outcome in ended] == [(handle, "finished")]
        assert len(pool._idle) == 1, "the dead one is gone"
    finally:
        pool.close()
