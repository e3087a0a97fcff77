"""A sweep's schedule before it happens: the real driver, on a pool and a clock that only pretend.

The driver decides as it would on the cluster; what is simulated is how long each run takes on the kind of
device it lands on. Nothing fails, and every run takes what is expected of it. The ledger is a throw-away one.
"""

from __future__ import annotations

import heapq
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from sweeps.attempt.job import Job, Outcome, killed
from sweeps.driver.caps import Caps, Spent
from sweeps.driver.disk import Disk
from sweeps.driver.driver import Driver
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.types import Entry, Needs, State
from sweeps.plan import memory
from sweeps.pools.rack import Handle, Node, Rack

Behaviour = Callable[[Job, Node | None], tuple[float, Outcome]]
"""How many seconds a job takes on a node, and how it ends."""


class Clock:
    """Wall time and uptime that move only when told."""

    def __init__(self, start: float = 0.0) -> None:
        self.time = start

    def __call__(self) -> float:
        return self.time


class SimulatedPool:
    """A `sweeps.pools.base.Pool` whose jobs take the time and come to the end that `behaviour` says."""

    def __init__(self, clock: Clock, nodes: Iterable[Node], behaviour: Behaviour) -> None:
        self.clock, self.behaviour = clock, behaviour
        self.rack = Rack(nodes)
        self.running: dict[Handle, tuple[Job, Outcome]] = {}
        self._ends: list[tuple[float, Handle]] = []
        self.count = 0

    def ready(self) -> None:
        return

    def warm(self, count: int) -> None:
        return

    def close(self) -> None:
        self.running.clear()

    def submit(self, job: Job, needs: Needs, *, avoid_host: str | None = None) -> Handle:
        self.count += 1
        node = self.rack.place(self.count, needs, avoid_host=avoid_host)
        seconds, outcome = self.behaviour(job, node)
        self.running[self.count] = job, outcome
        heapq.heappush(self._ends, (self.clock() + seconds, self.count))
        return self.count

    def wait(self, timeout_s: float) -> list[tuple[Handle, Outcome]]:
        """Moves the clock to the next end, or by the timeout."""
        next_end = self._ends[0][0] if self._ends else float("inf")
        self.clock.time = max(self.clock(), min(next_end, self.clock() + timeout_s))
        ended = []
        while self._ends and self._ends[0][0] <= self.clock():
            _, handle = heapq.heappop(self._ends)
            if handle in self.running:
                ended.append((handle, self.end(handle)))
        return ended

    def end(self, handle: Handle) -> Outcome:
        """Take a job off its node; its outcome."""
        _, outcome = self.running.pop(handle)
        self.rack.remove(handle)
        return outcome

    def end_now(self, handle: Handle, outcome: Outcome) -> None:
        """Let a job end at once, with another outcome than it was to have."""
        self.running[handle] = self.running[handle][0], outcome
        heapq.heappush(self._ends, (self.clock(), handle))

    def yields_to(self, priority: int, waiting: int) -> str | None:
        return None

    def kill(self, handle: Handle) -> None:
        self.end_now(handle, killed())


