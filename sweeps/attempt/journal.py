"""The journal: the log of a run, one JSON object per line, appended beside the run.

A line is one `write` call, so a killed process loses at most one line. Readers get `Record`s; a line that is
torn or is no record is skipped and counted. Times (`at`) are seconds since 1970. Numbers that
JSON has no word for are written as the texts "nan", "inf" and "-inf", which `float` reads back.

Folders: <sweep>/<family>/runs/<key>/attempt-001/journal.jsonl. Each attempt has its own; `merged` joins them,
and steps that a later attempt repeated replace the earlier ones.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

JOURNAL = "journal.jsonl"
TAIL_BYTES = 16384
_ATTEMPT = re.compile(r"attempt-(\d{3,})")

NUMBERS = (
    *("learning_rate", "grad_norm", "tokens", "flops", "tokens_per_s", "flops_per_s", "mfu"),
    *("elapsed_s", "bound", "bound_se", "held_out_loss", "held_out_loss_se", "evaluation_left_s"),
)
LATEST = 1e11
"""A time beyond the year 5000 is damage."""
CURVES = frozenset({"train", "held_out"})
"""Kinds of records that are points of a curve."""
HAVE_A_STEP = CURVES | {"checkpoint", "resumed"}


@dataclass(frozen=True, slots=True)
class Record:
    """One line of a journal."""

    kind: str
    at: float
    step: int = 0
    loss: float | None = None
    """Of a training record. Nats per token."""
    biased: bool = False
    """Whether `loss` is of a curriculum's biased phase: no curve and no law may use it as the objective."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Those of `NUMBERS` that the line has."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """The whole line."""
    attempt: int = 0

    @classmethod
    def parse(cls, line: bytes, attempt: int = 0) -> Record | None:
        """None for a line that is no record: torn, not JSON, or without a field of its kind."""
        try:
            values = json.loads(line)
            kind, at = str(values["kind"]), float(values["at"])
            step = int(values["step"] if kind in HAVE_A_STEP else values.get("step", 0))
            biased = "biased_loss" in values
            loss = values.get("biased_loss" if biased else "loss")
            loss = None if loss is None else float(loss)
            numbers = {name: float(values[name]) for name in NUMBERS if values.get(name) is not None}
            if "peak_share" in values:  # its name in journals of earlier versions
                numbers["mfu"] = float(values["peak_share"])
            if not 0 <= at < LATEST or step < 0:
                return None
            return cls(kind, at, step, loss, biased, numbers, values, attempt)
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError, OSError, RecursionError):
            return None

    @property
    def has_objective(self) -> bool:
        """Whether it is a point of the training curve that a law may use."""
        return self.kind == "train" and self.loss is not None and not self.biased


def run_folder(sweep_folder: Path, family: str, key: str) -> Path:
    return sweep_folder / family / "runs" / key


def attempt_folder(run: Path, attempt: int) -> Path:
    return run / f"attempt-{attempt:03d}"


def attempt_folders(run: Path) -> dict[int, Path]:
    """Attempt number -> folder, of those that exist, first to last."""
    paths = run.iterdir() if run.is_dir() else ()
    folders = {int(match[1]): path for path in paths if (match := _ATTEMPT.fullmatch(path.name))}
    return dict(sorted(folders.items()))


class Journal(AbstractContextManager["Journal"]):
    """Appends records to `path`; each `append` is on its way to the disk when it returns."""

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time) -> None:
        """OSError if the file cannot be opened."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._now = path, now
        self._descriptor = os.open(path, os.O_APPEND | os.O_CREAT | os.O_RDWR, 0o644)
        size = os.fstat(self._descriptor).st_size
        self._torn = size > 0 and os.pread(self._descriptor, 1, size - 1) != b"\n"

    def append(self, record: Mapping[str, Any]) -> None:
        """Add `record` and the time. OSError (a full disk, say) leaves at most one torn line behind."""
        line = json.dumps({"at": self._now(), **_plain(record)}, separators=(",", ":"), allow_nan=False)
        data = ("\n" if self._torn else "").encode() + line.encode() + b"\n"
        self._torn = True  # until the whole line is written
        if os.write(self._descriptor, data) != len(data):
            raise OSError(28, "No space left on device", str(self.path))
        self._torn = False

    def sync(self) -> None:
        os.fsync(self._descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __exit__(self, *_: object) -> None:
        self.close()


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

    def __init__(self, path: Path, position: int = 0, *, attempt: int = 0) -> None:
        """attempt: number of the journal's attempt, for its records."""
        self.path, self.position, self.attempt = path, position, attempt
        self.skipped = 0
        """Number of whole lines that were no records."""

    def read(self, limit: int | None = None) -> list[Record]:
        """Records after `position` (at most `limit`), which moves behind the last whole line.

        A last line without its end stays for the next call.
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
                if record := Record.parse(line, self.attempt):
                    records.append(record)
                elif line.strip():
                    self.skipped += 1
        return records


def read(path: Path) -> list[Record]:
    """All whole records of one journal."""
    return Follower(path).read()


def last(path: Path, *, kind: str | None = None) -> Record | None:
    """The last whole record of a journal (of `kind`), without reading all of it if it lies near the end."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return None
    tail = TAIL_BYTES
    while True:
        records = Follower(path, max(0, size - tail)).read()
        record = next((record for record in reversed(records) if kind in (None, record.kind)), None)
        if record is not None or tail >= size:
            return record
        tail *= 8


def fences(run: Path) -> dict[int, int]:
    """Attempt -> the step from which a later attempt went on: files beyond it do not count.

    Attempts without such a step are left out. A node that was declared dead may have written more.
    """
    steps_by_attempt: dict[int, int] = {}
    steps: list[int] = []
    for attempt, folder in reversed(attempt_folders(run).items()):
        if steps:
            steps_by_attempt[attempt] = min(steps)
        steps += [record.step for record in read(folder / JOURNAL) if record.kind == "resumed"]
    return steps_by_attempt


def merged(run: Path) -> list[Record]:
    """The journals of all attempts of the run in folder `run` as one, each step of a curve once and in order.

    Steps of earlier attempts beyond the one from which the last attempt went on are left out, for they are
    repeated; of a step that several attempts did before it, the latest counts.
    """
    story = [
        record
        for attempt, folder in attempt_folders(run).items()
        for record in Follower(folder / JOURNAL, attempt=attempt).read()
    ]
    resumed = [record for record in story if record.kind == "resumed"]
    last, start = (resumed[-1].attempt, resumed[-1].step) if resumed else (0, 0)
    story = [record for record in story if record.attempt >= last or record.step <= start]
    for kind in CURVES:
        newest = {record.step: record for record in story if record.kind == kind}
        in_order = iter([newest[step] for step in sorted(newest)])
        kept = [record for record in story if record.kind != kind or newest[record.step] is record]
        story = [next(in_order) if record.kind == kind else record for record in kept]
    return story
