"""Axes of the figures: ticks of logarithmic axes, and the words for the units.

Ticks of a logarithmic axis are chosen here instead of by Plotly, whose own choice ("2", "5", "1B", "2", ...)
is hard to read, and so that the page and the printed picture have the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
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
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    labelled: list[float] = []
    for steps in _STEPS:
        labelled = _inside((step * 10.0**decade for decade in decades for step in steps), low, high)
        if len(labelled) <= room:
            break
    else:
        every = math.ceil(len(labelled) / room)
        labelled = [tick for tick in labelled if round(math.log10(tick)) % every == 0]
    if len(labelled) < _FEWEST and high < 10 * low:
        labelled = _even_ticks(low, high, room)
    fine = [step * 10.0**decade for decade in decades for step in range(1, 10)]
    unlabelled = [tick for tick in _inside(fine, low, high) if tick not in labelled]
    return labelled, unlabelled if len(unlabelled) <= 60 else []


def _even_ticks(low: float, high: float, room: float) -> list[float]:
    """Multiples of a round number: on a range this short a logarithmic axis is nearly linear."""
    decade = 10.0 ** math.floor(math.log10((high - low) / room))
    ticks: list[float] = []
    for factor in (1, 2, 5, 10):
        step = factor * decade
        ticks = [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
        if _FEWEST <= len(ticks) <= room:
            return ticks
    # no round step fits: every so many of the finest ones, which leaves at least two
    fine = [number * decade for number in range(math.ceil(low / decade), math.floor(high / decade) + 1)]
    return fine[:: math.ceil(len(fine) / room)]


def _inside(ticks: Iterable[float], low: float, high: float) -> list[float]:
    slack = 1 + 1e-9
    return [tick for tick in ticks if low / slack <= tick <= high * slack]


def log_axis(
    title: str,
    values: Iterable[float],
    text: Callable[[float], str],
    *,
    pad: float = 0.05,
    room: float = LABELS_WIDE,
) -> dict[str, Any]:
    """Plotly settings of a logarithmic axis that shows all positive `values`, with a margin of `pad` of it.

    `room` is the number of labels that fit; `text` writes one.
    """
    logs = [math.log10(value) for value in values if not is_missing(value) and 0 < value < math.inf]
    low, high = (min(logs), max(logs)) if logs else (0.0, 1.0)
    margin = max(pad * (high - low), 0.04)
    low, high = low - margin, high + margin
    labelled, unlabelled = log_ticks(10**low, 10**high, room)
    return {
        "type": "log",
        "title": {"text": title},
        "range": [low, high],
        "tickmode": "array",
        "tickvals": labelled,
        "ticktext": [without_zeros(text(tick)) for tick in labelled],
        "minor": {
            "tickmode": "array",
            "tickvals": unlabelled,
            "ticks": "outside",
            "ticklen": 3,
            "showgrid": False,
        },
    }


def compute_text(flops: float) -> str:
    """A budget as a label: 3e19, and 1.5e19 where there are such."""
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


def compute_axis(
    title: str, budgets: Iterable[float], values: Iterable[float], room: float = 10, beyond: float = 0.0
) -> dict[str, Any]:
    """A logarithmic axis of compute whose ticks stand at the budgets, and at powers of ten beyond them.

    Of budgets too close for their labels, the ends and then the larger ones are labelled; `beyond` is extra
    room at the right, as a share of the axis.
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
