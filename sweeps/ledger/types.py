"""Types that ledger, driver and pools share: states, needs, entries, claims, runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from scaling.spec import RunSpec


class State(StrEnum):
    """State of a run in the ledger."""

    PLANNED = "planned"
    WAITING = "waiting"
    """Until it may be tried again."""
    RUNNING = "running"
    PREEMPTED = "preempted"
    FINISHED = "finished"
    DIVERGED = "diverged"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNSCHEDULABLE = "unschedulable"


CLAIMABLE = frozenset({State.PLANNED, State.WAITING, State.PREEMPTED})
SETTLED = frozenset(set(State) - CLAIMABLE - {State.RUNNING})
"""Nothing happens to the run any more without a request."""
RETRIED = frozenset({State.FAILED, State.UNSCHEDULABLE})
"""Settled states that each `scaling sweep`, or `scaling retry`, opens again."""

LONGEST_PAUSE_S = 600.0
"""The longest wait for another try: a later time is from before the clock was set back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """The part of a node that a run takes."""

    cpus: float = 1.0
    gpus: float = 0.0
    memory_bytes: float = 0.0
    gpu_memory_bytes: float = 0.0
    """Of each GPU."""
    resources: tuple[tuple[str, float], ...] = ()
    """Further ones by name, such as a user's quota: the --resources of Ray nodes."""

    def amounts(self) -> dict[str, float]:
        """Amounts by name of resource."""
        return {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory_bytes, **dict(self.resources)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Needs:
        resources = tuple((str(name), float(amount)) for name, amount in values.get("resources", ()))
        own = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        return cls(**{**own, "resources": resources})

    def __str__(self) -> str:
        parts = [f"{self.cpus:g} CPU"]
        if self.gpus:
            each = f" of {self.gpu_memory_bytes / 1e9:.1f} GB" if self.gpu_memory_bytes else ""
            parts.append(f"{self.gpus:g} GPU{each}")
        parts += [f"{self.memory_bytes / 1e9:.1f} GB of memory"] if self.memory_bytes else []
        parts += [f"{amount:g} of {name!r}" for name, amount in self.resources]
        return " + ".join(parts)


def least(kinds: Iterable[Needs]) -> Needs:
    """If this finds no room, none of `kinds` does."""
    kinds = list(kinds) or [Needs()]
    names = ("cpus", "gpus", "memory_bytes", "gpu_memory_bytes")
    return Needs(**{name: min(getattr(needs, name) for needs in kinds) for name in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A run for the driver: spec, data, needs and predicted time."""

    spec: RunSpec
    dataset: str
    """Folder for `scaling.data.open_dataset`."""
    predicted_s: float
    needs: Needs = field(default_factory=Needs)
    sequence_bytes: float = 0.0
    """The part of the memory in `needs` for each sequence of a micro-batch."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Run-table columns known before the run."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Passed on to `scaling.training.train`; nothing here may change the outcome."""

    key: str = ""
    """Of the spec, computed once; only tests choose another one, to be readable."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", self.key or self.spec.key)

    @property
    def family(self) -> str:
        return self.spec.family

    @property
    def parent(self) -> str | None:
        """Key of the run whose network this one starts from."""
        return None if self.spec.distillation is None else self.spec.distillation.of

    @property
    def flops(self) -> float:
        """Training FLOPs of all its replicas, exact count."""
        return float(self.columns.get("flops_exact") or 0.0) * self.spec.replicas


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to run `key` as attempt `attempt`, and to enter how it ended if no later attempt exists."""

    key: str
    attempt: int
    failures: int = 0
    """Failed attempts since the run was planned or reopened."""
    last_signature: str | None = None
    """Signature of the previous failure."""
    last_host: str | None = None
    """Host on which the previous attempt failed or was lost."""


EMPTY: Mapping[str, Any] = MappingProxyType({})


class Run(NamedTuple):
    """A run in the ledger. Times are seconds since 1970. A tuple, for a sweep may have tens of thousands."""

    key: str
    family: str
    state: State
    """Running if its driver lives, or may live; else preempted."""
    attempt: int
    changed: int
    """Number of the ledger's latest change of this run."""
    owner: str | None = None
    not_before: float = 0.0
    sentence: str = ""
    started: float | None = None
    ended: float | None = None
    host: str | None = None
    device: str | None = None
    size: str = ""
    budget: float = 0.0
    params: float | None = None
    seed: int | None = None
    replicas: int = 1
    """Networks that it trains, with this seed and the next ones; each number is a mean over them."""
    loss: float | None = None
    """The bound of a finished run; of a running one, its latest training loss. Nats per token."""
    loss_se: float | None = None
    bits_per_byte: float | None = None
    worked_s: float = 0.0
    """Seconds of training and evaluation, over all attempts; so far, if it runs."""
    share: float | None = None
    """Of its tokens, and the seconds left: of a running attempt whose journal was read."""
    left_s: float | None = None
    # Empty in a run that was read for its state alone:
    spec: Mapping[str, Any] = EMPTY
    """As it was registered, perhaps by an earlier version of the program."""
    columns: Mapping[str, Any] = EMPTY
    predicted_s: float = 0.0
    needs: Needs = Needs()
    traceback: str | None = None
    result: Mapping[str, Any] = EMPTY

    def due(self, now: float) -> bool:
        """Whether the run itself is ready to start."""
        return self.state in CLAIMABLE and not 0 < self.not_before - now < LONGEST_PAUSE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipped:
    """The part of a run that is in one tracking store."""

    run_id: str | None = None
    mark: str | None = None
    """State and attempt in the store."""
    step: int = 0
    positions: Mapping[str, int] = field(default_factory=dict)
    """Attempt -> bytes of its journal that are there."""
