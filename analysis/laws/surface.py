"""Approach 3: the surface L(N, D) = E + A/N^alpha + B/D^beta, by an exact robust fit of log loss.

Objective (Hoffmann et al. 2022, arXiv 2203.15556, eq. 3): the sum, not the mean, over runs of
Huber_delta(log L - log(E + A/N^alpha + B/D^beta)). Besiroglu et al. 2024 (arXiv 2404.10102) show what a mean,
absolute stopping tests and rounding do to it. Intervals come from resamples, each
refitted to its own optimum. Variants (tied exponents, E given or absent, residuals on the loss, a term in
which the data exponent depends on the size) are options of the same fit.

Not covered here: several epochs over the same text (see `constrained`), and losses taken in mid-schedule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

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
from analysis.laws.predicting import PredictingLaw
from analysis.laws.result import FitStatus, common_fields
from analysis.laws.solver.bootstrap import check_interval, check_options, group_numbers
from analysis.laws.solver.draws import Plan, choose, draw_surfaces
from analysis.laws.solver.newrun import Scatter, scatter
from analysis.laws.solver.objective import GRADIENT_TOLERANCE, LOWER, Derivatives, Problem
from analysis.laws.solver.search import best_of
from analysis.laws.solver.starts import grid_starts
from analysis.table.fit_table import RunTable, prepare

if TYPE_CHECKING:
    from analysis.laws.interaction import InteractionLaw

TOUCHES_ZERO = 0.01
FEW_STARTS = 0.2
ABSENT = 1e-5
"""A term that is nowhere more than this share of the loss is not there."""
SYMBOLS = ("E", "A", "B", "alpha", "beta")
RESIDUALS = ("log", "loss")
FORMS = ("separable", "interaction")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SurfaceLaw(PredictingLaw):
    """L(N, D) = E + A N^-alpha + B D^-beta; N and D are counts, L is nats per token.

    thetas: (1 + R, 5) E, A, B, alpha, beta.
    """

    method: ClassVar[str] = "surface"

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
        held = self.options["E"] is not None
        return {
            # a held number has no interval
            name: estimate_of(values[:1] if name == "E" and held else values, self.rule)
            for name, values in zip(SYMBOLS, self.thetas.T, strict=True)
        }

    @property
    def exponents(self) -> dict[str, Estimate]:
        """Of N*, D*, D*/N* and of L* - E, as powers of compute."""
        values = frontier_exponents(self.thetas, self.cost)
        return {name: estimate_of(v, self.rule) for name, v in values.items()}

    @property
    def curve(self) -> Curve:
        return surface_curve(self.thetas[: len(self.thetas) - self.leave_outs], self.cost, self.flops_range)

    @property
    def scatter(self) -> Scatter:
        """How far single runs lie from the law, estimated robustly."""
        predicted = surface_loss(self.thetas[0], *(self.runs[n].to_numpy() for n in ("params", "tokens")))
        loss = self.runs["loss"].to_numpy()
        on_loss = self.options["residual"] == "loss"
        residuals = loss - predicted if on_loss else np.log(loss / predicted)
        num_free = len(SYMBOLS) - (self.options["E"] is not None) - bool(self.options["tied"])
        return scatter(residuals, num_free, on_loss=on_loss)

    def predict(self, params: Any, tokens: Any, *, kind: str = "mean") -> Estimate | pd.DataFrame:
        """Loss at params N and tokens D: an Estimate for numbers, for arrays a DataFrame with columns
        params, tokens, loss, loss_low, loss_high.

        kind "mean": the interval of the law itself (the mean of many runs there); "run": of one new run,
        which misses the law by its own noise too, see `scatter`. UserError unless all are above 0 and finite.
        """
        return self._predicted(kind, params=params, tokens=tokens)

    def _losses(self, *columns: np.ndarray) -> np.ndarray:
        return surface_loss(self.thetas, *columns)

    def _along(self, flops: np.ndarray) -> dict[str, np.ndarray]:
        log_params, log_tokens = optimal_logs(self.thetas, flops, self.cost)
        loss = self.thetas[:, :1] + optimal_loss(self.thetas, log_params, log_tokens)
        return {"params": log_params, "tokens": log_tokens, "loss": loss}


def fit_surface(
    runs: pd.DataFrame,
    *,
    delta: float = 1e-3,
    residual: str = "log",
    tied: bool = False,
    E: float | str | None = None,
    form: str = "separable",
    bootstrap: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    cluster: str | None = None,
    resample: str | None = None,
    interval: str = "percentile",
) -> SurfaceLaw | InteractionLaw:
    """Fit the surface to runs with columns params, tokens, loss.

    residual: what the Huber terms are of, "log" loss (Hoffmann et al. 2022, eq. 3) or the "loss" in nats;
    delta: Huber threshold on it (0.001 is 0.1% of the loss, or 0.001 nats). tied: alpha = beta (the base law
    of Muennighoff et al. 2023, arXiv 2305.16264). E: None (fitted), "none" (no such term) or a number of nats
    (held there, e.g. the same for two families). form: "separable" is E + A/N^alpha + B/D^beta; "interaction"
    lets the data exponent depend on the size, see `analysis.laws.interaction`. bootstrap: number of resamples
    of the runs, 0 for no intervals; cluster: a column whose values are resampled as wholes, e.g. "size" or
    "seed". resample: "rows" draws runs (or groups) again; "parametric" simulates losses about the fitted
    surface with the runs' scatter, its own uncertainty, and their loss_se as one shift; "residuals" with the
    runs' own deviations (with cluster: their signs, group by group); None: "rows" for 100 runs or more and
    with cluster, else "parametric", see docs/coverage.md. interval: "percentile", or "bca", which refits once
    more without each run (or group): n fits more. UserError for a table that cannot be fitted, see
    `analysis.table.fit_table.prepare`.
    """
    check_options(bootstrap, seed, level)
    check_interval(interval)
    held_E = _check_variant(form, residual, tied, E, delta)
    options = {"delta": delta, "bootstrap": bootstrap, "seed": seed, "level": level, "cluster": cluster}
    options |= {"form": form, "residual": residual, "tied": tied, "E": E}
    table = prepare(runs)
    if form == "interaction":
        _check_interaction(resample, interval)
        from analysis.laws.interaction import fit_interaction

        return fit_interaction(table, options, held_E)
    return _fit_separable(table, options | {"resample": resample, "interval": interval}, held_E)


def _fit_separable(table: RunTable, options: Mapping[str, Any], held_E: float | None) -> SurfaceLaw:
    """options: those of `fit_surface`, checked; held_E: nats, 0 for no E, None for a free one."""
    delta, cluster = options["delta"], options["cluster"]
    on_loss = options["residual"] == "loss"
    problem = Problem.of(
        table.params, table.tokens, table.loss, tied=options["tied"], E=held_E, on_loss=on_loss
    )
    check_identified(table, problem.space.num_free)
    groups = None if cluster is None else group_numbers(table.rows, cluster)
    unit = problem.unit
    derivatives = Derivatives(problem)
    ones = np.ones((1, len(table)))
    best, share = best_of(derivatives, grid_starts(problem, derivatives), len(table), delta / unit)
    point = derivatives.at(best, ones, delta / unit)
    gradient = float(derivatives.relative_gradient(best, ones, delta / unit)[0])
    terms = derivatives.terms(best[0], delta / unit)
    kind = choose(options["resample"], len(table), cluster)
    options = {**options, "resample": kind}
    plan = Plan(
        resample=kind,
        bootstrap=options["bootstrap"],
        seed=options["seed"],
        groups=groups,
        leave_outs=options["interval"] == "bca",
    )
    rows, unfinished, num_left_out = draw_surfaces(
        derivatives, problem, best, table, plan, delta / unit, terms
    )
    thetas = problem.natural(np.concatenate([best, rows]))
    if held_E is not None:
        thetas[:, 0] = held_E
    thetas.flags.writeable = False
    A, B, _ = derivatives.shares(best)
    largest_shares = np.array([(1 - A - B).max(), A.max(), B.max()])
    status, sentence = _verdict(best[0], largest_shares, gradient, problem)
    law = SurfaceLaw(
        **common_fields(table, options),
        status=status,
        sentence=f"{sentence}; {share:.0%} of the starts end here",
        warnings=(),
        thetas=thetas,
        objective=float(point.f_R[0]) * unit**2,
        gradient=gradient,
        share_of_starts=share,
        leave_outs=num_left_out,
    )
    draws = rows[: len(rows) - num_left_out]
    return replace(law, warnings=tuple(_warnings(law, table, draws, unfinished)))


def _check_variant(form: str, residual: str, tied: bool, E: float | str | None, delta: float) -> float | None:
    """E as the solver takes it (None: free, 0: absent); UserError for options of no surface."""
    if form not in FORMS:
        raise UserError(f"form = {form!r}: choose one of {', '.join(FORMS)}")
    if residual not in RESIDUALS:
        raise UserError(f"residual = {residual!r}: choose one of {', '.join(RESIDUALS)}")
    if not isinstance(tied, bool):
        raise UserError(f"tied = {tied!r}: True for alpha = beta, else False")
    if not delta > 0:
        raise UserError(f"delta = {delta!r}: the Huber threshold on log loss is above 0, e.g. 0.001")
    if E is None or E == "none":
        return None if E is None else 0.0
    if isinstance(E, bool | str) or not 0 < float(E) < np.inf:
        raise UserError(f"E = {E!r}: None (fitted), 'none' (absent), or a number of nats above 0")
    return float(E)


def _check_interaction(resample: str | None, interval: str) -> None:
    if resample not in (None, "rows") or interval != "percentile":
        raise UserError(
            'form = "interaction" has resample = "rows" and interval = "percentile" only; leave out '
            "those options"
        )


def check_identified(table: RunTable, num_free: int) -> None:
    """UserError unless the runs can tell that many parameters apart."""
    distinct = len(np.unique(np.column_stack([table.params, table.tokens]), axis=0))
    if distinct <= num_free:
        raise UserError(
            f"runs: {distinct} different (params, tokens) for the {num_free} parameters of a surface; "
            f"give at least {num_free + 1} finished runs"
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


def _verdict(
    theta: np.ndarray, largest_shares: np.ndarray, gradient: float, problem: Problem
) -> tuple[FitStatus, str]:
    """theta (5,) in centred coordinates; largest_shares (3,) of E, A, B in the predicted loss of any run."""
    free = problem.space.free
    if gradient > GRADIENT_TOLERANCE:
        return FitStatus.NOT_CONVERGED, (
            f"the gradient at the best point is {gradient:.1e} of its terms, above {GRADIENT_TOLERANCE:.0e}; "
            "look at outliers first, then at whether params and tokens vary independently"
        )
    absent = [
        name
        for name, share, may in zip("EAB", largest_shares, free[:3], strict=True)
        if may and share < ABSENT
    ]
    if absent:
        return FitStatus.BOUND_HIT, (
            f"{' and '.join(absent)} vanished: the runs are best described without that term, so its numbers "
            "mean nothing"
        )
    edge = free & ((theta <= problem.space.lower) | (theta >= problem.space.upper))
    at_bound = [name for name, bound in zip(SYMBOLS, edge, strict=True) if bound]
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
    free_E = law.options["E"] is None
    if free_E and len(draws) and np.mean(draws[:, 0] <= LOWER[0]) > (1 - law.level) / 2:
        found.append("E is not identified from below: the interval reaches 0")
    if law.share_of_starts < FEW_STARTS:
        found.append(f"only {law.share_of_starts:.0%} of the starts reach the optimum; others may lie close")
    if unfinished > 0.01 * len(draws):
        found.append(f"{unfinished} of {len(draws)} resamples did not converge; their last points are used")
    return found
