"""The nodes of a pool, their room, and the choice of the node for the next run."""

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
    """A machine of the pool and its total resources."""

    name: str
    host: str = ""
    cpus: float
    gpus: float = 0.0
    memory_bytes: float = float("inf")
    gpu_kind: str = ""
    """As `sweeps.pools.devices` names it; "" if the pool does not say."""
    gpu_memory_bytes: float = float("inf")
    """Of each GPU."""
    gpu_speed: float = 0.0
    """Peak FLOP/s of each GPU; 0 if it is unknown."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """Further ones by name, as in `ray start --resources`."""

    def has(self) -> dict[str, float]:
        """Every resource that runs share, by name."""
        return {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory_bytes, **self.resources}

    def fits(self, needs: Needs, used: Mapping[str, float] | None = None) -> bool:
        """Whether there is room for `needs` beside the used resources."""
        if needs.gpus and needs.gpu_memory_bytes > self.gpu_memory_bytes:
            return False
        have, used = self.has(), used or {}
        return all(
            used.get(name, 0.0) + amount <= have.get(name, 0.0) + SLACK
            for name, amount in needs.amounts().items()
            if amount > 0
        )

    def times(self, needs: Needs) -> int:
        """How often `needs` fits on this node when it is empty."""
        if not self.fits(needs):
            return 0
        have = self.has()
        ratios = [have[name] / amount for name, amount in needs.amounts().items() if amount > 0]
        finite = [ratio for ratio in ratios if ratio != float("inf")]
        return int(min(finite, default=1) + SLACK)

    def __str__(self) -> str:
        infinite = float("inf")  # unknown, so left out
        needs = Needs(
            cpus=self.cpus,
            gpus=self.gpus,
            memory_bytes=self.memory_bytes if self.memory_bytes != infinite else 0.0,
            gpu_memory_bytes=self.gpu_memory_bytes if self.gpu_memory_bytes != infinite else 0.0,
            resources=tuple((name, amount) for name, amount in sorted(self.resources.items()) if amount >= 1),
        )
        return str(needs)


class Rack:
    """The pool's nodes and the runs placed on each."""

    def __init__(self, nodes: Iterable[Node] = ()) -> None:
        self._nodes: dict[str, Node] = {}
        self._used: dict[str, Counter[str]] = {}
        self._placed: dict[Handle, tuple[str, Needs]] = {}
        self._ever: dict[str, Node] = {}
        """A node of every sort that was ever in the pool: a lost one may come back."""
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
        """Set the current nodes; runs placed on one that is gone stay until they are removed."""
        self._nodes = {node.name: node for node in nodes}
        self._ever |= {str(node): node for node in self._nodes.values()}
        self._slots.clear()

    def find(self, needs: Needs, *, avoid_host: str | None = None) -> Node | None:
        """The node to use, of those with room: the fastest GPU, then the least spare GPUs and CPUs.

        avoid_host: used only if no other has room, because an attempt failed there.
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
        """Place `handle` on the node that `find` returns; None if it has to wait for one."""
        node = self.find(needs, avoid_host=avoid_host)
        name = node.name if node else ""
        self._placed[handle] = (name, needs)
        self._used.setdefault(name, Counter()).update(needs.amounts())
        return node

    def remove(self, handle: Handle) -> None:
        name, needs = self._placed.pop(handle)
        self._used[name].subtract(needs.amounts())

    def on(self, name: str) -> list[Handle]:
        """The runs on the node called `name`."""
        return [handle for handle, (node, _) in self._placed.items() if node == name]

    def refusal(self, needs: Needs) -> str | None:
        """Why no node can ever hold it, with the smallest that could; None if one can.

        None, too, as long as the pool has had no node at all.
        """
        if not self._ever or any(node.fits(needs) for node in self._ever.values()):
            return None
        have = "; ".join(sorted(self._ever))
        return f"no node can hold this run: the smallest that could has {needs} (nodes here: {have})"

    def slots(self, needs: Needs) -> int:
        """How many such runs fit on all nodes together if they are empty."""
        if needs not in self._slots:
            self._slots[needs] = sum(node.times(needs) for node in self._nodes.values())
        return self._slots[needs]
