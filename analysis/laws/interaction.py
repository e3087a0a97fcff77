"""A surface whose data exponent depends on the size:

    L(N, D) = E + A/N^alpha + B (N/N0)^c / D^(beta + kappa log(N/N0))

N0 is the geometric mean of the sizes fitted; kappa is how much the data exponent grows per factor e of size.
Farseer (Li et al. 2025, arXiv 2506.10972, eq. 3) writes exp(a3 N^g3 + b3) + exp(a2 N^g2 + b2)
D^(-exp(a1 N^g1 + b1)); here its two functions of N in the data term, log B(N) and beta(N), are taken to first
order in log N, and its term of N alone is that of Chinchilla, which is contained (c = kappa = 0). Seven
parameters instead of nine, no unit of N or D in the fit, and all terms are exponentials of something linear.

Seven parameters need runs over wide ranges of N and of D/N. If the interval of kappa holds 0, the runs do not
need an interaction, and the surface is to be preferred. Far beyond the sizes fitted a data exponent that
falls with N ends below 0, and the law means nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from analysis.estimate import Estimate, estimate_of
from analysis.frontier import Curve
from analysis.laws.predicting import PredictingLaw, build_law
from analysis.laws.solver.bootstrap import check_options, resampling_units
from analysis.laws.solver.logsum import LogSum
from analysis.laws.solver.objective import LOWER, UPPER, Derivatives, Problem, Space
from analysis.laws.solver.search import best_of, golden_section, grid_starts, refit_resamples
from analysis.laws.surface import check_identified, check_terms, touching_zero
from analysis.table.fit_table import prepare

SYMBOLS = ("E", "A", "B", "alpha", "beta", "c", "kappa")
KAPPAS = (0.0, 0.03, -0.03)
"""The search starts at each of these kappas, from each start of the separable surface."""
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
    symbols: ClassVar[tuple[str, ...]] = SYMBOLS
    reference_params: float
    """N0, the size at which B, beta are the coefficient and exponent of the data term."""

    @property
    def num_free(self) -> int:
        return len(SYMBOLS) - (self.options["E"] is not None)

    def _loss(self, thetas: np.ndarray, *columns: np.ndarray) -> np.ndarray:
        return self._loss_at(thetas, *(np.log(column) for column in columns))

    def _loss_at(self, thetas: np.ndarray, log_params: np.ndarray, log_tokens: np.ndarray) -> np.ndarray:
        """(m, 7) and logs (m or 1, k) or (k,): (m, k)."""
        E, A, B, alpha, beta, c, kappa = (thetas[:, i, None] for i in range(7))
        x = log_params - np.log(self.reference_params)
        # far outside the runs a data exponent below 0 may overflow: an infinite loss is no optimum
        with np.errstate(over="ignore"):
            data = np.exp(np.log(B) + c * x - (beta + kappa * x) * log_tokens)
            return np.asarray(E + A * np.exp(-alpha * log_params) + data)

    def _best(self, flops: np.ndarray) -> np.ndarray:
        """log N* (1 + R, m): of the minima along a budget the one nearest to sizes as fitted (others may be
        far out, beyond the meaning of the law); infinite if there is none within a factor `FARTHEST`."""
        ends = np.log(self.runs["params"].min() / FARTHEST), np.log(self.runs["params"].max() * FARTHEST)
        grid = np.linspace(*ends, GRID_POINTS)
        log_runs = np.log(self.runs["params"] * self.runs["tokens"]).mean() / 2
        balance = np.log(self.reference_params) - log_runs
        best = np.empty((len(self.thetas), len(flops)))
        for j, log_tokens_at_one in enumerate(np.log(flops / self.cost.k)):

            def loss_of(log_params: np.ndarray, total: float = log_tokens_at_one) -> np.ndarray:
                return self._loss_at(self.thetas, log_params, total - self.cost.q * log_params)

            loss = loss_of(grid)
            inner = loss[:, 1:-1]
            minimum = (inner < loss[:, :-2]) & (inner <= loss[:, 2:])
            # on budgets like those of the runs, near sizes like theirs
            distance = np.abs(grid[1:-1] - log_tokens_at_one / (1 + self.cost.q) - balance)
            nearest = np.where(minimum, distance, np.inf).argmin(axis=1) + 1
            place = golden_section(loss_of, grid[nearest - 1], grid[nearest + 1], GOLDEN_STEPS)
            open_end = np.where(loss[:, 0] < loss[:, -1], -np.inf, np.inf)
            best[:, j] = np.where(minimum.any(axis=1), place, open_end)
        return best

    def _along(self, flops: np.ndarray) -> dict[str, np.ndarray]:
        log_params = self._best(flops)
        log_tokens = np.log(flops / self.cost.k) - self.cost.q * log_params
        edge = np.where(np.isfinite(log_params), log_params, np.log(self.runs["params"].max() * FARTHEST))
        loss = self._loss_at(self.thetas, edge, np.log(flops / self.cost.k) - self.cost.q * edge)
        return {"params": log_params, "tokens": log_tokens, "loss": loss}

    @property
    def exponents(self) -> dict[str, Estimate]:
        """Of N*, D*, D*/N* and L* - E in compute at the middle (geometric mean) of the budgets: unlike those
        of a separable surface they drift. Empty if there is no minimum over the size; resamples without one
        do not count."""
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


def fit_interaction(
    runs: pd.DataFrame,
    *,
    delta: float = 1e-3,
    residual: str = "log",
    E: float | str | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    cluster: str | None = None,
) -> InteractionLaw:
    """Fit the law of this module to runs with columns params, tokens, loss.

    Options are those of `fit_surface`; resamples draw rows, intervals are percentiles.
    """
    check_options(bootstrap, seed, level)
    held_E = check_terms(residual, E, delta)
    table = prepare(runs)
    on_loss = residual == "loss"
    problem = Problem.of(table.params, table.tokens, table.loss, E=held_E, on_loss=on_loss)
    space = interaction_space(problem)
    check_identified(table, space.num_free)
    groups = resampling_units(table, cluster)
    threshold = delta / problem.unit

    # the law contains the separable surface, so its search starts there, for several kappas
    objective = LogSum(interaction_terms(problem), problem.z, space, on_loss=on_loss)
    separable = grid_starts(problem, Derivatives(problem))
    zero = np.zeros(len(separable))
    starts = np.concatenate([np.column_stack([separable, zero, zero + kappa]) for kappa in KAPPAS])
    best, share = best_of(objective, starts, len(table), threshold)
    draws, unfinished = refit_resamples(objective, best, len(table), bootstrap, seed, groups, threshold)

    # E, A, B, alpha, beta, c, kappa in the user's units
    theta_Rp = np.concatenate([best, draws])
    c, kappa = theta_Rp[:, 5], theta_Rp[:, 6]
    five = problem.natural(theta_Rp[:, :5])
    thetas = np.column_stack([five, c + kappa * problem.means[1], kappa])
    if held_E is not None:
        thetas[:, 0] = held_E
    options = {
        "delta": delta, "bootstrap": bootstrap, "seed": seed, "level": level, "cluster": cluster,
        "residual": residual, "E": E,
    }  # fmt: skip
    law = build_law(
        InteractionLaw, table, options, objective, best, share, thetas, unfinished,
        delta=threshold, unit=problem.unit, reference_params=float(np.exp(problem.means[0])),
        advice="the runs hardly determine seven parameters, fit the surface",
    )  # fmt: skip
    caveats = [*law.warnings, *touching_zero(law)]
    interval = law.kappa
    if interval.low is not None and interval.high is not None and interval.low <= 0 <= interval.high:
        caveats.append(
            f"kappa = {interval}: the interval holds 0, the interaction is not identified; prefer the surface"
        )
    middle = np.exp([np.mean(np.log(law.flops_range))])
    no_minimum = ~np.isfinite(law._along(middle)["params"][:, 0])
    if no_minimum[0]:
        caveats.append("within the budgets the loss has no minimum over the size: there are no exponents")
    elif no_minimum.any():
        caveats.append(
            f"{no_minimum.sum()} of {len(draws)} resamples have no minimum over the size; intervals of "
            "exponents are those of the others"
        )
    return replace(law, warnings=tuple(caveats))


def interaction_space(problem: Problem) -> Space:
    """The box of the search, with E held if the problem holds it."""
    lower = np.concatenate([LOWER, [-3.0, -0.5]])
    upper = np.concatenate([UPPER, [3.0, 0.5]])
    lower[0], upper[0] = problem.space.lower[0], problem.space.upper[0]
    basis = np.eye(7) if problem.space.free[0] else np.eye(7)[:, 1:]
    return Space(lower=lower, upper=upper, basis_pk=basis)


def interaction_terms(problem: Problem) -> Any:
    """Logs of the terms in centred coordinates (e, a, b, alpha, beta, c, kappa), and their gradients."""
    x, y = problem.x, problem.y
    zero, one = np.zeros_like(x), np.ones_like(x)
    E = np.stack([one, zero, zero, zero, zero, zero, zero], axis=1)[None]
    A = np.stack([zero, one, zero, -x, zero, zero, zero], axis=1)[None]
    B = np.stack([zero, zero, one, zero, -y, x, -x * y], axis=1)[None]
    return lambda theta_Rp: [(theta_Rp @ gradient[0].T, gradient) for gradient in (E, A, B)]
