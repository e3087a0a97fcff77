"""Power laws for any columns of any table: y = k x1^p1 x2^p2 ..., or y = E + k x^p with an offset.

For optima along budgets (L*, N*, D*, tokens per parameter), batch sizes, learning rates. Fitted by least
squares of log y, or robustly with a Huber threshold. Intervals come from simulated tables: noise of the
fitted size, itself uncertain, on the fitted law, each table refitted; without offset and threshold that is
Student's t interval. A handful of points is usual here, too few to draw rows again.
"""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
import pandas as pd

from analysis.errors import UserError
from analysis.estimate import Estimate, Rule, estimate_of
from analysis.frontier import positive_numbers
from analysis.laws.predicting import FEW_STARTS
from analysis.laws.result import estimate_table, interval_columns
from analysis.laws.solver.bootstrap import check_options
from analysis.laws.solver.logsum import LogSum
from analysis.laws.solver.noise import Scatter, check_kind, scatter
from analysis.laws.solver.objective import Space
from analysis.laws.solver.search import best_of, refit
from analysis.printed import Printed, TextTable, estimates, notes_html
from analysis.table.fit_table import column_numbers
from analysis.text import number_text

LEAST_SQUARES = 1e6
"""A Huber threshold on logs that nothing exceeds."""
START_EXPONENTS = (-2.0, -1.0, -0.5, -0.2, -0.05, 0.05, 0.2, 0.5, 1.0, 2.0)
START_OFFSETS = (-3.0, -1.0, -0.3, -0.05)
FLATTEST, STEEPEST = 1e-3, 20.0
LOWEST_OFFSET = -14.0
"""An offset below e^-14 of the mean of y changes no printed digit."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PowerFit(Printed):
    """y = E + k x1^p1 x2^p2 ... in the units of the table; E is 0 without offset."""

    y: str
    x: tuple[str, ...]
    thetas: np.ndarray
    """(1 + R, 2 + number of x): E, log k, exponents; the estimate first. Read-only."""
    data: pd.DataFrame
    scatter: Scatter
    """How far log y lies from the law."""
    objective: float
    """Sum of half squared residuals of log y, or of Huber terms."""
    warnings: tuple[str, ...]
    options: Mapping[str, Any]
    sha256: str

    @property
    def rule(self) -> Rule:
        return Rule(level=float(self.options["level"]))

    @property
    def E(self) -> Estimate:
        """The offset; 0 without one."""
        return estimate_of(self.thetas[:, 0] if self.options["offset"] else np.zeros(1), self.rule)

    @property
    def coefficient(self) -> Estimate:
        """k, in units of y and x."""
        with np.errstate(over="ignore"):
            return estimate_of(np.exp(self.thetas[:, 1]), self.rule)

    @property
    def exponents(self) -> dict[str, Estimate]:
        """By the name of the column."""
        return {name: estimate_of(self.thetas[:, 2 + i], self.rule) for i, name in enumerate(self.x)}

    @property
    def exponent(self) -> Estimate:
        """Of the only x; UserError if there are several."""
        if len(self.x) > 1:
            raise UserError(f"exponent: there are {len(self.x)} ({', '.join(self.x)}); see exponents")
        return self.exponents[self.x[0]]

    def predict(self, *x: Any, kind: str = "mean") -> Estimate | pd.DataFrame:
        """y at values of x, in the order of the law's x: an Estimate for numbers, for arrays a DataFrame with
        columns x, y, y_low, y_high. kind "mean": of the law; "run": of one new point, with its own noise."""
        check_kind(kind)
        if len(x) != len(self.x):
            raise UserError(f"predict: give {len(self.x)} values: {', '.join(self.x)}")
        arrays = np.broadcast_arrays(*positive_numbers("predict", **dict(zip(self.x, x, strict=True))))
        logs = np.log(np.stack([array.ravel() for array in arrays]))
        # a steep resample may end beyond the largest float: an open end
        with np.errstate(over="ignore"):
            values = self.thetas[:, :1] + np.exp(self.thetas[:, 1:2] + self.thetas[:, 2:] @ logs)
        if kind == "run":
            values = self.scatter.with_run(values[:1], values[1:], int(self.options["seed"]))
        if arrays[0].ndim == 0:
            return estimate_of(values[:, 0], self.rule)
        columns = {name: array.ravel() for name, array in zip(self.x, arrays, strict=True)}
        return pd.DataFrame(columns | interval_columns(self.y, values, self.rule))

    def _rows(self) -> dict[str, Estimate]:
        rows = {"E": self.E} if self.options["offset"] else {}
        rows |= {"coefficient": self.coefficient}
        return rows | {f"exponent of {name}": value for name, value in self.exponents.items()}

    def summary(self) -> pd.DataFrame:
        """One row per number: quantity, value, low, high."""
        return estimate_table(self._rows().items())

    def to_dict(self) -> dict[str, Any]:
        """Everything needed to use, check and redo the fit, in plain JSON types."""
        return {
            "y": self.y,
            "x": list(self.x),
            "parameters": {name: value.to_dict() for name, value in self._rows().items()},
            "scatter": {"sd": self.scatter.sd, "degrees_of_freedom": self.scatter.freedom},
            "objective": self.objective,
            "num_rows": len(self.data),
            "warnings": list(self.warnings),
            "options": dict(self.options),
            "data_sha256": self.sha256,
            "code_version": metadata.version("scaling"),
        }

    def to_json(self) -> str:
        """`to_dict` as text; floats read back to the same bits."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def __str__(self) -> str:
        powers = " ".join(f"{name}^{number_text(value, 4)}" for name, value in self.exponents.items())
        offset = f"{number_text(self.E, 4)} + " if self.options["offset"] else ""
        lines = [f"{self.y} = {offset}{number_text(self.coefficient, 4)} {powers}   ({len(self.data)} rows)"]
        lines += [f"  {name}  {value}" for name, value in self._rows().items()]
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = html.escape(str(self).split("\n")[0])
        return f"<p>{head}</p>{self.text_table().to_html()}{notes_html(self.warnings)}"

    def text_table(self) -> TextTable:
        """The numbers of `summary` as they are printed."""
        return estimates(self.summary(), self.rule.level, digits=4)


