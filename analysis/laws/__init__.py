"""Fitted laws: one file per method, one line here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from analysis.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from analysis.laws.result import Law

METHODS = {
    "surface": "analysis.laws.surface:fit_surface",
    "isoflop": "analysis.laws.isoflop:fit_isoflop",
    "envelope": "analysis.laws.envelope:fit_envelope",
    "constrained": "analysis.laws.constrained:fit_constrained",
}


def fit_law(runs: pd.DataFrame, method: str = "surface", **options: Any) -> Law:
    """Fit a scaling law to runs with columns params, tokens, loss (flops, budget, loss_se, status optional).

    method "surface": E + A/N^alpha + B/D^beta by a robust fit of log loss (approach 3 of Hoffmann et al.
    2022); "isoflop": one parabola per budget, then power laws of the minima (approach 2); "envelope": power
    laws along the runs that no other run beats (approach 1). Options common to all: bootstrap=1000 resamples
    (0: no intervals), seed=0, level=0.95; the rest is in the docstring of each method. FLOPs are the column
    flops, else 6 params tokens; loss is in nats per token. UserError (a ValueError) says in one sentence what
    is wrong with the table or the options.
    """
    if method not in METHODS:
        raise UserError(f"method = {method!r} is unknown; choose one of {', '.join(METHODS)}")
    module, function = METHODS[method].split(":")
    fit = getattr(import_module(module), function)
    known = fit.__kwdefaults__
    for name in options:
        if name not in known:
            raise UserError(f"{name} is no option of method {method!r}; its options are {', '.join(known)}")
    law: Law = fit(runs, **options)
    return law
