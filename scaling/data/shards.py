"""Shards: the tokens of a corpus in files of bounded size, written once, then read window by window.

A prepared folder holds meta.json, `train-00000.bin`..., `heldout-00000.bin`... (plain little-endian uint8,
uint16 or uint32) and the tokenizer if it has a file. It appears by one rename, complete and synced, or not at
all. meta.json has the SHA-256 of each split. Beside each shard `train-00000.sums` has the CRC-32 of every
block of 4 KiB, which a reader compares when it first reads the block (some 3 microseconds). Folders made
before there were sums get them when `prepare` first checks them.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
import stat
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from scaling.errors import DataAwayError, DataDamagedError, UserError
from scaling.files import sync, write_whole

FORMAT = 1
SPLITS = ("train", "heldout")
META = "meta.json"
SHARD_BYTES = 1 << 28
BLOCK_BYTES = 1 << 12
CHECKED = ".checked.json"
"""Host -> name, size, time and inode of the shards that it has compared with their hashes."""
_WORKSHOP = "building"  # folder of the cache in which folders grow until they are renamed
_ABANDONED_S = 86_400.0
_MOST_TRIES = 100
"""How often a folder that is gone again is made anew: each time another builder has come to its end."""


def dtype_for(num_token_ids: int) -> np.dtype[Any]:
    """The smallest unsigned type that holds ids below `num_token_ids`."""
    kind = "<u1" if num_token_ids <= 1 << 8 else "<u2" if num_token_ids <= 1 << 16 else "<u4"
    return np.dtype(kind)


class SplitWriter:
    """Appends the tokens of one split to shards of at most `shard_bytes`, hashing them as they pass."""

    def __init__(
        self, folder: Path, split: str, dtype: np.dtype[Any], shard_bytes: int = SHARD_BYTES
    ) -> None:
        self._folder, self._split, self._dtype = folder, split, dtype
        self._capacity = max(1, shard_bytes // dtype.itemsize)
        self._file: IO[bytes] | None = None
        self._hash = hashlib.sha256()
        self.shards: list[int] = []  # tokens of each
        self.documents = 0
        self.text_bytes = 0  # UTF-8 bytes of the documents, one more each for their ends

    def add(self, tokens: np.ndarray, text_bytes: int) -> None:
        """Append one document's tokens."""
        self.documents += 1
        self.text_bytes += text_bytes
        data = np.ascontiguousarray(tokens, dtype=self._dtype)
        self._hash.update(data.data)
        while len(data):
            if self._file is None or self.shards[-1] == self._capacity:
                self.close()
                path = self._folder / shard_name(self._split, len(self.shards))
                self._file = open(path, "xb", buffering=1 << 20)  # noqa: SIM115 (close does)
                self.shards.append(0)
            part = data[: self._capacity - self.shards[-1]]
            self._file.write(part.data)
            self.shards[-1] += len(part)
            data = data[len(part) :]

    def close(self) -> None:
        """Bring the open shard to the disk."""
        if self._file is not None:
            file, self._file = self._file, None
            with file:
                file.flush()
                os.fsync(file.fileno())

    def summary(self) -> dict[str, Any]:
        """The entry of the split in meta.json."""
        return {
            "tokens": sum(self.shards),
            "documents": self.documents,
            "bytes": self.text_bytes,
            "sha256": self._hash.hexdigest(),
            "shards": self.shards,
        }


def shard_name(split: str, number: int) -> str:
    return f"{split}-{number:05d}.bin"


def write_meta(folder: Path, meta: dict[str, Any]) -> None:
    """Write meta.json, synced."""
    with write_whole(folder / META) as temporary:
        temporary.write_text(json.dumps(meta, indent=1), encoding="utf-8")


