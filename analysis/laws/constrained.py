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
from analysis.frontier import (
    Curve,
    Optimum,
    as_flops,
    frontier_exponents,
    optimal_logs,
    optimal_loss,
    surface_curve,
)
from analysis.laws.predicting import PredictingLaw, positive_pairs
from analysis.laws.result import FitStatus, common_fields, interval_columns
from analysis.laws.scarcity import best_given_text, critical_compute, worth_of_repeats
from analysis.laws.solver.bootstrap import check_options, group_numbers
from analysis.laws.solver.logsum import LogSum
from analysis.laws.solver.newrun import Scatter, scatter
from analysis.laws.solver.objective import GRADIENT_TOLERANCE, Derivatives, Problem, Space
from analysis.laws.solver.repeats import FORMS, ONCE, STARTS, RepeatTerms, constrained_loss, repeat_space
from analysis.laws.solver.search import best_of, resample
from analysis.laws.solver.starts import grid_starts
from analysis.laws.surface import FEW_STARTS, SurfaceLaw, check_identified
from analysis.table.fit_table import RunTable, prepare

FEWEST_REPEATED = 3
MOST_BASE_STARTS = 2


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ConstrainedLaw(PredictingLaw):
    """Loss over params, tokens and unique tokens; counts, nats per token. Formulas: `laws.solver.repeats`.

    What every law has (exponents, curve, the frontier without `unique_tokens`) is that of unlimited text, the
    surface underneath. thetas: (1 + R, p) parameters named as in `repeats.FORMS`.
    """

    method: ClassVar[str] = "constrained"
    form: str
    num_free: int

    def _parameters(self) -> dict[str, Estimate]:
        # a held number is the same in all resamples and has no interval
        held = np.ptp(self.thetas, axis=0) == 0
        return {
            name: estimate_of(values[:1] if still else values, self.rule)
            for name, values, still in zip(FORMS[self.form], self.thetas.T, held, strict=True)
        }

    def __getattr__(self, name: str) -> Estimate:
        if not name.startswith("_") and name in FORMS[self.form]:
            return self._parameters()[name]
        raise AttributeError(f"a constrained law of this form has no attribute {name!r}")

    @property
    def exponents(self) -> dict[str, Estimate]:
        """Of N*, D*, D*/N* and L* - E, as powers of compute, while there is fresh text."""
        values = frontier_exponents(self.thetas[:, :5], self.cost)
        return {name: estimate_of(v, self.rule) for name, v in values.items()}

    @property
    def curve(self) -> Curve:
        return surface_curve(self.thetas[:, :5], self.cost, self.flops_range)

    @property
    def scatter(self) -> Scatter:
        """How far single runs lie from the law, estimated robustly."""
        rows = [self.runs[n].to_numpy(dtype=np.float64) for n in ("params", "tokens", "unique_tokens")]
        predicted = constrained_loss(self.form, self.thetas[:1], *rows)[0]
        return scatter(np.log(self.runs["loss"].to_numpy() / predicted), self.num_free)

    def predict(
        self, params: Any, tokens: Any, unique_tokens: Any, *, kind: str = "mean"
    ) -> Estimate | pd.DataFrame:
        """Loss at params N, tokens read D (repeats counted) and unique tokens U: an Estimate for numbers, for
        arrays a DataFrame with columns params, tokens, unique_tokens, loss, loss_low, loss_high.

        kind "mean": the interval of the law; "run": of one new run. UserError unless all are above 0.
        """
        return self._predicted(kind, params=params, tokens=tokens, unique_tokens=unique_tokens)

    def _losses(self, *columns: np.ndarray) -> np.ndarray:
        return constrained_loss(self.form, self.thetas, *columns)

    def repeat_value(
        self, epochs: Any, *, params: float | None = None, unique_tokens: float | None = None
    ) -> Any:
        """What reading the text again is worth, one row per number of epochs (1: read once).

        Columns epochs; marginal, how many fresh tokens one more token in that epoch is worth (1: as good as
        fresh, below 0: it harms); average, the same over all tokens read, D'/D; each with _low, _high. In the
        additive form they depend on params and unique_tokens, which must be given. UserError for fewer than
        one epoch.
        """
        rounds = np.atleast_1d(np.asarray(epochs, dtype=np.float64))
        if not np.all(np.isfinite(rounds) & (rounds >= 1)):
            raise UserError(f"epochs = {epochs}: text is read at least once; give numbers of 1 or more")
        if self.form == "additive":
            if params is None or unique_tokens is None:
                raise UserError("repeat_value: in the additive form give params and unique_tokens")
            positive_pairs(params=params, unique_tokens=unique_tokens)
        marginal, average = worth_of_repeats(self.form, self.thetas, rounds, params, unique_tokens)
        columns: dict[str, Any] = {"epochs": rounds}
        columns |= interval_columns("marginal", marginal, self.rule)
        return pd.DataFrame(columns | interval_columns("average", average, self.rule))

    def optimal(self, flops: float, unique_tokens: float | None = None) -> Optimum:
        """The best run at one budget: tokens are those read, repeats counted. Without unique_tokens: as if
        text were unlimited."""
        if unique_tokens is None:
            return super().optimal(flops)
        budgets = as_flops(flops)[:1]
        (U,) = positive_pairs(unique_tokens=unique_tokens)
        log_params, loss = best_given_text(self.form, self.thetas, budgets, float(U), self.cost)
        params = np.exp(log_params[:, 0])
        tokens = self.cost.tokens(params, budgets)
        numbers = {
            "params": params,
            "tokens": tokens,
            "loss": loss[:, 0],
            "tokens_per_param": tokens / params,
        }
        estimates = {name: estimate_of(values, self.rule) for name, values in numbers.items()}
        return Optimum(flops=float(budgets[0]), **estimates)

    def critical_flops(self, other: ConstrainedLaw, unique_tokens: float) -> Estimate:
        """Compute at which this law's best run gets below the best run of `other`, both with that much text.

        As in Prabhudesai et al. 2025 (arXiv 2507.15857): the budget where the gap in loss closes, each law at
        its own best size. 0: it lies below at every budget looked at (from a hundredth of the smaller budgets
        to 10,000 times the larger ones), infinite: it never gets there. Each resample of the one is held
        against one of the other. UserError unless both are data-constrained laws with one cost of a token.
        """
        if not isinstance(other, ConstrainedLaw):
            raise UserError("critical_flops: give another law fitted with method='constrained'")
        (U,) = positive_pairs(unique_tokens=unique_tokens)
        values = critical_compute(self, other, float(U))
        return estimate_of(values, Rule(level=self.level))

    def _along(self, flops: np.ndarray) -> dict[str, np.ndarray]:
        log_params, log_tokens = optimal_logs(self.thetas[:, :5], flops, self.cost)
        loss = self.thetas[:, :1] + optimal_loss(self.thetas[:, :5], log_params, log_tokens)
        return {"params": log_params, "tokens": log_tokens, "loss": loss}

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
    _check_form(form, base, tied, one_parameter, delta)
    table = prepare(runs)
    unique_tokens = _unique_tokens(table)
    space = repeat_space(form, tied=tied, held_base=base is not None, one_parameter=one_parameter)
    if base is None:
        check_identified(table, space.num_free)
    problem = Problem.of(table.params, table.tokens, table.loss, tied=tied)
    terms = RepeatTerms.of(form, problem, table.tokens, unique_tokens)
    objective = LogSum(terms, problem.z, space)
    bases = _base_starts(problem, table, unique_tokens, base)
    best, share = best_of(
        objective, _starts(form, bases[:MOST_BASE_STARTS], one_parameter), len(table), delta
    )
    ones = np.ones((1, len(table)))
    groups = None if cluster is None else group_numbers(table.rows, cluster)
    start_Rp = np.repeat(best, bootstrap, axis=0)
    if base is not None and len(bases) > 1:
        start_Rp[:, :5] = bases[1 + np.arange(bootstrap) % (len(bases) - 1)]
    draws, unfinished = resample(
        objective, best, len(table), bootstrap, seed, groups, delta, start_Rp=start_Rp
    )
    thetas = terms.natural(problem, np.concatenate([best, draws]))
    thetas.flags.writeable = False
    gradient = float(objective.relative_gradient(best, ones, delta)[0])
    options = {
        "form": form,
        "base": _told(base),
        "tied": tied,
        "one_parameter": one_parameter,
        "delta": delta,
    }
    options |= {"bootstrap": bootstrap, "seed": seed, "level": level, "cluster": cluster}
    status, sentence = _verdict(form, best[0], gradient, space)
    law = ConstrainedLaw(
        **common_fields(table, options),
        status=status,
        sentence=f"{sentence}; {share:.0%} of the starts end here",
        warnings=(),
        form=form,
        thetas=thetas,
        objective=float(objective.at(best, ones, delta).f_R[0]),
        gradient=gradient,
        share_of_starts=share,
        num_free=space.num_free,
    )
    return replace(law, warnings=tuple(_warnings(law, table, draws, unfinished, space)))


