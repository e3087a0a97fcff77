"""Metric points in bulk: rows for the tables of MLflow's own database, past its client.

`log_batch` makes an object of every point; the database takes the same rows in bulk several times as fast
(`python -m benchmarks.scheduling --only recorder` measures both). What is stored is the same: a point that is
there already is kept once, and the latest value of a metric is the one of the largest step, then time, then
value.

Only SQLite and PostgreSQL, and only tables with exactly the columns that are known here; whatever else a
store may be, the client writes to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from sweeps.record.store import GoneError, Point, milliseconds

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Table

KNOWN_COLUMNS = {"key", "value", "timestamp", "step", "is_nan", "run_uuid"}
ORDER = ("step", "timestamp", "value")
"""Which of two values of a metric is the later one, as MLflow has it."""
PRAGMAS = ("foreign_keys = ON", "busy_timeout = 20000")
"""Of SQLite, as MLflow sets them: no points without a run, and patience with other writers."""

Row = dict[str, Any]


class BulkPoints:
    """Adds points to runs in the database at `uri`, which MLflow has opened before: its tables are there."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._metrics, self._latest, self._runs = _tables()

    @classmethod
    def at(cls, uri: str) -> BulkPoints | None:
        """None where points must go through MLflow's client."""
        if not uri.startswith(("sqlite:", "postgresql")) or not _tables_are_as_known():
            return None
        from mlflow.store.db.utils import create_sqlalchemy_engine
        from sqlalchemy import event

        engine = create_sqlalchemy_engine(uri)
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _set_pragmas)
        return cls(engine)

    def add(self, run_id: str, points: Sequence[Point]) -> None:
        """All of them or none. GoneError if the run was deleted."""
        # in the order of their keys, so that two writers never wait for each other
        rows = [_row(run_id, point) for point in sorted(points, key=lambda point: (point.name, point.step))]
        if not rows:
            return
        with self._engine.begin() as connection:
            self._check_active(connection, run_id)
            connection.execute(self._insert(self._metrics).on_conflict_do_nothing(), rows)
            connection.execute(self._keep_latest(), list(_latest(rows)))

    def close(self) -> None:
        self._engine.dispose()

    def _check_active(self, connection: Connection, run_id: str) -> None:
        from sqlalchemy import select

        stage = select(self._runs.c.lifecycle_stage).where(self._runs.c.run_uuid == run_id)
        if connection.execute(stage).scalar() != "active":
            raise GoneError(f"run {run_id} is not in the store, or deleted there")

    def _insert(self, table: Table) -> Any:
        from sqlalchemy.dialects import postgresql, sqlite

        return (sqlite if self._engine.dialect.name == "sqlite" else postgresql).insert(table)

    def _keep_latest(self) -> Any:
        from sqlalchemy import tuple_

        insert, there = self._insert(self._latest), self._latest.c
        return insert.on_conflict_do_update(
            index_elements=[there.key, there.run_uuid],
            set_={name: insert.excluded[name] for name in (*ORDER, "is_nan")},
            where=tuple_(*(insert.excluded[name] for name in ORDER))
            > tuple_(*(there[name] for name in ORDER)),
        )


def _row(run_id: str, point: Point) -> Row:
    return {
        "run_uuid": run_id,
        "key": point.name,
        "value": point.value,
        "timestamp": milliseconds(point.at),
        "step": point.step,
        "is_nan": False,
    }


def _latest(rows: Iterable[Row]) -> Iterable[Row]:
    """One row per metric, in the order of the metrics."""
    latest: dict[str, Row] = {}
    for row in rows:
        best = latest.setdefault(row["key"], row)
        if [row[name] for name in ORDER] > [best[name] for name in ORDER]:
            latest[row["key"]] = row
    return latest.values()


def _tables() -> tuple[Table, Table, Table]:
    from mlflow.store.tracking.dbmodels import models

    return models.SqlMetric.__table__, models.SqlLatestMetric.__table__, models.SqlRun.__table__


def _tables_are_as_known() -> bool:
    try:
        metrics, latest, runs = _tables()
    except (ImportError, AttributeError):  # a later MLflow keeps them elsewhere
        return False
    known = all(set(table.columns.keys()) == KNOWN_COLUMNS for table in (metrics, latest))
    return known and {"run_uuid", "lifecycle_stage"} <= set(runs.columns.keys())


def _set_pragmas(connection: Any, _: object) -> None:
    for pragma in PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")
