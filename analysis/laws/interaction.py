"""A surface whose data exponent depends on the size:

    L(N, D) = E + A/N^alpha + B (N/N0)^c / D^(beta + kappa log(N/N0))

N0 is the geometric mean of the sizes fitted; kappa is how much the data exponent grows per factor e of size.
Farseer (Li et al. 2025, arXiv 2506.10972, eq. 3) writes exp(a3 N^g3 + b3) + exp(a2 N^g2 + b2)
D^(-exp(a1 N^g1 + b1)); here its two functions of N in the data term, log B(N) and beta(N), are taken to first
order in log N, and its term of N alone is that of Chinchilla, which is contained (c = kappa = 0). Seven
parameters instead of nine, no unit of N or D in the fit, and all terms are exponentials of something linear.

Seven parameters ask for runs over wide ranges of N and of D/N; where the interval of kappa holds 0, the runs
do not ask for an interaction, and the separable surface is to be preferred. Far beyond the sizes fitted a
data exponent that falls with N ends below 0, and the law means nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from analysis.errors import UserError
from analysis.estimate import Estimate, estimate_of
from analysis.frontier import Curve
from analysis.laws.predicting import PredictingLaw
from analysis.laws.result import FitStatus, common_fields
from analysis.laws.solver.bootstrap import group_numbers
from analysis.laws.solver.logsum import LogSum
from analysis.laws.solver.newrun import Scatter, scatter
from analysis.laws.solver.objective import GRADIENT_TOLERANCE, LOWER, UPPER, Derivatives, Problem, Space
from analysis.laws.solver.search import best_of, resample
from analysis.laws.solver.starts import grid_starts
from analysis.laws.surface import FEW_STARTS, TOUCHES_ZERO, check_identified
from analysis.table.fit_table import RunTable

SYMBOLS = ("E", "A", "B", "alpha", "beta", "c", "kappa")
KAPPAS = (0.0, 0.03, -0.03)
"""Where the search starts in kappa, from each start of the separable surface."""
FARTHEST = 1e6
"""The best size is searched up to this factor beyond the sizes fitted."""
GOLDEN_STEPS = 70
GRID_POINTS = 161
STEP = 0.1


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class InteractionLaw(PredictingLaw):
    """L(N, D) as at the top of `analysis.laws.interaction`; N and D are counts, L is nats per token.

    thetas: (1 + R, 7) E, A, B, alpha, beta, c, kappa.
    """

    method: ClassVar[str] = "interaction"
    reference_params: float
    """N0, the size at which B, beta are the coefficient and exponent of the data term."""

    def _parameters(self) -> dict[str, Estimate]:
        held = self.options["E"] is not None
        return {
            name: estimate_of(values[:1] if name == "E" and held else values, self.rule)
            for name, values in zip(SYMBOLS, self.thetas.T, strict=True)
        }

    def __getattr__(self, name: str) -> Estimate:
        if name in SYMBOLS:
            return self._parameters()[name]
        raise AttributeError(f"an interaction law has no attribute {name!r}")

    @property
    def scatter(self) -> Scatter:
        """How far single runs lie from the law, estimated robustly."""
        params, tokens, loss = (self.runs[n].to_numpy() for n in ("params", "tokens", "loss"))
        predicted = self._loss(self.thetas[:1], np.log(params), np.log(tokens))[0]
        on_loss = self.options["residual"] == "loss"
        residuals = loss - predicted if on_loss else np.log(loss / predicted)
        return scatter(residuals, len(SYMBOLS) - (self.options["E"] is not None), on_loss=on_loss)

    def predict(self, params: Any, tokens: Any, *, kind: str = "mean") -> Estimate | pd.DataFrame:
        """Loss at params N and tokens D, as `SurfaceLaw.predict`."""
        return self._predicted(kind, params=params, tokens=tokens)

    def _losses(self, *columns: np.ndarray) -> np.ndarray:
        return self._loss(self.thetas, *(np.log(column) for column in columns))

    def _loss(self, thetas: np.ndarray, log_params: np.ndarray, log_tokens: np.ndarray) -> np.ndarray:
        """(m, 7) and logs (m or 1, k) or (k,): (m, k)."""
        E, A, B, alpha, beta, c, kappa = (thetas[:, i, None] for i in range(7))
        x = log_params - np.log(self.reference_params)
        # far outside the runs a data exponent below 0 may overflow: an infinite loss is no optimum
        with np.errstate(over="ignore"):
            data = np.exp(np.log(B) + c * x - (beta + kappa * x) * log_tokens)
            return np.asarray(E + A * np.exp(-alpha * log_params) + data)

    def _best(self, flops: np.ndarray) -> np.ndarray:
        """log N* (1 + R, m): of the minima along a budget the one nearest to sizes as fitted (there may be
        others, where the law means nothing); infinite where there is none within a factor `FARTHEST`."""
        ends = np.log(self.runs["params"].min() / FARTHEST), np.log(self.runs["params"].max() * FARTHEST)
        grid = np.linspace(*ends, GRID_POINTS)
        log_runs = np.log(self.runs["params"] * self.runs["tokens"]).mean() / 2
        balance = np.log(self.reference_params) - log_runs
        found = np.empty((len(self.thetas), len(flops)))
        for j, log_tokens_at_one in enumerate(np.log(flops / self.cost.k)):
            loss = self._loss(self.thetas, grid, log_tokens_at_one - self.cost.q * grid)
            inner = loss[:, 1:-1]
            minimum = (inner < loss[:, :-2]) & (inner <= loss[:, 2:])
            # on budgets like those of the runs, near sizes like theirs
            distance = np.abs(grid[1:-1] - log_tokens_at_one / (1 + self.cost.q) - balance)
            nearest = np.where(minimum, distance, np.inf).argmin(axis=1) + 1
            x = self._golden(grid[nearest - 1], grid[nearest + 1], log_tokens_at_one)
            open_end = np.where(loss[:, 0] < loss[:, -1], -np.inf, np.inf)
            found[:, j] = np.where(minimum.any(axis=1), x, open_end)
        return found

    def _golden(self, low: np.ndarray, high: np.ndarray, log_tokens_at_one: float) -> np.ndarray:
        """Golden-section search of each draw's minimum between low and high (1 + R,)."""
        ratio = (np.sqrt(5) - 1) / 2
        for _ in range(GOLDEN_STEPS):
            left, right = high - ratio * (high - low), low + ratio * (high - low)
            both = np.stack([left, right], axis=1)
            loss = self._loss(self.thetas, both, log_tokens_at_one - self.cost.q * both)
            lower = loss[:, 0] < loss[:, 1]
            low, high = np.where(lower, low, left), np.where(lower, right, high)
        return np.asarray((low + high) / 2)

    def _along(self, flops: np.ndarray) -> dict[str, np.ndarray]:
        log_params = self._best(flops)
        log_tokens = np.log(flops / self.cost.k) - self.cost.q * log_params
        edge = np.where(np.isfinite(log_params), log_params, np.log(self.runs["params"].max() * FARTHEST))
        loss = self._loss(self.thetas, edge, np.log(flops / self.cost.k) - self.cost.q * edge)
        return {"params": log_params, "tokens": log_tokens, "loss": loss}

    @property
    def exponents(self) -> dict[str, Estimate]:
        """Of N*, D*, D*/N* and L* - E in compute at the middle (geometric mean) of the budgets: unlike those
        of a separable surface they drift. Empty where there is no minimum over the size; resamples without
        one do not count."""
        middle = np.exp(np.mean(np.log(self.flops_range)))
        along = self._along(middle * np.exp([-STEP, STEP]))
        usable = np.isfinite(along["params"]).all(axis=1)
        if not usable[0]:
            return {}
        slopes = {name: np.diff(along[name][usable])[:, 0] / (2 * STEP) for name in ("params", "tokens")}
        slopes["tokens_per_param"] = slopes["tokens"] - slopes["params"]
        reducible = np.log(along["loss"][usable] - self.thetas[usable, :1])
        slopes["reducible_loss"] = np.diff(reducible)[:, 0] / (2 * STEP)
        return {name: estimate_of(v, self.rule) for name, v in slopes.items()}

    @property
    def curve(self) -> Curve:
        """E + K C^-c through the frontier's loss at the smallest and the largest budget; in between and
        beyond the frontier of an interaction bends a little, and this does not."""
        ends = np.array(self.flops_range)
        above = np.log(self._along(ends)["loss"] - self.thetas[:, :1])
        c = -(above[:, 1] - above[:, 0]) / np.log(ends[1] / ends[0])
        return Curve(
            E=self.thetas[:, 0], log_K=above[:, 0] + c * np.log(ends[0]), c=c, flops_range=self.flops_range
        )

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"reference_params": self.reference_params}


