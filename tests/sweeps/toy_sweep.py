"""A whole sweep of runs that take a second, every other one of two replicas, as a command.

`python toy_sweep.py DATA OUT POOL RUNS STEPS [STORAGE]`; with a storage its workers see nothing of OUT.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from sweeps.attempt.job import Job
from sweeps.driver.sweep import run_sweep
from sweeps.ledger.rebuild import open_whole
from sweeps.ledger.types import Needs
from sweeps.pools.base import PoolOptions
from sweeps.pools.processes import ProcessPool
from sweeps.pools.start import start
from sweeps.pools.storage.files import usable_storage
from sweeps.pools.storage.pool import StoragePool
from sweeps.record.tracking import tracking_uri
from sweeps.show.progress import Progress

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a script, it finds only its own folder
from tests.sweeps.tiny import tiny_data, tiny_entry


class FarPool(ProcessPool):
    """Processes here, which are told of places that are not there, as if they were elsewhere."""

    def submit(self, job: Job, needs: Needs, *, avoid_host: str | None = None) -> int:
        places = [str(Path("/nowhere", *Path(name).parts[-5:])) for name in (job.folder, *job.stop_files)]
        far = replace(job, folder=places[0], stop_files=tuple(places[1:]), dataset="/nowhere/data")
        return super().submit(far, needs, avoid_host=avoid_host)


def main() -> None:
    data_folder, out, pool, runs, steps, *storage = sys.argv[1:]
    data = tiny_data(Path(data_folder))
    entries = [
        tiny_entry(data, seed=10 * seed, replicas=1 + seed % 2, steps=int(steps), checkpoint_every_s=0.2)
        for seed in range(int(runs))
    ]
    out = Path(out)
    runners = FarPool(PoolOptions(logs=out)) if storage else start(pool)
    if storage:
        runners = StoragePool(runners, usable_storage(storage[0]), [data.folder])
    ledger, repaired = open_whole(out / "toy" / "ledger")
    print(repaired)
    with ledger:
        report = run_sweep(
            entries,
            ledger,
            runners,
            sweep="toy",
            tracking=tracking_uri(out),
            watchers=[Progress(Console(width=200), "toy")],
            grace_s=120,
        )
    print(report.sentence)
    sys.exit(130 if report.interrupted else 0)


if __name__ == "__main__":
    main()
