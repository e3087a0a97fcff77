"""A pool and a clock that only pretend, for tests of the scheduler."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sweeps.ledger_types import Entry, Needs
from sweeps.owner import Owner
from sweeps.pool import killed
from sweeps.rack import Node, Rack
from sweeps.worker import Job, Outcome, Trouble, signature_of


class Clock:
    """Wall time and uptime that move only when told."""

    def __init__(self, start: float = 1e9) -> None:
        self.time = start

    def __call__(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


def other_owner(name: str, *, machine: str = "elsewhere") -> Owner:
    """A driver on another machine: nothing but its beat tells whether it lives."""
    return Owner(id=name, host=name, machine=machine, pid=1, process_started=0.0)


def entry(key: str, seconds: float = 10.0, *, needs: Needs | None = None) -> Entry:
    spec = {
        "family": "uniform",
        "size": {"name": "4k"},
        "budget": 1e9,
        "sequences": 100,
        "batch_size": 10,
        "data": {"context_length": 8},
    }
    return Entry(
        key=key,
        family="uniform",
        spec=spec,
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


class SimulatedPool:
    """Jobs take the time and come to the end that `behaviour` says. `log` has (time, event, key)."""

    def __init__(
        self, clock: Clock, behaviour: Behaviour, *, slots: float = 2, nodes: int = 1, gpus: float = 0
    ) -> None:
        self.clock, self.behaviour = clock, behaviour
        self.rack = Rack(
            [Node(name=f"node {i}", host=f"host {i}", cpus=slots, gpus=gpus) for i in range(nodes)]
        )
        self.running: dict[int, tuple[float, Job, Outcome]] = {}
        self.log: list[tuple[float, str, str]] = []
        self.count = 0
        self.most = 0

    def ready(self) -> None:
        return

    def warm(self, count: int) -> None:
        return

    def close(self) -> None:
        self.running.clear()

    def refusal(self, needs: Needs) -> str | None:
        return self.rack.refusal(needs)

    def slots(self, needs: Needs) -> int:
        return self.rack.slots(needs)

    def hosts(self) -> int:
        return len(self.rack.nodes)

    def has_room(self, needs: Needs) -> bool:
        return self.rack.find(needs) is not None

    def submit(self, job: Job, needs: Needs, *, avoid_host: str | None = None) -> int:
        self.count += 1
        seconds, outcome = self.behaviour(job)
        self.running[self.count] = (self.clock() + seconds, job, outcome)
        self.rack.place(self.count, needs, avoid_host=avoid_host)
        self.log.append((self.clock(), "start", job.key))
        self.most = max(self.most, len(self.running))
        return self.count

    def wait(self, timeout_s: float) -> list[tuple[int, Outcome]]:
        """Moves the clock to the next end, or by the timeout; a job whose stop file exists ends at once."""
        for handle, (_, job, _) in self.running.items():
            asked = [Path(path) for path in job.stop_files if Path(path).exists()]
            if asked:
                outcome = Outcome(status="preempted", sentence=asked[0].read_text())
                self.running[handle] = (self.clock(), job, outcome)
        until = min([self.clock() + timeout_s, *(end for end, _, _ in self.running.values())])
        self.clock.time = max(self.clock.time, until)
        return [self._end(h) for h, (end, _, _) in list(self.running.items()) if end <= self.clock()]

    def _end(self, handle: int) -> tuple[int, Outcome]:
        _, job, outcome = self.running.pop(handle)
        self.rack.remove(handle)
        self.log.append((self.clock(), outcome.status, job.key))
        return handle, outcome

    def yields_to(self, priority: int, waiting: int) -> str | None:
        return None

    def kill(self, handle: int) -> None:
        _, job, _ = self.running[handle]
        self.running[handle] = (self.clock(), job, killed())

    def started(self) -> list[str]:
        return [key for _, event, key in self.log if event == "start"]
