"""The laws behind an answer: every family by every method, and their draws side by side.

Three methods are asked: the surface, which trusts its form ("surface"); the same allowing for a deviation
from it ("allowance"); and IsoFLOP ("isoflop"). The combined answer is the average of the last two: half of
its draws come from either, so its interval covers the distance between them. For a family whose minima
refute their power law of the loss, or that has no minima, it is the allowance alone.

On published tables, fitted below a cut and compared with the best losses measured above it, the combined
interval held 89% of them at 1 to 3 times the largest budget, 100% beyond; the allowance alone 90, 92 (3 to
10 times) and 88%, the surface 48, 62 and 11%, IsoFLOP 52, 40 and 11% (docs/coverage.md). It also reaches to
what each method estimates. Draw r of all families moves with the error of the held-out text
that all share, so a difference between families is taken draw by draw, and method by method: their errors are
alike in all families too.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from analysis.checks.diagnostics import MOST_DIAGNOSED, diagnose
from analysis.errors import UserError
from analysis.estimate import Estimate, spread
from analysis.laws import fit_law
from analysis.laws.constrained import ConstrainedLaw
from analysis.laws.isoflop import IsoflopLaw
from analysis.laws.result import FitStatus, Law
from analysis.laws.solver.repeats import ONCE
from analysis.laws.surface import SurfaceLaw

SURFACE, ALLOWANCE, ISOFLOP = "surface", "allowance", "isoflop"
METHODS = (SURFACE, ALLOWANCE, ISOFLOP)
REPEATS = "constrained"
OTHER_COUNTS = ("params_total", "params_non_embedding", "params_body")
DRAWS = 500
"""Resamples of each law: enough for an interval and shares to a percent, in a second for seven families."""
FEWEST_DRAWS = 40
"""With fewer the ends of a 95% interval are the extremes."""
LEAST = 1e-6
"""A drawn loss (nats) counts as no lower than this."""
SIZES = 241
WIDEST = 6.0
"""Sizes looked at under a limit, and how far from the best one (natural log)."""


@dataclass(frozen=True, kw_only=True)
class FamilyLaws:
    """The laws of one family."""

    family: str
    bound: str
    """"exact" if the loss is a likelihood, "upper" if it bounds one, "" if the table does not say."""
    laws: Mapping[str, Law]
    """By method; one without a law is missing."""
    refused: Mapping[str, str]
    """Why a method has no law."""
    repeats: ConstrainedLaw | None = None
    """The law of repeated text, if the runs tell one."""
    sweeps: tuple[str, ...] = ()
    """The sweeps that the runs come from, if the table says so."""
    recounted: tuple[Law, ...] = ()
    """The allowance again, without draws, for every other way of counting parameters that the runs have."""

    @property
    def largest_budget(self) -> float:
        return next(iter(self.laws.values())).flops_range[1]

    @cached_property
    def draws(self) -> int:
        """Of the law that has most."""
        return max(len(law.curve) - 1 for law in self.laws.values())

    @property
    def smallest_budget(self) -> float:
        return next(iter(self.laws.values())).flops_range[0]

    @property
    def surface(self) -> SurfaceLaw | None:
        """It allows for a deviation from its form."""
        law = self.laws.get(ALLOWANCE)
        return law if isinstance(law, SurfaceLaw) else None

    def distance(self, flops: float) -> float:
        """How many times a budget lies beyond those measured; 1 within them, less below them."""
        return max(flops / self.largest_budget, 1.0) * min(flops / self.smallest_budget, 1.0)

    @cached_property
    def advice(self) -> str:
        """What the checks say of the law that reports show: "reliable", or what to mind; "" for tables too
        long to check."""
        law = next(iter(self.laws.values()))
        return diagnose(law).advice if len(law.runs) <= MOST_DIAGNOSED else ""

    @property
    def combined(self) -> tuple[str, str]:
        """The methods whose draws make the two halves of the combined answer."""
        isoflop = self.laws.get(ISOFLOP)
        usable = isinstance(isoflop, IsoflopLaw) and "loss" not in isoflop.bent
        first = ALLOWANCE if ALLOWANCE in self.laws else next(iter(self.laws))
        return first, ISOFLOP if usable else first

    @property
    def fault(self) -> str:
        """What makes the surface useless; "" if nothing does."""
        law = self.surface
        if law is None:
            return ""
        if law.status is not FitStatus.CONVERGED:
            return f"the surface of {self.family} is not determined by its runs ({law.sentence})"
        if law.E >= law.runs["loss"].min():
            return f"E of {self.family} lies at or above its lowest loss"
        return ""


def fit_families(
    runs: pd.DataFrame,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = 0.95,
    report: Callable[[str, int, int], None] | None = None,
) -> tuple[dict[str, FamilyLaws], dict[str, str]]:
    """The laws of every family of a run table, and for families without any the reason.

    A table without a column family is one family, "". report(family, number, of) is called before each.
    UserError for fewer than `FEWEST_DRAWS` draws, and if no family has a law.
    """
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < FEWEST_DRAWS:
        raise UserError(f"draws = {draws!r}: resamples of each law, a whole number from {FEWEST_DRAWS} on")
    if not isinstance(runs, pd.DataFrame):
        raise UserError("runs: give a pandas DataFrame with columns params, tokens, loss and family")
    if runs.empty or ("family" in runs and runs["family"].isna().all()):
        raise UserError(f"runs: none of the {len(runs)} rows names a family" if len(runs) else "runs: empty")
    column = runs["family"] if "family" in runs else pd.Series("", index=runs.index)
    names = list(map(str, column.dropna().unique()))
    fitted: dict[str, FamilyLaws] = {}
    none: dict[str, str] = {}
    for number, name in enumerate(names):
        if report is not None:
            report(name, number, len(names))
        options = {"bootstrap": draws, "level": level, "seed": zlib.crc32(f"{seed}/{name}".encode())}
        family = _fit_family(name, runs[column == name], options)
        if family.laws:
            fitted[name] = family
        else:
            none[name] = family.refused[SURFACE]
    if not fitted:
        alike = {reason: [name for name in none if none[name] == reason] for reason in none.values()}
        raise UserError("; ".join(f"{', '.join(n)}: {r}" if any(n) else r for r, n in alike.items()))
    return fitted, none


def _fit_family(name: str, rows: pd.DataFrame, options: dict[str, Any]) -> FamilyLaws:
    laws: dict[str, Law] = {}
    refused: dict[str, str] = {}
    repeats, every_row = None, rows
    if "unique_tokens" in rows:
        again = rows["tokens"] / rows["unique_tokens"] - 1 > ONCE
        if again.any():
            # laws of unlimited text are fitted to the runs that read theirs once
            rows = rows[~again]
            try:
                repeats = fit_law(every_row, REPEATS, **options)
            except UserError as problem:
                refused[REPEATS] = str(problem)
    for method in (SURFACE, ISOFLOP):
        try:
            laws[method] = fit_law(rows, method, **options)
        except UserError as problem:
            refused[method] = str(problem)
    recounted: list[Law] = []
    if SURFACE in laws and laws[SURFACE].allowance is not None:
        laws[ALLOWANCE] = laws[SURFACE].allowance  # type: ignore[assignment]
        for count in OTHER_COUNTS:
            counted = rows.get(count)
            if counted is not None and counted.notna().all() and not counted.equals(rows["params"]):
                other = fit_law(rows.assign(params=counted.astype(float)), bootstrap=0)
                recounted.append(other.allowance or other)
    bounds = rows["bound"].dropna().unique() if "bound" in rows else []
    return FamilyLaws(
        family=name, bound=str(bounds[0]) if len(bounds) == 1 else "", laws=laws, refused=refused,
        repeats=repeats if isinstance(repeats, ConstrainedLaw) else None, recounted=tuple(recounted),
        sweeps=tuple(map(str, rows["sweep"].dropna().unique())) if "sweep" in rows else (),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a family reaches. Arrays (1 + 2 R,): the estimate, then R draws of each combined method."""

    log_params: np.ndarray
    log_tokens: np.ndarray
    loss: np.ndarray
    estimates: Mapping[str, tuple[float, float, float]]
    """params, tokens and loss as each method has them."""
    losses: Mapping[str, np.ndarray]
    """The draws (R,) of each method; of the estimate, if it has none."""
    combined: tuple[str, str]
    """The methods of the two halves."""
    free: bool = False
    """Whether this is the best run of its budget, which no limit has moved."""
    recounted: tuple[float, float] = (0.0, 0.0)
    """By how much other ways of counting parameters move the log loss, down and up."""

    def loss_interval(self, level: float) -> Estimate:
        """The combined loss; its interval covers the draws, the other ways of counting, and the estimates of
        the surface and of the methods combined."""
        loss = interval_of(self.loss, level)
        if loss.low is None or loss.high is None:
            return loss
        down, up = np.exp(self.recounted)
        others = [self.estimates[method][2] for method in {SURFACE, *self.combined} & self.estimates.keys()]
        return Estimate(float(loss), min(loss.low * down, *others), max(loss.high * up, *others), level)


