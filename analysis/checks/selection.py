"""Which form of law do the runs speak for? AICc, and the error at a budget that was left out.

AICc (Hurvich & Tsai 1989, Biometrika 76, 297) needs a likelihood: a robust fit at threshold delta maximises
the density proportional to exp(-Huber_delta(r) / s^2) whatever s is, so s is profiled out, and densities of
the loss are turned into ones of its log; forms, deltas and residuals then compare on the same runs. Leaving
out one budget after the other asks for what a law is used for, and needs no likelihood.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.checks.heldout import folds, measured_minima, minimum_errors, run_errors
from analysis.checks.likelihood import huber_deviance
from analysis.errors import UserError
from analysis.laws import fit_law
from analysis.laws.interaction import InteractionLaw
from analysis.laws.result import Law
from analysis.laws.surface import SurfaceLaw
from analysis.table.fit_table import prepare

CANDIDATES: dict[str, dict[str, Any]] = {
    "surface": {},
    "surface, alpha = beta": {"tied": True},
    "surface, no E": {"E": "none"},
    "surface, interaction": {"form": "interaction"},
    "isoflop": {"method": "isoflop"},
    "isoflop, corrected": {"method": "isoflop", "correct_bias": True},
    "envelope": {"method": "envelope"},
}
COLUMNS = (
    "candidate",
    "num_parameters",
    "aicc",
    "aicc_above_best",
    "run_error",
    "loss_error",
    "size_error",
    "note",
)
NUMBERS = COLUMNS[1:-1]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Selection:
    """Candidates held against one table of runs."""

    table: pd.DataFrame
    """candidate, num_parameters, aicc, aicc_above_best, then root mean square errors in % over the left-out
    budgets: run_error (losses of runs), loss_error (lowest loss), size_error (best size); note. A number a
    candidate does not have is pandas.NA, and the note says why."""

    @property
    def best(self) -> dict[str, str]:
        """The candidate with the least of each criterion, by its column; ties go to the first."""
        found = {}
        for name in ("aicc", "run_error", "loss_error", "size_error"):
            known = self.table[self.table[name].notna()]
            if len(known):
                found[name] = str(known.loc[known[name].astype(float).idxmin(), "candidate"])
        return found

    def summary(self) -> pd.DataFrame:
        return self.table

    def __str__(self) -> str:
        lines = [
            self.table.drop(columns="note").to_string(index=False, float_format=lambda x: f"{x:.3f}"),
            "",
        ]
        lines += [f"least {name}: {candidate}" for name, candidate in self.best.items()]
        notes = self.table.loc[self.table["note"] != "", ["candidate", "note"]]
        lines += [f"{name}: {note}" for name, note in notes.itertuples(index=False)]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.table.to_html(index=False)


def select(runs: pd.DataFrame, candidates: Mapping[str, Mapping[str, Any]] | None = None) -> Selection:
    """Fit every candidate to all runs and to all but one budget at a time.

    candidates: name -> options of `fit_law` (method "surface" unless given); None: forms of the surface,
    IsoFLOP and the envelope. Intervals are not needed and not computed. A difference in AICc below about 2
    says nothing; envelope and IsoFLOP predict no single runs and so have neither AICc nor run_error.
    UserError where the table has fewer than 3 budgets or no candidate can be fitted.
    """
    asked = CANDIDATES if candidates is None else candidates
    if not asked:
        raise UserError("candidates is empty; give at least one, e.g. {'tied': {'tied': True}}")
    table = prepare(runs)
    groups = folds(table)
    if len(groups) < 3:
        raise UserError(f"select: {len(groups)} budgets; leaving one out needs at least 3")
    minima = measured_minima(table)
    windows = []
    for _, members in groups:
        rest = np.setdiff1d(np.arange(len(table)), members)
        ends = table.spent[members].min() / 1.01, table.spent[members].max() * 1.01
        inside = minima[(minima["flops"] >= ends[0]) & (minima["flops"] <= ends[1])]
        windows.append((table.rows.iloc[rest], table.rows.iloc[members], inside))
    rows = [_judge(name, dict(options), table.rows, windows) for name, options in asked.items()]
    if all(row["num_parameters"] is None for row in rows):
        raise UserError(f"select: no candidate can be fitted: {rows[0]['note']}")
    known = [row["aicc"] for row in rows if row["aicc"] is not None]
    for row in rows:
        row["aicc_above_best"] = None if row["aicc"] is None else row["aicc"] - min(known)
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return Selection(table=frame.assign(**{n: frame[n].astype("Float64") for n in NUMBERS}))


def _judge(
    name: str,
    options: dict[str, Any],
    runs: pd.DataFrame,
    windows: list[tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]],
) -> dict[str, Any]:
    method = str(options.pop("method", "surface"))
    options = {"bootstrap": 0} | options
    row: dict[str, Any] = dict.fromkeys(NUMBERS) | {"candidate": name, "note": ""}
    try:
        law = fit_law(runs, method, **options)
    except UserError as problem:
        return row | {"note": str(problem)}
    row["num_parameters"] = num_parameters(law)
    row["aicc"] = aicc(law)
    errors: list[dict[str, Any]] = []
    refused = []
    for rest, left_out, minima in windows:
        try:
            part = fit_law(rest, method, **options)
        except UserError as problem:
            refused.append(str(problem))
            continue
        errors += run_errors(part, left_out) + minimum_errors(part, minima)
    for column, quantity in (
        ("run_error", "loss of a run"),
        ("loss_error", "lowest loss"),
        ("size_error", "best size"),
    ):
        of = [error["error_percent"] for error in errors if error["quantity"] == quantity]
        row[column] = float(np.sqrt(np.mean(np.square(of)))) if of else None
    if refused:
        row["note"] = f"no fit without {len(refused)} of {len(windows)} budgets: {refused[0]}"
    return row


def num_parameters(law: Law) -> int:
    """Fitted numbers: of the surface, or of the three power laws."""
    if isinstance(law, SurfaceLaw | InteractionLaw):
        held = law.options["E"] is not None
        return law.thetas.shape[1] - held - bool(law.options["tied"])
    return 6


def aicc(law: Law) -> float | None:
    """AICc of the runs' log losses under a robust surface fit; None for other laws, and with too few runs."""
    if not isinstance(law, SurfaceLaw | InteractionLaw):
        return None
    told = law.predict(law.runs["params"].to_numpy(), law.runs["tokens"].to_numpy())
    loss = law.runs["loss"].to_numpy()
    on_loss = law.options["residual"] == "loss"
    predicted = told["loss"].to_numpy()  # type: ignore[index]
    residuals = loss - predicted if on_loss else np.log(loss / predicted)
    delta, count = float(law.options["delta"]), len(loss)
    size = np.abs(residuals)
    huber = float(np.where(size <= delta, size**2 / 2, delta * (size - delta / 2)).sum())
    fitted = num_parameters(law) + 1  # and the scale
    if count - fitted - 1 <= 0:
        return None
    deviance = huber_deviance(huber, count, delta) - (2 * float(np.log(loss).sum()) if on_loss else 0.0)
    return deviance + 2 * fitted + 2 * fitted * (fitted + 1) / (count - fitted - 1)
