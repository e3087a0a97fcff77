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
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from scipy.special import ndtri

from analysis.errors import UserError
from analysis.estimate import Estimate, estimate_of
from analysis.frontier import (
    Curve,
    GridCurve,
    frontier_exponents,
    optimal_logs,
    optimal_loss,
    surface_curve,
    surface_loss,
)
from analysis.laws.predicting import PredictingLaw, build_law
from analysis.laws.result import Law
from analysis.laws.solver.bootstrap import INTERVALS, check_options, leave_one_out, resampling_units
from analysis.laws.solver.deviation import OUTLIER, Deviation, fit_deviation
from analysis.laws.solver.lack_of_fit import LackOfFit, lack_of_fit
from analysis.laws.solver.noise import (
    NEW_RUN,
    SHARED_TEXT,
    choose_resampling,
    draw_losses,
    spread_about_surface,
)
from analysis.laws.solver.objective import LOWER, Derivatives, Problem
from analysis.laws.solver.search import best_of, grid_starts, refit, refit_resamples
from analysis.table.fit_table import RunTable, prepare
from analysis.text import flops_text

TOUCHES_ZERO = 0.01
ABSENT = 1e-5
"""A term that is nowhere more than this share of the loss is not there."""
SYMBOLS = ("E", "A", "B", "alpha", "beta")
EFFICIENT = 1.345
"""Huber threshold in standard deviations: 95% of the efficiency of least squares on normal noise."""
FARTHEST, CURVE_POINTS = 1e6, 121
SHIFT, SHIFTS = 3.0, 31
"""With a deviation, the best size is searched this far from that of the form (natural log), in so many steps:
much finer than the reach of the deviation."""
DECADES = 10.0
"""With a deviation, exponents are slopes from this factor below the largest budget to that above it."""
RESIDUALS = ("log", "loss")
LEAST_SQUARES = 1e3
"""A Huber threshold that no residual exceeds."""