def interval_of(values: np.ndarray, level: float) -> Estimate:
    """The first value with the interval of the others, if there are any."""
    if len(values) == 1:
        return Estimate(float(values[0]), level=level)
    low, high = spread(values[1:], level)
    return Estimate(float(values[0]), float(low), float(high), level)


def _outcome(
    rows: Mapping[str, Mapping[str, np.ndarray]],
    count: int,
    combined: tuple[str, str] = (ALLOWANCE, ALLOWANCE),
    **fields: Any,
) -> Outcome:
    """Rows (1 + R,) of each method, those of the combined answer side by side; its estimate is the mean of
    their logs."""
    columns = {}
    for name in ("params", "tokens", "loss"):
        values = [np.log(np.maximum(rows[m][name], LEAST)) if name == "loss" else rows[m][name]
                  for m in combined]  # fmt: skip
        # a law may have dropped resamples that have no minimum: the others stand for them
        drawn = [np.resize(value[1:], count) for value in values]
        columns[name] = np.concatenate([[np.mean([value[0] for value in values])], *drawn])
    estimates = {
        method: (float(np.exp(row["params"][0])), float(np.exp(row["tokens"][0])), float(row["loss"][0]))
        for method, row in rows.items()
    }
    losses = {method: np.resize(row["loss"][1:] if count else row["loss"], count or 1)
              for method, row in rows.items()}  # fmt: skip
    return Outcome(
        log_params=columns["params"], log_tokens=columns["tokens"], loss=np.exp(columns["loss"]),
        estimates=estimates, losses=losses, combined=combined, **fields,
    )  # fmt: skip


