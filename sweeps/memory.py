"""Out of memory: how many sequences go through the network at once, halved until they fit.

The global batch stays the same, and so does the result, up to the order in which floats are added. What was
found out is kept in the ledger for the size, so the next run of that size starts with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sweeps.ledger_types import Entry

OPTION = "micro_batch_size"


def size_key(spec: Mapping[str, Any]) -> str:
    """Equal for runs that need the same memory for each sequence."""
    parts = [spec["family"], spec.get("family_options"), spec["size"], spec.get("precision")]
    return json.dumps([*parts, spec["data"]["context_length"]], sort_keys=True)


def micro_batch(entry: Entry, known: Mapping[str, int]) -> int:
    """Sequences of `entry` at once: as its config says, or fewer where more have not fitted (`known`)."""
    batch = int(entry.spec["batch_size"])
    chosen = min(batch, int(entry.options.get(OPTION) or batch))
    return min(chosen, known.get(size_key(entry.spec), chosen))


def options(entry: Entry, known: Mapping[str, int]) -> dict[str, Any]:
    """The options of `entry` with its micro-batch, where that is not the whole batch."""
    chosen = micro_batch(entry, known)
    if chosen == int(entry.spec["batch_size"]) and OPTION not in entry.options:
        return dict(entry.options)
    return {**entry.options, OPTION: chosen}
