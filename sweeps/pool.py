"""Where jobs run: what every pool answers, and the choice between them.

`ray` is any Ray cluster, by default one started on this machine; `local` is plain processes on this
machine. The scheduler knows only `Pool`, so it is tested with a simulated one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from scaling.errors import UserError
from sweeps.ledger_types import Needs
from sweeps.worker import Job, Outcome, Trouble, read_outcome, signature_of

Handle = int

WORKER_ENVIRONMENT = {
    # glibc gives large blocks back to the kernel and takes them again at every step unless told not to:
    # training steps on CPU were 1.3 to 2.8 times as fast with these two.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "1000000000000",
}


class Pool(Protocol):
    """Runs jobs. Only the thread that made it calls it."""

    def ready(self) -> None:
        """Wait until jobs can be submitted. UserError where the pool cannot be had."""

    def warm(self, count: int) -> None:
        """Get workers, at most `count`, to load what every run needs; returns at once."""

    def refusal(self, needs: Needs) -> str | None:
        """Why no node can ever run this, with the smallest node that could; None if one can.

        None, too, while there is no node at all: one may come.
        """

    def slots(self, needs: Needs) -> int:
        """How many such jobs run at once when nothing else does."""

    def has_room(self, needs: Needs) -> bool: ...

    def submit(self, job: Job, needs: Needs) -> Handle: ...

    def wait(self, timeout_s: float) -> list[tuple[Handle, Outcome]]:
        """What has ended, as soon as something has; empty after `timeout_s`, slept away if nothing runs."""

    def kill(self, handle: Handle) -> None:
        """End a job at once; `wait` reports it."""

    def close(self) -> None:
        """Kill what runs, and leave nothing behind."""


def start(
    kind: str = "ray",
    *,
    address: str | None = None,
    cpus: int | None = None,
    gpus: int | None = None,
    logs: Path | None = None,
) -> Pool:
    """Begin to start a pool and return at once; `ready` waits for it.

    kind: "ray" or "local". address: of a Ray cluster (default: RAY_ADDRESS, else one is started here).
    cpus, gpus: what a pool on this machine may use (default: all). logs: folder for what workers print.
    UserError for an unknown kind and for an address that does not answer.
    """
    if kind == "ray":
        from sweeps.pool_ray import RayPool

        return RayPool(address=address, cpus=cpus, gpus=gpus)
    if kind == "local":
        from sweeps.pool_local import LocalPool

        if address:
            raise UserError(f"pool 'local' has no address, and {address!r} was given; leave one of them out")
        return LocalPool(cpus=cpus, gpus=gpus, logs=logs)
    raise UserError(f"pool is {kind!r}, it must be one of ray, local")


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine of the pool and what it has in all."""

    name: str
    cpus: float
    gpus: float = 0.0
    memory_bytes: float = float("inf")

    def fits(self, needs: Needs, used: Needs) -> bool:
        slack = 1e-6  # sums of fractional GPUs
        return (
            used.cpus + needs.cpus <= self.cpus + slack
            and used.gpus + needs.gpus <= self.gpus + slack
            and used.memory_bytes + needs.memory_bytes <= self.memory_bytes + slack
        )


NOTHING = Needs(cpus=0.0)


class Rack:
    """The pool's nodes and what is placed on each."""

    def __init__(self, nodes: Iterable[Node] = ()) -> None:
        self._nodes: dict[str, Node] = {}
        self._used: dict[str, Needs] = {}
        self._placed: dict[Handle, tuple[str, Needs]] = {}
        self.update(nodes)

    def update(self, nodes: Iterable[Node]) -> None:
        """The nodes there are now; what was placed on one that is gone stays until it is taken out."""
        self._nodes = {node.name: node for node in nodes}

    def find(self, needs: Needs) -> str | None:
        """The node to put it on: of those with room the one with the fewest free GPUs, then CPUs."""
        room = []
        for node in self._nodes.values():
            used = self._used.get(node.name, NOTHING)
            if node.fits(needs, used):
                room.append((node.gpus - used.gpus, node.cpus - used.cpus, node.name))
        return min(room)[2] if room else None

    def place(self, handle: Handle, needs: Needs) -> None:
        """Note that `handle` runs on the node `find` names, or waits for any if that is None."""
        node = self.find(needs) or ""
        self._placed[handle] = (node, needs)
        self._used[node] = _sum(self._used.get(node, NOTHING), needs, 1)

    def remove(self, handle: Handle) -> None:
        node, needs = self._placed.pop(handle)
        self._used[node] = _sum(self._used[node], needs, -1)

    def refusal(self, needs: Needs) -> str | None:
        if not self._nodes or any(node.fits(needs, NOTHING) for node in self._nodes.values()):
            return None
        have = "; ".join(sorted({_describe(node) for node in self._nodes.values()}))
        return f"no node can hold this run: the smallest that could has {needs} (nodes here: {have})"

    def slots(self, needs: Needs) -> int:
        return sum(_times(node, needs) for node in self._nodes.values())


def _sum(a: Needs, b: Needs, sign: int) -> Needs:
    return Needs(
        cpus=a.cpus + sign * b.cpus,
        gpus=a.gpus + sign * b.gpus,
        memory_bytes=a.memory_bytes + sign * b.memory_bytes,
    )


def _describe(node: Node) -> str:
    memory = node.memory_bytes if node.memory_bytes != float("inf") else 0.0
    return str(Needs(cpus=node.cpus, gpus=node.gpus, memory_bytes=memory))


def _times(node: Node, needs: Needs) -> int:
    """How often `needs` fits on an empty node."""
    wanted = ((node.cpus, needs.cpus), (node.gpus, needs.gpus), (node.memory_bytes, needs.memory_bytes))
    ratios = [have / want for have, want in wanted if want > 0 and have != float("inf")]
    return int(min(ratios, default=1) + 1e-6)


def killed() -> Outcome:
    """The outcome of a job that `Pool.kill` ended."""
    return Outcome(status="preempted", sentence="stopped at once, as asked")


def lost(job: Job, how: str) -> Outcome:
    """The outcome of a job whose process went away: what it wrote down before, if it did, else `how`."""
    written = read_outcome(Path(job.folder))
    if written is not None:
        return written
    return Outcome(status="failed", sentence=how, trouble=Trouble.LOST, signature=signature_of(how))


def in_fresh_process_next(outcome: Outcome) -> bool:
    """Whether what happened may have left the process unfit for another job."""
    return outcome.status == "failed" and outcome.trouble in (Trouble.MEMORY, Trouble.ERROR)
