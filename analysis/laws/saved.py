"""A fitted law as a file and back: every number to the last bit, without another fit.

The file is JSON: first the numbers (`to_dict`), then the law field by field. Arrays are base64 of their
bytes, tables go column by column, dataclasses and enums by name. Only those of this package and of the
modules of registered laws are made again, nothing else is imported, and no code is read from the file. A hash
of all of it shows a change. The law.json of a sweep is read too: its laws are fitted again to the runs beside
it.
"""

from __future__ import annotations

import base64
import enum
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from analysis.errors import UserError
from analysis.estimate import Estimate
from analysis.files import write_whole
from analysis.laws import METHODS, fit_law, method_called
from analysis.table.fit_table import Excluded
from analysis.table.runs import load_runs
from analysis.text import printable

if TYPE_CHECKING:
    from analysis.laws.result import Law

FORMAT = "fitted scaling law"
FORMAT_VERSION = 1
CLOSE = 1e-9
"""Numbers of another machine may differ in the last digits; those of another formula differ by more."""


def save_law(law: Law, path: str | Path) -> Path:
    """Write the law to a file that `load_law` reads, complete or not there."""
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "code_version": version("scaling"),
        "law": law.to_dict(),
        "state": _encoded(law, f"a {law.method} law"),
    }
    content["sha256"] = _digest(content)
    return write_whole(_file(path), (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def load_law(path: str | Path, method: str | int | None = None) -> Law:
    """A law that `law.save(path)` wrote, with the same numbers and intervals.

    Of a sweep's law.json, which holds the numbers of several laws: the one by `method` (the surface, or the
    only one), fitted again to the runs beside it, and compared with those numbers. UserError, in one
    sentence, for a file that is missing, is neither, was changed or cut off, is of a law that is not
    registered here, or of a version whose laws give other numbers.
    """
    place = _file(path)
    try:
        content = json.loads(place.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None
    except ValueError:  # no JSON, or no text at all
        raise UserError(f"{path} is no saved law, or was cut off: law.save(path) writes one") from None
    if isinstance(content, dict) and isinstance(content.get("laws"), dict):
        return _fitted_again(place, content["laws"], method)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        numbers = isinstance(content, dict) and "parameters" in content
        what = "holds the numbers of a law, not the law itself" if numbers else "is no saved law"
        raise UserError(f"{path} {what}: law.save(path) writes one")
    written = f"version {printable(content.get('code_version'))} of this program"
    if content.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path} was saved by {written} in a form that this version, {version('scaling')}, does not read"
        )
    if content.pop("sha256", None) != _digest(content):
        raise UserError(f"{path} was changed since it was saved: fit the law again")
    name = str(content["law"]["method"])
    if name not in METHODS:
        raise UserError(
            f"{path} is a law with method {name!r}, which is not registered here: "
            "import the module that registers it"
        )
    if method is not None and method_called(method) != name:
        raise UserError(f"method = {method!r}: {path} is a law with method {name!r}")
    try:
        law: Law = _decoded(content["state"])
    except (TypeError, KeyError, AttributeError, ImportError):
        raise UserError(
            f"{path} was saved by {written}, whose laws have other fields: fit the law again"
        ) from None
    stored = {key: value for key, value in content["law"].items() if key != "code_version"}
    _compare(path, written, stored, law)
    return law


def _fitted_again(place: Path, laws: Mapping[str, Any], method: str | int | None) -> Law:
    """The law of a sweep's law.json, from the runs that lie beside it."""
    name = method_called("surface" if method is None else method)
    name = next(iter(laws)) if method is None and name not in laws and len(laws) == 1 else name
    if name not in laws:
        raise UserError(f"method = {name!r}: {place} has no such law; it has {', '.join(laws) or 'none'}")
    table = place.with_name("runs.parquet")
    if not table.is_file():
        raise UserError(f"{place} holds the numbers of laws: their runs, {table.name}, must lie beside it")
    numbers = laws[name]
    law = fit_law(load_runs(table), name, **numbers["options"])
    same = {key: numbers[key] for key in ("data_sha256", "num_runs", "parameters", "exponents")}
    _compare(place, f"version {printable(numbers.get('code_version'))} of this program", same, law)
    return law


def _compare(path: str | Path, written: str, numbers: Mapping[str, Any], law: Law) -> None:
    """UserError if the law gives other numbers than those in the file."""
    again = json.loads(law.to_json())
    for name, was, now in _differences(dict(numbers), {key: again.get(key) for key in numbers}):
        raise UserError(
            f"{path} was saved by {written}, which gave {name} = {was}; here it is {now}: fit the law again"
        )


def _file(path: object) -> Path:
    if not isinstance(path, str | os.PathLike) or not str(path):
        raise UserError(f"path = {path!r}: give the name of a file, e.g. 'law.json'")
    return Path(path)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _differences(was: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Places at which two JSON values differ by more than the last digits."""
    if isinstance(was, dict) and isinstance(now, dict):
        for key in {**was, **now}:
            yield from _differences(was.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for place, (one, other) in enumerate(zip(was, now, strict=True)):
            yield from _differences(one, other, f"{name}[{place}]")
    elif isinstance(was, float) and isinstance(now, float):
        # how small a gradient is left depends on the machine
        if not math.isclose(was, now, rel_tol=CLOSE, abs_tol=CLOSE * CLOSE) and name != "gradient":
            yield name, was, now
    elif was != now:
        yield name, was, now


def _modules() -> set[str]:
    """Modules of laws that were registered from outside."""
    return {
        entry.fit.split(":")[0] if isinstance(entry.fit, str) else entry.fit.__module__
        for entry in METHODS.values()
    }


def _name(kind: type, what: str) -> str:
    if not kind.__module__.startswith("analysis.") and kind.__module__ not in _modules():
        raise UserError(
            f"{what} holds a {kind.__qualname__} of {kind.__module__}, which cannot be saved: "
            "define it in the module of the law's fit"
        )
    return f"{kind.__module__}:{kind.__qualname__}"


def _class(name: str) -> Any:
    module, _, qualified = name.partition(":")
    if not module.startswith("analysis.") and module not in _modules():
        raise ImportError(name)
    kind = getattr(import_module(module), qualified)
    if not (isinstance(kind, type) and (is_dataclass(kind) or issubclass(kind, enum.Enum))):
        raise TypeError(name)
    return kind


def _encoded(value: Any, what: str) -> Any:
    """The value in JSON; anything but None, a truth value, a finite number or a text is {"$kind": ...}."""
    if isinstance(value, enum.Enum):
        return {"$enum": [_name(type(value), what), value.value]}
    if isinstance(value, Estimate):
        return {"$estimate": [_encoded(part, what) for part in value.__getnewargs__()]}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        order: Literal["C", "F"] = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
        plain = value.astype(value.dtype.newbyteorder("<"), copy=False)
        text = base64.b64encode(plain.tobytes(order)).decode()
        return {
            "$array": {"dtype": plain.dtype.str, "shape": list(value.shape), "order": order, "base64": text}
        }
    if isinstance(value, pd.DataFrame):
        return {"$table": _encoded_table(value, what)}
    if isinstance(value, tuple | list):
        return {"$tuple" if isinstance(value, tuple) else "$list": [_encoded(item, what) for item in value]}
    if isinstance(value, Mapping):
        return {"$dict": [[_encoded(key, what), _encoded(item, what)] for key, item in value.items()]}
    if isinstance(value, Excluded):  # the label of a row may be anything
        label = value.row if isinstance(value.row, int | str) else str(value.row)
        return {"$object": [_name(Excluded, what), {"row": label, "reason": value.reason}]}
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
        return {
            "$object": [
                _name(type(value), what),
                {name: _encoded(part, f"{what}, {name},") for name, part in parts.items()},
            ]
        }
    raise UserError(f"{what} holds a {type(value).__name__}, which cannot be saved")


def _decoded(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "$enum":
        return _class(content[0])(content[1])
    if kind == "$estimate":
        return Estimate(*map(_decoded, content))
    if kind == "$float":
        return float(content)
    if kind == "$array":
        data = np.frombuffer(base64.b64decode(content["base64"]), dtype=np.dtype(content["dtype"]))
        return data.reshape(content["shape"], order=content["order"])
    if kind == "$table":
        return _decoded_table(content)
    if kind in ("$tuple", "$list"):
        return (tuple if kind == "$tuple" else list)(map(_decoded, content))
    if kind == "$dict":
        return {_decoded(key): _decoded(item) for key, item in content}
    name, parts = content
    return _class(name)(**{part: _decoded(item) for part, item in parts.items()})


def _encoded_table(table: pd.DataFrame, what: str) -> dict[str, Any]:
    columns = []
    for name, values in table.items():
        numbers = isinstance(values.dtype, np.dtype) and values.dtype.kind == "f"
        try:
            if numbers:
                cells = _encoded(values.to_numpy(), what)
            else:
                cells = [_encoded_cell(cell, what) for cell in values.astype(object).tolist()]
            column = {"name": name, "dtype": str(values.dtype), "cells": cells}
            same = isinstance(name, str) and _decoded_column(column, values.index).equals(values)
        except (UserError, TypeError, ValueError):
            same = False
        if not same:
            raise UserError(
                f"{what} column {name} of the runs ({values.dtype}) cannot be saved; drop it before the fit"
            )
        columns.append(column)
    labels = [label if isinstance(label, int | str) else str(label) for label in table.index.tolist()]
    attrs = {name: value for name, value in table.attrs.items() if isinstance(value, str)}
    return {"columns": columns, "index": labels, "attrs": attrs}


def _encoded_cell(cell: Any, what: str) -> Any:
    if cell is pd.NA or cell is pd.NaT:
        return None
    return cell.isoformat() if isinstance(cell, pd.Timestamp) else _encoded(cell, what)


def _decoded_column(column: Mapping[str, Any], index: pd.Index) -> pd.Series:
    cells, dtype = column["cells"], column["dtype"]
    values = _decoded(cells) if isinstance(cells, dict) else list(map(_decoded, cells))
    if dtype.startswith("datetime64"):
        times = pd.to_datetime(pd.Series(values, dtype=object), format="ISO8601", utc="," in dtype)
        values = times.astype(dtype).array
    return pd.Series(values, index=index, dtype=dtype, name=column["name"])


def _decoded_table(content: Mapping[str, Any]) -> pd.DataFrame:
    index = pd.Index(content["index"])
    table = pd.DataFrame(
        {column["name"]: _decoded_column(column, index) for column in content["columns"]}, index=index
    )
    table.attrs = dict(content["attrs"])
    return table
