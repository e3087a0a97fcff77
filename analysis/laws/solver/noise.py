"""Losses as another sweep of the same design might have had them: what stands behind parametric intervals.

The spread of the runs about their curve is itself estimated from few runs; dividing each draw's spread by a
chi makes percentiles t intervals. The runs of a sweep are scored on one held-out text, so a known standard
error of that score (`loss_se`) moves all losses of a draw together and cancels between runs and families.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.laws.solver.bootstrap import group_weights
from analysis.laws.solver.refit import leave_one_out
from analysis.table.fit_table import RunTable

SHARED_TEXT = 20260215
"""Seed of the draws that stand for another held-out text; equal in every fit, so that families share them."""
SMALLEST_SHARE = 1e-3
"""A drawn loss stays above this share of the measured one: logs are taken of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How far runs lie from the curve they are held against, relative to the loss."""

    fitted: np.ndarray
    """The curve at each run, nats per token, (n,)."""
    deviations: np.ndarray
    """(loss - fitted) / fitted, enlarged for the fitted terms, (n,)."""
    sd: float | None
    """Standard deviation, pooled over all runs; None where no run is to spare."""
    freedom: float
    """Degrees of freedom of sd; 0 where it is given, not estimated."""


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
    ones (n,), or about other ones.

    With groups (n,), numbered 0, 1, ..., residuals stay with their run and change sign as wholes, group by
    group (wild cluster bootstrap), because the runs of a group err together. R is 0 where no noise is known.
    """
    known = np.zeros(len(table)) if table.loss_se is None else table.loss_se
    if resample == "residuals":
        if spread.sd is None:
            return np.empty((0, len(table)))
        noise = spread.fitted * _residuals(spread.deviations, draws, generator, groups)
    elif spread.sd is None:
        # no budget with a run to spare: the noise of the evaluation is the only one known
        draws = draws if known.any() else 0
        noise = generator.standard_normal((draws, len(table))) * known
    else:
        noise = spread.fitted * spread.sd * _student(spread.freedom, draws, len(table), generator)
        noise += known * shared_text(draws)[:, None]
    return np.maximum((table.loss if about is None else about) + noise, SMALLEST_SHARE * table.loss)


def shared_text(draws: int) -> np.ndarray:
    """Standard normal draws (R,) that are the same in every fit."""
    return np.random.default_rng(SHARED_TEXT).standard_normal(draws)


def _student(freedom: float, draws: int, num_runs: int, generator: np.random.Generator) -> np.ndarray:
    """Normal noise (R, n) whose scale varies from draw to draw as an estimated scale does."""
    scale = np.ones((draws, 1))
    if freedom:
        scale = np.sqrt(freedom / generator.chisquare(freedom, size=(draws, 1)))
    return scale * generator.standard_normal((draws, num_runs))


def _residuals(
    deviations: np.ndarray, draws: int, generator: np.random.Generator, groups: np.ndarray | None
) -> np.ndarray:
    if groups is None:
        return deviations[generator.integers(0, len(deviations), size=(draws, len(deviations)))]
    signs = 2.0 * generator.integers(0, 2, size=(draws, int(groups.max()) + 1)) - 1.0
    return deviations * signs[:, groups]


def spread_about_budgets(table: RunTable, shape: str, noise: float | None) -> Spread:
    """How far runs lie about their budgets' curves; noise (nats) replaces what they tell."""
    log_params = np.log(table.params)
    fitted = table.loss.copy()
    enlarge = np.ones(len(table))
    squares, freedom = 0.0, 0
    for _, members in table.budgets():
        x, loss = log_params[members], table.loss[members]
        degree = _degree(len(np.unique(x)), shape)
        if degree:
            u = x - x.mean()
            fitted[members] = np.polyval(np.polyfit(u, loss, degree), u)
            squares += float(np.sum((loss / fitted[members] - 1) ** 2))
            freedom += len(x) - degree - 1
            enlarge[members] = np.sqrt(len(x) / max(len(x) - degree - 1, 1))
    # relative, as in the surface's log loss: dear budgets have lower losses and lower noise
    deviations = (table.loss / fitted - 1) * enlarge
    if noise is not None:
        ones = np.ones(len(table))
        return Spread(fitted=ones, deviations=deviations, sd=noise, freedom=0)
    sd = float(np.sqrt(squares / freedom)) if freedom else None
    return Spread(fitted=fitted, deviations=deviations, sd=sd, freedom=freedom)


def _degree(num_sizes: int, shape: str) -> int:
    """Degree of the polynomial that noise is told from at one budget; 0 where there is none to spare."""
    if shape == "parabola":
        return 2 if num_sizes >= 3 else 0
    return {4: 2, 5: 3}.get(num_sizes, 4 if num_sizes > 5 else 0)


def draw_rows(
    table: RunTable,
    spread_of_runs: Spread,
    resample: str,
    bootstrap: int,
    seed: int,
    groups: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Losses and weights (1 + R, n): the table, then its resamples."""
    generator = np.random.default_rng(seed)
    if resample != "rows":
        drawn = draw_losses(table, spread_of_runs, resample, bootstrap, generator, groups)
        losses = np.concatenate([table.loss[None], drawn])
        return losses, np.ones_like(losses)
    weights = np.ones((1 + bootstrap, len(table)))
    if groups is not None:
        weights[1:] = group_weights(groups, bootstrap, generator)
    else:
        for _, members in table.budgets():
            weights[1:, members] = group_weights(np.arange(len(members)), bootstrap, generator)
    return np.broadcast_to(table.loss, weights.shape), weights


def with_leave_outs(
    table: RunTable, losses: np.ndarray, weights: np.ndarray, groups: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """The same with one more row for each run (or group), which leaves it out."""
    without = leave_one_out(np.arange(len(table)) if groups is None else groups)
    measured = np.broadcast_to(table.loss, without.shape)
    return np.concatenate([losses, measured]), np.concatenate([weights, without])