# --- a whole schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Stay:
    """A run on a node. Times are seconds since the start; lane: which of the node's slots, from 0."""

    entry: Entry
    node: str
    lane: int
    start_s: float
    end_s: float


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What a sweep would do on `nodes`."""

    nodes: tuple[Node, ...]
    stays: tuple[Stay, ...]
    """In the order of their start."""
    refused: Mapping[str, str]
    """Key of a run that fits no node -> why."""
    bound_s: float
    """No schedule could be shorter: all work shared out evenly, or the longest run."""
    driver_s: float
    """Real seconds that the driver took for it."""
    stopped: frozenset[str] = frozenset()
    """Keys of runs that a cap stops on their way, with a checkpoint."""
    not_started: int = 0
    """How many runs caps leave out."""
    ended_by: str = ""
    """The caps that are reached; "" where none is."""

    @cached_property
    def makespan_s(self) -> float:
        """Until the last run has ended."""
        return max((stay.end_s for stay in self.stays), default=0.0)

    @cached_property
    def lanes(self) -> dict[str, int]:
        """Node -> how many of the sweep's runs it holds at once; nodes that can hold none are left out."""
        shapes = {_shape(stay.entry.needs) for stay in self.stays}
        most = {node.name: max((node.times(shape) for shape in shapes), default=0) for node in self.nodes}
        return {name: count for name, count in most.items() if count}

    @property
    def utilisation(self) -> float:
        """Share of the slots' time, from start to end, in which they train."""
        nodes = {node.name: node for node in self.nodes}
        busy_s = 0.0
        for stay in self.stays:
            lanes = self.lanes[stay.node] / nodes[stay.node].times(_shape(stay.entry.needs))
            busy_s += lanes * (stay.end_s - stay.start_s)
        return busy_s / (sum(self.lanes.values()) * self.makespan_s) if self.stays else 0.0

    @property
    def gpu_hours(self) -> float:
        """In which a run has a GPU."""
        return sum((stay.end_s - stay.start_s) * stay.entry.needs.gpus for stay in self.stays) / 3600

    @property
    def held_gpu_hours(self) -> float:
        """Of all GPUs of the cluster from start to end."""
        return sum(node.gpus for node in self.nodes) * self.makespan_s / 3600

    def until(self, end_s: float, cap: str) -> Schedule:
        """What of it happens if `cap` ends it at `end_s`."""
        if end_s >= self.makespan_s:
            return self
        begun = [stay for stay in self.stays if stay.start_s < end_s]
        return replace(
            self,
            stays=tuple(replace(stay, end_s=min(stay.end_s, end_s)) for stay in begun),
            stopped=frozenset(stay.entry.key for stay in begun if stay.end_s > end_s),
            not_started=self.not_started + len(self.stays) - len(begun),
            ended_by=f"{self.ended_by} and {cap}" if self.ended_by else cap,
        )

    def gpu_hours_reached_s(self, gpu_hours: float) -> float:
        """When runs have had GPUs for so long together; infinity if they never do."""
        changes = [(stay.start_s, stay.entry.needs.gpus) for stay in self.stays]
        changes += [(stay.end_s, -stay.entry.needs.gpus) for stay in self.stays]
        left_s, busy, last_s = max(0.0, gpu_hours * 3600), 0.0, 0.0
        for at_s, change in sorted(changes):
            if busy * (at_s - last_s) > left_s:
                return last_s + left_s / busy
            left_s -= busy * (at_s - last_s)
            busy, last_s = busy + change, at_s
        return float("inf")


def simulate(
    entries: Sequence[Entry],
    nodes: Sequence[Node],
    seconds: Callable[[Entry, Node], float],
    *,
    caps: Caps | None = None,
    spent: Spent | None = None,
) -> Schedule:
    """The schedule of `entries` on `nodes`, where a run takes `seconds` on the node it lands on.

    caps: what the sweep may spend, `spent` of it before this begins; None: as much as it takes, and nothing.

    Amounts of further resources (quotas) are left out: a list of nodes does not say who has which.
    """
    entries = [replace(entry, needs=replace(entry.needs, resources=())) for entry in entries]
    rack = Rack(nodes)
    entries = memory.as_fits(entries, lambda needs: rack.refusal(needs) is None)
    by_key = {entry.key: entry for entry in entries}
    clock = Clock()
    placed: list[tuple[Entry, Node, float, float]] = []

    def play(job: Job, node: Node | None) -> tuple[float, Outcome]:
        assert node is not None, "the driver asks whether there is room before it starts a run"
        entry = by_key[job.key]
        took_s = seconds(entry, node)
        placed.append((entry, node, clock(), clock() + took_s))
        return took_s, Outcome(status=State.FINISHED, sentence="", worker_s=took_s)

    began = time.perf_counter()
    pool = SimulatedPool(clock, nodes, play)
    caps, spent = caps or Caps(), spent or Spent()
    flops = None if caps.flops is None else caps.flops - spent.flops
    refused = _drive(entries, pool, clock, Caps(flops=flops))
    driver_s = time.perf_counter() - began
    not_started = len(entries) - len(placed) - len(refused)
    schedule = Schedule(
        nodes=tuple(nodes),
        stays=tuple(_in_lanes(placed)),
        refused=refused,
        bound_s=lower_bound_s([entry for entry in entries if entry.key not in refused], nodes, seconds),
        driver_s=driver_s,
        not_started=not_started,
        ended_by=caps.flops_text if not_started else "",
    )
    ends = []
    if caps.hours is not None:
        ends.append((caps.hours * 3600, caps.hours_text))
    if caps.gpu_hours is not None:
        left = caps.gpu_hours - spent.gpu_hours
        ends.append((schedule.gpu_hours_reached_s(left), caps.gpu_hours_text))
    return schedule.until(*min(ends)) if ends else schedule


