"""Where the runs come from: a tracking database or server, a file, a published table.

A source answers `read(mark)`: what changed since, or None. A mark is plain JSON, so that a snapshot taken up
after a restart goes on where it was. Sources live in the reading child process; nothing of a request gets
here but the key of a run that is in the table. Everything is opened to be read.

A sweep's own ledger is a source too: `sweeps.results.dashboard`, since this package does not know sweeps.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from analysis import published
from analysis.errors import UserError
from analysis.table.columns import typed
from analysis.table.inputs import Columns
from analysis.table.mlflow import FEW_RUNS, open_database, require_answer
from analysis.table.runs import NoRunsError, check_heading, kind_of, load_runs, open_server, open_store
from analysis.text import without_secrets

if TYPE_CHECKING:
    import pandas as pd

    from analysis.dashboard.curves import Pair

PUBLISHED = "published:"
SAMPLES = "samples.parquet"
"""The table of samples beside a run table or in a sweep's folder, see `analysis.load_samples`."""
POINTS_AT_ONCE = 20_000
"""Of loss curves, asked of a store in one query."""
WHOLE_EVERY_S, SLACK_MS = 600.0, 60_000
"""A tracking server is asked for all runs that often, which notices those deleted or marked later; in between
for those that have not ended, or that ended since the last one known, and a little before: clocks differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a source had to say: rows, and the mark to ask with next time."""

    rows: pd.DataFrame
    mark: Any
    whole: bool
    """Whether `rows` are all there are, or only those that changed."""
    note: str = ""
    """A sentence for the page, e.g. why there are no runs yet."""
    tracking: Mapping[str, Any] | None = None
    """Of a tracking server: "address" of its own page, and its "experiments", name -> id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a page is over."""

    spec: Mapping[str, Any]
    """Of the source, see `spec_of`."""
    files: tuple[Path, ...] = ()
    """Their change says that the runs changed; none: the store has to be asked."""
    notes: Path | None = None
    """The file for stars and notes, see `analysis.table.notes`."""


