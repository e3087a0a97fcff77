"""The recorder: sends journals to the tracking store, in batches, with their original times.

A process beside the driver (see `process.py`) follows the journals of the sweep's runs. The ledger keeps how
far it got in each store: after a kill, or an hour without a server, it goes on from there. Points sent twice
are stored once, because name, step, time and value are the same. If the ledger is new, the recorder looks up
what the store has. Of two drivers one records.

A step is sent once; of the few held-out losses the store is asked which it has. Steps that a later attempt
repeats are not sent again: on the same kind of device they are the same to the last bit. The journals keep
both, see `sweeps.attempt.journal.merged`.

Nothing here can stop or delay a run: no error leaves the thread, which tries again more and more slowly.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import chain

from analysis.table.columns import BIASED_LOSS, HELD_OUT_LOSS, HELD_OUT_LOSS_SE, TRAIN_LOSS, to_mlflow
from analysis.text import without_secrets
from sweeps.attempt import journal
from sweeps.attempt.journal import JOURNAL, Follower, Record, attempt_folders, run_folder
from sweeps.ledger.ledger import Ledger, LedgerUnavailableError, Run, State
from sweeps.ledger.types import Shipped
from sweeps.plan.rows import replica_metrics, run_row
from sweeps.record.board import Board
from sweeps.record.store import GoneError, Point, Store
from sweeps.record.tracking import MlflowStore

EVERY_S = 2.0
SLOWEST_S = 60.0
GRACE_S = 20.0
SLOW = 3
"""A slow store is waited for this many times as long as one that fails."""
ROLE = "recorder"
RECORDS_PER_BATCH = 100
"""MLflow takes 1000 points, parameters and tags at once, all or none, so a run in the store has no gaps."""
METRICS_PER_BATCH = 800
"""Final values of replicas at once."""

METRICS = ("learning_rate", "grad_norm", "tokens", "flops", "tokens_per_s", "flops_per_s", "mfu")
"""Of a training record, beside the loss; sent as train_..., for the run table has columns of these names."""

_STATUS = {
    State.RUNNING: "RUNNING",
    State.FINISHED: "FINISHED",
    State.DIVERGED: "FAILED",
    State.FAILED: "FAILED",
    State.CANCELLED: "KILLED",
}
"""MLflow's status for a state; SCHEDULED for any other, in which the run will go on."""

logger = logging.getLogger(__name__)


