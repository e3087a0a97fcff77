"""The interface of pools, which run jobs. The driver uses only `Pool`, so the simulator can replace it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sweeps.attempt.job import Job, Outcome
from sweeps.ledger.types import Needs
from sweeps.pools.rack import Handle, Rack

WORKER_ENVIRONMENT = {
    # By default glibc returns large blocks to the kernel and takes them again at every step: training steps
    # on CPU were 1.3 to 2.8 times as fast with these two.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "1000000000000",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """Options of a pool; each pool uses those that apply to it."""

    address: str | None = None
    """Of a Ray cluster (default: RAY_ADDRESS, else one is started here)."""
    cpus: int | None = None
    """That a pool on this machine may use (default: all); gpus likewise."""
    gpus: int | None = None
    logs: Path | None = None
    """A folder for the output of workers."""
    shared: Path | None = None
    """A folder that all nodes of a cluster have to see."""
    sweep: str = ""
    """The name that other sweeps on the cluster see."""


class Pool(Protocol):
    """Runs jobs. Only the thread that made it may call it."""

    @property
    def rack(self) -> Rack:
        """Its nodes as they are now, with their room and the jobs placed there. Only the pool places jobs."""

    def ready(self) -> None:
        """Wait until jobs can be submitted. UserError if the pool cannot start."""

    def warm(self, count: int) -> None:
        """Have at most `count` workers load the packages that every run needs; returns at once."""

    def submit(self, job: Job, needs: Needs, *, avoid_host: str | None = None) -> Handle:
        """Start it; on `avoid_host` only if no other machine has room."""

    def wait(self, timeout_s: float) -> list[tuple[Handle, Outcome]]:
        """Wait until a job ends; returns all that have ended. Empty after `timeout_s`, also if none runs."""

    def yields_to(self, priority: int, waiting: int) -> str | None:
        """Tell other sweeps on this pool that `waiting` runs of `priority` wait here.

        Returns the name of a sweep of higher priority that waits for room; None if there is none.
        """

    def kill(self, handle: Handle) -> None:
        """End a job at once; `wait` reports it."""

    def close(self) -> None:
        """Kill all jobs and remove everything."""
