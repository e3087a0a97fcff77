"""The journal: what a run had to say, one JSON object per line, appended beside the run.

A line is one `write` call, so a killed process costs at most the line it was writing, and a reader passes
over a torn one. Times (`at`) are seconds since 1970. Numbers JSON has no word for are written as the texts
"nan", "inf" and "-inf", which `float` reads back.

Folders: <sweep>/<family>/runs/<key>/attempt-001/journal.jsonl. Each attempt has its own; `merged` tells
them as one story, in which what a later attempt did again replaces what was done before.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

JOURNAL = "journal.jsonl"
TAIL_BYTES = 16384
_ATTEMPT = re.compile(r"attempt-(\d{3,})")

Record = dict[str, Any]


def run_folder(sweep_folder: Path, family: str, key: str) -> Path:
    return sweep_folder / family / "runs" / key


def attempt_folder(run: Path, attempt: int) -> Path:
    return run / f"attempt-{attempt:03d}"


def attempt_folders(run: Path) -> dict[int, Path]:
    """Attempt number -> folder, of those that exist, first to last."""
    if not run.is_dir():
        return {}
    found = {}
    for path in run.iterdir():
        if match := _ATTEMPT.fullmatch(path.name):
            found[int(match[1])] = path
    return dict(sorted(found.items()))


class Journal:
    """Appends records to `path`; each `append` is on its way to the disk when it returns."""

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time) -> None:
        """OSError where the file cannot be opened."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._now = path, now
        self._descriptor = os.open(path, os.O_APPEND | os.O_CREAT | os.O_RDWR, 0o644)
        self._torn = not _ends_with_newline(self._descriptor)

    def append(self, record: Mapping[str, Any]) -> None:
        """Add `record` and the time. OSError (a full disk, say) leaves at most one torn line behind."""
        line = json.dumps({"at": self._now(), **_plain(record)}, separators=(",", ":"), allow_nan=False)
        data = ("\n" if self._torn else "").encode() + line.encode() + b"\n"
        self._torn = True  # until the whole line is known to be out
        if os.write(self._descriptor, data) == len(data):
            self._torn = False
        else:
            raise OSError(28, "No space left on device", str(self.path))

    def sync(self) -> None:
        os.fsync(self._descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _ends_with_newline(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"


def _plain(value: Any) -> Any:
    """`value` in JSON's types; numpy and torch scalars become Python numbers."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else repr(float(value))
    if hasattr(value, "item"):
        return _plain(value.item())
    return str(value)


class Follower:
    """Reads a journal as it grows: each `read` gives the whole lines since the last one."""

    def __init__(self, path: Path, position: int = 0) -> None:
        self.path, self.position = path, position

    def read(self, limit: int | None = None) -> list[Record]:
        """Records after `position` (at most `limit`), which moves on to behind the last whole line read.

        A last line without its end stays for the next time; a torn one inside is passed over.
        """
        records: list[Record] = []
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return records
        with file:
            file.seek(self.position)
            for line in file:
                if not line.endswith(b"\n") or (limit is not None and len(records) >= limit):
                    break
                self.position += len(line)
                record = _parse(line)
                if record is not None:
                    records.append(record)
        return records


def _parse(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "kind" in record else None


def read(path: Path) -> list[Record]:
    """All whole records of one journal."""
    return Follower(path).read()


def last(path: Path, *, kind: str | None = None) -> Record | None:
    """The last whole record of a journal (of `kind`), without reading all of it."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return None
    records = Follower(path, max(0, size - TAIL_BYTES)).read()
    return next((record for record in reversed(records) if kind in (None, record["kind"])), None)


def fences(run: Path) -> dict[int, int]:
    """Attempt -> the step beyond which its files do not count, for a later attempt went on from there.

    Attempts that nobody has gone on from are left out. A node that was declared dead may have written more.
    """
    found: dict[int, int] = {}
    lowest: int | None = None
    for attempt, folder in reversed(attempt_folders(run).items()):
        if lowest is not None:
            found[attempt] = lowest
        steps = [int(record["step"]) for record in read(folder / JOURNAL) if record["kind"] == "resumed"]
        lowest = min([*steps, *([] if lowest is None else [lowest])], default=None)
    return found


def merged(run: Path) -> list[Record]:
    """The journals of all attempts of the run in folder `run` as one, each step once and in order.

    What earlier attempts did beyond the step from which the last one went on is left out, for it was, or
    will be, done again; of what several did before that step the latest counts. Each record tells its
    `attempt`.
    """
    story = [
        {**record, "attempt": attempt}
        for attempt, folder in attempt_folders(run).items()
        for record in read(folder / JOURNAL)
    ]
    resumed = [(r["attempt"], int(r["step"])) for r in story if r["kind"] == "resumed"]
    last, start = resumed[-1] if resumed else (0, 0)
    story = [r for r in story if r["attempt"] >= last or r.get("step", 0) <= start]
    newest = {r["step"]: r for r in story if r["kind"] == "train"}
    in_order = iter([newest[step] for step in sorted(newest)])
    kept = [r for r in story if r["kind"] != "train" or newest[r["step"]] is r]
    return [next(in_order) if r["kind"] == "train" else r for r in kept]
