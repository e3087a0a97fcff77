"""One law for each group of a run table: of each family, seed, corpus, or any other column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from analysis.errors import UserError
from analysis.frontier import number_column
from analysis.laws import check_options, fit_law, method_called
from analysis.plotted import Plotted
from analysis.printed import Printed, TextTable, notes_html, words
from analysis.table.inputs import Columns, as_table
from analysis.text import value_text

if TYPE_CHECKING:
    from analysis.estimate import Estimate
    from analysis.laws.result import Law


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Laws(Plotted, Printed, Mapping[str, "Law"]):
    """Laws by the name of their group, from one method and one set of options: laws["masked"]."""

    figure: ClassVar[str] = "frontier"
    method: str
    by: str
    """The column whose values are the groups; several are joined by ", " like the names."""
    laws: Mapping[str, Law]
    refused: Mapping[str, str]
    """Groups that could not be fitted, and why."""

    def __getitem__(self, name: str) -> Law:
        return self.laws[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.laws)

    def __len__(self) -> int:
        return len(self.laws)

    def _estimates(self, law: Law) -> dict[str, Estimate]:
        numbers = {name: value for name, value in law._parameters().items() if name.isidentifier()}
        return numbers | {f"{name}_exponent": value for name, value in law.exponents.items()}

    def summary(self) -> pd.DataFrame:
        """One row per group: its name, runs, status, then the parameters (of a law with a formula) and the
        exponents of the frontier in compute, each with _low and _high; pandas.NA where there is none."""
        numbers = {name: self._estimates(law) for name, law in self.laws.items()}
        names = dict.fromkeys(name for row in numbers.values() for name in row)
        columns: dict[str, Any] = {
            self.by: list(self.laws),
            "runs": [len(law.runs) for law in self.laws.values()],
            "status": [str(law.status) for law in self.laws.values()],
        }
        for name in names:
            values = [row.get(name) for row in numbers.values()]
            columns[name] = number_column([None if value is None else float(value) for value in values])
            for end in ("low", "high"):
                ends = [None if value is None else getattr(value, end) for value in values]
                columns[f"{name}_{end}"] = number_column(ends)
        return pd.DataFrame(columns)

    def frontier(self, flops: object) -> pd.DataFrame:
        """`law.frontier(flops)` of every law, one below the other, with the group in the first column."""
        tables = [law.frontier(flops) for law in self.laws.values()]
        groups = np.repeat(list(self.laws), [len(table) for table in tables])
        table = pd.concat(tables, ignore_index=True)
        table.insert(0, self.by, groups)
        return table

    def text_table(self) -> TextTable:
        """One column per group, one row per number of `summary`."""
        numbers = {group: self._estimates(law) for group, law in self.laws.items()}
        rows = [("runs", *(str(len(law.runs)) for law in self.laws.values()))]
        for name in dict.fromkeys(name for row in numbers.values() for name in row):
            values = [row.get(name) for row in numbers.values()]
            cells = ["" if v is None else value_text(name, float(v), v.low, v.high, digits=3) for v in values]
            rows.append((words(name), *cells))
        return TextTable(columns=(self.by, *self.laws), rows=tuple(rows))

    @property
    def _notes(self) -> list[str]:
        notes = [f"no law of {name}: {reason}" for name, reason in self.refused.items()]
        return notes + [f"{name}: {note}" for name, law in self.laws.items() for note in law.warnings]

    def __str__(self) -> str:
        head = f"{self.method} laws by {self.by}: {len(self.laws)}"
        return "\n".join([head, "", str(self.text_table()), *(f"warning: {note}" for note in self._notes)])

    def _repr_html_(self) -> str:
        head = f"<p>{self.method} laws by {self.by}: {len(self.laws)}</p>"
        return head + self.text_table().to_html() + notes_html(self._notes)


def fit_laws(
    runs: pd.DataFrame | Mapping[str, Any],
    method: str | int = "surface",
    by: str | Sequence[str] = "family",
    *,
    columns: Columns | None = None,
    **options: Any,
) -> Laws:
    """`fit_law` for each value of the column `by` (or of several columns): laws by the name of their group.

    The same law as `fit_law` of those rows alone; options are its options. Rows without a value in `by` and
    groups that cannot be fitted are left out and listed in `refused`. To compare families use `compare`,
    which resamples each on its own. UserError if no group can be fitted, or there is no such column.
    """
    method = method_called(method)
    check_options(method, options.keys() - {"family"})
    table = as_table(runs, columns, options.pop("family", None))
    names = [by] if isinstance(by, str) else list(by) if isinstance(by, Sequence) else []
    if not names:
        raise UserError(f"by = {by!r}: name a column whose values are the groups, e.g. by='family'")
    for name in names:
        if name not in table.columns:
            raise UserError(f"by = {name!r}: no such column; columns: {', '.join(map(str, table.columns))}")
    laws: dict[str, Law] = {}
    refused: dict[str, str] = {}
    unnamed = int(table[names].isna().any(axis=1).sum())
    for values, rows in table.groupby(names, sort=False):
        group = ", ".join(map(str, values))
        try:
            laws[group] = fit_law(rows, method, **options)
        except UserError as problem:
            refused[group] = str(problem)
    if not laws:
        same = set(refused.values())
        each = same if len(same) == 1 else [f"{name}: {why}" for name, why in refused.items()]
        raise UserError("; ".join(each) or "runs: no rows to fit")
    if unnamed:
        refused["rows without a group"] = f"{unnamed} rows have no value in {', '.join(names)}"
    first = next(iter(laws.values()))
    return Laws(method=first.method, by=", ".join(names), laws=laws, refused=refused)
