"""Which law fits these runs best? AICc, and the error at a budget that was left out.

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

from analysis.checks.heldout import QUANTITIES, errors_of, folds, measured_minima
from analysis.errors import UserError
from analysis.laws import fit_law, variants_of
from analysis.laws.predicting import PredictingLaw
from analysis.laws.result import Law
from analysis.laws.solver.objective import huber_deviance
from analysis.table.fit_table import prepare
from analysis.table.inputs import Columns, as_table

COLUMNS = (
    *("candidate", "num_parameters", "aicc", "aicc_above_best"),
    *("run_error", "loss_error", "size_error", "note"),
)
NUMBERS = COLUMNS[1:-1]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Selection:
    """Candidate laws of one table of runs, compared."""

    table: pd.DataFrame
    """candidate, num_parameters, aicc, aicc_above_best, then root mean square errors in % over the left-out
    budgets: run_error (losses of runs), loss_error (lowest loss), size_error (best size); note. A number a
    candidate does not have is pandas.NA, and the note says why."""

    @property
    def best(self) -> dict[str, str]:
        """The candidate with the least of each criterion, by its column; ties go to the first."""
        least = {}
        for name in ("aicc", "run_error", "loss_error", "size_error"):
            rows = self.table[self.table[name].notna()]
            if len(rows):
                least[name] = str(rows.loc[rows[name].astype(float).idxmin(), "candidate"])
        return least

    def summary(self) -> pd.DataFrame:
        return self.table

    def __str__(self) -> str:
        table = self.table.drop(columns="note").astype({"num_parameters": "Int64"})
        lines = [table.to_string(index=False, float_format=lambda x: f"{x:.3f}"), ""]
        lines += [f"least {name}: {candidate}" for name, candidate in self.best.items()]
        notes = self.table.loc[self.table["note"] != "", ["candidate", "note"]]
        lines += [f"{name}: {note}" for name, note in notes.itertuples(index=False)]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.table.to_html(index=False)


def select(
    runs: pd.DataFrame | Mapping[str, Any],
    candidates: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    family: str | None = None,
    columns: Columns | None = None,
) -> Selection:
    """Fit every candidate to all runs and to all but one budget at a time.

    candidates: name -> options of `fit_law` (method "surface" unless given); None: the candidates of the
    registered laws (`analysis.laws.METHODS`). family and columns are those of `fit_law`. Intervals are not
    needed and not computed. A difference in AICc below about 2 says nothing; envelope and IsoFLOP predict no
    single runs and so have neither AICc nor run_error. UserError if the table has fewer than 3 budgets or no
    candidate can be fitted.
    """
    chosen = variants_of("candidates") if candidates is None else candidates
    if not chosen:
        raise UserError("candidates is empty; give at least one, e.g. {'tied': {'tied': True}}")
    table = prepare(as_table(runs, columns, family))
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
    rows = []
    for name, options in chosen.items():
        options = {"method": "surface", "bootstrap": 0, **options}
        row: dict[str, Any] = dict.fromkeys(NUMBERS) | {"candidate": name, "note": ""}
        rows.append(row)
        try:
            law = fit_law(table.rows, **options)
        except UserError as problem:
            row["note"] = str(problem)
            continue
        row["num_parameters"], row["aicc"] = num_parameters(law), aicc(law)
        errors: list[dict[str, Any]] = []
        refused = []
        for rest_of_runs, left_out, inside in windows:
            try:
                errors += errors_of(fit_law(rest_of_runs, **options), left_out, inside)
            except UserError as problem:
                refused.append(str(problem))
        for column, quantity in zip(("run_error", "loss_error", "size_error"), QUANTITIES, strict=True):
            percent = [error["error_percent"] for error in errors if error["quantity"] == quantity]
            row[column] = float(np.sqrt(np.mean(np.square(percent)))) if percent else None
        if refused:
            row["note"] = f"no fit without {len(refused)} of {len(windows)} budgets: {refused[0]}"
    if all(row["num_parameters"] is None for row in rows):
        raise UserError(f"select: no candidate can be fitted: {rows[0]['note']}")
    least = min((row["aicc"] for row in rows if row["aicc"] is not None), default=None)
    for row in rows:
        row["aicc_above_best"] = None if row["aicc"] is None else row["aicc"] - least
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return Selection(table=frame.assign(**{n: frame[n].astype("Float64") for n in NUMBERS}))


def num_parameters(law: Law) -> int:
    """Fitted numbers: of a formula for the loss, or of the three power laws."""
    return law.num_free if isinstance(law, PredictingLaw) else 6


def aicc(law: Law) -> float | None:
    """AICc of the runs' log losses under a robust fit; None for laws that predict no runs, without a
    threshold, and if there are too few runs."""
    if not isinstance(law, PredictingLaw) or "delta" not in law.options:
        return None
    predictions = law.predict(*(law.runs[name].to_numpy() for name in law.inputs))
    loss = law.runs["loss"].to_numpy()
    on_loss = law.options.get("residual") == "loss"
    predicted = predictions["loss"].to_numpy()  # type: ignore[index]
    residuals = loss - predicted if on_loss else np.log(loss / predicted)
    delta, count = float(law.options["delta"]), len(loss)
    size = np.abs(residuals)
    huber = float(np.where(size <= delta, size**2 / 2, delta * (size - delta / 2)).sum())
    fitted = num_parameters(law) + 1  # and the scale
    if count - fitted - 1 <= 0:
        return None
    deviance = huber_deviance(huber, count, delta) - (2 * float(np.log(loss).sum()) if on_loss else 0.0)
    return deviance + 2 * fitted + 2 * fitted * (fitted + 1) / (count - fitted - 1)