def _drive(entries: Sequence[Entry], pool: SimulatedPool, clock: Clock, caps: Caps) -> dict[str, str]:
    """Let the driver place all of `entries`; why those that fit no node do not."""
    with tempfile.TemporaryDirectory() as folder, Ledger(folder, now=clock, uptime=clock) as ledger:
        ledger.connection().execute("PRAGMA synchronous = OFF")  # nobody misses it when the power fails
        ledger.enlist()
        ledger.register(entries)
        # Nobody else changes this ledger, so one look is enough; nothing has to be polled.
        forever = float("inf")
        disk = Disk(ledger.folder, free_bytes=lambda path: forever)
        Driver(entries, ledger, pool, disk=disk, caps=caps, poll_s=forever, look_s=forever).run()
        return {run.key: run.sentence for run in ledger.runs() if run.state == State.UNSCHEDULABLE}


def _in_lanes(placed: Iterable[tuple[Entry, Node, float, float]]) -> Iterator[Stay]:
    """Each run in the first slot of its node that is free when it starts."""
    ends: dict[str, list[float]] = defaultdict(list)
    for entry, node, start_s, end_s in placed:
        lanes = ends[node.name]
        lane = next((i for i, end in enumerate(lanes) if end <= start_s), len(lanes))
        lanes[lane : lane + 1] = [end_s]
        yield Stay(entry=entry, node=node.name, lane=lane, start_s=start_s, end_s=end_s)


def _shape(needs: Needs) -> Needs:
    """What decides how many runs a node holds, for nearly every node: not memory, which differs by run."""
    return Needs(cpus=needs.cpus, gpus=needs.gpus)


def lower_bound_s(
    entries: Sequence[Entry], nodes: Sequence[Node], seconds: Callable[[Entry, Node], float]
) -> float:
    """What no schedule of `entries`, each of which fits some node, can undercut.

    On nodes that are alike: total work / slots, or the longest run. Else each kind of node counts for the
    largest share of the fastest kind's speed that it has for any of the runs.
    """
    alike: dict[tuple[float | str, ...], list[Node]] = defaultdict(list)
    for node in nodes:
        alike[node.cpus, node.gpus, node.memory_bytes, node.gpu_kind].append(node)
    shapes: dict[Needs, list[Entry]] = defaultdict(list)
    for entry in entries:
        shapes[_shape(entry.needs)].append(entry)
    bound = 0.0
    for shape, runs in shapes.items():
        best: dict[str, float] = {}
        speeds = []
        times = [
            {entry.key: seconds(entry, kind[0]) for entry in runs if kind[0].fits(entry.needs)}
            for kind in alike.values()
        ]
        for on_kind in times:
            best |= {key: min(took_s, best.get(key, took_s)) for key, took_s in on_kind.items()}
        for kind, on_kind in zip(alike.values(), times, strict=True):
            share = max((best[key] / took_s for key, took_s in on_kind.items()), default=0.0)
            speeds.append(len(kind) * kind[0].times(shape) * share)
        bound = max(bound, sum(best.values()) / sum(speeds), *best.values())
    return bound
