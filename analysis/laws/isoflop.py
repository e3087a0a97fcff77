"""Approach 2: at each budget a curve of loss in log params, then power laws through the minima.

Hoffmann et al. 2022 (arXiv 2203.15556, section 3.2); the form used by Sahoo et al. 2026 (arXiv 2602.15014):
an unweighted parabola of the raw loss in log N, and N*, D*, L* as powers of compute without an offset. A
parabola is biased if the sizes are wide or off centre (arXiv 2603.22339): exponents survive that,
coefficients do not. correct_bias=True takes the bias out, shape="akima" (Porian et al. 2024, arXiv
2406.19146) does not have it. Where runs are repeated with other seeds, an F test says whether their means lie
on parabolas (`solver.lack_of_fit`); shape="cubic" is the curve for sizes over which they do not.

Repeats of a size are rows of their own, whether replicas of one run or runs apart. Parametric noise then has
two parts: that of the seeds, and what the curve misses, which all repeats of a size have in common; each cell
counts by the inverse variance of its mean. A size repeated often so promises no more than its misfit allows.

The law of the loss has no offset, so it must not be read far beyond the budgets: in simulated sweeps its 95%
interval at ten times the largest budget held the truth in 0 to 5% (docs/coverage.md). The surface has E.

A budget is refused, with the reason, if its minimum is not between its smallest and largest size, if the
curve does not bend upwards, or with fewer than 3 sizes. Resamples go through the same guard.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from analysis.errors import UserError
from analysis.estimate import Estimate, Rule
from analysis.frontier import number_column
from analysis.laws.powerlaws import PowerLawFrontier
from analysis.laws.result import FitStatus, common_fields, interval_columns
from analysis.laws.solver.akima import solve_splines
from analysis.laws.solver.bootstrap import check_options, draw_weights, leave_one_out, resampling_units
from analysis.laws.solver.budget import (
    FEWEST_SIZES,
    BudgetFit,
    BudgetStatus,
    Curves,
    read_budget,
    too_few_sizes,
)
from analysis.laws.solver.cubic import solve_cubics
from analysis.laws.solver.lack_of_fit import LackOfFit, budgets_lack_of_fit
from analysis.laws.solver.minima import power_law, widen
from analysis.laws.solver.noise import Spread, draw_losses, split_scatter, spread_about_budgets
from analysis.laws.solver.parabola import Parabolas, correct, solve_parabolas
from analysis.laws.surface import fit_surface, refit_surface
from analysis.table.fit_table import SAME_BUDGET, RunTable, prepare
from analysis.text import flops_text

RESAMPLINGS = ("parametric", "residuals", "rows")
SHAPES = ("parabola", "cubic", "akima")
FEWEST_BUDGETS = 2
BARELY_BRACKETED = 0.95
GRID_POINTS = 101
WIDE_RESIDUALS = 0.02


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class IsoflopLaw(PowerLawFrontier):
    """N*, D* and L* as powers of compute, through the minima of one curve per budget."""

    method: ClassVar[str] = "isoflop"
    figure: ClassVar[str] = "isoflop"
    budgets: tuple[BudgetFit, ...]
    residual_sd: float | None
    """Pooled standard deviation of losses about their curves, relative to the loss; None if no budget has a
    fourth run (or a sixth, for shape="akima")."""
    budget_leave_outs: int = 0
    """How many rows of the budgets' arrays, the last ones, are refits without one run or group."""
    bent: tuple[str, ...] = ()
    """Which of params, tokens, loss have minima farther from their power law than noise explains."""
    plain: tuple[BudgetFit, ...] = ()
    """The uncorrected parabolas of correct_bias=True, budget by budget."""
    lack_of_fit: LackOfFit | None = None
    """Whether the curves describe the means of repeated runs; None if that cannot be tested."""

    @property
    def budget_rule(self) -> Rule:
        """How intervals are read from the budgets' arrays."""
        return Rule(level=self.level, leave_outs=self.budget_leave_outs)

    @property
    def minima(self) -> pd.DataFrame:
        """One row per budget: flops, status, reason, params, tokens, tokens_per_param, loss (each with _low,
        _high), curvature (nats per (log params)^2), share_bracketed (of the resamples), num_runs. A refused
        budget has missing values (pandas.NA) in place of a minimum."""
        rows = []
        for fit in self.budgets:
            row: dict[str, Any] = {"flops": fit.flops, "status": str(fit.status), "reason": fit.reason}
            bracketed = fit.status is BudgetStatus.BRACKETED
            for name, values in (
                ("params", fit.log_params),
                ("tokens", fit.log_tokens),
                ("tokens_per_param", fit.log_tokens - fit.log_params),
                ("loss", fit.loss),
            ):
                ends = fit.ends(values, self.budget_rule) if bracketed else None
                triple = [values[0] if bracketed else None, *(ends or (None, None))]
                if name != "loss":
                    # a nearly flat resample has its minimum beyond the largest float: infinity, an open end
                    with np.errstate(over="ignore", under="ignore"):
                        triple = [None if value is None else float(np.exp(value)) for value in triple]
                row[name], row[f"{name}_low"], row[f"{name}_high"] = triple
            row["curvature"] = None if fit.curves is None else fit.curves.curvature()
            draws = fit.inside[1 : len(fit.inside) - self.budget_leave_outs]
            row["share_bracketed"] = float(draws.mean()) if len(draws) else None
            rows.append(row)
        text = ("flops", "status", "reason")
        columns = {
            name: [row[name] for row in rows] if name in text else number_column([row[name] for row in rows])
            for name in rows[0]
        }
        return pd.DataFrame(columns | {"num_runs": [fit.num_runs for fit in self.budgets]})

    def curves(self, flops: float) -> pd.DataFrame:
        """The fitted curve of one budget over its sizes: params, loss, loss_low, loss_high (no rows if
        there are too few sizes for one). UserError names the budgets there are."""
        fit = next((b for b in self.budgets if abs(np.log(flops / b.flops)) <= np.log1p(SAME_BUDGET)), None)
        if fit is None:
            budgets = ", ".join(flops_text(b.flops) for b in self.budgets)
            raise UserError(
                f"flops = {flops_text(flops)} is no budget of this law; its budgets are {budgets}"
            )
        grid = np.linspace(fit.sizes[0], fit.sizes[-1], GRID_POINTS)
        if fit.curves is None:
            return pd.DataFrame(columns=["params", "loss", "loss_low", "loss_high"], dtype=float)
        columns = interval_columns("loss", fit.curves.at(grid), self.budget_rule)
        return pd.DataFrame({"params": np.exp(grid)} | columns)

    def range_within(self, percent: float) -> pd.DataFrame:
        """Sizes whose fitted loss is within `percent` of the minimum's, per bracketed budget.

        Columns flops, params (N*), low, high; a side is pandas.NA if the loss is still within at the smallest
        (largest) size. A flat curve leaves N* open although the loss is certain; this says how open.
        UserError unless percent is above 0.
        """
        if not percent > 0:
            raise UserError(f"range_within: percent = {percent!r} must be above 0, e.g. 1")
        usable = [fit for fit in self.budgets if fit.status is BudgetStatus.BRACKETED]
        ends = [fit.within(percent / 100) for fit in usable]
        sides = {
            name: number_column([None if end is None else float(np.exp(end)) for end in side])
            for name, side in zip(("low", "high"), zip(*ends, strict=True), strict=True)
        }
        params = [float(np.exp(fit.log_params[0])) for fit in usable]
        return pd.DataFrame({"flops": [fit.flops for fit in usable], "params": params} | sides)

    @property
    def bias(self) -> pd.DataFrame:
        """What correct_bias=True took out, per budget: flops, params_percent and tokens_percent (how far the
        plain parabola's minimum lies off the corrected one, in %), loss_nats. No rows without correction."""
        names = ("params_percent", "tokens_percent", "loss_nats")
        rows = [(fit.flops, *(float(v[0]) for v in _biases(fit, was))) for fit, was in self._corrections()]
        return pd.DataFrame(rows, columns=["flops", *names], dtype=float)

    def _corrections(self) -> list[tuple[BudgetFit, BudgetFit]]:
        if not self.plain:
            return []
        pairs = zip(self.budgets, self.plain, strict=True)
        return [(fit, was) for fit, was in pairs if fit.status is BudgetStatus.BRACKETED and was.convex[0]]

    def _parameters(self) -> dict[str, Estimate]:
        parameters = super()._parameters()
        for fit, was in self._corrections():
            percent = _biases(fit, was)[0]
            low, high = fit.ends(percent, self.budget_rule) or (None, None)
            text = f"parabola's bias in params at {flops_text(fit.flops)} FLOPs, taken out (%)"
            parameters[text] = Estimate(float(percent[0]), low, high, self.level)
        return parameters

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
    interval: str = "form",
    cluster: str | None = None,
    shape: str = "parabola",
    noise: float | None = None,
    correct_bias: bool = False,
) -> IsoflopLaw:
    """Fit one curve per budget, and power laws through the minima, to runs with columns params, tokens, loss
    (budget or flops group the runs).

    Runs of one typed `budget` belong together; without that column, runs whose FLOPs agree within 5%.
    resample: "parametric" adds noise of the spread of all runs about their curves, with the uncertainty of
    that spread itself, as in a t interval, and moves all losses together by their loss_se: the runs of a
    sweep are scored on the same held-out text, so its error shifts levels and cancels between runs and
    families. "residuals" draws from the observed deviations; "rows" draws runs within each budget.
    noise: standard deviation of the parametric noise in nats, instead of the estimated one.
    cluster: a column whose runs have correlated errors ("seed", "size"): with "rows" its values are drawn as
    wholes from the whole table, with "residuals" they change sign as wholes.
    interval: "form", percentiles of the resamples, or "bca", which refits once more without each run (or
    group).
    shape: "parabola" of the loss in log N, "cubic" (budgets of 4 sizes or more), or "akima", the interpolant
    of log loss in log N through all runs; its spread is that about a polynomial of degree 4 (6 sizes or
    more), 3 (5) or 2 (4).
    correct_bias: replace each parabola by the curve with the shape of a surface (its alpha and beta q,
    refitted for every resample to the same runs) of which that parabola is the least-squares image, and take
    its minimum, see `analysis.laws.solver.parabola.correct`; `law.bias` and the summary give the amount.
    UserError if fewer than 2 budgets have a usable minimum, or options do not go together.
    """
    interval = check_options(bootstrap, seed, level, interval)
    if resample not in RESAMPLINGS:
        raise UserError(f"resample = {resample!r}; choose one of {', '.join(RESAMPLINGS)}")
    if shape not in SHAPES:
        raise UserError(f"shape = {shape!r}; choose one of {', '.join(SHAPES)}")
    if shape == "akima" and resample == "rows":
        raise UserError(
            'shape = "akima" passes through every run, so runs cannot be redrawn; choose '
            'resample = "parametric" or "residuals"'
        )
    if shape != "parabola" and correct_bias:
        curve = "an Akima interpolant" if shape == "akima" else "a cubic"
        raise UserError(f'correct_bias is for shape = "parabola"; {curve} has no such bias')
    if noise is not None and not (noise > 0 and np.isfinite(noise)):
        raise UserError(
            f"noise = {noise!r}: the standard deviation of the losses is above 0, in nats, e.g. 0.002"
        )
    if noise is not None and resample != "parametric":
        raise UserError(f'noise is for resample = "parametric", not {resample!r}')
    if cluster is not None and resample == "parametric":
        raise UserError('cluster needs resample = "rows" or "residuals"; parametric noise has no groups')
    table = prepare(runs)
    check_budgets(table, shape)
    groups = resampling_units(table, cluster)

    # losses and weights (1 + R + J, n): the table, its resamples, then (bca) the table less one run or group
    noise_of_runs = spread_about_budgets(table, shape, noise)
    if correct_bias and noise is None:
        # a parabola's lack of fit is no noise of the runs, so it is measured about the corrected curves
        noise_of_runs = _spread_about_corrected(table)
    generator = np.random.default_rng(seed)
    if resample == "rows":
        weights = np.ones((1 + bootstrap, len(table)))
        if cluster is not None:
            weights[1:] = draw_weights(len(table), bootstrap, generator, groups)
        else:
            # within each budget: a budget that lost its runs would have no minimum
            for _, members in table.budgets():
                of_budget = None if groups is None else np.unique(groups[members], return_inverse=True)[1]
                weights[1:, members] = draw_weights(len(members), bootstrap, generator, of_budget)
        losses = np.broadcast_to(table.loss, weights.shape)
    else:
        draws = draw_losses(table, noise_of_runs, resample, bootstrap, generator, groups)
        losses = np.concatenate([table.loss[None], draws])
        weights = np.ones_like(losses)
    last = len(losses)
    if interval == "bca":
        without = leave_one_out(np.arange(len(table)) if groups is None else groups)
        losses = np.concatenate([losses, np.broadcast_to(table.loss, without.shape)])
        weights = np.concatenate([weights, without])
    if noise_of_runs.parts is not None:
        weights = weights * noise_of_runs.parts.weights()

    # one curve per budget and row of losses, and its minimum
    plain = [_fit_budget(table, *budget, losses, weights, shape) for budget in table.budgets()]
    budgets = _corrected(table, plain, losses, weights) if correct_bias else plain
    usable = [fit for fit in budgets if fit.status is BudgetStatus.BRACKETED]
    if len(usable) < FEWEST_BUDGETS:
        raise _too_few_minima(len(budgets), [fit.reason for fit in budgets if fit.reason])

    # power laws through the minima that lie inside their sizes, row by row; rows with fewer than two drop out
    log_flops = np.log([fit.flops for fit in usable])
    inside = np.stack([fit.inside for fit in usable], axis=1)
    columns = {
        "params": [np.where(fit.inside, fit.log_params, 0.0) for fit in usable],
        "tokens": [np.where(fit.inside, fit.log_tokens, 0.0) for fit in usable],
        "loss": [np.log(np.where(fit.inside & (fit.loss > 0), fit.loss, 1.0)) for fit in usable],
    }
    enough = inside.sum(axis=1) >= 2
    power_laws = {
        name: power_law(log_flops, np.stack(values, axis=1)[enough], inside[enough])
        for name, values in columns.items()
    }
    dropped, leave_outs = int(np.sum(~enough[:last])), int(np.sum(enough[last:]))
    power_laws, bent = widen(usable, power_laws, noise_of_runs.freedom, last, fixed_noise=noise is not None)

    # the verdict, and what a reader must know
    sd, parts = noise_of_runs.sd, noise_of_runs.parts
    sentence = f"{len(usable)} of {len(budgets)} budgets have their minimum inside their sizes"
    if sd is not None:
        curves = "parabolas" if shape == "parabola" and not correct_bias else "curves"
        sentence += f"; runs lie {sd:.2%} about the {curves}"
    if parts is not None:
        sentence += f", repeats {parts.within:.2%} about their means"
    if correct_bias:
        pairs = [(fit, was) for fit, was in zip(budgets, plain, strict=True) if fit in usable]
        off = [float(_biases(fit, was)[0][0]) for fit, was in pairs]
        sentence += f"; the parabolas' bias in params, {min(off):+.1f}% to {max(off):+.1f}%, is taken out"
    caveats = [*table.warnings, *(fit.reason for fit in budgets if fit.reason)]
    if sd is not None and sd > WIDE_RESIDUALS:
        caveats.append(
            f"runs lie {sd:.2%} about the parabolas: no parabola describes sizes this far apart; leave out "
            "the sizes far from the minima"
        )
    for fit in usable:
        bracketed = fit.inside[1:last]
        if len(bracketed) and bracketed.mean() < BARELY_BRACKETED:
            caveats.append(
                f"the minimum at {flops_text(fit.flops)} FLOPs is barely bracketed: "
                f"{1 - bracketed.mean():.0%} of the resamples put it outside the sizes"
            )
    lack = None if correct_bias else budgets_lack_of_fit(table, shape)
    if lack is not None and lack.fails:
        caveats.append(_not_described(runs, shape, lack, bootstrap, seed, level))
    if len(usable) == 2:
        caveats.append("only two usable budgets: the power laws pass through both minima, unchecked")
    if last == 1:
        caveats.append(
            "no intervals: no resamples, or no budget with a fourth run and no loss_se to estimate the noise"
        )
    if dropped > 0.01 * max(last - 1, 1):
        caveats.append(
            f"{dropped} of {last - 1} resamples have fewer than two usable minima and are not counted"
        )
    options = {
        "bootstrap": bootstrap, "seed": seed, "level": level, "resample": resample, "interval": interval,
        "cluster": cluster, "shape": shape, "noise": noise, "correct_bias": correct_bias,
    }  # fmt: skip
    return IsoflopLaw(
        **common_fields(table, options),
        status=FitStatus.CONVERGED,
        sentence=sentence,
        warnings=(*caveats, *bent.values()),
        bent=tuple(bent),
        budgets=tuple(budgets),
        power_laws=power_laws,
        residual_sd=sd,
        leave_outs=leave_outs,
        budget_leave_outs=len(losses) - last,
        plain=tuple(plain) if correct_bias else (),
        lack_of_fit=lack,
    )


