"""Rows of runs that trained several networks side by side: one for each, its replicas.

A run keeps numbers for all its replicas together: means of losses, sums of times. A row is about one network,
so a run of R replicas becomes R rows with the same key, each with its own seed, loss and status. What the run
paid once, times and the FLOPs of its evaluations, is divided by R: sums over rows are what was paid. Params,
tokens and training FLOPs are those of one network, as everywhere; the speed is that of all together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from analysis.text import is_missing

if TYPE_CHECKING:
    import pandas as pd

OWN = (
    *("loss", "loss_se", "bits_per_byte"),
    *("loss_with_label", "label_leak", "label_leak_se", "label_cost"),
)
"""Columns of which each replica has its own value."""
SHARED = ("wall_s", "evaluation_s", "evaluation_flops")
"""Columns that are divided among the replicas."""
ALL_METRICS, LOSS_METRICS = "replica_%/%", "replica_%/loss"
"""Patterns of `metric`, in SQL."""
_METRIC = re.compile(r"replica_(\d+)/(\w+)")

Numbers = Mapping[int, Mapping[str, float]]
"""Replica, from 0 -> its own values; none of a replica that has diverged."""


def metric(replica: int, column: str) -> str:
    """The MLflow metric that holds a replica's own value of a column."""
    return f"replica_{replica}/{column}"


def numbers_of(metrics: Mapping[str, Any]) -> dict[int, dict[str, float]]:
    """The replicas' own values among a run's metrics."""
    numbers: dict[int, dict[str, float]] = {}
    for name, value in metrics.items():
        if (match := _METRIC.fullmatch(name)) and not is_missing(value):
            numbers.setdefault(int(match[1]), {})[match[2]] = float(value)
    return numbers


def rows_of(row: Mapping[str, Any], numbers: Numbers) -> list[dict[str, Any]]:
    """The rows of the replicas from the row of their run, which has the column `replicas`."""
    count = int(row["replicas"])
    shared = {name: row[name] / count for name in SHARED if not is_missing(row.get(name))}
    rows = []
    for replica in range(count):
        own = {name: value for name, value in row.items() if name not in OWN} | shared
        own |= {"replica": replica, **numbers.get(replica, {})}
        if not is_missing(own.get("seed")):
            own["seed"] = int(own["seed"]) + replica
        if own.get("status") == "finished" and replica not in numbers:
            own["status"] = "diverged"
        rows.append(own)
    return rows


def with_replicas(table: pd.DataFrame, numbers: Mapping[str, Numbers]) -> pd.DataFrame:
    """A table of runs, indexed by their ids, with a row for each replica. numbers: by id."""
    import pandas as pd

    several = pd.to_numeric(table["replicas"], errors="coerce").fillna(1) > 1
    if not several.any():
        return table
    rows = [
        (place, run)
        for place, (run_id, row) in enumerate(table.to_dict("index").items())
        for run in (rows_of(row, numbers.get(str(run_id), {})) if several.iloc[place] else [row])
    ]
    index = table.index[[place for place, _ in rows]]
    return pd.DataFrame([row for _, row in rows], index=index, columns=table.columns, dtype=object)
