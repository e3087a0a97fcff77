"""A sweep whose config changed under the same name: what differs, and whether that may be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from scaling.errors import UserError
from sweeps.config.model import SweepConfig
from sweeps.ledger.ledger import Ledger

FACT = "config"
NO_OUTCOME = frozenset({"training", "resources", "families"})
"""Sections that change no run: how it goes about its work, and which families are swept next."""
SHOWN = 6


def snapshot(config: SweepConfig, fingerprint: str) -> dict[str, Any]:
    """All of the config that decides which runs there are and what comes out, as plain data."""
    values = config.model_dump(mode="json", exclude=set(NO_OUTCOME))
    values["options"] = {choice.name: dict(choice.options) for choice in config.families}
    return {**values, "data": {**values["data"], "fingerprint": fingerprint}}


def check_unchanged(ledger: Ledger, now: Mapping[str, Any]) -> None:
    """UserError where the sweep of `ledger` was last started with another config than `now`."""
    before = ledger.fact(FACT)
    if before is None:
        return
    # a family that one of the two does not list changes nothing for the others
    common = before["options"].keys() & now["options"].keys()
    found = list(
        differences(
            {**before, "options": {name: before["options"][name] for name in common}},
            {**now, "options": {name: now["options"][name] for name in common}},
        )
    )
    if found:
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise UserError(
            f"sweep {now['name']!r} was started with another config: {'; '.join(found[:SHOWN])}{more}. "
            "Give the new one another name, or --extend to add its runs to this sweep"
        )


def note(ledger: Ledger, now: Mapping[str, Any]) -> None:
    """Remember the config that the sweep is started with."""
    before = ledger.fact(FACT) or {"options": {}}
    ledger.note_fact(FACT, {**now, "options": {**before["options"], **now["options"]}})


def differences(before: Any, now: Any, path: str = "") -> Iterator[str]:
    """A sentence for each value that differs, by its dotted path: 'seeds [1] -> [1, 2]'."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in dict.fromkeys([*before, *now]):
            yield from differences(before.get(name), now.get(name), f"{path}.{name}" if path else str(name))
    elif before != now:
        yield f"{path} {_text(before)} -> {_text(now)}"


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    return str(value)
