"""MAUVE (arXiv 2102.01454): how much the law of generated texts overlaps with that of human ones.

Texts become features of a judge, features become two histograms over clusters, and the area under the curve
of divergences between their mixtures is the number, 1 for equal laws. It depends on the judge, on how many
texts there are and how long they are: it wants thousands, and compares within one set-up only.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from scipy.special import rel_entr

PACKAGE = "mauve"
"""Installed as `mauve-text`."""
POINTS = 25
SCALING = 5.0


def mauve_of_features(generated: np.ndarray, human: np.ndarray, *, seed: int = 0) -> float | None:
    """MAUVE of features, (texts, dimensions) each; None without the package `mauve-text`, which makes the
    clusters: features of length 1, PCA to 90% of the variance, k-means with a cluster for ten texts."""
    try:
        package: Any = import_module(PACKAGE)
    except ImportError:
        return None
    clusters = package.compute_mauve(
        p_features=human, q_features=generated, num_buckets="auto", seed=seed, verbose=False
    )
    return mauve_of_histograms(clusters.p_hist, clusters.q_hist)


def mauve_available() -> bool:
    return find_spec(PACKAGE) is not None


def mauve_of_histograms(p: Sequence[float] | np.ndarray, q: Sequence[float] | np.ndarray) -> float:
    """The area under the curve exp(-5 KL(q || r)), exp(-5 KL(p || r)) over 25 mixtures r of two histograms:
    counts or shares of the same clusters."""
    one, other = _shares(p), _shares(q)
    curve = [(0.0, np.inf)]
    for weight in np.linspace(1e-6, 1 - 1e-6, POINTS):
        mixture = weight * one + (1 - weight) * other
        curve.append((float(rel_entr(other, mixture).sum()), float(rel_entr(one, mixture).sum())))
    x, y = np.exp(-SCALING * np.array([*curve, (np.inf, 0.0)])).T
    by_x, by_y = np.argsort(x), np.argsort(y)
    areas = np.trapezoid(y[by_x], x[by_x]), np.trapezoid(x[by_y], y[by_y])
    return float(sum(areas)) / 2


def smoothed(counts: Sequence[float] | np.ndarray) -> np.ndarray:
    """Shares of clusters from counts, half a text added to each (Krichevsky and Trofimov): for MAUVE*."""
    more = np.asarray(counts, dtype=np.float64) + 0.5
    return np.asarray(more / more.sum())


def frontier_integral(p: Sequence[float] | np.ndarray, q: Sequence[float] | np.ndarray) -> float:
    """2 int_0^1 [w KL(p || r_w) + (1 - w) KL(q || r_w)] dw, r_w = w p + (1 - w) q, of two histograms: 0 for
    equal laws, at most 1 (arXiv 2106.07898)."""
    one, other = _shares(p), _shares(q)
    apart = np.abs(one - other) > 1e-8
    both = apart & (one > 0) & (other > 0)
    ratio = np.log(np.where(both, one, 1.0)) - np.log(np.where(both, other, 1.0))
    product = np.where(both, one * other * ratio / np.where(apart, one - other, 1.0), 0.0)
    return float(np.where(apart, (one + other) / 2 - product, 0.0).sum())


def _shares(counts: Sequence[float] | np.ndarray) -> np.ndarray:
    weights = np.asarray(counts, dtype=np.float64)
    return np.asarray(weights / weights.sum())
