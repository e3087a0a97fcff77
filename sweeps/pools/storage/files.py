"""Files below a URI, for drivers and workers that share no disk.

A few methods over pyarrow's filesystems, and over fsspec's for schemes that pyarrow does not have. Names are
relative to the URI, with slashes. A file is put whole or not at all: object stores guarantee that themselves,
elsewhere it gets a temporary name and is renamed.
"""

from __future__ import annotations

import io
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from analysis.text import without_secrets
from scaling.errors import UserError
from scaling.files import write_whole

CHUNK_BYTES = 8 * 2**20
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
CHECK_S = 5.0
OPTIONS = {
    "s3": "allow_delayed_open=true",  # a small file is one request instead of three
    "gs": "retry_limit_seconds=30",  # pyarrow would try for a quarter of an hour by itself
    "gcs": "retry_limit_seconds=30",
}
"""Options for pyarrow that are added to the URI."""

OBJECT_STORES = frozenset(
    {"s3", "s3a", "gcs", "gs", "abfs", "abfss", "az", "adl", "oci", "oss", "tos", "memory"}
)
"""They put a file whole or not at all, and a rename is a copy."""

T = TypeVar("T")


class StorageError(OSError):
    """The storage does not answer, is full or refuses; trying again may help."""


def open_storage(uri: str) -> Storage:
    """The storage at `uri`: a folder's name, or a URI of pyarrow or fsspec (file, s3, gs, abfs, sftp, ...).

    UserError for an unknown scheme, a driver that is not installed and a malformed URI; StorageError if the
    driver needs an answer of the storage and gets none.
    """
    from pyarrow import ArrowInvalid
    from pyarrow.fs import FileSystem

    name = uri
    if "://" not in uri:
        if not uri.strip() or re.match(r"[\w+]+:", uri):
            raise UserError(f"storage is {uri!r}, it must be a URI such as s3://bucket/folder, or a folder")
        folder = Path(uri).absolute()  # workers start in other folders
        name, uri = str(folder), folder.as_uri()
    public = without_secrets(uri)
    scheme, _, rest = uri.partition("://")
    option = OPTIONS.get(scheme, "")
    if option and option.partition("=")[0] not in rest:
        uri += ("&" if "?" in rest else "?") + option
    try:
        try:
            filesystem, path = FileSystem.from_uri(uri)
        except ArrowInvalid as error:
            if "Unrecognized filesystem type" not in str(error):
                raise
            filesystem, path = FileSystem.from_uri(f"fsspec+{uri}")
    except ImportError as error:
        # fsspec says "Install s3fs to access S3", or names the package that its driver requires
        message = str(error)
        match = re.search(r"[Ii]nstall (\w[\w.-]*)|requires \"?([\w-]+)", message)
        remedy = f"{message.rstrip('.')} (pip install {match[1] or match[2]})" if match else message
        raise UserError(f"storage {public!r} needs a package that is not installed: {remedy}") from error
    except ValueError as error:
        raise UserError(
            f"storage is {public!r}, it must be a folder or a URI that pyarrow or fsspec can open, "
            f"such as s3://bucket/folder or gs://bucket/folder ({_line(error)})"
        ) from error
    except Exception as error:  # a driver's own: no credentials, no network, no such server
        raise StorageError(f"cannot open {public}: {_line(error)}") from error
    return Storage(filesystem, path.rstrip("/"), name)


