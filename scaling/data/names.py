"""What the parts of this package share when they read what a user wrote."""

import contextlib
import difflib
import glob
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from scaling.errors import UserError

Document = tuple[str, bytes]  # id for messages and tests, UTF-8 text


def nearest(name: str, names: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the known name closest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


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


def parse_options(
    text: str, where: str, defaults: dict[str, int | float | str]
) -> dict[str, int | float | str]:
    """`"a=1&b=2"` over `defaults`; each value gets the type of its default.

    Raises UserError for an unknown option, a missing `=` or a value of the wrong type.
    """
    options = dict(defaults)
    for item in filter(None, text.split("&")):
        name, equals, value = item.partition("=")
        if name not in defaults:
            raise UserError(
                f"{where}: unknown option {name!r}{nearest(name, defaults)}; known: {', '.join(defaults)}"
            )
        kind = type(defaults[name])
        try:
            options[name] = kind(value)
        except ValueError:
            raise UserError(f"{where}: {name}={value!r} should be {_KINDS[kind]}") from None
        if not equals:
            raise UserError(f"{where}: option {name!r} has no value; write {name}={defaults[name]}")
    return options


_KINDS = {int: "a whole number", float: "a number", str: "text"}


def file_stamps(files: tuple[Path, ...]) -> list[object]:
    """Path, size and modification time of each file."""
    stamps: list[object] = []
    for file in files:
        status = file.stat() if file.exists() else None  # it may have gone since it was found
        stamps.append([os.path.abspath(file), status and status.st_size, status and status.st_mtime_ns])
    return stamps


def file_bytes(files: tuple[Path, ...]) -> int:
    """Bytes of those files that exist."""
    return sum(file.stat().st_size for file in files if file.exists())
