"""The ledger: claims, attempts and states of a sweep's runs, in one SQLite file. It is the truth.

Every change is one short `BEGIN IMMEDIATE` transaction, so drivers on one ledger never see half of one.
A rollback journal, not a write-ahead log: the latter needs shared memory, which two hosts on one network
file system do not have. (Measured here, synced commit: 0.34 ms with the journal file kept.)

A driver keeps its claims by a heartbeat. It counts as dead if its process is provably gone, or if another
driver has seen no beat of it for `LEASE_S` of its own uptime; clocks of different hosts are never compared.
Each claim raises the run's attempt number, and only the newest attempt may enter how the run ended. So a
driver that was declared dead too early does no harm.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sweeps.ledger.file import REMEDY, LedgerFile, LedgerLostError, LedgerUnavailableError
from sweeps.ledger.owner import Owner
from sweeps.ledger.types import CLAIMABLE, RETRIED, SETTLED, Claim, Entry, Needs, Run, Shipped, State

LEASE_S = 15.0
BEAT_S = 3.0

_STATE = """key, family, state, attempt, CAST(changed AS INTEGER), owner, not_before, COALESCE(sentence, ''),
    started, ended, host, device,
    json_extract(spec, '$.size.name'),
    CAST(json_extract(spec, '$.budget') AS REAL),
    json_extract(columns, '$.params'),
    json_extract(spec, '$.seed'),
    COALESCE(json_extract(spec, '$.replicas'), 1),
    json_extract(result, '$.bound'),
    json_extract(result, '$.bound_se'),
    json_extract(result, '$.bits_per_byte'),
    COALESCE(json_extract(result, '$.train_s'), 0.0) + COALESCE(json_extract(result, '$.evaluation_s'), 0.0)
