"""Surfaces of several families with one E: the same text has one entropy, whatever family models it.

The sum of the families' robust objectives over (E; A, B, alpha, beta of each), minimised as one problem by
the solver of the single surface. Only for losses of one kind: bounds of different tightness have no common
floor, so for a family whose loss is an upper bound the shared E is an assumption, and an `upper` bound's gap
that does not shrink would be taken for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.special import chdtrc

from analysis.checks.likelihood import huber_deviance
from analysis.errors import UserError
from analysis.laws import fit_law
from analysis.laws.solver.bootstrap import chunk_rows, resample_weights
from analysis.laws.solver.draws import Plan, choose, simulated
from analysis.laws.solver.newton import minimise
from analysis.laws.solver.objective import LOWER, ROUNDING, UPPER, Derivatives, Point, Problem, Space
from analysis.laws.solver.refit import centred, problem_of
from analysis.laws.surface import SurfaceLaw
from analysis.table.fit_table import RunTable, prepare

OWN = 4
"""Coordinates a family has to itself."""


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What a fit with one E gave."""

    laws: dict[str, SurfaceLaw]
    p: float
    """Of one E against separate ones: likelihood ratio of the robust fits (see `analysis.checks.likelihood`),
    chi-squared with one degree of freedom less than families."""
    excess: float
    """How far the joint objective lies above the sum of the separate ones, relative to that sum."""


class JointObjective:
    """Coordinates (log E, then a, b, alpha, beta of each family); weights and losses side by side."""

    def __init__(self, problems: list[Problem]) -> None:
        self.parts = [Derivatives(problem) for problem in problems]
        self.means = np.array([problem.means[2] for problem in problems])
        ends = np.cumsum([0, *(len(problem.x) for problem in problems)])
        self.columns = [slice(ends[k], ends[k + 1]) for k in range(len(problems))]
        self.places = [np.array([0, *range(1 + OWN * k, 1 + OWN * (k + 1))]) for k in range(len(problems))]
        self.space = Space(
            lower=np.concatenate([[LOWER[0] + self.means.min()], *[LOWER[1:]] * len(problems)]),
            upper=np.concatenate([[UPPER[0] + self.means.max()], *[UPPER[1:]] * len(problems)]),
        )

    @property
    def num_runs(self) -> int:
        return int(self.columns[-1].stop)

    def own(self, theta_Rp: np.ndarray, k: int) -> np.ndarray:
        """Coordinates (R, 5) of one family."""
        theta = theta_Rp[:, self.places[k]].copy()
        theta[:, 0] -= self.means[k]
        return theta

    def at(
        self, theta_Rp: np.ndarray, weight_Rn: np.ndarray, delta: float, z_Rn: np.ndarray | None = None
    ) -> Point:
        num, size = theta_Rp.shape
        total = Point(np.zeros(num), np.zeros((num, size)), np.zeros((num, size, size)))
        for k, (part, columns, places) in enumerate(zip(self.parts, self.columns, self.places, strict=True)):
            z = None if z_Rn is None else z_Rn[:, columns]
            point = part.at(self.own(theta_Rp, k), weight_Rn[:, columns], delta, z)
            total.f_R += point.f_R
            total.gradient_Rp[:, places] += point.gradient_Rp
            total.hessian_Rpp[:, places[:, None], places] += point.hessian_Rpp
        return total

    def majoriser(
        self, theta_Rp: np.ndarray, weight_Rn: np.ndarray, delta: float, z_Rn: np.ndarray | None = None
    ) -> np.ndarray:
        size = theta_Rp.shape[1]
        total = np.zeros((len(theta_Rp), size, size))
        for k, (part, columns, places) in enumerate(zip(self.parts, self.columns, self.places, strict=True)):
            z = None if z_Rn is None else z_Rn[:, columns]
            own = part.majoriser(self.own(theta_Rp, k), weight_Rn[:, columns], delta, z)
            total[:, places[:, None], places] += own
        return total


