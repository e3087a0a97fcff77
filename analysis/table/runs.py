"""Run tables and loss curves from MLflow (SQLite, PostgreSQL, a tracking server), Parquet or CSV.

Databases are read by `analysis.table.mlflow`, servers through MLflow's client.

Not covered: other databases (MySQL, SQL Server), MLflow's old file store, loss curves in run-table files.
"""

from __future__ import annotations

import csv
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.errors import UserError
from analysis.table.columns import (
    CURVE_METRICS,
    HELD_OUT_LOSS,
    HELD_OUT_LOSS_SE,
    KEY_TAG,
    NOT_COMPARABLE,
    REQUIRED,
    RUN_COLUMNS,
    refuse_repeated_columns,
    typed,
)
from analysis.table.inputs import Columns, MissingColumnsError, likely, new_names, renamed
from analysis.table.mlflow import LARGEST_FLOAT, Database, assemble, open_database, plain_tags, require_answer
from analysis.text import printable, without_secrets

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

CURVE_COLUMNS = (
    *("sweep", "family", "size", "key", "params", "step", "tokens", "flops", "loss"),
    *(HELD_OUT_LOSS, HELD_OUT_LOSS_SE),
)

_log = logging.getLogger(__name__)


class NoRunsError(UserError):
    """The store can be read and holds no runs yet."""


class UnknownNameError(UserError):
    """The store can be read and has no such sweep or family."""


Names = str | Sequence[str] | None


def load_runs(
    store: str | Path, sweep: Names = None, family: Names = None, *, columns: Columns | None = None
) -> pd.DataFrame:
    """One row per run, or per replica of one that trained several networks: the columns of `RUN_COLUMNS`,
    counts and losses as float64, whatever their status.

    `store` is sqlite:///PATH, postgresql://..., http(s)://..., or a .parquet or .csv file; `sweep` and
    `family` are a name, several names, or None for all. From MLflow every column is there (missing values
    where a run has none). From a file, the columns it has; `columns` renames them, e.g. {"N": "params",
    "val_loss": "loss"}, and `params` is taken from `params_non_embedding` where only that is given. Where
    MLflow holds a key (and replica) twice in a sweep, the finished run, else the latest, is kept. Seeds are
    Int64, or texts if one is larger. Control characters in texts are escaped.

    UserError, in one sentence, for a store that does not exist, does not answer within seconds, is of a newer
    schema, is empty, lacks the columns params, tokens and loss, and for an unknown sweep or family; also for
    a value that is not a number. In several sweeps read together such a value is missing, with a warning.
    """
    kind, place = kind_of(store)
    if kind == "file":
        frame = renamed(_read_table(Path(place)), columns, place)
        if "params" not in frame.columns and "params_non_embedding" in frame.columns:
            frame = frame.assign(params=frame["params_non_embedding"])
        check_columns(frame.columns, place)
    else:
        if columns is not None:
            raise UserError(
                f"columns is for .csv and .parquet files; {without_secrets(place)} has the usual names"
            )
        with open_store(store) as source:
            frame = _without_duplicates(source.runs())
    name = without_secrets(place)
    if not len(frame):
        raise NoRunsError(f"{name} holds no runs yet: start a sweep first, e.g. `make sweep FAMILY=uniform`")
    return _selected(frame, sweep, family, name)


def check_columns(names: Iterable[object], source: str) -> None:
    """UserError unless a file with these columns is a run table."""
    has = list(names)
    if "params_non_embedding" in has:
        has.append("params")
    if missing := [name for name in REQUIRED if name not in has]:
        lacks = ", ".join(missing[:-1]) + " or " * (len(missing) > 1) + missing[-1]
        raise MissingColumnsError(
            f"{source} has no column {lacks}: a run table needs params, tokens and loss (nats per token); "
            f"it has {', '.join(map(printable, has)) or 'no columns'}",
            likely(missing, has),
        )


def check_heading(path: Path, columns: Columns | None = None) -> None:
    """UserError if a file has a heading that is none of a run table; quick, and without pandas. Whether the
    rest can be read is seen when it is read."""
    try:
        if path.suffix == ".parquet":
            from pyarrow.parquet import read_schema

            names = list(read_schema(path).names)
        else:
            with path.open(newline="", encoding="utf-8-sig") as file:
                names = next(csv.reader(file), [])
    except (OSError, ValueError, csv.Error):
        return
    if names:
        check_columns(names if columns is None else new_names(names, columns, str(path)), str(path))


