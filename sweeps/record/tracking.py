"""The tracking store: MLflow behind a handful of calls, and a check of it that starts nothing.

MLflow takes a second to import, so everything here imports it late, in the thread that needs it.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from analysis.errors import UserError as AnalysisError
from analysis.table.columns import KEY_TAG
from analysis.table.mlflow import check_revision, require_answer
from analysis.text import without_secrets
from scaling.errors import UserError
from sweeps.record.store import NONE, GoneError, Point, Texts, milliseconds

CONNECT_S = 4.0

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",  # a new database is no news
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines per run, of what the dashboard links to
    # A dead server must cost one short wait, not the four minutes of seven retries.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


def tracking_uri(out: Path) -> str:
    """MLFLOW_TRACKING_URI, or an SQLite file in the folder of results."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{out.absolute() / 'mlflow.db'}"


# -- check --------------------------------------------------------------------------------------


def check_tracking(uri: str, *, to_write: bool = True) -> None:
    """UserError, within a few seconds, if `uri` cannot be used; creates and imports nothing."""
    shown = without_secrets(uri)
    if uri == os.environ.get("MLFLOW_TRACKING_URI"):
        shown += " (MLFLOW_TRACKING_URI)"
    if uri.startswith(("http://", "https://")):
        remedy = "or set MLFLOW_TRACKING_URI to another store"
        with _as_user_error():
            require_answer(uri, timeout_s=CONNECT_S, fine=(401, 403), remedy=remedy)
    elif uri.startswith("sqlite:///"):
        _check_sqlite(Path(uri.removeprefix("sqlite:///")), shown, to_write)
    elif re.match(r"(postgresql|mysql|mssql)(\+\w+)?://", uri):
        _check_database(uri, shown)
    elif not uri.startswith("databricks"):
        raise UserError(
            f"tracking store {shown} is not one of sqlite:///FILE, http(s)://HOST:PORT, postgresql://..."
        )


def _check_sqlite(path: Path, shown: str, to_write: bool) -> None:
    if path.is_dir():
        raise UserError(f"tracking store {shown} is a folder; it must be a file")
    if not path.exists() or path.stat().st_size == 0:
        parent = next(p for p in path.absolute().parents if p.exists())
        if not os.access(parent, os.W_OK | os.X_OK):
            raise UserError(f"tracking store {shown} cannot be created: {parent} cannot be written")
        return
    if to_write and not os.access(path, os.W_OK):
        raise UserError(f"tracking store {shown} cannot be written")
    try:
        # mode=rw creates nothing, and takes in the journal that a killed writer left; mode=ro refuses it
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=CONNECT_S)
        try:
            connection.execute("PRAGMA query_only = ON")
            rows = connection.execute("SELECT version_num FROM alembic_version").fetchall()
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return  # an empty database; MLflow makes its tables
        if "locked" in str(error):
            return  # somebody records just now; the recorder waits for its turn
        raise UserError(f"tracking store {shown} cannot be read: {error}") from error
    except sqlite3.DatabaseError as error:
        raise UserError(f"tracking store {shown} is no database: {error}") from error
    with _as_user_error():
        for (revision,) in rows:
            check_revision(str(revision), shown)


def _check_database(uri: str, shown: str) -> None:
    import sqlalchemy

    option = "timeout" if uri.startswith("mssql") else "connect_timeout"
    try:
        engine = sqlalchemy.create_engine(uri, connect_args={option: int(CONNECT_S)})
        with engine.connect() as connection:
            if not sqlalchemy.inspect(connection).has_table("alembic_version"):
                return
            rows = connection.execute(sqlalchemy.text("SELECT version_num FROM alembic_version")).fetchall()
        engine.dispose()
    except ModuleNotFoundError as error:
        raise UserError(f"tracking store {shown} needs the package {error.name}: pip install it") from error
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise UserError(f"tracking store {shown} does not answer: {str(error).splitlines()[0]}") from error
    with _as_user_error():
        for (revision,) in rows:
            check_revision(str(revision), shown)


@contextmanager
def _as_user_error() -> Iterator[None]:
    """What analysis finds wrong with a store is the user's error here too."""
    try:
        yield
    except AnalysisError as error:
        raise UserError(str(error)) from None


# -- use ----------------------------------------------------------------------------------------