def fit_shared_E(
    runs: Mapping[str, pd.DataFrame],
    *,
    delta: float = 1e-3,
    bootstrap: int = 1000,
    seeds: Mapping[str, int],
    level: float = 0.95,
    resample: str | None = None,
) -> Shared:
    """One surface per family, all with the same E (nats per token), to the runs of each (see `fit_law`).

    seeds: of each family's resamples. Starts are the separate fits at each family's own E; the best end is
    taken. UserError where a family cannot be fitted alone (its E may be undetermined, its exponents may not).
    """
    separate = {}
    for name, rows in runs.items():
        try:
            law = fit_law(rows, bootstrap=0, delta=delta, level=level, seed=seeds[name])
        except UserError as problem:
            raise UserError(f"family {name}: {problem}") from problem
        assert isinstance(law, SurfaceLaw), "the default form is separable"
        separate[name] = law
    tables = {name: prepare(law.runs) for name, law in separate.items()}
    problems = [problem_of(law.runs, law.options) for law in separate.values()]
    objective = JointObjective(problems)
    best, value = _best(objective, problems, list(separate.values()), delta)
    plans = {
        name: Plan(
            resample=choose(resample, min(map(len, tables.values())), None),
            bootstrap=bootstrap,
            seed=seeds[name],
            groups=None,
            leave_outs=False,
        )
        for name in tables
    }
    draws, unfinished = _draw(objective, problems, best, list(tables.values()), list(plans.values()), delta)
    rows = np.concatenate([best, draws])
    apart = sum(law.objective for law in separate.values())
    exact = objective.num_runs * delta * ROUNDING
    excess = max(value / apart - 1, 0.0) if apart > exact else 0.0
    laws = {}
    for k, (name, law) in enumerate(separate.items()):
        thetas = problems[k].natural(objective.own(rows, k))
        thetas[:, 0] = np.exp(rows[:, 0])  # the same to the bit
        thetas.flags.writeable = False
        options = {
            **law.options, "bootstrap": bootstrap, "resample": plans[name].resample, "shared_E":
            sorted(separate),
        }  # fmt: skip
        late = f"; {unfinished} of {bootstrap} resamples did not converge" if unfinished else ""
        sentence = (
            f"E shared by {len(separate)} families; their joint objective is {excess:.1%} above that of "
            "separate ones"
        )
        laws[name] = replace(law, thetas=thetas, options=options, sentence=sentence + late)
    ratio = 0.0
    if excess > 0:
        ratio = huber_deviance(value, objective.num_runs, delta) - huber_deviance(
            apart, objective.num_runs, delta
        )
    return Shared(laws=laws, excess=excess, p=float(chdtrc(len(laws) - 1, max(ratio, 0.0))))


def _best(
    objective: JointObjective, problems: list[Problem], laws: list[SurfaceLaw], delta: float
) -> tuple[np.ndarray, float]:
    """The best joint optimum (1, p) from a start at every family's own E, and the objective there."""
    own = np.concatenate([centred(p, law.thetas[:1])[0, 1:] for p, law in zip(problems, laws, strict=True)])
    floors = [float(np.log(max(law.thetas[0, 0], 1e-3 * law.runs["loss"].min()))) for law in laws]
    floors.append(float(np.mean(floors)))
    start_Rp = np.array([[floor, *own] for floor in floors])
    weight_Rn = np.ones((len(start_Rp), objective.num_runs))
    for step in (3e-2, 1e-2, 4e-3, 2e-3):
        if step > 1.5 * delta:
            start_Rp = minimise(objective, start_Rp, weight_Rn, step, tolerance=1e-6, max_steps=60).theta_Rp
    ended = minimise(objective, start_Rp, weight_Rn, delta)
    value = objective.at(ended.theta_Rp, weight_Rn, delta).f_R
    winner = int(np.argmin(value))
    return ended.theta_Rp[[winner]], float(value[winner])


def _draw(
    objective: JointObjective,
    problems: list[Problem],
    best: np.ndarray,
    tables: list[RunTable],
    plans: list[Plan],
    delta: float,
) -> tuple[np.ndarray, int]:
    """Joint refits (R, p) of every family's resamples, and how many did not converge."""
    weights, losses = [], []
    for k, (problem, table, plan) in enumerate(zip(problems, tables, plans, strict=True)):
        if plan.resample == "rows":
            drawn = [np.empty((0, len(table))), *resample_weights(len(table), plan.bootstrap, plan.seed)]
            weights.append(np.concatenate(drawn))
            losses.append(np.broadcast_to(problem.z, weights[-1].shape))
        else:
            simulation = simulated(problem, objective.own(best, k), table, plan)
            losses.append(np.log(simulation) - problem.means[2])
            weights.append(np.ones_like(simulation))
    weight_Rn, z_Rn = np.concatenate(weights, axis=1), np.concatenate(losses, axis=1)
    theta_Rp, late = np.empty((len(weight_Rn), best.shape[1])), 0
    chunk = chunk_rows(objective.num_runs)
    for first in range(0, len(weight_Rn), chunk):
        rows = slice(first, min(first + chunk, len(weight_Rn)))
        start = np.repeat(best, rows.stop - rows.start, axis=0)
        with np.errstate(over="ignore", invalid="ignore"):
            ended = minimise(objective, start, weight_Rn[rows], delta, tolerance=1e-10, z_Rn=z_Rn[rows])
        theta_Rp[rows] = ended.theta_Rp
        late += int(np.sum(~ended.converged_R))
    return theta_Rp, late
