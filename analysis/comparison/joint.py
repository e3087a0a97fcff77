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

from analysis.errors import UserError
from analysis.laws.solver.bootstrap import resample_weights
from analysis.laws.solver.noise import choose_resampling, draw_losses, spread_about_surface
from analysis.laws.solver.objective import (
    LOWER,
    ROUNDING,
    UPPER,
    Derivatives,
    Point,
    Problem,
    Space,
    huber_deviance,
)
from analysis.laws.solver.search import best_of, refit
from analysis.laws.surface import SurfaceLaw, fit_surface, problem_of
from analysis.table.fit_table import prepare

OWN = 4
"""Coordinates a family has to itself."""


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Laws with one E, and how well one E describes the runs."""

    laws: dict[str, SurfaceLaw]
    p: float
    """Of one E against separate ones: likelihood ratio of the robust fits
    (`solver.objective.huber_deviance`), chi-squared with one degree of freedom less than families."""
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
    taken. UserError if a family cannot be fitted alone (its E may be undetermined, its exponents may not).
    """
    separate: dict[str, SurfaceLaw] = {}
    for name, rows in runs.items():
        try:
            separate[name] = fit_surface(rows, bootstrap=0, delta=delta, level=level, seed=seeds[name])
        except UserError as problem:
            raise UserError(f"family {name}: {problem}") from problem
    laws = list(separate.values())
    problems = [problem_of(law.runs, law.options) for law in laws]
    objective = JointObjective(problems)

    # the joint optimum: the best end of starts at every family's own E, and at their mean
    own = np.concatenate(
        [part.centred(law.thetas[:1])[0, 1:] for part, law in zip(problems, laws, strict=True)]
    )
    floors = [float(np.log(max(law.thetas[0, 0], 1e-3 * law.runs["loss"].min()))) for law in laws]
    floors.append(float(np.mean(floors)))
    start_Rp = np.array([[floor, *own] for floor in floors])
    best, _ = best_of(objective, start_Rp, objective.num_runs, delta, tolerance=1e-6, max_steps=60)
    value = float(objective.at(best, np.ones((1, objective.num_runs)), delta).f_R[0])

    # every family is resampled on its own, all of them are refitted together
    tables = [prepare(law.runs) for law in laws]
    resample = choose_resampling(resample, min(int(table.cells.max()) + 1 for table in tables), None)
    weights, losses = [], []
    for k, (part, table, seed) in enumerate(
        zip(problems, tables, map(seeds.__getitem__, separate), strict=True)
    ):
        if resample == "rows":
            chunks = resample_weights(len(table), bootstrap, seed, table.repeats)
            weights.append(np.concatenate([np.empty((0, len(table))), *chunks]))
            losses.append(np.broadcast_to(part.z, weights[-1].shape))
        else:
            spread, fitted = spread_about_surface(part, objective.own(best, k), table)
            generator = np.random.default_rng(seed)
            drawn = draw_losses(table, spread, resample, bootstrap, generator, table.repeats, about=fitted)
            losses.append(np.log(drawn) - part.means[2])
            weights.append(np.ones_like(drawn))
    weight_Rn, z_Rn = np.concatenate(weights, axis=1), np.concatenate(losses, axis=1)
    theta_Rp, converged = refit(objective, best, delta, weight_Rn, z_Rn, tolerance=1e-10)
    unfinished = int(np.sum(~converged))

    # how much one E costs: the joint objective against the sum of the separate ones
    rows = np.concatenate([best, theta_Rp])
    apart = sum(law.objective for law in laws)
    exact = objective.num_runs * delta * ROUNDING
    excess = max(value / apart - 1, 0.0) if apart > exact else 0.0
    sentence = (
        f"E shared by {len(laws)} families; their joint objective is {excess:.1%} above that of separate ones"
        + (f"; {unfinished} of {bootstrap} resamples did not converge" if unfinished else "")
    )
    joint = {}
    for k, (name, law) in enumerate(separate.items()):
        thetas = problems[k].natural(objective.own(rows, k))
        thetas[:, 0] = np.exp(rows[:, 0])  # the same to the bit
        thetas.flags.writeable = False
        options = {**law.options, "bootstrap": bootstrap, "resample": resample, "shared_E": sorted(separate)}
        joint[name] = replace(law, thetas=thetas, options=options, sentence=sentence)
    ratio = 0.0
    if excess > 0:
        num_runs = objective.num_runs
        ratio = huber_deviance(value, num_runs, delta) - huber_deviance(apart, num_runs, delta)
    return Shared(laws=joint, excess=excess, p=float(chdtrc(len(laws) - 1, max(ratio, 0.0))))
