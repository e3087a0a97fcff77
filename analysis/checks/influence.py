"""Which runs determine a surface fit: leverage, leave-one-out, outliers, and how well the parameters can be
distinguished."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.frontier import frontier_exponents, surface_loss
from analysis.laws.solver.bootstrap import leave_one_out
from analysis.laws.surface import SurfaceLaw, refit_surface
from analysis.table.fit_table import prepare

OUTLIER = 4.0
"""Runs further than this many robust standard deviations from the surface count as outliers."""


def influence_table(law: SurfaceLaw) -> pd.DataFrame:
    """The runs with leverage (0 to 1; they sum to the number of parameters), residual_percent (of log loss),
    outlier, and the law without each run and its repeats: exponent_without, exponent_change, E_without. cell
    numbers the designs: rows of one cell are repeats with other seeds.

    Leverage is that of the robust fit: the hat matrix of the weighted Jacobian of log loss, weights
    min(1, delta / |residual|) at the optimum, scaled by their mean so that clipped runs still count.
    """
    runs = law.runs
    theta = law.thetas[0]
    cells = prepare(runs).cells
    thetas = refit_surface(law, weights=leave_one_out(cells))[0][cells]
    residual = _log_residuals(law)
    delta = float(law.options["delta"])
    _, jacobian = _jacobian(law)
    if law.scatter.on_loss:
        jacobian = jacobian * _predicted(law)[:, None]
    reweighted = np.minimum(1.0, delta / np.maximum(np.abs(_residuals(law)), delta))
    weighted = jacobian * np.sqrt(reweighted)[:, None]
    left, singular, _ = np.linalg.svd(weighted / np.sqrt(np.sum(weighted**2, axis=0)), full_matrices=False)
    leverage = np.sum(left[:, singular > 1e-12 * singular[0]] ** 2, axis=1)
    return runs.assign(
        cell=cells,
        leverage=leverage,
        residual_percent=100 * residual,
        outlier=outliers(law),
        exponent_without=frontier_exponents(thetas, law.cost)["params"],
        exponent_change=frontier_exponents(thetas, law.cost)["params"]
        - frontier_exponents(theta, law.cost)["params"],
        E_without=thetas[:, 0],
    )


def outliers(law: SurfaceLaw) -> np.ndarray:
    """Which runs (n,) lie further than OUTLIER robust standard deviations from the surface."""
    return np.asarray(np.abs(_residuals(law)) > OUTLIER * law.scatter.sd)


def without_outliers(law: SurfaceLaw) -> np.ndarray:
    """E, A, B, alpha, beta (5,) without the outliers."""
    return np.asarray(refit_surface(law, weights=(~outliers(law))[None].astype(float))[0][0])


def condition_number(law: SurfaceLaw) -> tuple[float, tuple[str, str], float]:
    """How nearly the parameters trade off: condition number of the Jacobian with columns of unit length (the
    square root of that of the scaled J'J), the pair of parameters most nearly collinear, and their cosine."""
    names, jacobian = _jacobian(law)
    jacobian = jacobian / np.sqrt(np.sum(jacobian**2, axis=0))
    cosine = jacobian.T @ jacobian
    off = np.abs(cosine - np.diag(np.diag(cosine)))
    i, j = np.unravel_index(int(np.argmax(off)), off.shape)
    pair = (names[min(i, j)], names[max(i, j)])
    return float(np.linalg.cond(jacobian)), pair, float(cosine[i, j])


def _jacobian(law: SurfaceLaw) -> tuple[list[str], np.ndarray]:
    """d log(predicted) / d (log E, log A, log B, alpha, beta) with centred logs, (n, free), and the names."""
    _, A, B, alpha, beta = law.thetas[0]
    N, D = (law.runs[name].to_numpy(dtype=float) for name in ("params", "tokens"))
    predicted = _predicted(law)
    share_A, share_B = A * N**-alpha / predicted, B * D**-beta / predicted
    x, y = np.log(N), np.log(D)
    columns = {
        "E": 1 - share_A - share_B,
        "A": share_A,
        "B": share_B,
        "alpha": -share_A * (x - x.mean()),
        "beta": -share_B * (y - y.mean()),
    }
    if law.options["tied"]:
        columns["alpha"] = columns["alpha"] + columns.pop("beta")
    if law.options["E"] is not None:
        del columns["E"]
    return list(columns), np.stack(list(columns.values()), axis=1)


def _residuals(law: SurfaceLaw) -> np.ndarray:
    """The residuals that the fit minimises, (n,): of log loss, or of the loss in nats."""
    if law.scatter.on_loss:
        return np.asarray(law.runs["loss"].to_numpy(dtype=float) - _predicted(law))
    return _log_residuals(law)


def _predicted(law: SurfaceLaw) -> np.ndarray:
    return surface_loss(law.thetas[0], *(law.runs[n].to_numpy(dtype=float) for n in ("params", "tokens")))


def _log_residuals(law: SurfaceLaw) -> np.ndarray:
    return np.asarray(np.log(law.runs["loss"].to_numpy(dtype=float) / _predicted(law)))
