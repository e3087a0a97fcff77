"""A law of your own: one file with a law and its fit, and one entry in the registry.

    python -m examples.own_law

The law is that of Kaplan et al. 2020 (arXiv 2001.08361, eq. 1.5):

    L(N, D) = ((N_c/N)^(alpha_N/alpha_D) + D_c/D)^alpha_D

Once registered it is a method of `analysis.fit_law`, `analysis.compare` and `analysis.rollout`, and one of
the laws that `analysis.diagnose` and `analysis.select` try. With `standard=True` sweeps, reports and the
dashboard fit it too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

import analysis
from analysis.estimate import Estimate, estimate_of
from analysis.frontier import (
    Curve,
    frontier_exponents,
    optimal_logs,
    optimal_loss,
    surface_curve,
    surface_loss,
)
from analysis.laws import LawEntry, register
from analysis.laws.predicting import PredictingLaw
from analysis.laws.result import FitStatus, common_fields
from analysis.laws.solver.bootstrap import check_options, resample_weights
from analysis.table.fit_table import prepare

SYMBOLS = ("N_c", "D_c", "alpha_N", "alpha_D")
START = np.log([1e14, 1e13, 0.08, 0.1])


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class KaplanLaw(PredictingLaw):
    """The base class predicts, prints, draws and saves; a law says how its parameters give a loss."""

    method: ClassVar[str] = "kaplan"
    symbols: ClassVar[tuple[str, ...]] = SYMBOLS

    @property
    def num_free(self) -> int:
        return len(SYMBOLS)

    def _loss(self, thetas: np.ndarray, *columns: np.ndarray) -> np.ndarray:
        return surface_loss(inside(thetas), *columns) ** thetas[:, 3:]

    def _along(self, flops: np.ndarray) -> dict[str, np.ndarray]:
        # the bracket is a surface without E, and the power leaves its minimum along a budget where it is
        log_params, log_tokens = optimal_logs(inside(self.thetas), flops, self.cost)
        loss = optimal_loss(inside(self.thetas), log_params, log_tokens) ** self.thetas[:, 3:]
        return {"params": log_params, "tokens": log_tokens, "loss": loss}

    @property
    def exponents(self) -> dict[str, Estimate]:
        values = frontier_exponents(inside(self.thetas), self.cost)
        values["loss"] = values.pop("reducible_loss") * self.thetas[:, 3]
        return {name: estimate_of(draws, self.rule) for name, draws in values.items()}

    @property
    def curve(self) -> Curve:
        bracket, power = surface_curve(inside(self.thetas), self.cost, self.flops_range), self.thetas[:, 3]
        return Curve(
            E=0 * power, log_K=power * bracket.log_K, c=power * bracket.c, flops_range=self.flops_range
        )


def inside(thetas: np.ndarray) -> np.ndarray:
    """E, A, B, alpha, beta (m, 5) of the bracket: 0 + N_c^r / N^r + D_c / D with r = alpha_N / alpha_D."""
    N_c, D_c, alpha_N, alpha_D = thetas.T
    ratio = alpha_N / alpha_D
    return np.stack([0 * N_c, N_c**ratio, D_c, ratio, np.ones_like(ratio)], axis=1)


def fit_kaplan(runs: pd.DataFrame, *, bootstrap: int = 1000, seed: int = 0, level: float = 0.95) -> KaplanLaw:
    """Least squares of log loss, of the runs and of `bootstrap` resamples of them."""
    check_options(bootstrap, seed, level)
    table = prepare(runs)

    def residuals(log_theta: np.ndarray, weight: np.ndarray) -> np.ndarray:
        theta = np.exp(log_theta)[None]
        predicted = theta[0, 3] * np.log(surface_loss(inside(theta), table.params, table.tokens)[0])
        return np.asarray(np.sqrt(weight) * (np.log(table.loss) - predicted))

    best = least_squares(residuals, START, args=(np.ones(len(table)),), x_scale="jac", xtol=1e-12)
    rows = [best.x]
    for weights in resample_weights(len(table), bootstrap, seed):
        rows += [least_squares(residuals, best.x, args=(weight,), x_scale="jac").x for weight in weights]
    return KaplanLaw(
        **common_fields(table, {"bootstrap": bootstrap, "seed": seed, "level": level}),
        status=FitStatus.CONVERGED if best.success else FitStatus.NOT_CONVERGED,
        sentence=f"least squares ended after {best.nfev} steps",
        warnings=table.warnings,
        thetas=np.exp(rows),
        objective=float(best.cost),
        gradient=float(np.abs(best.grad).max()),
        share_of_starts=1.0,
    )


ENTRY = LawEntry(
    name="kaplan",
    label="Kaplan",
    fit=fit_kaplan,
    formula="L = ((N_c/N)^(alpha_N/alpha_D) + D_c/D)^alpha_D",
    symbols=SYMBOLS,
    predicts=True,
)

if __name__ == "__main__":
    register(ENTRY)
    runs = analysis.published.runs("hoffmann2022")
    law = analysis.fit_law(runs, "kaplan", bootstrap=100)
    print(law)
    print(analysis.select(runs, {"surface": {}, "kaplan": {"method": "kaplan"}}))
