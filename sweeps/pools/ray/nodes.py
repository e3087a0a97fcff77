"""The nodes of a Ray cluster as nodes of the rack, and a check that each can run what a sweep needs."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from scaling.errors import UserError
from sweeps.pools.devices import gpu
from sweeps.pools.rack import Node

CHECK_S = 660.0
"""Limit for a node's first answer: Ray gives a runtime environment ten minutes."""
ANSWER_S = 5.0
SEEN_WITHIN_S = 5.0
"""Limit for a file to appear on another node of a shared filesystem."""
NEEDED = ("torch", "numpy", "pyarrow", "psutil")
"""Packages that workers import beside the code that is sent to them."""
_KIND = "accelerator_type:"
_BUILT_IN = ("CPU", "GPU", "memory", "object_store_memory")

logger = logging.getLogger(__name__)


def living_nodes() -> list[Node]:
    """The cluster's nodes, now. ray.exceptions.RpcError if its head gives no answer.

    `ray.nodes()` would wait for one, and after a minute Ray would end this process.
    """
    import ray

    internals: Any = ray._private.worker
    infos = internals.global_worker.gcs_client.get_all_node_info(timeout=ANSWER_S)
    return [as_node(info) for info in infos.values() if info.state == info.ALIVE]


def as_node(info: Any) -> Node:
    """Ray's node as ours; its kind of GPU is in a resource `accelerator_type:KIND`, or in a label."""
    resources: Mapping[str, float] = info.resources_total
    kinds = [name.removeprefix(_KIND) for name in resources if name.startswith(_KIND)]
    kinds += filter(None, [info.labels.get("ray.io/accelerator-type")])
    kind = kinds[0] if kinds and resources.get("GPU") else ""
    sheet = gpu(kind) if kind else None
    return Node(
        name=info.node_id.hex(),
        host=info.node_manager_hostname,
        cpus=resources.get("CPU", 0.0),
        gpus=resources.get("GPU", 0.0),
        memory_bytes=resources.get("memory", float("inf")),
        gpu_kind=sheet.kind if sheet else kind,
        gpu_memory_bytes=sheet.memory_bytes if sheet else float("inf"),
        gpu_speed=sheet.flops_per_s if sheet else 0.0,
        resources={
            name: amount
            for name, amount in resources.items()
            if name not in _BUILT_IN and not name.startswith((_KIND, "node:"))
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A node's answer to the check."""

    missing: Sequence[str]
    """Packages that are not there."""
    sees: bool
    """Whether it sees the file that the driver wrote."""
    problem: str
    """Why it cannot write beside that file; "" if it can."""


def check_nodes(nodes: Sequence[Node], shared: Path | None) -> None:
    """Ask every node, all at once, whether it has the packages and sees and may write `shared`.

    UserError, naming the first node that does not, or whose runtime environment failed.
    """
    probe = _write_probe(shared)
    try:
        answers = [_ask(node, probe) for node in nodes]
        end = time.monotonic() + CHECK_S
        for node, answer in zip(nodes, answers, strict=True):
            _judge(node.host, shared, answer, end)
    finally:
        if probe is not None:
            probe.unlink(missing_ok=True)


class Newcomers:
    """Nodes that join while the sweep runs: each is used once it has passed the same check.

    A node that fails is left out, with one warning. Nothing here waits.
    """

    def __init__(self, shared: Path | None, checked: Iterable[Node]) -> None:
        """checked: nodes that have passed before."""
        self._shared = shared
        self._fit = {node.name for node in checked}
        self._left_out: set[str] = set()
        self._pending: dict[str, tuple[Any, Path | None]] = {}
        """The answer to come and the probe, by the node's name."""

    def fit(self, nodes: Iterable[Node]) -> list[Node]:
        """Those of `nodes` that may be used now."""
        import ray

        nodes = list(nodes)
        for name in self._pending.keys() - {node.name for node in nodes}:
            self._end_check(name)  # it left before it answered
        for node in nodes:
            if not node.cpus or node.name in self._fit | self._left_out:
                continue
            if node.name not in self._pending:
                probe = _write_probe(self._shared)
                self._pending[node.name] = _ask(node, probe), probe
            answer, _ = self._pending[node.name]
            if not ray.wait([answer], timeout=0)[0]:
                continue
            try:
                _judge(node.host, self._shared, answer, 0.0)
                self._fit.add(node.name)
            except UserError as error:
                self._left_out.add(node.name)
                logger.warning("a node that has joined is left out: %s", error)
            finally:
                self._end_check(node.name)
        return [node for node in nodes if not node.cpus or node.name in self._fit]

    def _end_check(self, name: str) -> None:
        _, probe = self._pending.pop(name)
        if probe is not None:
            probe.unlink(missing_ok=True)


def _ask(node: Node, probe: Path | None) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(max_retries=0, num_cpus=0)(_answer)
    there = NodeAffinitySchedulingStrategy(node.name, soft=False)
    return task.options(scheduling_strategy=there).remote(str(probe) if probe else None)


def _write_probe(shared: Path | None) -> Path | None:
    if shared is None:
        return None
    shared.mkdir(parents=True, exist_ok=True)
    probe = shared.absolute() / f".probe-{uuid.uuid4().hex}"
    probe.write_text("a sweep checks that its nodes see this file; it may be removed\n")
    return probe


def _judge(host: str, shared: Path | None, reference: Any, end: float) -> None:
    """UserError if the node's answer, due at `end`, is bad; one that went away meanwhile has none."""
    import ray

    try:
        answer: Answer = ray.get(reference, timeout=max(1.0, end - time.monotonic()))
    except ray.exceptions.RuntimeEnvSetupError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(f"node {host!r} cannot make the runtime environment: {lines[-1][:500]}") from error
    except ray.exceptions.GetTimeoutError as error:
        raise UserError(f"node {host!r} does not answer within {CHECK_S:.0f} s; see `ray status`") from error
    except ray.exceptions.RayTaskError as error:
        if not isinstance(error.cause, ImportError):
            raise
        raise UserError(f"node {host!r} cannot load the code of this sweep: {error.cause}") from error
    except ray.exceptions.RayError:
        return
    if answer.missing:
        raise UserError(
            f"node {host!r} lacks the packages {', '.join(answer.missing)}: install those of "
            "constraints.txt there, or name them in the file of SCALING_RUNTIME_ENV"
        )
    if not answer.sees:
        raise UserError(
            f"node {host!r} does not see the folder {shared}: choose one that all nodes share with --out, or "
            "give --storage URI for nodes that share none"
        )
    if answer.problem:
        raise UserError(f"node {host!r} cannot write to the folder {shared}: {answer.problem}")


def _answer(probe: str | None) -> Answer:
    """The task that checks a node. probe: a file of the driver in the shared folder; None without one."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    sees, problem = True, ""
    if probe is not None:
        path, end = Path(probe), time.monotonic() + SEEN_WITHIN_S
        while not (sees := path.exists()) and time.monotonic() < end:
            time.sleep(0.2)
        own = path.with_name(f".probe-{uuid.uuid4().hex}")
        try:
            if sees:
                own.write_text("x")
        except OSError as error:
            problem = str(error)
        with suppress(OSError):
            own.unlink()
    return Answer(missing=missing, sees=sees, problem=problem)