"""
"""The first fields of a `Run`, in their order. SQLite picks the numbers: to parse 10,000 runs takes a
second."""
_STATE_FIELDS = Run._fields.index("worked_s") + 1
_WELL_FORMED = "json_valid(spec) AND json_valid(columns) AND json_valid(COALESCE(result, '{}'))"
_REST = "spec, columns, predicted_s, needs, traceback, result"
"""The last fields of a `Run`."""
NEXT = "(SELECT COALESCE(max(changed), 0) + 1 FROM runs)"
"""Number of the current change."""

__all__ = ["Ledger", "LedgerLostError", "LedgerUnavailableError", "Run", "State"]


class Ledger(LedgerFile, AbstractContextManager["Ledger"]):
    """One sweep's ledger; safe to use from several threads and processes.

    `now` is wall time, for people and retry times; `uptime` is a monotonic clock, for leases.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        now: Callable[[], float] = time.time,
        uptime: Callable[[], float] = time.monotonic,
        owner: Owner | None = None,
        lease_s: float = LEASE_S,
        read_only: bool = False,
    ) -> None:
        """Open `folder`/ledger.db, or create it. UserError for a newer schema or a file that is no ledger."""
        self.folder = Path(folder)
        self.now, self.uptime, self.lease_s = now, uptime, lease_s
        self.owner = owner or Owner.this_process()
        self._beats: dict[str, tuple[int, float]] = {}
        """Driver -> its latest beat, and when this process first read it."""
        self.id: str | None = None
        super().__init__(self.folder / "ledger.db", read_only=read_only)
        self.id = self.fact("ledger")

    @staticmethod
    def exists(folder: str | Path) -> bool:
        return (Path(folder) / "ledger.db").exists()

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def driving(self) -> Iterator[Owner]:
        """Be a driver: enlist, beat in a thread, and retire at the end."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(BEAT_S):
                with suppress(LedgerUnavailableError):  # the next beat may succeed, and claims are fenced
                    self.beat()
            self.hang_up()

        self.enlist()
        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield self.owner
        finally:
            stop.set()
            thread.join()
            with suppress(LedgerUnavailableError):  # the end of its process has the same effect
                self.retire()

    def enlist(self) -> None:
        me = self.owner
        with self.write() as db:
            db.execute(
                "INSERT OR REPLACE INTO drivers "
                "(id, role, host, machine, pid, process_started, beat, beat_at, started) "
                "VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?)",
                (me.id, me.role, me.host, me.machine, me.pid, me.process_started, self.now(), self.now()),
            )

    def beat(self) -> None:
        with self.write() as db:
            db.execute(
                "UPDATE drivers SET beat = beat + 1, beat_at = ? WHERE id = ?", (self.now(), self.owner.id)
            )

    def retire(self) -> None:
        """Leave: other drivers may take this driver's runs at once."""
        with self.write() as db:
            db.execute("UPDATE drivers SET ended = ? WHERE id = ?", (self.now(), self.owner.id))
            db.execute("DELETE FROM leases WHERE owner = ?", (self.owner.id,))

    def _gone(self, owner: str | None) -> bool:
        """Whether driver `owner` is certainly dead, or had no beat for a whole lease."""
        if owner is None:
            return True
        if owner == self.owner.id:
            return False
        rows = self.query("SELECT * FROM drivers WHERE id = ?", (owner,))
        if not rows or rows[0]["ended"] is not None:
            return True
        row, uptime = rows[0], self.uptime()
        names = ("id", "host", "machine", "pid", "process_started")
        if Owner(**{name: row[name] for name in names}).provably_gone():
            return True
        beat, since = self._beats.get(owner, (None, uptime))
        if beat != row["beat"]:
            self._beats[owner] = (row["beat"], uptime)
            return False
        return uptime - since >= self.lease_s

    def alive(self, owners: Iterable[str | None]) -> frozenset[str]:
        """Those of `owners` that live, or may live."""
        return frozenset(owner for owner in owners if owner is not None and not self._gone(owner))

    def driven(self) -> bool:
        """Whether another driver than this process lives, or may live."""
        rows = self.query(
            "SELECT id FROM drivers WHERE ended IS NULL AND id != ? AND role = 'driver'", (self.owner.id,)
        )
        return bool(self.alive(row["id"] for row in rows))

    def hold(self, name: str) -> bool:
        """Take, or keep, the ledger-wide role `name` (such as the recorder's); False while another has it."""
        with self.write() as db:
            row = db.execute("SELECT owner FROM leases WHERE name = ?", (name,)).fetchone()
            if row is not None and row["owner"] != self.owner.id and not self._gone(row["owner"]):
                return False
            db.execute("INSERT OR REPLACE INTO leases (name, owner) VALUES (?, ?)", (name, self.owner.id))
        return True

    def release(self, name: str) -> None:
        with self.write() as db:
            db.execute("DELETE FROM leases WHERE name = ? AND owner = ?", (name, self.owner.id))

    def register(self, entries: Iterable[Entry]) -> None:
        """Add new runs; of the others, refresh predicted time, needs and columns."""
        with self.write() as db:
            for entry in entries:
                needs = json.dumps(asdict(entry.needs))
                values = (entry.predicted_s, needs, json.dumps(dict(entry.columns)))
                db.execute(
                    "INSERT INTO runs (key, family, spec, predicted_s, needs, columns, state, changed) "
                    f"VALUES (?, ?, ?, ?, ?, ?, 'planned', {NEXT}) ON CONFLICT (key) DO UPDATE SET "
                    "predicted_s = excluded.predicted_s, needs = excluded.needs, columns = excluded.columns",
                    (entry.key, entry.family, json.dumps(entry.spec.to_dict()), *values),
                )

    def reopen(self, keys: Iterable[str] | None = None, states: Iterable[str] = RETRIED) -> int:
        """Plan runs that ended in one of `states` anew, with all their tries; the number of these runs.

        They go on from their last checkpoint.
        """
        with self.write() as db:
            return self._update_states(
                db,
                keys,
                states,
                "state = 'planned', failures = 0, signature = NULL, failed_host = NULL, not_before = 0, "
                "cancel_asked = 0, ended = NULL",
            )

    def cancel(self, keys: Iterable[str] | None = None) -> int:
        """Cancel runs: through their driver if they run, else at once. The number of these runs."""
        keys = list(keys) if keys is not None else None
        with self.write() as db:
            waiting = self._update_states(db, keys, CLAIMABLE, _CANCEL.format(self.now()))
            running = self._update_states(db, keys, (State.RUNNING,), "cancel_asked = 1")
            for row in db.execute("SELECT key, owner FROM runs WHERE cancel_asked = 1 AND state = 'running'"):
                if self._gone(row["owner"]):
                    self._update_states(db, [row["key"]], (State.RUNNING,), _CANCEL.format(self.now()))
        return waiting + running

    def _update_states(
        self, db: sqlite3.Connection, keys: Iterable[str] | None, states: Iterable[str], change: str
    ) -> int:
        names = [str(state) for state in states]
        marks = ", ".join("?" * len(names))
        if keys is None:
            rows = db.execute(f"SELECT key FROM runs WHERE state IN ({marks})", names).fetchall()
            keys = [row["key"] for row in rows]
        return sum(
            db.execute(
                f"UPDATE runs SET {change}, changed = {NEXT} WHERE key = ? AND state IN ({marks})",
                (key, *names),
            ).rowcount
            for key in keys
        )

    def refuse(self, key: str, sentence: str) -> None:
        """No node can hold this run: `sentence` names its needs."""
        with self.write() as db:
            db.execute(
                f"UPDATE runs SET state = 'unschedulable', sentence = ?, changed = {NEXT} "
                "WHERE key = ? AND state IN ('planned', 'waiting', 'preempted')",
                (sentence, key),
            )

    def claim(self, key: str) -> Claim | None:
        """Take `key` if it is open, or if its driver is dead; None if not."""
        now = self.now()
        with self.write() as db:
            more = "failures, signature, failed_host, cancel_asked"
            row = db.execute(f"SELECT {_STATE}, {more} FROM runs WHERE key = ?", (key,)).fetchone()
            run = self._run(row, {row["owner"]}, whole=False) if row is not None else None
            orphaned = row is not None and row["state"] == State.RUNNING and self._gone(row["owner"])
            if run is None or not (orphaned or run.due(now)):
                return None
            if row["cancel_asked"]:
                self._update_states(db, [key], (*CLAIMABLE, State.RUNNING), _CANCEL.format(now))
                return None
            if orphaned:
                db.execute(
                    "UPDATE attempts SET state = 'lost', sentence = 'its driver is gone', ended = ? "
                    "WHERE key = ? AND attempt = ?",
                    (now, key, row["attempt"]),
                )
            attempt = row["attempt"] + 1
            db.execute(
                "UPDATE runs SET state = 'running', attempt = ?, owner = ?, ended = NULL, "
                f"changed = {NEXT}, started = COALESCE(started, ?) WHERE key = ?",
                (attempt, self.owner.id, now, key),
            )
            db.execute(
                "INSERT INTO attempts (key, attempt, owner, started, state) VALUES (?, ?, ?, ?, 'running')",
                (key, attempt, self.owner.id, now),
            )
        return Claim(
            key=key,
            attempt=attempt,
            failures=row["failures"],
            last_signature=row["signature"],
            last_host=row["failed_host"],
        )

    def end(
        self,
        claim: Claim,
        state: State,
        *,
        sentence: str,
        result: Mapping[str, Any] | None = None,
        traceback: str | None = None,
        signature: str | None = None,
        counts: bool = True,
        retry_at: float = 0.0,
        facts: Mapping[str, Any] | None = None,
        micro_batch: tuple[str, int] | None = None,
    ) -> State | None:
        """Enter how the claimed attempt ended. None, and nothing changes, if a later attempt holds the run.

        Else the run's new state: cancelled, if that was requested, even if its driver does not know it yet.
        signature: of a failure; None for any other end. counts: whether it uses up one of the run's tries.
        facts: host and device of the attempt, and avoid_host for the next one. micro_batch: a size and the
        number of its sequences that fit into memory at once.
        """
        facts, now = facts or {}, self.now()
        failed = signature is not None and counts
        with self.write() as db:
            held = db.execute(
                "SELECT cancel_asked FROM runs "
                "WHERE key = ? AND attempt = ? AND owner = ? AND state = 'running'",
                (claim.key, claim.attempt, self.owner.id),
            ).fetchone()
            if held and held["cancel_asked"] and state not in (State.FINISHED, State.DIVERGED):
                state = State.CANCELLED
            db.execute(
                "UPDATE attempts SET state = ?, sentence = ?, traceback = ?, signature = ?, ended = ?, "
                "host = ?, device = ?, accepted = ? WHERE key = ? AND attempt = ?",
                (
                    *(str(state), sentence, traceback, signature, now),
                    *(facts.get("host"), facts.get("device"), held is not None, claim.key, claim.attempt),
                ),
            )
            if micro_batch is not None:
                db.execute(
                    "INSERT INTO micro_batches (size, sequences) VALUES (?, ?) ON CONFLICT (size) DO UPDATE "
                    "SET sequences = min(sequences, excluded.sequences)",
                    micro_batch,
                )
            if held is None:
                return None
            db.execute(
                "UPDATE runs SET state = ?, sentence = ?, traceback = ?, result = ?, "
                "failures = failures + ?, signature = ?, failed_host = ?, not_before = ?, ended = ?, "
                f"changed = {NEXT}, owner = NULL, host = COALESCE(?, host), device = COALESCE(?, device) "
                "WHERE key = ?",
                (
                    *(str(state), sentence, traceback, json.dumps(dict(result or {})), failed),
                    *(signature if failed else None, facts.get("avoid_host")),
                    *(retry_at, now if state in SETTLED or state == State.PREEMPTED else None),
                    *(facts.get("host"), facts.get("device"), claim.key),
                ),
            )
        return state

    def cancel_requests(self) -> list[str]:
        """Running runs of this driver with a request to cancel them."""
        rows = self.query(
            "SELECT key FROM runs WHERE state = 'running' AND cancel_asked = 1 AND owner = ?",
            (self.owner.id,),
        )
        return [row["key"] for row in rows]

    def runs(
        self, keys: Iterable[str] | None = None, *, since: int | None = None, whole: bool = True
    ) -> list[Run]:
        """All runs (of `keys`) in order of registration.

        since: only those that changed later, and those that are running, for their driver may be gone.
        whole: with spec, columns, needs and result, not only their state and numbers.
        """
        if self.id != self.fact("ledger"):
            raise LedgerLostError(f"the ledger {self.path} was emptied, or replaced by another one; {REMEDY}")
        columns = f"{_STATE}, {_REST}" if whole else _STATE
        statement, values = f"SELECT {columns} FROM runs WHERE TRUE", list[Any]()
        if keys is not None:
            statement += " AND key IN (SELECT value FROM json_each(?))"
            values.append(json.dumps(list(keys)))
        if since is not None:
            statement += " AND (changed > ? OR state = 'running')"
            values.append(since)
        try:
            rows = self.query(f"{statement} ORDER BY rowid", values)
        except LedgerLostError:
            # a run whose values are no JSON can be named
            for row in self.query(f"SELECT key FROM runs WHERE NOT ({_WELL_FORMED}) LIMIT 1"):
                raise self.unavailable(sqlite3.DatabaseError(f"run {row['key']!r}: malformed JSON")) from None
            raise
        alive = self.alive({row["owner"] for row in rows if row["state"] == State.RUNNING})
        return [self._run(row, alive, whole=whole) for row in rows]

    def _run(self, row: sqlite3.Row, alive: Collection[str | None], *, whole: bool) -> Run:
        try:
            run = Run(row[0], row[1], State(row[2]), *row[3:_STATE_FIELDS])
            if run.state == State.RUNNING and run.owner not in alive:
                gone = "its driver is gone; `scaling sweep` takes it up"
                run = run._replace(state=State.PREEMPTED, sentence=gone, not_before=0.0)
            if not whole:
                return run
            return run._replace(
                spec=json.loads(row["spec"]),
                columns=json.loads(row["columns"]),
                predicted_s=row["predicted_s"],
                needs=Needs.from_dict(json.loads(row["needs"])),
                traceback=row["traceback"],
                result=json.loads(row["result"] or "{}"),
            )
        except (ValueError, TypeError, AttributeError) as error:
            raise self.unavailable(sqlite3.DatabaseError(f"run {row['key']!r}: {error}")) from error

    def attempts(self, key: str) -> list[dict[str, Any]]:
        """Every attempt of a run, first to last: the columns of the ledger."""
        rows = self.query("SELECT * FROM attempts WHERE key = ? ORDER BY attempt", (key,))
        return [dict(row) for row in rows]

    def fact(self, name: str) -> Any:
        """The value noted under `name`; None if there is none."""
        rows = self.query("SELECT value FROM facts WHERE name = ?", (name,))
        return self._parsed(rows[0]["value"]) if rows else None

    def _parsed(self, text: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, TypeError) as error:
            raise self.unavailable(sqlite3.DatabaseError(error)) from error

    def note_fact(self, name: str, value: Any) -> None:
        """Keep `value`, plain data, for the sweep."""
        with self.write() as db:
            db.execute("INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)", (name, json.dumps(value)))

    def micro_batches(self) -> dict[str, int]:
        """Size -> number of sequences that fit into memory at once, for sizes that once did not fit."""
        rows = self.query("SELECT size, sequences FROM micro_batches")
        return {row["size"]: row["sequences"] for row in rows}

    def relax_micro_batches(self) -> None:
        """Allow twice as many sequences at once: memory may be free again."""
        with self.write() as db:
            db.execute("UPDATE micro_batches SET sequences = min(2 * sequences, 1 << 20)")

    def gpu_seconds(self, keys: Iterable[str]) -> float:
        """GPU-seconds of all attempts of `keys` so far."""
        rows = self.query(
            "SELECT sum((COALESCE(a.ended, ?) - a.started) * json_extract(r.needs, '$.gpus')) AS seconds "
            "FROM attempts a JOIN runs r ON r.key = a.key WHERE r.key IN (SELECT value FROM json_each(?))",
            (self.now(), json.dumps(list(keys))),
        )
        return float(rows[0]["seconds"] or 0.0)

    def shipped(self, store: str | None, key: str) -> Shipped:
        """The part of run `key` that is in the tracking store `store`."""
        for row in self.query("SELECT * FROM shipped WHERE store = ? AND key = ?", (store, key)):
            positions = self._parsed(row["positions"])
            return Shipped(run_id=row["run_id"], mark=row["state"], step=row["step"], positions=positions)
        return Shipped()

    def note_shipped(self, store: str | None, key: str, shipped: Shipped) -> None:
        positions = json.dumps(dict(shipped.positions))
        with self.write() as db:
            db.execute(
                "INSERT OR REPLACE INTO shipped (store, key, run_id, state, step, positions) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (store, key, shipped.run_id, shipped.mark, shipped.step, positions),
            )

    def not_shipped(self, store: str | None) -> list[str]:
        """Runs whose latest state or records are not in `store`."""
        rows = self.query(
            "SELECT r.key FROM runs r LEFT JOIN shipped s ON s.key = r.key AND s.store = ? "
            "WHERE r.attempt > 0 AND (s.state IS NULL OR s.state != r.state || ':' || r.attempt "
            "OR r.state = 'running')",
            (store,),
        )
        return [row["key"] for row in rows]

    def run_ids(self) -> dict[str, str]:
        """Key -> id of the run in the latest store."""
        rows = self.query("SELECT key, run_id FROM shipped WHERE run_id NOT NULL ORDER BY rowid")
        return {row["key"]: row["run_id"] for row in rows}


_CANCEL = "state = 'cancelled', cancel_asked = 0, ended = {}"
