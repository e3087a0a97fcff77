"""Specs become jobs: order, resources, retries, stopping. No Ray in here.

Longest runs first, as many at once as the pool has room for. A run that has to wait for room lets only
such runs pass that are expected to end before the room could come free anyway. The ledger says what is to
do, so starting again is resuming, and several drivers on one ledger share what nobody holds; at the end each
waits for what others still run, and takes it over should they die.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from sweeps import pool as pools
from sweeps.journal import attempt_folder, run_folder
from sweeps.ledger import Ledger, LedgerUnavailableError
from sweeps.ledger_types import CLAIMABLE, SETTLED, Entry, Glance, Needs, Run, State
from sweeps.pool import Handle, Pool
from sweeps.progress import Ended, Flight, Progress, View
from sweeps.recorder import GRACE_S, Recorder, check_tracking, tracking_uri
from sweeps.stopping import StopFiles, StopRequest, stop_on_signals
from sweeps.verdict import Retries, judge
from sweeps.worker import Job, Outcome

POLL_S = 0.5
LOOK_S = 1.0
LEDGER_PATIENCE_S = 60.0
"""How long a ledger that cannot be written is waited for."""


class Driver:
    """One process's part in a sweep."""

    def __init__(
        self,
        entries: Iterable[Entry],
        ledger: Ledger,
        pool: Pool,
        *,
        stop: StopRequest | None = None,
        show: Callable[[View], None] = lambda view: None,
        retries: Retries | None = None,
        poll_s: float = POLL_S,
        look_s: float = LOOK_S,
    ) -> None:
        """ledger: has all of `entries`, and is told that this process drives. show: called every round."""
        self.order = sorted(entries, key=lambda entry: -entry.predicted_s)
        self.keys = [entry.key for entry in self.order]
        self._open = {entry.key: entry for entry in self.order}
        self._kinds = {entry.needs for entry in self.order}
        self.ledger, self.pool, self.show = ledger, pool, show
        self.stop, self.retries = stop or StopRequest(), retries or Retries()
        self.poll_s, self.look_s = poll_s, look_s
        self.flights: dict[Handle, Flight] = {}
        self._ended: list[Ended] = []
        self.note = ""
        self._files = StopFiles(ledger.folder.absolute() / "stop", ledger.owner.id)
        self._states: dict[str, Glance] = {}
        self._looked = -float("inf")
        self._cancelled: set[str] = set()
        self._to_settle: list[tuple[Flight, Outcome]] = []
        self._stop_told = 0
        self._unavailable_since: float | None = None

    def run(self) -> None:
        """Drive until every run is settled, here or elsewhere, or until asked to stop.

        LedgerUnavailableError where the ledger could not be written for LEDGER_PATIENCE_S.
        """
        try:
            while True:
                self._round()
                if self._done():
                    break
        finally:
            self._files.remove()
        self.show(self._view())

    def _round(self) -> None:
        try:
            self._obey_stop()
            self._settle_all()
            self._look()
            if not self.stop.asked:
                self._fill()
            self._unavailable_since = None
        except LedgerUnavailableError as error:
            self._wait_for_ledger(error)
        self.show(self._view())
        if not self._done():
            self._to_settle += [(self.flights.pop(h), outcome) for h, outcome in self.pool.wait(self.poll_s)]

    def _settle_all(self) -> None:
        """Tell the ledger what came back. An outcome it cannot take now is kept for the next round."""
        while self._to_settle:
            self._settle(*self._to_settle[0])
            self._to_settle.pop(0)

    def _wait_for_ledger(self, error: LedgerUnavailableError) -> None:
        self.note = str(error)
        now = self.ledger.uptime()
        self._unavailable_since = now if self._unavailable_since is None else self._unavailable_since
        if now - self._unavailable_since > LEDGER_PATIENCE_S:
            raise error

    def _done(self) -> bool:
        if self.flights or self._to_settle:
            return False
        return self.stop.asked or not self._open

    # -- what to do -----------------------------------------------------------------------------

    def _look(self) -> None:
        """What the ledger says now; others change it too."""
        if self.ledger.uptime() - self._looked < self.look_s:
            return
        self._states = self.ledger.glance(self.keys)
        self._open = {e.key: e for e in self.order if self._states[e.key].state not in SETTLED}
        self._looked = self.ledger.uptime()
        wanted = set(self.ledger.cancel_requests()) - self._cancelled
        for flight in self.flights.values():
            if flight.entry.key in wanted:
                self._cancelled.add(flight.entry.key)
                self._files.ask_one(flight.entry.key, flight.claim.attempt, "cancelled")

    def _ready(self, key: str, now: float) -> bool:
        glance = self._states[key]
        if glance.state == State.RUNNING:
            return not glance.alive
        return glance.state in CLAIMABLE and glance.not_before <= now

    def _fill(self) -> None:
        """Start what is ready while there is room."""
        now = self.ledger.now()
        full: set[Needs] = set()
        room_at: float | None = None
        for entry in list(self._open.values()):
            if full == self._kinds:
                return
            if entry.needs in full or not self._ready(entry.key, now):
                continue
            if room_at is not None and now + entry.predicted_s > room_at:
                continue
            if self.pool.has_room(entry.needs):
                self._start(entry)
            elif refusal := self.pool.refusal(entry.needs):
                self.ledger.refuse(entry.key, refusal)
                self._set_state(entry.key, State.UNSCHEDULABLE)
            else:
                full.add(entry.needs)
                if room_at is None:
                    room_at = max((flight.expected_end for flight in self.flights.values()), default=now)

    def _start(self, entry: Entry) -> None:
        claim = self.ledger.claim(entry.key)
        if claim is None:  # another driver was faster, or it was cancelled
            self._looked = -float("inf")
            self._set_state(entry.key, State.RUNNING, alive=True)
            return
        folder = attempt_folder(run_folder(self.ledger.folder.parent, entry.family, entry.key), claim.attempt)
        job = Job(
            key=entry.key,
            family=entry.family,
            attempt=claim.attempt,
            spec=entry.spec,
            dataset=entry.dataset,
            folder=str(folder.absolute()),
            cpus=entry.needs.cpus,
            gpus=entry.needs.gpus,
            stop_files=self._files.watched_by(entry.key, claim.attempt),
            options=entry.options,
        )
        handle = self.pool.submit(job, entry.needs)
        self.flights[handle] = Flight(entry=entry, claim=claim, folder=folder, started=self.ledger.now())
        self._set_state(entry.key, State.RUNNING, alive=True, owner=self.ledger.owner.id)

    def _set_state(
        self,
        key: str,
        state: State,
        *,
        alive: bool = False,
        owner: str | None = None,
        not_before: float = 0.0,
    ) -> None:
        """Remember a change until the next look."""
        if state in SETTLED:
            self._open.pop(key, None)
        self._states[key] = replace(
            self._states[key], state=state, alive=alive, owner=owner, not_before=not_before
        )

    # -- what came of it ------------------------------------------------------------------------

    def _settle(self, flight: Flight, outcome: Outcome) -> None:
        key, now = flight.entry.key, self.ledger.now()
        verdict = judge(
            outcome,
            flight.claim,
            retries=self.retries,
            now=now,
            stopping=self.stop.asked,
            cancelled=key in self._cancelled,
        )
        accepted = self.ledger.end(
            flight.claim,
            verdict.state,
            sentence=verdict.sentence,
            result=outcome.result,
            traceback=outcome.traceback,
            signature=outcome.signature,
            retry_at=verdict.retry_at,
            facts={"host": outcome.host, "device": outcome.device},
        )
        self._cancelled.discard(key)
        if accepted:
            self._set_state(key, verdict.state, not_before=verdict.retry_at)
            self._ended.append(
                Ended(
                    entry=flight.entry,
                    state=verdict.state,
                    sentence=verdict.sentence,
                    seconds=outcome.worker_s or now - flight.started,
                )
            )
        else:
            self._looked = -float("inf")

    # -- stopping -------------------------------------------------------------------------------

    def _obey_stop(self) -> None:
        """First ask the workers, then, when asked again or where files cannot be written, end them."""
        if self.stop.count <= self._stop_told:
            return
        self._stop_told = self.stop.count
        if self.stop.count == 1:
            self.note = f"{self.stop.reason}: runs write a checkpoint and stop (once more: stop at once)"
            try:
                self._files.ask_all(f"stopped by {self.stop.reason}")
                return
            except OSError:
                self.note = "stopping at once: the stop file cannot be written"
        for handle in self.flights:
            self.pool.kill(handle)

    def _view(self) -> View:
        first = self.order[0].needs if self.order else Needs()
        ended, self._ended = tuple(self._ended), []
        return View(
            entries=self.order,
            states=self._states,
            flights=tuple(self.flights.values()),
            ended=ended,
            slots=max(1, self.pool.slots(first)),
            now=self.ledger.now(),
            note=self.note,
        )


