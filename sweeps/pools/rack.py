"""The nodes of a pool, what each can hold, and where the next run goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sweeps.ledger.types import Needs

Handle = int

SLACK = 1e-6
"""Sums of fractional GPUs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine of the pool and what it has in all."""

    name: str
    host: str = ""
    cpus: float
    gpus: float = 0.0
    memory_bytes: float = float("inf")
    gpu_kind: str = ""
    """As `sweeps.pools.devices` names it; "" where the pool does not say."""
    gpu_memory_bytes: float = float("inf")
    """Of each GPU."""
    gpu_speed: float = 0.0
    """Peak FLOP/s of each GPU; 0 where it is not known."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """Further ones by name, as Ray nodes are given them."""

    def has(self) -> dict[str, float]:
        """Everything that is shared out, by name."""
        return {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory_bytes, **self.resources}

    def fits(self, needs: Needs, used: Mapping[str, float] | None = None) -> bool:
        """Whether there is room for `needs` beside what is used."""
        if needs.gpus and needs.gpu_memory_bytes > self.gpu_memory_bytes:
            return False
        have, used = self.has(), used or {}
        return all(
            used.get(name, 0.0) + wanted <= have.get(name, 0.0) + SLACK
            for name, wanted in needs.amounts().items()
            if wanted > 0
        )

    def times(self, needs: Needs) -> int:
        """How often `needs` fits on this node when it is empty."""
        if not self.fits(needs):
            return 0
        have = self.has()
        ratios = [have[name] / wanted for name, wanted in needs.amounts().items() if wanted > 0]
        finite = [ratio for ratio in ratios if ratio != float("inf")]
        return int(min(finite, default=1) + SLACK)

    def __str__(self) -> str:
        told = Needs(
            cpus=self.cpus,
            gpus=self.gpus,
            memory_bytes=_finite(self.memory_bytes),
            gpu_memory_bytes=_finite(self.gpu_memory_bytes),
            resources=tuple((name, amount) for name, amount in sorted(self.resources.items()) if amount >= 1),
        )
        return str(told)


def _finite(value: float) -> float:
    return value if value != float("inf") else 0.0


class Rack:
    """The pool's nodes and what is placed on each."""

    def __init__(self, nodes: Iterable[Node] = ()) -> None:
        self._nodes: dict[str, Node] = {}
        self._used: dict[str, Counter[str]] = {}
        self._placed: dict[Handle, tuple[str, Needs]] = {}
        self._ever: dict[str, Node] = {}
        """A node of every sort that was ever there: one that is lost may come back."""
        self._slots: dict[Needs, int] = {}
        self.update(nodes)

    @property
    def nodes(self) -> list[Node]:
        return list(self._nodes.values())

    @property
    def hosts(self) -> int:
        """How many machines there are now."""
        return len({node.host for node in self._nodes.values()})

    def update(self, nodes: Iterable[Node]) -> None:
        """The nodes there are now; what was placed on one that is gone stays until it is taken out."""
        self._nodes = {node.name: node for node in nodes}
        self._ever |= {str(node): node for node in self._nodes.values()}
        self._slots.clear()

    def find(self, needs: Needs, *, avoid_host: str | None = None) -> Node | None:
        """The node to put it on, of those with room: the fastest GPU, then the one with least to spare.

        avoid_host: taken only where no other has room; something failed there.
        """
        room = []
        for node in self._nodes.values():
            used = self._used.get(node.name, Counter())
            if node.fits(needs, used):
                speed = node.gpu_speed if needs.gpus else 0.0
                spare = (node.gpus - used["GPU"], node.cpus - used["CPU"])
                room.append((node.host == avoid_host, -speed, *spare, node.name))
        return self._nodes[min(room)[-1]] if room else None

    def place(self, handle: Handle, needs: Needs, *, avoid_host: str | None = None) -> Node | None:
        """Note that `handle` runs on the node `find` names, or waits for any if that is None."""
        node = self.find(needs, avoid_host=avoid_host)
        name = node.name if node else ""
        self._placed[handle] = (name, needs)
        self._used.setdefault(name, Counter()).update(needs.amounts())
        return node

    def remove(self, handle: Handle) -> None:
        name, needs = self._placed.pop(handle)
        self._used[name].subtract(needs.amounts())

    def on(self, name: str) -> list[Handle]:
        """What is placed on the node called `name`."""
        return [handle for handle, (node, _) in self._placed.items() if node == name]

    def refusal(self, needs: Needs) -> str | None:
        """Why no node can ever hold it, with the smallest that could; None if one can.

        None, too, while there has been no node at all: one may come.
        """
        if not self._ever or any(node.fits(needs) for node in self._ever.values()):
            return None
        have = "; ".join(sorted(self._ever))
        return f"no node can hold this run: the smallest that could has {needs} (nodes here: {have})"

    def slots(self, needs: Needs) -> int:
        """How many such runs fit on all nodes together when nothing else does."""
        if needs not in self._slots:
            self._slots[needs] = sum(node.times(needs) for node in self._nodes.values())
        return self._slots[needs]
