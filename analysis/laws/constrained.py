"""Data-constrained laws: text that is read more than once, in the forms of `analysis.laws.solver.repeats`.

The surface underneath is fitted together with the repeats, by the same robust objective on log loss, or taken
from elsewhere (`base`), as Muennighoff et al. 2023 do, who fit it to runs that read their text once. Their
R_D and R_N are weakly identified: on their 182 runs R_D = 15.4, R_N = 5.3 is a local optimum, and 95, 1.7
fits a little better. Read the intervals, and `share_of_starts`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from analysis.errors import UserError
from analysis.estimate import Estimate, Rule, estimate_of
from analysis.frontier import Cost, Optimum, as_flops, complete_run, optimal_logs, positive_numbers
from analysis.laws.predicting import build_law
from analysis.laws.result import interval_columns
from analysis.laws.solver.bootstrap import check_options, resampling_units
from analysis.laws.solver.logsum import LogSum
from analysis.laws.solver.objective import Derivatives, Problem
from analysis.laws.solver.repeats import (
    FORMS,
    ONCE,
    STARTS,
    RepeatTerms,
    constrained_loss,
    effective_data,
    penalty,
    repeat_space,
)
from analysis.laws.solver.search import best_of, golden_section, grid_starts, refit_resamples
from analysis.laws.surface import SurfaceFrontier, SurfaceLaw, check_identified
from analysis.table.fit_table import column_numbers, prepare

FEWEST_REPEATED = 3
MOST_BASE_STARTS = 2
AROUND = np.log(1e4)
"""The best size is searched within this log factor of the best one with unlimited text."""
FARTHEST_LOG = 200.0
GRID_POINTS = 81
GOLDEN_STEPS = 40
BELOW, ABOVE = 1e-2, 1e4
"""Crossings are looked for from this factor below the smaller budgets to that above the larger ones."""
SCAN_POINTS = 49
BISECTIONS = 30
PAIRING = 23
"""Seed of the order in which resamples of one law meet those of another."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ConstrainedLaw(SurfaceFrontier):
    """Loss over params, tokens and unique tokens; counts, nats per token. Formulas: `laws.solver.repeats`.

    What every law has (exponents, curve, frontier, `optimal` without unique_tokens) is that of unlimited
    text, the surface underneath. thetas: (1 + R, p) parameters named as in `repeats.FORMS`.
    """

    method: ClassVar[str] = "constrained"
    inputs: ClassVar[tuple[str, ...]] = ("params", "tokens", "unique_tokens")
    form: str
    num_fitted: int

    @property
    def num_free(self) -> int:
        return self.num_fitted

    @property
    def symbols(self) -> tuple[str, ...]:  # type: ignore[override]
        return FORMS[self.form]

    def _held(self) -> np.ndarray:
        # a base without resamples is the same in all rows; one with resamples brings its own uncertainty
        return np.asarray(np.ptp(self.thetas, axis=0) == 0)

    def predict(  # type: ignore[override]
        self,
        params: Any = None,
        tokens: Any = None,
        unique_tokens: Any = None,
        flops: Any = None,
        *,
        kind: str = "mean",
    ) -> Estimate | pd.DataFrame:
        """Loss at params N, tokens read D (repeats counted) and unique tokens U: an Estimate for numbers, for
        arrays a DataFrame with columns params, tokens, unique_tokens, loss, loss_low, loss_high. With flops
        in place of params or tokens: along that budget.

        kind "mean": the interval of the law; "run": of one new run. UserError unless all are above 0.
        """
        if unique_tokens is None:
            raise UserError("predict: give unique_tokens too, how many different tokens the run reads")
        run = complete_run(self.cost, params, tokens, flops)
        return self._predicted(kind, **run, unique_tokens=unique_tokens)

    def _loss(self, thetas: np.ndarray, *columns: np.ndarray) -> np.ndarray:
        return constrained_loss(self.form, thetas, *columns)

    def repeat_value(
        self, epochs: Any, *, params: float | None = None, unique_tokens: float | None = None
    ) -> pd.DataFrame:
        """The worth of reading the text again, one row per number of epochs (1: read once).

        Fresh tokens D' would give the same loss at the same size (effective form: in its data term). Columns
        epochs; marginal, dD'/dD at fixed unique tokens (1: a token in that epoch is as good as a fresh one,
        below 0: it harms); average, D'/D; each with _low, _high. In the additive form they depend on params
        and unique_tokens, which must be given. UserError for fewer than one epoch.
        """
        rounds = np.atleast_1d(np.asarray(epochs, dtype=np.float64))
        if not np.all(np.isfinite(rounds) & (rounds >= 1)):
            raise UserError(f"epochs = {epochs}: text is read at least once; give numbers of 1 or more")
        thetas = self.thetas
        if self.form == "effective":
            scale = thetas[:, 5, None]
            marginal = np.exp(-(rounds - 1) / scale)
            average = effective_data(scale, rounds, np.ones_like(rounds)) / rounds
        else:
            if params is None or unique_tokens is None:
                raise UserError("repeat_value: in the additive form give params and unique_tokens")
            positive_numbers("repeat_value", params=params, unique_tokens=unique_tokens)
            B, beta, exponent = (thetas[:, i, None] for i in (2, 4, 6))
            # at one epoch to the limit from above
            repeats = np.maximum(rounds - 1, 2 * ONCE)
            tokens = unique_tokens * (1 + repeats)
            harm = penalty(thetas, np.full_like(tokens, params), tokens, np.full_like(tokens, unique_tokens))
            data_term = B * tokens**-beta + harm
            worth = (data_term / B) ** (-1 / beta)
            steepness = beta * B * tokens ** (-beta - 1) - harm * exponent / repeats / unique_tokens
            marginal, average = steepness * worth ** (beta + 1) / (beta * B), worth / tokens
        columns: dict[str, Any] = {"epochs": rounds}
        columns |= interval_columns("marginal", marginal, self.rule)
        return pd.DataFrame(columns | interval_columns("average", average, self.rule))

    def optimal(
        self, flops: Any = None, unique_tokens: float | None = None, *, loss: float | None = None
    ) -> Any:
        """The best run at one budget: tokens are those read, repeats counted; of several budgets a table like
        that of `frontier`. Without unique_tokens: as if text were unlimited."""
        if unique_tokens is None:
            return super().optimal(flops, loss=loss)  # type: ignore[call-overload]
        if loss is not None:
            raise UserError("optimal: with unique_tokens give flops, not loss")
        budgets = as_flops(flops)
        (array,) = positive_numbers("optimal", unique_tokens=unique_tokens)
        if array.ndim:
            raise UserError(f"optimal: unique_tokens = {unique_tokens!r}: give one number")
        log_params, losses = best_given_text(self.form, self.thetas, budgets, float(array), self.cost)
        params = np.exp(log_params)
        tokens = self.cost.tokens(params, budgets)
        numbers = {"params": params, "tokens": tokens, "loss": losses, "tokens_per_param": tokens / params}
        if np.ndim(flops):
            columns: dict[str, Any] = {"flops": budgets}
            for name, values in numbers.items():
                columns |= interval_columns(name, values, self.rule)
            return pd.DataFrame(columns)
        estimates = {name: estimate_of(values[:, 0], self.rule) for name, values in numbers.items()}
        return Optimum(flops=float(budgets[0]), note="", **estimates)

    def critical_flops(self, other: ConstrainedLaw, unique_tokens: float) -> Estimate:
        """Compute at which this law's best run gets below the best run of `other`, both with that much text.

        As in Prabhudesai et al. 2025 (arXiv 2507.15857): the budget at which the gap in loss closes, each law
        at its own best size. 0: it is below at every budget looked at (from a hundredth of the smaller
        budgets to 10,000 times the larger ones), infinite: it never gets there. Each resample of this law is
        compared with one of the other. UserError unless both are data-constrained laws with one cost of a
        token.
        """
        if not isinstance(other, ConstrainedLaw):
            raise UserError("critical_flops: give another law fitted with method='constrained'")
        (array,) = positive_numbers("critical_flops", unique_tokens=unique_tokens)
        U = float(array)
        if self.cost != other.cost and not np.isclose(self.cost.q, other.cost.q, atol=0.02):
            raise UserError(
                f"critical_flops: the tables count FLOPs differently ({self.cost} and {other.cost}); fit "
                "both with one convention"
            )
        count = min(len(self.thetas), len(other.thetas)) - 1
        order = 1 + np.random.default_rng(PAIRING).permutation(len(other.thetas) - 1)[:count]
        ours, theirs = self.thetas[: 1 + count], other.thetas[np.concatenate([[0], order])]

        def gap(flops: np.ndarray) -> np.ndarray:
            own = best_given_text(self.form, ours, flops, U, self.cost)[1]
            return own - best_given_text(other.form, theirs, flops, U, other.cost)[1]

        low = BELOW * min(self.flops_range[0], other.flops_range[0])
        high = ABOVE * max(self.flops_range[1], other.flops_range[1])
        scan = np.geomspace(low, high, SCAN_POINTS)
        gaps = gap(scan)
        falls = (gaps[:, :-1] >= 0) & (gaps[:, 1:] < 0)
        first = falls.argmax(axis=1)
        left, right = np.log(scan[first]), np.log(scan[first + 1])
        for _ in range(BISECTIONS):
            middle = (left + right) / 2
            below = gap(np.exp(middle)[:, None])[:, 0] < 0
            left, right = np.where(below, left, middle), np.where(below, middle, right)
        crossing = np.where(falls.any(axis=1), np.exp((left + right) / 2), np.inf)
        return estimate_of(np.where(gaps[:, 0] < 0, 0.0, crossing), Rule(level=self.level))

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"form": self.form}


