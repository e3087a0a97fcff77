"""Where jobs run: what every pool answers. The driver knows only `Pool`, so tests give it a simulated one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sweeps.attempt.job import Job, Outcome
from sweeps.ledger.types import Needs
from sweeps.pools.rack import Handle, Rack

WORKER_ENVIRONMENT = {
    # glibc gives large blocks back to the kernel and takes them again at every step unless told not to:
    # training steps on CPU were 1.3 to 2.8 times as fast with these two.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "1000000000000",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """What a pool is started with; each uses what applies to it."""

    address: str | None = None
    """Of a Ray cluster (default: RAY_ADDRESS, else one is started here)."""
    cpus: int | None = None
    """That a pool on this machine may use (default: all); gpus likewise."""
    gpus: int | None = None
    logs: Path | None = None
    """A folder for what workers print."""
    shared: Path | None = None
    """A folder that all nodes of a cluster have to see."""
    sweep: str = ""
    """The name that other sweeps on the cluster see."""


class Pool(Protocol):
    """Runs jobs. Only the thread that made it calls it."""

    @property
    def rack(self) -> Rack:
        """Its nodes as they are now, what each can hold and what is placed there; the pool alone places."""

    def ready(self) -> None:
        """Wait until jobs can be submitted. UserError where the pool cannot be had."""

    def warm(self, count: int) -> None:
        """Get workers, at most `count`, to load what every run needs; returns at once."""

    def submit(self, job: Job, needs: Needs, *, avoid_host: str | None = None) -> Handle:
        """Start it; on `avoid_host` only where no other machine has room."""

    def wait(self, timeout_s: float) -> list[tuple[Handle, Outcome]]:
        """What has ended, as soon as something has; empty after `timeout_s`, slept away if nothing runs."""

    def yields_to(self, priority: int, waiting: int) -> str | None:
        """Tell other sweeps on this pool that `waiting` runs of `priority` wait here.

        Returns the name of a sweep of higher priority that waits for room; None if there is none.
        """

    def kill(self, handle: Handle) -> None:
        """End a job at once; `wait` reports it."""

    def close(self) -> None:
        """Kill what runs, and leave nothing behind."""
