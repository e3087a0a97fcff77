"""Stars and notes in their file: kept, changed, and never at the cost of what is there."""

from __future__ import annotations

import fcntl
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from analysis.errors import UserError
from analysis.table import notes
from analysis.table.notes import LONGEST, read_notes, why_not, write_note


def test_what_was_written_is_read_again_and_the_rest_stays(tmp_path: Path) -> None:
    path = tmp_path / "notes.json"
    assert read_notes(path) == {}
    write_note(path, "a", star=True, note=" two\nlines \x1b ")
    write_note(path, "b", star=False, note="bad data")
    first = {"star": True, "note": "two\nlines \\x1b"}
    assert read_notes(path) == {"a": first, "b": {"star": False, "note": "bad data"}}
    assert write_note(path, "b", star=False, note=" ") == {"a": first}, "without either there is no entry"
    assert [one.name for one in tmp_path.iterdir()] == ["notes.json"], "no unfinished file is left"


@pytest.mark.parametrize("content", ["{", "[]", '{"a": "x"}', '{"a": {"star": 1, "note": ""}}', "\xff"])
def test_a_file_of_something_else_is_named_and_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "notes.json"
    path.write_text(content, encoding="latin-1")
    for act in (lambda: read_notes(path), lambda: write_note(path, "a", star=True, note="")):
        with pytest.raises(UserError, match=r"notes\.json"):
            act()
    assert path.read_text(encoding="latin-1") == content


def test_a_note_may_not_be_endless(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2,001 characters; 2,000 is the most"):
        write_note(tmp_path / "notes.json", "a", star=False, note="x" * (LONGEST + 1))
    assert not list(tmp_path.iterdir())


def test_where_nothing_can_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_not(tmp_path / "notes.json") == ""
    assert "no place" in why_not(None)
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write anywhere
    assert why_not(tmp_path / "notes.json").endswith(f"{tmp_path} cannot be written.")


@pytest.mark.parametrize("action", ["read_notes", "write_whole"])
def test_a_server_that_writes_keeps_others_out_from_reading_to_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    calls, plain = [], getattr(notes, action)

    def locked(path: Path, *more: bytes) -> Any:
        calls.append(path)
        other = os.open(tmp_path, os.O_RDONLY)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(other)
        return plain(path, *more)

    monkeypatch.setattr(notes, action, locked)
    write_note(tmp_path / "notes.json", "a", star=True, note="")
    assert calls == [tmp_path / "notes.json"]


def test_notes_that_several_write_at_once_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "notes.json"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda key: write_note(path, str(key), star=True, note=""), range(40)))
    assert set(read_notes(path)) == set(map(str, range(40)))
    assert [one.name for one in tmp_path.iterdir()] == ["notes.json"], "no lock is left"
