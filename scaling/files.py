"""Files that appear whole or not at all, and folders that only their owner can use."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from scaling.errors import UserError


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """A temporary path to write to: synced and renamed to `path` at the end, removed on any failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{threading.get_native_id()}.tmp")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Bring a file to the disk, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def private_folder(path: Path) -> Path:
    """`path` as a folder that only this user can enter, made if it is not there.

    UserError if it belongs to another user, who could make it first in a folder that all may write.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise UserError(
            f"{path} is a link, or belongs to user {status.st_uid}; it must be a folder of user "
            f"{os.getuid()}: remove it, or set TMPDIR to a folder of your own"
        )
    if status.st_mode & 0o077:
        path.chmod(0o700)
    return path


@contextmanager
def scratch_folder(base: Path) -> Iterator[Path]:
    """An empty folder in `base` that is gone afterwards; the next call removes those of killed processes."""
    base.mkdir(parents=True, exist_ok=True)
    for lock_path in base.glob("*.lock"):
        with suppress(OSError), lock_path.open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # free: its maker is dead
            shutil.rmtree(lock_path.with_suffix(""), ignore_errors=True)
            lock_path.unlink()
    folder = base / uuid.uuid4().hex[:8]
    lock_path = folder.with_suffix(".lock")
    with lock_path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            folder.mkdir()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock_path.unlink(missing_ok=True)
