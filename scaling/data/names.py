"""The name of a corpus as the user wrote it: its files, suffixes and options."""

import contextlib
import glob
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from scaling.errors import UserError, unknown

Document = tuple[str, bytes]  # id for messages and tests, UTF-8 text


def find_files(scheme: str, pattern: str) -> tuple[Path, ...]:
    """Files that match a glob (`**` reaches into folders, `~` is the home folder), sorted by path.

    A file or folder that links show under several names counts once. Raises UserError if nothing matches.
    """
    if not pattern:
        raise UserError(f"corpus '{scheme}:' names no files; write {scheme}:PATH or {scheme}:GLOB")
    expanded = os.path.expanduser(pattern)
    matches = [expanded] if os.path.isfile(expanded) else _glob(expanded)
    files: dict[tuple[int, int], str] = {}
    for path in sorted(matches):
        with contextlib.suppress(OSError):  # gone since, or a link to nothing
            status = os.stat(path)
            if stat.S_ISREG(status.st_mode):
                files.setdefault((status.st_dev, status.st_ino), path)
    if files:
        return tuple(Path(path) for path in files.values())
    if os.path.isdir(expanded):
        raise UserError(f"corpus '{scheme}:{pattern}' is a folder; write {scheme}:{pattern.rstrip('/')}/**/*")
    raise UserError(f"corpus '{scheme}:{pattern}': no file matches {pattern!r} (seen from {os.getcwd()})")


def _glob(pattern: str) -> Iterator[str]:
    """As `glob.glob(recursive=True)`, but each folder below `**` once: links that lead back have no end."""
    parts = pattern.split(os.sep)
    if "**" not in parts:
        yield from glob.glob(pattern)
        return
    at = parts.index("**")
    rest = os.sep.join(parts[at + 1 :] or ["*"])
    for top in glob.glob(os.sep.join(parts[:at]) + os.sep) if at else [""]:
        for folder in _folders(top):
            yield from _glob(glob.escape(folder) + rest)


def _folders(top: str) -> list[str]:
    """`top` and the folders below it, each once, with a slash at their ends."""
    paths: dict[tuple[int, int], str] = {}
    queue = [top]
    while queue:
        folder = queue.pop()
        status = os.stat(folder or ".")
        if paths.setdefault((status.st_dev, status.st_ino), folder) == folder:
            queue += sorted(glob.glob(glob.escape(folder) + "*" + os.sep), reverse=True)
    return list(paths.values())


def split_suffix(text: str, mark: str) -> tuple[str, str | None]:
    """`"a#b" -> ("a", "b")` and `"a" -> ("a", None)`, cut at the last `mark`."""
    head, mark_there, tail = text.rpartition(mark)
    return (head, tail) if mark_there else (text, None)


Options = dict[str, int | float | str]


def parse_options(text: str, owner: str, defaults: Options) -> Options:
    """`"a=1&b=2"` over `defaults`; each value gets the type of its default.

    Raises UserError for an unknown option, a missing `=` or a value of the wrong type.
    """
    options = dict(defaults)
    for item in filter(None, text.split("&")):
        name, equals, value = item.partition("=")
        if name not in defaults:
            raise unknown("option", name, defaults, f" of {owner}")
        kind = type(defaults[name])
        try:
            options[name] = kind(value)
        except ValueError:
            raise UserError(f"{owner}: {name}={value!r} should be {_KINDS[kind]}") from None
        if not equals:
            raise UserError(f"{owner}: option {name!r} has no value; write {name}={defaults[name]}")
    return options


_KINDS = {int: "a whole number", float: "a number", str: "text"}


def file_stamps(files: tuple[Path, ...]) -> list[object]:
    """Path, size and modification time of each file."""
    stamps: list[object] = []
    for file in files:
        status = file.stat() if file.exists() else None  # it may be gone by now
        stamps.append([os.path.abspath(file), status and status.st_size, status and status.st_mtime_ns])
    return stamps


class FileCorpus:
    """Documents in local files."""

    name: str
    files: tuple[Path, ...]

    def stamp(self) -> list[object]:
        return file_stamps(self.files)

    def total_bytes(self) -> int | None:
        """Bytes of all files: for records an upper guess, as markup and compression count too."""
        return sum(file.stat().st_size for file in self.files if file.exists())

    def fail(self, place: object, why: str) -> UserError:
        return UserError(f"corpus '{self.name}': {place}: {why}")
