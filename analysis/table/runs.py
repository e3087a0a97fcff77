"""Run tables and loss curves from MLflow (SQLite, PostgreSQL, a tracking server), Parquet or CSV.

Databases are read by `analysis.table.mlflow`, servers through MLflow's client.

Not covered: other databases (MySQL, SQL Server), MLflow's old file store, loss curves in run-table files.
"""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.errors import UserError
from analysis.table.columns import (
    KEY_TAG,
    REQUIRED,
    RUN_COLUMNS,
    STATUSES,
    TRAIN_LOSS,
    Column,
    refuse_repeated_columns,
    to_mlflow,
    typed,
)
from analysis.table.mlflow import LARGEST_FLOAT, Database, assemble, open_database, plain_tags, require_answer
from analysis.text import printable, without_secrets

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

__all__ = [
    "CURVE_COLUMNS",
    "RUN_COLUMNS",
    "STATUSES",
    "TRAIN_LOSS",
    "Column",
    "load_runs",
    "loss_curves",
    "to_mlflow",
]

CURVE_COLUMNS = ("sweep", "family", "size", "key", "params", "step", "tokens", "flops", "loss")

_log = logging.getLogger(__name__)


class NoRunsError(UserError):
    """The store can be read and holds no runs yet."""


class UnknownNameError(UserError):
    """The store can be read and has no such sweep or family."""


Names = str | Sequence[str] | None


def load_runs(store: str | Path, sweep: Names = None, family: Names = None) -> pd.DataFrame:
    """One row per run: the columns of `RUN_COLUMNS`, counts and losses as float64, whatever their status.

    `store` is sqlite:///PATH, postgresql://..., http(s)://..., or a .parquet or .csv file; `sweep` and
    `family` are a name, several names, or None for all. From MLflow every column is there (missing values
    where a run has none); from a file, the columns it has, `params` taken from `params_non_embedding` where
    only that is given. Where MLflow holds a key twice in a sweep, the finished run, else the latest, is kept.
    Seeds are Int64, or texts where one is larger. Control characters in texts are escaped.

    UserError, in one sentence, for a store that does not exist, does not answer within seconds, is of a newer
    schema, is empty, lacks the columns params, tokens and loss, and for an unknown sweep or family; also for
    a value that is no number, which is missing (with a warning) where several sweeps are read together.
    """
    kind, place = kind_of(store)
    shown = without_secrets(place)
    if kind == "file":
        frame = _read_file(Path(place))
    else:
        with _open(kind, place) as source:
            frame = _without_duplicates(source.runs())
    if not len(frame):
        raise NoRunsError(f"{shown} holds no runs yet: start a sweep first, e.g. `make sweep FAMILY=uniform`")
    return _chosen(frame, sweep, family, shown)


def _chosen(frame: pd.DataFrame, sweep: Names, family: Names, shown: str) -> pd.DataFrame:
    """The rows of that sweep and family with their types; a bad value elsewhere then does not matter."""
    frame = _only(_only(frame, "sweep", sweep, shown), "family", family, shown)
    several = "sweep" in frame.columns and frame["sweep"].nunique() > 1
    return typed(frame, shown, lenient=several)


def loss_curves(store: str | Path, sweep: Names = None, family: Names = None) -> pd.DataFrame:
    """Training loss along every run, one row per recorded step, columns `CURVE_COLUMNS`.

    `loss` is the training loss (nats per token), `tokens` and `flops` are counted up to that step. Where an
    attempt repeated steps, the later attempt's value is kept. A run without a curve has no rows.

    UserError as for `load_runs`, and for a file that holds run rows but no curves.
    """
    import pandas as pd

    kind, place = kind_of(store)
    if kind == "file":
        path = Path(place)
        frame = _read_table(path)
        missing = [name for name in CURVE_COLUMNS if name not in frame.columns]
        if missing:
            raise UserError(
                f"{path} has no loss curves (column {missing[0]} is missing): "
                "a run table holds one row per run, so give the MLflow store the runs were recorded in"
            )
        return _chosen(frame[list(CURVE_COLUMNS)], sweep, family, str(path))[list(CURVE_COLUMNS)]
    runs = load_runs(store, sweep, family)
    with _open(kind, place) as source:
        points = source.curves(runs["mlflow_run_id"].tolist())
    points = points.sort_values(["run_id", "step", "timestamp"]).drop_duplicates(
        ["run_id", "step"], keep="last"
    )
    frame = points.merge(runs, left_on="run_id", right_on="mlflow_run_id", suffixes=("", "_final"))
    tokens = frame["step"] * frame["batch_size"] * frame["context_length"]
    frame = frame.assign(
        tokens=tokens, flops=tokens * (frame["flops"] / frame["tokens"]), loss=frame["value"]
    )
    return pd.DataFrame(frame[list(CURVE_COLUMNS)]).reset_index(drop=True)