def check_budgets(table: RunTable, shape: str = "parabola") -> None:
    """UserError unless enough budgets have the sizes of a curve; only losses say whether it has a minimum."""
    if table.one_budget:
        raise UserError(
            f"runs: all {len(table)} runs spend one budget ({flops_text(table.flops_range[0])} FLOPs); "
            f"power laws need at least {FEWEST_BUDGETS} budgets"
        )
    budgets = [(flops, len(np.unique(table.params[members]))) for flops, members in table.budgets()]
    fewest = _fewest_sizes(shape)
    thin = [too_few_sizes(count, flops, fewest) for flops, count in budgets if count < fewest]
    if len(budgets) - len(thin) < FEWEST_BUDGETS:
        raise _too_few_minima(len(budgets), thin)


def _fewest_sizes(shape: str) -> int:
    return FEWEST_SIZES + (shape == "cubic")


def _not_described(
    runs: pd.DataFrame, shape: str, lack: LackOfFit, bootstrap: int, seed: int, level: float
) -> str:
    """The warning that the curves do not describe the cell means, with what a cubic gives instead."""
    words = (
        f"no {shape} describes the means of repeated runs, which lie {lack.pooled.lack:.2%} off it "
        f"(repeats scatter by {lack.pooled.error:.2%}; {lack.sentence})"
    )
    if shape != "parabola":
        return f"{words}; leave out the sizes far from the minima"
    try:
        other = fit_isoflop(runs, shape="cubic", bootstrap=bootstrap, seed=seed, level=level)
    except UserError as problem:
        cannot = f'shape = "cubic" cannot be fitted: {problem}'
        return f"{words}; leave out the sizes far from the minima ({cannot})"
    misses = "misses them too and " if other.lack_of_fit is not None and other.lack_of_fit.fails else ""
    return f'{words}; shape = "cubic" {misses}gives an exponent of N* of {other.exponents["params"]}'


