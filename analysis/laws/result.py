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
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, overload

import numpy as np
import pandas as pd

from analysis.errors import UserError
from analysis.estimate import Estimate, Rule, estimate_of, interval
from analysis.files import write_whole
from analysis.frontier import (
    Cost,
    Curve,
    Optimum,
    as_flops,
    complete_run,
    number_column,
    positive_numbers,
    same_shape,
)
from analysis.laws.solver.logsum import LogSum
from analysis.laws.solver.noise import Scatter, check_kind, scatter
from analysis.laws.solver.objective import GRADIENT_TOLERANCE, Derivatives
from analysis.plotted import Plotted
from analysis.printed import Printed, TextTable, estimates, notes_html
from analysis.table.fit_table import Excluded, RunTable
from analysis.text import flops_text, number_text

if TYPE_CHECKING:
    from analysis.published.beside import Beside


MOST_BUDGETS = 20
FEW_BUDGETS = 5
FEW_STARTS = 0.2
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
        for name, values in self._optima(budgets).items():
            columns |= interval_columns(name, values, self.rule)
        return pd.DataFrame(columns)

    @overload
    def optimal(self, flops: float) -> Optimum: ...
    @overload
    def optimal(self, flops: Sequence[float] | np.ndarray | pd.Series) -> pd.DataFrame: ...
    @overload
    def optimal(self, *, loss: float) -> Optimum: ...
    def optimal(self, flops: Any = None, *, loss: float | None = None) -> Optimum | pd.DataFrame:
        """The compute-optimal run at one budget (training FLOPs, in the convention of the fitted table); for
        several budgets the table of `frontier`. With a loss (nats per token) in place of the budget: the
        cheapest run that reaches it, its FLOPs with an interval too. UserError unless one of the two is
        given, and for a loss that no budget reaches."""
        if loss is not None:
            if flops is not None:
                raise UserError("optimal: give flops or loss, not both")
            return self._reaching(loss)
        budgets = as_flops(flops)
        if np.ndim(flops):
            return self.frontier(budgets)
        numbers = {name: estimate_of(v[:, 0], self.rule) for name, v in self._optima(budgets).items()}
        return Optimum(flops=float(budgets[0]), **numbers)

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
                f"E = {number_text(float(curve.E[0]), 4)} of this law: no budget reaches it"
            )
        # the best size is a power of the budget, in every resample: two budgets give that power
        ends = np.array(self.flops_range)
        along = self._along(ends)
        at = {"flops": flops}
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            share = np.log(flops / ends[0]) / np.log(ends[1] / ends[0])
            for name in ("params", "tokens"):
                first, last = along[name][: len(flops)].T
                at[name] = np.exp(first + (last - first) * share)
            at["tokens_per_param"] = at["tokens"] / at["params"]
        # a resample that never reaches the loss has no run that does: its end is open
        reached = np.isfinite(flops)
        rule = Rule(level=self.level)
        numbers = {name: estimate_of(np.where(reached, v, np.inf), rule) for name, v in at.items()}
        return Optimum(loss=Estimate(float(array)), **numbers)

    def _optima(self, budgets: np.ndarray) -> dict[str, np.ndarray]:
        along = self._along(budgets)
        # an exponent near 0 may put the optimum beyond the largest float: infinity, an open end
        with np.errstate(over="ignore", under="ignore"):
            params, tokens = np.exp(along["params"]), np.exp(along["tokens"])
            ratio = np.exp(along["tokens"] - along["params"])
        return {"params": params, "tokens": tokens, "loss": along["loss"], "tokens_per_param": ratio}

    def summary(self) -> pd.DataFrame:
        """One row per number: quantity, value, low, high. Parameters, exponents, then the optimum at the
        smallest, the largest and ten times the largest budget."""
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


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PredictingLaw(Law):
    """A law with a formula for the loss (nats per token) of any run, fitted by a search from many starts.

    A subclass gives `symbols`, `num_free` and `_loss`; its parameters are then attributes: `law.alpha`.
    """

    inputs: ClassVar[tuple[str, ...]] = ("params", "tokens")
    """Columns that the formula depends on."""
    symbols: ClassVar[tuple[str, ...]] = ()
    """The parameters, in the order of the columns of `thetas`."""
    thetas: np.ndarray
    """(1 + R, p) parameters: the estimate first, then R resamples (then `leave_outs` refits). Read-only."""
    objective: float
    """Sum of Huber terms at the optimum."""
    gradient: float
    """Largest gradient component there, relative to the sum of the absolute terms it is made of."""
    share_of_starts: float
    """Share of the cold starts that end at the optimum (objective within 1e-6)."""

    @property
    @abstractmethod
    def num_free(self) -> int:
        """How many parameters were fitted."""

    @abstractmethod
    def _loss(self, thetas: np.ndarray, *columns: np.ndarray) -> np.ndarray:
        """Loss (m, k) for thetas (m, p) at the values (k,) of `inputs`."""

    def _held(self) -> np.ndarray:
        """Which parameters (p,) were given, not fitted: they have no interval."""
        return np.array([name == "E" and self.options.get("E") is not None for name in self.symbols])

    def _parameters(self) -> dict[str, Estimate]:
        return {
            name: estimate_of(values[:1] if held else values, self.rule)
            for name, values, held in zip(self.symbols, self.thetas.T, self._held(), strict=True)
        }

    def __getattr__(self, name: str) -> Estimate:
        if not name.startswith("_") and name in self.symbols:
            return self._parameters()[name]
        raise AttributeError(f"a law with method {self.method!r} has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.symbols]

    @property
    def scatter(self) -> Scatter:
        """How far single runs lie from the law, estimated robustly."""
        columns = [self.runs[name].to_numpy(dtype=np.float64) for name in self.inputs]
        predicted, loss = self._loss(self.thetas[:1], *columns)[0], self.runs["loss"].to_numpy()
        on_loss = self.options.get("residual") == "loss"
        residuals = loss - predicted if on_loss else np.log(loss / predicted)
        return scatter(residuals, self.num_free, on_loss=on_loss)

    def predict(
        self, params: Any = None, tokens: Any = None, flops: Any = None, *, kind: str = "mean"
    ) -> Estimate | pd.DataFrame:
        """Loss at params N and tokens D: an Estimate for numbers, for arrays a DataFrame with columns
        params, tokens, loss, loss_low, loss_high. With flops in place of either, along that budget: the other
        follows from the cost of a token (`law.cost`), and flops is a column too.

        kind "mean": the interval of the law itself (the mean of many runs there); "run": of one new run,
        which misses the law by its own noise too, see `scatter`. UserError unless two are given, above 0 and
        finite.
        """
        return self._predicted(kind, **complete_run(self.cost, params, tokens, flops))

    def _predicted(self, kind: str, **inputs: Any) -> Estimate | pd.DataFrame:
        check_kind(kind)
        arrays = same_shape("predict", **inputs)
        inside = [array.ravel() for name, array in arrays.items() if name in self.inputs]
        values = self._loss(self.thetas, *inside)
        rule = self.rule
        if kind == "run":
            # leave-outs say nothing about the noise of a new run: percentiles
            draws = values[1 : len(values) - self.leave_outs]
            values = self.scatter.with_run(values[:1], draws, int(self.options["seed"]))
            rule = Rule(level=self.level)
        if arrays["params"].ndim == 0:
            return estimate_of(values[:, 0], rule)
        columns = {name: array.ravel() for name, array in arrays.items()}
        return pd.DataFrame(columns | interval_columns("loss", values, rule))

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {
            "objective": self.objective,
            "gradient": self.gradient,
            "share_of_starts": self.share_of_starts,
            "scatter": {"sd": self.scatter.sd, "degrees_of_freedom": self.scatter.freedom},
        }


Searched = TypeVar("Searched", bound=PredictingLaw)


def build_law(
    law_type: type[Searched],
    table: RunTable,
    options: Mapping[str, Any],
    objective: Derivatives | LogSum,
    best: np.ndarray,
    share: float,
    thetas: np.ndarray,
    unfinished: int,
    *,
    delta: float,
    unit: float = 1.0,
    vanished: Sequence[str] = (),
    advice: str = "",
    **fields: Any,
) -> Searched:
    """The law that a search from many starts ended at, with the verdict on the search and its warnings.

    best (1, p): the optimum in the coordinates of `objective`, which `share` of the starts reach; thetas: the
    same, then resamples and leave-outs, in the user's units; unfinished: how many resamples did not converge.
    unit: of the residuals, in nats; vanished: terms with no share in any loss; advice: what to try if the
    search did not converge; fields: those of the law's own type.
    """
    ones, space = np.ones((1, len(table))), objective.space
    gradient = float(objective.relative_gradient(best, ones, delta)[0])
    thetas.flags.writeable = False
    law = law_type(
        **common_fields(table, options),
        status=FitStatus.CONVERGED,
        sentence=f"the gradient is {gradient:.0e} of its terms",
        warnings=(),
        thetas=thetas,
        objective=float(objective.at(best, ones, delta).f_R[0]) * unit**2,
        gradient=gradient,
        share_of_starts=share,
        **fields,
    )
    status, sentence = law.status, law.sentence
    edge = space.free & ((best[0] <= space.lower) | (best[0] >= space.upper))
    if gradient > GRADIENT_TOLERANCE:
        status = FitStatus.NOT_CONVERGED
        sentence = (
            f"the gradient at the best point is {gradient:.1e} of its terms, above {GRADIENT_TOLERANCE:.0e}"
            + (f"; {advice}" if advice else "")
        )
    elif vanished:
        status = FitStatus.BOUND_HIT
        sentence = (
            f"{' and '.join(vanished)} vanished: the runs are best described without that term, so its "
            "numbers mean nothing"
        )
    elif edge.any():
        status = FitStatus.BOUND_HIT
        names = [name for name, at_edge in zip(law.symbols, edge, strict=True) if at_edge]
        sentence = f"{' and '.join(names)} ended at the edge of the search: the runs do not determine it"
    sentence += f"; {share:.0%} of the starts end here"

    caveats = list(table.warnings)
    lowest = float(table.loss.min())
    if "E" in law.symbols and lowest <= law.E:
        caveats.append(
            f"E = {float(law.E):.4g} lies at or above the lowest loss ({lowest:.4g}): the law does not "
            "describe these runs; fit a narrower range of tokens per parameter"
        )
    if status is not FitStatus.CONVERGED:
        caveats.append(sentence)
    if share < FEW_STARTS:
        caveats.append(f"only {share:.0%} of the starts reach the optimum; others may lie close")
    num_draws = len(thetas) - 1 - law.leave_outs
    if unfinished > 0.01 * num_draws:
        caveats.append(f"{unfinished} of {num_draws} resamples did not converge; their last points are used")
    return replace(law, status=status, sentence=sentence, warnings=tuple(caveats))


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