class SurfaceFrontier(PredictingLaw):
    """A law whose frontier is that of a surface: the first columns of thetas are its parameters."""

    @property
    def exponents(self) -> dict[str, Estimate]:
        """Of N*, D*, D*/N* and of L* - E, as powers of compute (while there is fresh text)."""
        return {name: estimate_of(values, self.rule) for name, values in self.exponent_values().items()}

    def exponent_values(self) -> dict[str, np.ndarray]:
        """The exponents with their resamples, (1 + R,) each."""
        return frontier_exponents(self.thetas[:, :5], self.cost)

    @property
    def curve(self) -> Curve | GridCurve:
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
    deviation: Deviation | None = None
    """Smooth deviation from the form, which estimates and intervals allow for; None: they trust the form."""
    lack_of_fit: LackOfFit | None = None
    """Whether a surface describes the means of repeated runs; None if that cannot be tested."""

    @property
    def num_free(self) -> int:
        return len(SYMBOLS) - (self.options["E"] is not None) - bool(self.options["tied"])

    @cached_property
    def allowance(self) -> SurfaceLaw:
        """The same law, allowing for a smooth deviation of log loss from its form (`solver.deviation`).

        Its estimates include the deviation that the runs show, its intervals what it may be elsewhere: the
        loss of any run, and loss, size and tokens of the best run (within a factor 20 of the form's size).
        Exponents are slopes over the two decades about the largest budget. The parameters stay those of the
        form, with its intervals.
        """
        if self.deviation is not None:
            return self
        runs, problem = self.runs, problem_of(self.runs, self.options)
        groups = None
        if "seed" in runs and runs["seed"].notna().all():
            sizes = runs["params"].astype(str) + " " + runs["seed"].astype(str)
            groups = np.unique(sizes, return_inverse=True)[1]
        shared = 0.0
        if "loss_se" in runs and runs["loss_se"].notna().all():
            shared = float(runs["loss_se"].mean())
        thetas = self.thetas[: len(self.thetas) - self.leave_outs]
        deviation = fit_deviation(
            self.thetas[0],
            *(runs[name].to_numpy(dtype=np.float64) for name in ("params", "tokens", "loss")),
            basis=problem.space.basis_pk, groups=groups, draws=len(thetas) - 1, loss_se=shared,
            seed=int(self.options["seed"]), shared_seed=SHARED_TEXT,
        )  # fmt: skip
        options, caveats = {**self.options, "interval": "allowance"}, self.warnings
        if count := len(deviation.outliers):
            caveats += (
                f"{count} run{'s are' if count > 1 else ' is'} left out of the deviation: further than "
                f"{OUTLIER:g} standard deviations from what the others predict "
                f"(row {', '.join(map(str, runs.index[deviation.outliers[:6]]))})",
            )
        return replace(
            self, deviation=deviation, thetas=thetas, leave_outs=0, options=options, warnings=caveats
        )

    def _beside(self) -> tuple[str, Law]:
        if self.deviation is None:
            return "allowance", self.allowance
        return "form", replace(self, deviation=None, options={**self.options, "interval": "form"})

    def _loss(self, thetas: np.ndarray, *columns: np.ndarray) -> np.ndarray:
        return surface_loss(thetas, *columns)

    def _losses(self, *columns: np.ndarray) -> np.ndarray:
        if self.deviation is None:
            return super()._losses(*columns)
        factor = np.exp(self.deviation.at(*map(np.log, columns)))
        return self._loss(self.thetas[:1], *columns) * factor + self.deviation.shared[:, None]

    def _with_run(self, values: np.ndarray) -> np.ndarray:
        if self.deviation is None:
            return super()._with_run(values)
        draws = len(values) - 1
        normal = ndtri((np.arange(draws) + 0.5) / max(draws, 1))
        normal = np.random.default_rng([int(self.options["seed"]), NEW_RUN]).permutation(normal)
        return np.concatenate([values[:1], values[1:] * np.exp(self.deviation.noise[1:] * normal)[:, None]])

    def _along(self, flops: np.ndarray) -> dict[str, np.ndarray]:
        if self.deviation is None:
            return super()._along(flops)
        centre, _ = optimal_logs(self.thetas[0], flops, self.cost)
        shifts = np.linspace(-SHIFT, SHIFT, SHIFTS)
        sizes = (centre[:, None] + shifts).ravel()
        tokens = np.log(self.cost.tokens(np.exp(sizes), np.repeat(flops, SHIFTS)))
        form = np.log(self._loss(self.thetas[:1], np.exp(sizes), np.exp(tokens)))
        logs = (form + self.deviation.at(sizes, tokens)).reshape(-1, len(flops), SHIFTS)
        # each draw's minimum next to that of the estimate, for far from the runs a draw may fall without end;
        # then the vertex of the parabola through it and its neighbours
        middle = np.clip(_descend(logs, logs[0].argmin(axis=-1)), 1, SHIFTS - 2)
        left, own, right = (np.take_along_axis(logs, middle[..., None] + k, -1)[..., 0] for k in (-1, 0, 1))
        slope, curvature = (right - left) / 2, left - 2 * own + right
        with np.errstate(divide="ignore", invalid="ignore"):
            vertex = np.where(curvature > 0, -slope / curvature, -np.sign(slope))
        step = np.clip(vertex, -1, 1)  # at an end of the grid it may lie outside
        size = centre + shifts[middle] + step * (shifts[1] - shifts[0])
        return {
            "params": size,
            "tokens": np.log(flops / self.cost.k) - self.cost.q * size,
            "loss": np.exp(own + (slope + curvature * step / 2) * step) + self.deviation.shared[:, None],
        }

    def exponent_values(self) -> dict[str, np.ndarray]:
        if self.deviation is None:
            return super().exponent_values()
        largest = self.flops_range[1]
        along = self._along(largest * np.array([1 / DECADES, DECADES]))
        along["tokens_per_param"] = along["tokens"] - along["params"]
        along["loss"] = np.log(along["loss"])
        return {name: np.diff(values)[:, 0] / (2 * np.log(DECADES)) for name, values in along.items()}

    @cached_property
    def curve(self) -> Curve | GridCurve:
        if self.deviation is None:
            return super().curve
        smallest, largest = self.flops_range
        grid = np.geomspace(smallest / FARTHEST, largest * FARTHEST, CURVE_POINTS)
        return GridCurve(
            log_flops=np.log(grid), losses=self._along(grid)["loss"], flops_range=self.flops_range
        )


