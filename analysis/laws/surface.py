"""Approach 3: the surface L(N, D) = E + A/N^alpha + B/D^beta, by an exact robust fit of log loss.

Objective (Hoffmann et al. 2022, arXiv 2203.15556, eq. 3): the sum, not the mean, over runs of Huber_delta(log
L - log(E + A/N^alpha + B/D^beta)). Besiroglu et al. 2024 (arXiv 2404.10102) show the effect of a mean,
absolute stopping tests and rounding. Intervals come from resamples, each refitted to its own optimum.
Variants (tied exponents, E given or absent, residuals on the loss) are options of the same fit.

Not covered here: several epochs over the same text (see `constrained`), and losses taken in mid-schedule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from analysis.errors import UserError
from analysis.estimate import Estimate, estimate_of
from analysis.frontier import (
    Curve,
    frontier_exponents,
    optimal_logs,
    optimal_loss,
    surface_curve,
    surface_loss,
)
from analysis.laws.result import PredictingLaw, build_law
from analysis.laws.solver.bootstrap import check_options, group_numbers, leave_one_out
from analysis.laws.solver.noise import choose_resampling, draw_losses, spread_about_surface
from analysis.laws.solver.objective import LOWER, Derivatives, Problem
from analysis.laws.solver.search import best_of, grid_starts, refit, refit_resamples
from analysis.table.fit_table import RunTable, prepare
from analysis.text import flops_text

TOUCHES_ZERO = 0.01
ABSENT = 1e-5
"""A term that is nowhere more than this share of the loss is not there."""
SYMBOLS = ("E", "A", "B", "alpha", "beta")
RESIDUALS = ("log", "loss")


class SurfaceFrontier(PredictingLaw):
    """A law whose frontier is that of a surface: the first columns of thetas are its parameters."""

    @property
    def exponents(self) -> dict[str, Estimate]:
        """Of N*, D*, D*/N* and of L* - E, as powers of compute (while there is fresh text)."""
        values = frontier_exponents(self.thetas[:, :5], self.cost)
        return {name: estimate_of(v, self.rule) for name, v in values.items()}

    @property
    def curve(self) -> Curve:
        drawn = self.thetas[: len(self.thetas) - self.leave_outs, :5]
        return surface_curve(drawn, self.cost, self.flops_range)

    def _along(self, flops: np.ndarray) -> dict[str, np.ndarray]:
        log_params, log_tokens = optimal_logs(self.thetas[:, :5], flops, self.cost)
        loss = self.thetas[:, :1] + optimal_loss(self.thetas[:, :5], log_params, log_tokens)
        return {"params": log_params, "tokens": log_tokens, "loss": loss}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SurfaceLaw(SurfaceFrontier):
    """L(N, D) = E + A N^-alpha + B D^-beta; N and D are counts, L is nats per token.

    thetas: (1 + R, 5) E, A, B, alpha, beta.
    """

    method: ClassVar[str] = "surface"
    symbols: ClassVar[tuple[str, ...]] = SYMBOLS

    @property
    def num_free(self) -> int:
        return len(SYMBOLS) - (self.options["E"] is not None) - bool(self.options["tied"])

    def _loss(self, thetas: np.ndarray, *columns: np.ndarray) -> np.ndarray:
        return surface_loss(thetas, *columns)


def fit_surface(
    runs: pd.DataFrame,
    *,
    delta: float = 1e-3,
    residual: str = "log",
    tied: bool = False,
    E: float | str | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    cluster: str | None = None,
    resample: str | None = None,
    interval: str = "percentile",
) -> SurfaceLaw:
    """Fit the surface to runs with columns params, tokens, loss.

    residual: the Huber terms are of "log" loss (Hoffmann et al. 2022, eq. 3) or of the "loss" in nats. delta:
    Huber threshold on it (0.001 is 0.1% of the loss, or 0.001 nats). tied: alpha = beta (the base law of
    Muennighoff et al. 2023, arXiv 2305.16264). E: None (fitted), "none" (no such term) or a number of nats
    (held there, e.g. the same for two families). bootstrap: number of resamples of the runs, 0 for no
    intervals. cluster: a column whose values are resampled as wholes, e.g. "size" or "seed". resample: "rows"
    draws runs (or groups) again; "parametric" simulates losses about the fitted surface with the runs'
    scatter, its own uncertainty, and their loss_se as one shift; "residuals" with the runs' own deviations
    (with cluster: their signs, group by group); None: "rows" for 100 runs or more and with cluster, else
    "parametric", see docs/coverage.md. interval: "percentile", or "bca", which refits once more without each
    run (or group): n fits more. UserError for a table that cannot be fitted, see
    `analysis.table.fit_table.prepare`.
    """
    check_options(bootstrap, seed, level, interval)
    held_E = check_terms(residual, E, delta)
    if not isinstance(tied, bool):
        raise UserError(f"tied = {tied!r}: True for alpha = beta, else False")
    table = prepare(runs)
    on_loss = residual == "loss"
    problem = Problem.of(table.params, table.tokens, table.loss, tied=tied, E=held_E, on_loss=on_loss)
    check_identified(table, problem.space.num_free)
    groups = None if cluster is None else group_numbers(table.rows, cluster)
    threshold = delta / problem.unit

    # the optimum: the best end of many starts, for the objective may have several basins
    derivatives = Derivatives(problem)
    best, share = best_of(derivatives, grid_starts(problem, derivatives), len(table), threshold)
    terms = derivatives.terms(best[0], threshold)

    # its uncertainty: the same fit to runs drawn again, or to losses as another sweep would have had them
    resample = choose_resampling(resample, len(table), cluster)
    if resample == "rows":
        draws, unfinished = refit_resamples(
            derivatives, best, len(table), bootstrap, seed, groups, threshold, terms
        )
    else:
        spread, fitted = spread_about_surface(problem, best, table)
        generator = np.random.default_rng(seed)
        losses = draw_losses(table, spread, resample, bootstrap, generator, groups, about=fitted)
        draws, converged = refit(derivatives, best, threshold, None, np.log(losses) - problem.means[2])
        unfinished = int(np.sum(~converged))
    left_out = np.empty((0, len(SYMBOLS)))
    if interval == "bca" and bootstrap:
        units = np.arange(len(table)) if groups is None else groups
        left_out, _ = refit(derivatives, best, threshold, leave_one_out(units), None)

    thetas = problem.natural(np.concatenate([best, draws, left_out]))
    if held_E is not None:
        thetas[:, 0] = held_E  # exactly the number that was given
    A, B, _ = derivatives.shares(best)
    largest_shares = ((1 - A - B).max(), A.max(), B.max())
    terms_shown = zip("EAB", largest_shares, problem.space.free[:3], strict=True)
    vanished = [name for name, size, free in terms_shown if free and size < ABSENT]
    options = {
        "delta": delta, "bootstrap": bootstrap, "seed": seed, "level": level, "cluster": cluster,
        "residual": residual, "tied": tied, "E": E, "resample": resample, "interval": interval,
    }  # fmt: skip
    law = build_law(
        SurfaceLaw, table, options, derivatives, best, share, thetas, unfinished,
        delta=threshold, unit=problem.unit, vanished=vanished, leave_outs=len(left_out),
        advice="look at outliers first, then at whether params and tokens vary independently",
    )  # fmt: skip
    caveats = [*law.warnings, *touching_zero(law)]
    if E is None and len(draws) and np.mean(draws[:, 0] <= LOWER[0]) > (1 - level) / 2:
        caveats.append("these runs put no lower limit on E")
    return replace(law, warnings=tuple(caveats))


def check_terms(residual: str, E: float | str | None, delta: float) -> float | None:
    """E as the solver takes it (None: free, 0: absent); UserError for options that mean nothing."""
    if residual not in RESIDUALS:
        raise UserError(f"residual = {residual!r}: choose one of {', '.join(RESIDUALS)}")
    if not delta > 0:
        raise UserError(f"delta = {delta!r}: the Huber threshold on log loss is above 0, e.g. 0.001")
    if E is None or E == "none":
        return None if E is None else 0.0
    if isinstance(E, bool | str) or not 0 < float(E) < np.inf:
        raise UserError(f"E = {E!r}: None (fitted), 'none' (absent), or a number of nats above 0")
    return float(E)


def check_identified(table: RunTable, num_free: int = len(SYMBOLS)) -> None:
    """UserError unless the runs can tell that many parameters apart, whatever their losses are."""
    distinct = len(np.unique(np.column_stack([table.params, table.tokens]), axis=0))
    if distinct <= num_free:
        raise UserError(
            f"runs: {distinct} different (params, tokens) for the {num_free} parameters of a surface; "
            f"give at least {num_free + 1} finished runs"
        )
    if table.one_budget:
        raise UserError(
            f"runs: all {len(table)} runs spend one budget ({flops_text(table.flops_range[0])} FLOPs), "
            "so size and tokens vary together; add runs at a second budget"
        )
    for name, values in (("params", table.params), ("tokens", table.tokens)):
        distinct = len(np.unique(values))
        if distinct < 3:
            raise UserError(
                f"{name}: a surface needs at least 3 different values; these runs have {distinct}"
            )


def touching_zero(law: PredictingLaw) -> list[str]:
    """A warning for alpha and beta each whose interval reaches 0."""
    return [
        f"{name} = {value}: the interval touches 0, so that term is not identified"
        for name, value in (("alpha", law.alpha), ("beta", law.beta))
        if value.low is not None and value.low < TOUCHES_ZERO
    ]


def problem_of(runs: pd.DataFrame, options: Mapping[str, Any]) -> Problem:
    """The solver's problem for a surface law's runs and options."""
    columns = (runs[name].to_numpy(dtype=np.float64) for name in ("params", "tokens", "loss"))
    E = check_terms(options["residual"], options["E"], options["delta"])
    return Problem.of(*columns, tied=options["tied"], E=E, on_loss=options["residual"] == "loss")


def refit_surface(
    law: SurfaceLaw, *, weights: np.ndarray | None = None, losses: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Refit a law with its own options: E, A, B, alpha, beta (R, 5), and which refits converged (R,).

    weights (R, n) multiply the Huber terms of `law.runs`; losses (R, n) take the place of the measured ones,
    nats per token, above 0. At least one of the two is given.
    """
    problem = problem_of(law.runs, law.options)
    start_Rp = problem.centred(law.thetas[:1])
    threshold = float(law.options["delta"]) / problem.unit
    z_Rn = None if losses is None else np.log(losses) - problem.means[2]
    theta_Rp, converged = refit(Derivatives(problem), start_Rp, threshold, weights, z_Rn)
    thetas = problem.natural(theta_Rp)
    if problem.space.lower[0] == problem.space.upper[0]:
        thetas[:, 0] = law.thetas[0, 0]
    return thetas, converged
