"""Approach 2: at each budget a parabola of loss in log params, then power laws through the minima.

Hoffmann et al. 2022 (arXiv 2203.15556, section 3.2); the form used by Sahoo et al. 2026 (arXiv 2602.15014):
an unweighted parabola of the raw loss in log N, and N*, D*, L* as powers of compute without an offset. A
parabola is biased where the sizes are wide or off centre (arXiv 2603.22339): exponents survive that,
coefficients do not.

A budget is refused, and says why, when its minimum is not between its smallest and largest size, when the
parabola does not curve upwards, or with fewer than 3 sizes. Resamples go through the same guard.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from scipy.special import fdtrc

from analysis.errors import UserError
from analysis.estimate import spread
from analysis.frontier import number_column
from analysis.laws.bootstrap import check_options
from analysis.laws.parabola import (
    BudgetFit,
    BudgetStatus,
    design_matrix,
    read_budget,
    solve_parabolas,
    too_few,
)
from analysis.laws.powerlaw import PowerLaw, fit_power_laws
from analysis.laws.result import FitStatus, PowerLawFrontier, common_fields, interval_columns
from analysis.laws.table import SAME_BUDGET, RunTable, prepare

if TYPE_CHECKING:
    import plotly.graph_objects as go

RESAMPLINGS = ("parametric", "residuals", "rows")
BARELY_BRACKETED = 0.95
GRID_POINTS = 101
WIDE_RESIDUALS = 0.02
ONE_SIGMA = 0.682689
BENT = 0.01
SHARED_TEXT = 20260215
"""Seed of the draws that stand for another held-out text; equal in every fit, so that families share them."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class IsoflopLaw(PowerLawFrontier):
    """N*, D* and L* as powers of compute, through the minima of one parabola per budget."""

    method: ClassVar[str] = "isoflop"
    budgets: tuple[BudgetFit, ...]
    residual_sd: float | None
    """Pooled standard deviation of losses about the parabolas, relative to the loss; None if no budget has a
    fourth run."""

    @property
    def minima(self) -> pd.DataFrame:
        """One row per budget: flops, status, reason, params, tokens, loss (each with _low, _high), curvature
        (nats per (log params)^2), share_bracketed (of the resamples), num_runs. A refused budget has missing
        values (pandas.NA) in place of a minimum."""
        rows = [_minimum(fit, self.level) for fit in self.budgets]
        text = {name: [row[name] for row in rows] for name in ("flops", "status", "reason")}
        names = [name for name in rows[0] if name not in (*text, "num_runs")]
        columns = {name: number_column([row[name] for row in rows]) for name in names}
        return pd.DataFrame(text | columns | {"num_runs": [fit.num_runs for fit in self.budgets]})

    def curves(self, flops: float) -> pd.DataFrame:
        """The fitted parabola of one budget over its sizes: params, loss, loss_low, loss_high (no rows where
        there are too few sizes for one). UserError names the budgets there are."""
        fit = next((b for b in self.budgets if abs(np.log(flops / b.flops)) <= np.log1p(SAME_BUDGET)), None)
        if fit is None:
            known = ", ".join(f"{b.flops:.3g}" for b in self.budgets)
            raise UserError(f"flops = {flops:.3g} is no budget of this law; its budgets are {known}")
        grid = np.linspace(fit.sizes[0], fit.sizes[-1], GRID_POINTS)
        if not len(fit.coefficients):
            return pd.DataFrame(
                {name: [] for name in ("params", "loss", "loss_low", "loss_high")}, dtype=float
            )
        values = fit.coefficients @ design_matrix(grid, fit.centre).T
        return pd.DataFrame({"params": np.exp(grid)} | interval_columns("loss", values, self.level))

    def plot(self) -> go.Figure:
        """The parabolas with their runs and minima, as a Plotly figure."""
        from analysis import figures

        return figures.isoflop(self)

    def to_dict(self) -> dict[str, Any]:
        minima = self.minima.astype(object)
        return super().to_dict() | {
            "minima": minima.where(minima.notna() & (minima != np.inf), None).to_dict(orient="records"),
            "residual_sd": self.residual_sd,
        }


