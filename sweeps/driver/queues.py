"""GPUs of several speeds: does a run end sooner on a slow GPU that is free or on a fast one that is busy?

Each run, longest first, goes to the GPU on which it is expected to end first. So long runs wait for fast GPUs
as long as that pays, and slow GPUs get short runs. Times are in proportion to the GPUs' peak speeds.
"""

from __future__ import annotations

import heapq

from sweeps.ledger.types import Needs
from sweeps.pools.rack import Node


class Queues:
    """When busy GPUs come free, by speed; for one round of decisions."""

    def __init__(self, fastest: float = 0.0) -> None:
        """fastest: speed of the fastest GPU used so far; predicted times are for it."""
        self.fastest = fastest
        self._ends: dict[float, list[tuple[float, int, Node]]] = {}
        self._count = 0

    def add(self, node: Node, end: float) -> None:
        """A run on `node` is expected to end then."""
        if node.gpu_speed:
            self._count += 1  # nodes have no order
            heapq.heappush(self._ends.setdefault(node.gpu_speed, []), (end, self._count, node))

    def seconds_on(self, node: Node, predicted_s: float) -> float:
        """A time predicted for the fastest GPU, on this node's."""
        self.fastest = max(self.fastest, node.gpu_speed)
        return predicted_s * self.fastest / node.gpu_speed if node.gpu_speed else predicted_s

    def better_later(self, needs: Needs, predicted_s: float, node: Node, now: float) -> bool:
        """Whether the run ends sooner on a faster GPU once that is free than on `node` now.

        If so, that place in the queue is taken.
        """
        if not needs.gpus or not node.gpu_speed:
            return False
        soonest = now + self.seconds_on(node, predicted_s)
        chosen: list[tuple[float, int, Node]] | None = None
        for speed, ends in self._ends.items():
            end, _, there = ends[0]
            later = max(end, now) + self.seconds_on(there, predicted_s)
            if speed > node.gpu_speed and later < soonest and there.fits(needs):
                soonest, chosen = later, ends
        if chosen is None:
            return False
        _, number, there = chosen[0]
        heapq.heapreplace(chosen, (soonest, number, there))
        return True