def best_run(family: FamilyLaws, flops: float, count: int) -> Outcome:
    """The compute-optimal run at a budget."""
    rows = {}
    for method, law in family.laws.items():
        along = law._along(np.array([flops]))
        last = len(along["loss"]) - law.leave_outs
        rows[method] = {name: values[:last, 0] for name, values in along.items()}
    shifts = [0.0]
    for law in family.recounted:
        own = rows[ALLOWANCE]["loss"][0]
        shifts.append(float(np.log(law._along(np.array([flops]))["loss"][0, 0] / own)))
    return _outcome(rows, count, family.combined, free=True, recounted=(min(shifts), max(shifts)))


def given_run(family: FamilyLaws, params: float, tokens: float, count: int) -> Outcome:
    """A run of that size on that many tokens, which the surface alone can tell. UserError without one."""
    law = _surface(family)
    loss = law._losses(np.array([params]), np.array([tokens]))[:, 0]
    fixed = {"params": np.full(len(loss), np.log(params)), "tokens": np.full(len(loss), np.log(tokens))}
    return _outcome({ALLOWANCE: fixed | {"loss": loss}}, count)


def limited_run(
    family: FamilyLaws, flops: float, count: int, *, unique_tokens: float, epochs: float
) -> Outcome:
    """The best run at a budget that reads at most `epochs` times `unique_tokens`; a family without a law of
    repeated text reads it once. UserError without a surface, if the limit counts."""
    free = best_run(family, flops, count)
    if np.exp(free.log_tokens[0]) <= unique_tokens:
        return free
    law = family.repeats
    if law is None:  # the loss rises on either side of its minimum: the largest text allowed is the best
        cost = _surface(family).cost
        return given_run(family, (flops / (cost.k * unique_tokens)) ** (1 / cost.q), unique_tokens, count)
    centre = float(law._along(np.array([flops]))["params"][0, 0])
    smallest = (np.log(flops / law.cost.k) - np.log(unique_tokens * epochs)) / law.cost.q
    sizes = np.linspace(centre - WIDEST, centre + WIDEST, SIZES)
    if np.isfinite(smallest):  # else epochs have no limit
        sizes = np.unique(np.concatenate([sizes[sizes >= smallest - 1e-9], [smallest]]))
    params = np.exp(sizes)
    tokens = law.cost.tokens(params, np.full(len(params), flops))
    losses = law._losses(params, tokens, np.full(len(params), unique_tokens))
    best = losses.argmin(axis=1)
    rows = {
        "params": sizes[best],
        "tokens": np.log(tokens[best]),
        "loss": losses[np.arange(len(losses)), best],
    }
    return _outcome({ALLOWANCE: rows}, count)


