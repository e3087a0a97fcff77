"""Laws over many runs: fit them, compare families, read run tables and published results.

    law = analysis.fit_law(analysis.load_runs("runs.csv"))      # columns params, tokens, loss
    law.exponents, law.optimal(1e20), law.summary(), law.plot()

Importing this package loads neither numpy nor pandas: every name is fetched on first use.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis import figures as figures
    from analysis import laws as laws
    from analysis import published as published
    from analysis.answer.recommendation import budget_for as budget_for
    from analysis.answer.recommendation import recommend as recommend
    from analysis.checks.diagnostics import diagnose as diagnose
    from analysis.checks.heldout import rollout as rollout
    from analysis.checks.selection import select as select
    from analysis.comparison.multipliers import compare as compare
    from analysis.comparison.pairwise import compare_sequences as compare_sequences
    from analysis.comparison.pairwise import load_sequence_losses as load_sequence_losses
    from analysis.comparison.pairwise import paired_difference as paired_difference
    from analysis.estimate import Estimate as Estimate
    from analysis.laws import fit_law as fit_law
    from analysis.laws.groups import fit_laws as fit_laws
    from analysis.laws.powerfit import fit_power_law as fit_power_law
    from analysis.laws.response import fit_response as fit_response
    from analysis.laws.saved import load_law as load_law
    from analysis.laws.tuning import fit_tuning_law as fit_tuning_law
    from analysis.speed.comparison import speed_quality as speed_quality
    from analysis.speed.samples import load_samples as load_samples
    from analysis.table.counts import counted as counted
    from analysis.table.runs import load_runs as load_runs

_HOMES = {
    "Estimate": "analysis.estimate",
    "budget_for": "analysis.answer.recommendation",
    "compare": "analysis.comparison.multipliers",
    "compare_sequences": "analysis.comparison.pairwise",
    "counted": "analysis.table.counts",
    "diagnose": "analysis.checks.diagnostics",
    "fit_law": "analysis.laws",
    "fit_laws": "analysis.laws.groups",
    "fit_power_law": "analysis.laws.powerfit",
    "fit_response": "analysis.laws.response",
    "fit_tuning_law": "analysis.laws.tuning",
    "load_law": "analysis.laws.saved",
    "load_runs": "analysis.table.runs",
    "load_samples": "analysis.speed.samples",
    "load_sequence_losses": "analysis.comparison.pairwise",
    "paired_difference": "analysis.comparison.pairwise",
    "recommend": "analysis.answer.recommendation",
    "rollout": "analysis.checks.heldout",
    "select": "analysis.checks.selection",
    "speed_quality": "analysis.speed.comparison",
}
"""The module of every name that is not itself a module."""
__all__ = sorted([*_HOMES, "figures", "laws", "published"])


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'analysis' has no attribute {name!r}")
    if name in _HOMES:
        value = globals()[name] = getattr(_import_module(_HOMES[name]), name)
        return value
    return _import_module(f"analysis.{name}")


def __dir__() -> list[str]:
    return __all__