def fit_constrained(
    runs: pd.DataFrame,
    *,
    form: str = "effective",
    base: SurfaceLaw | tuple[float, ...] | None = None,
    tied: bool = False,
    one_parameter: bool = False,
    delta: float = 1e-3,
    bootstrap: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    cluster: str | None = None,
) -> ConstrainedLaw:
    """Fit a law of repeated text to runs with columns params, tokens (all that were read), unique_tokens and
    loss.

    form: "effective" or "additive", see `laws.solver.repeats`. base: a surface to hold (a law fitted to
    runs that read their text once, whose resamples are used too, or five numbers E, A, B, alpha, beta); None:
    it is fitted together with the repeats. tied: alpha = beta. one_parameter: delta = kappa = 1 in the
    additive form. The other options are those of `fit_surface`. UserError for a table that cannot be fitted:
    no column unique_tokens, fewer than 3 runs that repeat, too few runs for the parameters.
    """
    check_options(bootstrap, seed, level)
    if form not in FORMS:
        raise UserError(f"form = {form!r}: choose one of {', '.join(FORMS)}")
    if not delta > 0:
        raise UserError(f"delta = {delta!r}: the Huber threshold on log loss is above 0, e.g. 0.001")
    if one_parameter and form != "additive":
        raise UserError("one_parameter = True: only the additive form has one; use form='additive'")
    if base is not None and tied:
        raise UserError("tied = True: the exponents of a base law are held as they are; give one of the two")
    if base is not None and not isinstance(base, SurfaceLaw):
        numbers = np.asarray(base, dtype=np.float64)
        if numbers.shape != (5,) or not np.all(np.isfinite(numbers) & (numbers > 0)):
            raise UserError(
                "base: give a surface law, or its five numbers E, A, B, alpha, beta, all finite and above 0"
            )
    table = prepare(runs)
    if "unique_tokens" not in table.rows.columns:
        raise UserError(
            "runs: column unique_tokens is missing; a data-constrained law needs how many unique tokens "
            "each run read"
        )
    unique_tokens = column_numbers(table.rows, "unique_tokens")
    repeated = int(np.sum(table.tokens / unique_tokens - 1 > ONCE))
    if repeated < FEWEST_REPEATED:
        raise UserError(
            f"runs: {repeated} runs read their text more than once; a data-constrained law needs at least "
            f"{FEWEST_REPEATED}, else fit method='surface'"
        )
    space = repeat_space(form, tied=tied, held_base=base is not None, one_parameter=one_parameter)
    if base is None:
        check_identified(table, space.num_free)
    problem = Problem.of(table.params, table.tokens, table.loss, tied=tied)

    # surfaces to start from, centred (m, 5): the given one with its resamples, else those of all runs, and
    # before them that of the runs which read their text once, if there are enough
    options_base = None
    if base is not None:
        natural = base.thetas if isinstance(base, SurfaceLaw) else np.asarray(base, dtype=np.float64)[None]
        bases = problem.centred(natural)
        options_base = dict(zip(FORMS["effective"], map(float, natural[0]), strict=False))
    else:
        bases = grid_starts(problem, Derivatives(problem))
        once = table.tokens / unique_tokens - 1 <= ONCE
        part = table.params[once], table.tokens[once], table.loss[once]
        if min(len(np.unique(part[0])), len(np.unique(part[1]))) >= 3 and once.sum() >= 6:
            fresh = Problem.of(*part, tied=tied)
            first = fresh.natural(grid_starts(fresh, Derivatives(fresh))[:1])
            bases = np.concatenate([problem.centred(first), bases])
    rest = np.array(STARTS[form])
    if one_parameter:
        rest[:, 1:] = 1.0
    starts = [np.column_stack([np.tile(row, (len(rest), 1)), rest]) for row in bases[:MOST_BASE_STARTS]]

    # the optimum, then the resamples: each from there, with a resample of the base if it has any
    terms = RepeatTerms.of(form, problem, table.tokens, unique_tokens)
    objective = LogSum(terms, problem.z, space)
    best, share = best_of(objective, np.concatenate(starts), len(table), delta)
    groups = resampling_units(table, cluster)
    start_Rp = np.repeat(best, bootstrap, axis=0)
    if base is not None and len(bases) > 1:
        start_Rp[:, :5] = bases[1 + np.arange(bootstrap) % (len(bases) - 1)]
    draws, unfinished = refit_resamples(
        objective, best, len(table), bootstrap, seed, groups, delta, start_Rp=start_Rp
    )
    thetas = terms.natural(problem, np.concatenate([best, draws]))
    options = {
        "form": form, "base": options_base, "tied": tied, "one_parameter": one_parameter, "delta": delta,
        "bootstrap": bootstrap, "seed": seed, "level": level, "cluster": cluster,
    }  # fmt: skip
    law = build_law(
        ConstrainedLaw, table, options, objective, best, share, thetas, unfinished,
        delta=delta, form=form, num_fitted=space.num_free,
    )  # fmt: skip
    caveats = [*law.warnings]
    for side, at_edge in (("lower", draws <= space.lower), ("upper", draws >= space.upper)):
        often = at_edge.sum(axis=0) > (1 - level) / 2 * len(draws)
        names = [name for name, open_end in zip(FORMS[form], often & space.free, strict=True) if open_end]
        caveats += [f"these runs put no {side} limit on {name}" for name in names]
    return replace(law, warnings=tuple(caveats))


