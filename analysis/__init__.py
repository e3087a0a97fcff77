"""Laws over many runs: fit them, compare families, read run tables and published results.

    law = analysis.fit_law(analysis.load_runs("runs.csv"))      # columns params, tokens, loss
    law.exponents, law.optimal(1e20), law.summary(), law.plot()

Importing this package loads neither numpy nor pandas: every name is fetched on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis import published
    from analysis.checks.diagnostics import diagnose
    from analysis.checks.heldout import rollout
    from analysis.checks.selection import select
    from analysis.comparison.multipliers import compare
    from analysis.estimate import Estimate
    from analysis.laws import fit_law
    from analysis.laws.powerfit import fit_power_law
    from analysis.laws.tuning import fit_tuning_law
    from analysis.table.runs import load_runs

__all__ = [
    "Estimate",
    "compare",
    "diagnose",
    "fit_law",
    "fit_power_law",
    "fit_tuning_law",
    "load_runs",
    "published",
    "rollout",
    "select",
]

_HOMES = {
    "Estimate": "analysis.estimate",
    "compare": "analysis.comparison.multipliers",
    "diagnose": "analysis.checks.diagnostics",
    "fit_law": "analysis.laws",
    "fit_power_law": "analysis.laws.powerfit",
    "fit_tuning_law": "analysis.laws.tuning",
    "load_runs": "analysis.table.runs",
    "rollout": "analysis.checks.heldout",
    "select": "analysis.checks.selection",
}


def __getattr__(name: str) -> Any:
    if name == "published":
        return import_module("analysis.published")
    if name not in _HOMES:
        raise AttributeError(f"module 'analysis' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