class Recorder:
    """Records one sweep in one store. `start` and `close` it, or call `pass_once` yourself."""

    def __init__(self, ledger: Ledger, sweep: str, store: Store | str, *, every_s: float = EVERY_S) -> None:
        """store: a tracking URI, or a `Store`."""
        self.ledger, self.sweep, self.every_s = ledger, sweep, every_s
        self._store = MlflowStore(store, sweep) if isinstance(store, str) else store
        self.uri = without_secrets(store) if isinstance(store, str) else ""
        self._identity: str | None = None
        self._noted: tuple[str | None, str | None] = (None, None)
        self._connected = False
        self._ids: dict[str, str] | None = None
        """Key -> id of the runs in the store; None until it is asked for them, and after any doubt."""
        self._board = Board(ledger, self._store)
        self._closing = threading.Event()
        self._deadline, self._extension = math.inf, 0.0
        self._thread: threading.Thread | None = None
        self.trouble: str | None = None
        """Why the last pass failed; None if it did not."""

    # -- the thread -----------------------------------------------------------------------------

    def start(self) -> None:
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        self._thread.start()

    def close(self, grace_s: float = GRACE_S) -> int:
        """Let it catch up, then stop it. Returns how many runs still wait.

        A store that fails is waited for `grace_s`, one that is merely slow SLOW times as long.
        """
        self._deadline = time.monotonic() + grace_s
        self._extension = (SLOW - 1) * grace_s
        self._closing.set()
        while self._thread is not None and self._thread.is_alive():
            if self._overdue(1.0):
                break  # a call to a dead server may hang longer; the thread dies with the process
            self._thread.join(0.1)
        return self.waiting()

    def _overdue(self, margin_s: float = 0.0) -> bool:
        extension = 0.0 if self.trouble else self._extension
        return time.monotonic() > self._deadline + extension + margin_s

    def _work(self) -> None:
        pause = self.every_s
        while not self._closing.wait(pause):
            pause = self.every_s if self._try_pass() else min(pause * 2, SLOWEST_S)
        while not self._try_pass(until_none_waits=True) and not self._overdue():
            time.sleep(min(self.every_s, 0.5))
        with suppress(LedgerUnavailableError):
            self.ledger.release(ROLE)
        self.ledger.hang_up()

    def _try_pass(self, *, until_none_waits: bool = False) -> bool:
        """Whether it went well and, if `until_none_waits`, whether nothing is left to do."""
        try:
            if self.ledger.hold(ROLE):
                self.pass_once()
            else:
                self._ids = None  # another recorder makes runs now
            self._note(None)
            return not (until_none_waits and self.waiting())
        except Exception as error:  # whatever MLflow, its server or the disk came up with
            self._connected = False
            self._note(without_secrets(f"{type(error).__name__}: {error}".splitlines()[0]))
            logger.debug("recording failed, will be tried again", exc_info=True)
            return False

    def _note(self, trouble: str | None) -> None:
        """Keep in the ledger how recording goes; `read_note` reads it."""
        self.trouble, state = trouble, (self._identity, trouble)
        if state not in (self._noted, (None, None)):
            with suppress(LedgerUnavailableError):
                self.ledger.note_fact(_fact(self.uri), {"identity": self._identity, "trouble": trouble})
                self._noted = state

    # -- the work -------------------------------------------------------------------------------

    def waiting(self) -> int:
        """How many runs are not up to date in the store."""
        return len(self.ledger.not_shipped(self._identity))

    def pass_once(self) -> None:
        """Record all there is. Raises whatever the store raises; the ledger keeps how far it got."""
        if not self._connected:
            before = self._identity
            self._identity = self._store.open(before or read_note(self.ledger, self.uri)["identity"])
            self._ids = None
            self._board = Board(self.ledger, self._store)
            if before != self._identity:  # runs that somebody has deleted in the store are recorded again
                runs = {r.key: self.ledger.shipped(self._identity, r.key).run_id for r in self.ledger.runs()}
                there = self._store.keys() if any(runs.values()) else {}
                for key in [key for key, run_id in runs.items() if run_id and run_id not in there]:
                    self.ledger.note_shipped(self._identity, key, Shipped())
            self._connected = True
        for run in self.ledger.runs(self.ledger.not_shipped(self._identity)):
            try:
                self._ship(run)
            except GoneError:  # somebody has deleted it in the store: record it again from the start
                self.ledger.note_shipped(self._identity, run.key, Shipped())
                self._ids = None
                self._ship(run)
        self._board.attend()

    def _ship(self, run: Run) -> None:
        shipped = self.ledger.shipped(self._identity, run.key)
        folder = run_folder(self.ledger.folder.parent, run.family, run.key)
        journals = {str(n): path / JOURNAL for n, path in attempt_folders(folder).items()}
        params, tags, metrics = to_mlflow(run_row(run, self.sweep))
        # without a prefix, for people who search and group in MLflow's own pages
        params, tags = {**params, "family": run.family}, {**tags, "state": str(run.state)}
        run_id, created = shipped.run_id, False
        if run_id is None:
            if (ids := self._ids) is None:  # of two runs with one key, the first one
                ids = {key: run_id for run_id, key in self._store.keys().items()}
            self._ids = None  # a call that fails may have made the run
            run_id = ids.get(run.key)
            if created := run_id is None:
                size, budget = run.columns.get("size", run.key), run.columns.get("budget")
                name = f"{run.family} {size}" + (f" {budget:.1e}" if budget is not None else "")
                firsts = (record for path in journals.values() for record in Follower(path).read(1))
                started = next((record.at for record in firsts), run.started or time.time())
                run_id = self._store.create(run.key, name, started, tags)
            else:  # of an earlier ledger of this sweep: the steps that are there are not sent again
                there = self._store.steps(run_id, (TRAIN_LOSS, BIASED_LOSS))
                shipped = replace(shipped, step=max((0, *chain.from_iterable(there.values()))))
            shipped = replace(shipped, run_id=run_id)
            self.ledger.note_shipped(self._identity, run.key, shipped)
            self._ids = ids
        noted, points = shipped, list[Point]()
        held_out_steps: set[int] | None = set() if created else None  # in the store; None: not known
        for attempt, path in journals.items():  # what is new in each
            follower = Follower(path, shipped.positions.get(attempt, 0))
            while records := follower.read(RECORDS_PER_BATCH):
                if points:
                    self._store.log(run_id, points)
                    self.ledger.note_shipped(self._identity, run.key, noted := shipped)
                new = [r for r in records if r.kind == "train" and r.step > shipped.step]
                held_out = [r for r in records if r.kind == "held_out"]
                if held_out and held_out_steps is None:
                    held_out_steps = set(self._store.steps(run_id, (HELD_OUT_LOSS,)).get(HELD_OUT_LOSS, ()))
                held_out = [r for r in held_out if r.step not in (held_out_steps or ())]
                if held_out_steps is not None:
                    held_out_steps |= {r.step for r in held_out}
                points = [point for record in (*new, *held_out) for point in _points(record)]
                shipped = replace(
                    shipped,
                    step=max([shipped.step, *(r.step for r in new)]),
                    positions={**shipped.positions, attempt: follower.position},
                )
        mark = f"{run.state}:{run.attempt}"
        if shipped.mark == mark:
            if shipped != noted:
                self._store.log(run_id, points)
                self.ledger.note_shipped(self._identity, run.key, shipped)
            return
        last = journal.last([*journals.values()][-1]) if journals else None
        ended = last.at if last else run.ended or self.ledger.now()
        step = int(run.result.get("steps_done", shipped.step))
        of_replicas = replica_metrics(run) if run.state == State.FINISHED else {}
        names = [*metrics, *of_replicas]
        there = self._store.steps(run_id, names) if names and not created else {}
        points_of = {
            name: Point(name=name, value=value, at=ended, step=step)
            for name, value in (metrics | of_replicas).items()
            if math.isfinite(value) and step not in there.get(name, ())
        }
        own = [points_of[name] for name in of_replicas if name in points_of]
        for start in range(0, len(own), METRICS_PER_BATCH):
            self._store.log(run_id, own[start : start + METRICS_PER_BATCH])
        points += [points_of[name] for name in metrics if name in points_of]
        extra = {"scaling.attempt": str(run.attempt), "scaling.sentence": run.sentence[:5000]}
        if run.traceback:
            extra["scaling.traceback"] = run.traceback[-5000:]
        if run.state == State.DIVERGED:
            extra["scaling.last_good_step"] = str(step)
        # parameters never change: they are sent once, with the first state
        self._store.log(run_id, points, params if shipped.mark is None else {}, {**tags, **extra})
        status = _STATUS.get(run.state, "SCHEDULED")
        self._store.set_status(run_id, status, None if status in ("RUNNING", "SCHEDULED") else ended)
        self.ledger.note_shipped(self._identity, run.key, replace(shipped, mark=mark))


