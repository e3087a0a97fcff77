"""Differences of a config from the one its sweep started with, and of planned runs from the ledger's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from scaling.errors import UserError
from sweeps.config.model import SweepConfig
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.types import Run

FACT = "config"
_TRIED: dict[str, Any] = {rule: {"tried": True} for rule in ("learning_rate", "batch")}
NO_OUTCOME: dict[str, Any] = {
    **dict.fromkeys(("training", "resources", "families", "distillation", "tuning"), True),
    "evaluation": {"during": True, "during_sequences": True},
    "grid": {"replicas": True},
    **_TRIED,
    "overrides": {"__all__": _TRIED},
}
"""What changes no result: how runs train, which families or distilled runs come next, held-out losses on the
way, how many seeds share a process, where a rule was found."""
MOST_CONFIG, MOST_RUN, EXAMPLES = 6, 4, 2
"""Differences that a sentence names, of a config and of runs, and pairs of values of each."""


def differences(before: Any, now: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Each value that differs: its dotted name and `before -> now`, such as ("seeds", "[1] -> [1, 2]")."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in dict.fromkeys([*before, *now]):
            yield from differences(before.get(name), now.get(name), f"{path}.{name}" if path else str(name))
    elif before != now:
        yield path, f"{_text(before)} -> {_text(now)}"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    return "none" if value is None else str(value)


def snapshot(config: SweepConfig, fingerprint: str) -> dict[str, Any]:
    """The parts of the config that decide which runs there are and their results, as plain data."""
    values = config.model_dump(mode="json", exclude=NO_OUTCOME)
    values["options"] = {choice.name: dict(choice.options) for choice in config.families}
    return {**values, "data": {**values["data"], "fingerprint": fingerprint}}


def check_unchanged(ledger: Ledger, now: Mapping[str, Any]) -> None:
    """UserError if the sweep of `ledger` was last started with another config than `now`."""
    before = ledger.fact(FACT)
    if before is None:
        return
    # a family in only one of the two configs changes nothing for the others
    common = before["options"].keys() & now["options"].keys()
    old, new = (
        {**config, "options": {name: config["options"][name] for name in common}} for config in (before, now)
    )
    changes = [f"{name} {values}" for name, values in differences(old, new)]
    if changes:
        left = len(changes) - MOST_CONFIG
        raise UserError(
            f"sweep {now['name']!r} was started with another config: {'; '.join(changes[:MOST_CONFIG])}"
            f"{f' and {left} more' if left > 0 else ''}. "
            "Give the new one another name, or --extend to add its runs to this sweep"
        )


def remember(ledger: Ledger, now: Mapping[str, Any]) -> None:
    """Keep the sweep's config in the ledger."""
    before = ledger.fact(FACT) or {"options": {}}
    ledger.note_fact(FACT, {**now, "options": {**before["options"], **now["options"]}})


def why_new(specs: Iterable[Mapping[str, Any]], keys: Iterable[str], past: Sequence[Run]) -> list[str]:
    """A sentence for each way in which planned runs differ from the ledger's runs that they resemble.

    Runs resemble each other if they share family, size, budget and seed. specs, keys: of the planned runs;
    a key that the ledger has is not new.
    """
    planned = dict(zip(keys, specs, strict=True))
    recorded = {run.key for run in past}
    similar: dict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for run in past:
        if run.key not in planned:
            similar[_place(run.spec)].append(run)
    # runs whose difference is in the same fields share a sentence
    groups: dict[tuple[str, ...], list[list[tuple[str, str]]]] = defaultdict(list)
    for key, spec in planned.items():
        if key not in recorded and similar[_place(spec)]:
            changes = min((list(differences(run.spec, spec)) for run in similar[_place(spec)]), key=len)
            groups[tuple(name for name, _ in changes)].append(changes)
    sentences = []
    for names, group in groups.items():
        parts = []
        for place, name in enumerate(names[:MOST_RUN]):
            values = list(dict.fromkeys(changes[place][1] for changes in group))
            parts.append(f"{name} {', '.join(values[:EXAMPLES])}{', ...' if len(values) > EXAMPLES else ''}")
        more = f" and {len(names) - MOST_RUN} more" if len(names) > MOST_RUN else ""
        number = f"{len(group)} run{'s count' if len(group) > 1 else ' counts'}"
        sentences.append(f"{number} as new: {'; '.join(parts)}{more}")
    return sentences


def _place(spec: Mapping[str, Any]) -> tuple[Any, ...]:
    return spec["family"], spec["size"]["name"], float(spec["budget"]), spec["seed"]
