"""What a person sees while a sweep runs: a line per running run, and one for the sweep with its end.

On a terminal the lines stand still and change; elsewhere a line is printed when a run ends, and one for
the sweep every minute. All of it is read off the journals, so nothing asks the workers.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.text import count_text, duration, flops_text
from sweeps.attempt.journal import JOURNAL, Follower, Record
from sweeps.ledger.types import CLAIMABLE, SETTLED, Claim, Entry, Glance, State

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

    from sweeps.pools.rack import Node

READ_S = 1.0
LINE_S = 60.0
KNOWN_SHARE = 0.02
"""A run says something about its own speed from this share on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """An attempt that the pool has."""

    entry: Entry
    claim: Claim
    folder: Path
    started: float
    node: Node
    slower: float = 1.0
    """Times as long as predicted, for its node's GPUs are slower."""
    micro_batch: int = 1
    """Sequences at once in the network."""

    @property
    def predicted_s(self) -> float:
        return self.entry.predicted_s * self.slower

    @property
    def expected_end(self) -> float:
        return self.started + self.predicted_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """An attempt that has just ended, and the state its run is in now."""

    entry: Entry
    state: State
    sentence: str
    seconds: float
    """In the worker, waiting for it not counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The sweep at one moment, as its driver sees it. `now` is seconds since 1970."""

    entries: Sequence[Entry]
    states: Mapping[str, Glance]
    flights: Sequence[Flight]
    ended: Sequence[Ended] = ()
    """Since the last view."""
    slots: int
    now: float
    note: str = ""


def label(entry: Entry) -> str:
    """Family, size and budget, as messages call a run."""
    return f"{entry.family} {entry.spec['size']['name']} {flops_text(float(entry.spec['budget']))}"


# -- how long it takes --------------------------------------------------------------------------


class Forecast:
    """When runs and sweep will be done: predicted times, corrected by how long runs really take."""

    def __init__(self) -> None:
        self._followers: dict[Path, Follower] = {}
        self._latest: dict[Path, Record] = {}
        self._done_predicted = self._done_actual = 0.0
        self._read_at = -float("inf")

    def update(self, view: View) -> None:
        """Read what the journals have that is new, and learn from runs that ended."""
        for ended in view.ended:
            if ended.state == State.FINISHED:
                self._done_predicted += ended.entry.predicted_s
                self._done_actual += ended.seconds
        folders = {flight.folder for flight in view.flights}
        self._followers = {
            folder: self._followers.get(folder) or Follower(folder / JOURNAL) for folder in folders
        }
        self._latest = {folder: record for folder, record in self._latest.items() if folder in folders}
        if view.now - self._read_at < READ_S:
            return
        self._read_at = view.now
        for folder, follower in self._followers.items():
            for record in follower.read():
                if record.kind == "train":
                    self._latest[folder] = record

    def latest(self, flight: Flight) -> Record | None:
        """The newest training record of an attempt."""
        return self._latest.get(flight.folder)

    def _left_by_speed(self, flight: Flight) -> float | None:
        """Seconds left at the present speed; None before the run has said enough."""
        record = self.latest(flight)
        total = _tokens(flight.entry)
        if record is None:
            return None
        done, speed = record.numbers.get("tokens", 0.0), record.numbers.get("tokens_per_s", 0.0)
        if not speed > 0 or not done >= KNOWN_SHARE * total:
            return None
        return max(0.0, total - done) / speed

    def pace(self, view: View) -> float:
        """Real seconds per predicted second, over runs that ended and those that are under way.

        Loading and waiting are left out: they come once, not once per predicted second.
        """
        predicted, actual = self._done_predicted, self._done_actual
        for flight in view.flights:
            left = self._left_by_speed(flight)
            if left is not None:
                predicted += flight.predicted_s
                actual += self._latest[flight.folder].numbers.get("elapsed_s", 0.0) + left
        return actual / predicted if predicted > 0 else 1.0

    def left_of(self, flight: Flight, view: View) -> float:
        """Seconds that an attempt still needs."""
        left = self._left_by_speed(flight)
        if left is not None:
            return left
        return max(0.0, flight.predicted_s * self.pace(view) - (view.now - flight.started))

    def left(self, view: View) -> float:
        """Seconds until the whole sweep is done: the waiting runs, longest first, on the slots there are."""
        pace = self.pace(view)
        mine = {flight.entry.key for flight in view.flights}
        ends = [self.left_of(flight, view) for flight in view.flights]
        waiting = []
        for entry in view.entries:
            glance = view.states.get(entry.key)
            if entry.key in mine or glance is None:
                continue
            if glance.state == State.RUNNING and glance.alive:
                ends.append(entry.predicted_s * pace)  # another driver's, and a slot of its own
            elif glance.state in CLAIMABLE or glance.state == State.RUNNING:
                waiting.append(entry.predicted_s * pace)
        ends += [0.0] * max(0, view.slots - len(view.flights))
        heapq.heapify(ends)
        for seconds in sorted(waiting, reverse=True):
            heapq.heapreplace(ends, ends[0] + seconds)
        return max(ends, default=0.0)


