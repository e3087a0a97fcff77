"""Which sweeps on one Ray cluster wait for room, so that the less important give way.

An actor with a name keeps the list. It is no truth, only courtesy: an entry that is not renewed is forgotten,
and a list that is lost is begun anew.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

FORGET_S = 30.0
NAME, NAMESPACE = "waiting sweeps", "scaling"
ANSWER_S = 0.5
"""How long a driver waits for an answer before it goes on with the one before."""


class WaitingList:
    """What drivers said last of what waits with them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: dict[str, tuple[float, str, int, int]] = {}

    def tell(self, driver: str, sweep: str, priority: int, waiting: int) -> str | None:
        """Note that `waiting` runs of `sweep` wait; the most important other sweep that goes first."""
        now = self._clock()
        self._said[driver] = (now, sweep, priority, waiting)
        self._said = {who: said for who, said in self._said.items() if now - said[0] <= FORGET_S}
        first = [
            (other_priority, other)
            for _, other, other_priority, its in self._said.values()
            if its > 0 and other_priority > priority and other != sweep
        ]
        return max(first)[1] if first else None


class Waiting:
    """One driver's line to the list."""

    def __init__(self, sweep: str) -> None:
        self._driver, self._sweep = uuid.uuid4().hex, sweep
        self._actor: Any = None
        self._asked: Any = None
        self._answer: str | None = None

    def tell(self, priority: int, waiting: int, *, answer_s: float = ANSWER_S) -> str | None:
        """See `sweeps.pools.base.Pool.yields_to`; where the list does not answer at once, its last answer."""
        import ray

        try:
            if self._asked is None:
                self._asked = self._list().tell.remote(self._driver, self._sweep, priority, waiting)
            done, _ = ray.wait([self._asked], timeout=answer_s)
            if done:
                asked, self._asked = self._asked, None
                self._answer = ray.get(asked)
        except ray.exceptions.RayError:  # it went with its node, or is about to
            self._actor = self._asked = self._answer = None
        return self._answer

    def _list(self) -> Any:
        import ray

        if self._actor is None:
            self._actor = (
                ray.remote(WaitingList)
                .options(
                    name=NAME,
                    namespace=NAMESPACE,
                    get_if_exists=True,
                    lifetime="detached",
                    num_cpus=0,
                    max_restarts=-1,
                )
                .remote()
            )
        return self._actor