# -- a whole sweep ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How a sweep ended."""

    runs: Sequence[Run]
    interrupted: bool
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
        if self.interrupted:
            text += "; stopped before the end, run the same command again to go on"
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
    progress: Progress | None = None,
    retries: Retries | None = None,
    grace_s: float = GRACE_S,
) -> Report:
    """Run what of `entries` is not done yet; what failed or was cancelled before is tried again.

    pool: a pool that was started before (it is closed at the end), or the kind to start. tracking: a store's
    URI (default: `tracking_uri`). grace_s: how long the end of the sweep may wait for the tracking store.
    Ctrl-C and SIGTERM stop it cleanly: `Report.interrupted`. UserError, with nothing started, for a store or
    a cluster that does not answer and for a ledger of a newer schema.
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
        recorder = Recorder(ledger, sweep, uri)
        if any(glance.state not in SETTLED for glance in ledger.glance(keys).values()):
            if isinstance(pool, str):
                pool = pools.start(pool, address=address)
                stack.callback(pool.close)
            pool.warm(len(entries))
            recorder.start()
            _drive(entries, ledger, pool, stop, progress, retries)
            # Ray takes a second to end; the recorder catches up meanwhile
            closing = threading.Thread(target=pool.close, name="pool closes", daemon=True)
            closing.start()
            stack.callback(closing.join)
        else:
            recorder.start()
        waiting = recorder.close(grace_s, give_up=lambda: stop.count > 1)
        return Report(
            runs=ledger.runs(keys),
            interrupted=stop.asked,
            waiting_records=waiting,
            tracking_trouble=recorder.trouble,
            wall_s=time.monotonic() - began,
        )


def _drive(
    entries: Sequence[Entry],
    ledger: Ledger,
    pool: Pool,
    stop: StopRequest,
    progress: Progress | None,
    retries: Retries | None,
) -> None:
    pool.ready()
    show = progress.show if progress is not None else lambda view: None
    try:
        Driver(entries, ledger, pool, stop=stop, show=show, retries=retries).run()
    finally:
        if progress is not None:
            progress.close()
