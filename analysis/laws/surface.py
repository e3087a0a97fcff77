"""Approach 3: the surface L(N, D) = E + A/N^alpha + B/D^beta, by an exact robust fit of log loss.

Objective (Hoffmann et al. 2022, arXiv 2203.15556, eq. 3): the sum, not the mean, over runs of
Huber_delta(log L - log(E + A/N^alpha + B/D^beta)). Besiroglu et al. 2024 (arXiv 2404.10102) show what a mean,
absolute stopping tests and rounding do to it. Intervals are percentiles over resamples of the runs, each
refitted to its own optimum.

Not covered here: several epochs over the same text, and losses taken in mid-schedule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from analysis.errors import UserError
from analysis.estimate import Estimate, estimate
from analysis.frontier import (
    Curve,
    frontier_exponents,
    optimal_logs,
    optimal_loss,
    surface_curve,
    surface_loss,
)
from analysis.laws.bootstrap import check_options, chunk_rows, group_numbers, resample_weights
from analysis.laws.newton import minimise
from analysis.laws.objective import GRADIENT_TOLERANCE, LOWER, ROUNDING, UPPER, Derivatives, Problem
from analysis.laws.result import FitStatus, Law, common_fields, interval_columns
from analysis.laws.starts import grid_starts
from analysis.laws.table import RunTable, prepare

TOUCHES_ZERO = 0.01
FEW_STARTS = 0.2
ABSENT = 1e-5
"""A term that is nowhere more than this share of the loss is not there."""
USUAL_STEPS = 10
"""Newton steps after which the unfinished resamples of a chunk wait for those of the other chunks."""
SYMBOLS = ("E", "A", "B", "alpha", "beta")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SurfaceLaw(Law):
    """L(N, D) = E + A N^-alpha + B D^-beta; N and D are counts, L is nats per token."""

    method: ClassVar[str] = "surface"
    thetas: np.ndarray
    """(1 + R, 5) E, A, B, alpha, beta: the estimate first, then R resamples. Read-only."""
    objective: float
    """Sum of Huber terms at the optimum."""
    gradient: float
    """Largest gradient component there, relative to the sum of the absolute terms it is made of."""
    share_of_starts: float
    """Share of the cold starts that end at the optimum (objective within 1e-6)."""

    @property
    def E(self) -> Estimate:
        return self._parameters()["E"]

    @property
    def A(self) -> Estimate:
        return self._parameters()["A"]

    @property
    def B(self) -> Estimate:
        return self._parameters()["B"]

    @property
    def alpha(self) -> Estimate:
        return self._parameters()["alpha"]

    @property
    def beta(self) -> Estimate:
        return self._parameters()["beta"]

    def _parameters(self) -> dict[str, Estimate]:
        return {
            name: estimate(values[0], values[1:], self.level)
            for name, values in zip(SYMBOLS, self.thetas.T, strict=True)
        }

    def derive(self, number: Callable[[np.ndarray], np.ndarray]) -> Estimate:
        """The estimate and interval of any number computed from parameters: thetas (m, 5) -> (m,)."""
        values = number(self.thetas)
        return estimate(values[0], values[1:], self.level)

    @property
    def exponents(self) -> dict[str, Estimate]:
        """Of N*, D*, D*/N* and of L* - E, as powers of compute."""
        values = frontier_exponents(self.thetas, self.cost)
        return {name: estimate(v[0], v[1:], self.level) for name, v in values.items()}

    @property
    def curve(self) -> Curve:
        return surface_curve(self.thetas, self.cost, self.flops_range)

    def predict(self, params: Any, tokens: Any) -> Estimate | pd.DataFrame:
        """Loss at params N and tokens D: an Estimate for numbers, for arrays a DataFrame with columns
        params, tokens, loss, loss_low, loss_high. UserError unless all are positive and finite."""
        N, D = np.broadcast_arrays(np.asarray(params, dtype=np.float64), np.asarray(tokens, dtype=np.float64))
        if not np.all(np.isfinite(N) & np.isfinite(D) & (N > 0) & (D > 0)):
            raise UserError("predict: params and tokens must be finite numbers above 0")
        values = surface_loss(self.thetas, N.ravel(), D.ravel())
        if N.ndim == 0:
            return estimate(values[0, 0], values[1:, 0], self.level)
        columns = {"params": N.ravel(), "tokens": D.ravel()} | interval_columns("loss", values, self.level)
        return pd.DataFrame(columns)

    def _along(self, flops: np.ndarray) -> dict[str, np.ndarray]:
        log_params, log_tokens = optimal_logs(self.thetas, flops, self.cost)
        loss = self.thetas[:, :1] + optimal_loss(self.thetas, log_params, log_tokens)
        return {"params": log_params, "tokens": log_tokens, "loss": loss}

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {
            "objective": self.objective,
            "gradient": self.gradient,
            "share_of_starts": self.share_of_starts,
        }


def fit_surface(
    runs: pd.DataFrame,
    *,
    delta: float = 1e-3,
    bootstrap: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    cluster: str | None = None,
) -> SurfaceLaw:
    """Fit the surface to runs with columns params, tokens, loss.

    delta: Huber threshold on log loss (0.001 is 0.1% of the loss); bootstrap: number of resamples of the
    runs, 0 for no intervals; cluster: a column whose values are resampled as wholes, e.g. "size" or "seed".
    UserError for a table that cannot be fitted, see `analysis.laws.table.prepare`.
    """
    check_options(bootstrap, seed, level)
    if not delta > 0:
        raise UserError(f"delta = {delta!r}: the Huber threshold on log loss is above 0, e.g. 0.001")
    table = prepare(runs)
    _check_identified(table)
    groups = None if cluster is None else group_numbers(table.rows, cluster)
    problem = Problem.of(table.params, table.tokens, table.loss)
    derivatives = Derivatives(problem)
    ones = np.ones((1, len(table)))
    best, share = _best_of_starts(problem, derivatives, delta)
    point = derivatives.at(best, ones, delta)
    gradient = float(derivatives.relative_gradient(best, ones, delta)[0])
    draws, unfinished = _resample(derivatives, best, len(table), bootstrap, seed, groups, delta)
    thetas = problem.natural(np.concatenate([best, draws]))
    thetas.flags.writeable = False
    A, B, _ = derivatives.shares(best)
    largest_shares = np.array([(1 - A - B).max(), A.max(), B.max()])
    status, sentence = _verdict(best[0], largest_shares, gradient)
    options = {"delta": delta, "bootstrap": bootstrap, "seed": seed, "level": level, "cluster": cluster}
    law = SurfaceLaw(
        **common_fields(table, options),
        status=status,
        sentence=f"{sentence}; {share:.0%} of the starts end here",
        warnings=(),
        thetas=thetas,
        objective=float(point.f_R[0]),
        gradient=gradient,
        share_of_starts=share,
    )
    return replace(law, warnings=tuple(_warnings(law, table, draws, unfinished)))


def _check_identified(table: RunTable) -> None:
    """UserError unless the runs can tell five parameters apart."""
    distinct = len(np.unique(np.column_stack([table.params, table.tokens]), axis=0))
    if distinct <= len(SYMBOLS):
        raise UserError(
            f"runs: {distinct} different (params, tokens) for the {len(SYMBOLS)} parameters of a surface; "
            f"give at least {len(SYMBOLS) + 1} finished runs"
        )
    if table.one_budget:
        raise UserError(
            f"runs: all {len(table)} runs spend one budget ({table.flops_range[0]:.3g} FLOPs), where size "
            "and tokens vary together; add runs at a second budget"
        )
    for name, values in (("params", table.params), ("tokens", table.tokens)):
        if len(np.unique(values)) < 3:
            raise UserError(
                f"{name}: a surface needs at least 3 different values, found {len(np.unique(values))}"
            )


def _best_of_starts(problem: Problem, derivatives: Derivatives, delta: float) -> tuple[np.ndarray, float]:
    """The best optimum (1, 5) over the cold starts, and the share of the starts that reach it."""
    theta_Rp = grid_starts(problem, derivatives)
    weight_Rn = np.ones((len(theta_Rp), len(problem.x)))
    # wide thresholds first: there the objective is smooth and has one basin
    walk = [step for step in (3e-2, 1e-2, 4e-3, 2e-3) if step > 1.5 * delta]
    for step in walk:
        theta_Rp = minimise(derivatives, theta_Rp, weight_Rn, step, tolerance=1e-3, max_steps=30).theta_Rp
    ended = minimise(derivatives, theta_Rp, weight_Rn, delta)
    objective_R = derivatives.at(ended.theta_Rp, weight_Rn, delta).f_R
    winner = int(np.argmin(objective_R))
    floor = len(problem.x) * ROUNDING**2
    share = float(np.mean(objective_R <= objective_R[winner] * (1 + 1e-6) + floor))
    return ended.theta_Rp[winner : winner + 1], share


def _resample(
    derivatives: Derivatives,
    best: np.ndarray,
    num_runs: int,
    bootstrap: int,
    seed: int,
    groups: np.ndarray | None,
    delta: float,
) -> tuple[np.ndarray, int]:
    """Refit every resample from the optimum: (R, 5) centred coordinates, and how many did not converge."""
    terms = derivatives.terms(best[0], delta)
    draws, late_weights, late = [np.empty((0, 5))], [], []
    for weight_Rn in resample_weights(num_runs, bootstrap, seed, groups):
        start_Rp = np.repeat(best, len(weight_Rn), axis=0)
        ended = minimise(
            derivatives, start_Rp, weight_Rn, delta, tolerance=1e-11, terms=terms, max_steps=USUAL_STEPS
        )
        late.append(~ended.converged_R)
        late_weights.append(weight_Rn[~ended.converged_R])
        draws.append(ended.theta_Rp)
    thetas = np.concatenate(draws)
    slow_R = np.flatnonzero(np.concatenate([np.zeros(0, dtype=bool), *late]))
    weights = np.concatenate([np.empty((0, num_runs)), *late_weights])
    # the few slow ones of all chunks together: alone in their chunks they would cost as much as all the rest
    unfinished, chunk = 0, chunk_rows(num_runs)
    for first in range(0, len(slow_R), chunk):
        rows = slow_R[first : first + chunk]
        ended = minimise(derivatives, thetas[rows], weights[first : first + chunk], delta, tolerance=1e-11)
        thetas[rows] = ended.theta_Rp
        unfinished += int(np.sum(~ended.converged_R))
    return thetas, unfinished


def _verdict(theta: np.ndarray, largest_shares: np.ndarray, gradient: float) -> tuple[FitStatus, str]:
    """theta (5,) in centred coordinates; largest_shares (3,) of E, A, B in the predicted loss of any run."""
    if gradient > GRADIENT_TOLERANCE:
        return FitStatus.NOT_CONVERGED, (
            f"the gradient at the best point is {gradient:.1e} of its terms, above {GRADIENT_TOLERANCE:.0e}; "
            "look at outliers first, then at whether params and tokens vary independently"
        )
    absent = [name for name, share in zip("EAB", largest_shares, strict=True) if share < ABSENT]
    if absent:
        return FitStatus.BOUND_HIT, (
            f"{' and '.join(absent)} vanished: the runs are best described without that term, so its numbers "
            "mean nothing"
        )
    at_bound = [
        n for n, low, high in zip(SYMBOLS, theta <= LOWER, theta >= UPPER, strict=True) if low or high
    ]
    if at_bound:
        return FitStatus.BOUND_HIT, (
            f"{' and '.join(at_bound)} ended at the edge of what is searched: the runs do not determine it"
        )
    return FitStatus.CONVERGED, f"the gradient is {gradient:.0e} of its terms"


def _warnings(law: SurfaceLaw, table: RunTable, draws: np.ndarray, unfinished: int) -> list[str]:
    found = list(table.warnings)
    lowest = float(table.loss.min())
    if lowest <= law.E:
        found.append(
            f"E = {float(law.E):.4g} lies at or above the lowest loss ({lowest:.4g}): the surface does not "
            "describe these runs; fit a narrower range of tokens per parameter"
        )
    if law.status is not FitStatus.CONVERGED:
        found.append(law.sentence)
    for name, value in (("alpha", law.alpha), ("beta", law.beta)):
        if value.low is not None and value.low < TOUCHES_ZERO:
            found.append(f"{name} = {value}: the interval touches 0, so that term is not identified")
    if len(draws) and np.mean(draws[:, 0] <= LOWER[0]) > (1 - law.level) / 2:
        found.append("E is not identified from below: the interval reaches 0")
    if law.share_of_starts < FEW_STARTS:
        found.append(f"only {law.share_of_starts:.0%} of the starts reach the optimum; others may lie close")
    if unfinished > 0.01 * len(draws):
        found.append(f"{unfinished} of {len(draws)} resamples did not converge; their last points are used")
    return found