def fit_isoflop(
    runs: pd.DataFrame,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    resample: str = "parametric",
) -> IsoflopLaw:
    """Fit parabolas and power laws to runs with columns params, tokens, loss (budget or flops group the
    runs).

    Runs of one typed `budget` belong together; without that column, runs whose FLOPs agree within 5%.
    resample: "parametric" adds noise of the spread of all runs about their parabolas, with the uncertainty of
    that spread itself, as a t interval has it, and moves all losses together by their loss_se: the runs of a
    sweep are scored on the same held-out text, so its error shifts levels and cancels between runs and
    families. "residuals" draws from the observed deviations; "rows" draws runs within each budget. UserError
    where fewer than 2 budgets have a usable minimum.
    """
    check_options(bootstrap, seed, level)
    if resample not in RESAMPLINGS:
        raise UserError(f"resample = {resample!r}; choose one of {', '.join(RESAMPLINGS)}")
    table = prepare(runs)
    if table.one_budget:
        raise UserError(
            f"runs: all {len(table)} runs spend one budget ({table.flops_range[0]:.3g} FLOPs); "
            "power laws need at least 2 budgets"
        )
    budgets, residual_sd, freedom = _fit_budgets(table, bootstrap, np.random.default_rng(seed), resample)
    usable = [fit for fit in budgets if fit.status is BudgetStatus.BRACKETED]
    if len(usable) < 2:
        raise UserError(_refusal(budgets))
    power_laws, dropped = _power_laws(usable)
    power_laws, widened = _widen(usable, power_laws, freedom)
    options = {"bootstrap": bootstrap, "seed": seed, "level": level, "resample": resample}
    return IsoflopLaw(
        **common_fields(table, options),
        status=FitStatus.CONVERGED,
        sentence=f"{len(usable)} of {len(budgets)} budgets have their minimum inside their sizes"
        + (f"; runs lie {residual_sd:.2%} about the parabolas" if residual_sd is not None else ""),
        warnings=(*table.warnings, *_warnings(budgets, usable, residual_sd, dropped), *widened),
        budgets=tuple(budgets),
        power_laws=power_laws,
        residual_sd=residual_sd,
    )


def _fit_budgets(
    table: RunTable, bootstrap: int, generator: np.random.Generator, resample: str
) -> tuple[list[BudgetFit], float | None, int]:
    """The parabola of every budget with its resamples; the pooled spread and its degrees of freedom."""
    log_params = np.log(table.params)
    log_cost = np.log(table.flops) - np.log(table.tokens)
    groups = table.budgets()
    fitted = table.loss.copy()
    enlarge = np.ones(len(table))
    squares, freedom = 0.0, 0
    for _, members in groups:
        x = log_params[members]
        if len(np.unique(x)) >= 3:
            one = solve_parabolas(x, table.loss[None, members], np.ones((1, len(x))), float(x.mean()))
            fitted[members] = design_matrix(x, float(x.mean())) @ one[0]
            squares += float(np.sum((table.loss[members] / fitted[members] - 1) ** 2))
            freedom += len(x) - 3
            enlarge[members] = np.sqrt(len(x) / max(len(x) - 3, 1))
    residual_sd = float(np.sqrt(squares / freedom)) if freedom else None
    # relative, as in the surface's log loss: dear budgets have lower losses and lower noise
    deviations = (table.loss / fitted - 1) * enlarge
    draw = {"parametric": _parametric, "residuals": _residuals, "rows": _rows}[resample]
    losses, weights = draw(table, fitted, deviations, residual_sd, freedom, bootstrap, generator)
    fits = []
    for flops, members in groups:
        x = log_params[members]
        if len(np.unique(x)) < 3:
            fits.append(too_few(flops, members, x))
            continue
        centre = float(x.mean())
        coefficients = solve_parabolas(x, losses[:, members], weights[:, members], centre)
        fits.append(read_budget(flops, members, x, log_cost[members], coefficients, centre))
    return fits, residual_sd, freedom