def loss_curves(store: str | Path, sweep: Names = None, family: Names = None) -> pd.DataFrame:
    """Losses along every run, one row per recorded step, columns `CURVE_COLUMNS`, and those that say of a run
    that its loss is no other's (`fit_table.NOT_COMPARABLE`), if they say anything.

    `loss` is the training loss (nats per token), `tokens` and `flops` are counted up to that step.
    `held_out_loss` and `held_out_loss_se` are there at the few steps at which a sweep measures them (config:
    `evaluation.during`), on a small part of the held-out text; `loss` is missing where a family trains on
    something easier. If an attempt repeated steps, the later attempt's value is kept. A run without a curve
    has no rows.

    UserError as for `load_runs`, and for a file that holds run rows but no curves.
    """
    import pandas as pd

    kind, place = kind_of(store)
    if kind == "file":
        path = Path(place)
        frame = _read_table(path)
        frame = frame.assign(**{name: math.nan for name in CURVE_COLUMNS[-2:] if name not in frame.columns})
        missing = [name for name in CURVE_COLUMNS if name not in frame.columns]
        if missing:
            raise UserError(
                f"{path} has no loss curves (column {missing[0]} is missing): "
                "a run table holds one row per run, so give the MLflow store the runs were recorded in"
            )
        names = _curve_columns(frame)
        return _selected(frame[names], sweep, family, str(path))[names]
    runs = load_runs(store, sweep, family)
    with open_store(store) as source:
        points = source.curves(runs["mlflow_run_id"].drop_duplicates().tolist())
    step = ["run_id", "step"]
    latest = points.sort_values([*step, "timestamp"]).drop_duplicates([*step, "key"], keep="last")
    by_step = latest.pivot(index=step, columns="key", values="value").reindex(columns=CURVE_METRICS)
    by_step = by_step.set_axis(["value", *CURVE_COLUMNS[-2:]], axis="columns").reset_index()
    runs = runs.drop_duplicates("mlflow_run_id")  # replicas share a curve
    frame = by_step.merge(runs, left_on="run_id", right_on="mlflow_run_id", suffixes=("", "_final"))
    tokens = frame["step"] * frame["batch_size"] * frame["context_length"]
    flops = tokens * (frame["flops"] / frame["tokens"])
    frame = frame.assign(tokens=tokens, flops=flops, loss=frame["value"])
    return pd.DataFrame(frame[_curve_columns(frame)]).reset_index(drop=True)


def _curve_columns(frame: pd.DataFrame) -> list[str]:
    more = [name for name in NOT_COMPARABLE if name in frame.columns and frame[name].notna().any()]
    return [*CURVE_COLUMNS, *more]


def kind_of(store: str | Path) -> tuple[str, str]:
    """Kind and place of `store`, by its name: ("file" | "sqlite" | "postgresql" | "server", path or URI)."""
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


def _selected(frame: pd.DataFrame, sweep: Names, family: Names, source: str) -> pd.DataFrame:
    """The rows of that sweep and family with their types; a bad value elsewhere then does not matter."""
    for column, selection in (("sweep", sweep), ("family", family)):
        if selection is None:
            continue
        if column not in frame.columns:
            raise UnknownNameError(f"{source} has no column {column} to select {column}={selection!r} from")
        names = [selection] if isinstance(selection, str) else list(selection)
        values = frame[column].map(printable, na_action="ignore")
        existing = sorted(values.dropna().unique())
        for name in names:
            if name not in existing:
                has = ", ".join(existing) or "none"
                raise UnknownNameError(f"{column} {name!r} is not in {source}, which has: {has}")
        frame = frame[values.isin(names)]
    several = "sweep" in frame.columns and frame["sweep"].nunique() > 1
    return typed(frame, source, lenient=several)


