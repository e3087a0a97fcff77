"""A whole sweep, from entries to a report: ledger, recorder, pool and driver together."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sweeps.driver.caps import Caps
from sweeps.driver.driver import Driver
from sweeps.driver.stopping import stop_on_signals
from sweeps.driver.verdict import Retries
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.types import SETTLED, Entry, Run, State
from sweeps.pools import base as pools
from sweeps.pools.base import Pool
from sweeps.pools.storage.files import Storage
from sweeps.pools.storage.pool import StoragePool
from sweeps.record.process import RecorderProcess
from sweeps.record.recorder import GRACE_S
from sweeps.record.tracking import check_tracking, tracking_uri
from sweeps.show.progress import View

logger = logging.getLogger(__name__)


class Watcher(Protocol):
    """Somebody who is shown the sweep as it goes: a terminal, a stream of events."""

    def show(self, view: View) -> None: ...

    def close(self) -> None:
        """Nothing more is shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How a sweep ended."""

    runs: Sequence[Run]
    stopped_by: str
    """What ended it before its end: "Ctrl-C", a cap of hours; "" if nothing did."""
    interrupted: bool
    """Whether that was somebody's wish, rather than a cap."""
    capped: str | None
    """Which cap kept runs from being started."""
    waiting_records: int
    """Runs whose latest the tracking store does not know yet."""
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
    *,
    sweep: str,
    out: Path,
    pool: Pool | str = "ray",
    address: str | None = None,
    tracking: str | None = None,
    watchers: Sequence[Watcher] = (),
    retries: Retries | None = None,
    caps: Caps | None = None,
    priority: int = 0,
    storage: Storage | None = None,
    grace_s: float = GRACE_S,
) -> Report:
    """Run what of `entries` is not done yet; what failed before is tried again, what was cancelled is not.

    pool: a pool that was started before (it is closed at the end), or the kind to start. tracking: a store's
    URI (default: `tracking_uri`). watchers: are shown the sweep as it goes. storage: for workers that do not
    see `out`. grace_s: how long the end of the sweep may wait for the tracking store. Ctrl-C and SIGTERM stop
    it cleanly: `Report.interrupted`. UserError, with nothing started, for a store or a cluster that does not
    answer and for a ledger of a newer schema.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        if not isinstance(pool, str):
            stack.callback(pool.close)
        uri = tracking or tracking_uri(out)
        check_tracking(uri)
        keys = [entry.key for entry in entries]
        ledger = stack.enter_context(Ledger(out / sweep / "ledger"))
        ledger.register(entries)
        ledger.reopen(keys)
        stop = stack.enter_context(stop_on_signals())
        stack.enter_context(ledger.driving())
        recorder = stack.enter_context(RecorderProcess(ledger, sweep, uri, grace_s))
        driver = None
        if any(glance.state not in SETTLED for glance in ledger.glance(keys).values()):
            if isinstance(pool, str):
                pool = pools.start(pool, address=address, shared=None if storage else out, sweep=sweep)
            pool = _with_storage(pool, storage, entries)
            stack.callback(pool.close)
            driver = Driver(
                entries,
                ledger,
                pool,
                stop=stop,
                show=_shown_to(recorder, watchers),
                retries=retries,
                caps=caps,
                priority=priority,
            )
            _drive(driver, pool, watchers)
            # Ray takes a second to end; the recorder catches up meanwhile
            closing = threading.Thread(target=pool.close, name="pool closes", daemon=True)
            closing.start()
            stack.callback(closing.join)
        waiting = recorder.close(give_up=lambda: stop.count > 1)
        return Report(
            runs=ledger.runs(keys),
            stopped_by=stop.reason,
            interrupted=stop.asked and not stop.planned,
            capped=driver.capped if driver else None,
            waiting_records=waiting,
            tracking_trouble=recorder.trouble,
            wall_s=time.monotonic() - began,
        )


def _with_storage(pool: Pool, storage: Storage | None, entries: Sequence[Entry]) -> Pool:
    """The pool, which gets ready while the caller does other things."""
    if storage is not None:
        pool = StoragePool(pool, storage, {entry.dataset for entry in entries})
    pool.warm(len(entries))
    return pool


def _shown_to(recorder: RecorderProcess, watchers: Sequence[Watcher]) -> Callable[[View], None]:
    failed: set[int] = set()

    def show(view: View) -> None:
        recorder.check()
        for number, watcher in enumerate(watchers):
            try:
                watcher.show(view)
            except Exception:  # a picture of the sweep must never end it
                if number not in failed:
                    failed.add(number)
                    logger.exception("the sweep goes on, but cannot be shown")

    return show


def _drive(driver: Driver, pool: Pool, watchers: Sequence[Watcher]) -> None:
    pool.ready()
    try:
        driver.run()
    finally:
        for watcher in watchers:
            with suppress(Exception):
                watcher.close()
