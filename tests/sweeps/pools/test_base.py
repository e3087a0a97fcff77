"""Pools: room on nodes, plain processes and Ray, and what becomes of a worker that is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from scaling.errors import UserError
from sweeps.attempt.job import Job, Outcome, Trouble, failure, in_fresh_process_next, lost
from sweeps.attempt.journal import read
from sweeps.attempt.worker import run_job
from sweeps.ledger.types import Needs
from sweeps.pools.base import PoolOptions
from sweeps.pools.start import start
from tests.sweeps.tiny import tiny_data, tiny_job


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("tiny"))


def outcome_of(pool, handle: int, within_s: float = 120) -> Outcome:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        for ended, outcome in pool.wait(1.0):
            if ended == handle:
                return outcome
    pytest.fail(f"job {handle} has not ended within {within_s} s")


def worker_pid(job: Job, within_s: float = 120) -> int:
    """The process that runs the job, from its journal, once it trains."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        records = read(Path(job.folder) / "journal.jsonl")
        if any(r.kind == "train" for r in records):
            return records[0].values["pid"]
        time.sleep(0.02)
    pytest.fail("the job does not begin to train")


# -- failures -----------------------------------------------------------------------------------


def test_only_some_failures_call_for_a_fresh_process():
    assert in_fresh_process_next(failure(MemoryError()))
    assert in_fresh_process_next(failure(IndexError()))
    assert not in_fresh_process_next(failure(UserError("x")))
    assert not in_fresh_process_next(Outcome(status="finished", sentence=""))


def test_unknown_pools_and_addresses():
    with pytest.raises(UserError, match="one of ray, local"):
        start("slurm")
    with pytest.raises(UserError, match="has no address"):
        start("local", PoolOptions(address="x:1"))


# -- processes ----------------------------------------------------------------------------------


@pytest.fixture
def local(tmp_path):
    pool = start("local", PoolOptions(cpus=2, gpus=0, logs=tmp_path / "logs"))
    pool.ready()
    yield pool
    pool.close()
    pool.close()


def test_plain_processes_run_jobs_and_survive_a_killed_worker(local, tmp_path, data):
    assert local.rack.slots(Needs()) == 2
    assert local.rack.refusal(Needs(cpus=3)) is not None
    local.warm(1)
    short = tiny_job(data, tmp_path / "short")
    long = tiny_job(data, tmp_path / "long", steps=20_000)
    first, second = local.submit(long, Needs()), local.submit(short, Needs())
    assert local.rack.find(Needs()) is None
    assert outcome_of(local, second).status == "finished"
    os.kill(worker_pid(long), signal.SIGKILL)
    outcome = outcome_of(local, first)
    assert (outcome.status, outcome.trouble) == ("failed", Trouble.LOST)
    assert "SIGKILL" in outcome.sentence
    again = local.submit(tiny_job(data, tmp_path / "again"), Needs())
    assert outcome_of(local, again).status == "finished"
    doomed = tiny_job(data, tmp_path / "killed", steps=200_000)
    handle = local.submit(doomed, Needs())
    process = psutil.Process(worker_pid(doomed))
    local.kill(handle)
    assert outcome_of(local, handle).status == "preempted"
    local.kill(handle)
    with suppress(psutil.NoSuchProcess):  # its pipe closes a moment before it has ended
        end = time.monotonic() + 10
        while process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < end:
            time.sleep(0.02)
        assert process.status() == psutil.STATUS_ZOMBIE, "the job ends with its server"


def test_what_a_worker_wrote_before_it_died_counts(tmp_path, data):
    job = tiny_job(data, tmp_path)
    assert lost(job, "gone").trouble == Trouble.LOST
    done = run_job(job)
    assert lost(job, "gone") == done