def client(uri: str) -> Any:
    """MLflow's client for `uri`, its telemetry off and its patience short."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    # MLflow 3.17 on SQLAlchemy 2.1; where warnings are errors, its tables could not even be mapped
    warnings.filterwarnings("ignore", message="The ``noload`` loader strategy", category=DeprecationWarning)
    from mlflow import MlflowClient

    quoted = in_mlflow(uri)
    api = MlflowClient(tracking_uri=quoted)
    if quoted != uri:  # MLflow makes a folder of the quoted name
        with suppress(OSError):
            Path(quoted.removeprefix("sqlite:///")).parent.rmdir()
    return api


def in_mlflow(uri: str) -> str:
    """A store as MLflow takes it: it decodes the path of an SQLite file, which ours write as it is."""
    return re.sub(r"[%?]", lambda sign: quote(sign[0]), uri) if uri.startswith("sqlite:///") else uri


class ExperimentTags:
    """The tags of one experiment."""

    def __init__(self, api: Any, experiment: str) -> None:
        self._api, self._experiment = api, experiment

    def tags(self) -> dict[str, str]:
        return dict(self._api.get_experiment(self._experiment).tags)

    def set_tag(self, name: str, value: str) -> None:
        self._api.set_experiment_tag(self._experiment, name, value)

    def delete_tag(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._api.delete_experiment_tag(self._experiment, name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise


class MlflowStore:
    """One experiment, named after the sweep when it was made, in the store at `uri`."""

    def __init__(self, uri: str, sweep: str) -> None:
        self.uri, self.sweep = uri, sweep
        self._client: Any = None
        self._experiment = ""

    def open(self, known: str | None = None) -> str:
        with _alone(self.uri) as file:  # two processes that create the tables at once both fail
            if file is not None and not (file.exists() and file.stat().st_size):
                _create_whole(file)
            self._client = client(self.uri)
            found = known_experiment(self._client, known) or self._client.get_experiment_by_name(self.sweep)
            if found is None:
                found = self._client.get_experiment(self._client.create_experiment(self.sweep))
            elif found.lifecycle_stage == "deleted":
                self._client.restore_experiment(found.experiment_id)
        self._experiment = found.experiment_id
        return _identity(found)

    def find(self, key: str) -> str | None:
        found = self._client.search_runs(
            [self._experiment], f"tags.`{KEY_TAG}` = '{key}'", max_results=1, order_by=["start_time ASC"]
        )
        return str(found[0].info.run_id) if found else None

    def create(self, key: str, name: str, started: float, tags: Mapping[str, str]) -> str:
        run = self._client.create_run(
            self._experiment, start_time=milliseconds(started), tags={**tags, KEY_TAG: key}, run_name=name
        )
        return str(run.info.run_id)

    def run_ids(self) -> set[str]:
        found, token = set(), None
        while True:
            page = self._client.search_runs([self._experiment], max_results=1000, page_token=token)
            found |= {run.info.run_id for run in page}
            token = page.token
            if not token:
                return found

    def steps(self, run_id: str, names: Iterable[str]) -> dict[str, set[int]]:
        with _missing_run_told():
            there = self._client.get_run(run_id).data.metrics
            histories = {n: self._client.get_metric_history(run_id, n) for n in names if n in there}
        return {name: {point.step for point in history} for name, history in histories.items()}

    def log(self, run_id: str, points: Sequence[Point], params: Texts = NONE, tags: Texts = NONE) -> None:
        from mlflow.entities import Metric, Param, RunTag

        # latest first: MLflow keeps the latest value of each metric, and need not replace it point by point
        latest_first = sorted(points, key=lambda point: -point.step)
        metrics = [Metric(p.name, p.value, milliseconds(p.at), p.step) for p in latest_first]
        if params:  # they cannot be changed, and an earlier version wrote them in another form
            with _missing_run_told():
                params = {
                    n: v for n, v in params.items() if n not in self._client.get_run(run_id).data.params
                }
        words = {
            "params": [Param(name, value) for name, value in params.items()],
            "tags": [RunTag(name, value) for name, value in tags.items()],
        }
        with _missing_run_told():
            self._client.log_batch(run_id, metrics=metrics, **words)

    def set_status(self, run_id: str, status: str, ended: float | None) -> None:
        with _missing_run_told():
            if ended is None:
                self._client.update_run(run_id, status=status)
            else:
                self._client.set_terminated(run_id, status=status, end_time=milliseconds(ended))

    def tags(self) -> dict[str, str]:
        return self._board.tags()

    def set_tag(self, name: str, value: str) -> None:
        self._board.set_tag(name, value)

    def delete_tag(self, name: str) -> None:
        self._board.delete_tag(name)

    @property
    def _board(self) -> ExperimentTags:
        return ExperimentTags(self._client, self._experiment)


def _identity(experiment: Any) -> str:
    return f"{experiment.experiment_id}@{experiment.creation_time}"


def known_experiment(api: Any, identity: str | None) -> Any:
    """The experiment recorded to before, whatever its name is now; None if it is not there."""
    from mlflow.exceptions import MlflowException

    try:
        found = api.get_experiment(identity.partition("@")[0]) if identity else None
    except MlflowException:  # another store, or the experiment was deleted for good
        return None
    return found if found is not None and _identity(found) == identity else None


@contextmanager
def _missing_run_told() -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST" or "must be in the 'active' state" in str(error):
            raise GoneError(str(error)) from error
        raise


@contextmanager
def _alone(uri: str) -> Iterator[Path | None]:
    """Hold the lock file beside an SQLite store and say where that is; other stores look after themselves."""
    if not uri.startswith("sqlite:///"):
        yield None
        return
    import fcntl

    path = Path(uri.removeprefix("sqlite:///"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield path


def _create_whole(path: Path) -> None:
    """A new database with all its tables, or none: MLflow cannot mend one whose making was interrupted."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    client(f"sqlite:///{temporary.absolute()}").get_experiment_by_name("")
    temporary.replace(path)
