"""A sweep's own ledger as a source of the dashboard, see `analysis.dashboard.sources`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.dashboard.sources import Change
from analysis.errors import UserError as AnalysisError
from scaling.errors import UserError
from sweeps.ledger.file import BUSY_S, SCHEMA_VERSION
from sweeps.ledger.ledger import Ledger

if TYPE_CHECKING:
    import pandas as pd

    from analysis.dashboard.curves import Curve

SLACK_S = 5.0
"""Changes are asked for from this long before the newest one known: clocks of several drivers may differ."""


class ReadLedger(Ledger):
    """A ledger that can only be read: it is neither made nor brought up to date here."""

    def connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            # mode=rw does not refuse a journal that a killed writer left; query_only forbids writing
            address = f"{self.path.resolve().as_uri()}?mode=rw"
            connection = sqlite3.connect(address, uri=True, timeout=BUSY_S, isolation_level=None)
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA query_only = ON")
            self._local.connection = connection
        return connection

    def _create(self) -> None:
        try:
            version = self._version()
        except sqlite3.DatabaseError as error:
            raise UserError(f"{self.path} is not a ledger, or cannot be read: {error}") from error
        if version != SCHEMA_VERSION:
            raise UserError(
                f"ledger {self.path} has schema version {version}, this version of the program reads "
                f"{SCHEMA_VERSION}; `scaling status` brings an older one up to date"
            )


class LedgerSource:
    """The runs of one sweep, from its ledger and the journals beside the runs."""

    def __init__(self, folder: str, sweep: str, families: list[str] | None = None) -> None:
        """folder: the sweep's, with its ledger; it may not be there yet."""
        self.folder, self.sweep, self.families = Path(folder), sweep, frozenset(families or ())
        self.shown = str(self.folder)
        self.files = ledger_files(self.folder)
        self._dead: dict[str, str] = {}
        self._told: dict[str, float] = {}
        self._ledger: ReadLedger | None = None

    def read(self, mark: Any) -> Change | None:
        """Runs that changed since the newest change at the last call, or whose driver has gone since."""
        import pandas as pd

        if not Ledger.exists(self.folder / "ledger"):
            note = f"sweep {self.sweep} has no runs yet: start it with `scaling sweep`"
            return None if mark == "none" else Change(rows=pd.DataFrame(), mark="none", whole=True, note=note)
        since = float(mark) if isinstance(mark, int | float) else 0.0
        with self._opened() as ledger:
            rows, newest = self._rows(ledger, since)
        if not len(rows):
            return None if since else Change(rows=rows, mark=0.0, whole=True, note="no run is planned yet")
        return Change(rows=rows, mark=newest, whole=not since)

    @contextmanager
    def _opened(self) -> Iterator[ReadLedger]:
        """The one ledger kept open: whether drivers live is told by their beats over time."""
        try:
            if self._ledger is None:
                self._ledger = ReadLedger(self.folder / "ledger")
            yield self._ledger
        except UserError as error:
            raise AnalysisError(str(error)) from error

    def _rows(self, ledger: Ledger, since: float) -> tuple[pd.DataFrame, float]:
        import pandas as pd

        from analysis.table.columns import typed
        from sweeps.ledger.types import State
        from sweeps.plan.rows import run_row

        recent = [run for run in ledger.runs(since=since - SLACK_S) if self._wanted(run.family)]
        changed = [run for run in recent if not since or self._told.get(run.key) != run.changed]
        gone = self._gone(ledger, {run.key for run in changed})
        runs = (
            [*changed, *(run for run in ledger.runs(gone) if self._wanted(run.family))] if gone else changed
        )
        shipped = ledger.query("SELECT key, run_id FROM shipped WHERE run_id NOT NULL ORDER BY rowid")
        recorded = {row["key"]: row["run_id"] for row in shipped}
        rows = []
        for run in runs:
            state = self._dead.get(run.key, str(run.state))
            row = run_row(replace(run, state=State(state)), self.sweep, run_id=recorded.get(run.key))
            told = {"sentence": run.sentence or None, "attempt": float(run.attempt)}
            rows.append(row | {name: value for name, value in told.items() if value is not None})
        self._told |= {run.key: run.changed for run in runs}
        newest = max((run.changed for run in runs), default=since)
        return (typed(pd.DataFrame(rows), self.shown) if rows else pd.DataFrame()), max(newest, since)

    def _gone(self, ledger: Ledger, changed: set[str]) -> list[str]:
        """Runs that the ledger calls running and whose driver is dead; told apart once."""
        from sweeps.ledger.types import State

        running = ledger.query("SELECT key, owner FROM runs WHERE state = 'running'")
        alive = ledger.alive({row["owner"] for row in running})
        dead = {row["key"]: str(State.PREEMPTED) for row in running if row["owner"] not in alive}
        news = [key for key in dead if key not in self._dead and key not in changed]
        self._dead = dead
        return news

    def _wanted(self, family: str) -> bool:
        return not self.families or family in self.families

    def curves(self, rows: pd.DataFrame) -> Iterator[Curve]:
        """Training loss along the runs, from their journals; a biased phase has none to compare."""
        import numpy as np

        from sweeps.attempt.journal import merged, run_folder

        for family, key in zip(rows["family"], rows["key"], strict=True):
            records = merged(run_folder(self.folder, str(family), str(key)))
            points = [
                (r.step, r.loss) for r in records if r.kind == "train" and not r.biased and r.loss is not None
            ]
            steps, losses = np.array(points, dtype=np.float64).reshape(-1, 2).T
            yield steps, losses

    def story(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Every attempt: number, state, sentence, host, device, started and ended (seconds since 1970)."""
        names = ("attempt", "state", "sentence", "host", "device", "started", "ended")
        with self._opened() as ledger:
            return [{name: one[name] for name in names} for one in ledger.attempts(str(row["key"]))]

    def texts(self, row: Mapping[str, Any]) -> list[str]:
        """Samples of the attempt that finished; the journals have them."""
        from sweeps.attempt.journal import JOURNAL, attempt_folders, last, run_folder

        folders = attempt_folders(run_folder(self.folder, str(row["family"]), str(row["key"])))
        samples = [last(folder / JOURNAL, kind="samples") for folder in folders.values()]
        texts = next((record.values.get("texts") for record in reversed(samples) if record), None)
        return list(map(str, texts)) if isinstance(texts, list) else []


def ledger_files(folder: Path) -> tuple[Path, ...]:
    """Files that change with every change of the ledger."""
    return (folder / "ledger" / "ledger.db",)


def spec_of(folder: Path, sweep: str, families: list[str] | None = None) -> dict[str, Any]:
    """What `analysis.dashboard.serve` needs to read the sweep's ledger."""
    options = {"folder": str(folder.absolute()), "sweep": sweep, "families": list(families or [])}
    return {"source": "sweeps.results.dashboard:LedgerSource", "options": options}


def show(
    sweep: str | None,
    config: Path | None,
    families: Sequence[str],
    store: str | None,
    out: Path,
    **how: Any,
) -> None:
    """Serve the page over --store, or over the sweep's own ledger; `how`: see `analysis.dashboard.serve`."""
    from analysis.dashboard import sources
    from analysis.dashboard.serve import serve
    from analysis.table.runs import UnknownNameError, load_runs
    from sweeps.config.load import find_config

    if store is not None:
        name = find_config(sweep, config).name if sweep or config else None
        if name is not None:
            try:  # a mistyped name would show an empty page for ever
                load_runs(store, sweep=name)
            except UnknownNameError:
                raise
            except AnalysisError:
                pass  # a store that is empty, or does not answer, may be filled later
        spec = sources.spec_of(store, name, list(families))
        serve(spec, title=name or sources.title_of(store), files=sources.files_of(store), **how)
        return
    name = find_config(sweep, config).name
    folder = out / name
    serve(spec_of(folder, name, list(families)), title=name, files=ledger_files(folder.absolute()), **how)