class Source(Protocol):
    """See above. Each method raises UserError, in one sentence, where the store cannot be read."""

    label: str
    """As people may see it: no password."""
    files: tuple[Path, ...]
    """Files that change when the runs do; none: the store has to be asked."""
    has_curves: bool = True
    """Whether it may hold losses along runs; a table does not."""
    samples: Path | None = None
    """Where the table of samples of these runs would be, see `analysis.load_samples`."""

    def read(self, mark: Any) -> Change | None: ...

    def curves(self, rows: pd.DataFrame) -> Iterator[Pair]:
        """Losses along the run of every row, in their order; empty curves where there are none."""
        ...

    def story(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Its attempts, first to last: attempt, state, sentence, host, device, started, ended."""
        return []

    def texts(self, row: Mapping[str, Any]) -> list[str]:
        """What its network made when it was trained."""
        return []


class StoreSource(Source):
    """Whatever `analysis.load_runs` reads: sqlite:///, postgresql://, http://, .parquet, .csv."""

    def __init__(
        self, store: str, sweep: str | None = None, families: list[str] | None = None,
        columns: Columns | None = None,
    ) -> None:  # fmt: skip
        self.store, self.sweep, self.families, self.columns = store, sweep, families or None, columns
        self.kind, self.place = kind_of(store)
        self.label = without_secrets(self.place)
        self.files = files_of(store)
        self.has_curves = self.kind != "file"
        self.samples = Path(self.place).with_name(SAMPLES) if self.kind == "file" else None
        self._last_rows = ""

    def read(self, mark: Any) -> Change | None:
        if self.kind == "server":
            return self._read_server(mark)
        now = self._mark()
        if now is not None and now == mark:
            return None
        import pandas as pd

        try:
            frame = load_runs(self.store, self.sweep, self.families, columns=self.columns)
        except NoRunsError as error:
            return Change(rows=pd.DataFrame(), mark=now, whole=True, note=str(error))
        return Change(rows=frame, mark=now, whole=True)

    def _read_server(self, mark: Any) -> Change | None:
        import pandas as pd

        whole = mark is None or time.time() - mark["whole_at"] > WHOLE_EVERY_S
        try:
            rows = load_runs(self.store, self.sweep, self.families) if whole else self._changed(mark)
        except NoRunsError as error:
            return Change(rows=pd.DataFrame(), mark=None, whole=True, note=str(error))
        rows_json = rows.to_json(date_format="iso")
        if not whole and (rows_json == self._last_rows or not len(rows)):
            return None
        self._last_rows = "" if whole else rows_json
        ended = [int(at.timestamp() * 1000) for at in rows["ended"].dropna()]
        now = {"whole_at": time.time()} if whole else dict(mark)
        now["ended"] = max([now.get("ended", 0), *ended])
        with open_server(self.place) as server:
            tracking = {"address": self.label.rstrip("/"), "experiments": server.experiments()}
        return Change(rows=rows, mark=now, whole=whole, tracking=tracking)

    def _changed(self, mark: Any) -> pd.DataFrame:
        with open_server(self.place) as server:
            rows = server.runs(ended_since=mark["ended"] - SLACK_MS)
        if self.sweep is not None:
            rows = rows[rows["sweep"] == self.sweep]
        rows = rows[rows["family"].isin(self.families)] if self.families else rows
        return typed(rows, self.label, lenient=self.sweep is None)

    def _mark(self) -> Any:
        """Changes when the store does; None where that cannot be told without reading it."""
        if self.files:
            return marks_of(self.files)
        if self.kind != "postgresql":
            return None
        with open_database(self.place) as database:
            return database.change_mark()

    def curves(self, rows: pd.DataFrame) -> Iterator[Pair]:
        if self.kind == "file":
            yield from no_curves(rows)
            return
        from analysis.dashboard.curves import by_run

        ids = [run_id if isinstance(run_id, str) else None for run_id in rows["mlflow_run_id"]]
        count = 20  # runs at once, until it is known how long their curves are
        with open_store(self.store) as opened:
            while ids:
                part, ids = ids[:count], ids[count:]
                points = opened.curves([run_id for run_id in part if run_id is not None])
                yield from by_run(points, part)
                count = max(1, min(FEW_RUNS, POINTS_AT_ONCE * len(part) // max(len(points), 1)))


class PublishedSource(Source):
    """A run table of `analysis.published`."""

    files: tuple[Path, ...] = ()
    has_curves = False

    def __init__(self, name: str) -> None:
        self.name = name
        self.label = f"published table {name}"

    def read(self, mark: Any) -> Change | None:
        if mark is not None:
            return None
        frame = published.runs(self.name)
        note = "; ".join(frame.attrs[name] for name in ("source", "status"))
        frame = frame.assign(key=[f"{self.name}-{number:04d}" for number in range(len(frame))])
        return Change(rows=frame, mark=1, whole=True, note=note)

    def curves(self, rows: pd.DataFrame) -> Iterator[Pair]:
        return no_curves(rows)


def no_curves(rows: pd.DataFrame) -> Iterator[Pair]:
    """Of a run table, which holds one row per run."""
    import numpy as np

    none = np.zeros(0)
    return (((none, none), (none, none, none)) for _ in range(len(rows)))


def marks_of(files: tuple[Path, ...]) -> list[list[int]]:
    """Time and size of each file that exists: they change when it is written."""
    marks = []
    for path in files:
        try:
            status = path.stat()
        except OSError:
            continue
        marks.append([status.st_mtime_ns, status.st_size])
    return marks


def spec_of(
    store: str, sweep: str | None = None, families: list[str] | None = None, columns: Columns | None = None
) -> dict[str, Any]:
    """What the child process needs to open `store`: `published:NAME` or what `analysis.load_runs` takes.

    UserError where that is nothing a store can be, where the file does not exist or its heading is none of a
    run table, or the server is silent.
    """
    is_file = not store.startswith(PUBLISHED) and kind_of(store)[0] == "file"
    if columns and not is_file:
        raise UserError(
            f"columns is for .csv and .parquet files; {without_secrets(store)} has the usual names"
        )
    if store.startswith(PUBLISHED):
        name = store.removeprefix(PUBLISHED)
        if name not in set(published.tables()["name"]):
            published.runs(name)  # raises, naming the tables there are
        return {"source": "analysis.dashboard.sources:PublishedSource", "options": {"name": name}}
    kind, place = kind_of(store)
    if kind == "server":
        require_answer(place)
    path = Path(place.removeprefix("sqlite:///"))
    if kind in ("file", "sqlite") and not path.is_file():
        raise UserError(f"store {store}: the file {path} does not exist; give another with --store")
    if kind in ("file", "sqlite"):
        path = path.resolve()
        store = f"sqlite:///{path}" if kind == "sqlite" else str(path)
    if is_file:
        check_heading(path, columns)
    options: dict[str, Any] = {"store": store, "sweep": sweep, "families": list(families or [])}
    if columns:
        options["columns"] = dict(columns)
    return {"source": "analysis.dashboard.sources:StoreSource", "options": options}


def files_of(store: str) -> tuple[Path, ...]:
    """Files that change when the store does; none where it has to be asked."""
    if store.startswith(PUBLISHED):
        return ()
    kind, place = kind_of(store)
    if kind not in ("file", "sqlite"):
        return ()
    path = Path(place.removeprefix("sqlite:///")).absolute()
    return path, path.with_name(SAMPLES if kind == "file" else f"{path.name}-wal")


def notes_of(store: str) -> Path | None:
    """The file for stars and notes on the runs of a store; None where it has no place beside it."""
    files = files_of(store)
    return files[0].with_name(f"{files[0].name}.notes.json") if files else None


def title_of(store: str) -> str:
    """A short name for the page."""
    if store.startswith(PUBLISHED):
        return store.removeprefix(PUBLISHED)
    kind, place = kind_of(store)
    if kind not in ("file", "sqlite"):
        return without_secrets(place)
    path = Path(place.removeprefix("sqlite:///"))
    return path.parent.name or "runs" if path.stem == "mlflow" else path.stem