def _too_few_minima(num_budgets: int, reasons: list[str]) -> UserError:
    """reasons: of the budgets that have no minimum."""
    more = f"; and {len(reasons) - 5} budgets more" if len(reasons) > 5 else ""
    usable = num_budgets - len(reasons)
    return UserError(
        f"isoflop: {usable} of {num_budgets} budgets have a usable minimum and power laws need "
        f"{FEWEST_BUDGETS}: {'; '.join(reasons[:5])}{more}"
    )


def _fit_budget(
    table: RunTable, flops: float, members: np.ndarray, losses: np.ndarray, weights: np.ndarray, shape: str
) -> BudgetFit:
    """The curve of one budget for every row of losses and weights (1 + R, n)."""
    x = np.log(table.params[members])
    of_budget = losses[:, members], weights[:, members]
    curves: Curves | None = None
    if len(np.unique(x)) >= FEWEST_SIZES and shape == "akima":
        curves = solve_splines(x, *of_budget)
    elif shape == "cubic":
        enough = len(np.unique(x)) >= _fewest_sizes(shape)
        curves = solve_cubics(x, *of_budget) if enough else None
    elif len(np.unique(x)) >= FEWEST_SIZES:
        centre = float(x.mean())
        curves = Parabolas(centre, solve_parabolas(x, *of_budget, centre))
    log_cost = np.log(table.flops[members]) - np.log(table.tokens[members])
    return read_budget(flops, members, x, log_cost, curves, _fewest_sizes(shape))


