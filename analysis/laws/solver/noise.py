"""The noise of runs: their scatter about a law, the loss of a new run, and simulated sweeps.

Scatter about a law is Huber's Proposal 2 (Huber & Ronchetti 2009, Robust Statistics, section 6.4): the
variance of residuals cut at 2 standard deviations, made consistent for normal noise. Outliers hardly widen
it, and a new run that is an outlier is not covered.

Simulated losses are those that another sweep of the same design might have had: they stand behind parametric
intervals. The spread of the runs about their curve is itself estimated from few runs; dividing each draw's
spread by a chi makes percentiles t intervals. The runs of a sweep are scored on one held-out text, so a known
standard error of that score (`loss_se`) moves all losses of a draw together and cancels between runs and
families.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, stdtrit

from analysis.errors import UserError
from analysis.frontier import surface_loss
from analysis.laws.solver.objective import Problem
from analysis.table.fit_table import RunTable

CUT = 2.0
KINDS = ("mean", "run")
MOST_STEPS = 200
NEW_RUN = 7
"""Tells the draws of a new run's noise from every other use of the seed."""
SHARED_TEXT = 20260215
"""Seed of the draws that stand for another held-out text; equal in every fit, so that families share them."""
SMALLEST_SHARE = 1e-3
"""A drawn loss stays above this share of the measured one: logs are taken of it."""
RESAMPLINGS = ("rows", "parametric", "residuals")
DEGREES = {"parabola": 2, "cubic": 3}
"""Curves of an IsoFLOP law that are polynomials."""
MANY_RUNS = 100
"""Tables with this many runs or more draw runs again by default; smaller ones simulate losses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scatter:
    """How far runs lie from their law."""

    sd: float
    """Standard deviation of log loss (relative), or of loss in nats if the fit was to the loss itself."""
    freedom: float
    """Degrees of freedom of that estimate: runs to spare times its efficiency on normal noise."""
    on_loss: bool = False

    def with_run(self, value: np.ndarray, draws: np.ndarray, seed: int) -> np.ndarray:
        """The law's loss (1, m), then losses of a new run: Student's t noise about each draw (R, m).

        The quantiles of the t distribution are handed to the draws in an order given by the seed; one order
        for all columns.
        """
        count = len(draws)
        quantiles = stdtrit(self.freedom, (np.arange(count) + 0.5) / max(count, 1))
        noise = self.sd * np.random.default_rng([seed, NEW_RUN]).permutation(quantiles)[:, None]
        return np.concatenate([value, draws + noise if self.on_loss else draws * np.exp(noise)])


def scatter(residuals: np.ndarray, num_parameters: int, *, on_loss: bool = False) -> Scatter:
    """The scatter of residuals (n,) of a law with so many fitted parameters; n must be larger."""
    spare = len(residuals) - num_parameters
    assert spare > 0, "a fit with no run to spare says nothing about scatter"
    clipped_square, efficiency = _normal_moments(CUT)
    squares = np.square(residuals)
    # half of normal residuals lie within 0.6745 standard deviations
    variance = float(np.median(squares)) / 0.6745**2 or float(squares.mean())
    for _ in range(MOST_STEPS):
        if variance <= np.finfo(float).tiny:
            break
        ratio = float(np.minimum(squares / variance, CUT**2).sum()) / (spare * clipped_square)
        variance *= ratio
        if abs(ratio - 1) < 1e-12:
            break
    return Scatter(sd=math.sqrt(variance), freedom=spare * efficiency, on_loss=on_loss)


def check_kind(kind: str) -> None:
    """UserError for an unknown kind of prediction."""
    if kind not in KINDS:
        raise UserError(f"kind = {kind!r}: choose 'mean' (of the law itself) or 'run' (of one new run)")


def _normal_moments(cut: float) -> tuple[float, float]:
    """For standard normal Z: the mean of min(Z^2, cut^2), and the efficiency of that as a scale.

    A variance estimate has as many degrees of freedom as 2 / (its squared coefficient of variation); the
    linearised Proposal 2 has `efficiency` times those of the plain variance (0.885 at a cut of 2).
    """
    density = math.exp(-(cut**2) / 2) / math.sqrt(2 * math.pi)
    inside = 2 * float(ndtr(cut)) - 1
    second = inside - 2 * cut * density
    fourth = 3 * second - 2 * cut**3 * density
    clipped_square = second + cut**2 * (1 - inside)
    clipped_fourth = fourth + cut**4 * (1 - inside)
    return clipped_square, 2 * second**2 / (clipped_fourth - clipped_square**2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The scatter of runs of which some are repeats, in two parts: between repeats, and of cells.

    A cell's mean over r repeats lies off the curve by the noise of its seeds, which falls as 1 / sqrt(r), and
    by what the curve misses there, which does not fall. Mean squares of the two (an analysis of variance)
    tell them apart: within cells the noise alone, of cell means about the curve the noise and `repeats` times
    the misfit.
    """

    cells: np.ndarray
    """The cell of each run, numbered 0, 1, ..., (n,)."""
    within: float
    """Standard deviation between repeats, in the units of `Spread.sd`."""
    within_freedom: float
    about: float
    """Root mean square of cell means about the curve times the root of their repeats; 0 if no cell is to
    spare."""
    about_freedom: float
    repeats: float
    """Effective number of repeats of a cell."""

    @property
    def misfit(self) -> float:
        """Standard deviation of what the curve misses, from cell to cell; 0 if noise explains it."""
        return math.sqrt(max(self.about**2 - self.within**2, 0.0) / self.repeats)

    def draw(self, draws: int, generator: np.random.Generator) -> np.ndarray:
        """Noise of runs (draws, n): every draw takes the two mean squares as uncertain as they are."""
        within = self.within**2 * self._over_chi(self.within_freedom, draws, generator)
        about = self.about**2 * self._over_chi(self.about_freedom, draws, generator)
        misfit = np.maximum(about - within, 0.0) / self.repeats
        of_cells = generator.standard_normal((draws, int(self.cells.max()) + 1))[:, self.cells]
        of_runs = generator.standard_normal((draws, len(self.cells)))
        return np.asarray(np.sqrt(misfit)[:, None] * of_cells + np.sqrt(within)[:, None] * of_runs)

    @staticmethod
    def _over_chi(freedom: float, draws: int, generator: np.random.Generator) -> np.ndarray:
        return freedom / generator.chisquare(freedom, size=draws) if freedom else np.ones(draws)

    def weights(self) -> np.ndarray:
        """Of each run (n,) in a least-squares fit: the inverse variance of its cell's mean, shared by its
        repeats, so that a size that was repeated often counts no more than its misfit allows."""
        count = np.bincount(self.cells)[self.cells]
        variance = self.within**2 + count * self.misfit**2
        weights = 1 / variance if self.within > 0 else 1.0 / count
        return np.asarray(weights / weights.mean())


