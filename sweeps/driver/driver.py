"""The driver turns planned runs into jobs: order, resources, retries, stopping. It knows no Ray.

Runs start in one of two orders (`driver.order`), as many at once as the pool has room for. While a run waits
for room, only runs that are expected to end before that room comes free may pass it. The ledger says which
runs are open, so starting again is resuming. Several drivers on one ledger share the unclaimed runs; at the
end each waits for the runs of the others, and takes them over should they die.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from sweeps.attempt.job import Job, Outcome, Trouble
from sweeps.attempt.journal import JOURNAL, attempt_folder, last, run_folder
from sweeps.driver.caps import Caps, Meter
from sweeps.driver.disk import Disk, Pause
from sweeps.driver.order import ORDERS, choose_order
from sweeps.driver.queues import Queues
from sweeps.driver.stopping import StopFiles, StopRequest
from sweeps.driver.verdict import Retries, judge
from sweeps.driver.view import Flight, View
from sweeps.ledger.ledger import Ledger, LedgerLostError, LedgerUnavailableError, Run
from sweeps.ledger.types import CLAIMABLE, SETTLED, Entry, Needs, State, least
from sweeps.plan import memory
from sweeps.pools.base import Handle, Pool
from sweeps.pools.rack import Node

POLL_S = 0.5
LOOK_S = 1.0
YIELD_S = 5.0
"""How often the driver looks for another sweep that goes first."""
LEDGER_PATIENCE_S = 24 * 3600.0
"""How long the driver waits for a ledger that cannot be written: a disk full on a Saturday, say."""
LOST_PATIENCE_S = 5.0
"""How long it waits for a ledger that is damaged or gone."""
LEAVING_S = 60.0
"""How long runs may take to write a checkpoint if the driver has to end without its ledger."""
KILL_S = 10.0
"""How long the pool may take to end runs after a second request to stop."""
LARGE_SHARE = 0.5
"""Share of its node's memory from which a run may itself be the reason that memory ran low."""


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
        order: str | None = None,
        priority: int = 0,
        disk: Disk | None = None,
        began: float | None = None,
        poll_s: float = POLL_S,
        look_s: float = LOOK_S,
    ) -> None:
        """ledger: has all of `entries`, and this process among its drivers. show: called every round.

        order: see `choose_order`. priority: a sweep of higher priority that waits for the same pool goes
        first. began: see `Meter`.
        """
        arrange = ORDERS[choose_order(order, capped=bool(caps))]
        entries = memory.within_limits(entries, ledger.micro_batches())
        self._open = {entry.key: entry for entry in entries}
        self._plan(arrange(entries))
        self._fastest = 0.0
        """Speed of the fastest GPU that was used so far."""
        self._filled = False
        self.ledger, self.pool, self.show = ledger, pool, show
        self.stop, self.retries = stop or StopRequest(), retries or Retries()
        self.meter = Meter(caps or Caps(), self.order, ledger, began=began)
        self.priority, self.disk = priority, disk or Disk(ledger.folder)
        self.poll_s, self.look_s = poll_s, look_s
        self.flights: dict[Handle, Flight] = {}
        self._ended: list[Flight] = []
        self.note = ""
        self.beyond_cap: dict[str, str] = {}
        """Key of a run that did not start -> the cap that it would exceed, a field of `Caps`."""
        self._unaffordable: frozenset[str] = frozenset()
        self._yielding: str | None = None
        self._looked_for_others = -float("inf")
        self._files = StopFiles(ledger.folder.absolute() / "stop", ledger.owner.id)
        self._states: dict[str, Run] = {}
        self._newest_change: int | None = None
        self._looked = -float("inf")
        self._cancelled: set[str] = set()
        self._to_settle: list[tuple[Flight, Outcome]] = []
        self._stops_obeyed = 0
        self._killed_at: float | None = None
        self._unavailable_since: float | None = None
        self._pauses: Counter[str] = Counter()
        # key -> how often in a row the run has waited through no fault of its own
        self._data = Pause(2.0, 60.0)
        self._hosts_without_data: set[str | None] = set()

    def _plan(self, entries: list[Entry]) -> None:
        """Take `entries` as the order of the runs; their needs may be other ones than before."""
        self.order = entries
        self._open = {entry.key: entry for entry in entries if entry.key in self._open}
        self._kinds = {entry.needs for entry in entries}
        self._least = least(self._kinds)

    def run(self) -> None:
        """Drive until every run is settled, here or elsewhere, or until a request to stop.

        LedgerUnavailableError if the ledger could not be written for LEDGER_PATIENCE_S, LedgerLostError if it
        is gone or damaged; the runs have written checkpoints by then.
        """
        try:
            while True:
                self._round()
                if self._done():
                    break
            with suppress(LedgerUnavailableError):  # after a second request it does not wait for the ledger
                self._settle_all()
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
        """Enter all outcomes in the ledger. One that it cannot take now waits for the next round."""
        while self._to_settle:
            self._settle(*self._to_settle[0])
            self._to_settle.pop(0)

    def _wait_for_ledger(self, error: LedgerUnavailableError) -> None:
        self.note = str(error)
        now = self.ledger.uptime()
        self._unavailable_since = now if self._unavailable_since is None else self._unavailable_since
        lost = isinstance(error, LedgerLostError)
        if now - self._unavailable_since <= (LOST_PATIENCE_S if lost else LEDGER_PATIENCE_S):
            return
        if not self.stop.asked:
            self.stop.ask("the ledger is lost" if lost else "the ledger cannot be used")
        self._obey_stop()
        while self.flights and self.stop.count < 2 and self.ledger.uptime() - now < LEAVING_S:
            for handle, _ in self.pool.wait(self.poll_s):
                del self.flights[handle]
        raise error

    def _done(self) -> bool:
        if self.stop.count > 1:  # outcomes that the ledger cannot take are in the runs' folders
            overdue = self.ledger.uptime() - (self._killed_at or self.ledger.uptime()) > KILL_S
            return not self.flights or overdue
        if self.flights or self._to_settle:
            return False
        beyond = self.beyond_cap.keys()
        return self.stop.asked or all(e.key in beyond or e.parent in beyond for e in self._open.values())

    @property
    def capped(self) -> str | None:
        """The cap that kept runs from being started; None if none did."""
        counts = Counter(self.beyond_cap.values())
        parts = [
            f"{count} {'run is' if count == 1 else 'runs are'} beyond {self.meter.caps.text(name)}"
            for name, count in counts.items()
        ]
        return " and ".join(parts) or None

    def _look(self) -> None:
        """Read the ledger, which others change too; obey caps and requests to cancel."""
        if self.ledger.uptime() - self._looked < self.look_s:
            return
        mine = {entry.key for entry in self.order}
        runs = self.ledger.runs(since=self._newest_change, whole=False)
        self._states |= {run.key: run for run in runs if run.key in mine}
        self._newest_change = max([self._newest_change or 0, *(run.changed for run in runs)])
        self._open = {e.key: e for e in self.order if self._states[e.key].state not in SETTLED}
        self._looked = self.ledger.uptime()
        reason = self.meter.reached(self._states, self.flights.values())
        self._unaffordable = self.meter.unaffordable(self._open.values(), self._states, self.flights.values())
        if reason and not self.stop.asked:
            self.stop.ask(reason, planned=True)
        requests = set(self.ledger.cancel_requests()) - self._cancelled
        for handle, flight in self.flights.items():
            if flight.entry.key in requests:
                self._cancelled.add(flight.entry.key)
                try:
                    self._files.ask("cancelled", only=(flight.entry.key, flight.claim.attempt))
                except OSError:  # a full disk, say
                    self.pool.kill(handle)

    def _hold(self) -> str | None:
        """Why no run may start now; None if runs may."""
        uptime = self.ledger.uptime()
        if trouble := self.disk.trouble(uptime):
            return trouble
        if self._data.lasts(uptime) and len(self._hosts_without_data) >= self.pool.rack.hosts:
            return "the prepared data cannot be read; runs wait until it is there again"
        if uptime - self._looked_for_others >= YIELD_S:
            self._looked_for_others = uptime
            waiting = sum(self._states[key].state in CLAIMABLE for key in self._open)
            self._yielding = self.pool.yields_to(self.priority, waiting)
        return f"waits for sweep {self._yielding!r}, which goes first" if self._yielding else None

    def _fill(self) -> None:
        """Start runs that are due while there is room."""
        now = self.ledger.now()
        flops_left = self.meter.flops_left(self._states)
        gpu_s_left = self.meter.gpu_seconds_left(self.flights.values())
        self.beyond_cap = {}
        full: set[Needs] = set()
        room_at: float | None = None
        # The first time every run is compared with the nodes, so that one that fits none is refused at once.
        again, self._filled = self._filled, True
        if not again:
            self._plan(memory.as_fits(self.order, lambda needs: self.pool.rack.refusal(needs) is None))
        queues = Queues(self._fastest)
        for flight in self.flights.values():
            queues.add(flight.node, flight.expected_end)
        for entry in list(self._open.values()):
            if full == self._kinds:
                return
            if entry.needs in full or not self._states[entry.key].due(now):
                continue
            if again and self.pool.rack.find(self._least) is None:
                return
            if entry.parent in self._open:  # once that is settled: if it failed, this one's failure says so
                continue
            gpu_s = self.meter.gpu_seconds_of(entry, self._states[entry.key])
            if entry.flops > flops_left or gpu_s > gpu_s_left:
                self.beyond_cap[entry.key] = "flops" if entry.flops > flops_left else "gpu_hours"
                continue
            if room_at is not None and now + entry.predicted_s > room_at:
                continue
            node = self.pool.rack.find(entry.needs)
            if node is not None:
                if queues.better_later(entry.needs, entry.predicted_s, node, now):
                    continue
                flops_left -= entry.flops
                gpu_s_left -= gpu_s
                self._start(entry, node, queues)
            elif refusal := self.pool.rack.refusal(entry.needs):
                self.ledger.refuse(entry.key, refusal)
                self._set(entry.key, state=State.UNSCHEDULABLE)
            else:
                full.add(entry.needs)
                if room_at is None:
                    room_at = max((flight.expected_end for flight in self.flights.values()), default=now)

    def _start(self, entry: Entry, node: Node, queues: Queues) -> None:
        claim = self.ledger.claim(entry.key)
        if claim is None:  # another driver was faster, or it was cancelled
            self._looked = -float("inf")
            self._set(entry.key, state=State.RUNNING)
            return
        folder = attempt_folder(run_folder(self.ledger.folder.parent, entry.family, entry.key), claim.attempt)
        runs = {}
        if entry.parent is not None:
            there = run_folder(self.ledger.folder.parent, entry.family, entry.parent)
            runs["parent"] = str(there.absolute())
        job = Job(
            key=entry.key,
            family=entry.family,
            attempt=claim.attempt,
            spec=entry.spec.to_dict(),
            dataset=entry.dataset,
            folder=str(folder.absolute()),
            cpus=entry.needs.cpus,
            gpus=entry.needs.gpus,
            stop_files=self._files.watched_by(entry.key, claim.attempt),
            options=entry.options,
            runs=runs,
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
        self._set(entry.key, state=State.RUNNING)

    def _set(self, key: str, **values: Any) -> None:
        """Remember a change until the ledger is read again."""
        run = self._states[key] = self._states[key]._replace(**values)
        if run.state in SETTLED:
            self._open.pop(key, None)

    def _settle(self, flight: Flight, outcome: Outcome) -> None:
        key, now = flight.entry.key, self.ledger.now()
        # a lost process could not name its host
        outcome = replace(outcome, host=outcome.host or flight.node.host or None)
        verdict = judge(
            outcome,
            flight.claim,
            now=now,
            retries=self.retries,
            stopping=self.stop.asked,
            cancelled=key in self._cancelled,
            hosts=self.pool.rack.hosts,
            micro_batch=flight.micro_batch,
            advanced=last(flight.folder / JOURNAL, kind="checkpoint") is not None,
            pauses=self._pauses[key],
            large=flight.entry.needs.memory_bytes >= LARGE_SHARE * flight.node.memory_bytes,
        )
        size = memory.size_key(flight.entry.spec)
        state = self.ledger.end(
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
            micro_batch=(size, verdict.micro_batch) if verdict.micro_batch else None,
        )
        self.meter.ended(flight, finished=verdict.state == State.FINISHED)
        # From here on nothing can fail, so each outcome counts once for disk, data and memory.
        self._cancelled.discard(key)
        uptime = self.ledger.uptime()
        if outcome.trouble == Trouble.DISK:
            self.disk.proved_full(uptime)
        elif outcome.status == State.FINISHED:
            self.disk.proved_free()
        if outcome.trouble == Trouble.DATA:
            self._hosts_without_data.add(outcome.host)
            self._data.extend(uptime)
        elif outcome.trouble is None and outcome.host in self._hosts_without_data:
            self._hosts_without_data.clear()
            self._data.end()
        if outcome.trouble in (Trouble.DATA, Trouble.NODE_MEMORY):
            self._pauses[key] += 1
        else:
            del self._pauses[key]
        if verdict.micro_batch is not None:
            self._plan(memory.within_limits(self.order, {size: verdict.micro_batch}))
        if state is None:  # a later attempt has the run
            self._looked = -float("inf")
            return
        self._set(key, state=state, not_before=verdict.retry_at)
        seconds = outcome.worker_s or now - flight.started
        self._ended.append(replace(flight, verdict=replace(verdict, state=state), seconds=seconds))

    def _obey_stop(self) -> None:
        """A first request goes to the workers; after a second one, or if it cannot be written, end them."""
        if self.stop.count <= self._stops_obeyed:
            return
        self._stops_obeyed = self.stop.count
        if self.stop.count == 1:
            self.note = f"{self.stop.reason}: runs write a checkpoint and stop (once more: stop at once)"
            try:
                self._files.ask(f"stopped by {self.stop.reason}")
                return
            except OSError:
                self.note = "stopping at once: the stop file cannot be written"
        self._killed_at = self.ledger.uptime()
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
            slots=max(1, self.pool.rack.slots(first)),
            now=self.ledger.now(),
            note=self.note,
            unaffordable=self._unaffordable,
        )