def _corrected(
    table: RunTable, plain: list[BudgetFit], losses: np.ndarray, weights: np.ndarray
) -> list[BudgetFit]:
    """The parabolas replaced by curves of the shape that a surface through the same runs has."""
    surface = fit_surface(table.rows, bootstrap=0)
    shapes, _ = refit_surface(surface, weights=weights, losses=losses)
    alpha, beta = shapes[:, 3], table.cost.q * shapes[:, 4]
    budgets = []
    for fit in plain:
        if not isinstance(fit.curves, Parabolas):
            budgets.append(fit)
            continue
        x = np.log(table.params[fit.members])
        log_cost = np.log(table.flops[fit.members]) - np.log(table.tokens[fit.members])
        curves = correct(fit.curves, x, weights[:, fit.members], alpha, beta)
        budgets.append(read_budget(fit.flops, fit.members, x, log_cost, curves))
    return budgets


def _spread_about_corrected(table: RunTable) -> Spread:
    """How far runs lie about the corrected curves."""
    measured = table.loss[None], np.ones((1, len(table)))
    plain = [_fit_budget(table, *budget, *measured, "parabola") for budget in table.budgets()]
    fitted, freedom = table.loss.copy(), -2  # the two rates are shared
    for fit in _corrected(table, plain, *measured):
        if fit.curves is not None:
            fitted[fit.members] = fit.curves.at(np.log(table.params[fit.members]))[0]
            freedom += fit.num_runs - 3
    deviations = table.loss / fitted - 1
    parts = split_scatter(deviations, table.repeats, len(table) - freedom)
    if freedom < 1:
        return Spread(fitted=fitted, deviations=deviations, sd=None, freedom=0)
    sd = float(np.sqrt(np.sum(deviations**2) / freedom))
    enlarge = np.sqrt(len(table) / freedom)
    return Spread(fitted=fitted, deviations=deviations * enlarge, sd=sd, freedom=freedom, parts=parts)


def _biases(fit: BudgetFit, was: BudgetFit) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Percent of params and of tokens, and nats, by which a plain parabola is off the corrected, (1 + R,)."""
    both = fit.convex & was.convex
    logs = [
        np.where(both, after - before, 0.0)
        for before, after in ((fit.log_params, was.log_params), (fit.log_tokens, was.log_tokens))
    ]
    with np.errstate(over="ignore"):
        params, tokens = (100 * np.expm1(shift) for shift in logs)
    return params, tokens, np.where(both, was.loss - fit.loss, 0.0)
