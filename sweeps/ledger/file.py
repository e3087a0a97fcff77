"""The file under the ledger: its tables, its connections and its transactions.

A change of the tables raises SCHEMA_VERSION and brings a migration.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scaling.errors import UserError

BUSY_S = 30.0
SYNCHRONOUS = "FULL"
"""A finished run stays finished when the power fails."""

SCHEMA_VERSION = 2

SINCE_2 = (
    # What is known of the sweep as a whole: its config, how the recorder fares.
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    # Sequences that went through the network at once when memory sufficed, by size.
    "CREATE TABLE micro_batches (size TEXT PRIMARY KEY, sequences INTEGER NOT NULL)",
)

SCHEMA = (
    """CREATE TABLE runs (
        key TEXT PRIMARY KEY,
        family TEXT NOT NULL,
        spec TEXT NOT NULL,
        columns TEXT NOT NULL,
        predicted_s REAL NOT NULL,
        needs TEXT NOT NULL,
        state TEXT NOT NULL,
        attempt INTEGER NOT NULL DEFAULT 0,
        owner TEXT,
        failures INTEGER NOT NULL DEFAULT 0,
        signature TEXT,
        failed_host TEXT,
        not_before REAL NOT NULL DEFAULT 0,
        cancel_asked INTEGER NOT NULL DEFAULT 0,
        sentence TEXT,
        traceback TEXT,
        result TEXT,
        started REAL,
        ended REAL,
        changed REAL NOT NULL,
        host TEXT,
        device TEXT
    )""",
    """CREATE TABLE attempts (
        key TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        owner TEXT NOT NULL,
        started REAL NOT NULL,
        ended REAL,
        state TEXT NOT NULL,
        sentence TEXT,
        traceback TEXT,
        signature TEXT,
        host TEXT,
        device TEXT,
        accepted INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (key, attempt)
    )""",
    """CREATE TABLE drivers (
        id TEXT PRIMARY KEY,
        host TEXT NOT NULL,
        machine TEXT NOT NULL,
        pid INTEGER NOT NULL,
        process_started REAL NOT NULL,
        beat INTEGER NOT NULL,
        beat_at REAL NOT NULL,
        started REAL NOT NULL,
        ended REAL
    )""",
    "CREATE TABLE leases (name TEXT PRIMARY KEY, owner TEXT NOT NULL)",
    *SINCE_2,
    # What the recorder has carried to a tracking store: the id of the run there, the state it was last told,
    # the highest step sent, and how far each attempt's journal was read (bytes).
    """CREATE TABLE shipped (
        store TEXT NOT NULL,
        key TEXT NOT NULL,
        run_id TEXT,
        state TEXT,
        step INTEGER NOT NULL DEFAULT 0,
        positions TEXT NOT NULL DEFAULT '{}',
        PRIMARY KEY (store, key)
    )""",
)

MIGRATIONS = {
    1: (
        "ALTER TABLE runs ADD COLUMN failed_host TEXT",
        "UPDATE runs SET needs = json_object('cpus', json_extract(needs, '$[0]'), "
        "'gpus', json_extract(needs, '$[1]'), 'memory_bytes', json_extract(needs, '$[2]'))",
        *SINCE_2,
    ),
}
"""From a version to the next one."""


class LedgerUnavailableError(UserError):
    """The ledger cannot be written or read just now: the disk is full, say, or somebody keeps it locked."""


class LedgerFile:
    """`path` as an SQLite database with the ledger's tables, one connection per thread."""

    def __init__(self, path: Path) -> None:
        """Open `path`, or create it. UserError for a newer schema or a file that is no ledger."""
        self.path = path
        self._local = threading.local()
        self._closed = False
        path.parent.mkdir(parents=True, exist_ok=True)
        self._create()

    def close(self) -> None:
        """Close the file for good: any later use, in whichever thread, is a LedgerUnavailableError.

        The calling thread's connection is closed; others close theirs by `hang_up`. SQLite crashes the
        process when a connection is closed under a thread that uses it.
        """
        self._closed = True
        self.hang_up()

    def hang_up(self) -> None:
        """Close the calling thread's connection, if it has one; it gets another one when it needs it."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None

    def connection(self) -> sqlite3.Connection:
        """The calling thread's own connection."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            if self._closed:
                raise LedgerUnavailableError(f"the ledger {self.path} is closed")
            connection = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode = PERSIST")
            connection.execute(f"PRAGMA synchronous = {SYNCHRONOUS}")
            self._local.connection = connection
        return connection

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A write transaction. LedgerUnavailableError where that fails; nothing of it is kept then."""
        try:
            connection = self.connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.OperationalError as error:
            raise self.unavailable(error) from error

    def query(self, statement: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """All rows of a SELECT. LedgerUnavailableError where it cannot be read."""
        try:
            return self.connection().execute(statement, values).fetchall()
        except sqlite3.OperationalError as error:
            raise self.unavailable(error) from error

    def unavailable(self, error: Exception) -> LedgerUnavailableError:
        return LedgerUnavailableError(f"cannot use the ledger {self.path} just now: {error}")

    def _create(self) -> None:
        try:
            version = self._version()
            if version < SCHEMA_VERSION:
                with self.write() as db:
                    version = self._version()  # another process may just have been faster
                    for statement in _steps_from(version):
                        db.execute(statement)
                    version = max(version, SCHEMA_VERSION)
                    db.execute(f"PRAGMA user_version = {version}")
        except sqlite3.DatabaseError as error:
            self.close()
            raise UserError(f"{self.path} is not a ledger, or cannot be written: {error}") from error
        if version > SCHEMA_VERSION:
            self.close()
            raise UserError(
                f"ledger {self.path} has schema version {version}, this version of the program knows "
                f"{SCHEMA_VERSION}; update the program, or use another sweep name"
            )

    def _version(self) -> int:
        return int(self.connection().execute("PRAGMA user_version").fetchone()[0])


def _steps_from(version: int) -> Iterator[str]:
    """What makes a ledger of `version` one of today's."""
    if version == 0:
        yield from SCHEMA
        return
    for step in range(version, SCHEMA_VERSION):
        yield from MIGRATIONS[step]
