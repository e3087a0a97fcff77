"""Budget caps: how much a sweep may spend in FLOPs, GPU-hours or hours before it stops cleanly.

FLOPs are counted in whole runs: a run that would exceed the cap does not start. Hours stop running runs, with
a checkpoint, because the duration of a run is not known in advance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from analysis.text import flops_text
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.types import Entry, Run, State

SPENDS = frozenset({State.RUNNING, State.FINISHED, State.DIVERGED})
"""States in which all FLOPs of a run count as spent, even if it has only begun."""


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


class Meter:
    """What a sweep has spent, held against its caps."""

    def __init__(self, caps: Caps, entries: Iterable[Entry], ledger: Ledger) -> None:
        self.caps, self.ledger = caps, ledger
        self._flops = {entry.key: entry.flops for entry in entries}
        self._began = ledger.uptime()

    def flops_left(self, states: Mapping[str, Run]) -> float:
        """FLOPs for runs that have not started."""
        if self.caps.flops is None:
            return float("inf")
        spent = sum(self._flops[key] for key, run in states.items() if run.state in SPENDS)
        return self.caps.flops * (1 + 1e-9) - spent

    def reached(self) -> str | None:
        """The cap of hours that is used up, in words; None if there is none."""
        caps = self.caps
        if caps.hours is not None and self.ledger.uptime() - self._began >= caps.hours * 3600:
            return caps.hours_text
        if caps.gpu_hours is not None and self.ledger.gpu_seconds(self._flops) / 3600 >= caps.gpu_hours:
            return caps.gpu_hours_text
        return None
