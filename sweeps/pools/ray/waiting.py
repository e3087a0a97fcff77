"""The list of sweeps on one Ray cluster that wait for room: sweeps of lower priority give way to them.

An actor with a name keeps the list. An entry that is not renewed is dropped, and a list that is lost begins
empty.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

FORGET_S = 30.0
NAME, NAMESPACE = "waiting list", "scaling"
"""An actor outlives a new version of this program: a list with other methods needs another name."""
ANSWER_S = 0.5
"""How long a driver waits for an answer before it goes on with the last one."""


class WaitingList:
    """The last entry of each driver."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: dict[str, tuple[float, str, int, int]] = {}

    def announce(self, driver: str, sweep: str, priority: int, waiting: int) -> str | None:
        """Note that `waiting` runs of `sweep` wait. Returns the sweep of highest priority that goes first."""
        now = self._clock()
        self._entries[driver] = (now, sweep, priority, waiting)
        self._entries = {name: entry for name, entry in self._entries.items() if now - entry[0] <= FORGET_S}
        first = [
            (other_priority, other)
            for _, other, other_priority, count in self._entries.values()
            if count > 0 and other_priority > priority and other != sweep
        ]
        return max(first)[1] if first else None


class Waiting:
    """One driver's access to the list."""

    def __init__(self, sweep: str) -> None:
        self._driver, self._sweep = uuid.uuid4().hex, sweep
        self._actor: Any = None
        self._request: Any = None
        self._answer: str | None = None

    def announce(self, priority: int, waiting: int, *, answer_s: float = ANSWER_S) -> str | None:
        """See `sweeps.pools.base.Pool.yields_to`; the last answer if there is no new one in time."""
        import ray

        try:
            if self._actor is None:
                options = {"name": NAME, "namespace": NAMESPACE, "lifetime": "detached", "num_cpus": 0}
                actor = ray.remote(WaitingList).options(**options, get_if_exists=True, max_restarts=-1)
                self._actor = actor.remote()
            if self._request is None:
                self._request = self._actor.announce.remote(self._driver, self._sweep, priority, waiting)
            if ray.wait([self._request], timeout=answer_s)[0]:
                request, self._request = self._request, None
                self._answer = ray.get(request)
        except ray.exceptions.RayError:  # it went with its node, or is about to
            self._actor = self._request = self._answer = None
        return self._answer