def _without_duplicates(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per (sweep, key), or per replica of a run that trained several. MLflow has no unique keys, so
    two recorders can both have made a run."""
    frame = frame.sort_index(kind="stable")
    numbered = frame.reset_index(drop=True)  # for replicas share the id of their run
    order = numbered.assign(_finished=numbered["status"] == "finished").sort_values(
        ["_finished", "started"], kind="stable", na_position="first"
    )
    of_run = [name for name in ("sweep", "key", "replica") if name in order.columns]
    repeated = order.duplicated(of_run, keep="last")
    if repeated.any():
        _log.warning(
            "%d run(s) are recorded twice; the finished or latest one is read: %s",
            repeated.sum(),
            ", ".join(order.loc[repeated, "key"].head(5)),
        )
    return frame.iloc[order.index[~repeated].sort_values()]


def _read_table(path: Path) -> pd.DataFrame:
    import pandas as pd

    if not path.is_file():
        fault = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"store {path} {fault}: give the path of a .parquet or .csv run table")
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
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text at byte {error.start}: save it as CSV in UTF-8") from None
    except pd.errors.EmptyDataError:
        raise UserError(f"{path} is empty: a run table needs params, tokens and loss") from None
    except (ValueError, OSError, csv.Error) as error:  # pandas' and arrow's "no such file" are ValueErrors
        raise UserError(
            f"{path} cannot be read as a {path.suffix[1:]} table: {str(error).splitlines()[0]}"
        ) from None


def _check_lines(path: Path) -> None:
    """UserError for a line longer than the heading: pandas would read its values into the wrong columns."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file)
        heading = next(lines, [])
        refuse_repeated_columns(heading, str(path))
        for fields in lines:
            if len(fields) > len(heading):
                raise UserError(
                    f"{path}: line {lines.line_num} has {len(fields)} fields and the heading {len(heading)}; "
                    "remove the extra ones (a comma at the end counts as a field), or name their columns"
                )


@contextmanager
def open_store(store: str | Path) -> Iterator[Database | _Server]:
    """The tracking database or server `store`, opened to be read; UserError as for `load_runs`."""
    kind, place = kind_of(store)
    if kind == "file":
        raise UserError(f"{place} is a run table, not a tracking store: it has no curves")
    opened: AbstractContextManager[Database | _Server]
    opened = open_server(place) if kind == "server" else open_database(place)
    with opened as source:
        yield source


@contextmanager
def open_server(uri: str) -> Iterator[_Server]:
    """The tracking server at `uri`; UserError if nothing answers there.

    MLflow's client retries once instead of seven times (four minutes), and sends no telemetry.
    """
    environment = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    added = {name: value for name, value in environment.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield _Server(uri)
    finally:
        for name in added:
            os.environ.pop(name, None)


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

        filters = [""]
        if ended_since is not None:
            filters = [
                " AND attributes.status = 'RUNNING'",
                " AND attributes.status = 'SCHEDULED'",
                f" AND attributes.end_time >= {ended_since}",
            ]
        by_id: dict[str, Any] = {}  # a run that ends between two searches is in both
        try:
            names = {number: name for name, number in self.experiments().items()}
            for condition in filters if names else []:
                search = partial(
                    self._client().search_runs,
                    list(names),
                    filter_string=f"tags.`{KEY_TAG}` != ''{condition}",
                    max_results=5000,
                    order_by=["attributes.start_time ASC"],
                )
                by_id |= {run.info.run_id: run for run in _all_pages(search)}
        except MlflowException as error:
            raise UserError(f"tracking server {without_secrets(self.uri)} refused: {error.message}") from None
        index, runs = list(by_id), list(by_id.values())
        heads = pd.DataFrame(
            {
                "sweep": [names[run.info.experiment_id] for run in runs],
                "started": [run.info.start_time for run in runs],
                "ended": [run.info.end_time for run in runs],
            },
            index=index,
        )
        params = pd.DataFrame([run.data.params for run in runs], index=index)
        tags = pd.DataFrame([plain_tags(run.data.tags) for run in runs], index=index)
        metrics = pd.DataFrame([run.data.metrics for run in runs], index=index)
        return assemble(heads, params, tags, metrics.mask(metrics >= LARGEST_FLOAT, float("inf")))

    def experiments(self) -> dict[str, str]:
        """Name -> id of every experiment; a sweep is one."""
        return {one.name: one.experiment_id for one in _all_pages(self._client().search_experiments)}

    def curves(self, run_ids: list[str]) -> pd.DataFrame:
        import pandas as pd

        client = self._client()
        rows = [
            (run_id, name, point.step, point.timestamp, point.value)
            for run_id in run_ids
            for name in CURVE_METRICS
            for point in client.get_metric_history(run_id, name)
        ]
        points = pd.DataFrame(rows, columns=["run_id", "key", "step", "timestamp", "value"])
        return points.assign(value=points["value"].mask(points["value"] >= LARGEST_FLOAT, float("inf")))


def _all_pages(search: Callable[..., Any]) -> Iterator[Any]:
    token: str | None = None
    while token != "":
        page = search(page_token=token)
        yield from page
        token = page.token or ""
