"""The table of pools. A new pool is a file with a class like `base.Pool`, and a line here."""

from __future__ import annotations

from importlib import import_module

from scaling.errors import UserError
from sweeps.pools.base import Pool, PoolOptions

POOLS = {"ray": "sweeps.pools.ray.pool:RayPool", "local": "sweeps.pools.processes:ProcessPool"}
"""Name, as `--pool` takes it, and class. `ray`: any Ray cluster, by default one started on this machine."""


def start(kind: str = "ray", options: PoolOptions | None = None) -> Pool:
    """Begin to start a pool and return at once; `ready` waits for it.

    UserError for an unknown kind, and if nothing answers at the address or the pool has none.
    """
    if kind not in POOLS:
        raise UserError(f"pool is {kind!r}, it must be one of {', '.join(POOLS)}")
    module, name = POOLS[kind].split(":")
    pool: Pool = getattr(import_module(module), name)(options or PoolOptions())
    return pool