def fingerprint_of(meta: dict[str, Any]) -> str:
    """The fingerprint of a text corpus, computed from the rest of its meta.json."""
    identity = {
        "tokens": {split: facts["sha256"] for split, facts in meta["splits"].items()},
        "dtype": meta["dtype"],
        "tokenizer": meta["tokenizer_identity"],
        "num_token_ids": meta["num_token_ids"],
        "split": meta["split_rule"],
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def read_meta(folder: Path) -> dict[str, Any]:
    """meta.json of a prepared folder, after comparing the size of every shard with it.

    Raises DataAwayError if the folder or a shard is missing or cannot be read, DataDamagedError if one is cut
    short, and UserError if the folder is not a prepared one.
    """
    try:
        meta: dict[str, Any] = json.loads((folder / META).read_bytes())
        if not isinstance(meta, dict) or meta.get("format") != FORMAT:
            raise UserError(f"{folder} was not prepared by this version; prepare the corpus again")
        for path, size in _shards(folder, meta).items():
            if (actual := path.stat().st_size) != size:
                raise DataDamagedError(f"prepared data is damaged: {path} has {actual} bytes, not {size}")
    except OSError as problem:
        raise away(folder, problem) from problem
    except UserError:
        raise
    except (ValueError, KeyError, TypeError) as problem:
        raise DataDamagedError(f"prepared data is damaged: {folder / META}: {problem!r}") from None
    return meta


def _shards(folder: Path, meta: dict[str, Any]) -> dict[Path, int]:
    """Every shard and its bytes."""
    itemsize = np.dtype(meta["dtype"]).itemsize if meta["dtype"] else 0
    return {
        folder / shard_name(split, number): tokens * itemsize
        for split, facts in meta["splits"].items()
        for number, tokens in enumerate(facts["shards"])
    }


def away(folder: Path, problem: OSError) -> DataAwayError:
    """The error for prepared data that cannot be read."""
    missing = f"{folder} is not a prepared data folder" if isinstance(problem, FileNotFoundError) else folder
    return DataAwayError(f"prepared data cannot be read: {missing} ({problem})")


def damaged(folder: Path, fault: str) -> DataDamagedError:
    """The error for tokens that changed since they were written; the next `prepare` compares all of them."""
    with contextlib.suppress(OSError):
        (folder / CHECKED).unlink(missing_ok=True)
    return DataDamagedError(
        f"prepared data is damaged: {fault}; the next `scaling sweep` makes or fetches it again"
    )


def check_tokens(folder: Path, meta: dict[str, Any]) -> None:
    """Compare all tokens with the hashes in meta.json, and write the blocks' sums that are missing or wrong.

    Raises DataDamagedError or DataAwayError.
    """
    try:
        sums: dict[Path, bytes] = {}
        for split, facts in meta["splits"].items():
            digest = hashlib.sha256()
            for number in range(len(facts["shards"])):
                path = folder / shard_name(split, number)
                checksums: list[int] = []
                with open(path, "rb") as file:
                    while block := file.read(BLOCK_BYTES):
                        digest.update(block)
                        checksums.append(zlib.crc32(block))
                sums[path.with_suffix(".sums")] = np.array(checksums, "<u4").tobytes()
            if digest.hexdigest() != facts["sha256"]:
                raise damaged(folder, f"the {split} tokens in {folder} do not match their SHA-256")
        if sums and fingerprint_of(meta) != meta["fingerprint"]:
            raise damaged(folder, f"{folder / META} does not match its fingerprint")
    except OSError as problem:
        raise away(folder, problem) from problem
    with contextlib.suppress(OSError):  # another user's folder: its blocks go unchecked
        for path, content in sums.items():
            if not path.exists() or path.read_bytes() != content:
                with write_whole(path) as temporary:
                    temporary.write_bytes(content)


def read_checked(folder: Path) -> dict[str, Any]:
    """`read_meta`, and `check_tokens` unless this host has checked these very files before."""
    meta, host = read_meta(folder), socket.gethostname()
    status = {path.name: path.stat() for path in _shards(folder, meta)}
    files = [[name, at.st_size, at.st_mtime_ns, at.st_ino] for name, at in status.items()]
    try:
        before = dict(json.loads((folder / CHECKED).read_bytes()))
    except (OSError, ValueError, TypeError):
        before = {}
    if before.get(host, []) != files:
        check_tokens(folder, meta)
        with contextlib.suppress(OSError), write_whole(folder / CHECKED) as temporary:
            temporary.write_text(json.dumps({**before, host: files}))
    return meta


class Workshop:
    """The place to build one folder of a cache: a lock makes a second builder wait, temporaries vanish."""

    def __init__(self, cache: Path, name: str, content: str = "tokens") -> None:
        """content: what is built, for messages."""
        assert "." not in name, "a temporary folder is called NAME.OWNER"
        self.cache, self.name, self.content = cache, name, content
        self.target = cache / name
        self._workshop = cache / _WORKSHOP
        self._alone = False  # whether a lock proves that this is the only builder of the name

    @contextlib.contextmanager
    def locked(self, on_wait: Callable[[], None]) -> Iterator[None]:
        """Hold the name's lock; the kernel frees it when its holder dies, however it dies.

        `on_wait` is called once if another builder holds it. On a file system without locks two builders
        may work side by side: publishing lets one win. Folders made on the way that stay empty are removed.
        """
        made = [folder for folder in (self._workshop, self.cache, *self.cache.parents) if not folder.exists()]
        with _explained(self.cache, self.content):
            lock = self._take_lock(on_wait)
        with lock:
            try:
                yield
            finally:
                # Unlinked while held: a waiting builder sees that the lock file is gone, and starts over.
                self._lock_path(self.name).unlink(missing_ok=True)
                # not empty: something was published, or others are building
                with contextlib.suppress(OSError):
                    for folder in made or [self._workshop]:
                        folder.rmdir()

    def _take_lock(self, on_wait: Callable[[], None]) -> IO[str]:
        path = self._lock_path(self.name)
        tries = 0
        while True:
            tries += 1
            try:
                self._workshop.mkdir(parents=True, exist_ok=True)
                lock = open(path, "a")  # noqa: SIM115 (returned open)
            except (FileNotFoundError, FileExistsError) as problem:
                if _in_the_way(problem):
                    raise
                if tries == _MOST_TRIES:  # /proc, an automount: no folder can be made there at all
                    why = "no folder can be made there"
                    raise UserError(f"cannot write {self.content} to {self.cache}: {why}") from None
                continue  # the last builder tidied up in between
            taken = _flock(lock, wait=False)
            if taken is False:
                on_wait()
                taken = _flock(lock, wait=True)
            self._alone = taken is True
            with contextlib.suppress(FileNotFoundError):  # its last holder removed it: start over
                if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                    return lock
            lock.close()

    def _lock_path(self, name: str) -> Path:
        return self._workshop / f"{name}.lock"

    @contextlib.contextmanager
    def folder(self) -> Iterator[Path]:
        """A fresh folder to build in, published on success and removed on any failure.

        Raises UserError if the disk is full or the cache cannot be written.
        """
        self._sweep()
        owner = f"{socket.gethostname()}.{os.getpid()}-{uuid.uuid4().hex[:8]}"
        temporary = self._workshop / f"{self.name}.{owner}"
        with _explained(self.cache, self.content):
            try:
                temporary.mkdir()
                yield temporary
                self._publish(temporary)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    def _publish(self, temporary: Path) -> None:
        sync(temporary)
        aside = temporary.with_name(temporary.name + ".damaged")
        while True:
            try:
                os.rename(temporary, self.target)
                break
            except OSError as problem:
                if problem.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            try:
                read_checked(self.target)  # another builder was first: its folder is as good as ours
                break
            except UserError:
                os.rename(self.target, aside)
                shutil.rmtree(aside, ignore_errors=True)
        sync(self.cache)

    def _sweep(self) -> None:
        """Remove leftovers of killed builders: of this host if their lock is free, of others after a day."""
        for leftover in self._workshop.iterdir():
            name, _, maker = leftover.name.partition(".")
            if maker == "lock":
                continue
            here = maker.startswith(socket.gethostname() + ".")
            free = here and (self._alone if name == self.name else self._lock_is_free(name))
            with contextlib.suppress(OSError):  # it vanishes just now
                newest = max(path.stat().st_mtime for path in [leftover, *leftover.iterdir()])
                if free or time.time() - newest > _ABANDONED_S:
                    shutil.rmtree(leftover, ignore_errors=True)

    def _lock_is_free(self, name: str) -> bool:
        try:
            with open(self._lock_path(name), "r+") as lock:
                return _flock(lock, wait=False) is True
        except FileNotFoundError:
            return True


def _flock(lock: IO[str], *, wait: bool) -> bool | None:
    """Take a file's lock. True: taken; False: another holds it; None: the file system has no locks."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        return False if problem.errno == errno.EWOULDBLOCK else None
    return True


_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}
_REFUSED = {
    errno.EEXIST: "a file is in the way",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "not a folder",
}


def _in_the_way(problem: OSError) -> bool:
    """Whether a file is in the place of the new folder, rather than a folder having come or gone."""
    try:
        return not stat.S_ISDIR(os.lstat(problem.filename).st_mode)
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _explained(cache: Path, content: str) -> Iterator[None]:
    """Turn a full disk or a folder that cannot be written into one sentence."""
    try:
        yield
    except OSError as problem:
        if problem.errno in _FULL:
            sentence = f"{_FULL[problem.errno]} while writing {content} to {cache}; nothing was kept"
            raise UserError(f"{sentence}: free some space or name a folder elsewhere") from problem
        if problem.errno in _REFUSED:
            why = _REFUSED[problem.errno]
            raise UserError(f"cannot write {content} to {cache}: {why} ({problem.filename})") from problem
        raise
