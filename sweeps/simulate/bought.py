"""What a cap buys: a sentence per family with its budgets, and the laws that they are enough for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set

from analysis.text import flops_text
from sweeps.ledger.types import State
from sweeps.plan.plan import FEW_BUDGETS, Plan, PlannedRun

DESIGN = ("key", "params", "tokens", "flops", "budget")
"""Columns of the run table that decide which laws a family can have before it has losses."""


def bought_lines(plan: Plan, finished: Set[str]) -> list[tuple[str, str]]:
    """A sentence per family, with its style. finished: keys of runs that the cap lets finish."""
    bought = [run for run in plan.runs if run.state == State.FINISHED or run.key in finished]
    return [
        _line(plan, family, [run for run in bought if run.spec.family == family]) for family in plan.families
    ]


def _line(plan: Plan, family: str, bought: Sequence[PlannedRun]) -> tuple[str, str]:
    import pandas as pd

    from analysis.checks.design import design_refusals
    from analysis.laws import METHODS, standard_methods

    if not bought:
        return f"{family}: the cap buys no run, so there is no law", "red"
    counts, totals = (Counter(run.spec.budget for run in runs) for runs in (bought, plan.of_family(family)))
    whole = [flops_text(budget) for budget in sorted(counts) if counts[budget] == totals[budget]]
    parts = [f"all of {_listed(whole)} FLOPs"] if whole else []
    parts += [
        f"{counts[budget]} of {totals[budget]} runs at {flops_text(budget)}"
        for budget in sorted(counts)
        if counts[budget] < totals[budget]
    ]
    columns = [plan.entry(run, dataset=".").columns for run in bought]
    refused = design_refusals(pd.DataFrame([{name: row[name] for name in DESIGN} for row in columns]))
    labels = [METHODS[method].label for method in standard_methods() if method not in refused]
    text = f"{family}: the cap buys {_listed(parts)}; "
    text += f"enough for the {_listed(labels)} law{'s' * (len(labels) > 1)}" if labels else "no law"
    if labels and len(counts) < FEW_BUDGETS:
        text += f", which {len(counts)} budgets leave unchecked"
    if refused:
        # their sentences begin with the place of the fault: "runs: ...", "isoflop: ..."
        reasons = [
            f"{METHODS[method].label}: {why.partition(': ')[2] or why}" for method, why in refused.items()
        ]
        text += f" ({'; '.join(reasons)})"
    return text, ("yellow" if refused else "")


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
