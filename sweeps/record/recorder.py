"""The recorder: carries journals to the tracking store, in batches, with their original times.

A process beside the driver (see `process.py`) follows the journals of the sweep's runs. How far it got is
kept in the ledger, for each store: after a kill, or an hour without a server, it goes on from there, and what
it may have sent twice is stored once, because name, step, time and value are the same. Where the ledger is a
new one, what the store has is looked up there. Of two drivers one records.

A step is sent once. What a later attempt does again is not sent again: on the same kind of device it is
the same to the last bit. The journals keep both, see `sweeps.attempt.journal.merged`.

Nothing here can stop or delay a run: no error leaves the thread, which tries again more and more slowly.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path

from analysis.table.columns import BIASED_LOSS, TRAIN_LOSS, to_mlflow
from analysis.text import without_secrets
from sweeps.attempt import journal
from sweeps.attempt.journal import JOURNAL, Follower, Record, attempt_folders, run_folder
from sweeps.ledger.ledger import Ledger, LedgerUnavailableError, Run, State
from sweeps.ledger.types import Shipped
from sweeps.plan.rows import run_row
from sweeps.record.board import Board
from sweeps.record.store import GoneError, Point, Store
from sweeps.record.tracking import MlflowStore

EVERY_S = 2.0
SLOWEST_S = 60.0
GRACE_S = 20.0
SLOW = 3
"""How many times as long as for one that fails a store is waited for that is merely slow."""
ROLE = "recorder"
RECORDS_PER_BATCH = 100
"""MLflow takes 1000 points at once, all or none: what is there of a run has no gaps."""

METRICS = ("learning_rate", "grad_norm", "tokens", "flops", "tokens_per_s", "flops_per_s", "mfu")
"""Of a training record, beside the loss; sent as train_..., for the run table has columns of these names."""

_STATUS = {
    State.RUNNING: "RUNNING",
    State.FINISHED: "FINISHED",
    State.DIVERGED: "FAILED",
    State.FAILED: "FAILED",
    State.CANCELLED: "KILLED",
}
"""MLflow's word for a state; any other is one in which the run will go on: SCHEDULED."""

logger = logging.getLogger(__name__)


def mark_of(run: Run) -> str:
    return f"{run.state}:{run.attempt}"


