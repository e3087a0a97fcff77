"""Where jobs run: what every pool answers, and the choice between them.

`ray` is any Ray cluster, by default one started on this machine; `local` is plain processes on this
machine. The scheduler knows only `Pool`, so it is tested with a simulated one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from scaling.errors import UserError
from sweeps.attempt.worker import Job, Outcome, Trouble, read_outcome, signature_of
from sweeps.ledger.types import Needs
from sweeps.pools.rack import Handle, Rack

WORKER_ENVIRONMENT = {
    # glibc gives large blocks back to the kernel and takes them again at every step unless told not to:
    # training steps on CPU were 1.3 to 2.8 times as fast with these two.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "1000000000000",
}


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


def start(
    kind: str = "ray",
    *,
    address: str | None = None,
    cpus: int | None = None,
    gpus: int | None = None,
    logs: Path | None = None,
    shared: Path | None = None,
    sweep: str = "",
) -> Pool:
    """Begin to start a pool and return at once; `ready` waits for it.

    kind: "ray" or "local". address: of a Ray cluster (default: RAY_ADDRESS, else one is started here).
    cpus, gpus: what a pool on this machine may use (default: all). logs: folder for what workers print.
    shared: a folder that all nodes of a cluster have to see. sweep: a name for other sweeps there to be told.
    UserError for an unknown kind and for an address that does not answer.
    """
    if kind == "ray":
        from sweeps.pools.ray.pool import RayPool

        return RayPool(address=address, cpus=cpus, gpus=gpus, shared=shared, sweep=sweep)
    if kind == "local":
        from sweeps.pools.local import LocalPool

        if address:
            raise UserError(f"pool 'local' has no address, and {address!r} was given; leave one of them out")
        return LocalPool(cpus=cpus, gpus=gpus, logs=logs)
    raise UserError(f"pool is {kind!r}, it must be one of ray, local")


def killed() -> Outcome:
    """The outcome of a job that `Pool.kill` ended."""
    return Outcome(status="preempted", sentence="stopped at once, as asked")


def lost(job: Job, how: str) -> Outcome:
    """The outcome of a job whose process went away: what it wrote down before, if it did, else `how`."""
    written = read_outcome(Path(job.folder))
    if written is not None:
        return written
    return Outcome(status="failed", sentence=how, trouble=Trouble.LOST, signature=signature_of(how))


def in_fresh_process_next(outcome: Outcome) -> bool:
    """Whether what happened may have left the process unfit for another job."""
    return outcome.status == "failed" and outcome.trouble in (Trouble.MEMORY, Trouble.ERROR, Trouble.LOST)
