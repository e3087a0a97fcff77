"""The entry point of a worker process of any pool: one job, with its files here or in a storage."""

from __future__ import annotations

from sweeps.attempt.job import Job, Outcome
from sweeps.attempt.worker import Stop, Train, run_job


def run(job: Job, *, train: Train | None = None, stop: Stop | None = None) -> Outcome:
    """Run `job` to its end in this process, as `run_job` does; with a storage, on copies kept in step."""
    stop = stop or Stop()
    if not job.storage:
        return run_job(job, train=train, stop=stop)
    from sweeps.pools.storage.mirror import run_mirrored

    return run_mirrored(job, lambda local: run_job(local, train=train, stop=stop), stop)


def load_packages() -> None:
    """Import the packages that every run needs. It takes seconds, so workers do it before there is a job."""
    import torch

    import scaling.data
    import scaling.training  # noqa: F401

    torch.optim.AdamW([torch.zeros(1)])  # torch loads its compiler (2 s) with the first optimizer
