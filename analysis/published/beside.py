"""A fitted law beside published ones: the frontiers of both as one table, and as a figure.

A published surface gives sizes, tokens and loss; published power laws give the quantities with a coefficient,
and C = 6 N D the tokens if only the size is given. Losses compare only on equal text and tokenizer; `notes`
lists the known differences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from analysis.errors import UserError
from analysis.frontier import as_flops, number_column
from analysis.plotted import Plotted
from analysis.published import laws_called
from analysis.published.fitted import NUMBERS, published_frontier

if TYPE_CHECKING:
    from analysis.laws.result import Law

OWN = "this law"
BEYOND = 10.0


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Beside(Plotted):
    """A law and published ones at the same budgets."""

    figure: ClassVar[str] = "against"
    law: Law
    published: pd.DataFrame
    """The published laws shown, rows of `analysis.published.laws`."""
    table: pd.DataFrame
    """One row per law and budget: law ("this law" or its published name), status, flops, then params, tokens,
    tokens_per_param and loss (nats per token), each with _low and _high (own law only); missing if the
    publication does not give it."""
    notes: tuple[str, ...]
    """Left-out laws, and conventions that differ."""

    def __str__(self) -> str:
        columns = ["law", "status", "flops", *NUMBERS]
        text = self.table[columns].to_string(
            index=False, float_format=lambda value: f"{value:.4g}", na_rep="-"
        )
        return "\n".join([text, *(f"note: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        notes = "".join(f"<li>{note}</li>" for note in self.notes)
        return self.table.to_html(index=False) + (f"<ul>{notes}</ul>" if notes else "")


def against(law: Law, name: str, *, flops: Any = None, withdrawn: bool = False) -> Beside:
    """The law beside a published one, by its name in `analysis.published.laws()`, or by that of a paper
    ("hoffmann2022": all of its laws; of several families the law's own).

    flops: budgets to compare at, by default those of the law and ten times the largest. A withdrawn law is
    refused unless withdrawn=True. UserError for an unknown name, listing the choices, and for a law that was
    published without coefficients.
    """
    rows, notes = _select(law, name, withdrawn)
    usual = [*law.budget_flops, BEYOND * law.flops_range[1]]
    budgets = np.unique(as_flops(usual if flops is None else flops))
    tables = [law.frontier(budgets).assign(law=OWN, status=str(law.status))]
    names = []
    for row in rows.to_dict(orient="records"):
        frontier = published_frontier(row, budgets)
        if frontier is None:
            notes.append(f"{row['name']} is left out: it was published without coefficients")
            continue
        names.append(row["name"])
        tables.append(frontier.assign(law=row["name"], status=row["status"]))
    if not names:
        raise UserError(f"{name}: " + "; ".join(notes))
    ends = [f"{number}{end}" for number in NUMBERS for end in ("", "_low", "_high")]
    columns = ["law", "status", "flops", *ends]
    table = pd.concat([part.reindex(columns=columns).astype(object) for part in tables], ignore_index=True)
    table["flops"] = table["flops"].astype("float64")
    for column in ends:
        table[column] = number_column([None if pd.isna(v) else float(v) for v in table[column]])
    used = rows[rows["name"].isin(names)]
    # its counts, its text if it is another one, its status
    own = law.runs["corpus"].iloc[0] if "corpus" in law.runs.columns and len(law.runs) else None
    for row in used.to_dict(orient="records"):
        parts = [f"{row['name']} counts params {row['params_counted']}, FLOPs {row['flops_counted']}"]
        if row["corpus"] != own:
            parts.append(f"its loss is {row['loss_fitted']} on {row['corpus']}, {row['tokenizer']}")
        parts += (
            [f"status {row['status']}: {row['note']}"] if row["status"] != "valid" and row["note"] else []
        )
        notes.append("; ".join(parts))
    return Beside(law=law, published=used, table=table, notes=tuple(dict.fromkeys(notes)))


def _select(law: Law, name: str, withdrawn: bool) -> tuple[pd.DataFrame, list[str]]:
    """The published laws with that name, and notes on those that are left out."""
    rows = laws_called(name)
    notes = []
    own = rows[rows["family"] == law.family]
    if len(own) and len(own) < len(rows):
        notes.append(f"of the laws of {name} those of the family {law.family} are shown")
        rows = own
    gone = rows["status"] == "withdrawn"
    for row in rows[gone & (not withdrawn)].to_dict(orient="records"):
        notes.append(
            f"{row['name']} was withdrawn ({row['note']}); give withdrawn=True to show it all the same"
        )
    rows = rows if withdrawn else rows[~gone]
    if rows.empty:
        raise UserError("; ".join(notes))
    return rows, notes
