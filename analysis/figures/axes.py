"""Axes and numbers of the figures: ticks of logarithmic axes, sensible digits, and the words for the units.

Ticks of a logarithmic axis are chosen here instead of by Plotly, whose own choice ("2", "5", "1B", "2", ...)
is hard to read, and so that the page and the printed picture have the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

LOSS = "Held-out bound (nats per token)"
LOSS_DIGITS = ".2f"
TRAINING_LOSS = "Training loss (nats per token)"
COMPUTE = "Training compute (FLOPs)"
PARAMS = "Parameters without embeddings"
TOKENS = "Training tokens"
TOKENS_PER_PARAM = "Training tokens per parameter"

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
_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def flops_text(flops: float) -> str:
    """A budget as it is written everywhere: 3.0e+11 -> "3.0e11"."""
    mantissa, exponent = f"{flops:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def count_text(count: float, digits: int = 3) -> str:
    """A number of parameters or tokens: 163055232 -> "163M"; beyond 10^15 in e-notation."""
    if not math.isfinite(count) or count >= 1e15:
        return f"{count:.{digits - 1}e}".replace("e+", "e")
    rounded = float(f"{count:.{digits}g}")
    for size, letter in _UNITS:
        if rounded >= size:
            return f"{rounded / size:g}{letter}"
    return f"{rounded:g}"


def number_text(value: float, digits: int = 3) -> str:
    """A plain number with that many significant digits: no exponent between 0.001 and 100000."""
    if value == 0 or not math.isfinite(value) or 1e-3 <= abs(value) < 1e5:
        rounded = float(f"{value:.{digits}g}")
        return f"{rounded:,.0f}" if abs(rounded) >= 10 ** (digits - 1) else f"{rounded:g}"
    return f"{value:.{digits - 1}e}".replace("e+", "e")


def interval_text(value: float, low: object, high: object, text: Callable[[float], str]) -> str:
    """ "163M [150M, 178M]", or the number alone where there is no interval."""
    ends = (low, high)
    if any(is_missing(end) for end in ends):
        return text(value)
    return f"{text(value)} [{text(float(low))}, {text(float(high))}]"  # type: ignore[arg-type]


def is_missing(value: object) -> bool:
    """None, NaN or pandas.NA."""
    return value is None or type(value).__name__ == "NAType" or value != value


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
        "ticktext": [text(tick) for tick in labelled],
        "minor": {
            "tickmode": "array",
            "tickvals": unlabelled,
            "ticks": "outside",
            "ticklen": 3,
            "showgrid": False,
        },
    }


def compute_text(flops: float) -> str:
    """A tick of a compute axis: 3e19, and 1.5e19 where there are such."""
    return flops_text(flops).replace(".0e", "e")
