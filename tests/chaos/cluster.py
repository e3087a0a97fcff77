"""Two Ray nodes on this machine, one of which can be lost and comes back."""

from __future__ import annotations

import random
import time

from tests.sweeps.two_ray_nodes import TwoRayNodes

QUICK = {
    # a lost node is noticed after seconds instead of half a minute
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "4",
}


class FragileNodes(TwoRayNodes):
    """A head with one CPU, and a node with another that is lost now and then."""

    def __init__(self, environment: dict[str, str], seed: int) -> None:
        self._random = random.Random(seed)
        super().__init__(**QUICK, **environment)

    def lose_node(self) -> str:
        """The second node goes without a word; another one comes a few seconds later."""
        self.kill_second()
        time.sleep(self._random.uniform(0.0, 3.0))
        self.start_second()
        return "the second node"
