"""MLflow's own tables, read without MLflow: SQLite and PostgreSQL.

A few SQL statements instead of `search_runs` take 0.3 s in place of 9 s for 10,000 runs, and reading can then
never create or migrate a database, which opening one through MLflow does. The price is a check of the
schema first.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Container, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.errors import UserError
from analysis.table.columns import CURVE_METRICS, KEY_TAG, RUN_COLUMNS, TAG_PREFIX, parse_text
from analysis.table.replicas import ALL_METRICS, LOSS_METRICS, numbers_of, with_replicas
from analysis.text import without_secrets

if TYPE_CHECKING:
    import pandas as pd
    from sqlalchemy.engine import Connection

LOCK_TIMEOUT_S = 30
"""Patience with another program that holds the lock of an SQLite file."""
CONNECT_TIMEOUT_S = 3
FEW_RUNS = 500
"""Curves of up to as many runs are looked up run by run, those of more in one pass over all."""
LARGEST_FLOAT = 1.7976931348623157e308  # MLflow stores +inf as this
_NEEDED_TABLES = {
    "experiments": {"experiment_id", "name", "lifecycle_stage"},
    "runs": {"run_uuid", "experiment_id", "lifecycle_stage", "start_time", "end_time"},
    "params": {"run_uuid", "key", "value"},
    "tags": {"run_uuid", "key", "value"},
    "latest_metrics": {"run_uuid", "key", "value", "is_nan"},
    "metrics": {"run_uuid", "key", "value", "is_nan", "step", "timestamp"},
}


@contextmanager
def open_database(place: str) -> Iterator[Database]:
    """The MLflow database at sqlite:///PATH or postgresql://..., opened to be read.

    UserError if it does not exist, does not answer in time, or has a schema this MLflow does not know.
    """
    import sqlite3

    from sqlalchemy import create_engine
    from sqlalchemy.exc import DBAPIError

    name = without_secrets(place)
    if place.startswith("sqlite"):
        path = Path(place.removeprefix("sqlite:///"))
        if not path.is_file():
            raise UserError(
                f"store {place}: the file {path} does not exist; give --store or start a sweep first"
            )
        # mode=rw neither creates nor refuses a journal left by a killed writer; query_only forbids writing
        address = f"{path.resolve().as_uri()}?mode=rw"

        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(address, uri=True, timeout=LOCK_TIMEOUT_S, check_same_thread=False)
            connection.execute("PRAGMA query_only = ON")
            return connection

        engine = create_engine("sqlite://", creator=connect)
    else:
        try:
            engine = create_engine(place, connect_args={"connect_timeout": CONNECT_TIMEOUT_S})
        except ImportError:
            raise UserError(
                f"store {name} needs a PostgreSQL driver: pip install 'psycopg[binary]'"
            ) from None
    try:
        try:
            connection = engine.connect()
        except DBAPIError as error:
            reason = str(error.orig).strip().splitlines()[0]
            raise UserError(f"store {name} cannot be opened: {reason}") from None
        with connection:
            _check_schema(connection, name)
            yield Database(connection)
    finally:
        engine.dispose()


class Database:
    """MLflow's own tables, read only."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def runs(self) -> pd.DataFrame:
        # any program may have written a run, so a column is looked up in every place it fits
        texts = [column.name for column in RUN_COLUMNS if column.home != "run"]
        numbers = [column.name for column in RUN_COLUMNS if column.dtype == "float64"]
        select = "SELECT run_uuid AS run_id, key, value"
        params = self._query(f"{select} FROM params WHERE key IN :keys", texts)
        tags = self._query(f"{select} FROM tags WHERE key IN :keys", [TAG_PREFIX + name for name in texts])
        metrics = self._query(
            f"{select}, is_nan FROM latest_metrics WHERE key IN :keys OR key LIKE '{ALL_METRICS}'", numbers
        )
        parts = (params, tags.assign(key=tags["key"].str.removeprefix(TAG_PREFIX)), _true_values(metrics))
        wide = [part.pivot(index="run_id", columns="key", values="value") for part in parts]
        return assemble(self.keys().set_index("run_id"), *wide)

    def curves(self, run_ids: list[str]) -> pd.DataFrame:
        """Losses along those runs: run_id, key (of CURVE_METRICS), step, timestamp, value."""
        if len(run_ids) > FEW_RUNS:
            points = self.points(list(CURVE_METRICS))
            return points[points["run_id"].isin(run_ids)]
        # key || '' is key, but no index has it: SQLite would read the curves of all runs by that of keys
        select = "SELECT run_uuid AS run_id, key, step, timestamp, value, is_nan FROM metrics "
        names = ", ".join(f"'{name}'" for name in CURVE_METRICS)
        condition = f"WHERE key || '' IN ({names}) AND run_uuid IN :keys"
        return _true_values(self._query(select + condition, run_ids))

    def change_mark(self) -> list[int]:
        """Numbers that change when runs come, move or end: of runs, latest start and end, latest metric."""
        from sqlalchemy import text

        runs = text(
            "SELECT count(*), coalesce(max(start_time), 0), coalesce(max(end_time), 0), count(end_time) "
            "FROM runs"
        )
        metrics = text("SELECT count(*), coalesce(max(timestamp), 0) FROM latest_metrics")
        rows = [self.connection.execute(query).one() for query in (runs, metrics)]
        return [int(number) for row in rows for number in row]

    def replica_losses(self) -> pd.DataFrame:
        """The final loss of every replica: run_id, key, value."""
        select = "SELECT run_uuid AS run_id, key, value, is_nan FROM latest_metrics "
        return _true_values(self._query(select + f"WHERE key LIKE '{LOSS_METRICS}'"))

    def points(self, metrics: list[str]) -> pd.DataFrame:
        """Every value of `metrics`: run_id, key, step, timestamp, value."""
        select = "SELECT run_uuid AS run_id, key, step, timestamp, value, is_nan FROM metrics "
        return _true_values(self._query(select + "WHERE key IN :keys", metrics))

    def keys(self) -> pd.DataFrame:
        """Every run that carries a key, however often: run_id, sweep, started, ended, key."""
        return self._query(
            "SELECT r.run_uuid AS run_id, e.name AS sweep, r.start_time AS started, r.end_time AS ended, "
            "k.value AS key FROM runs r JOIN experiments e ON e.experiment_id = r.experiment_id "
            f"JOIN tags k ON k.run_uuid = r.run_uuid AND k.key = '{KEY_TAG}' "
            "WHERE r.lifecycle_stage = 'active' AND e.lifecycle_stage = 'active' "
            "ORDER BY r.start_time, r.run_uuid"
        )

    def point_counts(self) -> pd.DataFrame:
        """How many values each run has of all metrics: run_id, points."""
        return self._query("SELECT run_uuid AS run_id, count(*) AS points FROM metrics GROUP BY run_uuid")

    def repeated_points(self) -> pd.DataFrame:
        """Steps of a metric that are there more than once: run_id, key, step, points."""
        return self._query(
            "SELECT run_uuid AS run_id, key, step, count(*) AS points FROM metrics "
            "GROUP BY run_uuid, key, step HAVING count(*) > 1"
        )

    def _query(self, statement: str, keys: list[str] | None = None) -> pd.DataFrame:
        import pandas as pd
        from sqlalchemy import bindparam, text

        clause = text(statement)
        if keys is not None:
            clause = clause.bindparams(bindparam("keys", value=keys, expanding=True))
        return pd.read_sql_query(clause, self.connection)


