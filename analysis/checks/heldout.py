"""Would the law have predicted the larger budgets? Fit the smaller ones, predict the rest, widen, repeat.

The expanding window of OLMo-core's `ScalingLawRollout`, with coverage: a run's loss is compared with the
interval of one new run (the law's own interval is of the mean); the best size and loss of a later budget,
read from that budget's own runs, with the interval of the law's optimum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from analysis.errors import UserError
from analysis.laws import check_options, fit_law, method_called
from analysis.laws.isoflop import fit_isoflop
from analysis.laws.predicting import PredictingLaw
from analysis.laws.result import Law
from analysis.laws.solver.budget import BudgetStatus
from analysis.plotted import Plotted
from analysis.table.fit_table import RunTable, prepare
from analysis.table.inputs import Columns, as_table
from analysis.text import flops_text

MOST_FOLDS = 12
"""Tables with more budgets than this are cut into WIDE_FOLDS stretches of equal width in log FLOPs."""
WIDE_FOLDS = 8
COLUMNS = (
    *("trained_to", "trained_runs", "flops", "quantity", "measured"),
    *("predicted", "low", "high", "error_percent", "covered"),
)
QUANTITIES = ("loss of a run", "lowest loss", "best size")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Rollout(Plotted):
    """Predictions of larger budgets by laws fitted to smaller ones, and how far off they were."""

    figure: ClassVar[str] = "rollout"
    method: str
    level: float
    table: pd.DataFrame
    """trained_to (largest budget fitted, FLOPs), trained_runs, flops (of what is predicted), quantity ("loss
    of a run", "lowest loss" at a budget, nats per token; "best size", params), measured, predicted, low,
    high, error_percent (predicted over measured), covered (pandas.NA without an interval)."""
    skipped: tuple[str, ...]
    """Windows that gave no law, and why."""

    def summary(self) -> pd.DataFrame:
        """Per window and quantity: trained_to, trained_runs, quantity, predictions, mean_error (signed, %),
        mean_size (of the error, %), worst (%), covered (share; pandas.NA without intervals)."""
        rows = []
        for (trained_to, quantity), part in self.table.groupby(["trained_to", "quantity"], sort=False):
            error, covered = part["error_percent"], part["covered"]
            rows.append(
                {
                    "trained_to": trained_to,
                    "trained_runs": int(part["trained_runs"].iloc[0]),
                    "quantity": quantity,
                    "predictions": len(part),
                    "mean_error": float(error.mean()),
                    "mean_size": float(error.abs().mean()),
                    "worst": float(error.iloc[int(error.abs().argmax())]),
                    "covered": pd.NA if covered.isna().any() else float(covered.astype(float).mean()),
                }
            )
        return pd.DataFrame(rows).astype({"covered": "Float64"})

    def __str__(self) -> str:
        lines = [
            f"rollout of the {self.method} law: fitted up to a budget, compared with the larger ones",
            "",
        ]
        for row in self.summary().to_dict(orient="records"):
            covered = (
                "" if pd.isna(row["covered"]) else f", {self.level:.0%} intervals hold {row['covered']:.0%}"
            )
            lines.append(
                f"  to {flops_text(row['trained_to'])} FLOPs ({row['trained_runs']} runs): "
                f"{row['quantity']}, {row['predictions']} predicted, off by {row['mean_error']:+.2f}% (size "
                f"{row['mean_size']:.2f}%, worst {row['worst']:+.2f}%){covered}"
            )
        lines += [f"left out: {reason}" for reason in self.skipped]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        notes = "".join(f"<li>{reason}</li>" for reason in self.skipped)
        return self.summary().to_html(index=False) + (f"<ul>{notes}</ul>" if notes else "")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types at full precision; a missing number is None."""
        table = self.table.astype(object)
        table = table.where(table.notna() & ~table.isin([np.inf, -np.inf]), None)
        return {
            "method": self.method,
            "level": self.level,
            "rows": table.to_dict(orient="records"),
            "skipped": list(self.skipped),
        }


def rollout(
    runs: pd.DataFrame | Mapping[str, Any],
    method: str | int = "surface",
    *,
    family: str | None = None,
    columns: Columns | None = None,
    **options: Any,
) -> Rollout:
    """Fit `method` to the runs up to each budget but the last and predict the larger budgets.

    runs, family, columns and options are those of `fit_law`. Methods that predict single runs (surface) are
    compared with every later run, all methods with the minima of the later budgets that have one. More than
    12 budgets are grouped into 8 stretches of equal width in log FLOPs. UserError if no window gives a law or
    nothing is left to compare with it.
    """
    method = method_called(method)
    check_options(method, options)
    table = prepare(as_table(runs, columns, family))
    groups = folds(table)
    if len(groups) < 2:
        raise UserError("rollout: all runs spend one budget; give at least two, so that one can be held out")
    minima = measured_minima(table)
    rows: list[dict[str, Any]] = []
    skipped = []
    level = 0.95
    for last in range(len(groups) - 1):
        fitted = np.sort(np.concatenate([members for _, members in groups[: last + 1]]))
        trained_to = float(table.spent[fitted].max())
        try:
            law = fit_law(table.rows.iloc[fitted], method, **options)
        except UserError as problem:
            skipped.append(f"up to {flops_text(trained_to)} FLOPs: {problem}")
            continue
        level = law.level
        later = np.sort(np.concatenate([members for _, members in groups[last + 1 :]]))
        window = {"trained_to": trained_to, "trained_runs": len(fitted)}
        errors = errors_of(law, table.rows.iloc[later], minima[minima["flops"] > trained_to * 1.01])
        rows += [window | row for row in errors]
    if not rows:
        raise UserError(
            f"rollout: nothing could be predicted with method {method!r}: {'; '.join(skipped[:3])}"
        )
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"low": "Float64", "high": "Float64"})
    return Rollout(
        method=method, level=level, table=frame.astype({"covered": "boolean"}), skipped=tuple(skipped)
    )


