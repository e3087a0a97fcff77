"""Weights of finished runs on a node that sees nothing of the driver's disk."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from scaling.errors import UserError
from scaling.training import load_run
from scaling.training.checkpoint import load_checkpoint, save_checkpoint
from sweeps.pools.entry import run as run_job
from sweeps.pools.storage.files import StorageError
from sweeps.pools.storage.weights import fetch_weights, is_whole
from tests.sweeps.bucket import Bucket
from tests.sweeps.pools.storage.test_mirror import (
    FAR,
    RUN,
    checkpoints,
    data,
    far_job,
    finished,
    quick,
    there,
)  # fmt: skip
from tests.sweeps.tiny import tiny_job

__all__ = ["data", "finished", "quick", "there"]


def fetched(path: str) -> int:
    """How often a file that ends like this was opened to be copied; its end was read once more each time."""
    return sum(call.startswith("open rb") and call.endswith(path) for call in Bucket.calls)


def stored_weights(there) -> str:
    (name,) = checkpoints(there)
    return f"{RUN}/attempt-001/{name}"


def test_weights_are_fetched_once_whole_and_without_anything_else(tmp_path, there, finished):
    Bucket.calls.clear()
    folder = fetch_weights(there, FAR, 1.0)
    assert folder.parent == tmp_path / "node" / "weights"
    assert sorted(path.name for path in folder.iterdir()) == [Path(stored_weights(there)).name, "spec.json"]
    assert load_run(folder).spec == finished
    assert fetched("journal.jsonl") == fetched("result.json") == 0
    weights = fetched(".pt")
    assert fetch_weights(there, FAR, 1.0) == folder
    assert fetched(".pt") == weights + 1, "of the second time only the checksum"


def test_weights_that_are_seen_are_not_fetched(tmp_path, data, there):
    near = tmp_path / RUN
    assert run_job(tiny_job(data, near)).status == "finished"
    Bucket.down = True
    assert fetch_weights(there, near, 1.0) == near


def test_workers_at_once_fetch_weights_once(there, finished):
    Bucket.calls.clear()
    folders: list[Path] = []
    threads = [
        threading.Thread(target=lambda: folders.append(fetch_weights(there, FAR, 1.0))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 4
    assert len(set(folders)) == 1
    assert fetched(".pt") == 4 + 1, "four read the checksum, one the rest"


def test_a_damaged_copy_of_weights_is_fetched_again(there, finished):
    folder = fetch_weights(there, FAR, 1.0)
    path = folder / Path(stored_weights(there)).name
    path.write_bytes(path.read_bytes()[:-50] + bytes(50))
    assert fetch_weights(there, FAR, 1.0) == folder
    assert is_whole(path)


def test_weights_of_another_training_are_other_weights(tmp_path, there, finished):
    first, name = fetch_weights(there, FAR, 1.0), stored_weights(there)
    state = load_checkpoint(first / Path(name).name)
    state["parameters"] += 1
    there.put(save_checkpoint(tmp_path, state.pop("step"), state), name)
    second = fetch_weights(there, FAR, 1.0)
    assert second != first
    assert (load_checkpoint(second / Path(name).name)["parameters"] == state["parameters"]).all()


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_weights_that_are_damaged_in_the_storage_are_refused_and_not_kept(tmp_path, there, finished, damage):
    name = stored_weights(there)
    content = there.read(name)
    changed = {"cut": content[:-1], "flipped": b"x" + content[1:], "empty": b""}[damage]
    there.put(changed, name)
    with pytest.raises(UserError, match=rf"the weights of run KEY in .* are damaged: {name} does not match"):
        fetch_weights(there, FAR, 1.0)
    assert not (tmp_path / "node" / "weights").exists()
    there.put(content, name.replace("attempt-001", "attempt-002"))
    assert load_run(fetch_weights(there, FAR, 1.0)).spec == finished  # another attempt got there, too


def test_weights_that_are_not_there_are_named(data, there):
    sentence = f"has no weights of run KEY in {RUN}: it has not finished, or it was trained without"
    with pytest.raises(UserError, match=sentence):
        fetch_weights(there, FAR, 1.0)
    run_job(far_job(data, there, options={"keep_weights": False, "checkpoint_every_s": 0.0}))
    path = "attempt-001/checkpoint-0000000001.pt"
    there.put(b"of the middle", f"{RUN}/{path}")
    with pytest.raises(UserError, match=sentence):
        fetch_weights(there, FAR, 1.0)
    there.put(b"{", f"{RUN}/spec.json")
    with pytest.raises(UserError, match=r"spec\.json in .* cannot be read as the spec of a run"):
        fetch_weights(there, FAR, 1.0)


def test_a_storage_that_does_not_answer_keeps_weights_waiting_for_so_long(there, finished):
    Bucket.down = True
    with pytest.raises(StorageError, match="503 Slow Down"):
        fetch_weights(there, FAR, 0.1)
    Bucket.down = False
    Bucket.failing = 0.3
    assert load_run(fetch_weights(there, FAR, 60.0)).spec == finished


def test_a_disk_without_room_for_weights_is_said(tmp_path, there, finished, monkeypatch):
    def full(name, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(there, "get", full)
    with pytest.raises(UserError, match=f"while writing weights to {tmp_path / 'node' / 'weights'}"):
        fetch_weights(there, FAR, 1.0)


def test_whole_and_damaged_checkpoints_are_told_apart(tmp_path):
    path = save_checkpoint(tmp_path, 1, {"key": "k"})
    content = path.read_bytes()
    assert is_whole(path)
    for damaged in (b"", content[:31], content[:-1], content + b"x", b"x" + content[1:]):
        path.write_bytes(damaged)
        assert not is_whole(path)
