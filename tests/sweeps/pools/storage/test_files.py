"""Storages by their URI: the same few verbs on folders, buckets and whatever fsspec knows."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.errors import UserError
from sweeps.pools.storage import files as storages
from sweeps.pools.storage.files import StorageError, open_storage, patiently, usable_storage
from tests.sweeps import bucket
from tests.sweeps.s3_server import s3_server


@pytest.fixture(params=["folder", "file", "fsspec", "bucket", "s3"])
def storage(request, tmp_path):
    uris = {
        "folder": str(tmp_path / "new" / "folder"),
        "file": (tmp_path / "new").as_uri(),
        "fsspec": f"fsspec+local://{tmp_path}/new",
        "bucket": bucket.fresh(),
    }
    if request.param in uris:
        yield usable_storage(uris[request.param])
        return
    with s3_server() as server:
        yield usable_storage(server.uri("experiments"))


def test_what_is_put_can_be_read_listed_replaced_and_removed(storage, tmp_path):
    big = bytes(range(256)) * 70_000
    (tmp_path / "big").write_bytes(big)
    storage.put(b"one", "run/attempt-001/journal.jsonl")
    storage.put(tmp_path / "big", "run/attempt-002/checkpoint.pt")
    storage.put(b"three", "run/spec.json")
    assert storage.sizes("run") == {
        "attempt-001/journal.jsonl": 3,
        "attempt-002/checkpoint.pt": len(big),
        "spec.json": 5,
    }
    storage.put(b"longer", "run/attempt-001/journal.jsonl")
    assert storage.read("run/attempt-001/journal.jsonl") == b"longer"
    assert storage.size("run/attempt-001/journal.jsonl") == 6
    storage.get("run/attempt-002/checkpoint.pt", tmp_path / "there" / "copy")
    assert (tmp_path / "there" / "copy").read_bytes() == big
    assert storage.end("run/attempt-002/checkpoint.pt", 1000) == big[-1000:]
    assert storage.end("run/spec.json", 32) == b"three"
    storage.remove("run/spec.json")
    storage.remove("run/spec.json")
    assert "spec.json" not in storage.sizes("run")
    assert storage.sizes("run/attempt-001") == {"journal.jsonl": 6}


def test_what_is_not_there_is_told_from_what_fails(storage, tmp_path):
    assert storage.sizes("nothing") == {}
    for action in (
        storage.read,
        storage.size,
        lambda name: storage.end(name, 4),
        lambda name: storage.get(name, tmp_path / "copy"),
    ):
        with pytest.raises(FileNotFoundError):
            action("nothing")
    assert not (tmp_path / "copy").exists()
    with pytest.raises(FileNotFoundError):
        storage.put(tmp_path / "nothing", "name")
    assert storage.sizes("") == {}  # and checking it left nothing behind


def test_what_others_write_is_seen():
    """fsspec keeps listings unless told not to."""
    uri = bucket.fresh()
    mine, theirs = open_storage(uri), open_storage(uri)
    assert mine.sizes("stop") == {}
    theirs.put(b"", "stop/all")
    assert mine.sizes("stop") == {"all": 0}


def test_a_put_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    storage = usable_storage(str(tmp_path))
    storage.put(b"whole", "name")
    real = storage._write

    def half(file, path):
        real(file, path)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "_write", half)
    with pytest.raises(StorageError, match="No space left"):
        storage.put(b"half", "name")
    assert storage.read("name") == b"whole"
    assert [path.name for path in tmp_path.iterdir()] == ["name"]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from([b"a", b"bb", b"ccc"]), min_size=1, max_size=6), st.integers(0, 99))
def test_whatever_the_weather_what_is_read_was_put_whole(contents, seed):
    storage = open_storage(bucket.fresh())
    bucket.Bucket.draws.seed(seed)
    bucket.Bucket.failing = 0.3
    allowed = {None}
    for content in contents:
        try:
            storage.put(content, "name")
            allowed = {content}
        except StorageError:
            allowed.add(content)  # it may have arrived
    bucket.Bucket.failing = 0.0
    try:
        assert storage.read("name") in allowed
    except FileNotFoundError:
        assert None in allowed


def test_trying_again_is_spaced_and_bounded(monkeypatch):
    clock = [0.0]
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(storages.time, "sleep", sleep)
    monkeypatch.setattr(storages.time, "monotonic", lambda: clock[0])
    left = [4]

    def comes_back():
        left[0] -= 1
        if left[0]:
            raise StorageError("away")
        return "there"

    assert patiently(comes_back, 60) == "there"
    assert pauses == [0.5, 1.0, 2.0]

    def away():
        raise StorageError("away")

    with pytest.raises(StorageError):
        patiently(away, 600)
    assert max(pauses) == storages.LONGEST_PAUSE_S
    assert 570 < clock[0] < 604
    tries = len(pauses)
    with pytest.raises(StorageError):
        patiently(away, 600, give_up=lambda: "Ctrl-C")
    assert len(pauses) == tries


# -- what a user can get wrong ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("", "must be a URI such as"),
        ("s3:/bucket", "must be a URI such as"),
        ("nonsense://bucket", "Protocol not known: nonsense"),
        ("s3://bucket/x?colour=red", "colour"),
        ("oss://bucket/x", "pip install ossfs"),
        ("sftp://host/x", "pip install paramiko"),
    ],
)
def test_a_uri_that_cannot_be_meant(uri, says):
    with pytest.raises(UserError, match=says):
        usable_storage(uri)


def test_a_place_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(storages, "CHECK_S", 0.0)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/below' cannot be used"):
        usable_storage(f"{tmp_path}/file/below")


def test_buckets_that_do_not_exist_or_refuse(monkeypatch):
    monkeypatch.setattr(storages, "CHECK_S", 0.0)
    with s3_server() as server:
        with pytest.raises(UserError, match="NO_SUCH_BUCKET") as caught:
            usable_storage(server.uri("x", bucket="elsewhere"))
        assert "secret" not in str(caught.value)
        server.denied = True
        with pytest.raises(UserError, match="ACCESS_DENIED"):
            usable_storage(server.uri("x"))
        assert not server.objects


def test_a_failing_bucket_is_tried_again(monkeypatch):
    with s3_server() as server:
        server.down = True
        threading.Timer(0.5, lambda: setattr(server, "down", False)).start()
        began = time.monotonic()
        usable_storage(server.uri("x"))
        assert time.monotonic() - began < 10


def test_small_files_are_one_request():
    with s3_server() as server:
        storage = open_storage(server.uri("x"))
        storage.put(b"small", "name")
        assert [line.split()[0] for line in server.log] == ["PUT", "HEAD"]


def test_importing_it_loads_no_pyarrow():
    code = "import sys, sweeps.pools.storage.pool; print('pyarrow' in sys.modules, 'torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False"]