def best_given_text(
    form: str, thetas: np.ndarray, flops: np.ndarray, unique_tokens: float, cost: Cost
) -> tuple[np.ndarray, np.ndarray]:
    """log of the best size and its loss, each (m, k), for thetas (m, p) at flops (k,) or (m, k)."""
    budgets = np.broadcast_to(flops, (len(thetas), np.shape(flops)[-1]))
    sizes, losses = np.empty(budgets.shape), np.empty(budgets.shape)
    at_one = optimal_logs(thetas[:, :5], np.ones(1), cost)[0][:, 0]
    slope = thetas[:, 4] / (thetas[:, 3] + cost.q * thetas[:, 4])
    rows = np.arange(len(thetas))
    for j, budget in enumerate(budgets.T):

        def loss(log_params: np.ndarray, budget: np.ndarray = budget) -> np.ndarray:
            params = np.exp(log_params)
            tokens = budget[:, None] / (cost.k * params**cost.q)
            # far from the optimum a term may overflow: an infinite loss is no optimum
            with np.errstate(over="ignore"):
                return constrained_loss(form, thetas, params, tokens, np.full_like(tokens, unique_tokens))

        # a grid about the best size with unlimited text, then golden section between the neighbours of its
        # lowest point; the optimum of a law that means nothing may lie beyond the largest float
        middle = np.clip(at_one + slope * np.log(budget), -FARTHEST_LOG, FARTHEST_LOG)
        grid = middle[:, None] + np.linspace(-AROUND, AROUND, GRID_POINTS)
        lowest = np.clip(loss(grid).argmin(axis=1), 1, GRID_POINTS - 2)
        ends = grid[rows, lowest - 1], grid[rows, lowest + 1]
        sizes[:, j] = golden_section(loss, *ends, GOLDEN_STEPS)
        losses[:, j] = loss(sizes[:, j : j + 1])[:, 0]
    return sizes, losses