def folds(table: RunTable) -> list[tuple[float, np.ndarray]]:
    """(FLOPs, indices of its runs) per budget, ascending; of many budgets, per stretch of budgets."""
    groups = table.budgets()
    if len(groups) <= MOST_FOLDS:
        return groups
    logs = np.log(table.spent)
    edges = np.linspace(logs.min(), logs.max(), WIDE_FOLDS + 1)
    stretch = np.clip(np.searchsorted(edges, logs, side="right") - 1, 0, WIDE_FOLDS - 1)
    members = [np.flatnonzero(stretch == i) for i in range(WIDE_FOLDS)]
    return [(float(table.spent[part].max()), part) for part in members if len(part)]


def measured_minima(table: RunTable) -> pd.DataFrame:
    """flops, params, loss of every budget's own minimum (a parabola's); no rows if there is none."""
    try:
        minima = fit_isoflop(table.rows, bootstrap=0).minima
    except UserError:
        return pd.DataFrame({"flops": [], "params": [], "loss": []}, dtype=float)
    usable = minima[minima["status"] == BudgetStatus.BRACKETED]
    return usable[["flops", "params", "loss"]].astype(float).reset_index(drop=True)


def errors_of(law: Law, runs: pd.DataFrame, minima: pd.DataFrame) -> list[dict[str, Any]]:
    """The law against measurements: one row per run, of laws that predict runs, with the interval of one new
    run; two rows per measured minimum, of its lowest loss and its best size."""
    compared: list[tuple[float, str, float, tuple[float, Any, Any]]] = []
    if isinstance(law, PredictingLaw):
        predictions = law.predict(*(runs[name].to_numpy() for name in law.inputs), kind="run")
        assert isinstance(predictions, pd.DataFrame), "arrays give a table"
        ends = predictions[["loss", "loss_low", "loss_high"]].itertuples(index=False, name=None)
        spent = runs["budget" if "budget" in runs and runs["budget"].notna().all() else "flops"]
        for flops, loss, prediction in zip(spent, runs["loss"], ends, strict=True):
            compared.append((float(flops), QUANTITIES[0], float(loss), prediction))
    for minimum in minima.to_dict(orient="records"):
        best = law.optimal(minimum["flops"])
        for quantity, value, name in (
            (QUANTITIES[1], best.loss, "loss"),
            (QUANTITIES[2], best.params, "params"),
        ):
            prediction = (float(value), value.low, value.high)
            compared.append((minimum["flops"], quantity, minimum[name], prediction))
    return [
        {
            "flops": flops,
            "quantity": quantity,
            "measured": measured,
            "predicted": float(predicted),
            "low": pd.NA if low is None else float(low),
            "high": pd.NA if high is None else float(high),
            "error_percent": 100 * (float(predicted) / measured - 1),
            "covered": pd.NA if low is None else bool(low <= measured <= high),
        }
        for flops, quantity, measured, (predicted, low, high) in compared
    ]
