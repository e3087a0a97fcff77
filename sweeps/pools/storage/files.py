"""Where attempts keep their files when driver and workers share no disk: anything with a URI.

A few verbs over pyarrow's filesystems, and over fsspec's for schemes that pyarrow does not know. Names are
relative to the URI, with slashes. A put is whole or nothing: object stores work like that by themselves,
elsewhere it is a temporary name and a rename.
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
"""What pyarrow is told beside what the URI says."""

OBJECT_STORES = frozenset(
    {"s3", "s3a", "gcs", "gs", "abfs", "abfss", "az", "adl", "oci", "oss", "tos", "memory"}
)
"""A put is whole or nothing there, and a rename is a copy."""

T = TypeVar("T")


class StorageError(OSError):
    """The storage does not answer, is full or refuses; trying again may help."""


def open_storage(uri: str) -> Storage:
    """The storage at `uri`: a folder's name, or what pyarrow or fsspec know (file, s3, gs, abfs, sftp, ...).

    UserError for a scheme nobody knows, a driver that is not installed and a URI that is malformed;
    StorageError where the storage has to be asked for that and does not answer.
    """
    if "://" not in uri:
        if not uri.strip() or re.match(r"[\w+]+:", uri):
            raise UserError(f"storage is {uri!r}, it must be a URI such as s3://bucket/folder, or a folder")
        folder = Path(uri).absolute()  # workers are elsewhere
        return Storage(*_filesystem(folder.as_uri()), str(folder))
    return Storage(*_filesystem(uri), uri)


def usable_storage(uri: str) -> Storage:
    """The storage at `uri`, after a small object was written there, read and removed.

    UserError where any of that fails.
    """
    try:
        storage = open_storage(uri)
        storage.check()
    except OSError as error:
        raise UserError(
            f"storage {without_secrets(uri)!r} cannot be used; check that bucket or folder exist and that "
            f"you may write there ({_line(error)})"
        ) from error
    return storage


def _filesystem(uri: str) -> tuple[Any, str]:
    from pyarrow import ArrowInvalid
    from pyarrow.fs import FileSystem

    shown = without_secrets(uri)
    scheme, _, rest = uri.partition("://")
    option = OPTIONS.get(scheme, "")
    if option and option.partition("=")[0] not in rest:
        uri += ("&" if "?" in rest else "?") + option
    try:
        try:
            found, path = FileSystem.from_uri(uri)
        except ArrowInvalid as error:
            if "Unrecognized filesystem type" not in str(error):
                raise
            found, path = FileSystem.from_uri(f"fsspec+{uri}")
    except ImportError as error:
        raise UserError(
            f"storage {shown!r} needs a package that is not installed: {_how_to_install(str(error))}"
        ) from error
    except ValueError as error:
        raise UserError(
            f"storage is {shown!r}, it must be a folder or a URI that pyarrow or fsspec know, "
            f"such as s3://bucket/folder or gs://bucket/folder ({_line(error)})"
        ) from error
    except Exception as error:  # a driver's own: no credentials, no network, no such server
        raise StorageError(f"cannot open {shown}: {_line(error)}") from error
    return found, path.rstrip("/")


def _how_to_install(said: str) -> str:
    """fsspec says "Install s3fs to access S3", or names the package its driver wants."""
    match = re.search(r"[Ii]nstall (\w[\w.-]*)|requires \"?([\w-]+)", said)
    package = next((name for name in match.groups() if name), None) if match else None
    return f"{said.rstrip('.')} (pip install {package})" if package else said


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
        """Make `source` the content of `name`. FileNotFoundError where the local file is gone."""
        opened = source.open("rb") if isinstance(source, Path) else io.BytesIO(source)
        with opened as file, self._told(f"put {name}"):
            self._put(file, f"{self._root}/{name}")

    def _put(self, file: IO[bytes], target: str) -> None:
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
            with suppress(Exception):  # what went wrong is told; this only tidies up
                self._files.delete_file(temporary)
            raise

    def _write(self, file: IO[bytes], path: str) -> None:
        size = 0
        with self._files.open_output_stream(path) as out:
            while chunk := file.read(CHUNK_BYTES):
                out.write(chunk)
                size += len(chunk)
        found = self._info(path).size
        if found != size:
            raise OSError(f"{found} bytes of {size} arrived")

    def get(self, name: str, target: Path) -> None:
        """Copy `name` to the local file `target`, whole or not at all. FileNotFoundError where it is not."""
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
        """The content of `name`. FileNotFoundError where there is none."""
        content = bytearray()
        self._read(name, content.extend)
        return bytes(content)

    def _read(self, name: str, write: Callable[[bytes], Any]) -> None:
        path, size = f"{self._root}/{name}", 0
        with self._told(f"read {name}", absent=True):
            wanted = self._info(path).size
            stream = self._files.open_input_stream(path)
        with stream:
            while chunk := self._chunk(stream, name):
                write(chunk)  # what goes wrong here is not the storage's fault
                size += len(chunk)
        if size < wanted:
            raise StorageError(f"only {size} bytes of {wanted} of {name} came from {self}")

    def _chunk(self, stream: Any, name: str) -> bytes:
        with self._told(f"read {name}"):
            chunk: bytes = stream.read(CHUNK_BYTES)
            return chunk

    def size(self, name: str) -> int:
        """Bytes of `name`. FileNotFoundError where there is none."""
        with self._told(f"look at {name}", absent=True):
            return int(self._info(f"{self._root}/{name}").size)

    def sizes(self, folder: str) -> dict[str, int]:
        """Name, relative to `folder`, -> bytes of every file in it or further down; none where it is not."""
        from pyarrow.fs import FileSelector, FileType

        base = f"{self._root}/{folder}"
        with self._told(f"list {folder}"):
            self._forget()
            found = self._files.get_file_info(FileSelector(base, recursive=True, allow_not_found=True))
        start = len(base.strip("/")) + 1
        files = {info.path.strip("/")[start:]: int(info.size) for info in found if info.type == FileType.File}
        return {name: size for name, size in files.items() if not name.endswith(".tmp")}

    def remove(self, name: str) -> None:
        """Nothing where it is not."""
        with suppress(FileNotFoundError), self._told(f"remove {name}", absent=True):
            self._info(f"{self._root}/{name}")
            self._files.delete_file(f"{self._root}/{name}")

    def check(self) -> None:
        """Write, read and remove a small object. OSError where that fails."""
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

        self._forget()
        info = self._files.get_file_info(path)
        if info.type != FileType.File:
            raise FileNotFoundError(f"{path} is not there")
        return info

    def _forget(self) -> None:
        """fsspec keeps listings, and would never see what others write."""
        if handler := getattr(self._files, "handler", None):
            handler.fs.invalidate_cache()

    @contextmanager
    def _told(self, what: str, *, absent: bool = False) -> Iterator[None]:
        """Drivers' own errors become one. absent: but that something is not there stays."""
        try:
            yield
        except Exception as error:
            if isinstance(error, StorageError) or (absent and isinstance(error, FileNotFoundError)):
                raise
            raise StorageError(f"cannot {what} in {self}: {_line(error)}") from error


def patiently(
    action: Callable[[], T], patience_s: float, *, give_up: Callable[[], object] = lambda: None
) -> T:
    """What `action` returns, tried again with growing pauses while the storage fails.

    StorageError after `patience_s`, or as soon as `give_up` says something.
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
