"""The run table: one row per run, the same columns in MLflow, Parquet, CSV and the ledger's export.

`RUN_COLUMNS` alone defines each column's name, type, unit and place in MLflow. `to_mlflow` writes a row the
way `table.runs` reads it back, so that the recorder and the reader cannot drift apart.
"""

from __future__ import annotations

import ast
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analysis.errors import UserError
from analysis.text import is_missing, printable

if TYPE_CHECKING:
    import pandas as pd

STATUSES = ("planned", "running", "preempted", "finished", "diverged", "failed", "cancelled")
_OTHER_STATUSES = {
    word: status
    for status, words in {
        "planned": "scheduled queued pending waiting",
        "running": "in_progress active started",
        "finished": "completed complete success successful succeeded done ok passed",
        "failed": "failure error errored crashed crash",
        "cancelled": "canceled killed aborted stopped interrupted",
    }.items()
    for word in words.split()
}
TAG_PREFIX = "scaling."
KEY_TAG = TAG_PREFIX + "key"
TRAIN_LOSS = "train_loss"
"""Name of the MLflow metric that holds the training loss per step; `loss` is the final held-out bound."""
BIASED_LOSS = "train_biased_loss"
"""The same while a family trains on something easier (Duo's curriculum): no curve and no fit reads it."""

HELD_OUT_LOSS, HELD_OUT_LOSS_SE = "held_out_loss", "held_out_loss_se"
"""Of the metrics that hold held-out losses measured during training, on a small text, and their errors."""
CURVE_METRICS = (TRAIN_LOSS, HELD_OUT_LOSS, HELD_OUT_LOSS_SE)
NOT_COMPARABLE = {
    "labels": "trained with labels ({}); drop the column labels to fit it",
    "distilled_from": "distilled from run {}, not trained on the bound",
}
"""Columns that say of a run, if they say anything, that its training did not serve the bound alone."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: dtype is "str", "float64", "Int64" or "time"; home is its place in MLflow."""

    name: str
    dtype: str
    unit: str
    meaning: str
    home: str = "param"
    """"param" (never changes), "tag" (may change), "metric" (measured), "run" (a field MLflow has itself)."""


