"""Specs become jobs: order, resources, retries, stopping. No Ray in here.

Longest runs first, as many at once as the pool has room for. A run that has to wait for room lets only
such runs pass that are expected to end before the room could come free anyway. The ledger says what is to
do, so starting again is resuming, and several drivers on one ledger share what nobody holds; at the end each
waits for what others still run, and takes it over should they die.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from sweeps.attempt.journal import JOURNAL, attempt_folder, last, run_folder
from sweeps.attempt.worker import Job, Outcome, Trouble
from sweeps.driver.caps import Caps, Meter, flops_of
from sweeps.driver.disk import Disk
from sweeps.driver.queues import Queues
from sweeps.driver.stopping import StopFiles, StopRequest
from sweeps.driver.verdict import Circumstances, Retries, Verdict, judge
from sweeps.ledger.ledger import Ledger, LedgerUnavailableError
from sweeps.ledger.types import CLAIMABLE, SETTLED, Entry, Glance, Needs, State, least
from sweeps.plan import memory
from sweeps.pools.base import Handle, Pool
from sweeps.pools.rack import Node
from sweeps.show.progress import Ended, Flight, View

POLL_S = 0.5
LOOK_S = 1.0
YIELD_S = 5.0
"""How often another sweep is asked whether it goes first."""
LEDGER_PATIENCE_S = 24 * 3600.0
"""How long a ledger that cannot be written is waited for: a disk that is full on a Saturday, say."""


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
        caps: Caps | None = None,
        priority: int = 0,
        disk: Disk | None = None,
        poll_s: float = POLL_S,
        look_s: float = LOOK_S,
    ) -> None:
        """ledger: has all of `entries`, and is told that this process drives. show: called every round.

        priority: a sweep of higher priority that waits for the same pool goes first.
        """
        entries = memory.as_known(entries, ledger.micro_batches())
        self._plan(sorted(entries, key=lambda entry: -entry.predicted_s))
        self.keys = [entry.key for entry in self.order]
        self._open = {entry.key: entry for entry in self.order}
        self._fastest = 0.0
        """Speed of the fastest GPU that was used so far."""
        self._filled = False
        self.ledger, self.pool, self.show = ledger, pool, show
        self.stop, self.retries = stop or StopRequest(), retries or Retries()
        self.meter = Meter(caps or Caps(), self.order, ledger)
        self.priority, self.disk = priority, disk or Disk(ledger.folder)
        self.poll_s, self.look_s = poll_s, look_s
        self.flights: dict[Handle, Flight] = {}
        self._ended: list[Ended] = []
        self.note = ""
        """What holds the sweep up, if something does."""
        self._beyond_cap: set[str] = set()
        self._yielding: str | None = None
        self._asked_others = -float("inf")
        self._files = StopFiles(ledger.folder.absolute() / "stop", ledger.owner.id)
        self._states: dict[str, Glance] = {}
        self._looked = -float("inf")
        self._cancelled: set[str] = set()
        self._to_settle: list[tuple[Flight, Outcome]] = []
        self._stop_told = 0
        self._unavailable_since: float | None = None

    def _plan(self, entries: list[Entry]) -> None:
        self.order = entries
        self._kinds = {entry.needs for entry in entries}
        self._least = least(self._kinds)

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
                self.note = self._hold() or ""
                if not self.note:
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
        return self.stop.asked or self._open.keys() <= self._beyond_cap

    @property
    def capped(self) -> str | None:
        """The cap that kept runs from being started; None if none did."""
        return f"{len(self._beyond_cap)} runs are beyond {self.meter}" if self._beyond_cap else None

    # -- what to do -----------------------------------------------------------------------------

    def _look(self) -> None:
        """What the ledger says now; others change it too."""
        if self.ledger.uptime() - self._looked < self.look_s:
            return
        self._states = self.ledger.glance(self.keys)
        self._open = {e.key: e for e in self.order if self._states[e.key].state not in SETTLED}
        self._looked = self.ledger.uptime()
        reason = self.meter.reached()
        if reason and not self.stop.asked:
            self.stop.ask(reason, planned=True)
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

    def _hold(self) -> str | None:
        """Why nothing is to be started just now."""
        uptime = self.ledger.uptime()
        if trouble := self.disk.trouble(uptime):
            return trouble
        if uptime - self._asked_others >= YIELD_S:
            self._asked_others = uptime
            waiting = sum(self._states[key].state in CLAIMABLE for key in self._open)
            self._yielding = self.pool.yields_to(self.priority, waiting)
        return f"waits for sweep {self._yielding!r}, which goes first" if self._yielding else None

    def _fill(self) -> None:
        """Start what is ready while there is room."""
        now = self.ledger.now()
        flops_left = self.meter.flops_left(self._states)
        self._beyond_cap = set()
        full: set[Needs] = set()
        room_at: float | None = None
        # The first time every run is held against the nodes, so that those which fit none are told at once.
        again, self._filled = self._filled, True
        if not again:
            self._replan(memory.as_fits(self.order, lambda needs: self.pool.refusal(needs) is None))
        queues = self._queues()
        for entry in list(self._open.values()):
            if full == self._kinds:
                return
            if entry.needs in full or not self._ready(entry.key, now):
                continue
            if again and not self.pool.has_room(self._least):
                return
            if flops_of(entry) > flops_left:
                self._beyond_cap.add(entry.key)
                continue
            if room_at is not None and now + entry.predicted_s > room_at:
                continue
            node = self.pool.where(entry.needs)
            if node is not None:
                if queues.better_later(entry.needs, entry.predicted_s, node, now):
                    continue
                flops_left -= flops_of(entry)
                self._start(entry, node, queues)
            elif refusal := self.pool.refusal(entry.needs):
                self.ledger.refuse(entry.key, refusal)
                self._set_state(entry.key, State.UNSCHEDULABLE)
            else:
                full.add(entry.needs)
                if room_at is None:
                    room_at = max((flight.expected_end for flight in self.flights.values()), default=now)

    def _replan(self, entries: list[Entry]) -> None:
        """The same runs, with other needs."""
        self._plan(entries)
        self._open = {entry.key: entry for entry in entries if entry.key in self._open}

    def _queues(self) -> Queues:
        queues = Queues(self._fastest)
        for flight in self.flights.values():
            queues.add(flight.node, flight.expected_end)
        return queues

    def _start(self, entry: Entry, node: Node, queues: Queues) -> None:
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
        handle = self.pool.submit(job, entry.needs, avoid_host=claim.last_host)
        flight = self.flights[handle] = Flight(
            entry=entry,
            claim=claim,
            folder=folder,
            started=self.ledger.now(),
            node=node,
            slower=queues.seconds_on(node, 1.0),
            micro_batch=memory.micro_batch(entry),
        )
        queues.add(node, flight.expected_end)
        self._fastest = queues.fastest
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
        # who was lost could not say where
        outcome = replace(outcome, host=outcome.host or flight.node.host or None)
        at = Circumstances(
            now=now,
            stopping=self.stop.asked,
            cancelled=key in self._cancelled,
            hosts=self.pool.hosts(),
            micro_batch=flight.micro_batch,
            advanced=last(flight.folder / JOURNAL, kind="checkpoint") is not None,
        )
        verdict = judge(outcome, flight.claim, at, retries=self.retries)
        self._learn(flight.entry, outcome, verdict)
        accepted = self.ledger.end(
            flight.claim,
            verdict.state,
            sentence=verdict.sentence,
            result=outcome.result,
            traceback=outcome.traceback,
            signature=outcome.signature,
            counts=verdict.counts,
            retry_at=verdict.retry_at,
            facts={
                "host": outcome.host,
                "device": outcome.device,
                "avoid_host": outcome.host if verdict.elsewhere else None,
            },
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

    def _learn(self, entry: Entry, outcome: Outcome, verdict: Verdict) -> None:
        """What the outcome says of the disk, and of the memory that runs of this size need."""
        if outcome.trouble == Trouble.DISK:
            self.disk.proved_full(self.ledger.uptime())
        elif outcome.status == State.FINISHED:
            self.disk.proved_free()
        if verdict.micro_batch is not None:
            self.ledger.remember_micro_batch(memory.size_key(entry.spec), verdict.micro_batch)
            self._replan(memory.as_known(self.order, self.ledger.micro_batches()))

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