# ---- which store


def kind_of(store: str | Path) -> tuple[str, str]:
    """What `store` is, from its name alone: ("file" | "sqlite" | "postgresql" | "server", path or URI)."""
    text = str(store)
    scheme = text.split(":", 1)[0].lower() if "://" in text else ""
    if scheme in ("http", "https"):
        return "server", text
    if scheme.split("+")[0] in ("postgresql", "postgres"):
        return "postgresql", text.replace("postgres://", "postgresql://", 1)
    if scheme == "sqlite":
        return "sqlite", text
    if not scheme and Path(text).suffix in (".parquet", ".csv"):
        return "file", text
    if not scheme and Path(text).suffix in (".db", ".sqlite"):
        return "sqlite", f"sqlite:///{text}"
    raise UserError(
        f"store is {without_secrets(text)!r}, which is not one of: "
        "sqlite:///PATH, postgresql://..., http(s)://..., a .parquet file, a .csv file"
    )


def _only(frame: pd.DataFrame, column: str, wanted: Names, shown: str) -> pd.DataFrame:
    if wanted is None:
        return frame
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    if column not in frame.columns:
        raise UnknownNameError(
            f"{shown} has no column {column}, so {column}={wanted!r} cannot be picked from it"
        )
    values = frame[column].map(printable, na_action="ignore")
    known = sorted(values.dropna().unique())
    for name in names:
        if name not in known:
            has = ", ".join(known) or "none"
            raise UnknownNameError(f"{column} {name!r} is not in {shown}, which has: {has}")
    return frame[values.isin(names)]


