"""The live view of a sweep: a line per running run, and one for the sweep with its expected end.

On a terminal the lines change in place; elsewhere a line is printed when a run ends, and one for the sweep
every minute. All of it comes from the journals; workers are not asked.
"""

from __future__ import annotations

import heapq
from datetime import datetime, timedelta
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from analysis.text import count_text, duration
from sweeps.attempt.job import signature_of
from sweeps.attempt.journal import JOURNAL, Follower, Record
from sweeps.driver.view import Flight, View, label
from sweeps.ledger.types import CLAIMABLE, SETTLED, State

READ_S = 1.0
LINE_S = 60.0
MEASURED_SHARE = 0.02
"""A run that is this far on is timed by its own speed."""
QUIET_S, QUIET_SHARE = 30.0, 0.05
"""A sweep stands still if no journal grows for this long: seconds, and a share of the longest attempt."""


class Forecast:
    """The expected ends of runs and sweep: predicted times, corrected by the times that runs really take."""

    def __init__(self) -> None:
        self._followers: dict[Path, Follower] = {}
        self._latest: dict[Path, Record] = {}
        self._done_predicted = self._done_actual = 0.0
        self._read_at = -float("inf")
        self._running: set[Path] = set()
        self._moved_at: float | None = None

    def update(self, view: View) -> None:
        """Read new records of the journals, and learn from runs that ended."""
        for ended in view.ended:
            if ended.verdict is not None and ended.verdict.state == State.FINISHED:
                self._done_predicted += ended.entry.predicted_s
                self._done_actual += ended.seconds
        folders = {flight.folder for flight in view.flights}
        self._followers = {
            folder: self._followers.get(folder) or Follower(folder / JOURNAL) for folder in folders
        }
        self._latest = {folder: record for folder, record in self._latest.items() if folder in folders}
        elsewhere = sum(run.state == State.RUNNING for run in view.states.values()) > len(folders)
        if self._moved_at is None or folders != self._running or elsewhere:
            self._running, self._moved_at = folders, view.now
        if view.now - self._read_at < READ_S:
            return
        self._read_at = view.now
        for folder, follower in self._followers.items():
            for record in follower.read():
                self._moved_at = view.now
                if record.kind == "train":
                    self._latest[folder] = record

    def latest(self, flight: Flight) -> Record | None:
        """The newest training record of an attempt."""
        return self._latest.get(flight.folder)

    def _left_by_speed(self, flight: Flight) -> float | None:
        """Seconds left at the present speed; None if too little of the run is done."""
        record = self.latest(flight)
        total = flight.entry.spec.tokens
        if record is None:
            return None
        done, speed = record.numbers.get("tokens", 0.0), record.numbers.get("tokens_per_s", 0.0)
        if not speed > 0 or not done >= MEASURED_SHARE * total:
            return None
        left = flight.entry.spec.replicas * max(0.0, total - done)  # the speed is that of all replicas
        return left / speed + record.numbers.get("evaluation_left_s", 0.0)

    def pace(self, view: View) -> float:
        """Real seconds per predicted second, over runs that ended or are running.

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

    def left(self, view: View) -> float | None:
        """Seconds until the whole sweep is done: the waiting runs, in their order, on the slots there are.

        None if the sweep is held up, or nothing has moved for longer than the runs explain.
        """
        pace = self.pace(view)
        longest = max((flight.predicted_s * pace for flight in view.flights), default=0.0)
        quiet_s = view.now - (view.now if self._moved_at is None else self._moved_at)
        if view.note or quiet_s > max(QUIET_S, QUIET_SHARE * longest):
            return None
        mine = {flight.entry.key for flight in view.flights}
        ends = [self.left_of(flight, view) for flight in view.flights]
        waiting = []
        for entry in view.entries:
            run = view.states.get(entry.key)
            if entry.key in mine or run is None:
                continue
            if run.state == State.RUNNING:
                ends.append(entry.predicted_s * pace)  # another driver's, and a slot of its own
            elif run.state in CLAIMABLE and entry.key not in view.unaffordable:
                waiting.append(entry.predicted_s * pace)
        ends += [0.0] * max(0, view.slots - len(view.flights))
        heapq.heapify(ends)
        for seconds in waiting:
            heapq.heapreplace(ends, ends[0] + seconds)
        return max(ends, default=0.0)


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
            assert ended.verdict is not None, "it has ended"
            if ended.verdict.state != State.FINISHED or not self.console.is_terminal:
                outcome = f"{ended.verdict.state}, {ended.verdict.sentence} ({duration(ended.seconds)})"
                self._print(f"{label(ended.entry)}: {outcome}; {self.sweep_line(view)}")
        if self.console.is_terminal:
            if self._live is None:
                self._live = Live(console=self.console, auto_refresh=False, transient=True)
                self._live.start()
            self._live.update(self.picture(view), refresh=True)
            return
        self._line_at = view.now if self._line_at is None else self._line_at
        due = view.now - self._line_at >= LINE_S
        kind = signature_of(view.note)  # a number in it that counts down is no news
        if kind != self._noted or (due and view.note):
            self._noted = kind
            self._print(view.note)
        if due:
            self._line_at = view.now
            self._print(self.sweep_line(view))

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._print("saving the last records ...")

    def _print(self, text: str) -> None:
        if text:
            self.console.print(text, markup=False, highlight=False)

    def picture(self, view: View) -> RenderableType:
        """The live view: running runs, as many as the terminal has lines for, and the sweep."""
        table = Table(box=None, pad_edge=False, show_header=bool(view.flights))
        for name in ("running", "loss", "step", "tokens/s", "left"):
            table.add_column(name, justify="left" if name == "running" else "right", no_wrap=True, style=None)
        fitting = max(1, self.console.height - 5)
        for flight in view.flights[:fitting]:
            record = self.forecast.latest(flight)
            attempt = f" (attempt {flight.claim.attempt})" if flight.claim.attempt > 1 else ""
            loss = "" if record is None or record.loss is None else f"{record.loss:.3f}"
            speed = record.numbers.get("tokens_per_s", 0.0) if record else 0.0
            table.add_row(
                label(flight.entry) + attempt,
                f"{loss} (biased)" if record and record.biased else loss,
                f"{record.step if record else 0}/{flight.entry.spec.steps}",
                count_text(speed) if speed else "",
                duration(self.forecast.left_of(flight, view)),
            )
        lines: list[RenderableType] = [table] if view.flights else []
        if len(view.flights) > fitting:
            lines.append(Text(f"and {len(view.flights) - fitting} more running"))
        lines.append(Text(self.sweep_line(view), style="bold"))
        if view.note:
            lines.append(Text(view.note, style="yellow"))
        return Group(*lines)

    def sweep_line(self, view: View) -> str:
        """The sweep in a line: how many are done, running and waiting, and when it will be finished."""
        states = [view.states[e.key].state for e in view.entries if e.key in view.states]
        settled = [state for state in states if state in SETTLED]
        finished, running = states.count(State.FINISHED), states.count(State.RUNNING)
        elsewhere = running - len(view.flights)
        parts = [f"{self.sweep}: {finished} of {len(view.entries)} runs finished"]
        if len(settled) > finished:
            parts.append(f"{len(settled) - finished} ended otherwise")
        if running:
            parts.append(f"{running} running" + (f" ({elsewhere} elsewhere)" if elsewhere > 0 else ""))
        if beyond := len(view.unaffordable):
            parts.append(f"{beyond} beyond the cap")
        if len(settled) + beyond < len(view.entries):
            left = self.forecast.left(view)
            if left is None:
                parts.append("waiting")
            else:
                start = datetime.fromtimestamp(view.now)
                end = start + timedelta(seconds=left)
                clock = f"{end:%H:%M}" if end.date() == start.date() else f"{end:%a %d %b %H:%M}"
                parts.append(f"about {duration(left)} left, ends about {clock}")
        return ", ".join(parts)
