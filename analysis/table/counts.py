"""Parameters and FLOPs counted in other ways: the columns of a run table that hold them, and their choice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.errors import UserError
from analysis.table.inputs import as_table

if TYPE_CHECKING:
    import pandas as pd

PARAMS = ("params_total", "params_non_embedding", "params_body")
FLOPS = ("flops_exact", "flops_6nd", "flops_sahoo2026")


def counted(runs: object, params: str | None = None, flops: str | None = None) -> pd.DataFrame:
    """The runs with params and flops counted in another way, for `fit_law`, `compare` and every figure.

    params: "total", "non_embedding" or "body"; flops: "exact", "6nd" or "sahoo2026"; or any column of the
    table; None: as the table has it. `budget` goes on grouping the runs: counted otherwise a budget is worth
    what its runs spent on (geometric) average, for the runs of one budget then differ. UserError for a count
    that the table does not have for every finished run.
    """
    import numpy as np

    table = as_table(runs)
    done = table["status"] == "finished" if "status" in table else np.ones(len(table), dtype=bool)
    if params is not None:
        table = table.assign(params=_column(table, done, "params", params, PARAMS))
    if flops is None:
        return table
    spent = _column(table, done, "flops", flops, FLOPS)
    convention = table["flop_convention"].iloc[0] if "flop_convention" in table and len(table) else None
    same = _name(flops, "flops") == f"flops_{convention}" or (
        "flops" in table and spent.equals(table["flops"])
    )
    if not same and "budget" in table and table["budget"].notna().any():
        groups = [table[name] for name in ("family", "budget") if name in table]
        means = np.log(spent.where(done)).groupby(groups).transform("mean")
        table = table.assign(budget=np.exp(means).fillna(table["budget"]))
    if not same and "flop_convention" in table:
        table = table.assign(flop_convention=_name(flops, "flops").removeprefix("flops_"))
    return table.assign(flops=spent)


def _name(count: str, kind: str) -> str:
    return f"{kind}_{count}" if f"{kind}_{count}" in (*PARAMS, *FLOPS) else count


def _column(table: pd.DataFrame, done: pd.Series, kind: str, count: str, usual: tuple[str, ...]) -> pd.Series:
    """The column of a count as float64."""
    name = _name(str(count), kind)
    if name not in table or not table.loc[done, name].notna().all():
        complete = [one for one in usual if one in table and table.loc[done, one].notna().all()]
        has = f"choose one of {', '.join(complete)}" if complete else "the table has no other count"
        why = "not every finished run has it" if name in table else "no such column"
        raise UserError(f"{kind} = {count!r}: {why}; {has}")
    return table[name].astype("float64")