def _without_duplicates(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per (sweep, key). MLflow has no unique keys, so two recorders can both have made a run."""
    order = frame.assign(_finished=frame["status"] == "finished").sort_values(
        ["_finished", "started"], kind="stable", na_position="first"
    )
    repeated = order.duplicated(["sweep", "key"], keep="last")
    if repeated.any():
        _log.warning(
            "%d run(s) are recorded twice; the finished or latest one is read: %s",
            repeated.sum(),
            ", ".join(order.loc[repeated, "key"].head(5)),
        )
    return frame.loc[order.index[~repeated].sort_values()]


# ---- files


def _read_table(path: Path) -> pd.DataFrame:
    import pandas as pd

    if not path.is_file():
        raise UserError(f"store {path} does not exist: give the path of a .parquet or .csv run table")
    # without dtype=, a key such as 1234e56789012345 would be read as a number, a seed beside a gap as a float
    texts = {column.name: "str" for column in RUN_COLUMNS if column.dtype in ("str", "Int64")}
    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
            levels = [name for name in frame.index.names if name is not None]
            frame = frame.reset_index(levels, allow_duplicates=True) if levels else frame
            refuse_repeated_columns(frame.columns, str(path))
            return frame.reset_index(drop=True)
        _check_lines(path)
        return pd.read_csv(path, dtype=texts)
    except UserError:
        raise
    except (ValueError, OSError, csv.Error) as error:  # pandas' and arrow's "no such file" are ValueErrors
        raise UserError(
            f"{path} cannot be read as a {path.suffix[1:]} table: {str(error).splitlines()[0]}"
        ) from None


def _check_lines(path: Path) -> None:
    """UserError for a line longer than the heading, whose values pandas would take for those of others."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file)
        heading = next(lines, [])
        refuse_repeated_columns(heading, str(path))
        for fields in lines:
            if len(fields) > len(heading):
                raise UserError(
                    f"{path}: line {lines.line_num} has {len(fields)} fields and the heading {len(heading)}; "
                    "remove what is too many (a comma at the end counts as a field), or name its column"
                )


def _read_file(path: Path) -> pd.DataFrame:
    frame = _read_table(path)
    if "params" not in frame.columns and "params_non_embedding" in frame.columns:
        frame = frame.assign(params=frame["params_non_embedding"])
    missing = [name for name in REQUIRED if name not in frame.columns]
    if missing:
        raise UserError(
            f"{path} has no column {' and no column '.join(missing)}: a run table needs params, tokens and "
            f"loss (nats per token); it has {', '.join(map(str, frame.columns)) or 'no columns'}"
        )
    return frame


# ---- tracking servers


@contextmanager
def open_store(store: str | Path) -> Iterator[Database | _Server]:
    """The tracking database or server `store`, opened to be read; UserError as for `load_runs`."""
    kind, place = kind_of(store)
    if kind == "file":
        raise UserError(f"{place} is a run table, not a tracking store: it has no curves")
    with _open(kind, place) as source:
        yield source


@contextmanager
def open_server(uri: str) -> Iterator[_Server]:
    """The tracking server at `uri`; UserError where nothing answers there."""
    with _impatient():
        yield _Server(uri)


@contextmanager
def _open(kind: str, place: str) -> Iterator[Database | _Server]:
    if kind == "server":
        with open_server(place) as server:
            yield server
    else:
        with open_database(place) as database:
            yield database


class _Server:
    """A tracking server, through MLflow's client."""

    def __init__(self, uri: str) -> None:
        require_answer(uri)
        self.uri = uri

    def _client(self) -> MlflowClient:
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.uri)

    def runs(self, ended_since: int | None = None) -> pd.DataFrame:
        """All runs; with `ended_since` (ms since 1970) those that have not ended, or not before."""
        import pandas as pd
        from mlflow.exceptions import MlflowException

        wanted = [""]
        if ended_since is not None:
            wanted = [
                " AND attributes.status = 'RUNNING'",
                " AND attributes.status = 'SCHEDULED'",
                f" AND attributes.end_time >= {ended_since}",
            ]
        try:
            names = {number: name for name, number in self.experiments().items()}
            # a run that ends between two searches is in both
            found = list(
                {run.info.run_id: run for one in wanted for run in self._search(names, one)}.values()
            )
        except MlflowException as error:
            raise UserError(f"tracking server {without_secrets(self.uri)} refused: {error.message}") from None
        index = [run.info.run_id for run in found]
        heads = pd.DataFrame(
            {
                "sweep": [names[run.info.experiment_id] for run in found],
                "started": [run.info.start_time for run in found],
                "ended": [run.info.end_time for run in found],
            },
            index=index,
        )
        params = pd.DataFrame([run.data.params for run in found], index=index)
        tags = pd.DataFrame([plain_tags(run.data.tags) for run in found], index=index)
        metrics = pd.DataFrame([run.data.metrics for run in found], index=index)
        return assemble(heads, params, tags, metrics.mask(metrics >= LARGEST_FLOAT, float("inf")))

    def experiments(self) -> dict[str, str]:
        """Name -> id of every experiment; a sweep is one."""
        return {found.name: found.experiment_id for found in _all_experiments(self._client())}

    def _search(self, names: dict[str, str], more: str) -> list[Any]:
        client = self._client()
        found: list[Any] = []
        token: str | None = ""
        while names and token is not None:
            page = client.search_runs(
                list(names),
                filter_string=f"tags.`{KEY_TAG}` != ''{more}",
                max_results=5000,
                order_by=["attributes.start_time ASC"],
                page_token=token or None,
            )
            found += page
            token = page.token or None
        return found

    def curves(self, run_ids: list[str]) -> pd.DataFrame:
        import pandas as pd

        client = self._client()
        rows = [
            (run_id, point.step, point.timestamp, point.value)
            for run_id in run_ids
            for point in client.get_metric_history(run_id, TRAIN_LOSS)
        ]
        points = pd.DataFrame(rows, columns=["run_id", "step", "timestamp", "value"])
        return points.assign(value=points["value"].mask(points["value"] >= LARGEST_FLOAT, float("inf")))


def _all_experiments(client: MlflowClient) -> Iterator[Any]:
    token: str | None = ""
    while token is not None:
        page = client.search_experiments(page_token=token or None)
        yield from page
        token = page.token or None


@contextmanager
def _impatient() -> Iterator[None]:
    """MLflow's client with one retry instead of seven (four minutes), and without telemetry."""
    wanted = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
