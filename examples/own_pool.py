"""A pool of one's own: one run at a time, in the process of the driver.

In the package this would be sweeps/pools/inline.py and one line in `POOLS`.

Slow but easy to debug: a breakpoint in the training loop works, and an exception has its whole traceback.
"""

from __future__ import annotations

import socket
import time

from sweeps.attempt.job import Job, Outcome, killed
from sweeps.ledger.types import Needs
from sweeps.pools.base import PoolOptions
from sweeps.pools.entry import run
from sweeps.pools.rack import Handle, Node, Rack
from sweeps.pools.start import POOLS


class InlinePool:
    """See `sweeps.pools.base.Pool`: the protocol has no base class to inherit from."""

    def __init__(self, options: PoolOptions) -> None:
        del options  # nothing to choose
        self.rack = Rack([Node(name="here", host=socket.gethostname(), cpus=1.0)])
        self._waiting: list[tuple[Handle, Job]] = []
        self._killed: set[Handle] = set()
        self._count = 0

    def ready(self) -> None:
        """Nothing to wait for."""

    def warm(self, count: int) -> None:
        """Nothing to load beforehand."""

    def submit(self, job: Job, needs: Needs, *, avoid_host: str | None = None) -> Handle:
        self._count += 1
        self.rack.place(self._count, needs)
        self._waiting.append((self._count, job))
        return self._count

    def wait(self, timeout_s: float) -> list[tuple[Handle, Outcome]]:
        if not self._waiting:
            time.sleep(timeout_s)
            return []
        handle, job = self._waiting.pop(0)
        outcome = killed() if handle in self._killed else run(job)
        self.rack.remove(handle)
        return [(handle, outcome)]

    def yields_to(self, priority: int, waiting: int) -> str | None:
        return None  # no other sweep shares this process

    def kill(self, handle: Handle) -> None:
        self._killed.add(handle)

    def close(self) -> None:
        self._waiting.clear()


def register() -> None:
    """Add the pool to the table of this process."""
    POOLS["inline"] = "examples.own_pool:InlinePool"
