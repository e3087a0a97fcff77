"""A damaged or lost ledger: kept under another name, and built anew from the runs' own folders."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from itertools import count
from pathlib import Path

from sweeps.attempt.job import Outcome, read_outcome
from sweeps.attempt.journal import JOURNAL, Follower, attempt_folders, last, run_folder
from sweeps.ledger.ledger import NEXT, Ledger, LedgerLostError
from sweeps.ledger.types import Entry, State


def open_whole(folder: Path) -> tuple[Ledger, str]:
    """The ledger in `folder`, checked; a damaged one makes room for a new one, and a sentence says so."""
    path, sentence = folder / "ledger.db", ""
    while True:
        try:
            ledger = Ledger(folder)
            try:
                if (problem := ledger.query("PRAGMA quick_check(1)")[0][0]) != "ok":
                    raise ledger.unavailable(sqlite3.DatabaseError(problem))
                ledger.runs()
                return ledger, sentence
            except BaseException:
                ledger.close()
                raise
        except LedgerLostError:
            names = (path.with_name(f"damaged-{number}.db") for number in count(1))
            kept = next(name for name in names if not name.exists())
            for ending in ("-journal", ""):  # a journal must not be taken for the new file's
                with suppress(FileNotFoundError):
                    path.with_name(path.name + ending).rename(kept.with_name(kept.name + ending))
            sentence = f"the ledger was damaged: it is kept as {kept} and built anew from the runs' folders"


def take_over(ledger: Ledger, entries: Iterable[Entry]) -> None:
    """Enter attempts and ends of runs that have folders but no attempt in the ledger."""
    fresh = {run.key for run in ledger.runs(whole=False) if not run.attempt}
    for entry in entries:
        folders = attempt_folders(run_folder(ledger.folder.parent, entry.family, entry.key))
        if not folders or entry.key not in fresh:
            continue
        newest, outcome = max(folders), Outcome(status="lost", sentence="")
        with ledger.write() as db:
            for attempt in range(1, newest + 1):
                path = folders.get(attempt, Path()) / JOURNAL
                first, latest = next(iter(Follower(path).read(1)), None), last(path)
                unknown = Outcome(status="lost", sentence="the ledger that knew its end was lost")
                outcome = (read_outcome(path.parent) if attempt in folders else None) or unknown
                if outcome.result.get("key", entry.key) != entry.key:
                    outcome = unknown
                values = {
                    "key": entry.key,
                    "attempt": attempt,
                    "owner": "",
                    "started": first.at if first else ledger.now(),
                    "ended": latest.at if latest else ledger.now(),
                    "state": outcome.status,
                    "host": outcome.host,
                    "sentence": outcome.sentence,
                    "traceback": outcome.traceback,
                    "device": outcome.device,
                    "accepted": attempt == newest,
                }
                marks = ", ".join(f":{name}" for name in values)
                db.execute(f"INSERT INTO attempts ({', '.join(values)}) VALUES ({marks})", values)
            done = outcome.status in (State.FINISHED, State.DIVERGED)
            values["result"] = json.dumps(dict(outcome.result))
            values["state"] = outcome.status if done else str(State.PREEMPTED)
            db.execute(
                "UPDATE runs SET attempt = :attempt, state = :state, sentence = :sentence, host = :host, "
                "device = :device, result = :result, started = :started, ended = :ended, "
                f"changed = {NEXT} WHERE key = :key AND attempt = 0",
                values,
            )
