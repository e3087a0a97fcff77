"""The same runs fitted otherwise: other thresholds, windows, conventions, approaches.

One row per variant, with the numbers that a reader would rely on: the exponent of N* in compute, and E if the
law has one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis.errors import UserError
from analysis.laws import fit_law, variants_of
from analysis.laws.result import Law
from analysis.laws.surface import SurfaceLaw
from analysis.table.counts import FLOPS, PARAMS
from analysis.text import number_text

DELTAS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
WINDOW_FACTORS = (20.0, 10.0, 5.0)
"""Runs within this factor of the best tokens per parameter at the middle of the budgets."""
COLUMNS = ("check", "variant", "exponent", "E", "num_runs", "note")


def variants(law: Law) -> pd.DataFrame:
    """check ("delta", "window", "convention", "approach"), variant, exponent (of N* in compute), E (pandas.NA
    for laws without), num_runs, note (why a variant has no numbers, else empty)."""
    runs = law.runs
    own = {name: value for name, value in law.options.items() if name not in ("bootstrap", "interval")}
    own |= {"method": law.method}
    fits: list[tuple[str, str, pd.DataFrame, dict[str, Any]]] = []
    if isinstance(law, SurfaceLaw):
        for delta in sorted({*DELTAS, float(law.options["delta"])}):
            fits.append(("delta", f"delta {delta:g}", runs, own | {"delta": delta}))
    middle = float(np.sqrt(law.flops_range[0] * law.flops_range[1]))
    ratio = float(law.optimal(middle).tokens_per_param)
    distance = np.abs(np.log(runs["tokens"] / runs["params"] / ratio))
    for factor in WINDOW_FACTORS:
        inside = distance <= np.log(factor)
        if np.isfinite(ratio) and not inside.all():
            name = f"{number_text(ratio / factor)} to {number_text(ratio * factor)} tokens per parameter"
            fits.append(("window", name, runs[inside], own))
    for column, names in (("params", PARAMS), ("flops", FLOPS)):
        for name in names:
            counted = name in runs and runs[name].notna().all()
            if counted and not np.allclose(runs[name], runs[column], rtol=1e-9):
                # budgets that the table types go on grouping the runs, whatever FLOPs are counted
                recounted = runs.assign(**{column: runs[name].astype(float)})
                fits.append(("convention", f"{column}: {name}", recounted, own))
    for name, options in variants_of("approaches").items():
        if options["method"] != law.method or len(options) > 1:
            fits.append(("approach", name, runs, options))
    rows = []
    for check, name, table, options in fits:
        row: dict[str, Any] = {"check": check, "variant": name, "num_runs": len(table), "note": ""}
        try:
            other = fit_law(table, **(options | {"bootstrap": 0}))
            row["exponent"] = float(other.exponents["params"])
            row["E"] = float(other.E) if isinstance(other, SurfaceLaw) else None
        except UserError as problem:
            row["note"] = str(problem)
        rows.append(row)
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.assign(**{name: frame[name].astype("Float64") for name in ("exponent", "E")})