def fit_power_law(
    table: pd.DataFrame,
    *,
    y: str,
    x: str | Sequence[str],
    offset: bool = False,
    delta: float | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> PowerFit:
    """Fit y = k x^p (several columns x: a product of powers), or with offset y = E + k x^p, E at least 0.

    delta: Huber threshold on log y, None for least squares; bootstrap: simulated tables, 0 for no intervals.
    UserError for columns that are missing, not numbers or not above 0 (naming the rows), for too few rows,
    and for columns x that do not vary on their own.
    """
    check_options(bootstrap, seed, level)
    names = (x,) if isinstance(x, str) else tuple(x)
    if delta is not None and not delta > 0:
        raise UserError(f"delta = {delta!r}: the Huber threshold on log y is above 0; None for least squares")
    if offset and len(names) != 1:
        raise UserError(f"offset = True: a law with an offset has one x, not {len(names)}")
    columns = {name: positive_column(table, name) for name in (y, *names)}
    num_free = 1 + len(names) + offset
    logs = np.log(np.stack([columns[name] for name in names], axis=1))
    log_y = np.log(columns[y])
    points = len(np.unique(logs, axis=0))
    if points < num_free or len(logs) <= num_free:
        raise UserError(
            f"{', '.join(names)}: {len(logs)} rows at {points} different values for {num_free} parameters; "
            f"give at least {num_free + 1} rows and {num_free} values"
        )
    x_means, y_mean = logs.mean(axis=0), log_y.mean()
    spreads = logs.std(axis=0)
    singular = np.linalg.svd((logs - x_means) / np.maximum(spreads, 1e-300), compute_uv=False)
    if singular[-1] < 1e-6 * singular[0] or np.any(spreads < 1e-9):
        raise UserError(f"{', '.join(names)}: these columns do not vary on their own; drop one of them")

    fitter = _Fitter(logs - x_means, offset=offset, delta=delta)
    best, share = fitter.first(log_y - y_mean)
    fitted = fitter.fitted(best)
    residuals = log_y - y_mean - fitted
    if delta is None:
        spare = len(residuals) - num_free
        noise = Scatter(sd=float(np.sqrt(np.sum(residuals**2) / spare)), freedom=float(spare))
    else:
        noise = scatter(residuals, num_free)

    # other tables with noise of that size, itself uncertain, each refitted
    generator = np.random.default_rng(seed)
    scale = noise.sd * np.sqrt(noise.freedom / generator.chisquare(noise.freedom, size=(bootstrap, 1)))
    simulated = fitted + scale * generator.standard_normal((bootstrap, len(fitted)))
    centred = np.concatenate([best[None], fitter.again(best, simulated)])
    thetas = np.column_stack(
        [
            np.exp(centred[:, 0] + y_mean) if offset else np.zeros(len(centred)),
            centred[:, 1] + y_mean - centred[:, 2:] @ x_means,
            centred[:, 2:],
        ]
    )
    thetas.flags.writeable = False
    warnings = []
    slopes, tail = centred[1:, 2:], (1 - level) / 2
    if offset and centred[0, 0] <= LOWEST_OFFSET:
        warnings.append("the best offset is 0: a pure power law describes the rows as well")
    elif offset and len(slopes) and np.mean(centred[1:, 0] <= LOWEST_OFFSET) > tail:
        warnings.append("these runs put no lower limit on E")
    if offset and len(slopes) and np.mean(np.abs(slopes) < FLATTEST) > tail:
        warnings.append("the exponent is not identified: at 0, which it reaches, offset and power are one")
    if share < FEW_STARTS:
        warnings.append(f"only {share:.0%} of the starts reach the optimum; others may lie close")
    digest = hashlib.sha256()
    for name, values in columns.items():
        digest.update(name.encode() + b"\0" + values.astype("<f8").tobytes())
    size = np.abs(residuals)
    kept = np.minimum(size, np.inf if delta is None else delta)
    return PowerFit(
        y=y,
        x=names,
        thetas=thetas,
        data=pd.DataFrame(columns, index=table.index),
        scatter=noise,
        objective=float(np.sum(kept * (size - kept / 2))),
        warnings=tuple(warnings),
        options={"offset": offset, "delta": delta, "bootstrap": bootstrap, "seed": seed, "level": level},
        sha256=digest.hexdigest(),
    )


def positive_column(table: pd.DataFrame, name: str) -> np.ndarray:
    """A column as float64; UserError unless it is there and all its values are finite numbers above 0."""
    if not isinstance(table, pd.DataFrame):
        raise UserError(f"table is a {type(table).__name__}; give a pandas DataFrame")
    if name not in table.columns:
        raise UserError(f"{name}: no such column (columns: {', '.join(map(str, table.columns))})")
    return column_numbers(table, name)


class _Fitter:
    """Coordinates (log E, log k, exponents), logs of x and y centred; log E is held without an offset."""

    def __init__(self, logs: np.ndarray, *, offset: bool, delta: float | None) -> None:
        self.design = np.column_stack([np.ones(len(logs)), logs])
        self.offset, self.delta = offset, delta
        size = 1 + self.design.shape[1]
        lower, upper = np.full(size, -STEEPEST), np.full(size, STEEPEST)
        lower[0], upper[0] = LOWEST_OFFSET, 10.0
        lower[1], upper[1] = -40.0, 40.0
        self.space = Space(lower=lower, upper=upper, basis_pk=np.eye(size) if offset else np.eye(size)[:, 1:])
        if not offset:
            lower[0] = upper[0] = -800.0

    @property
    def exact(self) -> bool:
        """Least squares of a straight line."""
        return not self.offset and self.delta is None

    def objective(self, z: np.ndarray) -> LogSum:
        zero = np.zeros(len(self.design))
        E = np.column_stack([np.ones(len(zero)), np.zeros_like(self.design)])[None]
        power = np.column_stack([zero, self.design])[None]
        gradients = [E, power] if self.offset else [power]
        return LogSum(lambda t: [(t @ g[0].T, g) for g in gradients], z, self.space)

    def first(self, z: np.ndarray) -> tuple[np.ndarray, float]:
        """The optimum (p,) for log y z (n,), and the share of the starts that reach it."""
        if self.exact:
            return self._lines(z[None])[0], 1.0
        line = self._lines(z[None])
        starts = line
        if self.offset:
            grid = [(e, p) for e in START_OFFSETS for p in START_EXPONENTS]
            starts = np.array([[e, np.log(-np.expm1(e)), p] for e, p in grid])
        # from wide thresholds down to delta
        best, share = best_of(self.objective(z), starts, len(z), self.delta or LEAST_SQUARES)
        return best[0], share

    def fitted(self, theta: np.ndarray) -> np.ndarray:
        """Centred log y of the law at the rows."""
        line = self.design @ theta[1:]
        return np.asarray(np.logaddexp(theta[0], line) if self.offset else line)

    def again(self, best: np.ndarray, z_Rn: np.ndarray) -> np.ndarray:
        """Optima (R, p) for other log y (R, n)."""
        if self.exact:
            return self._lines(z_Rn)
        objective = self.objective(z_Rn[0] if len(z_Rn) else self.design[:, 0])
        return refit(objective, best[None], self.delta or LEAST_SQUARES, None, z_Rn)[0]

    def _lines(self, z_Rn: np.ndarray) -> np.ndarray:
        slopes = np.linalg.lstsq(self.design, z_Rn.T, rcond=None)[0].T
        return np.column_stack([np.full(len(slopes), self.space.lower[0]), slopes])