def _check_form(form: str, base: object, tied: bool, one_parameter: bool, delta: float) -> None:
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


def _unique_tokens(table: RunTable) -> np.ndarray:
    """The column, checked; UserError names what is wrong."""
    if "unique_tokens" not in table.rows.columns:
        raise UserError(
            "runs: column unique_tokens is missing; a data-constrained law needs how many different tokens "
            "each run read"
        )
    values = pd.to_numeric(table.rows["unique_tokens"], errors="coerce").to_numpy(dtype=np.float64)
    wrong = ~(np.isfinite(values) & (values > 0))
    if wrong.any():
        labels = ", ".join(map(str, table.rows.index[wrong][:5]))
        raise UserError(f"unique_tokens: rows {labels} must be a finite number above 0; correct or drop them")
    repeated = int(np.sum(table.tokens / values - 1 > ONCE))
    if repeated < FEWEST_REPEATED:
        raise UserError(
            f"runs: {repeated} runs read their text more than once; a data-constrained law needs at least "
            f"{FEWEST_REPEATED}, else fit method='surface'"
        )
    return values


def _base_starts(
    problem: Problem, table: RunTable, unique_tokens: np.ndarray, base: SurfaceLaw | tuple[float, ...] | None
) -> np.ndarray:
    """Surfaces to start from, centred (m, 5): the given one with its resamples, or those of the runs that
    read their text once, as far as there are enough of them."""
    if base is not None:
        natural = base.thetas if isinstance(base, SurfaceLaw) else np.asarray(base, dtype=np.float64)[None]
        return problem.centred(natural)
    once = table.tokens / unique_tokens - 1 <= ONCE
    found = grid_starts(problem, Derivatives(problem))
    if len(np.unique(table.params[once])) < 3 or len(np.unique(table.tokens[once])) < 3 or once.sum() < 6:
        return found
    part = Problem.of(table.params[once], table.tokens[once], table.loss[once], tied=problem.space.tied)
    first = part.natural(grid_starts(part, Derivatives(part))[:1])
    return np.concatenate([problem.centred(first), found])


