"""Why a run counts as new although the ledger has one like it: what differs between the two specs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sweeps.ledger.types import Run
from sweeps.plan.changed import differences

SHOWN, EXAMPLES = 4, 2
"""Fields that a sentence names, and pairs of values that it shows of each."""

Change = tuple[str, str]
"""Dotted name of a field, and `before -> now`."""


def why_new(specs: Iterable[Mapping[str, Any]], keys: Iterable[str], past: Sequence[Run]) -> list[str]:
    """A sentence for each way in which planned runs differ from those of the ledger that they resemble.

    Runs resemble each other that have family, size, budget and seed in common. specs, keys: of the planned
    runs; those whose key the ledger has are no news.
    """
    planned = dict(zip(keys, specs, strict=True))
    known = {run.key for run in past}
    alike: dict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for run in past:
        if run.key not in planned:
            alike[_place(run.spec)].append(run)
    found: dict[tuple[str, ...], list[list[Change]]] = defaultdict(list)
    for key, spec in planned.items():
        if key not in known and alike[_place(spec)]:
            changes = min((_changes(run.spec, spec) for run in alike[_place(spec)]), key=len)
            found[tuple(name for name, _ in changes)].append(changes)
    return [_sentence(group) for group in found.values()]


def _place(spec: Mapping[str, Any]) -> tuple[Any, ...]:
    return spec["family"], spec["size"]["name"], float(spec["budget"]), spec["seed"]


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    found = (sentence.partition(" ") for sentence in differences(before, now))
    return [(name, values) for name, _, values in found]


def _sentence(group: Sequence[Sequence[Change]]) -> str:
    number = len(group)
    parts = []
    for place, (name, _) in enumerate(group[0][:SHOWN]):
        values = list(dict.fromkeys(changes[place][1] for changes in group))
        more = ", ..." if len(values) > EXAMPLES else ""
        parts.append(f"{name} {', '.join(values[:EXAMPLES])}{more}")
    left = len(group[0]) - SHOWN
    more = f" and {left} more" if left > 0 else ""
    return f"{number} run{'s count' if number > 1 else ' counts'} as new: {'; '.join(parts)}{more}"
