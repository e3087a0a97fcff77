"""A run table made ready for a fit: checked, converted, put into one order, with the left-out rows listed.

Rows are sorted by (params, tokens, loss), so that a fit and its resamples do not depend, to the bit, on the
order in which a tracking server hands the runs over.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.errors import UserError
from analysis.frontier import WARN_ABOVE, Cost, fit_cost
from analysis.table.columns import NOT_COMPARABLE, refuse_repeated_columns, status_of
from analysis.table.inputs import USUAL_NAMES, as_table, hint
from analysis.text import flops_text, number_text, printable

ONE_VALUE_PER_FIT = (
    *("family", "flop_convention", "bound", "objective"),
    *("corpus", "tokenizer", "data_fingerprint", "context_length"),
)
"""Columns that must not vary inside one law: losses or FLOPs of different kinds do not share a curve."""
SAME_BUDGET = 0.05
"""FLOPs this close (relative) are one budget, if the table has no column of budgets."""
LISTED_ROWS = 5
PER_TOKEN = (0.05, 1000.0)
"""FLOPs per parameter and token, the median of a table: 6 in theory; 3 to 200 with other counts of both. A
thousandth or a thousand times as much is another unit."""
FEWEST_TOKENS = 1e-6
"""Per parameter, the median of a table: published tables have 9 to 100, tokens in billions 1e-7 or less."""
REPEATED = "repeats "
SAME_DESIGN = ("budget", "unique_tokens", "batch_size", "learning_rate")
"""Beside params and tokens: what repeats of a run, with other seeds, have in common where the table says."""


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
    """The input of a fit as float64 arrays of one length, sorted."""

    params: np.ndarray
    tokens: np.ndarray
    flops: np.ndarray
    """As given, else the planned budgets if a cost per token describes them, else 6 params tokens."""
    loss: np.ndarray
    loss_se: np.ndarray | None
    budget: np.ndarray | None
    """Planned budget of each run, if the table has that column."""
    rows: pd.DataFrame
    """The used rows of the user's table in the same order, columns params, tokens, flops, loss as above."""
    excluded: tuple[Excluded, ...]
    cost: Cost
    family: str | None
    unread: str
    """A column that holds FLOPs under another name, which nothing reads; empty if there is none."""
    sha256: str
    """Of params, tokens, flops, loss (and budget, loss_se if present) of the used rows."""

    def __len__(self) -> int:
        return len(self.params)

    @property
    def spent(self) -> np.ndarray:
        """Budget of each run: the planned one if the table has the column, else FLOPs spent."""
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

    @property
    def cells(self) -> np.ndarray:
        """Numbers 0, 1, ... (n,) of the cells of the design: runs of one cell have the same size and training
        and differ by their seed alone, whether they were trained as replicas of one run or apart."""
        names = ["params", "tokens", *(name for name in SAME_DESIGN if _has(self.rows, name))]
        return self.rows.groupby(names, sort=True, dropna=False).ngroup().to_numpy()

    @property
    def repeats(self) -> np.ndarray | None:
        """`cells` if any of them has more than one run, else None."""
        cells = self.cells
        return cells if cells.max() + 1 < len(cells) else None

    def budgets(self) -> list[tuple[float, np.ndarray]]:
        """(FLOPs, indices of its runs) per budget, ascending: equal planned budgets, else FLOPs alike."""
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
        # equal values stay as they are to the last bit, others become their geometric mean
        logs = np.log(values)
        middles = [values[g[0]] if values[g[0]] == values[g[-1]] else np.exp(logs[g].mean()) for g in groups]
        return [(float(middle), np.array(sorted(g))) for middle, g in zip(middles, groups, strict=True)]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Oddities of the table itself, whatever is fitted to it."""
        warnings = []
        repeated = sum(run.reason.startswith(REPEATED) for run in self.excluded)
        if repeated:
            rows = f"{repeated} row{'s' * (repeated > 1)}"
            warnings.append(f"{rows} of the table repeat others; each run counts once")
        if self.unread:
            warnings.append(
                f'FLOPs are 6 params tokens: column {self.unread} is not read; columns={{"{self.unread}": '
                '"flops"} counts them by it'
            )
        if "loss_se" in self.rows and self.loss_se is None and self.rows["loss_se"].notna().any():
            warnings.append(f"loss_se is not used: {self.rows['loss_se'].isna().sum()} runs have none")
        if self.cost.largest_error > WARN_ABOVE:
            warnings.append(
                f"the cost {self.cost} describes the table's FLOPs only within "
                f"{self.cost.largest_error:.0%}; the compute-optimal sizes inherit that"
            )
        if self.budget is not None:
            difference = np.abs(np.log(self.flops / self.budget)).max()
            if difference > np.log1p(SAME_BUDGET):
                warnings.append(
                    f"flops and budget differ by up to {np.expm1(difference):.0%}: the runs of a budget did "
                    "not spend it, or the two columns count differently"
                )
        return tuple(warnings)


def comparable(runs: pd.DataFrame) -> pd.Series:
    """True for the rows whose loss may be set beside those of others: trained to their family's bound of
    text alone, so neither with labels nor distilled."""
    alone = pd.Series(True, index=runs.index)
    for name in NOT_COMPARABLE:
        if name in runs.columns:
            alone &= runs[name].isna() | (runs[name] == "")
    return alone


def prepare(runs: pd.DataFrame | Mapping[str, Any]) -> RunTable:
    """Check and convert a run table, or a dict of arrays, with columns params, tokens, loss (flops, budget,
    loss_se, ... optional).

    Left out and listed: rows whose status is not "finished" (in any tool's words), whose column `excluded`
    gives a reason, whose loss is not that of others (`NOT_COMPARABLE`), that repeat another row (the same key
    and result, or equal in every column), and rows without a family if others have one; a table of such rows
    alone is one unnamed family. Replicas of one run share a key, and each is a run of its own. UserError
    names column and rows for anything that cannot be fitted: a missing column, missing, non-numeric, infinite
    or non-positive values, one key with several results, several families or conventions in one table, or
    numbers whose units do not belong together.
    """
    runs = as_table(runs)
    refuse_repeated_columns(runs.columns, "runs")
    missing = [name for name in ("params", "tokens", "loss") if name not in runs.columns]
    if missing:
        have = ", ".join(map(str, runs.columns)) or "none"
        raise UserError(
            f"runs: column {', '.join(missing)} is missing (columns: {have}){hint(missing, runs.columns)}"
        )
    kept, excluded = _leave_out(runs)
    if kept.empty:
        reasons = Counter(run.reason for run in excluded).most_common(3)
        why = ": " + ", ".join(f"{reason} ({count})" for reason, count in reasons) if reasons else ""
        raise UserError(f"runs: no finished run to fit ({len(runs)} rows, {len(excluded)} left out{why})")
    family = _one_kind(kept)
    numbers = ["params", "tokens", "loss", *(name for name in ("budget", "flops") if _has(kept, name))]
    columns = {name: column_numbers(kept, name) for name in numbers}
    _check_units(columns)
    unread = "" if {"flops", "budget"} & set(columns) else _flops_elsewhere(kept, columns)
    if "flops" not in columns:
        # the budgets, if they count more than 6 params tokens and are a cost per token
        columns["flops"] = 6.0 * columns["params"] * columns["tokens"]
        budget = columns.get("budget", columns["flops"])
        if np.max(np.abs(np.log(budget / columns["flops"]))) > np.log1p(SAME_BUDGET):
            with suppress(UserError):
                fit_cost(columns["params"], columns["tokens"], budget)
                columns["flops"] = budget
    if _has(kept, "loss_se") and kept["loss_se"].notna().all():
        columns["loss_se"] = column_numbers(kept, "loss_se", zero_allowed=True)
    order = np.lexsort((columns["loss"], columns["tokens"], columns["params"]))
    columns = {name: values[order] for name, values in columns.items()}
    digest = hashlib.sha256()
    for name in sorted(columns):
        digest.update(name.encode() + b"\0" + columns[name].astype("<f8").tobytes())
    arrays: dict[str, Any] = {"loss_se": None, "budget": None, **columns}
    return RunTable(
        **arrays,
        rows=kept.iloc[order].assign(**columns),
        excluded=excluded,
        cost=fit_cost(columns["params"], columns["tokens"], columns["flops"]),
        family=family,
        unread=unread,
        sha256=digest.hexdigest(),
    )


def _has(runs: pd.DataFrame, name: str) -> bool:
    return name in runs.columns and bool(runs[name].notna().any())


def _flops_elsewhere(runs: pd.DataFrame, columns: dict[str, np.ndarray]) -> str:
    """A column with a usual name of FLOPs whose numbers may be FLOPs."""
    for name in runs.columns:
        if str(name).lower() in USUAL_NAMES["flops"].split():
            values = pd.to_numeric(runs[name], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
            ratio = np.median(values / (columns["params"] * columns["tokens"]))
            if PER_TOKEN[0] <= ratio <= PER_TOKEN[1]:
                return printable(name)
    return ""


def _check_units(columns: dict[str, np.ndarray]) -> None:
    """UserError with a question if the columns are thousands of times off any real training."""
    pairs = columns["params"] * columns["tokens"]
    for name in ("flops", "budget"):
        if name in columns:
            ratio = float(np.median(columns[name] / pairs))
            if not PER_TOKEN[0] <= ratio <= PER_TOKEN[1]:
                factor = 1000.0 ** round(np.log10(6 / ratio) / 3)
                unit = (
                    f"is {name} in units of {flops_text(factor)} FLOPs"
                    if factor > 1
                    else f"are params or tokens in units of {flops_text(1 / factor)}"
                )
                raise UserError(
                    f"{name}: the median of {name} / (params x tokens) is {number_text(ratio)} instead of "
                    f"about 6; {unit}? Give all three in units of one"
                )
    ratio = float(np.median(columns["tokens"] / columns["params"]))
    if ratio < FEWEST_TOKENS:
        raise UserError(
            f"tokens: the median of tokens / params is {number_text(ratio)}, usually 1 to 1000; are tokens "
            "in billions? Give both in units of one"
        )


def _leave_out(runs: pd.DataFrame) -> tuple[pd.DataFrame, tuple[Excluded, ...]]:
    labels = runs.index.tolist()
    reasons: list[str | None] = [None] * len(runs)
    if "status" in runs.columns:
        states = {word: status_of(word) for word in runs["status"].dropna().unique()}
        unfinished = runs["status"].map({word: state != "finished" for word, state in states.items()})
        for i in np.flatnonzero(unfinished.eq(True)).tolist():  # a row without a word is finished
            reasons[i] = f"status is {states[runs['status'].iloc[i]]}"
    if "excluded" in runs.columns:
        for i in np.flatnonzero(runs["excluded"].notna()).tolist():
            if reason := runs["excluded"].iloc[i]:
                reasons[i] = reasons[i] or str(reason)
    for column, reason in NOT_COMPARABLE.items():
        words = runs[column] if column in runs.columns else pd.Series(dtype=object)
        for i, word in enumerate(words.astype(object).where(words.notna(), "")):
            if word:
                reasons[i] = reasons[i] or reason.format(word)
    if _has(runs, "family"):
        for i in np.flatnonzero(runs["family"].isna()).tolist():
            reasons[i] = reasons[i] or "no family, which other rows have"
    # the first of equal rows stays; most tables have no two rows with equal numbers, and are done here
    numbers = [name for name in ("params", "tokens", "loss", "flops", "budget") if name in runs.columns]
    kept = np.array([reason is None for reason in reasons], dtype=bool)  # typed, for a table without rows
    alike = runs[numbers].duplicated(keep=False).to_numpy() & kept
    first: dict[object, object] = {}
    keyed = "key" in runs.columns
    for i in np.flatnonzero(alike).tolist():
        row = runs.iloc[i]
        run = tuple(map(str, row))
        if keyed and not pd.isna(row["key"]):
            run = (str(row["key"]), str(row.get("replica")))
        if (run, *row[numbers]) in first:
            reasons[i] = f"{REPEATED}row {first[run, *row[numbers]]}"
        first.setdefault((run, *row[numbers]), labels[i])
    keep = np.array([reason is None for reason in reasons], dtype=bool)
    left_out = tuple(
        Excluded(row=row, reason=reason)
        for row, reason in zip(labels, reasons, strict=True)
        if reason is not None
    )
    return runs.loc[keep], left_out


def _one_kind(runs: pd.DataFrame) -> str | None:
    """The family of the table (None without that column); refuses mixed kinds and keys with two results."""
    for name in ONE_VALUE_PER_FIT:
        if name in runs.columns:
            values = sorted(map(str, runs[name].dropna().unique()))
            if len(values) > 1:
                example = f"e.g. family={values[0]!r}, or use analysis.fit_laws or compare"
                advice = f"select one, {example if name == 'family' else f'or drop the column {name}'}"
                raise UserError(f"{name}: one fit holds {len(values)} kinds ({', '.join(values)}); {advice}")
    if "key" in runs.columns:
        of_run = [name for name in ("key", "replica") if name in runs.columns]
        twice = runs["key"].notna() & runs.duplicated(of_run, keep=False)
        if twice.any():
            raise UserError(
                f"key: the same run is listed more than once, with different results "
                f"({_rows(runs, twice.to_numpy())}); keep one of them"
            )
    return str(runs["family"].dropna().iloc[0]) if _has(runs, "family") else None


def column_numbers(runs: pd.DataFrame, name: str, *, zero_allowed: bool = False) -> np.ndarray:
    """A column as float64; UserError naming rows and values unless all are finite and above 0."""
    # float64 first of all: 6 params tokens of integer columns wraps around above 9.2e18
    values = pd.to_numeric(runs[name], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    fine = np.isfinite(values) & ((values >= 0) if zero_allowed else (values > 0))
    if not fine.all():
        rule = "a finite number, not negative" if zero_allowed else "a finite number above 0"
        bad = ", ".join(repr(value) for value in runs[name].to_numpy()[~fine][:LISTED_ROWS].tolist())
        raise UserError(f"{name}: {_rows(runs, ~fine)} must be {rule}, not {bad}; correct or drop them")
    return values


def _rows(runs: pd.DataFrame, chosen: np.ndarray) -> str:
    labels = runs.index[chosen].tolist()
    more = f" and {len(labels) - LISTED_ROWS} more" if len(labels) > LISTED_ROWS else ""
    return f"row{'s' if len(labels) > 1 else ''} {', '.join(map(str, labels[:LISTED_ROWS]))}{more}"
