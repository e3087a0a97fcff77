"""Checkpoints: whole or not at all, damage is noticed, the last intact one is found."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from scaling.training.checkpoint import (
    KEPT,
    DamagedCheckpointError,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)


def state(value: float, key: str = "k") -> dict[str, Any]:
    return {
        "key": key,
        "weights": torch.full((50,), value),
        "progress": {"average": value, "first": float("inf")},
    }


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 7, state(1.5))
    loaded = load_checkpoint(path)
    assert loaded["step"] == 7
    assert torch.equal(loaded["weights"], state(1.5)["weights"])
    assert loaded["progress"] == state(1.5)["progress"]
    assert names(tmp_path) == ["checkpoint-0000000007.pt"]


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10, 300):
        save_checkpoint(tmp_path, step, state(step))
    assert KEPT == 2
    assert names(tmp_path) == ["checkpoint-0000000010.pt", "checkpoint-0000000300.pt"]


def test_any_damage_is_noticed(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, state(1.0))
    content = path.read_bytes()
    places = [
        0,
        1,
        60,
        len(content) // 3,
        len(content) // 2,
        len(content) - 33,
        len(content) - 32,
        len(content) - 1,
    ]
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(DamagedCheckpointError, match="is damaged"):
            load_checkpoint(path)
    for length in (0, 1, 31, 32, 33, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(DamagedCheckpointError, match="is damaged"):
            load_checkpoint(path)
    path.write_bytes(content + b"x")
    with pytest.raises(DamagedCheckpointError, match="is damaged"):
        load_checkpoint(path)


def test_the_newest_intact_one_of_any_attempt_is_found(tmp_path: Path) -> None:
    first, second = tmp_path / "attempt-001", tmp_path / "attempt-002"
    first.mkdir()
    second.mkdir()
    for step in (3, 4):
        save_checkpoint(first, step, state(step))
    save_checkpoint(second, 6, state(6.0))
    newest = save_checkpoint(second, 9, state(9.0))

    path, damaged = newest_checkpoint([second, first, tmp_path / "never-made"], "k")
    assert path is not None
    assert (path["step"], damaged) == (9, [])
    for expected in (6, 4, 3, None):
        newest.write_bytes(newest.read_bytes()[:-5])
        path, damaged = newest_checkpoint([second, first], "k")
        assert (path and path["step"]) == expected
        assert str(newest) in " ".join(damaged)
        if expected:
            newest = (first if expected < 5 else second) / f"checkpoint-{expected:010d}.pt"


def test_a_later_attempt_leaves_no_more_checkpoints_than_an_undisturbed_run(tmp_path: Path) -> None:
    """Those beyond the step it continued from are damaged, or of a node that was taken for dead."""
    first, second, third = (tmp_path / f"attempt-00{number}" for number in (1, 2, 3))
    for folder in (first, second, third):
        folder.mkdir()
    for folder, steps in ((first, (3, 4)), (second, (6, 9))):
        for step in steps:
            save_checkpoint(folder, step, state(step))
    (second / "checkpoint.tmp").write_bytes(b"half of it")
    (second / ".checkpoint-0000000010.pt.77.tmp").write_bytes(b"half of it")

    def left() -> list[str]:
        return sorted(f"{path.parent.name[-1]}:{path.name}" for path in tmp_path.glob("*/*"))

    save_checkpoint(third, 7, state(7.0), resumed=6, earlier=[second, first])
    assert left() == ["2:checkpoint-0000000006.pt", "3:checkpoint-0000000007.pt"]
    save_checkpoint(third, 8, state(8.0), resumed=6, earlier=[second, first])
    assert left() == ["3:checkpoint-0000000007.pt", "3:checkpoint-0000000008.pt"]


def test_one_that_cannot_be_read_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Removed between listing and reading by an attempt still alive, or a bad sector."""
    for step in (1, 2):
        save_checkpoint(tmp_path, step, state(step))
    real = Path.read_bytes

    def gone(path: Path) -> bytes:
        if "2.pt" in path.name:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", gone)
    newest, damaged = newest_checkpoint([tmp_path], "k")
    assert newest is not None
    assert newest["step"] == 1
    assert "cannot be read" in damaged[0]


def test_another_runs_checkpoint_is_not_taken(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 5, state(5.0, key="mine"))
    save_checkpoint(tmp_path, 8, state(8.0, key="other"))
    path, damaged = newest_checkpoint([tmp_path], "mine")
    assert path is not None
    assert (path["step"], damaged) == (5, [])
    assert newest_checkpoint([tmp_path], "third") == (None, [])


def test_a_damaged_later_one_does_not_crowd_out_intact_ones(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 4, state(4.0))
    broken = save_checkpoint(tmp_path, 100, state(100.0))
    broken.write_bytes(b"torn")
    for step in (5, 6, 7):
        save_checkpoint(tmp_path, step, state(step))
    intact = [p for p in names(tmp_path) if p != broken.name]
    assert intact == ["checkpoint-0000000006.pt", "checkpoint-0000000007.pt"]


def test_a_full_disk_leaves_the_earlier_ones_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, 1, state(1.0))

    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, 2, state(2.0))
    assert names(tmp_path) == ["checkpoint-0000000001.pt"]
    path, damaged = newest_checkpoint([tmp_path], "k")
    assert path is not None
    assert (path["step"], damaged) == (1, [])


def test_a_write_that_stops_half_way(tmp_path: Path) -> None:
    """The kernel refuses bytes beyond 1000: what was written of the new file is gone, the old one stays."""
    save_checkpoint(tmp_path, 1, state(1.0))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        with pytest.raises(OSError, match="File too large"):
            save_checkpoint(tmp_path, 2, state(2.0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["checkpoint-0000000001.pt"]


def test_what_a_killed_writer_left_is_no_checkpoint(tmp_path: Path) -> None:
    for name in ("checkpoint.tmp", ".checkpoint-0000000001.pt.77.tmp"):
        (tmp_path / name).write_bytes(b"half of it")
    assert newest_checkpoint([tmp_path], "k") == (None, [])
    save_checkpoint(tmp_path, 1, state(1.0))
    assert names(tmp_path) == ["checkpoint-0000000001.pt"]


@pytest.mark.parametrize("payload", [[1, 2], b"\x80\x02.", b""])
def test_what_is_no_checkpoint_is_passed_over_whatever_its_checksum(tmp_path: Path, payload: object) -> None:
    content = payload if isinstance(payload, bytes) else saved(payload)
    path = tmp_path / "checkpoint-0000000009.pt"
    path.write_bytes(content + hashlib.sha256(content).digest())
    save_checkpoint(tmp_path, 1, state(1.0))
    newest, damaged = newest_checkpoint([tmp_path], "k")
    assert newest is not None
    assert (newest["step"], len(damaged)) == (1, 1)
    assert str(path) in damaged[0]


def saved(value: object) -> bytes:
    payload = io.BytesIO()
    torch.save(value, payload)
    return payload.getvalue()


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    """Tensors and plain data only: a pickle that would call something is refused as damaged."""

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    payload = io.BytesIO()
    torch.save({"step": 1, "key": "k", "trap": Trap()}, payload)
    content = payload.getvalue()
    path = tmp_path / "checkpoint-0000000001.pt"
    path.write_bytes(content + hashlib.sha256(content).digest())
    with pytest.raises(DamagedCheckpointError, match="cannot be read"):
        load_checkpoint(path)
    assert not (tmp_path / "sprung").exists()
