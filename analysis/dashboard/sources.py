"""Where the runs come from: a tracking database or server, a file, a published table.

A source answers `read(mark)`: what changed since, or None. A mark is plain JSON, so that a snapshot taken up
after a restart goes on where it was. Sources live in the reading child process; nothing of a request gets
here but the key of a run that is in the table. Everything is opened to be read.

A sweep's own ledger is a source too; it stands in `sweeps.dashboard`, for this package does not know sweeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from analysis.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

PUBLISHED = "published:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a source had to say: rows, and the mark to ask with next time."""

    rows: pd.DataFrame
    mark: Any
    whole: bool
    """Whether `rows` are all there are, or only those that changed."""
    note: str = ""
    """A sentence for the page, e.g. why there are no runs yet."""


class Source(Protocol):
    """See above. Each method raises UserError, in one sentence, where the store cannot be read."""

    shown: str
    """As people may see it: no password."""
    tracking: str | None
    """Address of the tracking server's own page, where the store is one."""
    files: tuple[Path, ...]
    """Files that change when the runs do; none: the store has to be asked."""

    def read(self, mark: Any) -> Change | None: ...

    def curve(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Training loss along the run of that row: step, tokens, flops, loss (nats per token)."""
        ...

    def story(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Its attempts, first to last: attempt, state, sentence, host, device, started, ended."""
        ...


class StoreSource:
    """Whatever `analysis.load_runs` reads: sqlite:///, postgresql://, http://, .parquet, .csv."""

    def __init__(self, store: str, sweep: str | None = None, families: list[str] | None = None) -> None:
        from analysis.mlflow_tables import without_password
        from analysis.runs import kind_of

        self.store, self.sweep, self.families = store, sweep, families or None
        self.kind, self.place = kind_of(store)
        self.shown = without_password(self.place)
        self.tracking = self.shown.rstrip("/") if self.kind == "server" else None
        self.files = files_of(store)

    def read(self, mark: Any) -> Change | None:
        now = self._mark()
        if now is not None and now == mark:
            return None
        import pandas as pd

        from analysis.runs import NoRunsError, load_runs

        try:
            frame = load_runs(self.store, self.sweep, self.families)
        except NoRunsError as error:
            return Change(rows=pd.DataFrame(), mark=now, whole=True, note=str(error))
        return Change(rows=frame, mark=now, whole=True)

    def _mark(self) -> Any:
        """Changes when the store does; None where that cannot be told without reading it."""
        if self.files:
            return marks_of(self.files)
        if self.kind != "postgresql":
            return None
        from analysis.mlflow_tables import open_database

        with open_database(self.place) as database:
            return database.change_mark()

    def curve(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        run_id = row.get("mlflow_run_id")
        if not run_id:
            return []
        from analysis.runs import open_store

        with open_store(self.store) as opened:
            points = opened.curves([str(run_id)])
        points = points.sort_values(["step", "timestamp"]).drop_duplicates(["step"], keep="last")
        per_step = float(row.get("batch_size") or 0) * float(row.get("context_length") or 0)
        per_token = float(row["flops"]) / float(row["tokens"]) if row.get("flops") else 0.0
        return [
            {"step": int(step), "tokens": step * per_step, "flops": step * per_step * per_token, "loss": loss}
            for step, loss in zip(points["step"].tolist(), points["value"].tolist(), strict=True)
        ]

    def story(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        return []


class PublishedSource:
    """A run table of `analysis.published`."""

    tracking = None
    files: tuple[Path, ...] = ()

    def __init__(self, name: str) -> None:
        self.name = name
        self.shown = f"published table {name}"

    def read(self, mark: Any) -> Change | None:
        if mark is not None:
            return None
        from analysis import published

        frame = published.runs(self.name)
        note = "; ".join(frame.attrs[name] for name in ("source", "status"))
        frame = frame.assign(key=[f"{self.name}-{number:04d}" for number in range(len(frame))])
        return Change(rows=frame, mark=1, whole=True, note=note)

    def curve(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        return []

    def story(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        return []


def marks_of(files: tuple[Path, ...]) -> list[list[int]]:
    """Time and size of each file that exists: they change when it is written."""
    found = []
    for path in files:
        try:
            told = path.stat()
        except OSError:
            continue
        found.append([told.st_mtime_ns, told.st_size])
    return found


def spec_of(store: str, sweep: str | None = None, families: list[str] | None = None) -> dict[str, Any]:
    """What the child process needs to open `store`: `published:NAME` or what `analysis.load_runs` takes.

    UserError where that is nothing a store can be, where the file does not exist, or the server is silent.
    """
    if store.startswith(PUBLISHED):
        name = store.removeprefix(PUBLISHED)
        from analysis import published

        if name not in set(published.tables()["name"]):
            published.runs(name)  # raises, naming the tables there are
        return {"source": "analysis.dashboard.sources:PublishedSource", "options": {"name": name}}
    from analysis.runs import kind_of, require_answer

    kind, place = kind_of(store)
    if kind == "server":
        require_answer(place)
    path = Path(place.removeprefix("sqlite:///"))
    if kind in ("file", "sqlite") and not path.is_file():
        raise UserError(f"store {store}: the file {path} does not exist; give another with --store")
    if kind in ("file", "sqlite"):
        path = path.resolve()
        store = f"sqlite:///{path}" if kind == "sqlite" else str(path)
    options = {"store": store, "sweep": sweep, "families": list(families or [])}
    return {"source": "analysis.dashboard.sources:StoreSource", "options": options}


def files_of(store: str) -> tuple[Path, ...]:
    """Files that change when the store does; none where it has to be asked."""
    if store.startswith(PUBLISHED):
        return ()
    from analysis.runs import kind_of

    kind, place = kind_of(store)
    path = Path(place.removeprefix("sqlite:///")).absolute()
    return (
        tuple(path.with_name(path.name + end) for end in ("", "-wal")) if kind in ("file", "sqlite") else ()
    )


def title_of(store: str) -> str:
    """A short name for the page."""
    if store.startswith(PUBLISHED):
        return store.removeprefix(PUBLISHED)
    from analysis.mlflow_tables import without_password

    shown = without_password(store)
    path = Path(shown.removeprefix("sqlite:///"))
    return (
        (path.stem if path.stem != "mlflow" else path.parent.name or "runs")
        if "://" not in shown.replace("sqlite://", "")
        else shown
    )