def usable_storage(uri: str) -> Storage:
    """The storage at `uri`, after a check that a small object can be written, read and removed.

    UserError if it cannot.
    """
    try:
        storage = open_storage(uri)
        storage.check()
    except OSError as error:
        raise UserError(
            f"storage {without_secrets(uri)!r} cannot be used; check that the bucket or folder exists and "
            f"that you may write there ({_line(error)})"
        ) from error
    return storage


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class Storage:
    """Files by name below a URI. Any thread may call; each call tries once and raises StorageError."""

    def __init__(self, filesystem: Any, root: str, uri: str) -> None:
        """filesystem: one of pyarrow's. root: its name for the URI."""
        self._files, self._root, self.uri = filesystem, root, uri
        kinds = re.findall(r"\w+", filesystem.type_name.removeprefix("py::fsspec+"))
        self._renames = not OBJECT_STORES.intersection(kinds)

    def __str__(self) -> str:
        return without_secrets(self.uri)

    def put(self, source: Path | bytes, name: str) -> None:
        """Make `source` the content of `name`. FileNotFoundError if the local file is gone."""
        opened = source.open("rb") if isinstance(source, Path) else io.BytesIO(source)
        target = f"{self._root}/{name}"
        with opened as file, self._as_storage_error(f"put {name}"):
            if not self._renames:
                self._write(file, target)
                return
            folder, _, last = target.rpartition("/")
            temporary = f"{folder}/.{last}.{uuid.uuid4().hex[:8]}.tmp"
            self._files.create_dir(folder, recursive=True)
            try:
                self._write(file, temporary)
                self._files.move(temporary, target)
            except BaseException:
                with suppress(Exception):  # the first error counts
                    self._files.delete_file(temporary)
                raise

    def _write(self, file: IO[bytes], path: str) -> None:
        size = 0
        with self._files.open_output_stream(path) as out:
            while chunk := file.read(CHUNK_BYTES):
                out.write(chunk)
                size += len(chunk)
        arrived = self._info(path).size
        if arrived != size:
            raise OSError(f"{arrived} bytes of {size} arrived")

    def get(self, name: str, target: Path) -> None:
        """Copy `name` to the file `target`, whole or not at all. FileNotFoundError if it does not exist."""
        with write_whole(target) as temporary, temporary.open("wb") as file:
            self._read(name, file.write)

    def holds(self, name: str, source: Path) -> bool:
        """Whether `name` has the content of `source`."""
        same = []
        try:
            with source.open("rb") as file:
                self._read(name, lambda chunk: same.append(file.read(len(chunk)) == chunk))
                return all(same) and not file.read(1)
        except FileNotFoundError:
            return False

    def read(self, name: str) -> bytes:
        """The content of `name`. FileNotFoundError if it does not exist."""
        content = bytearray()
        self._read(name, content.extend)
        return bytes(content)

    def end(self, name: str, count: int) -> bytes:
        """The last `count` bytes of `name`, or all there are. FileNotFoundError if it does not exist."""
        with self._as_storage_error(f"read {name}", but_absent=True):
            path = f"{self._root}/{name}"
            start = max(0, self._info(path).size - count)
            with self._files.open_input_file(path) as file:
                file.seek(start)
                return bytes(file.read(count))

    def _read(self, name: str, write: Callable[[bytes], Any]) -> None:
        path, size = f"{self._root}/{name}", 0
        with self._as_storage_error(f"read {name}", but_absent=True):
            expected = self._info(path).size
            stream = self._files.open_input_stream(path)
        with stream:
            while True:
                with self._as_storage_error(f"read {name}"):
                    chunk = stream.read(CHUNK_BYTES)
                if not chunk:
                    break
                write(chunk)  # an error here is not the storage's
                size += len(chunk)
        if size < expected:
            raise StorageError(f"only {size} bytes of {expected} of {name} came from {self}")

    def size(self, name: str) -> int:
        """Bytes of `name`. FileNotFoundError if it does not exist."""
        with self._as_storage_error(f"look at {name}", but_absent=True):
            return int(self._info(f"{self._root}/{name}").size)

    def sizes(self, folder: str) -> dict[str, int]:
        """Name, relative to `folder`, and bytes of every file below it; none if it does not exist."""
        from pyarrow.fs import FileSelector, FileType

        base = f"{self._root}/{folder}"
        with self._as_storage_error(f"list {folder}"):
            self._drop_listings()
            infos = self._files.get_file_info(FileSelector(base, recursive=True, allow_not_found=True))
        start = len(base.strip("/")) + 1
        files = {info.path.strip("/")[start:]: int(info.size) for info in infos if info.type == FileType.File}
        return {name: size for name, size in files.items() if not name.endswith(".tmp")}

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        with suppress(FileNotFoundError), self._as_storage_error(f"remove {name}", but_absent=True):
            self._info(f"{self._root}/{name}")
            self._files.delete_file(f"{self._root}/{name}")

    def check(self) -> None:
        """Write, read and remove a small object. OSError if that fails."""
        name, content = f".check-{uuid.uuid4().hex}", uuid.uuid4().bytes

        def probe() -> None:
            self.put(content, name)
            read = self.read(name)
            self.remove(name)
            if read != content:
                raise StorageError(f"what was written to {self} is not what is read")

        patiently(probe, CHECK_S)

    def _info(self, path: str) -> Any:
        from pyarrow.fs import FileType

        self._drop_listings()
        info = self._files.get_file_info(path)
        if info.type != FileType.File:
            raise FileNotFoundError(f"{path} is not there")
        return info

    def _drop_listings(self) -> None:
        """fsspec keeps listings, and would never see files that others write."""
        if handler := getattr(self._files, "handler", None):
            handler.fs.invalidate_cache()

    @contextmanager
    def _as_storage_error(self, action: str, *, but_absent: bool = False) -> Iterator[None]:
        """Turn any error of a driver into StorageError. but_absent: except FileNotFoundError."""
        try:
            yield
        except Exception as error:
            if isinstance(error, StorageError) or (but_absent and isinstance(error, FileNotFoundError)):
                raise
            raise StorageError(f"cannot {action} in {self}: {_line(error)}") from error


def patiently(
    action: Callable[[], T], patience_s: float, *, give_up: Callable[[], object] = lambda: None
) -> T:
    """Call `action` until the storage does not fail, with growing pauses; returns its result.

    StorageError after `patience_s`, or as soon as `give_up` returns something true.
    """
    end, pause = time.monotonic() + patience_s, FIRST_PAUSE_S
    while True:
        try:
            return action()
        except StorageError:
            if give_up() or time.monotonic() + pause > end:
                raise
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
