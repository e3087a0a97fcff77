"""The architectures that a config can use, and those of each budget."""

from __future__ import annotations

import math
from collections.abc import Sequence

from analysis.text import count_text, flops_text
from scaling.errors import UserError, unknown
from scaling.flops import param_count
from scaling.ladder import LADDERS, Size
from sweeps.config.grid import Window
from sweeps.config.model import SizeRule, SweepConfig

SHORTFALL = 1.5
"""A window point whose nearest size is further off than this factor counts as outside the ladder."""


def size_params(size: Size, num_token_ids: int) -> int:
    """Non-embedding parameters over `num_token_ids` ids and a mask id, by which sizes and rates are chosen.

    A family without a mask has a hair fewer; counting all alike gives all families one grid.
    """
    return param_count(size, num_token_ids + 1, "non_embedding")


def available_sizes(config: SweepConfig) -> dict[str, Size]:
    """Every size that the config can use, by name. UserError for an unknown ladder."""
    if config.sizes is not None:
        return {size.name: size for size in config.sizes}
    if config.size_rule is not None:
        return {size.name: size for size in rule_sizes(config.size_rule)}
    if config.ladder not in LADDERS:
        raise UserError(f"{config.source}: {unknown('ladder', config.ladder, LADDERS)}")
    return dict(LADDERS[config.ladder])


def rule_sizes(rule: SizeRule) -> list[Size]:
    """Architectures of a size rule; UserError for a hidden size that cannot be split into even heads."""
    sizes = []
    for hidden in rule.hidden:
        heads = [h for h in range(1, hidden + 1) if hidden % h == 0 and (hidden // h) % 2 == 0]
        if not heads:
            raise UserError(f"size_rule: hidden {hidden} is odd; it must be even, so that its heads can be")
        num_heads = min(heads, key=lambda h: abs(math.log(hidden / h / rule.head_dim)))
        num_layers = max(1, round(hidden / rule.hidden_per_layer))
        sizes.append(
            Size(
                name=f"h{hidden}x{num_layers}",
                hidden=hidden,
                num_layers=num_layers,
                num_heads=num_heads,
                cond_dim=rule.cond_dim,
                time_features=rule.time_features,
            )
        )
    return sizes


def sizes_per_budget(
    config: SweepConfig, family: str, num_token_ids: int
) -> tuple[dict[float, tuple[Size, ...]], list[str]]:
    """The sizes of each budget for one family, smallest first, and notes about windows beyond the ladder.

    UserError if the config names a size that the ladder does not have.
    """
    available = available_sizes(config)
    override = config.override(family)
    own = override.sizes is not None or override.window is not None
    chosen = override if own else config.grid
    by_budget: dict[float, tuple[Size, ...]] = {}
    notes: list[str] = []
    for budget in sorted(config.budgets_of(family)):
        if chosen.window is not None:
            sizes, note = window_sizes(chosen.window, budget, list(available.values()), num_token_ids)
            place = f"{family} at" if own else "at"
            notes += [f"{place} {flops_text(budget)} FLOPs {note}"] if note else []
        else:
            names = chosen.sizes[budget] if isinstance(chosen.sizes, dict) else chosen.sizes or ()
            if absent := [name for name in names if name not in available]:
                raise UserError(f"{config.source}: {unknown('size', absent[0], available)}")
            sizes = [available[name] for name in names]
        by_budget[budget] = tuple(sorted(sizes, key=lambda size: size_params(size, num_token_ids)))
    return by_budget, notes


def window_sizes(
    window: Window, budget: float, available: Sequence[Size], num_token_ids: int
) -> tuple[list[Size], str]:
    """`window.count` different sizes as near as the ladder allows to the window's log-spaced points.

    Returns them with a note if the window reaches beyond the ladder, else with "".
    """
    sizes = sorted(available, key=lambda size: size_params(size, num_token_ids))
    count = min(window.count, len(sizes))
    centre = window.params * (budget / window.at_flops) ** window.exponent
    reach = math.log(window.span)
    steps = range(window.count)
    points = [math.log(centre) + reach * (2 * i / (window.count - 1) - 1) for i in steps][:count]
    logs = [math.log(size_params(size, num_token_ids)) for size in sizes]
    picked = _nearest_increasing(points, logs)
    low, high = points[0], math.log(centre) + reach
    note = ""
    if count < window.count:
        note = f"the window asks for {window.count} sizes and the ladder has {len(sizes)}"
    elif logs[0] - low > math.log(SHORTFALL):
        ends = [count_text(math.exp(end)) for end in (low, logs[0])]
        note = f"the window starts at {ends[0]} params, the ladder at {ends[1]}"
    elif high - logs[-1] > math.log(SHORTFALL):
        ends = [count_text(math.exp(end)) for end in (high, logs[-1])]
        note = f"the window ends at {ends[0]} params, the ladder at {ends[1]}"
    return [sizes[i] for i in picked], note


def _nearest_increasing(points: Sequence[float], values: Sequence[float]) -> list[int]:
    """Indices i_1 < i_2 < ... into `values` (sorted), one per point, of the least total distance.

    Dynamic programme over (points placed, values used): nearest-first would give one size to two points.
    """
    infinity = math.inf
    best = [[infinity] * (len(values) + 1) for _ in range(len(points) + 1)]
    best[0] = [0.0] * (len(values) + 1)
    for p, point in enumerate(points, start=1):
        for v, value in enumerate(values, start=1):
            best[p][v] = min(best[p][v - 1], best[p - 1][v - 1] + abs(point - value))
    picked, v = [], len(values)
    for p in range(len(points), 0, -1):
        while best[p][v - 1] <= best[p][v]:
            v -= 1
        picked.append(v - 1)
        v -= 1
    return picked[::-1]
