"""What every fitted law has in common: where it came from, how it ended, its frontier, its printed table."""

from __future__ import annotations

import enum
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from analysis.estimate import Estimate, Rule, estimate_of, interval, shortest
from analysis.frontier import Cost, Curve, Optimum, as_flops
from analysis.laws.solver.powerlaw import PowerLaw
from analysis.plotted import Plotted
from analysis.table.fit_table import Excluded, RunTable

if TYPE_CHECKING:
    from analysis.published.beside import Beside


MOST_BUDGETS = 20
FEW_BUDGETS = 5


class FitStatus(enum.StrEnum):
    """How a fit ended; the sentence beside it on the result says more."""

    CONVERGED = "converged"
    BOUND_HIT = "bound_hit"
    NOT_CONVERGED = "not_converged"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Law(Plotted, ABC):
    """A fitted relation between params, tokens, FLOPs and loss (nats per token). Frozen; arrays are read-
    only."""

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
    """The budgets of the runs, ascending; a few values over their range where there are too many to name."""

    @property
    def flops_range(self) -> tuple[float, float]:
        return self.budget_flops[0], self.budget_flops[-1]

    leave_outs: int = 0
    """How many rows of the law's arrays, the last ones, are refits without one run or group: BCa
    intervals."""

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
    @abstractmethod
    def curve(self) -> Curve:
        """Frontier loss against compute, with its resamples; what a comparison of families reads."""

    @abstractmethod
    def _parameters(self) -> dict[str, Estimate]:
        """The law's own parameters, by the symbol they have in the literature."""

    @abstractmethod
    def _along(self, flops: np.ndarray) -> dict[str, np.ndarray]:
        """Logs of optimal params and tokens, and the loss, at flops (m,): (1 + R, m), the estimate first."""

    def frontier(self, flops: object) -> pd.DataFrame:
        """Compute-optimal runs at each budget: flops, params, tokens, loss, tokens_per_param, each but the
        first with columns _low and _high (None without resamples). UserError for a budget that is not
        positive."""
        budgets = as_flops(flops)
        columns: dict[str, Any] = {"flops": budgets}
        for name, values in self._with_ratio(budgets).items():
            columns |= interval_columns(name, values, self.rule)
        return pd.DataFrame(columns)

    def optimal(self, flops: float) -> Optimum:
        """The compute-optimal run at one budget (training FLOPs, in the convention of the fitted table)."""
        along = self._with_ratio(as_flops(flops)[:1])
        numbers = {name: estimate_of(v[:, 0], self.rule) for name, v in along.items()}
        return Optimum(flops=float(as_flops(flops)[0]), **numbers)

    def _with_ratio(self, budgets: np.ndarray) -> dict[str, np.ndarray]:
        along = self._along(budgets)
        logs = {"params": along["params"], "tokens": along["tokens"]}
        # an exponent near 0 may put the optimum beyond the largest float: infinity, an open end
        with np.errstate(over="ignore", under="ignore"):
            sizes = {name: np.exp(values) for name, values in logs.items()}
            ratio = np.exp(along["tokens"] - along["params"])
        return {**sizes, "loss": along["loss"], "tokens_per_param": ratio}

    def summary(self) -> pd.DataFrame:
        """One row per number: quantity, value, low, high. Parameters, exponents, then the optimum at the
        smallest, the largest and ten times the largest budget."""
        rows: list[tuple[str, Estimate]] = list(self._parameters().items())
        rows += [(f"exponent of {name}", value) for name, value in self.exponents.items()]
        smallest, largest = self.flops_range
        for flops in (smallest, largest, 10 * largest):
            best = self.optimal(flops)
            for name in ("params", "tokens", "tokens_per_param", "loss"):
                rows.append((f"{name} at {flops:.3g} FLOPs", getattr(best, name)))
        return pd.DataFrame(
            {
                "quantity": [name for name, _ in rows],
                "value": [float(value) for _, value in rows],
                "low": [value.low for _, value in rows],
                "high": [value.high for _, value in rows],
            }
        )

    def against(self, name: str, *, flops: object = None, withdrawn: bool = False) -> Beside:
        """The law beside published ones, e.g. "hoffmann2022", see `analysis.published.beside.against`."""
        from analysis.published.beside import against

        return against(self, name, flops=flops, withdrawn=withdrawn)

    def __str__(self) -> str:
        name = f" of {self.family}" if self.family else ""
        lines = [
            f"{self.method} law{name}: {len(self.runs)} runs, {self.flops_range[0]:.3g} to "
            f"{self.flops_range[1]:.3g} FLOPs, cost {self.cost}",
            f"{self.status}: {self.sentence}",
            "",
        ]
        table = self.summary()
        width = max(map(len, table["quantity"]))
        for quantity, value, low, high in table.itertuples(index=False):
            ends = "" if low is None else f"  [{shortest(low, 5)}, {shortest(high, 5)}]"
            lines.append(f"  {quantity:<{width}}  {shortest(value, 5)}{ends}")
        lines += [f"warning: {warning}" for warning in self.warnings]
        lines += [f"left out: {run}" for run in self.excluded]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        notes = "".join(f"<li>{text}</li>" for text in (*self.warnings, *map(str, self.excluded)))
        head = "<br>".join(str(self).split("\n")[:2])
        return f"<p>{head}</p>{self.summary().to_html(index=False)}" + (f"<ul>{notes}</ul>" if notes else "")

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
                {"flops": best.flops}
                | {
                    name: getattr(best, name).to_dict()
                    for name in ("params", "tokens", "loss", "tokens_per_param")
                }
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

    def to_json(self) -> str:
        """`to_dict` as text; floats read back to the same bits."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PowerLawFrontier(Law):
    """A law whose frontier is three power laws of compute without offset."""

    power_laws: dict[str, PowerLaw]
    """Of params, tokens and loss."""

    def _parameters(self) -> dict[str, Estimate]:
        found = {}
        for name, law in self.power_laws.items():
            coefficient = np.exp(law.log_coefficient)
            found[f"coefficient of {name}"] = estimate_of(coefficient, self.rule)
        return found

    @property
    def exponents(self) -> dict[str, Estimate]:
        """Of N*, D*, D*/N* and L* as powers of compute (L* itself: there is no offset E)."""
        laws = {name: law.exponent for name, law in self.power_laws.items()}
        laws["tokens_per_param"] = laws["tokens"] - laws["params"]
        return {name: estimate_of(v, self.rule) for name, v in laws.items()}

    @property
    def curve(self) -> Curve:
        law = self.power_laws["loss"]
        drawn = slice(0, len(law.exponent) - self.leave_outs)
        return Curve(
            E=np.zeros_like(law.exponent[drawn]),
            log_K=law.log_coefficient[drawn],
            c=-law.exponent[drawn],
            flops_range=self.flops_range,
        )

    def _along(self, flops: np.ndarray) -> dict[str, np.ndarray]:
        logs = {name: law.log_at(flops) for name, law in self.power_laws.items()}
        return logs | {"loss": np.exp(logs["loss"])}


def interval_columns(name: str, values: np.ndarray, rule: Rule | float) -> dict[str, Any]:
    """Columns name, name_low, name_high from values (1 + R, m), the estimate first, see `interval`."""
    found = interval(values, rule if isinstance(rule, Rule) else Rule(level=rule))
    if found is None:
        none = pd.Series([None] * values.shape[1], dtype=object)
        return {name: values[0], f"{name}_low": none, f"{name}_high": none}
    return {name: values[0], f"{name}_low": found[0], f"{name}_high": found[1]}


def _named_budgets(table: RunTable) -> tuple[float, ...]:
    budgets = [flops for flops, _ in table.budgets()]
    if len(budgets) <= MOST_BUDGETS:
        return tuple(budgets)
    return tuple(np.geomspace(*table.flops_range, FEW_BUDGETS).tolist())


def common_fields(table: RunTable, options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Law` that do not depend on how the fit went."""
    return {
        "family": table.family,
        "runs": table.rows,
        "excluded": table.excluded,
        "cost": table.cost,
        "options": dict(options),
        "sha256": table.sha256,
        "budget_flops": _named_budgets(table),
    }
