"""The same runs fitted otherwise: other thresholds, windows, conventions, approaches, runs left out.

One row per variant, with what a reader would bet on: the exponent of N* in compute, and E where the law has
one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from analysis.errors import UserError
from analysis.laws import fit_law
from analysis.laws.interaction import InteractionLaw
from analysis.laws.result import Law
from analysis.laws.surface import SurfaceLaw

DELTAS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
WINDOW_FACTORS = (20.0, 10.0, 5.0)
"""Runs within this factor of the best tokens per parameter at the middle of the budgets."""
CONVENTIONS = {"params": ("params_total", "params_non_embedding", "params_body"),
               "flops": ("flops_exact", "flops_6nd", "flops_sahoo2026")}  # fmt: skip
APPROACHES: dict[str, dict[str, Any]] = {
    "surface": {},
    "isoflop": {"method": "isoflop"},
    "isoflop, bias corrected": {"method": "isoflop", "correct_bias": True},
    "isoflop, akima": {"method": "isoflop", "shape": "akima"},
    "envelope": {"method": "envelope"},
}
COLUMNS = ("check", "variant", "exponent", "E", "num_runs", "note")


def variants(law: Law) -> pd.DataFrame:
    """check ("delta", "window", "convention", "approach"), variant, exponent (of N* in compute), E (pandas.NA
    where the law has none), num_runs, note (why a variant has no numbers, else empty)."""
    rows = [_row(check, name, runs, options) for check, name, runs, options in _asked(law)]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.assign(**{name: frame[name].astype("Float64") for name in ("exponent", "E")})


def own_options(law: Law) -> dict[str, Any]:
    """Options with which the law is fitted again, without intervals."""
    kept = {name: value for name, value in law.options.items() if name not in ("bootstrap", "interval")}
    # an interaction is a form of the surface's method
    return kept | {"bootstrap": 0, "method": "surface" if isinstance(law, InteractionLaw) else law.method}


def _asked(law: Law) -> Iterator[tuple[str, str, pd.DataFrame, dict[str, Any]]]:
    runs, own = law.runs, own_options(law)
    if isinstance(law, SurfaceLaw):
        for delta in sorted({*DELTAS, float(law.options["delta"])}):
            yield "delta", f"delta {delta:g}", runs, own | {"delta": delta}
    middle = float(np.sqrt(law.flops_range[0] * law.flops_range[1]))
    ratio = float(law.optimal(middle).tokens_per_param)
    distance = np.abs(np.log(runs["tokens"] / runs["params"] / ratio))
    for factor in WINDOW_FACTORS:
        inside = distance <= np.log(factor)
        if np.isfinite(ratio) and not inside.all():
            name = f"{ratio / factor:.3g} to {ratio * factor:.3g} tokens per parameter"
            yield "window", name, runs[inside], own
    for column, names in CONVENTIONS.items():
        for name in names:
            if (
                name in runs
                and runs[name].notna().all()
                and not np.allclose(runs[name], runs[column], rtol=1e-9)
            ):
                yield "convention", f"{column}: {name}", _recounted(runs, column, name), own
    for name, options in APPROACHES.items():
        if options.get("method", "surface") != own["method"] or "," in name:
            yield "approach", name, runs, options | {"bootstrap": 0}


def _recounted(runs: pd.DataFrame, column: str, name: str) -> pd.DataFrame:
    """Another count in place of `column`. Typed budgets group the runs still; other FLOPs do not follow
    them."""
    return runs.assign(**{column: runs[name].astype(float)})


def _row(check: str, name: str, runs: pd.DataFrame, options: dict[str, Any]) -> dict[str, Any]:
    method = options.get("method", "surface")
    given = {key: value for key, value in options.items() if key != "method"}
    row = {"check": check, "variant": name, "exponent": None, "E": None, "num_runs": len(runs), "note": ""}
    try:
        found = fit_law(runs, method, **given)
    except UserError as problem:
        return row | {"note": str(problem)}
    E = float(found.E) if isinstance(found, SurfaceLaw) else None
    return row | {"exponent": float(found.exponents["params"]), "E": E}
