"""Memory of a run, and its micro-batch: halved until the estimate fits, and after a run is out of memory.

A smaller micro-batch means more gradient accumulation: the global batch stays the same, and so does the
result, up to the order in which floats are added. The ledger keeps the largest micro-batch that fits each
size, so the next run of that size starts with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from scaling.spec import RunSpec
from sweeps.ledger.types import Entry, Needs

OPTION = "micro_batch_size"

PROCESS_BYTES = 350e6
"""A worker before its model: interpreter, torch, memory-mapped data (measured on CPU)."""
BLOCK_VALUES = 17
"""Values a block keeps per token and hidden unit for its backward pass: the 34 bytes at two bytes a value of
arXiv 2205.05198, section 4.1, without dropout masks and without attention scores, which are recomputed."""


def memory_bytes(spec: RunSpec, micro_batch_size: int | None = None) -> float:
    """Estimated memory of a run: process, weights, and activations of a micro-batch (None: of a batch), all
    but the process once for each replica.

    Weights come with their gradient, two moments, and what else `RunSpec.weight_copies` counts; the logits of
    a token with two copies. Families that read the text twice keep twice the activations; the full curriculum
    of `uniform` keeps a weight per id for every token of the batch.
    """
    work = spec.build_family().work(spec.data.context_length)
    weights = spec.replicas * 4 * (1 + spec.weight_copies) * spec.param_count()
    sequences = min(spec.batch_size, micro_batch_size or spec.batch_size)
    batch_tokens = spec.replicas * spec.batch_size * spec.data.context_length
    soft_inputs = 4 * spec.vocab_size * batch_tokens if work.heads else 0
    return PROCESS_BYTES + weights + sequences * sequence_bytes(spec) + soft_inputs


def sequence_bytes(spec: RunSpec) -> float:
    """Memory that each sequence of a micro-batch adds to `memory_bytes`: one of every replica."""
    size, length = spec.size, spec.data.context_length
    width = 4 if spec.precision == "float32" else 2
    inputs = spec.build_family().work(length).inputs
    return (
        spec.replicas
        * length
        * (width * BLOCK_VALUES * size.num_layers * size.hidden * inputs + 12 * spec.vocab_size)
    )


def size_key(spec: RunSpec) -> str:
    """Equal for runs that need the same memory for each sequence."""
    parts: list[Any] = [spec.family, dict(spec.family_options), asdict(spec.size), spec.precision]
    parts += [spec.replicas] if spec.replicas > 1 else []
    return json.dumps([*parts, spec.data.context_length], sort_keys=True)


def micro_batch(entry: Entry) -> int:
    batch = entry.spec.batch_size
    return min(batch, int(entry.options.get(OPTION) or batch))


def at_most(entry: Entry, sequences: int) -> Entry:
    """`entry` with a micro-batch of at most `sequences`, and the memory that it then needs."""
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


def within_limits(entries: Iterable[Entry], limits: Mapping[str, int]) -> list[Entry]:
    """`entries` with at most so many sequences at once as `limits` has for their size (see `size_key`)."""
    if not limits:
        return list(entries)
    return [at_most(entry, limits.get(size_key(entry.spec), micro_batch(entry))) for entry in entries]


def as_fits(entries: Iterable[Entry], fits: Callable[[Needs], bool]) -> list[Entry]:
    """`entries`, their sequences at once halved until their memory fits; unchanged if nothing helps."""
    fitting = []
    for entry in entries:
        fewer = entry
        while not (fit := fits(fewer.needs)) and micro_batch(fewer) > 1 and entry.sequence_bytes:
            fewer = at_most(fewer, halved(micro_batch(fewer)))
        fitting.append(fewer if fit else entry)
    return fitting


def halved(sequences: int) -> int:
    return (sequences + 1) // 2