def split_scatter(
    deviations: np.ndarray, cells: np.ndarray | None, num_parameters: int, *, robust: bool = False
) -> Parts | None:
    """The parts of deviations (n,) of runs from a curve with so many fitted parameters; None without repeats.

    robust: mean squares by `scatter`, which outliers hardly widen.
    """
    if cells is None:
        return None
    count = np.bincount(cells)
    means = np.bincount(cells, weights=deviations) / count
    apart, off = deviations - means[cells], np.sqrt(count) * means
    freedom, spare = len(cells) - len(count), len(count) - num_parameters
    sizes: list[tuple[float, float]] = []
    for values, free, fitted in ((apart, freedom, len(count)), (off, spare, num_parameters)):
        if free < 1:
            sizes.append((0.0, 0.0))
        elif robust:
            size = scatter(values, fitted)
            sizes.append((size.sd, size.freedom))
        else:
            sizes.append((math.sqrt(float(np.sum(values**2)) / free), float(free)))
    repeats = (len(cells) - float(np.sum(count**2)) / len(cells)) / max(len(count) - 1, 1)
    (within, within_freedom), (about, about_freedom) = sizes
    return Parts(
        cells=cells, within=within, within_freedom=within_freedom, about=about,
        about_freedom=about_freedom, repeats=repeats,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How far runs lie from the curve they are held against, relative to the loss."""

    fitted: np.ndarray
    """The curve at each run, nats per token, (n,)."""
    deviations: np.ndarray
    """(loss - fitted) / fitted, enlarged for the terms fitted to the cells, (n,)."""
    sd: float | None
    """Standard deviation, pooled over all runs; None if no run is to spare."""
    freedom: float
    """Degrees of freedom of sd; 0 if it was given, not estimated."""
    parts: Parts | None = None
    """Noise and misfit apart, where runs were repeated."""


def spread_about_surface(problem: Problem, best: np.ndarray, table: RunTable) -> tuple[Spread, np.ndarray]:
    """How far runs lie about the surface fitted to them, and the fitted losses (n,); best (1, p) is
    centred."""
    fitted = surface_loss(problem.natural(best)[0], table.params, table.tokens)
    num_free = problem.space.num_free
    off = table.loss - fitted if problem.on_loss else np.log(table.loss / fitted)
    size = scatter(off, num_free, on_loss=problem.on_loss)
    units = int(table.cells.max()) + 1
    enlarge = np.sqrt(units / (units - num_free))
    unit = np.ones_like(fitted) if problem.on_loss else fitted
    parts = split_scatter(off, table.repeats, num_free, robust=True)
    spread = Spread(
        fitted=unit, deviations=enlarge * off, sd=size.sd, freedom=size.freedom, parts=parts
    )  # fmt: skip
    return spread, fitted


def spread_about_budgets(table: RunTable, shape: str, noise: float | None) -> Spread:
    """How far runs lie about their budgets' curves; noise (nats) replaces that estimate."""
    if noise is not None:
        ones = np.ones(len(table))
        return Spread(fitted=ones, deviations=0 * ones, sd=noise, freedom=0)
    log_params, cells = np.log(table.params), table.cells
    fitted, enlarge = table.loss.copy(), np.ones(len(table))
    squares, freedom, num_parameters = 0.0, 0, 0
    for _, members in table.budgets():
        x, loss = log_params[members], table.loss[members]
        sizes = len(np.unique(x))
        if shape in DEGREES:
            degree = DEGREES[shape] if sizes > DEGREES[shape] else 0
        else:
            # an interpolant leaves no residuals, so its noise is read from a polynomial with sizes to spare
            degree = {4: 2, 5: 3}.get(sizes, 4 if sizes > 5 else 0)
        if degree:
            u = x - x.mean()
            fitted[members] = np.polyval(np.polyfit(u, loss, degree), u)
            squares += float(np.sum((loss / fitted[members] - 1) ** 2))
            freedom += len(x) - degree - 1
            num_parameters += degree + 1
            units = len(np.unique(cells[members]))
            enlarge[members] = np.sqrt(units / max(units - degree - 1, 1))
        else:
            num_parameters += sizes  # a mean each: no deviation
            fitted[members] = _means(x, loss)
    # relative, as in the surface's log loss: large budgets have lower losses and lower noise
    deviations = (table.loss / fitted - 1) * enlarge
    sd = float(np.sqrt(squares / freedom)) if freedom else None
    parts = None if sd is None else split_scatter(table.loss / fitted - 1, table.repeats, num_parameters)
    return Spread(fitted=fitted, deviations=deviations, sd=sd, freedom=freedom, parts=parts)


def _means(x: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """The mean loss of each run's size."""
    place = np.unique(x, return_inverse=True)[1]
    return np.asarray((np.bincount(place, weights=loss) / np.bincount(place))[place])


def draw_losses(
    table: RunTable,
    spread: Spread,
    resample: str,
    draws: int,
    generator: np.random.Generator,
    groups: np.ndarray | None = None,
    *,
    about: np.ndarray | None = None,
) -> np.ndarray:
    """Losses (R, n) with "parametric" normal noise, or noise drawn from the "residuals", about the measured
    ones (n,), or about other ones. R is 0 if there is no estimate of the noise.

    With groups (n,), numbered 0, 1, ..., residuals stay with their run and change sign together, group by
    group (wild cluster bootstrap), because the errors of a group are correlated.
    """
    num_runs = len(table)
    loss_se = np.zeros(num_runs) if table.loss_se is None else table.loss_se
    if resample == "residuals":
        if spread.sd is None:
            return np.empty((0, num_runs))
        if groups is None:
            deviations = spread.deviations[generator.integers(0, num_runs, size=(draws, num_runs))]
        else:
            signs = 2.0 * generator.integers(0, 2, size=(draws, int(groups.max()) + 1)) - 1.0
            deviations = spread.deviations * signs[:, groups]
        noise = spread.fitted * deviations
    elif spread.sd is None:
        # no budget with a run to spare: only the noise of the evaluation can be simulated
        noise = generator.standard_normal((draws if loss_se.any() else 0, num_runs)) * loss_se
    else:
        scale = np.ones((draws, 1))
        if spread.parts is None and spread.freedom:
            # the scale varies between draws as an estimated scale does: percentiles become t intervals
            scale = np.sqrt(spread.freedom / generator.chisquare(spread.freedom, size=(draws, 1)))
        if spread.parts is None:
            noise = spread.fitted * spread.sd * (scale * generator.standard_normal((draws, num_runs)))
        else:
            noise = spread.fitted * spread.parts.draw(draws, generator)
        # the held-out text is the same in every fit, and so is its error
        shared = np.random.default_rng(SHARED_TEXT).standard_normal(draws)
        noise += loss_se * shared[:, None]
    return np.maximum((table.loss if about is None else about) + noise, SMALLEST_SHARE * table.loss)


def choose_resampling(resample: str | None, num_runs: int, cluster: str | None) -> str:
    """How a surface is resampled: as the user says, else by the size of the table. UserError if unknown.

    Which is right was measured by simulation (benchmarks/coverage.py, docs/coverage.md). In tables of a few
    dozen runs drawing runs leaves sizes and budgets out of most resamples, and the robust fit, which is close
    to least absolute deviations, then scatters far more than it does from sweep to sweep: intervals come out
    a third too wide. Simulated losses keep the design. In large tables runs are drawn, which assumes nothing
    about the noise.
    """
    if resample is None:
        return "rows" if cluster is not None or num_runs >= MANY_RUNS else "parametric"
    if resample not in RESAMPLINGS:
        raise UserError(f"resample = {resample!r}; choose one of {', '.join(RESAMPLINGS)}")
    if resample == "parametric" and cluster is not None:
        raise UserError('cluster needs resample = "rows" or "residuals"; parametric noise has no groups')
    return resample
