"""Fronts of speed against quality, and who leads at which speed: numbers only, for many draws at once.

Speed is better when higher, quality (log perplexity) when lower. A front holds measured points alone. What a
family offers at speed s is the lowest quality among its points that are at least as fast, or, between two
neighbours on a ladder of steps of one run and sampler, the straight line through them in logs: other numbers
of steps lie there, so a coarse ladder makes no crossings of its own.

P points, R draws after the estimate, G speeds of a grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

GRID = 400
"""Speeds at which the leaders are compared, beside those of the points: an end of an interval is as exact."""


def non_dominated(speed: np.ndarray, quality: np.ndarray) -> np.ndarray:
    """(P,) bool: no other point is at least as fast and at least as good, and better in one of the two.

    Of points equal in both, the first one counts.
    """
    order = np.lexsort((quality, -speed))
    on_front = np.zeros(len(speed), dtype=bool)
    best = np.inf
    for place in order:
        if quality[place] < best:
            on_front[place] = True
            best = quality[place]
    return on_front


def offered(
    speed: np.ndarray, quality: np.ndarray, grid: np.ndarray, ladders: Sequence[Sequence[int]] = ()
) -> np.ndarray:
    """(R+1, G): the lowest quality that points (R+1, P) offer at each speed; inf without one that fast.

    ladders: points of one run and sampler, in the order of their steps; between neighbours is a line in log
    speed.
    """
    lowest = np.full((len(speed), len(grid)), np.inf)
    for point in range(speed.shape[1]):
        fast = speed[:, point, None] >= grid
        np.minimum(lowest, np.where(fast, quality[:, point, None], np.inf), out=lowest)
    for first, second in (pair for ladder in ladders for pair in pairwise(ladder)):
        swapped = speed[:, first] > speed[:, second]
        slow, fast = (
            np.where(swapped, speed[:, i], speed[:, j]) for i, j in ((second, first), (first, second))
        )
        good, fair = (
            np.where(swapped, quality[:, i], quality[:, j]) for i, j in ((second, first), (first, second))
        )
        width = np.log(fast / slow)
        share = np.log(grid / slow[:, None]) / np.where(width > 0, width, 1.0)[:, None]
        between = (share >= 0) & (share <= 1) & (width > 0)[:, None]
        line = good[:, None] + share * (fair - good)[:, None]
        np.minimum(lowest, np.where(between, line, np.inf), out=lowest)
    return lowest


@dataclass(frozen=True, slots=True, kw_only=True)
class Lead:
    """A range of speeds in which one family is ahead of all others, of estimates."""

    family: str
    above: float
    """The range holds the speeds above this one (0: from the slowest on), up to `fastest`."""
    fastest: float
    middle: float
    """The middle of the range, in log speed, as a speed of the grid."""
    share: float
    """Of the draws: how often the family is ahead at the middle."""
    runner_up: str | None
    """Second at the middle; None if no other family is that fast."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """A speed at which another family takes the lead."""

    slower: str
    """The family ahead up to `speed`."""
    faster: str
    """The one ahead beyond it."""
    speed: float
    low: float
    """Up to here `slower` is better in at least (1 + level) / 2 of the draws; 0 if nowhere."""
    high: float
    """From here on `faster` is, in as many draws; infinite if nowhere."""
    runs_out: bool
    """`slower` has no faster point at all: its ladder of steps ends there, no better one begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """Families against each other over all speeds."""

    leads: tuple[Lead, ...]
    crossings: tuple[Crossing, ...]


