"""Budget caps: how much a sweep may spend in FLOPs, GPU-hours or hours before it stops cleanly.

FLOPs are counted by whole runs: one that would exceed the cap is not started. Hours stop what runs, with a
checkpoint, for nobody knows in advance how long a run takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from analysis.text import flops_text
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.types import Entry, Run, State

SPENDS = frozenset({State.RUNNING, State.FINISHED, State.DIVERGED})
"""States whose FLOPs count as spent: all of them, also of a run that has only begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """What may be spent; None: as much as it takes."""

    flops: float | None = None
    """Training FLOPs, exact count, of all runs of the sweep together."""
    gpu_hours: float | None = None
    """Of all attempts of the sweep's runs together, failed ones included."""
    hours: float | None = None
    """Wall time of one `scaling sweep`."""

    def __bool__(self) -> bool:
        return any(cap is not None for cap in (self.flops, self.gpu_hours, self.hours))

    @property
    def flops_text(self) -> str:
        return f"the cap of {flops_text(self.flops or 0.0)} FLOPs"

    @property
    def gpu_hours_text(self) -> str:
        return f"the cap of {self.gpu_hours:g} GPU-hours"

    @property
    def hours_text(self) -> str:
        return f"the cap of {self.hours:g} hours"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a sweep has spent before it goes on."""

    flops: float = 0.0
    gpu_hours: float = 0.0


def flops_of(entry: Entry) -> float:
    """Training FLOPs of a run, exact count."""
    return float(entry.columns.get("flops_exact") or 0.0)


class Meter:
    """What a sweep has spent, held against its caps."""

    def __init__(self, caps: Caps, entries: Iterable[Entry], ledger: Ledger) -> None:
        self.caps, self.ledger = caps, ledger
        self._flops = {entry.key: flops_of(entry) for entry in entries}
        self._began = ledger.uptime()

    def flops_left(self, states: Mapping[str, Run]) -> float:
        """What runs may still be started for."""
        if self.caps.flops is None:
            return float("inf")
        spent = sum(self._flops[key] for key, run in states.items() if run.state in SPENDS)
        return self.caps.flops * (1 + 1e-9) - spent

    def reached(self) -> str | None:
        """Which cap of hours is used up; None if none is."""
        caps = self.caps
        if caps.hours is not None and self.ledger.uptime() - self._began >= caps.hours * 3600:
            return caps.hours_text
        if caps.gpu_hours is not None:
            spent_h = self.ledger.gpu_seconds(self._flops) / 3600
            if spent_h >= caps.gpu_hours:
                return caps.gpu_hours_text
        return None

    def __str__(self) -> str:
        return self.caps.flops_text
