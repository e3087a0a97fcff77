"""A pool and a clock that only pretend, for tests of the scheduler."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from scaling.ladder import Size
from scaling.spec import DataSpec, OptimizerSpec, RunSpec
from sweeps.attempt.job import Job, Outcome, Trouble, signature_of
from sweeps.ledger.owner import Owner
from sweeps.ledger.types import Entry, Needs
from sweeps.pools.rack import Node
from sweeps.simulate import simulator as simulate


class Clock(simulate.Clock):
    """One that stands at a date, and can be slept on."""

    def __init__(self, start: float = 1e9) -> None:
        super().__init__(start)

    def sleep(self, seconds: float) -> None:
        self.time += seconds


def other_owner(name: str, *, machine: str = "elsewhere") -> Owner:
    """A driver on another machine: nothing but its beat tells whether it lives."""
    return Owner(id=name, host=name, machine=machine, pid=1, process_started=0.0)


SPEC = RunSpec(
    family="uniform",
    size=Size(name="4k", hidden=4, num_layers=1, num_heads=1, cond_dim=4, time_features=4),
    budget=1e9,
    sequences=100,
    batch_size=10,
    data=DataSpec(corpus="-", tokenizer="-", fingerprint="-", num_token_ids=256, context_length=8),
    optimizer=OptimizerSpec(learning_rate=1e-3),
)


def entry(key: str, seconds: float = 10.0, *, needs: Needs | None = None) -> Entry:
    return Entry(
        key=key,
        spec=SPEC,
        dataset="data",
        predicted_s=seconds,
        needs=needs or Needs(),
        columns={"size": "4k", "budget": 1e9, "seed": 0},
    )


Behaviour = Callable[[Job], tuple[float, Outcome]]


def finish(seconds: float) -> Behaviour:
    return lambda job: (seconds, finished(job))


def finished(job: Job) -> Outcome:
    return Outcome(
        status="finished", sentence="done", result={"key": job.key, "bound": 1.5, "steps_done": 10}
    )


def failed(text: str, trouble: Trouble = Trouble.ERROR) -> Outcome:
    return Outcome(
        status="failed", sentence=text, trouble=trouble, traceback=text, signature=signature_of(text)
    )


class SimulatedPool(simulate.SimulatedPool):
    """Equal nodes whose jobs stop when their stop file is there. `log` has (time, event, key)."""

    def __init__(
        self,
        clock: Clock,
        behaviour: Behaviour,
        *,
        slots: float = 2,
        nodes: int = 1,
        gpus: float = 0,
        gpu_memory_bytes: float = float("inf"),
    ) -> None:
        each = {"cpus": slots, "gpus": gpus, "gpu_memory_bytes": gpu_memory_bytes}
        self.log: list[tuple[float, str, str]] = []
        self.most = 0
        super().__init__(
            clock,
            [Node(name=f"node {i}", host=f"host {i}", **each) for i in range(nodes)],
            lambda job, node: behaviour(job),
        )

    def submit(self, job: Job, needs: Needs, *, avoid_host: str | None = None) -> int:
        handle = super().submit(job, needs, avoid_host=avoid_host)
        self.log.append((self.clock(), "start", job.key))
        self.most = max(self.most, len(self.running))
        return handle

    def wait(self, timeout_s: float) -> list[tuple[int, Outcome]]:
        for handle, (job, _) in self.running.items():
            stop_files = [Path(path) for path in job.stop_files if Path(path).exists()]
            if stop_files:
                self.end_now(handle, Outcome(status="preempted", sentence=stop_files[0].read_text()))
        return super().wait(timeout_s)

    def end(self, handle: int) -> Outcome:
        job = self.running[handle][0]
        outcome = super().end(handle)
        self.log.append((self.clock(), outcome.status, job.key))
        return outcome

    def started(self) -> list[str]:
        return [key for _, event, key in self.log if event == "start"]