def contest(
    families: Sequence[str], ladders: Sequence[object], speed: np.ndarray, quality: np.ndarray, level: float
) -> Contest:
    """Who leads where, of points with these families, speeds and qualities (R+1, P), the estimate first.

    ladders: of each point, what points of one run and sampler share; those stand in the order of their steps.
    """
    names = tuple(dict.fromkeys(families))
    fine = np.geomspace(speed.min(), speed.max(), GRID)
    grid = np.unique(np.concatenate([speed[0], fine]))
    offers = offers_of(families, ladders, speed, quality, grid)
    grid, offers = _within_reach(grid, offers)
    order = offers[:, 0].argsort(axis=0, kind="stable")
    first = order[0]
    ends = [*np.flatnonzero(np.diff(first)).tolist(), len(grid) - 1]
    starts = [0, *(end + 1 for end in ends[:-1])]
    leads = []
    for start, end in zip(starts, ends, strict=True):
        above = float(grid[start - 1]) if start else 0.0
        middle = int(np.searchsorted(grid, np.sqrt((above or grid[0]) * grid[end])))
        middle = min(max(middle, start), end)
        draws = offers[:, 1:, middle]
        leader, second = int(order[0, middle]), int(order[min(1, len(names) - 1), middle])
        has_second = second != leader and bool(np.isfinite(offers[second, 0, middle]))
        leads.append(Lead(
            family=names[leader], above=above, fastest=float(grid[end]), middle=float(grid[middle]),
            share=_share(draws, leader),
            runner_up=names[second] if has_second else None,
        ))  # fmt: skip
    crossings = tuple(_crossing(names, grid, offers, first, end, level) for end in ends[:-1])
    return Contest(leads=tuple(leads), crossings=crossings)


def offers_of(
    families: Sequence[str], ladders: Sequence[object], speed: np.ndarray, quality: np.ndarray,
    grid: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """(families, R+1, G): what each family offers at each speed, see `offered` and `contest`; families in the
    order in which their points come."""
    names = dict.fromkeys(families)
    return np.stack([_of_family(name, families, ladders, speed, quality, grid) for name in names])


def _of_family(
    name: str, families: Sequence[str], ladders: Sequence[object], speed: np.ndarray, quality: np.ndarray,
    grid: np.ndarray,
) -> np.ndarray:  # fmt: skip
    own = [point for point, family in enumerate(families) if family == name]
    rungs: dict[object, list[int]] = {}
    for place, point in enumerate(own):
        rungs.setdefault(ladders[point], []).append(place)
    return offered(speed[:, own], quality[:, own], grid, list(rungs.values()))


def _share(offers: np.ndarray, family: int) -> float:
    """How often the family has the lowest of these offers (families, R), of the draws with one at all."""
    offered = np.isfinite(offers).any(axis=0)
    return float(np.mean(offers[:, offered].argmin(axis=0) == family)) if offered.any() else 1.0


def _within_reach(grid: np.ndarray, offers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The grid up to the fastest point of the estimate."""
    reached = np.isfinite(offers[:, 0]).any(axis=0)
    return grid[reached], offers[:, :, reached]


def _crossing(
    names: Sequence[str], grid: np.ndarray, offers: np.ndarray, first: np.ndarray, end: int, level: float
) -> Crossing:
    """The crossing after place `end` of the grid. Its interval holds the speeds at which the draws do not
    agree on the better of the two families (a test at every speed, inverted)."""
    slower, faster = int(first[end]), int(first[end + 1])
    low, high = 0.0, np.inf
    if offers.shape[1] > 1:
        ahead = np.mean(offers[slower, 1:] < offers[faster, 1:], axis=0)
        behind = np.mean(offers[faster, 1:] < offers[slower, 1:], axis=0)
        needed = (1 + level) / 2
        before = np.flatnonzero(ahead[: end + 1] >= needed)
        after = np.flatnonzero(behind[end + 1 :] >= needed)
        low = float(grid[before[-1]]) if len(before) else 0.0
        high = float(grid[end + 1 + after[0]]) if len(after) else np.inf
    return Crossing(
        slower=names[slower], faster=names[faster], speed=float(grid[end]), low=low, high=high,
        runs_out=not np.isfinite(offers[slower, 0, end + 1]),
    )  # fmt: skip
