"""The tracking store: MLflow behind a handful of calls, and a check of it that starts nothing.

MLflow takes a second to import, so everything here imports it late, in the thread that needs it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import sqlite3
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
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
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines per run; the dashboard has the links
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
    store = f"tracking store {without_secrets(uri)}"
    if uri == os.environ.get("MLFLOW_TRACKING_URI"):
        store += " (MLFLOW_TRACKING_URI)"
    revisions: list[str] = []
    try:
        if uri.startswith(("http://", "https://")):
            remedy = "or set MLFLOW_TRACKING_URI to another store"
            require_answer(uri, timeout_s=CONNECT_S, fine=(401, 403), remedy=remedy)
        elif uri.startswith("sqlite:///"):
            revisions = _sqlite_revisions(Path(uri.removeprefix("sqlite:///")), store, to_write)
        elif re.match(r"(postgresql|mysql|mssql)(\+\w+)?://", uri):
            revisions = _database_revisions(uri, store)
        elif not uri.startswith("databricks"):
            raise UserError(f"{store} is not one of sqlite:///FILE, http(s)://HOST:PORT, postgresql://...")
        for revision in revisions:
            check_revision(revision, store.removeprefix("tracking store "))
    except AnalysisError as error:
        raise UserError(str(error)) from None


def _sqlite_revisions(path: Path, store: str, to_write: bool) -> list[str]:
    """Revisions of the schema in an SQLite file; none if MLflow has yet to make its tables."""
    if path.is_dir():
        raise UserError(f"{store} is a folder; it must be a file")
    if not path.exists() or path.stat().st_size == 0:
        parent = next(p for p in path.absolute().parents if p.exists())
        if not os.access(parent, os.W_OK | os.X_OK):
            raise UserError(f"{store} cannot be created: {parent} cannot be written")
        return []
    if to_write and not os.access(path, os.W_OK):
        raise UserError(f"{store} cannot be written")
    try:
        # mode=rw creates nothing, and takes in the journal that a killed writer left; mode=ro refuses it
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=CONNECT_S)
        try:
            connection.execute("PRAGMA query_only = ON")
            return [str(row[0]) for row in connection.execute("SELECT version_num FROM alembic_version")]
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        locked = "locked" in str(error)
        if locked and not to_write:
            raise UserError(f"{store} is locked by another program that writes; try again later") from error
        if locked or "no such table" in str(error):
            return []  # an empty database, or another recorder writes now and ours waits for its turn
        raise UserError(f"{store} cannot be read: {error}") from error
    except sqlite3.DatabaseError as error:
        raise UserError(f"{store} is no database: {error}") from error


def _database_revisions(uri: str, store: str) -> list[str]:
    """As `_sqlite_revisions`, of a database server."""
    import sqlalchemy

    option = "timeout" if uri.startswith("mssql") else "connect_timeout"
    try:
        engine = sqlalchemy.create_engine(uri, connect_args={option: int(CONNECT_S)})
        with engine.connect() as connection:
            if not sqlalchemy.inspect(connection).has_table("alembic_version"):
                return []
            query = sqlalchemy.text("SELECT version_num FROM alembic_version")
            revisions = [str(row[0]) for row in connection.execute(query)]
        engine.dispose()
        return revisions
    except ModuleNotFoundError as error:
        raise UserError(f"{store} needs the package {error.name}: pip install it") from error
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise UserError(f"{store} does not answer: {str(error).splitlines()[0]}") from error


# -- use ----------------------------------------------------------------------------------------


def client(uri: str) -> Any:
    """MLflow's client for `uri`, its telemetry off and its patience short."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    # of MLflow 3.17 on SQLAlchemy 2.1; if warnings are errors, MLflow could not start
    warnings.filterwarnings("ignore", message="The ``noload`` loader strategy", category=DeprecationWarning)
    from mlflow import MlflowClient

    # MLflow decodes the path of an SQLite file; ours is written as it is
    quoted = re.sub(r"[%?]", lambda sign: quote(sign[0]), uri) if uri.startswith("sqlite:///") else uri
    api = MlflowClient(tracking_uri=quoted)
    if quoted != uri:  # MLflow makes a folder of the quoted name
        with suppress(OSError):
            Path(quoted.removeprefix("sqlite:///")).parent.rmdir()
    return api