def _parametric(
    table: RunTable,
    fitted: np.ndarray,
    deviations: np.ndarray,
    residual_sd: float | None,
    freedom: int,
    bootstrap: int,
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Losses and weights (1 + R, n): the table, then the table with normal noise added."""
    known = np.zeros(len(table)) if table.loss_se is None else table.loss_se
    if residual_sd is None:
        # no budget with a run to spare: the noise of the evaluation is the only one known
        bootstrap = bootstrap if known.any() else 0
        noise = generator.standard_normal((bootstrap, len(table))) * known
    else:
        # the spread is itself estimated from few runs: dividing by its chi makes percentiles t intervals
        sd = residual_sd * np.sqrt(freedom / generator.chisquare(freedom, size=(bootstrap, 1)))
        # one draw for all runs, and for all families: they are scored on the same text
        text = np.random.default_rng(SHARED_TEXT).standard_normal((bootstrap, 1))
        noise = sd * fitted * generator.standard_normal((bootstrap, len(table))) + known * text
    losses = np.concatenate([table.loss[None], table.loss + noise])
    return losses, np.ones_like(losses)


def _residuals(
    table: RunTable,
    fitted: np.ndarray,
    deviations: np.ndarray,
    residual_sd: float | None,
    freedom: int,
    bootstrap: int,
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """As `_parametric`, with noise drawn from the deviations of all runs, enlarged for the fitted terms."""
    if residual_sd is None:
        bootstrap = 0
    noise = fitted * deviations[generator.integers(0, len(table), size=(bootstrap, len(table)))]
    losses = np.concatenate([table.loss[None], table.loss + noise])
    return losses, np.ones_like(losses)


def _rows(
    table: RunTable,
    fitted: np.ndarray,
    deviations: np.ndarray,
    residual_sd: float | None,
    freedom: int,
    bootstrap: int,
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """The same losses with weights that say how often each run is drawn, budget by budget."""
    weights = np.ones((1 + bootstrap, len(table)))
    for _, members in table.budgets():
        size = len(members)
        drawn = generator.integers(0, size, size=(bootstrap, size)) + size * np.arange(bootstrap)[:, None]
        weights[1:, members] = np.bincount(drawn.ravel(), minlength=bootstrap * size).reshape(bootstrap, size)
    return np.broadcast_to(table.loss, weights.shape), weights


def _power_laws(usable: list[BudgetFit]) -> tuple[dict[str, PowerLaw], int]:
    """Power laws through the bracketed minima, and how many resamples have fewer than two of them."""
    log_flops = np.log([fit.flops for fit in usable])
    inside = np.stack([fit.inside for fit in usable], axis=1)
    columns = {
        "params": [fit.log_params for fit in usable],
        "tokens": [fit.log_tokens for fit in usable],
        "loss": [np.log(np.where(fit.inside & (fit.loss > 0), fit.loss, 1.0)) for fit in usable],
    }
    laws = {}
    for name, values in columns.items():
        laws[name], enough = fit_power_laws(log_flops, np.stack(values, axis=1), inside)
    return laws, int(np.sum(~enough))


def _minimum(fit: BudgetFit, level: float) -> dict[str, Any]:
    """One row of `IsoflopLaw.minima`."""
    row: dict[str, Any] = {"flops": fit.flops, "status": str(fit.status), "reason": fit.reason}
    found = fit.status is BudgetStatus.BRACKETED
    for name, values in (
        ("params", fit.log_params),
        ("tokens", fit.log_tokens),
        ("tokens_per_param", fit.log_tokens - fit.log_params),
        ("loss", fit.loss),
    ):
        ends = fit.ends(values, level) if found else None
        shown = [values[0] if found else None, *(ends or (None, None))]
        if name != "loss":
            # a nearly flat resample has its minimum beyond the largest float: infinity, an open end
            with np.errstate(over="ignore", under="ignore"):
                shown = [None if value is None else float(np.exp(value)) for value in shown]
        row[name], row[f"{name}_low"], row[f"{name}_high"] = shown
    row["curvature"] = fit.curvature if len(fit.coefficients) else None
    row["share_bracketed"] = float(fit.inside[1:].mean()) if len(fit.inside) > 1 else None
    row["num_runs"] = fit.num_runs
    return row


def _refusal(budgets: list[BudgetFit]) -> str:
    reasons = [fit.reason for fit in budgets if fit.reason]
    more = f"; and {len(reasons) - 5} budgets more" if len(reasons) > 5 else ""
    return (
        f"isoflop: {len(budgets) - len(reasons)} of {len(budgets)} budgets have a usable minimum and power "
        f"laws need 2: {'; '.join(reasons[:5])}{more}"
    )


def _warnings(
    budgets: list[BudgetFit], usable: list[BudgetFit], residual_sd: float | None, dropped: int
) -> list[str]:
    found = [fit.reason for fit in budgets if fit.reason]
    if residual_sd is not None and residual_sd > WIDE_RESIDUALS:
        found.append(
            f"runs lie {residual_sd:.2%} about the parabolas: no parabola describes sizes this far "
            "apart; leave out the sizes far from the minima"
        )
    for fit in usable:
        if len(fit.inside) > 1 and fit.inside[1:].mean() < BARELY_BRACKETED:
            found.append(
                f"the minimum at {fit.flops:.1e} FLOPs is barely bracketed: {1 - fit.inside[1:].mean():.0%} "
                "of the resamples put it outside the sizes"
            )
    if len(usable) == 2:
        found.append("two usable budgets: the power laws pass through both minima, nothing checks their form")
    num_resamples = len(usable[0].inside) - 1
    if not num_resamples:
        found.append(
            "no intervals: no resamples, or no budget with a fourth run and no loss_se to tell the noise"
        )
    if dropped > 0.01 * max(num_resamples, 1):
        found.append(
            f"{dropped} of {num_resamples} resamples have fewer than two usable minima and are not counted"
        )
    return found


def _widen(
    usable: list[BudgetFit], laws: dict[str, PowerLaw], freedom: int
) -> tuple[dict[str, PowerLaw], list[str]]:
    """Widen a power law whose minima lie farther from it than their noise explains.

    Noise within the budgets says nothing about a bent frontier. Where an F test at 1% finds the minima too
    far off, the resamples are stretched about the estimate by the ratio of what is seen to what noise
    explains.
    """
    widened = dict(laws)
    found: list[str] = []
    spare = len(usable) - 2
    if spare < 1 or not all(fit.convex[1:].any() for fit in usable):
        return widened, found
    flops = np.array([fit.flops for fit in usable])
    for name, law in laws.items():
        fitted = law.log_at(flops)[0]
        rows = [
            fit.loss / np.exp(at) if name == "loss" else getattr(fit, f"log_{name}") - at
            for fit, at in zip(usable, fitted.tolist(), strict=True)
        ]
        off = np.array([row[0] for row in rows]) - (name == "loss")
        ends = [spread(row[1:][fit.convex[1:]], ONE_SIGMA) for row, fit in zip(rows, usable, strict=True)]
        sd = np.array([(high - low) / 2 for low, high in ends])
        if not np.all(sd > 0):
            continue
        # about the line that fits these noises best: a noisy budget must not make its neighbours look far off
        x = np.log(flops / flops[0])
        off -= np.polyval(np.polyfit(x, off, 1, w=1 / sd), x)
        ratio = float(np.sum((off / sd) ** 2) / spare)
        if fdtrc(spare, freedom or 1e6, ratio) < BENT:
            stretch = float(np.sqrt(ratio))
            widened[name] = law.stretched(stretch)
            found.append(
                f"the minima lie farther from the power law of {name} than their noise explains (most at "
                f"{flops[np.argmax(np.abs(off / sd))]:.1e} FLOPs); its intervals are widened by {stretch:.1f}"
            )
    return widened, found
