"""A run table made ready for a fit: checked, converted, put into one order, with the left-out rows listed.

Rows are sorted by (params, tokens, loss), so that a fit and its resamples do not depend, to the bit, on the
order in which a tracking server hands the runs over.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.errors import UserError
from analysis.frontier import WARN_ABOVE, Cost, fit_cost

ONE_VALUE_PER_FIT = (
    "family",
    "flop_convention",
    "bound",
    "objective",
    "corpus",
    "tokenizer",
    "data_fingerprint",
    "context_length",
)
"""Columns that must not vary inside one law: losses or FLOPs of different kinds do not share a curve."""
SAME_BUDGET = 0.05
"""FLOPs this close (relative) are one budget, where the table does not type its budgets."""
SHOWN_ROWS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Excluded:
    """A run that a fit left out, and why."""

    row: object
    """Label in the index of the user's table."""
    reason: str

    def __str__(self) -> str:
        return f"row {self.row}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTable:
    """What a fit needs, as float64 arrays of one length, sorted."""

    params: np.ndarray
    tokens: np.ndarray
    flops: np.ndarray
    """As given, else 6 params tokens."""
    loss: np.ndarray
    loss_se: np.ndarray | None
    budget: np.ndarray | None
    """Typed budget of each run, where the table has that column."""
    rows: pd.DataFrame
    """The used rows of the user's table in the same order, columns params, tokens, flops, loss as above."""
    excluded: tuple[Excluded, ...]
    cost: Cost
    family: str | None
    sha256: str
    """Of params, tokens, flops, loss (and budget, loss_se where present) of the used rows."""

    def __len__(self) -> int:
        return len(self.params)

    @property
    def spent(self) -> np.ndarray:
        """Budget of each run: typed where the table has the column, else FLOPs spent."""
        return self.flops if self.budget is None else self.budget

    @property
    def flops_range(self) -> tuple[float, float]:
        """Smallest and largest budget."""
        values = self.spent
        return float(values.min()), float(values.max())

    @property
    def one_budget(self) -> bool:
        smallest, largest = self.flops_range
        return largest <= smallest * (1 + SAME_BUDGET)

    def budgets(self) -> list[tuple[float, np.ndarray]]:
        """(FLOPs, indices of its runs) per budget, ascending: equal typed budgets, else FLOPs alike."""
        values = self.spent
        tolerance = SAME_BUDGET if self.budget is None else 1e-9
        order = np.argsort(values, kind="stable")
        groups: list[list[int]] = []
        for i in order.tolist():
            # against the first of the group: a chain of small differences must not join distant budgets
            if groups and values[i] <= values[groups[-1][0]] * (1 + tolerance):
                groups[-1].append(i)
            else:
                groups.append([i])
        return [(_middle(values[g]), np.array(sorted(g))) for g in groups]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is odd about the table itself, whatever is fitted to it."""
        found = []
        if "loss_se" in self.rows and self.loss_se is None and self.rows["loss_se"].notna().any():
            found.append(f"loss_se is not used: {self.rows['loss_se'].isna().sum()} runs have none")
        if self.cost.largest_error > WARN_ABOVE:
            found.append(
                f"the cost {self.cost} describes the table's FLOPs only within "
                f"{self.cost.largest_error:.0%}; the compute-optimal sizes inherit that"
            )
        if self.budget is not None:
            off = np.abs(np.log(self.flops / self.budget))
            if off.max() > np.log1p(SAME_BUDGET):
                found.append(
                    f"flops and budget differ by up to {np.expm1(off.max()):.0%}: the runs of a budget did "
                    "not spend it, or the two columns count differently"
                )
        return tuple(found)


def _middle(values: np.ndarray) -> float:
    """Geometric mean, and exactly the value itself where all are equal."""
    return float(values[0]) if np.all(values == values[0]) else float(np.exp(np.mean(np.log(values))))


def prepare(runs: pd.DataFrame) -> RunTable:
    """Check and convert a run table with columns params, tokens, loss (flops, budget, loss_se, ... optional).

    Rows whose status is not "finished", or whose column `excluded` gives a reason, are left out and listed.
    UserError names column and rows for anything that cannot be fitted: a missing column, missing,
    non-numeric, infinite or non-positive values, duplicate keys, or several families or conventions in one
    table.
    """
    if not isinstance(runs, pd.DataFrame):
        raise UserError(
            f"runs is a {type(runs).__name__}; give a pandas DataFrame with columns params, tokens, loss"
        )
    missing = [name for name in ("params", "tokens", "loss") if name not in runs.columns]
    if missing:
        have = ", ".join(map(str, runs.columns)) or "none"
        raise UserError(f"runs: column {', '.join(missing)} is missing (columns: {have})")
    kept, excluded = _leave_out(runs)
    if kept.empty:
        raise UserError(f"runs: no finished run to fit ({len(runs)} rows, {len(excluded)} left out)")
    family = _one_kind(kept)
    columns = {name: _numbers(kept, name) for name in ("params", "tokens", "loss")}
    columns["flops"] = (
        _numbers(kept, "flops") if _has(kept, "flops") else 6.0 * columns["params"] * columns["tokens"]
    )
    if _has(kept, "budget"):
        columns["budget"] = _numbers(kept, "budget")
    if _has(kept, "loss_se") and kept["loss_se"].notna().all():
        columns["loss_se"] = _numbers(kept, "loss_se", zero_allowed=True)
    order = np.lexsort((columns["loss"], columns["tokens"], columns["params"]))
    columns = {name: values[order] for name, values in columns.items()}
    digest = hashlib.sha256()
    for name in sorted(columns):
        digest.update(name.encode() + b"\0" + columns[name].astype("<f8").tobytes())
    return RunTable(
        params=columns["params"],
        tokens=columns["tokens"],
        flops=columns["flops"],
        loss=columns["loss"],
        loss_se=columns.get("loss_se"),
        budget=columns.get("budget"),
        rows=kept.iloc[order].assign(**{name: columns[name] for name in columns}),
        excluded=excluded,
        cost=fit_cost(columns["params"], columns["tokens"], columns["flops"]),
        family=family,
        sha256=digest.hexdigest(),
    )


def _has(runs: pd.DataFrame, name: str) -> bool:
    return name in runs.columns and bool(runs[name].notna().any())


def _leave_out(runs: pd.DataFrame) -> tuple[pd.DataFrame, tuple[Excluded, ...]]:
    reasons: list[str | None] = [None] * len(runs)
    if "status" in runs.columns:
        for i, status in enumerate(runs["status"].tolist()):
            if not pd.isna(status) and status != "finished":
                reasons[i] = f"status is {status}"
    if "excluded" in runs.columns:
        for i, reason in enumerate(runs["excluded"].tolist()):
            if not pd.isna(reason) and reason:
                reasons[i] = reasons[i] or str(reason)
    keep = np.array([reason is None for reason in reasons], dtype=bool)
    left_out = tuple(
        Excluded(row=row, reason=reason)
        for row, reason in zip(runs.index.tolist(), reasons, strict=True)
        if reason is not None
    )
    return runs.loc[keep], left_out


def _one_kind(runs: pd.DataFrame) -> str | None:
    """The family of the table (None without that column); refuses mixed kinds and duplicate keys."""
    for name in ONE_VALUE_PER_FIT:
        if name in runs.columns:
            found = sorted(map(str, runs[name].dropna().unique()))
            if len(found) > 1:
                advice = ", or use analysis.compare" if name == "family" else f", or drop the column {name}"
                raise UserError(
                    f"{name}: one fit holds {len(found)} kinds ({', '.join(found)}); select one{advice}"
                )
    if "key" in runs.columns:
        twice = runs["key"].notna() & runs["key"].duplicated(keep=False)
        if twice.any():
            raise UserError(f"key: the same run is listed more than once ({_rows(runs, twice.to_numpy())})")
    return str(runs["family"].dropna().iloc[0]) if _has(runs, "family") else None


def _numbers(runs: pd.DataFrame, name: str, *, zero_allowed: bool = False) -> np.ndarray:
    # float64 first of all: 6 params tokens of integer columns wraps around above 9.2e18
    values = pd.to_numeric(runs[name], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    fine = np.isfinite(values) & ((values >= 0) if zero_allowed else (values > 0))
    if not fine.all():
        wanted = "a finite number, not negative" if zero_allowed else "a finite number above 0"
        shown = ", ".join(repr(value) for value in runs[name].to_numpy()[~fine][:SHOWN_ROWS].tolist())
        raise UserError(f"{name}: {_rows(runs, ~fine)} must be {wanted}, not {shown}; correct or drop them")
    return values


def _rows(runs: pd.DataFrame, chosen: np.ndarray) -> str:
    labels = runs.index[chosen].tolist()
    more = f" and {len(labels) - SHOWN_ROWS} more" if len(labels) > SHOWN_ROWS else ""
    return f"row{'s' if len(labels) > 1 else ''} {', '.join(map(str, labels[:SHOWN_ROWS]))}{more}"
