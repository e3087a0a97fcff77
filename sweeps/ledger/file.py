"""The file under the ledger: its tables, its connections and its transactions.

A change of the tables raises SCHEMA_VERSION and brings a migration.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from scaling.errors import UserError

BUSY_S = 30.0
SYNCHRONOUS = "FULL"
"""A finished run stays finished after a power failure."""

SCHEMA_VERSION = 3

SINCE_3 = (
    # Which ledger this is: another file under the same name is another one.
    "INSERT INTO facts VALUES ('ledger', json_quote(lower(hex(randomblob(16)))))",
    # `changed` numbers the ledger's changes; before, it was the time, which is less than any number to come.
    "CREATE INDEX runs_changed ON runs (changed)",
)

SINCE_2 = (
    # Facts of the sweep as a whole: its config, the state of its recorder.
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
        ended REAL,
        role TEXT NOT NULL DEFAULT 'driver'
    )""",
    "CREATE TABLE leases (name TEXT PRIMARY KEY, owner TEXT NOT NULL)",
    *SINCE_2,
    *SINCE_3,
    # Records in a tracking store: id of the run there, its state there, the highest step, and the bytes of
    # each attempt's journal that are there.
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
    2: (
        "ALTER TABLE drivers ADD COLUMN role TEXT NOT NULL DEFAULT 'driver'",
        "UPDATE drivers SET role = 'recorder' WHERE id LIKE 'recorder:%'",
        *SINCE_3,
    ),
}
"""From a version to the next one."""

REMEDY = (
    "nothing of the runs is lost: run the same `scaling sweep` again, it keeps a damaged file under another "
    "name and builds the ledger anew from the runs' own folders"
)
_DAMAGE = re.compile("no such (table|column)|decode|malformed")
"""Operational errors of SQLite that mean an emptied or overwritten file."""


class LedgerUnavailableError(UserError):
    """The ledger cannot be written or read just now: the disk is full, say, or another process locks it."""


class LedgerLostError(LedgerUnavailableError):
    """The ledger's file is damaged, gone, or another one than it was: waiting does not help."""


class LedgerFile:
    """`path` as an SQLite database with the ledger's tables, one connection per thread."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open `path`, or create it; read_only: neither make it, nor bring it up to date, nor write to it.

        UserError for another schema, LedgerLostError for a file that is no ledger.
        """
        self.path, self.read_only = path, read_only
        self._local = threading.local()
        self._closed = False
        self._opened: tuple[int, int] | None = None
        """Device and inode of the file."""
        try:
            if not read_only:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._create()
        except BaseException:
            self.close()
            raise

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
        if self._closed:
            raise LedgerUnavailableError(f"the ledger {self.path} is closed")
        if self._opened is not None and self._opened != self._identity():
            problem = "is gone" if self._identity() is None else "was replaced by another one"
            raise LedgerLostError(f"the ledger {self.path} {problem}; {REMEDY}")
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            # mode=rw does not refuse a journal that a killed writer left; query_only forbids writing
            mode = "rw" if self._opened or self.read_only else "rwc"
            address = f"{self.path.absolute().as_uri()}?mode={mode}"
            connection = sqlite3.connect(address, uri=True, timeout=BUSY_S, isolation_level=None)
            connection.row_factory = sqlite3.Row
            self._local.connection = connection
            if self.read_only:
                connection.execute("PRAGMA query_only = ON")
            else:
                connection.execute("PRAGMA journal_mode = PERSIST")
                connection.execute(f"PRAGMA synchronous = {SYNCHRONOUS}")
            self._opened = self._opened or self._identity()
        return connection

    def _identity(self) -> tuple[int, int] | None:
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self.unavailable(error) from error
        return stat.st_dev, stat.st_ino

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A write transaction. LedgerUnavailableError if it fails; nothing of it is kept then."""
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
        except sqlite3.DatabaseError as error:
            raise self.unavailable(error) from error

    def query(self, statement: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """All rows of a SELECT. LedgerUnavailableError if they cannot be read."""
        try:
            return self.connection().execute(statement, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise self.unavailable(error) from error

    def unavailable(self, error: Exception) -> LedgerUnavailableError:
        """`error` in a sentence: whether the file is damaged, or cannot be used just now."""
        if isinstance(error, OSError) or (
            isinstance(error, sqlite3.OperationalError) and not _DAMAGE.search(str(error))
        ):
            return LedgerUnavailableError(f"cannot use the ledger {self.path} just now: {error}")
        if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
            raise error  # a fault of the program
        return LedgerLostError(f"{self.path} is not a ledger, or is damaged ({error}); {REMEDY}")

    def _create(self) -> None:
        try:
            version = self._version()
            if version < SCHEMA_VERSION and not self.read_only:
                with self.write() as db:
                    version = self._version()  # another process may just have been faster
                    later = (MIGRATIONS[number] for number in range(version, SCHEMA_VERSION))
                    for statement in chain(*later) if version else SCHEMA:
                        db.execute(statement)
                    version = max(version, SCHEMA_VERSION)
                    db.execute(f"PRAGMA user_version = {version}")
        except sqlite3.DatabaseError as error:
            raise self.unavailable(error) from error
        if version > SCHEMA_VERSION:
            remedy = "update the program, or use another sweep name"
        elif version < SCHEMA_VERSION:
            remedy = "`scaling status` brings an older one up to date"
        else:
            return
        raise UserError(
            f"ledger {self.path} has schema version {version}, this version of the program reads "
            f"{SCHEMA_VERSION}; {remedy}"
        )

    def _version(self) -> int:
        return int(self.connection().execute("PRAGMA user_version").fetchone()[0])
