"""The ledger: claims, attempts and states of a sweep's runs, in one SQLite file. It is the truth.

Every change is one short `BEGIN IMMEDIATE` transaction, so drivers on one ledger never see half of one.
A rollback journal, not a write-ahead log: the latter needs shared memory, which two hosts on one network
file system do not have. (Measured here, synced commit: 0.34 ms with the journal file kept.)

A driver holds its claims by a heartbeat. It is taken for dead when its process is provably gone, or when
another driver has watched its beat stand still for `LEASE_S` of its own uptime; clocks of different hosts
are never compared. Each claim raises the run's attempt number, and only the newest attempt may say how the
run ended: a driver that was declared dead too early can do no harm.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sweeps.ledger.file import LedgerFile, LedgerUnavailableError
from sweeps.ledger.owner import Owner
from sweeps.ledger.types import CLAIMABLE, SETTLED, Claim, Entry, Glance, Needs, Run, State

LEASE_S = 15.0
RECORDER = "recorder:"
"""How the id of an owner begins that only records, and drives nothing."""
BEAT_S = 3.0

__all__ = ["Claim", "Entry", "Glance", "Ledger", "LedgerUnavailableError", "Needs", "Run", "State"]


class Ledger(LedgerFile):
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
    ) -> None:
        """Open `folder`/ledger.db, or create it. UserError for a newer schema or a file that is no ledger."""
        self.folder = Path(folder)
        self.now, self.uptime, self.lease_s = now, uptime, lease_s
        self.owner = owner or Owner.this_process()
        self._seen: dict[str, tuple[int, float]] = {}
        super().__init__(self.folder / "ledger.db")

    @staticmethod
    def exists(folder: str | Path) -> bool:
        return (Path(folder) / "ledger.db").exists()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- drivers and their leases ---------------------------------------------------------------

    @contextmanager
    def driving(self) -> Iterator[Owner]:
        """Be a driver: enlist, beat in a thread, and retire at the end."""
        self.enlist()
        stop = threading.Event()
        thread = threading.Thread(target=self._beat_until, args=(stop,), name="heartbeat", daemon=True)
        thread.start()
        try:
            yield self.owner
        finally:
            stop.set()
            thread.join()
            with suppress(LedgerUnavailableError):  # a process that ended is as good as one that retired
                self.retire()

    def enlist(self) -> None:
        me = self.owner
        with self.write() as db:
            db.execute(
                "INSERT OR REPLACE INTO drivers VALUES (?, ?, ?, ?, ?, 0, ?, ?, NULL)",
                (me.id, me.host, me.machine, me.pid, me.process_started, self.now(), self.now()),
            )

    def beat(self) -> None:
        with self.write() as db:
            db.execute(
                "UPDATE drivers SET beat = beat + 1, beat_at = ? WHERE id = ?", (self.now(), self.owner.id)
            )

    def retire(self) -> None:
        """Leave: what this driver still holds is free at once."""
        with self.write() as db:
            db.execute("UPDATE drivers SET ended = ? WHERE id = ?", (self.now(), self.owner.id))
            db.execute("DELETE FROM leases WHERE owner = ?", (self.owner.id,))

    def _beat_until(self, stop: threading.Event) -> None:
        while not stop.wait(BEAT_S):
            try:
                self.beat()
            except LedgerUnavailableError:
                continue  # a full disk or a long lock: the next beat may get through, and claims are fenced
        self.hang_up()

    def _gone(self, owner: str | None) -> bool:
        """Whether driver `owner` is dead for certain, or has not been seen to move for a whole lease."""
        if owner is None:
            return True
        if owner == self.owner.id:
            return False
        rows = self.query("SELECT * FROM drivers WHERE id = ?", (owner,))
        if not rows or rows[0]["ended"] is not None:
            return True
        row = rows[0]
        who = Owner(
            id=owner,
            host=row["host"],
            machine=row["machine"],
            pid=row["pid"],
            process_started=row["process_started"],
        )
        if who.provably_gone():
            return True
        uptime = self.uptime()
        beat, since = self._seen.get(owner, (None, uptime))
        if beat != row["beat"]:
            self._seen[owner] = (row["beat"], uptime)
            return False
        return uptime - since >= self.lease_s

    def alive(self, owners: Iterable[str | None]) -> frozenset[str]:
        """Those of `owners` that live, as far as can be told."""
        return frozenset(owner for owner in owners if owner is not None and not self._gone(owner))

    def driven(self) -> bool:
        """Whether some driver, other than this process, seems to live."""
        rows = self.query(
            "SELECT id FROM drivers WHERE ended IS NULL AND id != ? AND id NOT LIKE ?",
            (self.owner.id, f"{RECORDER}%"),
        )
        return bool(self.alive(row["id"] for row in rows))

    def hold(self, name: str) -> bool:
        """Take, or keep, the ledger-wide role `name` (such as the recorder's); False while another has it."""
        with self.write() as db:
            row = db.execute("SELECT owner FROM leases WHERE name = ?", (name,)).fetchone()
            if row is not None and row["owner"] != self.owner.id and not self._gone(row["owner"]):
                return False
            db.execute("INSERT OR REPLACE INTO leases VALUES (?, ?)", (name, self.owner.id))
        return True

    def release(self, name: str) -> None:
        with self.write() as db:
            db.execute("DELETE FROM leases WHERE name = ? AND owner = ?", (name, self.owner.id))

    # -- runs -----------------------------------------------------------------------------------

    def register(self, entries: Iterable[Entry]) -> None:
        """Add runs the ledger does not have yet; of the others, refresh what does not decide the outcome."""
        now = self.now()
        with self.write() as db:
            for entry in entries:
                needs = json.dumps(entry.needs.to_dict())
                values = (entry.predicted_s, needs, json.dumps(dict(entry.columns)))
                db.execute(
                    "INSERT INTO runs (key, family, spec, predicted_s, needs, columns, state, changed) "
                    "VALUES (?, ?, ?, ?, ?, ?, 'planned', ?) ON CONFLICT (key) DO UPDATE SET "
                    "predicted_s = excluded.predicted_s, needs = excluded.needs, columns = excluded.columns",
                    (entry.key, entry.family, json.dumps(entry.spec), *values, now),
                )

    def reopen(
        self,
        keys: Iterable[str] | None = None,
        states: Iterable[str] = (State.FAILED, State.UNSCHEDULABLE),
    ) -> int:
        """Plan runs that ended in one of `states` anew, with all their tries; how many there were.

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
        """Cancel runs: at once where nobody runs them, else through their driver. How many that concerns."""
        wanted = list(keys) if keys is not None else None
        with self.write() as db:
            waiting = self._update_states(db, wanted, CLAIMABLE, "state = 'cancelled', ended = changed")
            running = self._update_states(db, wanted, (State.RUNNING,), "cancel_asked = 1")
            for row in db.execute("SELECT key, owner FROM runs WHERE cancel_asked = 1 AND state = 'running'"):
                if self._gone(row["owner"]):
                    self._update_states(db, [row["key"]], (State.RUNNING,), "state = 'cancelled'")
        return waiting + running

    def _update_states(
        self,
        db: sqlite3.Connection,
        keys: Iterable[str] | None,
        states: Iterable[str],
        change: str,
    ) -> int:
        names = [str(state) for state in states]
        marks = ", ".join("?" * len(names))
        if keys is None:
            rows = db.execute(f"SELECT key FROM runs WHERE state IN ({marks})", names).fetchall()
            keys = [row["key"] for row in rows]
        return sum(
            db.execute(
                f"UPDATE runs SET {change}, changed = ? WHERE key = ? AND state IN ({marks})",
                (self.now(), key, *names),
            ).rowcount
            for key in keys
        )

    def refuse(self, key: str, sentence: str) -> None:
        """No node can hold this run: `sentence` says what it would need."""
        with self.write() as db:
            db.execute(
                "UPDATE runs SET state = 'unschedulable', sentence = ?, changed = ? "
                "WHERE key = ? AND state IN ('planned', 'waiting', 'preempted')",
                (sentence, self.now(), key),
            )

    def glance(self, keys: Iterable[str]) -> dict[str, Glance]:
        """State and holder of `keys` (those the ledger has)."""
        wanted = set(keys)
        rows = [
            row
            for row in self.query("SELECT key, state, owner, not_before, attempt FROM runs")
            if row["key"] in wanted
        ]
        alive = self.alive({row["owner"] for row in rows if row["state"] == State.RUNNING})
        return {
            row["key"]: Glance(
                state=State(row["state"]),
                owner=row["owner"],
                not_before=row["not_before"],
                alive=row["owner"] in alive,
                attempt=row["attempt"],
            )
            for row in rows
        }

    def claim(self, key: str) -> Claim | None:
        """Take `key` if it waits for somebody, or if whoever ran it is dead; None if not."""
        now = self.now()
        with self.write() as db:
            row = db.execute("SELECT * FROM runs WHERE key = ?", (key,)).fetchone()
            if row is None:
                return None
            orphaned = row["state"] == State.RUNNING and self._gone(row["owner"])
            if orphaned and row["cancel_asked"]:
                self._update_states(db, [key], (State.RUNNING,), "state = 'cancelled', ended = changed")
                return None
            if not orphaned and not (row["state"] in CLAIMABLE and row["not_before"] <= now):
                return None
            if orphaned:
                db.execute(
                    "UPDATE attempts SET state = 'lost', sentence = 'its driver is gone', ended = ? "
                    "WHERE key = ? AND attempt = ?",
                    (now, key, row["attempt"]),
                )
            attempt = row["attempt"] + 1
            db.execute(
                "UPDATE runs SET state = 'running', attempt = ?, owner = ?, ended = NULL, changed = ?, "
                "cancel_asked = 0, started = COALESCE(started, ?) WHERE key = ?",
                (attempt, self.owner.id, now, now, key),
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
    ) -> bool:
        """Say how the claimed attempt ended. False, and nothing changes, if a later attempt holds the run.

        signature: what a failure looked like; None for any other end. counts: whether it uses up one of the
        run's tries. facts: host and device of the attempt, and avoid_host, where the next had better not be.
        """
        facts, now = facts or {}, self.now()
        failed = signature is not None and counts
        with self.write() as db:
            held = db.execute(
                "SELECT 1 FROM runs WHERE key = ? AND attempt = ? AND owner = ? AND state = 'running'",
                (claim.key, claim.attempt, self.owner.id),
            ).fetchone()
            db.execute(
                "UPDATE attempts SET state = ?, sentence = ?, traceback = ?, signature = ?, ended = ?, "
                "host = ?, device = ?, accepted = ? WHERE key = ? AND attempt = ?",
                (
                    *(str(state), sentence, traceback, signature, now),
                    *(facts.get("host"), facts.get("device"), held is not None, claim.key, claim.attempt),
                ),
            )
            if held is None:
                return False
            db.execute(
                "UPDATE runs SET state = ?, sentence = ?, traceback = ?, result = ?, "
                "failures = failures + ?, signature = ?, failed_host = ?, not_before = ?, ended = ?, "
                "changed = ?, owner = NULL, host = COALESCE(?, host), device = COALESCE(?, device) "
                "WHERE key = ?",
                (
                    *(str(state), sentence, traceback, json.dumps(dict(result or {})), failed),
                    *(signature if failed else None, facts.get("avoid_host")),
                    *(retry_at, now if state in SETTLED or state == State.PREEMPTED else None),
                    *(now, facts.get("host"), facts.get("device"), claim.key),
                ),
            )
        return True

    def cancel_requests(self) -> list[str]:
        """Runs of this driver that somebody wants cancelled."""
        rows = self.query(
            "SELECT key FROM runs WHERE state = 'running' AND cancel_asked = 1 AND owner = ?",
            (self.owner.id,),
        )
        return [row["key"] for row in rows]

    def runs(self, keys: Iterable[str] | None = None, *, since: float = 0.0) -> list[Run]:
        """All runs (of `keys`) in order of registration; `since`: only those changed from then on."""
        chosen = "" if keys is None else " AND key IN (SELECT value FROM json_each(?))"
        values = [since] if keys is None else [since, json.dumps(list(keys))]
        rows = self.query(f"SELECT * FROM runs WHERE changed >= ?{chosen} ORDER BY rowid", values)
        return [_run(row) for row in rows]

    def attempts(self, key: str) -> list[dict[str, Any]]:
        """Every attempt of a run, first to last, as the ledger keeps it."""
        rows = self.query("SELECT * FROM attempts WHERE key = ? ORDER BY attempt", (key,))
        return [dict(row) for row in rows]

    # -- the sweep as a whole -------------------------------------------------------------------

    def fact(self, name: str) -> Any:
        """What was noted under `name`; None if nothing was."""
        rows = self.query("SELECT value FROM facts WHERE name = ?", (name,))
        return json.loads(rows[0]["value"]) if rows else None

    def note_fact(self, name: str, value: Any) -> None:
        """Keep `value`, plain data, for the sweep."""
        with self.write() as db:
            db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))

    def micro_batches(self) -> dict[str, int]:
        """Size -> how many of its sequences at once fit into memory, of those that once did not."""
        rows = self.query("SELECT size, sequences FROM micro_batches")
        return {row["size"]: row["sequences"] for row in rows}

    def remember_micro_batch(self, size: str, sequences: int) -> None:
        """`size` is to put no more than `sequences` through the network at once from now on."""
        with self.write() as db:
            db.execute(
                "INSERT INTO micro_batches VALUES (?, ?) ON CONFLICT (size) DO UPDATE SET "
                "sequences = min(sequences, excluded.sequences)",
                (size, sequences),
            )

    def gpu_seconds(self, keys: Iterable[str]) -> float:
        """GPU-seconds of all attempts of `keys` so far, whatever came of them."""
        rows = self.query(
            "SELECT sum((COALESCE(a.ended, ?) - a.started) * json_extract(r.needs, '$.gpus')) AS seconds "
            "FROM attempts a JOIN runs r ON r.key = a.key WHERE r.key IN (SELECT value FROM json_each(?))",
            (self.now(), json.dumps(list(keys))),
        )
        return float(rows[0]["seconds"] or 0.0)


def _run(row: sqlite3.Row) -> Run:
    return Run(
        key=row["key"],
        family=row["family"],
        spec=json.loads(row["spec"]),
        columns=json.loads(row["columns"]),
        predicted_s=row["predicted_s"],
        needs=Needs.from_dict(json.loads(row["needs"])),
        state=State(row["state"]),
        attempt=row["attempt"],
        owner=row["owner"],
        sentence=row["sentence"] or "",
        traceback=row["traceback"],
        result=json.loads(row["result"] or "{}"),
        started=row["started"],
        ended=row["ended"],
        changed=row["changed"],
        host=row["host"],
        device=row["device"],
    )
