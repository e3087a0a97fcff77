"""How the seeds of a size and budget share processes: as replicas, one stacked network for several seeds.

The seeds say which networks there are, `grid.replicas` how many of them, of consecutive numbers, a run
trains. A run that the ledger has keeps its seeds, however the config would pack them now, for a replica
equals the network trained alone; unless it failed or cannot be scheduled.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from analysis.text import size_text
from scaling.errors import UserError, unknown
from scaling.families import family_class
from scaling.spec import RunSpec
from sweeps.config.grid import Replicas
from sweeps.config.model import SweepConfig
from sweeps.config.sizes import available_sizes
from sweeps.ledger.types import RETRIED, Run, State
from sweeps.plan import memory

Cell = Sequence[RunSpec]
"""Runs of one network each that differ by their seed alone."""
Choose = Callable[[Sequence[Cell]], Sequence[int]]
"""Cells -> how many of their seeds share a process, for `auto`."""
WORTH_IT = 0.05
"""A larger share of the time makes more replicas worth their memory and a longer run."""
SOON = 0.01
"""Of packings whose ends differ by this share, the one with the least work is best."""
MANY_LIMITS = 32


def one_each(cells: Sequence[Cell]) -> list[int]:
    return [1] * len(cells)


def pack(
    config: SweepConfig, cells: Sequence[Cell], past: Iterable[Run] = (), choose: Choose = one_each
) -> list[RunSpec]:
    """The runs of all cells, in their order.

    past: runs of the ledger. choose: for cells whose number is `auto`. UserError for the name of a size that
    the config does not have, and for replicas of a run that can only train one network.
    """
    available = available_sizes(config)
    for name in config.grid.sizes_with_replicas:
        if name not in available:
            raise UserError(f"{config.source}: {unknown('size', name, available)} (grid.replicas)")
    by_place: dict[tuple[str, str, float], list[Run]] = defaultdict(list)
    for run in past:
        if run.state not in RETRIED:
            by_place[run.family, run.size, run.budget].append(run)
    kept = [_kept(cell, by_place[_place(cell)]) for cell in cells]
    left = []
    for cell, runs in zip(cells, kept, strict=True):
        taken = {seed for run in runs for seed in run.seeds}
        left.append([spec for spec in cell if spec.seed not in taken])
    numbers = [_number(config, cell) for cell in cells]
    open_cells = [cell for cell, number in zip(left, numbers, strict=True) if number == "auto" and cell]
    chosen = iter(choose(open_cells) if open_cells else ())
    specs: list[RunSpec] = []
    for whole, runs, cell, number in zip(cells, kept, left, numbers, strict=True):
        most = number if number != "auto" else next(chosen) if cell else 1
        try:
            runs = [*runs, *stacked(cell, most)]
        except UserError as error:
            raise UserError(f"{config.source}: {error}") from None
        order = [spec.seed for spec in whole]
        specs += sorted(runs, key=lambda run: order.index(run.seed))
    return specs


def _place(cell: Cell) -> tuple[str, str, float]:
    return cell[0].family, cell[0].size.name, cell[0].budget


def _number(config: SweepConfig, cell: Cell) -> Replicas:
    """As the config says; a network with labels of clusters, or that is to be distilled, is alone if the
    planner may choose."""
    spec = cell[0]
    number = config.grid.replicas_of(spec.budget, spec.size.name)
    clustered = spec.labels is not None and spec.labels.clustered
    distilled = config.distillation is not None and family_class(spec.family).distillable
    return 1 if number == "auto" and (clustered or distilled) else number


def _kept(cell: Cell, past: Sequence[Run]) -> list[RunSpec]:
    """The runs of the ledger that train seeds of this cell and nothing else, each seed once."""
    by_seed = {spec.seed: spec for spec in cell}
    free, kept = set(by_seed), []
    # the finished ones first, then those with the most seeds
    for run in sorted(past, key=lambda run: (run.state != State.FINISHED, -run.replicas)):
        seeds = range(run.seed or 0, (run.seed or 0) + run.replicas)
        if free.issuperset(seeds):
            spec = replace(by_seed[seeds[0]], replicas=run.replicas)
            if spec.key == run.key:
                kept.append(spec)
                free -= set(seeds)
    return kept


def stacked(cell: Cell, most: int) -> list[RunSpec]:
    """Runs of at most so many consecutive seeds each."""
    if most == 1:
        return list(cell)
    runs: list[list[RunSpec]] = []
    for _, spec in sorted({spec.seed: spec for spec in cell}.items()):
        if runs and len(runs[-1]) < most and spec.seed == runs[-1][-1].seed + 1:
            runs[-1].append(spec)
        else:
            runs.append([spec])
    return [replace(run[0], replicas=len(run)) for run in runs]


def even(count: int) -> list[int]:
    """Numbers of replicas that make `count` seeds runs of about the same length."""
    return sorted({-(-count // parts) for parts in range(1, count + 1)})


def quickest(
    cells: Sequence[Cell],
    seconds: Callable[[Sequence[RunSpec]], Sequence[float]],
    *,
    slots: int,
    memory_bytes: float,
) -> list[int]:
    """For each cell the number of replicas with which all of them together end soonest, on so many slots and
    within memory.

    Stacking saves work and makes runs longer, so that the longest may end alone. Of numbers that take a cell
    about as long, but for a share of WORTH_IT, the smallest. seconds: expected times of runs. memory_bytes:
    that a run may take.
    """
    packings = [[(most, stacked(cell, most)) for most in even(len(cell))] for cell in cells]
    expected = iter(seconds([spec for own in packings for _, runs in own for spec in runs]))
    options: list[list[_Option]] = []
    for own in packings:
        timed = [_Option(most, tuple(next(expected) for _ in runs)) for most, runs in own]
        fits = [max(memory.memory_bytes(run) for run in runs) <= memory_bytes for _, runs in own]
        options.append([one for one, fit in zip(timed, fits, strict=True) if fit or one.replicas == 1])
    plans = [[_within(own, limit_s) for own in options] for limit_s in _limits(options)]
    ends = [_end_s([time for one in plan for time in one.times_s], slots) for plan in plans]
    soon = [plan for plan, end in zip(plans, ends, strict=True) if end <= min(ends) * (1 + SOON)]
    return [one.replicas for one in min(soon, key=lambda plan: sum(sum(one.times_s) for one in plan))]


class _Option(NamedTuple):
    """A way to pack a cell."""

    replicas: int
    times_s: tuple[float, ...]
    """Of its runs."""


def _limits(options: Sequence[Sequence[_Option]]) -> list[float]:
    """Times that the longest run may be allowed, from that of one network on: at most MANY_LIMITS of them."""
    alone_s = max(max(one.times_s) for own in options for one in own if one.replicas == 1)
    longest = {max(one.times_s) for own in options for one in own}
    limits = [alone_s, *sorted(time for time in longest if time > alone_s)]
    return [limits[round(i * (len(limits) - 1) / MANY_LIMITS)] for i in range(MANY_LIMITS + 1)]


def _within(own: Sequence[_Option], limit_s: float) -> _Option:
    short = [one for one in own if one.replicas == 1 or max(one.times_s) <= limit_s]
    least_s = min(sum(one.times_s) for one in short)
    return next(one for one in short if sum(one.times_s) <= least_s * (1 + WORTH_IT))


def _end_s(times_s: Sequence[float], slots: int) -> float:
    """When runs that start the longest first have all ended."""
    ends = [0.0] * max(1, min(slots, len(times_s)))
    for time in sorted(times_s, reverse=True):
        heapq.heapreplace(ends, ends[0] + time)
    return max(ends)


def check_memory(config: SweepConfig, specs: Iterable[RunSpec], memory_bytes: float) -> None:
    """UserError for replicas that need more memory than a run can have, even one sequence at a time."""
    for spec in specs:
        needed = memory.memory_bytes(spec, 1)
        if spec.replicas == 1 or needed <= memory_bytes:
            continue
        fitting = [
            n
            for n in range(1, spec.replicas)
            if memory.memory_bytes(replace(spec, replicas=n), 1) <= memory_bytes
        ]
        remedy = f"{fitting[-1]} would fit" if fitting else "not even one would fit"
        raise UserError(
            f"{config.source}: grid.replicas: {spec.replicas} networks of {spec.family} {spec.size.name} "
            f"need {size_text(needed)} of memory, even with one sequence at a time, and a run has "
            f"{size_text(memory_bytes)}; {remedy}"
        )
