"""What a test asks of a real cluster, in a process of its own: `python cluster_jobs.py WHAT DATA OUT`.

Ray keeps its token for the life of a process, so no test can join two clusters. Prints a JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import psutil

from scaling.errors import UserError
from sweeps.attempt.job import Job
from sweeps.attempt.journal import read
from sweeps.attempt.worker import code_version
from sweeps.ledger.types import Needs
from sweeps.pools.base import PoolOptions
from sweeps.pools.ray.waiting import Waiting
from sweeps.pools.start import start

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a script, it finds only its own folder
from tests.sweeps.tiny import tiny_data, tiny_job
from tests.sweeps.two_ray_nodes import QUOTA


def raylet_of(job: Job) -> dict[str, object]:
    """What the node that runs the job was given, and where its worker found the code."""
    while not (records := read(Path(job.folder) / "journal.jsonl")):
        time.sleep(0.05)
    worker = psutil.Process(records[0].values["pid"])
    raylet = next(parent for parent in worker.parents() if parent.name() == "raylet")
    return {
        "quota": any(QUOTA in word for word in raylet.cmdline()),
        "cwd": worker.cwd(),
        "environment": worker.environ().get("MINE", ""),
        "code_version": records[0].values["code_version"],
        "node": raylet.pid,
    }


def ends(pool, count: int) -> list[str]:
    statuses: list[str] = []
    while len(statuses) < count:
        statuses += [outcome.status for _, outcome in pool.wait(1.0)]
    return statuses


def quota(pool, data, out: Path) -> dict[str, object]:
    needs = Needs(resources=((QUOTA, 1.0),))
    job = tiny_job(data, out / "quota", steps=2000)
    pool.submit(job, needs)
    return {
        "slots": pool.rack.slots(needs),
        "slots_in_all": pool.rack.slots(Needs()),
        "where": raylet_of(job),
        "ends": ends(pool, 1),
        "refusal": pool.rack.refusal(Needs(resources=(("quota_bert", 1.0),))),
        "driver": code_version(),
    }


def spread(pool, data, out: Path) -> dict[str, object]:
    """Two jobs at once, and then one whose node somebody else has taken without a word."""
    jobs = [tiny_job(data, out / name, steps=2000) for name in "ab"]
    for job in jobs:
        pool.submit(job, Needs())
    nodes = [raylet_of(job)["node"] for job in jobs]
    first = ends(pool, 2)
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    chosen = pool.rack.find(Needs())
    there = On(chosen.name, soft=False)
    taken = ray.remote(num_cpus=1, max_retries=0)(occupy).options(scheduling_strategy=there).remote()
    time.sleep(5)
    pool.submit(tiny_job(data, out / "c"), Needs())
    ended = ends(pool, 1)
    ray.cancel(taken, force=True)
    return {"nodes": nodes, "ends": first + ended}


def occupy() -> None:
    time.sleep(600)


def waiting(pool, data, out: Path) -> dict[str, object]:
    def said(line: Waiting, priority: int, runs: int) -> str | None:
        return line.announce(priority, runs, answer_s=30)

    nightly, urgent = Waiting("nightly"), Waiting("urgent")
    first = (
        said(nightly, 0, 5),
        said(urgent, 3, 2),
        said(nightly, 0, 5),
        said(urgent, 3, 0),
        said(nightly, 0, 5),
    )
    pool.yields_to(7, 1)
    time.sleep(2)
    return {"first": first, "then": said(nightly, 0, 5)}


def main() -> None:
    what, data, out = sys.argv[1], tiny_data(Path(sys.argv[2])), Path(sys.argv[3])
    try:
        pool = start("ray", PoolOptions(shared=out, sweep="mine"))
        try:
            pool.ready()
            print(json.dumps({"quota": quota, "spread": spread, "waiting": waiting}[what](pool, data, out)))
        finally:
            pool.close()
    except UserError as error:
        print(json.dumps({"error": str(error)}))


if __name__ == "__main__":
    main()
