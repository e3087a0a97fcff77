"""What fitted laws have in common: their data and options, the frontier, the printed table, predictions."""

from __future__ import annotations

import enum
import html
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, overload

import numpy as np
import pandas as pd

from analysis.errors import UserError
from analysis.estimate import Estimate, Rule, estimate_of, interval
from analysis.files import write_whole
from analysis.frontier import Cost, Curve, GridCurve, Optimum, as_flops, number_column, positive_numbers
from analysis.plotted import Plotted
from analysis.printed import Printed, TextTable, estimates, notes_html
from analysis.table.fit_table import Excluded, RunTable
from analysis.text import flops_text, number_text

if TYPE_CHECKING:
    from analysis.published.beside import Beside


MOST_BUDGETS = 20
FEW_BUDGETS = 5
REACHING_POINTS = 65
NO_OFFSET = (
    "{} has no interval beyond the budgets, because this power law has no offset E and falls too "
    "steeply there; ask the surface"
)
OPTIMUM = ("params", "tokens", "loss", "tokens_per_param")


class FitStatus(enum.StrEnum):
    """How a fit ended; the sentence beside it on the result says more."""

    CONVERGED = "converged"
    BOUND_HIT = "bound_hit"
    NOT_CONVERGED = "not_converged"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Law(Plotted, Printed, ABC):
    """A fitted relation between params, tokens, FLOPs and loss (nats per token); frozen, arrays read-only."""

    method: ClassVar[str] = ""
    figure: ClassVar[str] = "frontier"
    family: str | None
    runs: pd.DataFrame
    """The runs used, with columns params, tokens, flops, loss and whatever else the table had."""
    excluded: tuple[Excluded, ...]
    cost: Cost
    options: Mapping[str, Any]
    status: FitStatus
    sentence: str
    warnings: tuple[str, ...]
    sha256: str
    budget_flops: tuple[float, ...]
    """The budgets of the runs, ascending; of more than 20, a few values over their range."""

    @property
    def flops_range(self) -> tuple[float, float]:
        return self.budget_flops[0], self.budget_flops[-1]

    MACHINERY: ClassVar[frozenset[str]] = frozenset(
        {
            *("leave_outs", "rule", "curve", "thetas", "objective", "gradient", "share_of_starts"),
            *("inputs", "num_free", "figure", "MACHINERY", "power_laws", "budget_leave_outs", "budget_rule"),
            *("plain", "num_fitted", "symbols", "text_table"),
        }
    )
    """Attributes for other code, which completion leaves out."""
    leave_outs: int = 0
    """How many rows at the end of the law's arrays are refits without one run or group, for BCa intervals."""

    @property
    def level(self) -> float:
        return float(self.options["level"])

    @property
    def rule(self) -> Rule:
        """How the law's intervals are read from its resamples."""
        return Rule(level=self.level, leave_outs=self.leave_outs)

    @property
    @abstractmethod
    def exponents(self) -> dict[str, Estimate]:
        """Exponents in compute of the frontier: params (a), tokens (b), tokens_per_param and a loss."""

    @property
    def allowance(self) -> Law | None:
        """The same law, allowing for a deviation from its form; None for a law without such a model."""
        return None

    @property
    @abstractmethod
    def curve(self) -> Curve | GridCurve:
        """Frontier loss against compute, with its resamples; what a comparison of families reads."""

    @abstractmethod
    def _parameters(self) -> dict[str, Estimate]:
        """The law's own parameters, by the symbol they have in the literature."""

    @abstractmethod
    def _along(self, flops: np.ndarray) -> dict[str, np.ndarray]:
        """Logs of optimal params and tokens, and the loss, at flops (m,): (1 + R, m), the estimate first."""

    def frontier(self, flops: object) -> pd.DataFrame:
        """Compute-optimal runs at each budget: flops, params, tokens, loss, tokens_per_param, each but the
        first with columns _low and _high (None without an interval). UserError for a budget that is not
        positive."""
        budgets = as_flops(flops)
        columns: dict[str, Any] = {"flops": budgets}
        for name, values in self._optima(budgets).items():
            columns |= interval_columns(name, values, self.rule)
        beyond = self._beyond(budgets)
        if beyond.any():
            for name in ("loss_low", "loss_high"):
                columns[name] = np.where(beyond, None, columns[name])
        return pd.DataFrame(columns)

    def _beyond(self, budgets: np.ndarray) -> np.ndarray:
        """Budgets (m,) at which the law's loss has no interval that can be trusted."""
        return np.zeros(len(budgets), dtype=bool)

    @overload
    def optimal(self, flops: float) -> Optimum: ...
    @overload
    def optimal(self, flops: Sequence[float] | np.ndarray | pd.Series) -> pd.DataFrame: ...
    @overload
    def optimal(self, *, loss: float) -> Optimum: ...
    def optimal(self, flops: Any = None, *, loss: float | None = None) -> Optimum | pd.DataFrame:
        """The compute-optimal run at one budget (training FLOPs, in the convention of the fitted table); for
        several budgets the table of `frontier`. With a loss (nats per token) in place of the budget: the
        cheapest run that reaches it, its FLOPs with an interval too, but for budgets at which the law's loss
        has none. UserError unless one of the two is given, and for a loss that no budget reaches."""
        if loss is not None:
            if flops is not None:
                raise UserError("optimal: give flops or loss, not both")
            return self._reaching(loss)
        budgets = as_flops(flops)
        if np.ndim(flops):
            return self.frontier(budgets)
        numbers = {name: estimate_of(v[:, 0], self.rule) for name, v in self._optima(budgets).items()}
        best = Optimum(flops=float(budgets[0]), note="", **numbers)
        if not self._beyond(budgets)[0]:
            return best
        return replace(
            best, loss=Estimate(float(best.loss), level=self.level), note=NO_OFFSET.format("the loss")
        )

    def _reaching(self, loss: float) -> Optimum:
        """The cheapest run with that loss."""
        (array,) = positive_numbers("optimal", loss=loss)
        if array.ndim:
            raise UserError(f"optimal: loss = {loss!r}: give one number of nats per token")
        curve = self.curve
        with np.errstate(over="ignore"):
            flops = curve.flops_at(array[None])[:, 0]
        if not np.isfinite(flops[0]):
            raise UserError(
                f"optimal: loss = {number_text(float(array), 4)} is not above "
                f"E = {number_text(curve.floor, 4)} of this law: no budget reaches it"
            )
        # the best size along the budgets that the resamples need, and of each at its own
        reached = np.isfinite(flops)
        budgets = np.geomspace(flops[reached].min(), flops[reached].max() * 1.001, REACHING_POINTS)
        along = self._along(budgets)
        own = np.log(np.where(reached, flops, budgets[0]))
        at = {"flops": flops}
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            for name in ("params", "tokens"):
                rows = zip(own, along[name][: len(flops)], strict=True)
                at[name] = np.exp([np.interp(place, np.log(budgets), row) for place, row in rows])
            at["tokens_per_param"] = at["tokens"] / at["params"]
        # a resample that never reaches the loss has no run that does: its end is open
        rule = Rule(level=self.level)
        numbers = {name: estimate_of(np.where(reached, v, np.inf), rule) for name, v in at.items()}
        best = Optimum(loss=Estimate(float(array)), note="", **numbers)
        if not self._beyond(flops[:1])[0]:
            return best
        plain = {name: Estimate(float(number), level=self.level) for name, number in numbers.items()}
        return replace(best, note=NO_OFFSET.format("the budget for a loss"), **plain)

    def _optima(self, budgets: np.ndarray) -> dict[str, np.ndarray]:
        along = self._along(budgets)
        # an exponent near 0 may put the optimum beyond the largest float: infinity, an open end
        with np.errstate(over="ignore", under="ignore"):
            params, tokens = np.exp(along["params"]), np.exp(along["tokens"])
            ratio = np.exp(along["tokens"] - along["params"])
        return {"params": params, "tokens": tokens, "loss": along["loss"], "tokens_per_param": ratio}

    def summary(self) -> pd.DataFrame:
        """One row per number: quantity, value, low, high. Parameters, exponents, then the optimum at the
        smallest, the largest and ten times the largest budget. A surface has its other interval beside that:
        columns allowance_low, allowance_high (form_low, form_high if its own interval is the allowance);
        pandas.NA for a number that only one of them has."""
        table, beside = self._numbers(), self._beside()
        if beside is None:
            return table
        name, other = beside
        ends = (
            other._numbers()
            .drop(columns="value", index=range(len(self._parameters())))
            .astype({"low": "Float64", "high": "Float64"})
        )
        ends = ends.rename(columns={"low": f"{name}_low", "high": f"{name}_high"})
        return table.merge(ends, on="quantity", how="left")

    def _beside(self) -> tuple[str, Law] | None:
        """The law with the other kind of interval, and the name of that kind; None if there is no other."""
        return None

    def _numbers(self) -> pd.DataFrame:
        rows: list[tuple[str, Estimate]] = list(self._parameters().items())
        rows += [(f"exponent of {name}", value) for name, value in self.exponents.items()]
        smallest, largest = self.flops_range
        for flops in (smallest, largest, 10 * largest):
            best = self.optimal(flops)
            for name in ("params", "tokens", "tokens_per_param", "loss"):
                rows.append((f"{name} at {flops_text(flops)} FLOPs", getattr(best, name)))
        return estimate_table(rows)

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if name not in self.MACHINERY]

    def against(self, name: str, *, flops: object = None, withdrawn: bool = False) -> Beside:
        """The law beside published ones, e.g. "hoffmann2022"; see `analysis.published.beside.against`."""
        from analysis.published.beside import against

        return against(self, name, flops=flops, withdrawn=withdrawn)

    def __str__(self) -> str:
        name = f" of {self.family}" if self.family else ""
        lines = [
            f"{self.method} law{name}: {len(self.runs)} runs, {flops_text(self.flops_range[0])} to "
            f"{flops_text(self.flops_range[1])} FLOPs, cost {self.cost}",
            f"{self.status}: {self.sentence}",
            "",
        ]
        lines.append(str(self.text_table()))
        lines += [f"warning: {warning}" for warning in self.warnings]
        lines += [f"left out: {run}" for run in self.excluded]
        return "\n".join(lines)

    def text_table(self) -> TextTable:
        """The numbers of `summary` as they are printed."""
        return estimates(self.summary(), self.level)

    def _repr_html_(self) -> str:
        head = "<br>".join(html.escape(line) for line in str(self).split("\n")[:2])
        return f"<p>{head}</p>{self.text_table().to_html()}{notes_html((*self.warnings, *self.excluded))}"

    def to_dict(self) -> dict[str, Any]:
        """Everything needed to use, check and redo the fit, in plain JSON types at full precision."""
        smallest, largest = self.flops_range
        optima = [self.optimal(flops) for flops in (smallest, largest, 10 * largest)]
        return {
            "method": self.method,
            "family": self.family,
            "status": str(self.status),
            "sentence": self.sentence,
            "parameters": {name: value.to_dict() for name, value in self._parameters().items()},
            "exponents": {name: value.to_dict() for name, value in self.exponents.items()},
            "optima": [
                {"flops": best.flops} | {name: getattr(best, name).to_dict() for name in OPTIMUM}
                for best in optima
            ],
            "cost": {"k": self.cost.k, "q": self.cost.q, "largest_error": self.cost.largest_error},
            "num_runs": len(self.runs),
            "flops_range": [smallest, largest],
            "excluded": [{"row": str(run.row), "reason": run.reason} for run in self.excluded],
            "warnings": list(self.warnings),
            "options": dict(self.options),
            "data_sha256": self.sha256,
            "code_version": metadata.version("scaling"),
        }

    def to_json(self, path: str | Path | None = None) -> str:
        """The numbers, `to_dict`, as text, also written to a file if `path` is given; floats read back to the
        same bits. `save` writes a file from which the law itself comes back."""
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False)
        if path is not None:
            write_whole(Path(path), (text + "\n").encode())
        return text

    def save(self, path: str | Path) -> Path:
        """Write the law to a file that `analysis.load_law` reads, with the same numbers and intervals to the
        last bit; complete or not there. Returns the path. UserError for what cannot be written."""
        from analysis.laws.saved import save_law

        return save_law(self, path)


