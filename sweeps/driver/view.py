"""The sweep at one moment: its driver makes a view, others show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.text import flops_text
from sweeps.driver.verdict import Verdict
from sweeps.ledger.types import Claim, Entry, Run
from sweeps.pools.rack import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """An attempt in the pool, or one that has just left it."""

    entry: Entry
    claim: Claim
    folder: Path
    started: float
    node: Node
    slower: float = 1.0
    """Factor on the predicted time, for its node's GPUs are slower."""
    micro_batch: int = 1
    """Sequences at once in the network."""
    verdict: Verdict | None = None
    """Once it has ended."""
    seconds: float = 0.0
    """In the worker, without waiting for it."""

    @property
    def predicted_s(self) -> float:
        return self.entry.predicted_s * self.slower

    @property
    def expected_end(self) -> float:
        return self.started + self.predicted_s


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """`now` is seconds since 1970."""

    entries: Sequence[Entry]
    """In the order in which they start."""
    states: Mapping[str, Run]
    flights: Sequence[Flight]
    ended: Sequence[Flight] = ()
    """Since the last view."""
    slots: int
    now: float
    note: str = ""
    """The reason why no run starts, if there is one."""
    unaffordable: frozenset[str] = frozenset()
    """Keys of waiting runs that caps will not let start, as far as that can be foreseen."""


def label(entry: Entry) -> str:
    """The name of a run in messages: family, size, budget, number of replicas, whether it distils another."""
    name = f"{entry.family} {entry.spec.size.name} {flops_text(entry.spec.budget)}"
    name += f" ({entry.spec.replicas} replicas)" if entry.spec.replicas > 1 else ""
    return name if entry.parent is None else f"{name} (distilled)"
