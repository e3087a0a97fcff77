"""An object store in memory, behind fsspec: whole puts, no rename, and failures on demand."""

from __future__ import annotations

import io
import random
from typing import ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

PROTOCOL = "bucket"


class BucketError(Exception):
    """As drivers have errors of their own, which derive from nothing useful."""


class Bucket(MemoryFileSystem):
    """`bucket://name/...`; every new name is an empty store of its own, shared by all that open it."""

    protocol = (PROTOCOL, "s3")  # so it is known to put whole files
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]
    failing: ClassVar[float] = 0.0
    """Share of calls that fail."""
    down: ClassVar[bool] = False
    calls: ClassVar[list[str]] = []
    draws: ClassVar[random.Random] = random.Random(0)

    def _weather(self, what: str) -> None:
        Bucket.calls.append(what)
        if Bucket.down or Bucket.draws.random() < Bucket.failing:
            raise BucketError(f"503 Slow Down ({what})")

    def _open(self, path, mode="rb", **options):
        self._weather(f"open {mode} {path}")
        if "r" in mode:
            return io.BytesIO(super()._open(path, mode="rb", **options).getvalue())
        return _Upload(self, path)

    def info(self, path, **options):
        self._weather(f"info {path}")
        return super().info(path, **options)

    def find(self, path, *arguments, **options):
        self._weather(f"find {path}")
        return super().find(path, *arguments, **options)

    def mv(self, *arguments, **options):
        raise AssertionError("an object store has no rename")

    mv_file = mv

    def mkdirs(self, *arguments, **options):
        raise AssertionError("an object store has no folders")

    mkdir = makedirs = mkdirs


class _Upload(io.BytesIO):
    """Appears when it is closed, whole; or fails just then."""

    def __init__(self, bucket: Bucket, path: str) -> None:
        super().__init__()
        self.bucket, self.path = bucket, path

    def close(self) -> None:
        if self.closed:
            return
        content = self.getvalue()
        super().close()
        self.bucket._weather(f"put {self.path}")
        with MemoryFileSystem._open(self.bucket, self.bucket._strip_protocol(self.path), mode="wb") as file:
            file.write(content)


def fresh() -> str:
    """URI of an empty bucket in fair weather."""
    fsspec.register_implementation(PROTOCOL, Bucket, clobber=True)
    Bucket.store.clear()
    Bucket.pseudo_dirs[:] = [""]
    Bucket.calls.clear()
    Bucket.failing, Bucket.down, Bucket.draws = 0.0, False, random.Random(0)
    return f"{PROTOCOL}://lab/experiments"
