"""A worker that shares no disk with its driver, in all kinds of weather."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from scaling.data import open_dataset
from scaling.errors import UserError
from scaling.spec import DistillationSettings, RunSpec, distilled
from scaling.training import load_run, train
from scaling.training.checkpoint import load_checkpoint, save_checkpoint
from sweeps.attempt import journal
from sweeps.attempt.job import Job, Outcome, Trouble
from sweeps.attempt.worker import Stop
from sweeps.pools.entry import run as run_job
from sweeps.pools.storage import files as storage
from sweeps.pools.storage import mirror
from sweeps.pools.storage.files import StorageError, open_storage
from sweeps.pools.storage.mirror import fetch_dataset, put_dataset
from sweeps.pools.storage.weights import fetch_weights
from tests.sweeps import bucket
from tests.sweeps.attempt.test_worker import fake
from tests.sweeps.bucket import Bucket
from tests.sweeps.tiny import tiny_data, tiny_job, tiny_spec

RUN = "toy/uniform/runs/KEY"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    """A node of its own, and less patience."""
    monkeypatch.setenv("SCALING_SCRATCH", str(tmp_path / "node"))
    for name, seconds in {"WATCH_S": 0.05, "CHECKPOINTS_S": 0.02, "START_S": 0.5, "LAST_S": 0.5}.items():
        monkeypatch.setattr(mirror, name, seconds)
    monkeypatch.setattr(storage, "FIRST_PAUSE_S", 0.02)


@pytest.fixture
def there(data):
    opened = open_storage(bucket.fresh())
    put_dataset(opened, data.folder)
    return opened


def far_job(data, there, *, attempt: int = 1, **values) -> Job:
    """A job whose paths mean nothing on the worker's machine."""
    job = tiny_job(data, Path("/nowhere") / RUN, attempt=attempt, **values)
    stop_files = tuple(f"/nowhere/toy/ledger/stop/{name}" for name in ("driver", f"{job.key}-{attempt}"))
    return replace(job, dataset="/nowhere/data", storage=there.uri, stop_files=stop_files)


def checkpoints(there, attempt: int = 1) -> list[str]:
    return sorted(n for n in there.sizes(f"{RUN}/attempt-{attempt:03d}") if n.startswith("checkpoint"))


def attempts_left(tmp_path) -> list[Path]:
    return list((tmp_path / "node" / "attempts").iterdir())


def wait_for(what, within_s: float = 20.0) -> None:
    end = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < end, "it did not come to that in time"
        time.sleep(0.01)


# -- a run, from start to end -------------------------------------------------------------------


def test_a_run_without_a_shared_disk_is_the_run_with_one(tmp_path, data, there):
    near = run_job(tiny_job(data, tmp_path / "near"))
    far = run_job(far_job(data, there, options={"checkpoint_every_s": 0.0}))
    assert far.status == "finished", far.traceback
    assert far.result["bound"] == near.result["bound"]  # to the last bit
    place = f"{RUN}/attempt-001"
    assert there.read(f"{place}/journal.jsonl").decode() == far.journal
    assert {"journal.jsonl", "result.json"} <= there.sizes(place).keys()
    assert checkpoints(there)
    assert "spec.json" in there.sizes(RUN)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "journal.jsonl").write_text(far.journal)
    assert [r.kind for r in journal.read(tmp_path / "copy" / "journal.jsonl")][-1] == "end"
    assert attempts_left(tmp_path) == []
    assert not Path("/nowhere").exists()


@pytest.mark.parametrize("seed", range(4))
def test_in_bad_weather_too(tmp_path, data, there, seed):
    Bucket.draws.seed(seed)
    Bucket.failing = 0.2
    far = run_job(far_job(data, there))
    Bucket.failing = 0.0
    assert far.status == "finished", far.sentence
    assert far.result["bound"] == run_job(tiny_job(data, tmp_path / "near")).result["bound"]


def test_a_storage_that_goes_away_stops_no_run(data, there):
    def gone(**arguments):
        Bucket.down = True

    outcome = run_job(far_job(data, there), train=fake(act=gone))
    assert outcome.status == "finished"
    assert '"kind":"end"' in outcome.journal  # by the pool
    assert outcome.worker_s < 10


def test_a_storage_that_is_away_gives_the_attempt_back(data, there):
    Bucket.down = True
    outcome = run_job(far_job(data, there), train=fake(error=AssertionError("started")))
    assert outcome.status == "preempted"
    assert "503 Slow Down" in outcome.sentence
    assert outcome.journal == ""


