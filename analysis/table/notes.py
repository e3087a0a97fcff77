"""Stars and notes that people give to runs, in a small JSON file beside a sweep or a table."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from analysis.errors import UserError
from analysis.files import write_whole
from analysis.text import printable

LONGEST = 2000
"""Characters of a note."""


def read_notes(path: Path) -> dict[str, dict[str, Any]]:
    """{key of a run: {"star": bool, "note": text}}; {} without the file, UserError for any other file."""
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: stars and notes cannot be read ({error}); mend or remove the file"
        ) from None
    if not isinstance(notes, dict) or not all(
        isinstance(one, dict) and isinstance(one.get("star"), bool) and isinstance(one.get("note"), str)
        for one in notes.values()
    ):
        raise UserError(
            f'{path}: holds no stars and notes of runs, {{key: {{"star": true, "note": "text"}}}}'
        )
    return notes


def write_note(path: Path, key: str, *, star: bool, note: str) -> dict[str, dict[str, Any]]:
    """Keep star and note of one run, those of the others stay; returns all. UserError if that cannot be."""
    if len(note) > LONGEST:
        raise UserError(f"the note has {len(note):,} characters; {LONGEST:,} is the most")
    plain = "\n".join(printable(line) for line in note.strip().splitlines())
    with _alone(path.parent):
        notes = read_notes(path)  # anew: another page may have written since
        notes.pop(key, None)
        if star or plain:
            notes[key] = {"star": star, "note": plain}
        write_whole(path, (json.dumps(notes, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())
    return notes


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, so that two servers do not write at once; it leaves no file behind.

    A file system without locks on folders (some NFS) goes without.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror or error})") from None
    try:
        with suppress(OSError):
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def why_not(path: Path | None) -> str:
    """Why stars and notes cannot be written there, in a sentence; "" if they can."""
    if path is None:
        return "Stars and notes are kept beside a sweep, a database file or a table; here they have no place."
    if not os.access(path if path.exists() else path.parent, os.W_OK) or not os.access(path.parent, os.W_OK):
        return f"Stars and notes cannot be changed: {path.parent} cannot be written."
    return ""
