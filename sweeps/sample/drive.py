"""Points on a pool: started while there is room, tried again if a worker is lost, skipped if done before.

Each worker writes its point's result beside the sweep, whole or not at all, so whatever is killed, no
finished point is measured again.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sweeps.attempt.job import Job, Outcome, Trouble, read_outcome, write_outcome
from sweeps.attempt.journal import run_folder
from sweeps.driver.stopping import StopRequest
from sweeps.pools.base import Handle, Pool
from sweeps.sample.judging import sampled_replica
from sweeps.sample.measure import WORK
from sweeps.sample.points import Point

ATTEMPTS = 3
POLL_S = 0.5
AGAIN = frozenset({Trouble.LOST, Trouble.NODE_MEMORY, Trouble.DATA})
"""Troubles that may pass."""


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far the points are."""

    points: Sequence[Point]
    slots: int = 1
    done: dict[str, Outcome] = field(default_factory=dict)
    """Key of a point -> how it ended, now or in an earlier call."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Key -> how long it took, of those of this call."""
    running: dict[str, float] = field(default_factory=dict)
    """Key -> when it started."""

    def left_s(self, now: float) -> float | None:
        """Seconds until all are done; None until a point of this call has shown the pace.

        A point takes as long per call of the network as those of its family did, or as all did.
        """
        if not self.seconds:
            return None
        calls: dict[str, float] = defaultdict(float)
        spent: dict[str, float] = defaultdict(float)
        for point in self.points:
            if point.key in self.seconds:
                for place in (point.run.family, ""):
                    calls[place] += point.calls + 1  # a point without a call would still take its start
                    spent[place] += self.seconds[point.key]
        left = []
        for point in self.points:
            if point.key not in self.done:
                place = point.run.family if point.run.family in calls else ""
                expected = (point.calls + 1) * spent[place] / calls[place]
                left.append(max(0.0, expected - (now - self.running.get(point.key, now))))
        return max([sum(left) / max(1, self.slots), *left], default=0.0)


def earlier(points: Sequence[Point], folder: Path) -> dict[str, Outcome]:
    """The points that were measured in an earlier call. What was refused is asked again, for what was missing
    (a package, say) may be there now."""
    outcomes = {point.key: read_outcome(point.folder(folder)) for point in points}
    return {
        key: outcome
        for key, outcome in outcomes.items()
        if outcome is not None and outcome.status == "finished"
    }


def drive(
    points: Sequence[Point],
    pool: Pool,
    folder: Path,
    dataset: str,
    *,
    stop: StopRequest,
    show: Callable[[Progress, Point | None], None],
    clock: Callable[[], float] = time.monotonic,
) -> Progress:
    """Measure the points that are not done yet; folder: of the sweep. On a request to stop, running
    points end at once and are lost.

    show: called with each point that ended, and with None about every POLL_S seconds.
    """
    driver = _Driver(
        pool, folder, dataset, Progress(points=points, done=earlier(points, folder)), show, clock
    )
    driver.waiting.extend(point for point in points if point.key not in driver.progress.done)
    while driver.waiting or driver.flights:
        if stop.asked:
            driver.waiting.clear()
            for handle in driver.flights:
                pool.kill(handle)
        driver.start()
        for handle, outcome in pool.wait(POLL_S):
            driver.settle(handle, outcome, again=not stop.asked)
        show(driver.progress, None)
    return driver.progress


@dataclass(slots=True)
class _Driver:
    pool: Pool
    folder: Path
    dataset: str
    progress: Progress
    show: Callable[[Progress, Point | None], None]
    clock: Callable[[], float]
    waiting: deque[Point] = field(default_factory=deque)
    flights: dict[Handle, Point] = field(default_factory=dict)
    attempts: Counter[str] = field(default_factory=Counter)

    def start(self) -> None:
        """Start points as long as there is room for the next one."""
        rack = self.pool.rack
        while self.waiting:
            point = self.waiting[0]
            if rack.find(point.needs) is None:
                refusal = rack.refusal(point.needs)
                if refusal is None or self.flights:
                    return
                self.progress.done[point.key] = Outcome(status="failed", sentence=refusal)
                self.show(self.progress, self.waiting.popleft())
                continue
            self.waiting.popleft()
            self.attempts[point.key] += 1
            self.progress.running[point.key] = self.clock()
            self.flights[self.pool.submit(_job(point, self.folder, self.dataset), point.needs)] = point
            self.progress.slots = max(1, rack.slots(point.needs))

    def settle(self, handle: Handle, outcome: Outcome, *, again: bool) -> None:
        """Note how a point ended, or queue it again after trouble that may pass."""
        point, progress = self.flights.pop(handle), self.progress
        began = progress.running.pop(point.key)
        outcome = self._kept(point, outcome)
        preempted = outcome.status == "preempted"  # without a request to stop: its storage did not answer
        passing = preempted or outcome.trouble in AGAIN
        if passing and self.attempts[point.key] < ATTEMPTS and again:
            self.waiting.append(point)
        elif again or not preempted:
            progress.done[point.key] = outcome
            progress.seconds[point.key] = self.clock() - began
            self.show(progress, point)

    def _kept(self, point: Point, outcome: Outcome) -> Outcome:
        """The outcome, which is no result unless the table finds it in the point's folder: a worker on a full
        disk could write nothing."""
        place = point.folder(self.folder)
        if outcome.status != "finished" or read_outcome(place) is not None:
            return outcome
        try:
            write_outcome(place, outcome)
        except OSError as error:
            sentence = f"its result cannot be written below {self.folder}: {error.strerror or error}"
            return Outcome(status="failed", sentence=sentence)
        return outcome


def _job(point: Point, folder: Path, dataset: str) -> Job:
    run, own = point.run, point.folder(folder)
    own.mkdir(parents=True, exist_ok=True)
    replica, loss = sampled_replica(run)
    columns = {"family": run.family, "key": run.key, "size": run.size, "params": run.params,
               "budget": run.budget, "loss": loss}  # fmt: skip
    needs, judge = point.needs, point.setting.judge
    return Job(
        key=point.key, family=run.family, attempt=1, spec=run.spec, dataset=dataset,
        folder=str(own.absolute()), cpus=needs.cpus, gpus=needs.gpus, work=WORK,
        options={"point": point.identity, "columns": columns, "replica": replica},
        runs={"run": str(run_folder(folder, run.family, run.key).absolute()),
              **({"judge": judge.folder} if judge.folder else {})},
        datasets={"judge": judge.data} if judge.data else {},
    )  # fmt: skip