def size_range(family: FamilyLaws, flops: float, share: float) -> tuple[float, float]:
    """Sizes whose loss is within `share` of the best one's at a budget, as the surface estimates it, widened
    to hold the best size of each combined method; these alone where there is no surface."""
    laws = [family.laws[method] for method in family.combined]
    estimates = [float(np.exp(law._along(np.array([flops]))["params"][0, 0])) for law in laws]
    law = family.surface
    if law is not None:
        sizes = np.log(estimates[0]) + np.linspace(-WIDEST / 2, WIDEST / 2, SIZES)
        params = np.exp(sizes)
        first = replace(law, thetas=law.thetas[:1], deviation=law.deviation and law.deviation.estimate)
        losses = first._losses(params, law.cost.tokens(params, np.full(SIZES, flops)))[0]
        lowest = int(losses.argmin())
        outside = np.flatnonzero(losses > losses[lowest] * (1 + share))
        left, right = outside[outside < lowest], outside[outside > lowest]
        estimates += [params[left[-1] + 1] if len(left) else params[0],
                      params[right[0] - 1] if len(right) else params[-1]]  # fmt: skip
    return float(min(estimates)), float(max(estimates))


def flops_for(family: FamilyLaws, loss: float, count: int) -> np.ndarray:
    """Budgets (1 + 2 R,) at which the frontier reaches a loss; infinite if it does not."""
    rows = []
    for method in family.combined:
        curve = family.laws[method].curve
        rows.append(curve.flops_at(np.full((len(curve), 1), loss))[:, 0])
    estimate = np.exp(np.mean([np.log(row[0]) for row in rows]))
    return np.concatenate([[estimate], *(np.resize(row[1:], count) for row in rows)])


def _surface(family: FamilyLaws) -> SurfaceLaw:
    law = family.surface
    if law is None:
        raise UserError(f"family {family.family} has no surface to ask: {family.refused[SURFACE]}")
    return law


def paired_losses(outcomes: Mapping[str, Outcome]) -> dict[str, np.ndarray]:
    """Losses to be compared: the mean of the estimates, then the draws, of the methods that all families have
    and any of them combines; of the combined answer, if there is no such method."""
    every = outcomes.values()
    shared = [
        method
        for method in (ALLOWANCE, ISOFLOP)
        if all(method in one.losses for one in every) and any(method in one.combined for one in every)
    ]
    if not shared:
        return {name: outcome.loss for name, outcome in outcomes.items()}
    return {
        name: np.concatenate([
            [np.mean([outcome.estimates[method][2] for method in shared])],
            *(outcome.losses[method] for method in shared),
        ])
        for name, outcome in outcomes.items()
    }  # fmt: skip


def shares_won(outcomes: Mapping[str, Outcome], names: Sequence[str], method: str) -> dict[str, float]:
    """Of the draws of a method, the share in which each family that it has an answer for is the best."""
    having = [name for name in names if method in outcomes[name].losses]
    if not having:
        return {}
    lowest = np.stack([outcomes[name].losses[method] for name in having]).argmin(axis=0)
    return {name: float(np.mean(lowest == number)) for number, name in enumerate(having)}
