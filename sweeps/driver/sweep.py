"""A whole sweep, from entries to a report: ledger, recorder, pool and driver together."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Protocol

from sweeps.driver.caps import Caps
from sweeps.driver.driver import Driver
from sweeps.driver.stopping import stop_on_signals
from sweeps.driver.verdict import Retries
from sweeps.driver.view import View
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.rebuild import take_over
from sweeps.ledger.types import SETTLED, Entry, Run, State
from sweeps.pools.base import Pool
from sweeps.record.process import RecorderProcess
from sweeps.record.recorder import GRACE_S

logger = logging.getLogger(__name__)


class Watcher(Protocol):
    """Shows the sweep while it runs: a terminal, a stream of events."""

    def show(self, view: View) -> None: ...

    def close(self) -> None:
        """Nothing more is shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How a sweep ended."""

    runs: Sequence[Run]
    stopped_by: str
    """The reason of an early end: "Ctrl-C", a cap of hours; "" if there is none."""
    interrupted: bool
    """Whether a person stopped it, not a cap."""
    capped: str | None
    """The cap because of which runs did not start."""
    waiting_records: int
    """Runs whose latest records are not in the tracking store yet."""
    tracking_trouble: str | None
    wall_s: float

    @property
    def counts(self) -> dict[str, int]:
        """Runs by state."""
        states = [str(run.state) for run in self.runs]
        return {state: states.count(state) for state in State if state in states}

    @property
    def sentence(self) -> str:
        counts = ", ".join(f"{number} {state}" for state, number in self.counts.items())
        text = f"{len(self.runs)} runs: {counts}"
        if self.stopped_by:
            text += f"; stopped by {self.stopped_by}, run the same command again to go on"
        if self.capped:
            text += f"; {self.capped}"
        if self.waiting_records:
            text += (
                f"; {self.waiting_records} of them are not in the tracking store yet "
                f"({self.tracking_trouble or 'it was too slow'}), the next `scaling sweep` carries them over"
            )
        return text


def run_sweep(
    entries: Sequence[Entry],
    ledger: Ledger,
    pool: Pool | None,
    *,
    sweep: str,
    tracking: str,
    watchers: Sequence[Watcher] = (),
    retries: Retries | None = None,
    caps: Caps | None = None,
    order: str | None = None,
    priority: int = 0,
    grace_s: float = GRACE_S,
    following: Callable[[], Sequence[Entry]] = tuple,
) -> Report:
    """Run the `entries` that are not done; those that failed before are tried again, cancelled ones are not.

    pool: closed at the end; None: no run starts. tracking: a store's URI. watchers: show the sweep while it
    runs. order: see `driver.order`. grace_s: how long the end of the sweep may wait for the tracking store.
    following: called when all runs are settled, for further ones; the sweep ends when there are none.
    Ctrl-C and SIGTERM stop it cleanly: `Report.interrupted`. UserError if the pool is not ready.
    """
    began = time.monotonic()
    uptime, entries = ledger.uptime(), list(entries)
    with ExitStack() as stack:
        if pool is not None:
            stack.callback(pool.close)

        def open_again(entries: Sequence[Entry]) -> None:
            ledger.register(entries)
            take_over(ledger, entries)
            ledger.reopen(entry.key for entry in entries)

        open_again(entries)
        if not ledger.driven():
            ledger.relax_micro_batches()
        stop = stack.enter_context(stop_on_signals())
        stack.enter_context(ledger.driving())
        recorder = stack.enter_context(RecorderProcess(ledger, sweep, tracking, grace_s))
        failed: set[Watcher] = set()

        def show(view: View) -> None:
            recorder.check()
            for watcher in watchers:
                try:
                    watcher.show(view)
                except Exception:  # a watcher must never end the sweep
                    if watcher not in failed:
                        failed.add(watcher)
                        logger.exception("the sweep goes on, but cannot be shown")

        def entries_follow() -> bool:
            new = list(following())
            open_again(new)
            entries.extend(new)
            return bool(new)

        def left() -> bool:
            keys = [entry.key for entry in entries]
            return any(run.state not in SETTLED for run in ledger.runs(keys, whole=False))

        capped = None
        if pool is not None and (left() or entries_follow()):
            pool.warm(len(entries))
            pool.ready()
            try:
                while True:
                    driver = Driver(
                        entries, ledger, pool, stop=stop, show=show, retries=retries, caps=caps, order=order,
                        priority=priority, began=uptime,
                    )  # fmt: skip
                    driver.run()
                    capped = driver.capped
                    if stop.asked or capped or not entries_follow():
                        break
            finally:
                for watcher in watchers:
                    with suppress(Exception):
                        watcher.close()
            # Ray takes a second to end; the recorder catches up meanwhile
            closing = threading.Thread(target=pool.close, name="pool closes", daemon=True)
            closing.start()
            stack.callback(closing.join)
        waiting = recorder.close(give_up=lambda: stop.count > 1)
        return Report(
            runs=ledger.runs([entry.key for entry in entries]),
            stopped_by=stop.reason,
            interrupted=stop.asked and not stop.planned,
            capped=capped,
            waiting_records=waiting,
            tracking_trouble=recorder.trouble,
            wall_s=time.monotonic() - began,
        )