def fit_interaction(table: RunTable, options: Mapping[str, Any], held_E: float | None) -> InteractionLaw:
    """Fit the law of this module for `fit_surface`, which checked the options. held_E: None free, 0 none."""
    if options["tied"]:
        raise UserError("tied = True: exponents that depend on the size cannot be tied; use form='separable'")
    delta, cluster = options["delta"], options["cluster"]
    on_loss = options["residual"] == "loss"
    problem = Problem.of(table.params, table.tokens, table.loss, E=held_E, on_loss=on_loss)
    space = _space(problem)
    check_identified(table, space.num_free)
    objective = LogSum(_terms_of(problem), problem.z, space, on_loss=on_loss)
    separable = grid_starts(problem, Derivatives(problem))
    starts = np.concatenate([_with(separable, kappa) for kappa in KAPPAS])
    best, share = best_of(objective, starts, len(table), delta / problem.unit)
    ones = np.ones((1, len(table)))
    gradient = float(objective.relative_gradient(best, ones, delta / problem.unit)[0])
    groups = None if cluster is None else group_numbers(table.rows, cluster)
    draws, unfinished = resample(
        objective, best, len(table), options["bootstrap"], options["seed"], groups, delta / problem.unit
    )
    thetas = _natural(problem, np.concatenate([best, draws]))
    if held_E is not None:
        thetas[:, 0] = held_E
    thetas.flags.writeable = False
    status, sentence = _verdict(best[0], gradient, space)
    law = InteractionLaw(
        **common_fields(table, options),
        status=status,
        sentence=f"{sentence}; {share:.0%} of the starts end here",
        warnings=(),
        thetas=thetas,
        reference_params=float(np.exp(problem.means[0])),
        objective=float(objective.at(best, ones, delta / problem.unit).f_R[0]) * problem.unit**2,
        gradient=gradient,
        share_of_starts=share,
    )
    return replace(law, warnings=tuple(_warnings(law, table, draws, unfinished)))