def _tokens(entry: Entry) -> float:
    return float(entry.spec["sequences"] * entry.spec["data"]["context_length"])


def _steps(entry: Entry) -> int:
    return int(-(-entry.spec["sequences"] // entry.spec["batch_size"]))


# -- what it looks like -------------------------------------------------------------------------


class Progress:
    """Shows views on a console; `close` it before anything else is printed there."""

    def __init__(self, console: Console, sweep: str) -> None:
        self.console, self.sweep = console, sweep
        self.forecast = Forecast()
        self._live: Live | None = None
        self._line_at: float | None = None
        self._noted = ""

    def show(self, view: View) -> None:
        self.forecast.update(view)
        for ended in view.ended:
            if ended.state != State.FINISHED or not self.console.is_terminal:
                self._print(self._ended_line(ended, view))
        if self.console.is_terminal:
            self._draw(view)
            return
        if view.note != self._noted:
            self._noted = view.note
            self._print(view.note)
        self._line_at = view.now if self._line_at is None else self._line_at
        if view.now - self._line_at >= LINE_S:
            self._line_at = view.now
            self._print(self.sweep_line(view))

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _print(self, text: str) -> None:
        if text:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _draw(self, view: View) -> None:
        from rich.live import Live

        if self._live is None:
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(self.picture(view), refresh=True)

    def picture(self, view: View) -> RenderableType:
        """The live view: running runs, as many as the terminal has lines for, and the sweep."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, show_header=bool(view.flights))
        for name in ("running", "loss", "step", "tokens/s", "left"):
            table.add_column(name, justify="left" if name == "running" else "right", no_wrap=True, style=None)
        fitting = max(1, self.console.height - 5)
        for flight in view.flights[:fitting]:
            table.add_row(*self._cells(flight, view))
        lines: list[RenderableType] = [table] if view.flights else []
        if len(view.flights) > fitting:
            lines.append(Text(f"and {len(view.flights) - fitting} more running"))
        lines.append(Text(self.sweep_line(view), style="bold"))
        if view.note:
            lines.append(Text(view.note, style="yellow"))
        return Group(*lines)

    def _cells(self, flight: Flight, view: View) -> tuple[str, ...]:
        record = self.forecast.latest(flight)
        again = f" (attempt {flight.claim.attempt})" if flight.claim.attempt > 1 else ""
        loss = "" if record is None or record.loss is None else f"{record.loss:.3f}"
        speed = record.numbers.get("tokens_per_s", 0.0) if record else 0.0
        return (
            label(flight.entry) + again,
            f"{loss} (biased)" if record and record.biased else loss,
            f"{record.step if record else 0}/{_steps(flight.entry)}",
            count_text(speed) if speed else "",
            duration(self.forecast.left_of(flight, view)),
        )

    def _ended_line(self, ended: Ended, view: View) -> str:
        return f"{label(ended.entry)}: {ended.state}, {ended.sentence} ({duration(ended.seconds)}); " + (
            self.sweep_line(view)
        )

    def sweep_line(self, view: View) -> str:
        """The sweep in a line: how many are done, running and waiting, and when it will be finished."""
        glances = [view.states[e.key] for e in view.entries if e.key in view.states]
        settled = [glance.state for glance in glances if glance.state in SETTLED]
        finished = sum(state == State.FINISHED for state in settled)
        running = sum(glance.state == State.RUNNING and glance.alive for glance in glances)
        elsewhere = running - len(view.flights)
        parts = [f"{self.sweep}: {finished} of {len(view.entries)} runs finished"]
        if len(settled) > finished:
            parts.append(f"{len(settled) - finished} ended otherwise")
        if running:
            parts.append(f"{running} running" + (f" ({elsewhere} elsewhere)" if elsewhere > 0 else ""))
        if len(settled) < len(view.entries):
            left = self.forecast.left(view)
            parts.append(f"about {duration(left)} left, ends about {_clock(view.now, left)}")
        return ", ".join(parts)


def _clock(now: float, left: float) -> str:
    """14:05, or with the date where it is another day."""
    start = datetime.fromtimestamp(now)
    end = start + timedelta(seconds=left)
    return f"{end:%H:%M}" if end.date() == start.date() else f"{end:%a %d %b %H:%M}"
