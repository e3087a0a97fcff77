"""What the ledger, the scheduler and the pools say to each other: states, needs, entries, claims, runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scaling.spec import RunSpec


class State(StrEnum):
    """What became of a run, as the ledger knows it."""

    PLANNED = "planned"
    WAITING = "waiting"
    """For the moment after which it may be tried again."""
    RUNNING = "running"
    PREEMPTED = "preempted"
    FINISHED = "finished"
    DIVERGED = "diverged"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNSCHEDULABLE = "unschedulable"


CLAIMABLE = frozenset({State.PLANNED, State.WAITING, State.PREEMPTED})
SETTLED = frozenset(set(State) - CLAIMABLE - {State.RUNNING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a run takes from a node while it runs."""

    cpus: float = 1.0
    gpus: float = 0.0
    memory_bytes: float = 0.0
    gpu_memory_bytes: float = 0.0
    """Of each GPU."""
    processes: int = 1
    """That share the run between them; all on one node."""
    resources: tuple[tuple[str, float], ...] = ()
    """Further ones by name, such as a user's quota: what Ray nodes are given with --resources."""

    def amounts(self) -> dict[str, float]:
        """What is shared out among runs, by name."""
        return {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory_bytes, **dict(self.resources)}

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Needs:
        resources = tuple((str(name), float(amount)) for name, amount in values.get("resources", ()))
        return cls(**{**values, "resources": resources})

    def __str__(self) -> str:
        parts = [f"{self.cpus:g} CPU"]
        if self.gpus:
            each = f" of {self.gpu_memory_bytes / 1e9:.1f} GB" if self.gpu_memory_bytes else ""
            parts.append(f"{self.gpus:g} GPU{each}")
        parts += [f"{self.memory_bytes / 1e9:.1f} GB of memory"] if self.memory_bytes else []
        parts += [f"{amount:g} of {name!r}" for name, amount in self.resources]
        return " + ".join(parts)


def least(kinds: Iterable[Needs]) -> Needs:
    """Where this finds no room, none of `kinds` does."""
    kinds = list(kinds) or [Needs()]
    return Needs(
        cpus=min(needs.cpus for needs in kinds),
        gpus=min(needs.gpus for needs in kinds),
        memory_bytes=min(needs.memory_bytes for needs in kinds),
        gpu_memory_bytes=min(needs.gpu_memory_bytes for needs in kinds),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A run as the scheduler wants it: spec, data, what it needs of a node, and how long it may take."""

    key: str
    family: str
    spec: Mapping[str, Any]
    dataset: str
    """Folder for `scaling.data.open_dataset`."""
    predicted_s: float
    needs: Needs = field(default_factory=Needs)
    sequence_bytes: float = 0.0
    """Of the memory in `needs`, what each sequence that goes through the network at once takes."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Run-table columns known before the run."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Passed on to `scaling.training.train`; nothing here may change the outcome."""

    @classmethod
    def of(cls, spec: RunSpec, *, dataset: str | Path, predicted_s: float, **rest: Any) -> Entry:
        return cls(
            key=spec.key,
            family=spec.family,
            spec=spec.to_dict(),
            dataset=str(Path(dataset).absolute()),
            predicted_s=float(predicted_s),
            **rest,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to run `key` as attempt `attempt`, and to say how it ended while no later attempt exists."""

    key: str
    attempt: int
    failures: int = 0
    """Failed attempts since the run was planned or reopened."""
    last_signature: str | None = None
    """What the previous failure looked like."""
    last_host: str | None = None
    """Where the previous attempt failed or was lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """The little of a run that scheduling needs."""

    state: State
    owner: str | None
    not_before: float
    alive: bool
    """Whether a driver that lives, or may live, holds it."""
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """All the ledger knows of a run. Times are seconds since 1970."""

    key: str
    family: str
    spec: Mapping[str, Any]
    columns: Mapping[str, Any]
    predicted_s: float
    needs: Needs
    state: State
    attempt: int
    owner: str | None
    sentence: str
    traceback: str | None
    result: Mapping[str, Any]
    started: float | None
    ended: float | None
    changed: float
    host: str | None
    device: str | None