RUN_COLUMNS: tuple[Column, ...] = (
    Column("sweep", "str", "", "name of the sweep; also the MLflow experiment", "tag"),
    Column("family", "str", "", "how text is corrupted and restored: ar, masked, uniform, ...", "tag"),
    Column("size", "str", "", "label of the architecture; no number is read out of it"),
    Column("key", "str", "", "hash of everything that determines the run's outcome", "tag"),
    Column("seed", "Int64", "", "seed of every random draw of the run"),
    Column("replica", "Int64", "", "number from 0 of the network, where one run trains several"),
    Column("replicas", "Int64", "", "networks that the run of this key trained side by side, each a row"),
    Column("status", "str", "", "one of " + ", ".join(STATUSES), "tag"),
    Column("budget", "float64", "FLOPs", "planned training compute, in flop_convention"),
    Column("flop_convention", "str", "", "convention of budget and flops: exact, 6nd or sahoo2026"),
    Column("flops", "float64", "FLOPs", "training compute spent, in flop_convention"),
    Column("flops_exact", "float64", "FLOPs", "training compute, every matrix product counted"),
    Column("flops_6nd", "float64", "FLOPs", "6 x params_non_embedding x tokens"),
    Column("flops_sahoo2026", "float64", "FLOPs", "training compute as arXiv 2602.15014 counts it"),
    Column("params", "float64", "", "parameters without embeddings (= params_non_embedding)"),
    Column("params_total", "float64", "", "all parameters"),
    Column("params_non_embedding", "float64", "", "all parameters but the input embedding"),
    Column("params_body", "float64", "", "parameters of the transformer blocks"),
    Column("tokens", "float64", "tokens", "input tokens trained on, repeats included"),
    Column("unique_tokens", "float64", "tokens", "different tokens trained on"),
    Column("loss", "float64", "nats per token", "final bound on held-out text", "metric"),
    Column("loss_se", "float64", "nats per token", "standard error of loss", "metric"),
    Column("bits_per_byte", "float64", "bits per byte", "loss, comparable between tokenizers", "metric"),
    Column("distilled_from", "str", "", "key of the run that this one distils, if any; no law by default"),
    Column(
        "labels", "str", "", "labels that the network reads, if any: their number and kind; no law by default"
    ),
    Column("loss_with_label", "float64", "nats per token", "the bound given each text's label", "metric"),
    Column("label_leak", "float64", "nats per token", "loss minus loss_with_label", "metric"),
    Column("label_leak_se", "float64", "nats per token", "standard error of label_leak", "metric"),
    Column("label_cost", "float64", "nats per token", "entropy of the labels", "metric"),
    Column("bound", "str", "", "exact (a likelihood) or upper (a bound on it)"),
    Column("objective", "str", "", "training objective of the family"),
    Column("context_length", "float64", "tokens", "length of a training sequence"),
    Column("batch_size", "float64", "sequences", "sequences per optimizer step"),
    Column("steps", "float64", "", "optimizer steps"),
    Column("learning_rate", "float64", "", "peak learning rate"),
    Column("vocab_size", "float64", "", "rows of the output layer"),
    Column("corpus", "str", "", "source of the text"),
    Column("tokenizer", "str", "", "how text becomes tokens"),
    Column("data_fingerprint", "str", "", "hash of tokens, tokenizer and split"),
    Column("wall_s", "float64", "s", "time of training and evaluation, all attempts together", "metric"),
    Column("evaluation_s", "float64", "s", "the part of wall_s spent on held-out losses", "metric"),
    Column("evaluation_flops", "float64", "FLOPs", "compute of held-out losses, beside flops", "metric"),
    Column("tokens_per_s", "float64", "tokens per s", "training speed", "metric"),
    Column("micro_batch", "float64", "sequences", "sequences per forward and backward pass", "metric"),
    Column("device", "str", "", "device of the run", "tag"),
    Column("host", "str", "", "machine of the run", "tag"),
    Column("code_version", "str", "", "version of this code", "tag"),
    Column("mlflow_run_id", "str", "", "MLflow's own id of the run", "run"),
    Column("started", "time", "UTC", "first attempt started", "run"),
    Column("ended", "time", "UTC", "last attempt ended", "run"),
)
REQUIRED = ("params", "tokens", "loss")
"""The columns that a file must have to be a run table; all others are optional."""

_BY_NAME = {column.name: column for column in RUN_COLUMNS}
_log = logging.getLogger(__name__)


def to_mlflow(row: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str], dict[str, float]]:
    """Split a row of the run table into MLflow's (params, tags, metrics).

    Numbers are `repr` texts (a float survives to the last bit), texts stand as they are, except those that
    `parse_text` would take for quoted ones. Tags carry the prefix `scaling.`. Missing values and the columns
    MLflow keeps itself (run id, start, end) are left out.
    ValueError for a name that is no run-table column.
    """
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    metrics: dict[str, float] = {}
    for name, value in row.items():
        if name not in _BY_NAME:
            raise ValueError(f"{name!r} is not a column of the run table; see analysis.table.columns")
        column = _BY_NAME[name]
        if is_missing(value) or column.home == "run":
            continue
        if column.home == "metric":
            metrics[name] = float(value)
        elif column.home == "tag":
            tags[TAG_PREFIX + name] = str(value)
        else:
            plain: Any = {"float64": float, "Int64": int}.get(column.dtype, str)(value)
            # of a Python value: repr never says `np.float64(...)`
            params[name] = plain if isinstance(plain, str) and not _quoted(plain) else repr(plain)
    return params, tags, metrics


def _quoted(text: str) -> bool:
    return len(text) >= 2 and text[0] in "'\"" and text[-1] == text[0]