class Recorder:
    """Records one sweep in one store. `start` and `close` it, or call `pass_once` yourself."""

    def __init__(self, ledger: Ledger, sweep: str, store: Store | str, *, every_s: float = EVERY_S) -> None:
        """store: a tracking URI, or what stands in for one in tests."""
        self.ledger, self.sweep, self.every_s = ledger, sweep, every_s
        self._store = MlflowStore(store, sweep) if isinstance(store, str) else store
        self.uri = without_secrets(store) if isinstance(store, str) else ""
        self._identity: str | None = None
        self._told: tuple[str | None, str | None] = (None, None)
        self._connected = False
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

    def close(self, grace_s: float = GRACE_S, give_up: Callable[[], bool] = lambda: False) -> int:
        """Let it catch up, then stop it. Returns how many runs still wait.

        A store that fails is waited for `grace_s`, one that is merely slow SLOW times as long.
        """
        self._deadline = time.monotonic() + grace_s
        self._extension = (SLOW - 1) * grace_s
        self._closing.set()
        while self._thread is not None and self._thread.is_alive():
            if give_up():
                self._deadline, self._extension = -math.inf, 0.0
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
        """Whether it went well, and, if that is asked for, whether there is nothing left to do."""
        try:
            if self.ledger.hold(ROLE):
                self.pass_once()
            self._tell(None)
            return not (until_none_waits and self.waiting())
        except Exception as error:  # whatever MLflow, its server or the disk came up with
            self._connected = False
            self._tell(without_secrets(f"{type(error).__name__}: {error}".splitlines()[0]))
            logger.debug("recording failed, will be tried again", exc_info=True)
            return False

    def _tell(self, trouble: str | None) -> None:
        """Leave word in the ledger of how recording goes, for whoever asks."""
        self.trouble = trouble
        if self._told == (self._identity, trouble) or (self._identity, trouble) == (None, None):
            return
        with suppress(LedgerUnavailableError):
            self.ledger.note_fact(_fact(self.uri), {"identity": self._identity, "trouble": trouble})
            self._told = (self._identity, trouble)

    # -- the work -------------------------------------------------------------------------------

    def waiting(self) -> int:
        """Runs of which the store does not know the latest."""
        return len(self.ledger.not_shipped(self._identity))

    def pass_once(self) -> None:
        """Carry over all there is. Raises whatever the store raises; what went over is remembered."""
        if not self._connected:
            known = self._identity or identity_of(self.ledger, self.uri)
            before, self._identity = self._identity, self._store.open(known)
            self._board = Board(self.ledger, self._store)
            if before != self._identity:
                self._forget_deleted()
            self._connected = True
        for run in self.ledger.runs(self.ledger.not_shipped(self._identity)):
            try:
                self._ship(run)
            except GoneError:  # somebody deleted it there; tell the whole story again
                self.ledger.note_shipped(self._identity, run.key, Shipped())
                self._ship(run)
        self._board.attend()

    def _forget_deleted(self) -> None:
        """Runs that somebody deleted in the store since they were recorded are recorded again."""
        shipped = {run.key: self.ledger.shipped(self._identity, run.key).run_id for run in self.ledger.runs()}
        there = self._store.run_ids() if any(shipped.values()) else set()
        for key, run_id in shipped.items():
            if run_id is not None and run_id not in there:
                self.ledger.note_shipped(self._identity, key, Shipped())

    def _ship(self, run: Run) -> None:
        shipped = self.ledger.shipped(self._identity, run.key)
        folder = run_folder(self.ledger.folder.parent, run.family, run.key)
        journals = {str(n): path / JOURNAL for n, path in attempt_folders(folder).items()}
        params, tags, metrics = to_mlflow(run_row(run, self.sweep))
        if shipped.run_id is None:
            run_id = self._store.find(run.key)
            if run_id is None:
                run_id = self._store.create(run.key, _name(run), _start(run, journals.values()), tags)
            else:  # of an earlier ledger of this sweep: what is there is not told again
                there = self._store.steps(run_id, (TRAIN_LOSS, BIASED_LOSS))
                shipped = replace(shipped, step=max((0, *chain.from_iterable(there.values()))))
            shipped = replace(shipped, run_id=run_id)
            self.ledger.note_shipped(self._identity, run.key, shipped)
        for attempt, path in journals.items():
            shipped = self._follow(run.key, shipped, attempt, path)
        if shipped.mark != mark_of(run):
            # parameters never change: they go with the first word on the run
            unknown = params if shipped.mark is None else {}
            self._tell_state(run, shipped, unknown, tags, metrics, list(journals.values()))

    def _follow(self, key: str, shipped: Shipped, attempt: str, path: Path) -> Shipped:
        """Send what is new in one journal, noting after every batch how far it got."""
        follower = Follower(path, shipped.positions.get(attempt, 0))
        while records := follower.read(RECORDS_PER_BATCH):
            new = [r for r in records if r.kind == "train" and r.step > shipped.step]
            assert shipped.run_id is not None, "a run is created before its journal is sent"
            self._store.log(shipped.run_id, [point for record in new for point in _points(record)])
            shipped = replace(
                shipped,
                step=max([shipped.step, *(r.step for r in new)]),
                positions={**shipped.positions, attempt: follower.position},
            )
            self.ledger.note_shipped(self._identity, key, shipped)
        return shipped

    def _tell_state(
        self,
        run: Run,
        shipped: Shipped,
        params: dict[str, str],
        tags: dict[str, str],
        metrics: dict[str, float],
        journals: list[Path],
    ) -> None:
        assert shipped.run_id is not None, "a run is created before its state is told"
        last = journal.last(journals[-1]) if journals else None
        ended = last.at if last else run.ended or self.ledger.now()
        step = int(run.result.get("steps_done", shipped.step))
        there = self._store.steps(shipped.run_id, metrics) if metrics else {}
        points = [
            Point(name=name, value=value, at=ended, step=step)
            for name, value in metrics.items()
            if math.isfinite(value) and step not in there.get(name, ())
        ]
        extra = {"scaling.attempt": str(run.attempt), "scaling.sentence": run.sentence[:5000]}
        if run.traceback:
            extra["scaling.traceback"] = run.traceback[-5000:]
        if run.state == State.DIVERGED:
            extra["scaling.last_good_step"] = str(step)
        self._store.log(shipped.run_id, points, params, {**tags, **extra})
        status = _STATUS.get(run.state, "SCHEDULED")
        self._store.set_status(shipped.run_id, status, None if status in ("RUNNING", "SCHEDULED") else ended)
        self.ledger.note_shipped(self._identity, run.key, replace(shipped, mark=mark_of(run)))


def _fact(uri: str) -> str:
    return f"recording in {without_secrets(uri)}"


def identity_of(ledger: Ledger, uri: str) -> str | None:
    """Of the experiment recorded to in the store at `uri`; None if nothing was."""
    told = ledger.fact(_fact(uri)) or {}
    identity: str | None = told.get("identity")
    return identity


def waiting_for(ledger: Ledger, uri: str) -> int:
    """Runs of which the store at `uri` does not know the latest, as far as its recorder has told."""
    return len(ledger.not_shipped(identity_of(ledger, uri)))


def trouble_of(ledger: Ledger, uri: str) -> str | None:
    """Why the store at `uri` took no records when last tried; None if it did, or nobody tried."""
    told = ledger.fact(_fact(uri)) or {}
    trouble: str | None = told.get("trouble")
    return trouble


def _points(record: Record) -> list[Point]:
    named = [] if record.loss is None else [(BIASED_LOSS if record.biased else TRAIN_LOSS, record.loss)]
    named += [(f"train_{name}", record.numbers[name]) for name in METRICS if name in record.numbers]
    return [
        # infinity would come back as the largest float; that a run diverged is told by its status
        Point(name=name, value=value, at=record.at, step=record.step)
        for name, value in named
        if math.isfinite(value)
    ]


def _name(run: Run) -> str:
    columns = run.columns
    budget = columns.get("budget")
    return " ".join(
        [run.family, str(columns.get("size", run.key))] + ([f"{budget:.1e}"] if budget is not None else [])
    )


def _start(run: Run, journals: Iterable[Path]) -> float:
    """When the first attempt began, by its journal; by the ledger where there is none."""
    for path in journals:
        if records := Follower(path).read(1):
            return records[0].at
    return run.started or time.time()