def _fact(uri: str) -> str:
    return f"recording in {without_secrets(uri)}"


def read_note(ledger: Ledger, uri: str) -> Mapping[str, str | None]:
    """What its recorder keeps of the store at `uri`: "identity" of the experiment, None if nothing was
    recorded, and "trouble", why the last try failed, None if it did not."""
    return {"identity": None, "trouble": None, **(ledger.fact(_fact(uri)) or {})}


def waiting_for(ledger: Ledger, uri: str) -> int:
    """How many runs are not up to date in the store at `uri`, as far as its recorder has noted."""
    return len(ledger.not_shipped(read_note(ledger, uri)["identity"]))


def _points(record: Record) -> list[Point]:
    named = [] if record.loss is None else [(BIASED_LOSS if record.biased else TRAIN_LOSS, record.loss)]
    if record.kind == "train":
        named += [(f"train_{name}", record.numbers[name]) for name in METRICS if name in record.numbers]
    else:
        named += [
            (name, record.numbers[name])
            for name in (HELD_OUT_LOSS, HELD_OUT_LOSS_SE)
            if name in record.numbers
        ]
    return [
        # infinity would come back as the largest float; the status says that a run diverged
        Point(name=name, value=value, at=record.at, step=record.step)
        for name, value in named
        if math.isfinite(value)
    ]
