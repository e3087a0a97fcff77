"""Resamples of a surface fit: runs drawn again, or losses simulated about the fitted surface.

Which is right was measured by simulation (benchmarks/coverage.py, docs/coverage.md). In tables of a few dozen
runs drawing runs leaves sizes and budgets out of most resamples, and the robust fit, which is close to least
absolute deviations, then scatters far more than it does from sweep to sweep: intervals come out a third too
wide. Simulated losses keep the design. Large tables are drawn run by run, which supposes nothing about noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.errors import UserError
from analysis.frontier import surface_loss
from analysis.laws.solver.newrun import scatter
from analysis.laws.solver.noise import Spread, draw_losses
from analysis.laws.solver.objective import Derivatives, Problem, Terms
from analysis.laws.solver.refit import leave_one_out, refit
from analysis.laws.solver.search import resample
from analysis.table.fit_table import RunTable

RESAMPLINGS = ("rows", "parametric", "residuals")
MANY_RUNS = 100
"""From so many runs on, runs are drawn again by default; below, losses are simulated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is resampled and how often."""

    resample: str
    bootstrap: int
    seed: int
    groups: np.ndarray | None
    """(n,) group number of every run, or None."""
    leave_outs: bool
    """Also refit without each run (or group), as BCa intervals need."""


def choose(asked: str | None, num_runs: int, cluster: str | None) -> str:
    """The kind of resampling: the one asked for, else by the size of the table. UserError if unknown."""
    if asked is None:
        return "rows" if cluster is not None or num_runs >= MANY_RUNS else "parametric"
    if asked not in RESAMPLINGS:
        raise UserError(f"resample = {asked!r}; choose one of {', '.join(RESAMPLINGS)}")
    if asked == "parametric" and cluster is not None:
        raise UserError('cluster needs resample = "rows" or "residuals"; parametric noise has no groups')
    return asked


def draw_surfaces(
    objective: Derivatives,
    problem: Problem,
    best: np.ndarray,
    table: RunTable,
    plan: Plan,
    delta: float,
    terms: Terms,
) -> tuple[np.ndarray, int, int]:
    """Optima (R + J, p) of R resamples and J leave-outs, how many did not converge, and J.

    best (1, p), delta and terms are those of the fit, in the solver's coordinates and units.
    """
    if plan.resample == "rows":
        draws, unfinished = resample(
            objective, best, len(table), plan.bootstrap, plan.seed, plan.groups, delta, terms
        )
    else:
        losses = simulated(problem, best, table, plan)
        draws, converged = refit(objective, best, delta, None, losses, problem.means[2])
        unfinished = int(np.sum(~converged))
    if not plan.leave_outs or not plan.bootstrap:
        return draws, unfinished, 0
    groups = np.arange(len(table)) if plan.groups is None else plan.groups
    left_out, _ = refit(objective, best, delta, leave_one_out(groups), None, problem.means[2])
    return np.concatenate([draws, left_out]), unfinished, len(left_out)


def simulated(problem: Problem, best: np.ndarray, table: RunTable, plan: Plan) -> np.ndarray:
    """Losses (R, n) about the fitted surface, with the scatter of the runs and its own uncertainty."""
    fitted = surface_loss(problem.natural(best)[0], table.params, table.tokens)
    num_free = problem.space.num_free
    enlarge = np.sqrt(len(table) / (len(table) - num_free))
    off = table.loss - fitted if problem.on_loss else np.log(table.loss / fitted)
    seen = scatter(off, num_free, on_loss=problem.on_loss)
    spread = Spread(
        fitted=np.ones_like(fitted) if problem.on_loss else fitted,
        deviations=enlarge * off,
        sd=seen.sd,
        freedom=seen.freedom,
    )
    generator = np.random.default_rng(plan.seed)
    return draw_losses(table, spread, plan.resample, plan.bootstrap, generator, plan.groups, about=fitted)