def plain_tags(tags: dict[str, str]) -> dict[str, str]:
    return {name.removeprefix(TAG_PREFIX): text for name, text in tags.items() if name.startswith(TAG_PREFIX)}


def _true_values(points: pd.DataFrame) -> pd.DataFrame:
    """NaN and infinity as they were logged; MLflow stores 0 with a flag, and the largest float."""
    values = points["value"].astype("float64")
    values = values.mask(points["is_nan"].astype(bool)).mask(values >= LARGEST_FLOAT, float("inf"))
    return points.assign(value=values)


def assemble(
    heads: pd.DataFrame, params: pd.DataFrame, tags: pd.DataFrame, metrics: pd.DataFrame
) -> pd.DataFrame:
    """The run table from MLflow's parts, its values not yet checked (see `run_columns.typed`), with a row for
    each replica of a run.

    A column is taken from its home, or else from another place that has it.
    """
    import pandas as pd

    parts = {"param": params, "tag": tags, "metric": metrics}
    columns: dict[str, pd.Series] = {}
    for column in RUN_COLUMNS:
        values = pd.Series(None, index=heads.index, dtype=object)
        for home in (column.home, *parts):
            if home not in parts or column.name not in parts[home]:
                continue
            stored = parts[home][column.name].reindex(heads.index).dropna().astype(object)
            if home != "metric":  # few texts, many runs
                parsed = {text: parse_text(column, text) for text in stored.unique()}
                # as objects: pandas would turn integers beside gaps into floats
                stored = pd.Series([parsed[text] for text in stored], index=stored.index, dtype=object)
            values = values.where(values.notna(), stored)
        columns[column.name] = values
    times = {name: pd.to_datetime(heads[name], unit="ms", utc=True) for name in ("started", "ended")}
    table = pd.DataFrame(columns).assign(mlflow_run_id=heads.index, **times)
    table["sweep"] = table["sweep"].where(table["sweep"].notna(), heads["sweep"])
    table["params"] = table["params"].where(table["params"].notna(), table["params_non_embedding"])
    own = [name for name in metrics.columns if numbers_of({name: 0.0})]
    numbers = {str(run_id): numbers_of(row) for run_id, row in metrics[own].to_dict("index").items()}
    return with_replicas(table, numbers)