def estimate_table(rows: Iterable[tuple[str, Estimate]]) -> pd.DataFrame:
    """quantity, value, low, high: one row per name and number; the ends are pandas.NA without an interval."""
    names, values = zip(*rows, strict=True)
    numbers: dict[str, list[float | None]] = {"value": [float(value) for value in values]}
    numbers |= {end: [getattr(value, end) for value in values] for end in ("low", "high")}
    return pd.DataFrame(
        {"quantity": list(names)} | {name: number_column(column) for name, column in numbers.items()}
    )


def interval_columns(name: str, values: np.ndarray, rule: Rule | float) -> dict[str, Any]:
    """Columns name, name_low, name_high from values (1 + R, m), the estimate first, see `interval`."""
    ends = interval(values, rule if isinstance(rule, Rule) else Rule(level=rule))
    if ends is None:
        ends = (pd.Series([None] * values.shape[1], dtype=object),) * 2
    low, high = ends
    return {name: values[0], f"{name}_low": low, f"{name}_high": high}


def common_fields(table: RunTable, options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Law` that do not depend on how the fit went."""
    budgets = [flops for flops, _ in table.budgets()]
    if len(budgets) > MOST_BUDGETS:
        budgets = np.geomspace(*table.flops_range, FEW_BUDGETS).tolist()
    return {
        "family": table.family,
        "runs": table.rows,
        "excluded": table.excluded,
        "cost": table.cost,
        "options": dict(options),
        "sha256": table.sha256,
        "budget_flops": tuple(budgets),
    }
