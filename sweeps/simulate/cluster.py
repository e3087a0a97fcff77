"""A cluster on the command line: `8xH100:4` is four nodes of eight H100, `,` joins several.

    8xH100:4                 four nodes of eight H100
    8xH100+96xCPU+900GB:4    the same, with 96 CPUs and 900 GB of memory each
    16xCPU:2,8xA100          two nodes of 16 CPUs and one of eight A100

Without a number of CPUs for a node with GPUs, or of gigabytes, they suffice.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from scaling.errors import UserError
from sweeps.pools.devices import Gpu, known_gpu
from sweeps.pools.rack import Node

MOST_NODES = 10_000
_GROUP = re.compile(r"(?P<parts>[^:]+)(?::(?P<nodes>\d+))?")
_PART = re.compile(r"(?P<count>\d+)x(?P<kind>[A-Za-z][\w-]*)|(?P<gigabytes>\d+)GB", re.IGNORECASE)


def parse_cluster(text: str, *, cpus_per_gpu: float = 1.0) -> tuple[Node, ...]:
    """The nodes that `text` describes; cpus_per_gpu: for nodes of GPUs without a number of CPUs.

    UserError for a piece that cannot be read, and for an unknown kind of GPU.
    """
    nodes: list[Node] = []
    for group in text.split(","):
        match = _GROUP.fullmatch(group.strip())
        count = int(match["nodes"] or 1) if match else 0
        if match is None or count < 1:
            raise _unreadable(text, group)
        if len(nodes) + count > MOST_NODES:
            raise UserError(f"cluster {text!r} has more than {MOST_NODES} nodes; a simulation ends there")
        nodes += [_node(text, match["parts"], cpus_per_gpu)] * count
    # H100-01, H100-02, ...: numbered within their kind, so that names sort as nodes do
    totals = Counter(node.gpu_kind for node in nodes)
    numbers: Counter[str] = Counter()
    for i, node in enumerate(nodes):
        kind = node.gpu_kind
        numbers[kind] += 1
        name = f"{kind or 'CPU'}-{numbers[kind]:0{len(str(totals[kind]))}d}"
        nodes[i] = replace(node, name=name, host=name)
    return tuple(nodes)


def _node(text: str, parts: str, cpus_per_gpu: float) -> Node:
    cpus: int | None = None
    memory_bytes = float("inf")
    gpus: tuple[int, Gpu] | None = None
    for part in parts.split("+"):
        match = _PART.fullmatch(part.strip())
        if match is None or int(match["count"] or match["gigabytes"]) < 1:
            raise _unreadable(text, part)
        if match["gigabytes"]:
            memory_bytes = int(match["gigabytes"]) * 1e9
        elif match["kind"].upper() == "CPU":
            cpus = int(match["count"])
        elif gpus is None:
            gpus = int(match["count"]), known_gpu(match["kind"])
        else:
            raise UserError(f"cluster {text!r}: a node has one kind of GPU, and {parts!r} names two")
    if gpus is None:
        if cpus is None:
            raise _unreadable(text, parts)
        return Node(name="", cpus=float(cpus), memory_bytes=memory_bytes)
    return Node(
        name="",
        cpus=float(cpus) if cpus is not None else gpus[0] * cpus_per_gpu,
        gpus=float(gpus[0]),
        memory_bytes=memory_bytes,
        gpu_kind=gpus[1].kind,
        gpu_memory_bytes=gpus[1].memory_bytes,
        gpu_speed=gpus[1].flops_per_s,
    )


def _unreadable(text: str, piece: str) -> UserError:
    return UserError(
        f"cluster {text!r}: {piece.strip()!r} cannot be read; write COUNTxKIND:NODES, such as 8xH100:4 for "
        "four nodes of eight H100, or 16xCPU:2,8xA100 for several kinds"
    )


def describe(nodes: Sequence[Node]) -> str:
    """4 nodes of 8 H100 + 2 nodes of 16 CPU."""
    alike = Counter(f"{node.gpus:g} {node.gpu_kind}" if node.gpus else f"{node.cpus:g} CPU" for node in nodes)
    return " + ".join(f"{count} node{'s' if count > 1 else ''} of {kind}" for kind, count in alike.items())
