"""Two Ray nodes on this machine, one of which can be lost and comes back."""

from __future__ import annotations

import os
import random
import secrets
import time

OBJECT_STORE_BYTES = 80 * 2**20
QUICK = {
    # a lost node is noticed after seconds instead of half a minute
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "4",
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
}


class TwoNodes:
    """A head with one CPU and a node with another."""

    def __init__(self, environment: dict[str, str], seed: int) -> None:
        os.environ.update(QUICK)
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ.update(environment)
        from ray.cluster_utils import Cluster

        options = {"num_cpus": 1, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
        self._random = random.Random(seed)
        self._cluster = Cluster(initialize_head=True, head_node_args=options)
        self._options = {name: value for name, value in options.items() if name != "include_dashboard"}
        self._node = self._cluster.add_node(**self._options)

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def lose_node(self) -> str:
        """Kill the second node's processes at once; another one comes a few seconds later."""
        self._cluster.remove_node(self._node, allow_graceful=False)
        time.sleep(self._random.uniform(0.0, 3.0))
        self._node = self._cluster.add_node(**self._options)
        return "the second node"

    def close(self) -> None:
        self._cluster.shutdown()
