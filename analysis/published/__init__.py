"""Published run tables and published laws, each with its source, its conventions and its standing.

    analysis.published.runs("sahoo2026")     # one row per run, ready for fit_law and compare
    analysis.published.laws()                # one row per printed law
    analysis.published.law("hoffmann2022")   # one of them, which predicts and gives the best run of a budget
    analysis.published.tables()              # all run tables, with source and licence

Losses are nats per token. A table's `attrs` carry its record in `tables()`.
"""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from analysis.published.fitted import PublishedLaw

__all__ = ["law", "laws", "runs", "tables"]


_DATA = Path(__file__).parent / "data"
# Provenance of the tables; `constants` are columns with one value for the whole table, added on reading.
_TABLES = {table["name"]: table for table in json.loads((_DATA / "tables.json").read_text(encoding="utf-8"))}
_ALIASES = {"sahoo2026_isoflop": "sahoo2026"}
# The published families whose loss is a likelihood; every other one reports a bound from above.
_EXACT = frozenset({"ar"})


def runs(name: str) -> pd.DataFrame:
    """A published run table by name (see `tables`): params, tokens, flops, loss and its other columns.

    UserError (a ValueError) for an unknown name, listing the choices.
    """
    table = _TABLES.get(_ALIASES.get(name, name))
    if table is None:
        raise UserError(f"no published run table is called {name!r}; there are {', '.join(_TABLES)}")
    frame = _read(table["file"])
    for column, value in table["constants"].items():
        frame[column] = value
    if "family" in frame and "loss" in frame and "bound" not in frame:
        frame["bound"] = frame["family"].map(lambda family: "exact" if family in _EXACT else "upper")
    frame.attrs = deepcopy(table)
    return frame


def tables() -> pd.DataFrame:
    """One row per run table: name, rows, source, licence, status, note."""
    import pandas as pd

    columns = ["name", "rows", "source", "licence", "status", "note"]
    return pd.DataFrame([table | {"rows": len(_read(table["file"]))} for table in _TABLES.values()])[columns]


def laws() -> pd.DataFrame:
    """Published laws, one row each; a number that was not published is missing (pandas.NA), never a guess.

    Exponents are powers of compute (params: N*, tokens: D*, loss: L*, or L* - E if loss_form is
    "reducible"; the two do not compare). E, A, B, alpha, beta are those of E + A/N^alpha + B/D^beta,
    R_D and R_N those of the effective-data law (`analysis.laws.solver.repeats`).
    params_counted and flops_counted define N and C; evidence is the place of the number in its source; status
    is valid, corrected, withdrawn or disputed.
    """
    frame = _read("laws.csv", text=("arxiv",))
    words = [name for name in frame.columns if frame[name].dtype.kind not in "fi"]
    frame[words] = frame[words].fillna("")
    numbers = [name for name in frame.columns if name not in words]
    return frame.astype(dict.fromkeys(numbers, "Float64"))


def laws_called(name: str) -> pd.DataFrame:
    """The rows of `laws` with that name, or of the paper with that name. UserError lists the papers."""
    every = laws()
    rows = every[every["name"] == name]
    if rows.empty:
        rows = every[every["name"].str.startswith(f"{name}_")]
    if rows.empty:
        papers = ", ".join(dict.fromkeys(every["name"].str.split("_").str[0]))
        raise UserError(f"no published law is called {name!r}; there are laws of {papers}")
    return rows


def law(name: str, family: str | None = None, *, withdrawn: bool = False) -> PublishedLaw:
    """A published law by its name in `laws()`, or by that of a paper: "hoffmann2022" is the formula of that
    paper, or its only law; family: that of several.

    UserError for an unknown name, for a paper with several laws, listing them, and for a withdrawn law unless
    withdrawn=True.
    """
    from analysis.published.fitted import PublishedLaw

    rows = laws_called(name)
    if family is not None:
        of_family = rows[rows["family"] == family]
        if of_family.empty:
            has = ", ".join(dict.fromkeys(rows["family"]))
            raise UserError(f"family = {family!r}: {name} has no law of it; its families are {has}")
        rows = of_family
    formulas = rows[rows["method"] == "surface"]
    rows = formulas if len(formulas) == 1 else rows
    if len(rows) > 1:
        raise UserError(f"{name} has several laws: {', '.join(rows['name'])}; name one of them")
    row = {str(column): value for column, value in rows.iloc[0].items()}
    if row["status"] == "withdrawn" and not withdrawn:
        raise UserError(f"{row['name']} was withdrawn ({row['note']}); give withdrawn=True to have it")
    return PublishedLaw(row=row)


def _read(file: str, *, text: tuple[str, ...] = ()) -> pd.DataFrame:
    import pandas as pd

    frame = pd.read_csv(_DATA / file, dtype=dict.fromkeys(text, "str"))
    if "excluded" in frame:
        frame["excluded"] = frame["excluded"].fillna("")
    for name in frame.columns:
        # float64 also for counts: 6 x params x tokens of a large run does not fit into int64
        if frame[name].dtype.kind == "i" and name in ("params", "tokens"):
            frame[name] = frame[name].astype("float64")
    return frame


def __dir__() -> list[str]:
    return __all__