class ExperimentTags:
    """The tags of one experiment."""

    def __init__(self, api: Any, experiment: str) -> None:
        self._client, self._experiment = api, experiment

    def tags(self) -> dict[str, str]:
        return dict(self._client.get_experiment(self._experiment).tags)

    def set_tag(self, name: str, value: str) -> None:
        self._client.set_experiment_tag(self._experiment, name, value)

    def delete_tag(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.delete_experiment_tag(self._experiment, name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise


class MlflowStore(ExperimentTags):
    """One experiment, named after the sweep when it was made, in the store at `uri`."""

    def __init__(self, uri: str, sweep: str) -> None:
        super().__init__(None, "")
        self.uri, self.sweep = uri, sweep

    def open(self, identity: str | None = None) -> str:
        with ExitStack() as stack:
            if self.uri.startswith("sqlite:///"):
                # Two processes that create the tables at once both fail, so one holds a lock. MLflow cannot
                # mend a database whose making was interrupted, so it gets its name when it is complete.
                path = Path(self.uri.removeprefix("sqlite:///"))
                path.parent.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context(path.with_name(f".{path.name}.lock").open("w"))
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not (path.exists() and path.stat().st_size):
                    temporary = path.with_name(f".{path.name}.new")
                    temporary.unlink(missing_ok=True)
                    client(f"sqlite:///{temporary.absolute()}").get_experiment_by_name("")
                    temporary.replace(path)
            self._client = client(self.uri)
            experiment = experiment_of(self._client, identity)
            experiment = experiment or self._client.get_experiment_by_name(self.sweep)
            if experiment is None:
                experiment = self._client.get_experiment(self._client.create_experiment(self.sweep))
            elif experiment.lifecycle_stage == "deleted":
                self._client.restore_experiment(experiment.experiment_id)
        self._experiment = experiment.experiment_id
        return _identity(experiment)

    def create(self, key: str, name: str, started: float, tags: Mapping[str, str]) -> str:
        run = self._client.create_run(
            self._experiment, start_time=milliseconds(started), tags={**tags, KEY_TAG: key}, run_name=name
        )
        return str(run.info.run_id)

    def keys(self) -> dict[str, str]:
        runs = all_runs(self._client, [self._experiment])  # MLflow gives the latest first
        return {run.info.run_id: run.data.tags.get(KEY_TAG, "") for run in runs}

    def steps(self, run_id: str, names: Iterable[str]) -> dict[str, set[int]]:
        with _gone_if_deleted():
            there = self._client.get_run(run_id).data.metrics
            histories = {n: self._client.get_metric_history(run_id, n) for n in names if n in there}
        return {name: {point.step for point in history} for name, history in histories.items()}

    def log(self, run_id: str, points: Sequence[Point], params: Texts = NONE, tags: Texts = NONE) -> None:
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.exceptions import MlflowException

        # latest first: MLflow keeps the latest value of each metric, and need not replace it point by point
        latest_first = sorted(points, key=lambda point: -point.step)
        metrics = [Metric(p.name, p.value, milliseconds(p.at), p.step) for p in latest_first]
        new_tags = [RunTag(*item) for item in tags.items()]
        with _gone_if_deleted():
            try:
                self._client.log_batch(run_id, metrics, [Param(*item) for item in params.items()], new_tags)
            except MlflowException:
                # parameters cannot be changed, and an earlier version wrote them in another form
                there = self._client.get_run(run_id).data.params if params else {}
                if not there:
                    raise
                new = [Param(*item) for item in params.items() if item[0] not in there]
                self._client.log_batch(run_id, metrics, new, new_tags)

    def set_status(self, run_id: str, status: str, ended: float | None) -> None:
        with _gone_if_deleted():
            if ended is None:
                self._client.update_run(run_id, status=status)
            else:
                self._client.set_terminated(run_id, status=status, end_time=milliseconds(ended))


def all_runs(api: Any, experiments: Sequence[str]) -> Iterator[Any]:
    """Every run of the experiments, page by page."""
    token = None
    while experiments:
        page = api.search_runs([*experiments], max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _identity(experiment: Any) -> str:
    return f"{experiment.experiment_id}@{experiment.creation_time}"


def experiment_of(api: Any, identity: str | None) -> Any:
    """The experiment with this identity, whatever its name is now; None if it is not there."""
    from mlflow.exceptions import MlflowException

    try:
        experiment = api.get_experiment(identity.partition("@")[0]) if identity else None
    except MlflowException:  # another store, or the experiment was deleted for good
        return None
    return experiment if experiment is not None and _identity(experiment) == identity else None


@contextmanager
def _gone_if_deleted() -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST" or "must be in the 'active' state" in str(error):
            raise GoneError(str(error)) from error
        raise