def _space(problem: Problem) -> Space:
    lower = np.concatenate([LOWER, [-3.0, -0.5]])
    upper = np.concatenate([UPPER, [3.0, 0.5]])
    lower[0], upper[0] = problem.space.lower[0], problem.space.upper[0]
    basis = np.eye(7) if problem.space.free[0] else np.eye(7)[:, 1:]
    return Space(lower=lower, upper=upper, basis_pk=basis)


def _with(separable: np.ndarray, kappa: float) -> np.ndarray:
    return np.column_stack([separable, np.zeros(len(separable)), np.full(len(separable), kappa)])


def _terms_of(problem: Problem) -> Any:
    """Logs of the terms in centred coordinates (e, a, b, alpha, beta, c, kappa), and their gradients."""
    x, y = problem.x, problem.y
    zero, one = np.zeros_like(x), np.ones_like(x)
    E = np.stack([one, zero, zero, zero, zero, zero, zero], axis=1)[None]
    A = np.stack([zero, one, zero, -x, zero, zero, zero], axis=1)[None]
    B = np.stack([zero, zero, one, zero, -y, x, -x * y], axis=1)[None]

    def terms(theta_Rp: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(theta_Rp @ gradient[0].T, gradient) for gradient in (E, A, B)]

    return terms


def _natural(problem: Problem, theta_Rp: np.ndarray) -> np.ndarray:
    """(E, A, B, alpha, beta, c, kappa) in the user's units."""
    five = problem.natural(theta_Rp[:, :5])
    c, kappa = theta_Rp[:, 5], theta_Rp[:, 6]
    return np.column_stack([five, c + kappa * problem.means[1], kappa])


def _verdict(theta: np.ndarray, gradient: float, space: Space) -> tuple[FitStatus, str]:
    if gradient > GRADIENT_TOLERANCE:
        return FitStatus.NOT_CONVERGED, (
            f"the gradient at the best point is {gradient:.1e} of its terms, above {GRADIENT_TOLERANCE:.0e}; "
            "the runs hardly determine seven parameters, fit the separable surface"
        )
    edge = space.free & ((theta <= space.lower) | (theta >= space.upper))
    if edge.any():
        names = [name for name, bound in zip(SYMBOLS, edge, strict=True) if bound]
        return FitStatus.BOUND_HIT, (
            f"{' and '.join(names)} ended at the edge of what is searched: the runs do not determine it"
        )
    return FitStatus.CONVERGED, f"the gradient is {gradient:.0e} of its terms"


def _warnings(law: InteractionLaw, table: RunTable, draws: np.ndarray, unfinished: int) -> list[str]:
    found = list(table.warnings)
    lowest = float(table.loss.min())
    if lowest <= law.E:
        found.append(f"E = {float(law.E):.4g} lies at or above the lowest loss ({lowest:.4g})")
    if law.status is not FitStatus.CONVERGED:
        found.append(law.sentence)
    kappa = law.kappa
    if kappa.low is not None and kappa.high is not None and kappa.low <= 0 <= kappa.high:
        found.append(
            f"kappa = {kappa}: the interval holds 0, the interaction is not identified; prefer the separable "
            "surface"
        )
    for name, value in (("alpha", law.alpha), ("beta", law.beta)):
        if value.low is not None and value.low < TOUCHES_ZERO:
            found.append(f"{name} = {value}: the interval touches 0, so that term is not identified")
    middle = np.exp([np.mean(np.log(law.flops_range))])
    open_ends = ~np.isfinite(law._along(middle)["params"][:, 0])
    if open_ends[0]:
        found.append("within the budgets the loss has no minimum over the size: there are no exponents")
    elif open_ends.any():
        found.append(
            f"{open_ends.sum()} of {len(draws)} resamples have no minimum over the size; intervals of "
            "exponents are those of the others"
        )
    if law.share_of_starts < FEW_STARTS:
        found.append(f"only {law.share_of_starts:.0%} of the starts reach the optimum; others may lie close")
    if unfinished > 0.01 * len(draws):
        found.append(f"{unfinished} of {len(draws)} resamples did not converge; their last points are used")
    return found
