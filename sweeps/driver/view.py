"""The sweep at one moment, as its driver sees it and others show it."""

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
    """An attempt that the pool has, or has just had."""

    entry: Entry
    claim: Claim
    folder: Path
    started: float
    node: Node
    slower: float = 1.0
    """Times as long as predicted, for its node's GPUs are slower."""
    micro_batch: int = 1
    """Sequences at once in the network."""
    verdict: Verdict | None = None
    """What has become of it, once it has ended."""
    seconds: float = 0.0
    """It took in the worker, waiting for it not counted."""

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
    states: Mapping[str, Run]
    flights: Sequence[Flight]
    ended: Sequence[Flight] = ()
    """Since the last view."""
    slots: int
    now: float
    note: str = ""
    """What holds the sweep up, if something does."""


def label(entry: Entry) -> str:
    """Family, size and budget, as messages call a run."""
    return f"{entry.family} {entry.spec.size.name} {flops_text(entry.spec.budget)}"