def test_a_worker_whose_driver_dies_stops_with_a_checkpoint(tmp_path, data):
    job = tiny_job(data, tmp_path, steps=200_000)
    code = (
        "import json, sys, time; from sweeps.pools.start import *\n"
        "from sweeps.ledger.types import Needs; from sweeps.attempt.job import Job\n"
        "pool = start('local', PoolOptions(cpus=1))\n"
        "pool.submit(Job.from_dict(json.loads(sys.argv[1])), Needs())\n"
        "time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, json.dumps(asdict(job))]) as driver:
        worker = psutil.Process(worker_pid(job))
        driver.kill()
    worker.wait(60)
    records = read(Path(job.folder) / "journal.jsonl")
    assert records[-1].kind == "end"
    assert "SIGTERM" in records[-1].values["sentence"]
    assert list(Path(job.folder).glob("checkpoint-*.pt"))


# -- Ray ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ray_pool():
    pool = start("ray", PoolOptions(cpus=2, gpus=1))
    pool.warm(1)
    pool.ready()
    yield pool
    pool.close()


def test_ray_runs_jobs(ray_pool, tmp_path, data):
    assert ray_pool.rack.slots(Needs()) == 2
    assert ray_pool.rack.slots(Needs(gpus=0.5)) == 2
    assert "8 GPU" in ray_pool.rack.refusal(Needs(gpus=8))
    job = tiny_job(data, tmp_path)
    handle = ray_pool.submit(job, Needs(memory_bytes=1e8))
    assert ray_pool.rack.find(Needs()) is not None
    assert ray_pool.rack.find(Needs(cpus=2)) is None
    outcome = outcome_of(ray_pool, handle)
    assert outcome.status == "finished", outcome.traceback
    process = psutil.Process(worker_pid(job))
    assert process.environ()["MALLOC_TRIM_THRESHOLD_"] == "1000000000000"
    assert process.environ()["RAY_USAGE_STATS_ENABLED"] == "0"


def test_ray_tells_of_a_killed_worker(ray_pool, tmp_path, data):
    job = tiny_job(data, tmp_path, steps=200_000)
    handle = ray_pool.submit(job, Needs())
    os.kill(worker_pid(job), signal.SIGKILL)
    outcome = outcome_of(ray_pool, handle)
    assert (outcome.status, outcome.trouble) == ("failed", Trouble.LOST)


def test_ray_stops_a_job_by_file_and_kills_it_at_once(ray_pool, tmp_path, data):
    stop = tmp_path / "stop"
    jobs = [tiny_job(data, tmp_path / name, steps=200_000, stop_files=(str(stop),)) for name in "ab"]
    handles = [ray_pool.submit(job, Needs()) for job in jobs]
    for job in jobs:
        worker_pid(job)
    ray_pool.kill(handles[0])
    assert outcome_of(ray_pool, handles[0]).sentence == "stopped at once, as asked"
    stop.write_text("stopped by Ctrl-C")
    outcome = outcome_of(ray_pool, handles[1])
    assert outcome.status == "preempted"
    assert "Ctrl-C" in outcome.sentence


def test_ray_replaces_a_process_after_a_failure(ray_pool, tmp_path, data):
    bad = tiny_job(data, tmp_path, options={"micro_batch_size": "many"})
    outcome = outcome_of(ray_pool, ray_pool.submit(bad, Needs()))
    assert outcome.trouble == Trouble.ERROR
    assert "Traceback" in outcome.traceback
    pid = read(Path(bad.folder) / "journal.jsonl")[0].values["pid"]
    end = time.monotonic() + 30
    while psutil.pid_exists(pid) and time.monotonic() < end:
        time.sleep(0.1)
    assert not psutil.pid_exists(pid)


@pytest.mark.chaos
@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_ray_that_dies_here_is_started_again(ray_pool, tmp_path, data, name):
    job = tiny_job(data, tmp_path / "lost", steps=200_000)
    handle = ray_pool.submit(job, Needs())
    worker_pid(job)
    [process] = [p for p in psutil.Process().children(recursive=True) if p.name() == name]
    process.kill()
    outcome = outcome_of(ray_pool, handle)
    assert (outcome.status, outcome.trouble) == ("failed", Trouble.LOST)
    end = time.monotonic() + 60
    while (full := ray_pool.rack.slots(Needs()) != 2 or process.is_running()) and time.monotonic() < end:
        time.sleep(0.2)
    assert not full
    assert ray_pool.rack.refusal(Needs()) is None
    handle = ray_pool.submit(tiny_job(data, tmp_path / "again"), Needs())
    assert outcome_of(ray_pool, handle).status == "finished"


def test_a_cluster_that_does_not_answer_is_refused_within_seconds(monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    began = time.monotonic()
    with pytest.raises(UserError, match=f"no Ray cluster answers at '127.0.0.1:{port}'"):
        start("ray", PoolOptions(address=f"127.0.0.1:{port}"))
    monkeypatch.setenv("RAY_ADDRESS", f"ray://127.0.0.1:{port}")
    with pytest.raises(UserError, match="no Ray cluster answers"):
        start("ray")
    with pytest.raises(UserError, match="must be HOST:PORT"):
        start("ray", PoolOptions(address="the big one"))
    assert time.monotonic() - began < 10


def test_a_local_cluster_has_a_secret_of_its_own_and_short_paths(monkeypatch, tmp_path):
    from sweeps.pools.ray import session as ray_session

    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    ray_session.prepare_local_environment()
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    deep = tmp_path / ("a" * 60) / ("b" * 60)
    monkeypatch.setenv("RAY_TMPDIR", str(deep))
    with ray_session.session_folder() as folder:
        assert not folder.startswith(str(tmp_path))
    assert not deep.exists()


def test_nobody_else_can_enter_the_folder_of_ray(monkeypatch):
    from sweeps.pools.ray import session as ray_session

    base = Path(tempfile.mkdtemp(prefix="rf", dir="/tmp"))
    try:
        monkeypatch.setenv("RAY_TMPDIR", str(base))
        with ray_session.session_folder() as folder:
            os.chmod(folder, 0o777)  # as Ray does with what it is given
            mine = base / f"ray-{os.getuid()}"
            assert Path(folder).parent == mine
            assert mine.stat().st_mode & 0o777 == 0o700
        assert list(mine.iterdir()) == []
        (mine / "deadbeef").mkdir()
        (mine / "deadbeef.lock").write_text("")  # of a driver that was killed
        with ray_session.session_folder():
            assert not (mine / "deadbeef").exists()
        other = os.getuid() + 1
        mine.rename(base / f"ray-{other}")
        monkeypatch.setattr(os, "getuid", lambda: other)
        with pytest.raises(UserError, match="belongs to user"), ray_session.session_folder():
            pass
    finally:
        shutil.rmtree(base)


def test_a_node_low_on_memory_is_not_the_runs_own_want(ray_pool, tmp_path, data, monkeypatch):
    import ray

    handle = ray_pool.submit(tiny_job(data, tmp_path), Needs())

    def killed_by_ray(task):
        raise ray.exceptions.OutOfMemoryError("Task was killed due to the node running low on memory.")

    monkeypatch.setattr(ray, "get", killed_by_ray)
    outcome = outcome_of(ray_pool, handle)
    assert (outcome.status, outcome.trouble) == ("failed", Trouble.NODE_MEMORY)
    assert "the node was low on memory" in outcome.sentence


def test_a_pool_may_close_while_its_workers_still_load():
    """Ray would end the whole process, without a word of Python, were it asked anything after that."""
    script = (
        "from sweeps.pools.base import PoolOptions; from sweeps.pools.start import start\n"
        "ray = start('ray', PoolOptions(cpus=1)); ray.warm(1); ray.ready(); ray.close()\n"
        "print('still here')\n"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (out.returncode, out.stdout) == (0, "still here\n"), out.stderr