def parse_text(column: Column, text: str) -> str | float | int | None:
    """The value of a stored text; None if missing. Earlier versions wrote texts in quotes.

    A text that is not the number it should be stays a text: `typed` refuses it, if that run is read at all.
    """
    if text in ("", "None", "nan", "NaN", "<NA>") and column.dtype != "str":
        return None
    try:
        if column.dtype == "str":
            return str(ast.literal_eval(text)) if _quoted(text) else text
        return int(text) if column.dtype == "Int64" else float(text)
    except (ValueError, SyntaxError):
        return text


def status_of(word: object) -> str:
    """A status in this program's words, from those of other tools too (FINISHED, success, crashed, ...)."""
    plain = printable(word).strip().lower()
    return _OTHER_STATUSES.get(plain, plain if plain in STATUSES else printable(word))


def typed(frame: pd.DataFrame, source: str, *, lenient: bool = False) -> pd.DataFrame:
    """`frame` with the run table's dtypes, its columns first and in order, any others behind.

    Texts are made `printable`. UserError names `source`, the column, the first row that cannot be read, and
    its value; lenient: such values become missing, with a warning, for they must not hide the other rows.
    """
    import pandas as pd

    refuse_repeated_columns(frame.columns, source)
    columns = {
        column.name: _typed_column(frame[column.name], column, source, lenient)
        for column in RUN_COLUMNS
        if column.name in frame.columns
    }
    columns |= {name: frame[name] for name in frame.columns if name not in _BY_NAME}
    return pd.DataFrame(columns, index=frame.index).reset_index(drop=True)


def refuse_repeated_columns(names: Iterable[object], source: str) -> None:
    """UserError if two columns have one name."""
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(f"{source}: more than one column is called {repeated[0]}; rename or drop all but one")


def _typed_column(values: pd.Series, column: Column, source: str, lenient: bool) -> pd.Series:
    import pandas as pd

    if column.dtype == "str":
        texts = values.astype("str")
        clean = status_of if column.name == "status" else printable
        return texts.map({word: clean(word) for word in texts.dropna().unique()}).astype("str")
    if column.dtype == "time":
        return as_times(values)
    if column.dtype == "Int64":
        if values.dtype.kind == "i":
            return values.astype("Int64")
        whole = [None if is_missing(value) else _whole_number(value) for value in values.tolist()]
        if all(value is None or (isinstance(value, int) and abs(value) < 2**63) for value in whole):
            return pd.Series(whole, index=values.index, dtype="Int64")
        texts = [None if value is None else printable(value) for value in whole]
        return pd.Series(texts, values.index, dtype="str")
    numbers = pd.to_numeric(values, errors="coerce")
    unread = values.notna() & numbers.isna() & (values.astype(str).str.lower() != "nan")
    if unread.any():
        row = values.index[unread][0]
        place = f"row {row + 1}" if isinstance(row, int) else f"run {row}"
        value = values[unread].iloc[0]
        sentence = f"{source}: column {column.name}, {place} holds {value!r}, which is not a number"
        if not lenient:
            raise UserError(sentence)
        _log.warning("%s; it counts as missing (%d such values in this column)", sentence, unread.sum())
    # float64 also for counts: 6 x params x tokens of a large run does not fit into int64
    return numbers.astype(column.dtype)


def _whole_number(value: Any) -> int | str:
    """A seed is only a name: one that is no whole number stays a text, digit for digit."""
    for read in (int, float):
        with suppress(ValueError, OverflowError):
            if isinstance(value, str) or value == read(value):
                number = read(value)
                return int(number) if number == int(number) else str(value)
    return str(value)


def as_times(values: pd.Series) -> pd.Series:
    """Times in UTC, read from any form; anything else is missing, for no fit needs a time."""
    import pandas as pd

    of_texts = {} if values.dtype.kind in "Mifu" else {"format": "mixed"}
    return pd.to_datetime(values, utc=True, errors="coerce", **of_texts).astype("datetime64[ms, UTC]")