def test_a_missing_driver_package_is_this_nodes_trouble(data, there):
    outcome = run_job(replace(far_job(data, there), storage="oss://lab/x"))
    assert (outcome.status, outcome.trouble) == ("failed", Trouble.ERROR)
    assert "pip install ossfs" in outcome.sentence


def test_what_goes_wrong_in_a_run_is_told_as_ever(data, there):
    outcome = run_job(far_job(data, there), train=fake(error=MemoryError("no room")))
    assert (outcome.status, outcome.trouble) == ("failed", Trouble.MEMORY)
    assert '"kind":"start"' in outcome.journal


# -- checkpoints --------------------------------------------------------------------------------


def saving(*steps: int, there, then=lambda: None):
    """Train that writes checkpoints and waits until each is in the storage."""

    def act(folder, log, **arguments):
        for step in steps:
            log({"kind": "train", "step": step, "loss": 1.0})
            save_checkpoint(folder, step, {"key": "any"})
            wait_for(lambda step=step: f"checkpoint-{step:010d}.pt" in checkpoints(there))
        then()

    return act


def test_two_checkpoints_are_kept_and_older_ones_removed(data, there):
    outcome = run_job(
        far_job(data, there), train=fake(status="preempted", act=saving(10, 20, 30, there=there))
    )
    assert outcome.status == "preempted", outcome.traceback
    assert checkpoints(there) == ["checkpoint-0000000020.pt", "checkpoint-0000000030.pt"]


@pytest.mark.parametrize("keep", [True, False])
def test_of_a_finished_run_the_last_checkpoint_is_kept_unless_it_is_unwanted(data, there, keep):
    job = far_job(data, there, options={"keep_weights": keep})
    outcome = run_job(job, train=fake(act=saving(10, 20, there=there)))
    assert outcome.status == "finished", outcome.traceback
    assert checkpoints(there) == (["checkpoint-0000000020.pt"] if keep else [])


def test_a_checkpoint_that_cannot_be_put_costs_no_earlier_one(data, there):
    def full(folder, log, **arguments):
        saving(10, 20, there=there)(folder, log)
        Bucket.down = True
        save_checkpoint(folder, 30, {"key": "any"})
        time.sleep(0.2)

    run_job(far_job(data, there), train=fake(act=full))
    Bucket.down = False
    assert checkpoints(there) == ["checkpoint-0000000010.pt", "checkpoint-0000000020.pt"]


def test_where_a_checkpoint_is_the_journal_up_to_it_is(data, there, monkeypatch):
    monkeypatch.setattr(mirror, "WATCH_S", 60.0)

    def look():
        text = there.read(f"{RUN}/attempt-001/journal.jsonl").decode()
        assert '"step":10' in text

    outcome = run_job(far_job(data, there), train=fake(act=saving(10, there=there, then=look)))
    assert outcome.status == "finished", outcome.traceback


@pytest.mark.parametrize("damage", ["none", "cut", "flipped", "empty", "gone"])
def test_the_next_attempt_goes_on_from_the_newest_whole_checkpoint(tmp_path, data, there, damage):
    whole = run_job(tiny_job(data, tmp_path / "whole", steps=120))
    key = far_job(data, there, steps=120).key
    spec = tiny_spec(data, steps=120)
    train(spec, open_dataset(data.folder), tmp_path / "first", log=lambda _: None, checkpoint_every_s=0.0)
    left = sorted((tmp_path / "first").glob("checkpoint-*.pt"))
    assert len(left) == 2
    assert load_checkpoint(left[0])["key"] == key
    contents = [path.read_bytes() for path in left]
    contents[1] = {
        "none": contents[1],
        "cut": contents[1][:-100],
        "flipped": contents[1][:500] + bytes([contents[1][500] ^ 1]) + contents[1][501:],
        "empty": b"",
        "gone": contents[1],
    }[damage]
    for path, content in zip(left, contents, strict=True):
        there.put(content, f"{RUN}/attempt-001/{path.name}")
    if damage == "gone":
        there.remove(f"{RUN}/attempt-001/{left[1].name}")
    again = run_job(far_job(data, there, attempt=2, steps=120))
    records = _records(tmp_path, again)
    expected = left[1] if damage == "none" else left[0]
    assert next(r.step for r in records if r.kind == "resumed") == int(expected.stem[-10:])
    assert any("damaged" in str(r) for r in records) == (damage in ("cut", "flipped", "empty"))
    assert again.result["bound"] == whole.result["bound"]


