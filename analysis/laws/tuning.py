"""Learning-rate and batch laws: the best setting of a knob against tokens and params, as power laws.

For every (params, tokens) the lowest loss at each setting of the knob, over all others, and a parabola of it
in the log of the setting; then a power law through the minima, e.g. B* = k D^p (von Ruette et al. 2025, arXiv
2512.10858, find p = 0.82 for hybrid diffusion) or lr* = k N^p D^q (Li et al. 2025, arXiv 2503.04715). A group
is refused, with the reason, if it has fewer than 3 settings, a parabola that does not curve upwards, or a
minimum that is not between the smallest and the largest setting tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.errors import UserError
from analysis.frontier import number_column
from analysis.laws.powerfit import PowerFit, fit_power_law, positive_column
from analysis.table.fit_table import comparable
from analysis.text import count_text

AGAINST = {"learning_rate": ("params", "tokens"), "batch_size": ("tokens",)}
FEWEST_SETTINGS = 3


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class TuningLaw:
    """The best setting of one knob as a power law."""

    knob: str
    law: PowerFit
    optima: pd.DataFrame
    """One row per (params, tokens): num_settings, status ("bracketed" or "refused"), reason, the best
    setting, its loss (nats per token), and curvature (nats per (log setting)^2); missing if refused."""

    def best(self, *, params: Any = None, tokens: Any = None, kind: str = "mean") -> Any:
        """The best setting at params and tokens, as far as the law depends on them: an Estimate for numbers,
        a DataFrame for arrays. kind "run": the interval of the minimum of one more group."""
        columns = {"params": params, "tokens": tokens}
        missing = [name for name in self.law.x if columns[name] is None]
        if missing:
            raise UserError(f"best: give {' and '.join(missing)}; the law depends on it")
        return self.law.predict(*(columns[name] for name in self.law.x), kind=kind)

    def __str__(self) -> str:
        refused = self.optima[self.optima["status"] == "refused"]
        lines = [str(self.law)]
        lines += [
            f"left out: {count_text(row.params)} params, {count_text(row.tokens)} tokens: {row.reason}"
            for row in refused.itertuples()
        ]
        return "\n".join(lines)

    __repr__ = __str__


def fit_tuning_law(
    runs: pd.DataFrame, *, knob: str, against: tuple[str, ...] | None = None, **options: Any
) -> TuningLaw:
    """The best `knob` (a column, e.g. "learning_rate" or "batch_size") as a power of params and tokens.

    runs: columns params, tokens, loss and the knob, one row per run; labelled and distilled ones do not
    count. against: "params", "tokens" or both; by
    default both for the learning rate, tokens for anything else. options: those of `fit_power_law`. UserError
    for bad columns, and if too few groups have a minimum between their settings.
    """
    names = AGAINST.get(knob, ("tokens",)) if against is None else tuple(against)
    if not names or not set(names) <= {"params", "tokens"}:
        raise UserError(f"against = {against!r}: choose params, tokens or both")
    runs = runs[comparable(runs)]
    columns = {name: positive_column(runs, name) for name in ("params", "tokens", "loss", knob)}
    rows = [
        {"params": params, "tokens": tokens} | _minimum(part, knob)
        for (params, tokens), part in pd.DataFrame(columns).groupby(["params", "tokens"], sort=True)
    ]
    optima = pd.DataFrame(rows)
    for name in (knob, "loss", "curvature"):
        optima[name] = number_column([None if pd.isna(value) else value for value in optima[name]])
    good = optima[optima["status"] == "bracketed"]
    if len(good) <= 1 + len(names):
        reasons = "; ".join(sorted(set(optima["reason"]) - {""}))
        raise UserError(
            f"{knob}: {len(good)} of {len(optima)} groups of equal params and tokens have a best setting "
            f"between those tried, a law in {' and '.join(names)} needs {2 + len(names)}"
            + (f" ({reasons})" if reasons else "")
        )
    law = fit_power_law(good.astype({knob: "float64"}), y=knob, x=names, **options)
    return TuningLaw(knob=knob, law=law, optima=optima)


def _minimum(part: pd.DataFrame, knob: str) -> dict[str, Any]:
    """The parabola through the lowest loss at each setting."""
    lowest = part.groupby(knob)["loss"].min()
    row: dict[str, Any] = {"num_settings": len(lowest), knob: None, "loss": None, "curvature": None}
    if len(lowest) < FEWEST_SETTINGS:
        return row | {"status": "refused", "reason": f"fewer than {FEWEST_SETTINGS} settings"}
    logs = np.log(lowest.index.to_numpy(dtype=np.float64))
    middle = logs.mean()
    curve, slope, level = np.polyfit(logs - middle, lowest.to_numpy(), 2)
    if curve <= 0:
        return row | {"status": "refused", "reason": "loss does not curve upwards"}
    best = middle - slope / (2 * curve)
    if not logs.min() < best < logs.max():
        side = "smallest" if best <= logs.min() else "largest"
        return row | {"status": "refused", "reason": f"the minimum lies beyond the {side} setting"}
    numbers = {knob: float(np.exp(best)), "loss": float(level - slope**2 / (4 * curve))}
    return row | numbers | {"curvature": float(2 * curve), "status": "bracketed", "reason": ""}
