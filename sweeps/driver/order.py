"""The order in which runs start: the longest first, or the cheapest budgets first across all families."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from scaling.errors import unknown
from sweeps.ledger.types import Entry


def longest(entries: Iterable[Entry]) -> list[Entry]:
    """The longest runs first: the sweep as a whole ends soonest."""
    return sorted(entries, key=lambda entry: -entry.predicted_s)


def cheapest(entries: Iterable[Entry]) -> list[Entry]:
    """Budget by budget, so that whenever the sweep ends, every family has the same budgets.

    Within a budget seed by seed, and within a seed one size of each family in turn: smallest, largest, middle
    one, and so on into the widest gap. So the sizes of a budget that is cut short still span its range.
    """
    entries = list(entries)
    sizes: dict[tuple[str, float], dict[str, int]] = defaultdict(dict)
    for entry in entries:
        of_budget = sizes[entry.family, entry.spec.budget]
        if entry.spec.size.name not in of_budget:
            of_budget[entry.spec.size.name] = entry.spec.param_count("non_embedding")
    turns = {
        (*group, name): turn
        for group, params in sizes.items()
        for turn, name in enumerate(spread_out(sorted(params, key=params.__getitem__)))
    }

    def place(entry: Entry) -> tuple[float, int, int, float]:
        spec = entry.spec
        return spec.budget, spec.seed, turns[entry.family, spec.budget, spec.size.name], -entry.predicted_s

    return sorted(entries, key=place)


def spread_out(values: Sequence[str]) -> list[str]:
    """First, last, middle one, then always the middle of the widest gap."""
    last = len(values) - 1
    out = [*values[:1], *values[1:][-1:]]
    gaps = [(-last, 0, last)]
    while gaps:
        width, left, right = heapq.heappop(gaps)
        if width >= -1:
            break
        middle = (left + right) // 2
        out.append(values[middle])
        heapq.heappush(gaps, (left - middle, left, middle))
        heapq.heappush(gaps, (middle - right, middle, right))
    return out


ORDERS: dict[str, Callable[[Iterable[Entry]], list[Entry]]] = {"longest": longest, "cheapest": cheapest}


def choose_order(name: str | None, *, capped: bool) -> str:
    """The order of that name, else the cheapest budgets first under a cap and the longest runs without one.

    UserError for an unknown name.
    """
    if name is None:
        return "cheapest" if capped else "longest"
    if name not in ORDERS:
        raise unknown("order", name, ORDERS, place=" (--order)")
    return name