def _records(tmp_path, outcome: Outcome) -> list[journal.Record]:
    path = tmp_path / "journal"
    path.write_text(outcome.journal or "")
    return journal.read(path)


def test_what_an_earlier_attempt_finished_is_not_trained_again(data, there):
    first = run_job(far_job(data, there), train=fake())
    again = run_job(far_job(data, there, attempt=2), train=fake(error=AssertionError("trained twice")))
    assert again.status == "finished"
    assert again.result == first.result


# -- runs that read the weights of others -------------------------------------------------------

FAR = Path("/nowhere") / RUN


@pytest.fixture
def finished(data, there):
    """A run whose weights are in the storage, as its worker leaves them."""
    assert run_job(far_job(data, there)).status == "finished"
    return RunSpec.from_dict(far_job(data, there).spec)


def distilling(data, there, finished: RunSpec, **values) -> Job:
    spec = distilled(finished, DistillationSettings(rounds=2, steps_per_round=3), batch_size=4)
    job = far_job(data, there)
    folder = str(FAR.with_name("CHILD") / "attempt-001")
    return replace(job, key=spec.key, spec=spec.to_dict(), folder=folder, runs={"parent": str(FAR)}, **values)


def test_a_run_is_distilled_from_weights_in_the_storage(tmp_path, data, there, finished):
    outcome = run_job(distilling(data, there, finished))
    assert outcome.status == "finished", outcome.traceback
    parent = fetch_weights(there, FAR, 1.0)
    near = distilling(data, there, finished, storage=None, dataset=str(data.folder), stop_files=())
    near = replace(near, folder=str(tmp_path / "near" / "attempt-001"), runs={"parent": str(parent)})
    assert outcome.result["bound_average"] == run_job(near).result["bound_average"]


def test_a_run_whose_parent_has_no_weights_is_not_tried_again(data, there, finished):
    (name,) = checkpoints(there)
    there.remove(f"{RUN}/attempt-001/{name}")
    outcome = run_job(distilling(data, there, finished))
    assert (outcome.status, outcome.trouble) == ("failed", Trouble.USER)
    assert "has no weights of run KEY" in outcome.sentence


def test_another_dataset_of_such_a_run_is_fetched_too(data, there, finished):
    job = replace(far_job(data, there), runs={"judge": str(FAR)}, datasets={"judge": "/nowhere/other"})
    jobs: list[Job] = []

    def run(local: Job) -> Outcome:
        jobs.append(local)
        return Outcome(status="finished", sentence="")

    assert mirror.run_mirrored(job, run, Stop()).status == "finished"
    assert load_run(Path(jobs[0].runs["judge"])).spec == finished
    assert mirror.fingerprint_of(Path(jobs[0].datasets["judge"])) == data.fingerprint


# -- stopping -----------------------------------------------------------------------------------


def patient(folder, should_stop, **arguments) -> None:
    wait_for(should_stop)


@pytest.mark.parametrize("which", [0, 1])
def test_a_stop_file_in_the_storage_stops_a_run(data, there, which):
    job = far_job(data, there)
    name = Path(job.stop_files[which]).name
    threading.Timer(0.3, lambda: there.put(b"stopped by Ctrl-C", f"toy/stop/{name}")).start()
    outcome = run_job(job, train=fake(act=patient))
    assert (outcome.status, outcome.sentence) == ("preempted", "stopped by Ctrl-C")


def test_other_peoples_stop_files_do_not(data, there):
    there.put(b"stop", "toy/stop/another-driver")
    there.put(b"stop", "tay/stop/driver")
    assert run_job(far_job(data, there), train=fake(act=lambda **_: time.sleep(0.3))).status == "finished"


def test_a_later_attempt_makes_an_earlier_one_stop(data, there):
    threading.Timer(0.3, lambda: there.put(b"", f"{RUN}/attempt-002/journal.jsonl")).start()
    outcome = run_job(far_job(data, there), train=fake(act=patient))
    assert outcome.status == "preempted"
    assert "taken over" in outcome.sentence


def test_the_storage_is_asked_every_few_seconds_at_most(data, there, monkeypatch):
    monkeypatch.setattr(mirror, "WATCH_S", 0.5)
    run_job(far_job(data, there), train=fake(act=lambda **_: time.sleep(1.2)))
    assert sum(call.startswith("find") and call.endswith("toy/stop") for call in Bucket.calls) <= 3


# -- data ---------------------------------------------------------------------------------------


