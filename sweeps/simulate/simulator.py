"""The schedule of a sweep in advance: the real driver on a simulated pool and clock.

The driver decides as it would on the cluster. No run fails, and each takes its expected time on its kind of
device. The ledger is a temporary one.
"""

from __future__ import annotations

import heapq
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from sweeps.attempt.job import Job, Outcome, killed
from sweeps.driver.caps import Caps, Spent
from sweeps.driver.disk import Disk
from sweeps.driver.driver import Driver
from sweeps.driver.order import choose_order
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.types import Entry, Needs, State
from sweeps.plan import memory
from sweeps.pools.rack import Handle, Node, Rack

Behaviour = Callable[[Job, Node | None], tuple[float, Outcome]]
"""A job and its node -> seconds and outcome."""


class Clock:
    """Wall time and uptime that only the pool moves."""

    def __init__(self, start: float = 0.0) -> None:
        self.time = start

    def __call__(self) -> float:
        return self.time


class SimulatedPool:
    """A `sweeps.pools.base.Pool` whose jobs take the time and have the outcome of `behaviour`."""

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
        """Let a job end at once, with another outcome."""
        self.running[handle] = self.running[handle][0], outcome
        heapq.heappush(self._ends, (self.clock(), handle))

    def yields_to(self, priority: int, waiting: int) -> str | None:
        return None

    def kill(self, handle: Handle) -> None:
        self.end_now(handle, killed())


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
    """All runs of a sweep on `nodes`."""

    nodes: tuple[Node, ...]
    stays: tuple[Stay, ...]
    """In the order of their start."""
    refused: Mapping[str, str]
    """Key of a run that fits no node -> the reason."""
    bound_s: float
    """No schedule could be shorter: all work in equal shares, or the longest run."""
    driver_s: float
    """Real seconds that the driver took."""
    stopped: frozenset[str] = frozenset()
    """Keys of running runs that a cap stops, with a checkpoint."""
    not_started: int = 0
    """Number of runs that caps leave out."""
    ended_by: str = ""
    """The caps that are reached; "" if none is."""

    @cached_property
    def makespan_s(self) -> float:
        """Until the last run has ended."""
        return max((stay.end_s for stay in self.stays), default=0.0)

    @cached_property
    def lanes(self) -> dict[str, int]:
        """Node -> number of the sweep's runs that it holds at once; nodes that hold none are left out."""
        shapes = {_shape(stay.entry.needs) for stay in self.stays}
        most = {node.name: max((node.times(shape) for shape in shapes), default=0) for node in self.nodes}
        return {name: count for name, count in most.items() if count}

    @property
    def utilisation(self) -> float:
        """Share of the slots' time in which they train."""
        nodes = {node.name: node for node in self.nodes}
        busy_s = 0.0
        for stay in self.stays:
            lanes = self.lanes[stay.node] / nodes[stay.node].times(_shape(stay.entry.needs))
            busy_s += lanes * (stay.end_s - stay.start_s)
        return busy_s / (sum(self.lanes.values()) * self.makespan_s) if self.stays else 0.0

    @property
    def gpu_hours(self) -> float:
        """GPU-hours with a run."""
        return sum((stay.end_s - stay.start_s) * stay.entry.needs.gpus for stay in self.stays) / 3600

    @property
    def held_gpu_hours(self) -> float:
        """GPU-hours of the whole cluster from start to end."""
        return sum(node.gpus for node in self.nodes) * self.makespan_s / 3600

    def until(self, end_s: float, cap: str) -> Schedule:
        """This schedule if `cap` ends it at `end_s`."""
        if end_s >= self.makespan_s:
            return self
        begun = [stay for stay in self.stays if stay.start_s < end_s]
        return replace(
            self,
            stays=tuple(replace(stay, end_s=min(stay.end_s, end_s)) for stay in begun),
            stopped=frozenset(stay.entry.key for stay in begun if stay.end_s > end_s),
            not_started=self.not_started + len(self.stays) - len(begun),
            ended_by=self.ended_by
            if cap in self.ended_by
            else " and ".join(filter(None, (self.ended_by, cap))),
        )

    def gpu_hours_reached_s(self, gpu_hours: float) -> float:
        """The time at which runs have used so many GPU-hours; infinity if they never do."""
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
    order: str | None = None,
) -> Schedule:
    """The schedule of `entries` on `nodes`; seconds: of an entry on a node.

    caps: of the sweep, of which `spent` was used before the start. order: see `choose_order`. Further
    resources (quotas) are left out: a list of nodes does not say which of them have some.
    """
    entries = [replace(entry, needs=replace(entry.needs, resources=())) for entry in entries]
    rack = Rack(nodes)
    entries = memory.as_fits(entries, lambda needs: rack.refusal(needs) is None)
    by_key = {entry.key: entry for entry in entries}
    clock = Clock()
    placed: list[tuple[Entry, Node, float, float]] = []

    def play(job: Job, node: Node | None) -> tuple[float, Outcome]:
        assert node is not None, "the driver looks for room before it starts a run"
        entry = by_key[job.key]
        took_s = seconds(entry, node)
        placed.append((entry, node, clock(), clock() + took_s))
        return took_s, Outcome(status=State.FINISHED, sentence="", worker_s=took_s)

    began = time.perf_counter()
    pool = SimulatedPool(clock, nodes, play)
    caps, spent = caps or Caps(), spent or Spent()
    # a cap of hours does not change what starts, so it is laid over the whole schedule at the end
    limits = Caps(
        flops=None if caps.flops is None else caps.flops - spent.flops,
        gpu_hours=None if caps.gpu_hours is None else caps.gpu_hours - spent.gpu_hours,
    )
    order = choose_order(order, capped=bool(caps))
    with tempfile.TemporaryDirectory() as folder, Ledger(folder, now=clock, uptime=clock) as ledger:
        ledger.connection().execute("PRAGMA synchronous = OFF")  # a temporary file need not survive a crash
        ledger.enlist()
        ledger.register(entries)
        # Nothing else changes this ledger, so the driver reads it once and never polls.
        forever = float("inf")
        disk = Disk(ledger.folder, free_bytes=lambda path: forever)
        driver = Driver(
            entries, ledger, pool, disk=disk, caps=limits, order=order, poll_s=forever, look_s=forever
        )
        driver.run()
        refused = {run.key: run.sentence for run in ledger.runs() if run.state == State.UNSCHEDULABLE}
    driver_s = time.perf_counter() - began
    # each run takes the first slot of its node that is free at its start
    stays: list[Stay] = []
    lane_ends: dict[str, list[float]] = defaultdict(list)
    for entry, node, start_s, end_s in placed:
        ends = lane_ends[node.name]
        lane = next((i for i, end in enumerate(ends) if end <= start_s), len(ends))
        ends[lane : lane + 1] = [end_s]
        stays.append(Stay(entry=entry, node=node.name, lane=lane, start_s=start_s, end_s=end_s))
    not_started = len(entries) - len(placed) - len(refused)
    beyond = list(dict.fromkeys(driver.beyond_cap.values())) or ["gpu_hours"] * driver.stop.asked
    schedule = Schedule(
        nodes=tuple(nodes),
        stays=tuple(stays),
        refused=refused,
        bound_s=lower_bound_s([entry for entry in entries if entry.key not in refused], nodes, seconds),
        driver_s=driver_s,
        not_started=not_started,
        ended_by=" and ".join(caps.text(name) for name in beyond),
    )
    cap_ends = []
    if caps.hours is not None:
        cap_ends.append((caps.hours * 3600, caps.text("hours")))
    if caps.gpu_hours is not None:
        left = caps.gpu_hours - spent.gpu_hours
        cap_ends.append((schedule.gpu_hours_reached_s(left), caps.text("gpu_hours")))
    return schedule.until(*min(cap_ends)) if cap_ends else schedule


def _shape(needs: Needs) -> Needs:
    """The needs that decide how many runs a node holds: seldom memory, which differs from run to run."""
    return Needs(cpus=needs.cpus, gpus=needs.gpus)


def lower_bound_s(
    entries: Sequence[Entry], nodes: Sequence[Node], seconds: Callable[[Entry, Node], float]
) -> float:
    """A lower bound on the time of any schedule of `entries`, each of which fits some node.

    On equal nodes: total work / slots, or the longest run. Else the speed of each kind of node counts as the
    largest share of the fastest kind's speed that it reaches for any run.
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
