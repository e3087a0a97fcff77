"""How many sequences go through the network at once, halved until they fit: by the estimate before a run
starts, and after it ran out of memory.

The global batch stays the same, and so does the result, up to the order in which floats are added. What a
run found out is kept in the ledger for its size, so the next run of that size starts with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from sweeps.ledger.types import Entry, Needs

OPTION = "micro_batch_size"


def size_key(spec: Mapping[str, Any]) -> str:
    """Equal for runs that need the same memory for each sequence."""
    parts = [spec["family"], spec.get("family_options"), spec["size"], spec.get("precision")]
    return json.dumps([*parts, spec["data"]["context_length"]], sort_keys=True)


def micro_batch(entry: Entry) -> int:
    """Sequences of `entry` that go through the network at once."""
    batch = int(entry.spec["batch_size"])
    return min(batch, int(entry.options.get(OPTION) or batch))


def at_most(entry: Entry, sequences: int) -> Entry:
    """`entry` with no more than `sequences` at once, and what it then needs of a node."""
    now = micro_batch(entry)
    if sequences >= now:
        return entry
    saved = (now - sequences) * entry.sequence_bytes
    needs = replace(
        entry.needs,
        memory_bytes=max(entry.needs.memory_bytes - saved, 0.0),
        gpu_memory_bytes=max(entry.needs.gpu_memory_bytes - saved, 0.0),
    )
    return replace(entry, needs=needs, options={**entry.options, OPTION: sequences})


def as_known(entries: Iterable[Entry], known: Mapping[str, int]) -> list[Entry]:
    """`entries`, with fewer sequences at once where more have not fitted for their size (`known`)."""
    if not known:
        return list(entries)
    return [at_most(entry, known.get(size_key(entry.spec), micro_batch(entry))) for entry in entries]


def as_fits(entries: Iterable[Entry], fits: Callable[[Needs], bool]) -> list[Entry]:
    """`entries`, their sequences at once halved until their memory fits; as they are where nothing helps."""
    return [_as_fits(entry, fits) for entry in entries]


def _as_fits(entry: Entry, fits: Callable[[Needs], bool]) -> Entry:
    fewer = entry
    while not fits(fewer.needs):
        sequences = micro_batch(fewer)
        if sequences == 1 or not entry.sequence_bytes:
            return entry
        fewer = at_most(fewer, halved(sequences))
    return fewer


def halved(sequences: int) -> int:
    return (sequences + 1) // 2