def test_a_dataset_that_is_seen_is_not_fetched(tmp_path, data, there):
    job = replace(far_job(data, there), dataset=str(data.folder))
    assert fetch_dataset(there, Path(job.dataset), data.fingerprint) == data.folder
    assert not (tmp_path / "node").exists()


def test_workers_at_once_fetch_a_dataset_once(tmp_path, data, there):
    job = far_job(data, there)
    Bucket.calls.clear()
    folders: list[Path] = []
    threads = [
        threading.Thread(
            target=lambda: folders.append(fetch_dataset(there, Path(job.dataset), data.fingerprint))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 4
    assert len(set(folders)) == 1
    copied, whole = (
        {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}
        for folder in (folders[0], data.folder)
    )
    assert copied == whole
    assert sum("open rb" in call and "train-00000.bin" in call for call in Bucket.calls) == 1


def test_a_dataset_is_announced_last_and_half_of_one_is_not_used(data):
    there = open_storage(bucket.fresh())
    Bucket.calls.clear()
    put_dataset(there, data.folder)
    puts = [call.rpartition("/")[2] for call in Bucket.calls if call.startswith("put ")]
    assert puts[-1] == "meta.json"
    assert sorted(puts) == sorted(path.name for path in data.folder.iterdir() if path.name[0] != ".")
    put_dataset(there, data.folder)
    assert len([call for call in Bucket.calls if call.startswith("put ")]) == len(puts)  # once
    there.remove(f"data/{data.fingerprint}/meta.json")
    with pytest.raises(StorageError, match="has no dataset"):
        fetch_dataset(there, Path(far_job(data, there).dataset), data.fingerprint)


def test_a_damaged_copy_on_the_node_is_fetched_again(data, there):
    job = far_job(data, there)
    folder = fetch_dataset(there, Path(job.dataset), data.fingerprint)
    (folder / "train-00000.bin").write_bytes(b"cut")
    assert fetch_dataset(there, Path(job.dataset), data.fingerprint) == folder
    assert (folder / "train-00000.bin").read_bytes() == (data.folder / "train-00000.bin").read_bytes()


@pytest.mark.parametrize("name", ["train-00000.bin", "heldout-00000.bin", "meta.json"])
def test_a_damaged_copy_in_the_storage_is_not_used_and_the_next_put_mends_it(data, there, name):
    place = f"data/{data.fingerprint}/{name}"
    content = bytearray(there.read(place))
    content[content.find(b'"sha256"') + 12 if name == "meta.json" else len(content) // 2] ^= 1
    there.put(bytes(content), place)
    with pytest.raises(UserError, match=r"the copy of the data in .* is damaged"):
        fetch_dataset(there, Path(far_job(data, there).dataset), data.fingerprint)
    outcome = run_job(far_job(data, there))
    assert (outcome.status, outcome.trouble) == ("failed", Trouble.DATA)
    put_dataset(there, data.folder)
    assert there.read(place) == (data.folder / name).read_bytes()
    assert run_job(far_job(data, there)).status == "finished"


def test_a_copy_on_the_node_with_a_changed_byte_is_fetched_again(data, there):
    job = far_job(data, there)
    shard = fetch_dataset(there, Path(job.dataset), data.fingerprint) / "heldout-00000.bin"
    content, times = shard.read_bytes(), shard.stat()
    shard.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a bad disk does
    outcome = run_job(job)
    assert (outcome.status, outcome.trouble) == ("failed", Trouble.DATA)
    assert "prepared data is damaged" in outcome.sentence
    assert run_job(replace(job, attempt=2)).status == "finished"
    assert shard.read_bytes() == content


# -- the node -----------------------------------------------------------------------------------


def test_the_folder_for_data_is_this_users_alone(tmp_path, data, there, monkeypatch):
    monkeypatch.delenv("SCALING_SCRATCH")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = fetch_dataset(there, Path(far_job(data, there).dataset), data.fingerprint).parents[1]
    assert folder == tmp_path / f"scaling-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    other = os.getuid() + 1
    folder.rename(tmp_path / f"scaling-{other}")
    monkeypatch.setattr(os, "getuid", lambda: other)
    outcome = run_job(far_job(data, there))
    assert outcome.status == "failed"
    assert "belongs to user" in outcome.sentence


def test_a_full_node_is_told_as_a_full_disk(data, there, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mirror, "fetch_dataset", full)
    assert run_job(far_job(data, there)).trouble == Trouble.DISK
