"""Job and outcome: a job travels to a worker, an outcome comes back, both as JSON.

The worker also writes the outcome to `result.json` beside the journal, so that it survives a process that
dies before it returns.
"""

from __future__ import annotations

import errno
import json
import re
import traceback as traceback_module
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from scaling.errors import DataAwayError, UserError
from scaling.files import write_whole

RESULT = "result.json"


class Trouble(StrEnum):
    """The kind of a failure; it decides whether another attempt makes sense."""

    LOST = "lost"
    """The process, its node or its GPU went away."""
    MEMORY = "memory"
    """The run needs more memory than there is."""
    NODE_MEMORY = "node memory"
    """Its node was low on memory, perhaps because of other processes."""
    DISK = "disk"
    DATA = "data"
    """The prepared data cannot be read just now: no fault of the run, and it may come back."""
    USER = "user"
    """Wrong input: another attempt cannot help."""
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One attempt of one run, as it travels to a worker."""

    key: str
    family: str
    attempt: int
    spec: Mapping[str, Any]
    dataset: str
    folder: str
    """Of this attempt; no other attempt writes there."""
    cpus: float = 1.0
    gpus: float = 0.0
    stop_files: tuple[str, ...] = ()
    """Any of these files, once it exists, asks the attempt to stop; its text is the reason."""
    options: Mapping[str, Any] = field(default_factory=dict)
    runs: Mapping[str, str] = field(default_factory=dict)
    """Folders of finished runs whose weights it reads, by what they are to it, such as "parent"."""
    datasets: Mapping[str, str] = field(default_factory=dict)
    """Folders of datasets of such runs, by the same names, where they are others than the job's."""
    storage: str | None = None
    """URI of a storage through which worker and driver exchange files if they share no disk."""
    work: str = ""
    """What to do, "module:function" of (job, folder, should_stop) with an outcome; "": train the run."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Job:
        return cls(**{**values, "stop_files": tuple(values["stop_files"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an attempt ended."""

    status: str
    """finished, diverged, preempted or failed."""
    sentence: str
    result: Mapping[str, Any] = field(default_factory=dict)
    trouble: Trouble | None = None
    traceback: str | None = None
    signature: str | None = None
    """Text of a failure without its numbers; equal ones are the same failure."""
    host: str | None = None
    device: str | None = None
    worker_s: float = 0.0
    """Seconds from the start of the job to this outcome."""
    journal: str | None = None
    """Its text, if the driver cannot read the attempt's folder."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Outcome:
        trouble = values.get("trouble")
        return cls(**{**values, "trouble": Trouble(trouble) if trouble else None})


def read_outcome(folder: Path) -> Outcome | None:
    """The outcome in `folder`; None without one, or if its checksum is wrong."""
    try:
        values = json.loads((folder / RESULT).read_text())
        if values.pop("checksum", None) not in (None, _checksum(values)):  # None: an earlier version's
            return None
        return Outcome.from_dict(values)
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """OSError if `outcome` cannot be written to `folder`."""
    values = asdict(outcome)
    write_json(folder / RESULT, {**values, "checksum": _checksum(values)})


def _checksum(values: Mapping[str, Any]) -> str:
    return f"crc32:{zlib.crc32(json.dumps(values, sort_keys=True).encode()):08x}"


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write whole or not at all. OSError if that fails."""
    with write_whole(path) as temporary:
        temporary.write_text(json.dumps(values))


def failure(error: BaseException) -> Outcome:
    """`error` as an outcome: kind of trouble, sentence and traceback."""
    trouble = _trouble(error)
    text = f"{type(error).__name__}: {error}".strip().removesuffix(":")
    sentence = {
        Trouble.DISK: f"disk full: {error}",
        Trouble.MEMORY: f"out of memory: {error}",
        Trouble.LOST: f"GPU lost: {error}",
        Trouble.DATA: str(error),
        Trouble.USER: str(error),
    }.get(trouble, text)
    return Outcome(
        status="failed",
        sentence=sentence.splitlines()[0] if sentence else text,
        trouble=trouble,
        traceback="".join(traceback_module.format_exception(error)),
        signature=signature_of(f"{trouble}: {text}"),
    )


def signature_of(text: str) -> str:
    """The text without its numbers and addresses."""
    return re.sub(r"0x[0-9a-f]+|\d+", "#", text)[:500]


_GPU_LOST = re.compile(
    "CUDA.*(uncorrectable|hardware|NVLink|fallen off|launch failure|unknown error|initialization error|"
    "busy or unavailable|is lost)|[Nn]o CUDA(-capable device| GPUs)"
)
"""Messages of CUDA about a GPU that is broken or gone; an illegal address is a fault of the program."""


def _trouble(error: BaseException) -> Trouble:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DataAwayError):
            return Trouble.DATA
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return Trouble.DISK
        text = str(cause) if isinstance(cause, RuntimeError) else ""
        if isinstance(cause, MemoryError) or type(cause).__name__ == "OutOfMemoryError":
            return Trouble.MEMORY
        if "can't allocate memory" in text:
            return Trouble.MEMORY
        if _GPU_LOST.search(text):
            return Trouble.LOST
        cause = cause.__cause__ or cause.__context__
    return Trouble.USER if isinstance(error, UserError) else Trouble.ERROR


def killed() -> Outcome:
    """The outcome of a job that `Pool.kill` ended."""
    return Outcome(status="preempted", sentence="stopped at once, as asked")


def lost(job: Job, how: str) -> Outcome:
    """The outcome of a job whose process is gone: the one that it wrote, else `how`."""
    return read_outcome(Path(job.folder)) or Outcome(
        status="failed", sentence=how, trouble=Trouble.LOST, signature=signature_of(how)
    )


def in_fresh_process_next(outcome: Outcome) -> bool:
    """Whether the process may be unfit for another job."""
    return outcome.status == "failed" and outcome.trouble in (Trouble.MEMORY, Trouble.ERROR, Trouble.LOST)