def _starts(form: str, bases: np.ndarray, one_parameter: bool) -> np.ndarray:
    rest = np.array(STARTS[form])
    if one_parameter:
        rest[:, 1:] = 1.0
    return np.concatenate([np.column_stack([np.tile(base, (len(rest), 1)), rest]) for base in bases])


def _told(base: SurfaceLaw | tuple[float, ...] | None) -> Any:
    """The base as an option of plain JSON."""
    if base is None:
        return None
    numbers = base.thetas[0] if isinstance(base, SurfaceLaw) else np.asarray(base, dtype=np.float64)
    return dict(zip(FORMS["effective"], map(float, numbers), strict=False))


def _verdict(form: str, theta: np.ndarray, gradient: float, space: Space) -> tuple[FitStatus, str]:
    if gradient > GRADIENT_TOLERANCE:
        return FitStatus.NOT_CONVERGED, (
            f"the gradient at the best point is {gradient:.1e} of its terms, above {GRADIENT_TOLERANCE:.0e}"
        )
    edge = space.free & ((theta <= space.lower) | (theta >= space.upper))
    names = [name for name, bound in zip(FORMS[form], edge, strict=True) if bound]
    if names:
        return FitStatus.BOUND_HIT, (
            f"{' and '.join(names)} ended at the edge of what is searched: the runs do not determine it"
        )
    return FitStatus.CONVERGED, f"the gradient is {gradient:.0e} of its terms"


def _warnings(
    law: ConstrainedLaw, table: RunTable, draws: np.ndarray, unfinished: int, space: Space
) -> list[str]:
    found = list(table.warnings)
    lowest = float(table.loss.min())
    if lowest <= law.E:
        found.append(f"E = {float(law.E):.4g} lies at or above the lowest loss ({lowest:.4g})")
    if law.status is not FitStatus.CONVERGED:
        found.append(law.sentence)
    tail = (1 - law.level) / 2
    for i, name in enumerate(FORMS[law.form]):
        if not space.free[i] or not len(draws):
            continue
        for edge, side in (
            (draws[:, i] <= space.lower[i], "below"),
            (draws[:, i] >= space.upper[i], "above"),
        ):
            if np.mean(edge) > tail:
                found.append(
                    f"{name} is not identified from {side}: its interval reaches the edge of the search"
                )
    if law.share_of_starts < FEW_STARTS:
        found.append(f"only {law.share_of_starts:.0%} of the starts reach the optimum; others may lie close")
    if unfinished > 0.01 * len(draws):
        found.append(f"{unfinished} of {len(draws)} resamples did not converge; their last points are used")
    return found
