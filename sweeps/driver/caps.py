"""Budget caps: how much a sweep may spend in FLOPs, GPU-hours or hours before it stops cleanly.

FLOPs and GPU-hours are counted in whole runs: a run that would exceed the cap does not start. The duration of
a run is an estimate, corrected by the runs that have finished; should it still take longer than the cap of
GPU-hours allows, it is stopped with a checkpoint, as every running run is by a cap of hours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

from analysis.text import flops_text
from sweeps.driver.view import Flight
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.types import CLAIMABLE, Entry, Run, State

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

    def __str__(self) -> str:
        names = [field.name for field in fields(self) if getattr(self, field.name) is not None]
        return " and ".join(map(self.text, names))

    def text(self, name: str) -> str:
        """A cap in words, by its field."""
        value = getattr(self, name) or 0.0
        units = {"flops": f"{flops_text(value)} FLOPs", "gpu_hours": f"{value:g} GPU-hours"}
        return f"the cap of {units.get(name, f'{value:g} hours')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a sweep has spent before it goes on."""

    flops: float = 0.0
    gpu_hours: float = 0.0


class Meter:
    """What a sweep has spent, held against its caps."""

    def __init__(
        self, caps: Caps, entries: Iterable[Entry], ledger: Ledger, *, began: float | None = None
    ) -> None:
        """began: the ledger's uptime from which hours count; None: now."""
        self.caps, self.ledger = caps, ledger
        self._entries = {entry.key: entry for entry in entries}
        self._began = ledger.uptime() if began is None else began
        self._earlier_s: dict[str, float] = {}
        """Key -> GPU-seconds of the attempts before the present one."""
        self._own_s = self._others_s = 0.0
        """GPU-seconds of this driver's attempts that ended, and of all other drivers' attempts."""
        self._predicted_s = self._actual_s = 0.0

    def flops_left(self, states: Mapping[str, Run]) -> float:
        """FLOPs for runs that have not started."""
        if self.caps.flops is None:
            return float("inf")
        spent = sum(self._entries[key].flops for key, run in states.items() if run.state in SPENDS)
        return self.caps.flops * (1 + 1e-9) - spent

    @property
    def _pace(self) -> float:
        """Real seconds per expected second."""
        return self._actual_s / self._predicted_s if self._predicted_s > 0 else 1.0

    def gpu_seconds_of(self, entry: Entry, run: Run) -> float:
        """GPU-seconds that a run is expected to take from now on; what earlier attempts took is behind it."""
        if self.caps.gpu_hours is None or not entry.needs.gpus:
            return 0.0
        self._earlier_s[entry.key] = self.ledger.gpu_seconds([entry.key]) if run.attempt else 0.0
        return max(0.0, entry.predicted_s * self._pace * entry.needs.gpus - self._earlier_s[entry.key])

    def gpu_seconds_left(self, flights: Iterable[Flight]) -> float:
        """GPU-seconds for runs that have not started; those in `flights` take as long as expected."""
        if self.caps.gpu_hours is None:
            return float("inf")
        now, left = self.ledger.now(), self.caps.gpu_hours * 3600 - self._own_s - self._others_s
        for flight in flights:
            expected_s = flight.predicted_s * self._pace * flight.entry.needs.gpus
            expected_s -= self._earlier_s.get(flight.entry.key, 0.0)
            left -= max(expected_s, _gpu_seconds(flight, now))
        return left

    def unaffordable(
        self, entries: Iterable[Entry], states: Mapping[str, Run], flights: Iterable[Flight]
    ) -> frozenset[str]:
        """Keys of waiting runs that the caps will not let start, if all runs take as long as expected."""
        if self.caps.flops is None and self.caps.gpu_hours is None:
            return frozenset()
        flops, gpu_s, out = self.flops_left(states), self.gpu_seconds_left(flights), set()
        for entry in entries:
            if states[entry.key].state not in CLAIMABLE:
                continue
            needed_s = self.gpu_seconds_of(entry, states[entry.key])
            if entry.flops > flops or needed_s > gpu_s:
                out.add(entry.key)
            else:
                flops, gpu_s = flops - entry.flops, gpu_s - needed_s
        return frozenset(out)

    def ended(self, flight: Flight, *, finished: bool) -> None:
        """An attempt of this driver ended."""
        now = self.ledger.now()
        self._own_s += _gpu_seconds(flight, now)
        if finished and flight.claim.attempt == 1:
            self._predicted_s += flight.predicted_s
            self._actual_s += now - flight.started

    def reached(self, states: Mapping[str, Run], flights: Iterable[Flight]) -> str | None:
        """The cap of hours that is used up, in words; None if there is none."""
        caps = self.caps
        if caps.hours is not None and self.ledger.uptime() - self._began >= caps.hours * 3600:
            return caps.text("hours")
        if caps.gpu_hours is None:
            return None
        now, spent_s, mine = self.ledger.now(), self.ledger.gpu_seconds(self._entries), set()
        self._others_s = spent_s - self._own_s
        for flight in flights:
            mine.add(flight.entry.key)
            self._others_s -= _gpu_seconds(flight, now)
        for key, run in states.items():
            if (
                run.state == State.RUNNING and key not in mine
            ):  # another driver's, which will take the rest too
                entry = self._entries[key]
                left_s = entry.predicted_s * self._pace - (now - (run.started or now))
                self._others_s += max(0.0, left_s) * entry.needs.gpus
        return caps.text("gpu_hours") if spent_s / 3600 >= caps.gpu_hours else None


def _gpu_seconds(flight: Flight, now: float) -> float:
    return (now - flight.started) * flight.entry.needs.gpus