def _check_schema(connection: Connection, store: str) -> None:
    from sqlalchemy import inspect, text
    from sqlalchemy.exc import DBAPIError

    try:
        inspector = inspect(connection)
        tables = set(inspector.get_table_names())
    except DBAPIError as error:
        if "locked" in str(error.orig):
            raise UserError(
                f"store {store} is locked by another program that writes; try again later"
            ) from None
        raise UserError(f"store {store} is not a database: {error.orig}") from None
    if "alembic_version" not in tables or "experiments" not in tables:
        raise UserError(f"store {store} is not an MLflow database: it has no table experiments")
    revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    check_revision(str(revision), store)
    for table, needed in _NEEDED_TABLES.items():
        columns = inspector.get_columns(table) if table in tables else []
        missing = sorted(needed - {str(column["name"]) for column in columns})
        if missing:
            raise UserError(
                f"store {store} was written by an older MLflow (table {table} lacks {missing[0]}): "
                "make a copy of it, then run `mlflow db upgrade` on it"
            )


def check_revision(revision: str, store: str) -> None:
    """UserError unless the installed MLflow knows this revision of the schema."""
    if revision not in known_revisions():
        raise UserError(
            f"store {store} has schema revision {revision}, which the installed MLflow {version('mlflow')} "
            "does not know: it was written by a newer one; upgrade MLflow, or give another store"
        )


def known_revisions() -> set[str]:
    """Schema revisions the installed MLflow has migrations for; read from its files, without importing it."""
    spec = importlib.util.find_spec("mlflow")
    assert spec is not None, "mlflow is a dependency of this package"
    folder = Path(str(spec.origin)).parent / "store" / "db_migrations" / "versions"
    return {path.name.split("_", 1)[0] for path in folder.glob("*_*.py")}


def require_answer(
    uri: str,
    *,
    timeout_s: float | None = None,
    fine: Container[int] = range(400, 500),
    remedy: str = "or read a local store with --store sqlite:///runs/mlflow.db",
) -> None:
    """UserError unless a server answers at `uri` within seconds; MLflow itself would try for minutes.

    fine: HTTP errors that count as an answer. MLflow's client has the credentials and paths this has not.
    """
    import http.client
    import urllib.error
    import urllib.request

    server = f"tracking server {without_secrets(uri)}"
    scheme, _, rest = uri.partition("://")
    login, _, address = rest.rpartition("@")
    if set(login) & set("/?#@ "):
        raise UserError(
            f"{server}: its login holds one of / ? # @; write them as %2F %3F %23 %40 in the address"
        )
    try:
        request = f"{scheme}://{address.partition('?')[0].rstrip('/')}/health"
        urllib.request.urlopen(request, timeout=timeout_s or CONNECT_TIMEOUT_S).close()
    except urllib.error.HTTPError as error:
        if error.code not in fine:
            raise UserError(f"{server} is failing (HTTP {error.code})") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"{server} does not answer ({reason}): check the address and that it is running, {remedy}"
        ) from None