def _descend(values: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Where the last axis of values (R, m, k) stops to fall, going down from start (m,) on its lower side."""
    places, steps = np.arange(values.shape[-1]), np.diff(values, axis=-1)
    rises = np.where(places[:-1] >= start[:, None], steps >= 0, False)
    falls = np.where(places[:-1] < start[:, None], steps <= 0, False)
    right = np.where(rises.any(axis=-1), rises.argmax(axis=-1), len(places) - 1)
    left = np.where(falls.any(axis=-1), len(places) - 1 - falls[..., ::-1].argmax(axis=-1), 0)
    at = [np.take_along_axis(values, side[..., None], axis=-1)[..., 0] for side in (left, right)]
    return np.where(at[0] < at[1], left, right)


def fit_surface(
    runs: pd.DataFrame,
    *,
    delta: float | str = 1e-3,
    residual: str = "log",
    tied: bool = False,
    E: float | str | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    cluster: str | None = None,
    resample: str | None = None,
    interval: str = "form",
) -> SurfaceLaw:
    """Fit the surface to runs with columns params, tokens, loss.

    residual: the Huber terms are of "log" loss (Hoffmann et al. 2022, eq. 3) or of the "loss" in nats. delta:
    Huber threshold on it (0.001 is 0.1% of the loss, or 0.001 nats; at that the fit is nearly one of least
    absolute deviations), or "auto": 1.345 times the scatter of the runs, which loses 5% of a least-squares
    fit's efficiency on normal noise (Huber 1981), and gives narrower intervals. tied: alpha =
    beta (the base law of Muennighoff et al. 2023, arXiv 2305.16264). E: None (fitted), "none" (no such term)
    or a number of nats (held there, e.g. the same for two families). bootstrap: number of resamples of the
    runs, 0 for no intervals. Repeats of one design with other seeds (replicas of a run, or runs apart) are
    drawn as wholes, and simulated losses have noise of their own and what the surface misses in common.
    cluster: a column whose values are resampled as wholes, e.g. "size" or "seed". resample: "rows" draws runs
    (or groups) again; "parametric" simulates losses about the fitted surface with the runs' scatter, its own
    uncertainty, and their loss_se as one shift; "residuals" with the runs' own deviations (with cluster:
    their signs, group by group); None: "rows" for 100 runs or more and with cluster, else "parametric", see
    docs/coverage.md. interval: "form" trusts the form of the law, and takes percentiles of the resamples;
    "bca" too, refitted once more without each run (or group); "allowance" allows for a smooth deviation from
    the form, see `SurfaceLaw.allowance`. UserError for a table that cannot be fitted, see
    `analysis.table.fit_table.prepare`.
    """
    interval = check_options(bootstrap, seed, level, interval, (*INTERVALS, "allowance"))
    if not isinstance(tied, bool):
        raise UserError(f"tied = {tied!r}: True for alpha = beta, else False")
    if delta == "auto":
        first = fit_surface(runs, residual=residual, tied=tied, E=E, bootstrap=0)
        delta = max(1e-3, EFFICIENT * first.scatter.sd)
    held_E = check_terms(residual, E, delta)
    delta = float(delta)
    table = prepare(runs)
    on_loss = residual == "loss"
    problem = Problem.of(table.params, table.tokens, table.loss, tied=tied, E=held_E, on_loss=on_loss)
    check_identified(table, problem.space.num_free)
    groups = resampling_units(table, cluster)
    threshold = delta / problem.unit

    # the optimum: the best end of many starts, for the objective may have several basins
    derivatives = Derivatives(problem)
    best, share = best_of(derivatives, grid_starts(problem, derivatives), len(table), threshold)
    terms = derivatives.terms(best[0], threshold)

    # its uncertainty: the same fit to runs drawn again, or to losses as another sweep would have had them
    resample = choose_resampling(resample, len(table) if groups is None else int(groups.max()) + 1, cluster)
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
    lack = _lack_of_fit(table, problem, best)
    law = build_law(
        SurfaceLaw, table, options, derivatives, best, share, thetas, unfinished,
        delta=threshold, unit=problem.unit, vanished=vanished, leave_outs=len(left_out), lack_of_fit=lack,
        advice="look at outliers first, then at whether params and tokens vary independently",
    )  # fmt: skip
    caveats = [*law.warnings, *touching_zero(law)]
    if E is None and len(draws) and np.mean(draws[:, 0] <= LOWER[0]) > (1 - level) / 2:
        caveats.append("these runs put no lower limit on E")
    if lack is not None and lack.fails:
        caveats.append(
            f"no surface describes the means of repeated runs, which lie {lack.pooled.lack:.2%} off it "
            f"(repeats scatter by {lack.pooled.error:.2%}; {lack.sentence}); law.allowance allows for "
            "what it misses"
        )
    law = replace(law, warnings=tuple(caveats))
    return law.allowance if interval == "allowance" else law


def _lack_of_fit(table: RunTable, problem: Problem, best: np.ndarray) -> LackOfFit | None:
    """The test about the least-squares surface, found from the robust optimum `best` (1, p)."""
    cells = table.repeats
    if cells is None:
        return None
    least, _ = refit(Derivatives(problem), best, LEAST_SQUARES, np.ones((1, len(table))), None)
    fitted = surface_loss(problem.natural(least)[0], table.params, table.tokens)
    return lack_of_fit(table.loss / fitted - 1, cells, problem.space.num_free)


def check_terms(residual: str, E: float | str | None, delta: float | str) -> float | None:
    """E as the solver takes it (None: free, 0: absent); UserError for options that mean nothing."""
    if residual not in RESIDUALS:
        raise UserError(f"residual = {residual!r}: choose one of {', '.join(RESIDUALS)}")
    if isinstance(delta, str) or not delta > 0:
        raise UserError(
            f"delta = {delta!r}: the Huber threshold on log loss is above 0, e.g. 0.001, or 'auto'"
        )
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
