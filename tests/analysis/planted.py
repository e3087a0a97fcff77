"""Run tables with a known law, for tests that ask whether a fit finds it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

CHINCHILLA = (1.69, 406.4, 410.7, 0.34, 0.28)
BUDGETS = (1e17, 1e18, 1e19, 1e20, 1e21)


def loss_of(theta: Sequence[float], params: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    E, A, B, alpha, beta = theta
    return E + A / params**alpha + B / tokens**beta


def best_params(theta: Sequence[float], flops: float) -> float:
    """Compute-optimal size at C = 6ND, from the first-order condition alpha A N^-alpha = beta B D^-beta."""
    _, A, B, alpha, beta = theta
    return float(((alpha * A) / (beta * B) * (flops / 6) ** beta) ** (1 / (alpha + beta)))


def isoflop_table(
    theta: Sequence[float] = CHINCHILLA,
    *,
    budgets: Sequence[float] = BUDGETS,
    sizes: int = 15,
    span: float = 16.0,
    off_centre: float = 1.0,
    noise: float = 0.0,
    seed: int = 0,
    family: str | None = None,
) -> pd.DataFrame:
    """`sizes` runs per budget within a factor `span` of `off_centre` times the optimum; C = 6ND."""
    generator = np.random.default_rng(seed)
    rows = []
    for flops in budgets:
        params = best_params(theta, flops) * off_centre * np.geomspace(1 / span, span, sizes)
        tokens = flops / 6 / params
        loss = loss_of(theta, params, tokens) * np.exp(noise * generator.standard_normal(sizes))
        rows.append(pd.DataFrame({"budget": flops, "params": params, "tokens": tokens, "loss": loss}))
    table = pd.concat(rows, ignore_index=True)
    return table if family is None else table.assign(family=family)
