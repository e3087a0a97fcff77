"""What the parts of this package share when they read what a user wrote."""

import difflib
import glob
import os
from collections.abc import Iterable
from pathlib import Path

from scaling.errors import UserError


def nearest(name: str, known: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the known name closest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def find_files(scheme: str, pattern: str) -> tuple[Path, ...]:
    """Files that match a glob (`**` reaches into folders, `~` is the home folder), sorted by path.

    Raises UserError if nothing matches.
    """
    if not pattern:
        raise UserError(f"corpus '{scheme}:' names no files; write {scheme}:PATH or {scheme}:GLOB")
    expanded = os.path.expanduser(pattern)
    matches = [expanded] if os.path.isfile(expanded) else glob.glob(expanded, recursive=True)
    files = sorted(path for path in matches if os.path.isfile(path))
    if files:
        return tuple(Path(path) for path in files)
    if os.path.isdir(expanded):
        raise UserError(f"corpus '{scheme}:{pattern}' is a folder; write {scheme}:{pattern.rstrip('/')}/**/*")
    raise UserError(f"corpus '{scheme}:{pattern}': no file matches {pattern!r} (seen from {os.getcwd()})")


def split_suffix(text: str, mark: str) -> tuple[str, str | None]:
    """`"a#b" -> ("a", "b")` and `"a" -> ("a", None)`, cut at the last `mark`."""
    head, found, tail = text.rpartition(mark)
    return (head, tail) if found else (text, None)


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
