"""Bits per byte, and the budgets that runs belong to."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

SAME_TEXT = 1e-3
"""Ratios of bits per byte to nats this close (relative) are one tokenizer on one text."""
SAME_BUDGET = 0.05
MOST_BUDGETS = 40


def measures_of(frame: pd.DataFrame) -> dict[str, Any]:
    """Bits per byte for one nat per token: {"ratio": r}, or {"why": sentence} where there is no one number.

    With one tokenizer and one text both measures are proportional, so a law in one is a law in the other.
    """
    if not len(frame) or "bits_per_byte" not in frame or not frame["bits_per_byte"].notna().any():
        return {"why": "no run of this table says its bits per byte"}
    ratio = (frame["bits_per_byte"] / frame["loss"]).replace([math.inf, -math.inf], float("nan")).dropna()
    middle = float(ratio.median())
    if not len(ratio) or not (abs(ratio / middle - 1) <= SAME_TEXT).all():
        return {"why": "runs on several texts or tokenizers: their nats per token have no common factor"}
    return {"ratio": middle}


def nominal_budgets(frame: pd.DataFrame) -> pd.Series:
    """The budget each run belongs to: typed, else FLOPs alike joined to one, as a fit does; missing where
    there are too many different ones to be budgets."""
    import numpy as np

    if "budget" in frame and frame["budget"].notna().any():
        return frame["budget"].astype("float64")
    flops = frame["flops"] if "flops" in frame else 6.0 * frame["params"] * frame["tokens"]
    values = flops.to_numpy(dtype=np.float64)
    order = np.argsort(values, kind="stable")
    starts = [values[order[0]]] if len(order) else []
    group = np.zeros(len(values), dtype=int)
    for place in order.tolist():
        if values[place] > starts[-1] * (1 + SAME_BUDGET):
            starts.append(values[place])
        group[place] = len(starts) - 1
    middles = np.exp(np.log(flops).groupby(group).transform("mean"))
    return middles if len(starts) <= MOST_BUDGETS else middles.where(middles < 0)
