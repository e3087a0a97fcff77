"""A run table as columns of JSON: small to send, quick to read in a page.

A column is one of
    {"kind": "one", "value": v}                    the same value in every row
    {"kind": "words", "words": [...], "at": [...]} few different texts; -1 stands for none
    {"kind": "text", "values": [...]}              texts
    {"kind": "number", "values": [...]}            numbers; null where missing, "inf" and "-inf" as texts
Times are seconds since 1970.
"""

from __future__ import annotations

import gzip
import json
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

DIGITS = 7
"""Significant digits of numbers; a loss of 3 is then exact to 1e-6 nats."""
FEW_WORDS = 0.3
"""Share of different texts below which a column is sent as a list of words and places in it."""


def to_columns(frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Every column of `frame` that holds anything, as above."""
    columns = {name: _column(frame[name]) for name in frame.columns}
    return {str(name): column for name, column in columns.items() if column is not None}


def _column(values: pd.Series) -> dict[str, Any] | None:
    if not values.notna().any():
        return None
    if values.dtype.kind == "M":
        import pandas as pd

        seconds = (values - pd.Timestamp(0, unit="s", tz="UTC")).dt.total_seconds()
        return _numbers([None if x != x else round(x) for x in seconds.tolist()])
    if values.dtype.kind in "iu":  # every digit counts, of a seed for one; a page reads 2^53 at most
        whole = [None if x != x else int(x) for x in values.astype(object).where(values.notna()).tolist()]
        if max(abs(x or 0) for x in whole) < 2**53:
            return _numbers(whole)
        return _texts([None if x is None else str(x) for x in whole])
    if values.dtype.kind == "f":
        return _numbers([plain_number(x) for x in values.astype("float64").tolist()])
    if values.dtype.kind == "b":
        return _numbers([int(x) for x in values.tolist()])
    return _texts([None if x is None or x != x else str(x) for x in values.astype(object).tolist()])


def plain_number(x: float, digits: int = DIGITS) -> float | int | str | None:
    """A number as JSON has it: whole ones short, others to `digits`; None for NaN, a text for infinity."""
    if x != x:
        return None
    if math.isinf(x):
        return "inf" if x > 0 else "-inf"
    if x == 0:
        return 0
    rounded = float(f"{x:.{digits}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


def _numbers(values: list[Any]) -> dict[str, Any]:
    if all(value == values[0] for value in values):
        return {"kind": "one", "value": values[0]}
    return {"kind": "number", "values": values}


def _texts(values: list[str | None]) -> dict[str, Any]:
    words = list(dict.fromkeys(value for value in values if value is not None))
    if len(words) == 1 and None not in values:
        return {"kind": "one", "value": words[0]}
    if len(words) > max(1, FEW_WORDS * len(values)):
        return {"kind": "text", "values": values}
    place = {word: number for number, word in enumerate(words)}
    return {"kind": "words", "words": words, "at": [-1 if v is None else place[v] for v in values]}


def nothing(problem: str) -> bytes:
    """What stands in place of curves: why there are none."""
    return gzip.compress(json.dumps({"problem": problem}).encode() + b"\n", mtime=0)


def records(frame: pd.DataFrame, digits: int = DIGITS) -> list[dict[str, Any]]:
    """A small table as a list of rows of plain JSON values."""
    rows = frame.astype(object).to_dict(orient="records")
    return [{str(name): plain(value, digits) for name, value in row.items()} for row in rows]


def table(frame: pd.DataFrame, digits: int = 6) -> dict[str, list[Any]]:
    """A table as plain lists by column."""
    return {
        str(name): [plain(value, digits) for value in frame[name].astype(object).tolist()]
        for name in frame.columns
    }


def plain(value: Any, digits: int = DIGITS) -> Any:
    """One value as JSON has it."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return None
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return plain_number(float(value), digits)
    return str(value)
