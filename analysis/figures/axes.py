"""Axes of the figures: ticks of logarithmic axes, and the words for the units.

Ticks of a logarithmic axis are chosen here instead of by Plotly, whose own choice ("2", "5", "1B", "2", ...)
is hard to read, and so that the page and the printed picture have the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from analysis.text import flops_text, is_missing, without_zeros

if TYPE_CHECKING:
    import pandas as pd

LOSS = "Held-out bound (nats per token)"
LOSS_DIGITS = ".2f"
COMPUTE = "Training compute (FLOPs)"
TOKENS = "Training tokens"
TOKENS_PER_PARAM = "Training tokens per parameter"

PARAMS = {
    "params_total": "Parameters",
    "params_non_embedding": "Parameters without embeddings",
    "params_body": "Parameters of the transformer blocks",
}
LABELS_WIDE = 10.0
"""Labels that fit along an axis as wide as the whole figure."""
_STEPS = (
    (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0),
    (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0),
    (1.0, 2.0, 5.0),
    (1.0, 3.0),
    (1.0,),
)
_FEWEST = 3


def log_ticks(low: float, high: float, room: float = LABELS_WIDE) -> tuple[list[float], list[float]]:
    """(labelled, unlabelled) ticks of a logarithmic axis from low to high, with at most `room` labels."""
    slack = 1 + 1e-9
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)

    def inside(steps: Iterable[float]) -> list[float]:
        ticks = (step * 10.0**decade for decade in decades for step in steps)
        return [tick for tick in ticks if low / slack <= tick <= high * slack]

    labelled: list[float] = []
    for steps in _STEPS:
        labelled = inside(steps)
        if len(labelled) <= room:
            break
    else:
        every = math.ceil(len(labelled) / room)
        labelled = [tick for tick in labelled if round(math.log10(tick)) % every == 0]
    if len(labelled) < _FEWEST and high < 10 * low:
        labelled = _even_ticks(low, high, room)
    unlabelled = [tick for tick in inside(range(1, 10)) if tick not in labelled]
    return labelled, unlabelled if len(unlabelled) <= 60 else []


def _even_ticks(low: float, high: float, room: float) -> list[float]:
    """Multiples of a round number: on a range this short a logarithmic axis is nearly linear."""
    decade = 10.0 ** math.floor(math.log10((high - low) / room))

    def multiples(step: float) -> list[float]:
        return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]

    for factor in (1, 2, 5, 10):
        ticks = multiples(factor * decade)
        if _FEWEST <= len(ticks) <= room:
            return ticks
    # no round step fits: every so many of the finest ones, which leaves at least two
    finest = multiples(decade)
    return finest[:: math.ceil(len(finest) / room)]


def log_axis(
    title: str, values: Iterable[float], text: Callable[[float], str], *, pad: float = 0.05,
    room: float = LABELS_WIDE, beyond: float = 0.0,
) -> dict[str, Any]:  # fmt: skip
    """Plotly settings of a logarithmic axis that shows all positive `values`, with a margin of `pad` of it.

    `room` is the number of labels that fit; `text` writes one; `beyond` is extra room at the right, as a
    share of the axis.
    """
    logs = [math.log10(value) for value in values if not is_missing(value) and 0 < value < math.inf]
    low, high = (min(logs), max(logs)) if logs else (0.0, 1.0)
    margin = max(pad * (high - low), 0.04)
    low, high = low - margin, high + margin
    labelled, unlabelled = log_ticks(10**low, 10**high, room)
    return {
        "type": "log", "title": {"text": title}, "range": [low, high + beyond * (high - low)],
        "tickmode": "array", "tickvals": labelled,
        "ticktext": [without_zeros(text(tick)) for tick in labelled],
        "minor": {
            "tickmode": "array", "tickvals": unlabelled, "ticks": "outside", "ticklen": 3, "showgrid": False
        },
    }  # fmt: skip


def compute_axis(
    title: str, budgets: Iterable[float], values: Iterable[float], room: float = 10, beyond: float = 0.0
) -> dict[str, Any]:
    """A logarithmic axis of compute whose ticks stand at the budgets, and at powers of ten beyond them.

    Of budgets too close for their labels, the ends and then the larger ones are labelled.
    """
    axis = log_axis(title, values, compute_text, pad=0.03, room=room)
    low, high = axis["range"]
    tens = [10.0**ten for ten in range(math.ceil(low), math.floor(high) + 1)]
    high += beyond * (high - low)
    at = sorted({float(budget) for budget in budgets}, reverse=True)
    at = at[:1] + at[-1:] * (len(at) > 1) + at[1:-1]  # the ends first
    if not at:
        return axis | {"range": [low, high]}
    labelled: list[float] = []
    for tick in [*at, *(ten for ten in tens if ten > max(at) or ten < min(at))]:
        if all(abs(math.log10(tick / other)) >= (high - low) / room for other in labelled):
            labelled.append(tick)
    minor = axis["minor"] | {"tickvals": sorted(set(at) - set(labelled))}
    texts = [compute_text(tick) for tick in sorted(labelled)]
    return axis | {"range": [low, high], "tickvals": sorted(labelled), "ticktext": texts, "minor": minor}


def loss_axis(title: str, losses: Iterable[float]) -> dict[str, Any]:
    """Plotly settings of a linear axis of losses, with a margin."""
    values = list(losses) or [0.0, 1.0]
    margin = 0.06 * (max(values) - min(values)) or 0.05
    limits = [min(values) - margin, max(values) + margin]
    return {"title": {"text": title}, "tickformat": LOSS_DIGITS, "range": limits}


def limits_of(axis: Mapping[str, Any]) -> tuple[float, float]:
    """The ends of an axis as values; the range of a logarithmic one holds exponents."""
    low, high = axis["range"]
    return (10**low, 10**high) if axis.get("type") == "log" else (low, high)


def compute_text(flops: float) -> str:
    """A budget as a label: 3e19 or 1.5e19."""
    return without_zeros(flops_text(flops))


def params_title(tables: Iterable[pd.DataFrame]) -> str:
    """What the parameters of these runs are: the count among the columns that column params equals."""
    titles = set()
    for runs in tables:
        same = (
            text for name, text in PARAMS.items() if name in runs and (runs[name] == runs["params"]).all()
        )
        titles.add(next(same, "Parameters"))
    return titles.pop() if len(titles) == 1 else "Parameters"
