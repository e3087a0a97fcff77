"""Two runs, or two families at one budget, compared sequence by sequence of the same held-out text.

All runs of a sweep are scored on the same windows at the same noise levels with the same noise. Their losses
share most of their error, so the mean of the differences is several times more exact than either loss, and
than a comparison by `loss_se`, which takes the texts for different ones.

The standard error of a mean difference has two parts. That of the text: windows are in the order of the text,
and neighbours may lie in one document, so their covariances up to n^(1/3) windows apart are counted, with
weights that fall to 0 there (Newey & West 1987, Econometrica 55, 703); windows farther apart are taken as
independent, and the error never as less than that of independent windows. Where each window has one noise
level of its own, even over all of them, what differs from level to level is no error, so differences are
taken from the mean of the LEVELS_TOGETHER windows with the nearest levels. And that of the training seeds, if
both sides have replicas: the variance of their means over the text. Without replicas it is not known, and a
difference is one of these two networks alone: another seed would move it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t as student

from analysis.errors import UserError
from analysis.frontier import number_column
from analysis.printed import TextTable
from analysis.text import flops_text, interval_text

FEWEST = 8
"""Windows of a comparison."""
LEVELS_TOGETHER = 16
COLUMNS = ("family", "size", "budget", "key", "replica", "losses", "levels")
"""Of a table of sequences' losses, as a sweep keeps it: one row per network; losses and levels are lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """The mean loss of one side less that of the other, nats per token."""

    difference: float
    se: float
    """Of the text, and of the seeds where they are known."""
    low: float
    high: float
    text_se: float
    """Of the text alone."""
    unpaired_se: float
    """What it would be if the two had been scored on different texts."""
    seeds: bool
    """Whether `se` has the part of the training seeds."""
    windows: int


def paired_difference(
    one: np.ndarray, other: np.ndarray, *, levels: np.ndarray | None = None, level: float = 0.95
) -> PairedDifference:
    """How much higher `one` is than `other`: losses (n,), or (R, n) of replicas, of the same text in order.

    levels (n,): the noise level of each window if it had but one. Windows that a run has no loss of (of a
    replica that diverged) do not count. UserError for losses of different windows, or less than 8.
    """
    sides = [np.atleast_2d(np.asarray(side, dtype=np.float64)) for side in (one, other)]
    if sides[0].shape[1] != sides[1].shape[1]:
        raise UserError(
            f"losses of {sides[0].shape[1]} and {sides[1].shape[1]} windows do not pair: the two runs were "
            "scored on different texts"
        )
    sides = [side[np.isfinite(side).all(axis=1)] for side in sides]
    windows = sides[0].shape[1]
    if windows < FEWEST or not all(len(side) for side in sides):
        raise UserError(f"losses of {windows} windows; a comparison needs {FEWEST} of both runs")
    means = [side.mean(axis=0) for side in sides]
    text_se = _text_se(means[0] - means[1], levels)
    unpaired = float(np.hypot(_text_se(means[0], levels), _text_se(means[1], levels)))
    parts = [(text_se**2, windows - 1.0)]
    seeds = all(len(side) > 1 for side in sides)
    if seeds:
        parts += [(float(side.mean(axis=1).var(ddof=1)) / len(side), len(side) - 1.0) for side in sides]
    variance = sum(part for part, _ in parts)
    # Satterthwaite's degrees of freedom of a sum of variances
    freedom = variance**2 / sum(part**2 / free for part, free in parts) if variance > 0 else 1.0
    difference, se = float((means[0] - means[1]).mean()), float(np.sqrt(variance))
    half = float(student.ppf((1 + level) / 2, freedom)) * se
    return PairedDifference(
        difference=difference, se=se, low=difference - half, high=difference + half, text_se=text_se,
        unpaired_se=unpaired, seeds=seeds, windows=windows,
    )  # fmt: skip


def _text_se(values: np.ndarray, levels: np.ndarray | None) -> float:
    """Standard error of the mean of values (n,) of windows in the order of the text."""
    count = len(values)
    rest = values - values.mean()
    if levels is not None and count >= 2 * LEVELS_TOGETHER:
        order = np.argsort(levels, kind="stable")
        parts = np.array_split(order, count // LEVELS_TOGETHER)
        for part in parts:
            rest[part] = (values[part] - values[part].mean()) * np.sqrt(len(part) / (len(part) - 1))
    reach = int(count ** (1 / 3))
    alone = float(rest @ rest) / count
    near = sum((1 - k / (reach + 1)) * 2 * float(rest[k:] @ rest[:-k]) / count for k in range(1, reach + 1))
    return float(np.sqrt(max(alone + near, alone) / (count - 1)))


def load_sequence_losses(path: str | Path) -> pd.DataFrame:
    """The table of sequences' losses that `scaling compare` writes beside a sweep, columns `COLUMNS`; `path`
    is the file or its folder. UserError if it is not there or not such a table."""
    place = Path(path)
    place = place / "sequence_losses.parquet" if place.is_dir() else place
    try:
        table = pd.read_parquet(place)
    except (OSError, ValueError) as error:
        raise UserError(f"{place} cannot be read ({str(error).splitlines()[0]})") from None
    if missing := [name for name in COLUMNS if name not in table]:
        raise UserError(f"{place} has no column {missing[0]}: `scaling compare` writes such a table")
    return table


def compare_sequences(losses: pd.DataFrame, reference: str = "ar", *, level: float = 0.95) -> pd.DataFrame:
    """The best size of each family against that of `reference` at every budget that both have.

    losses: a table with columns `COLUMNS`. The best size is that of the lowest mean loss, so of many close
    ones it is a little lucky. Columns flops, family, size, reference, reference_size, difference (nats per
    token), low, high, se, text_se, unpaired_se, seeds, windows. Runs of other windows are not compared.
    """
    best = {
        (str(family), float(budget)): _best_size(part)
        for (family, budget), part in losses.groupby(["family", "budget"], sort=True)
    }
    rows = []
    for (family, budget), own in best.items():
        base = best.get((reference, budget))
        if family == reference or base is None or own.windows != base.windows:
            continue
        levels = own.levels if own.levels is not None else base.levels
        if own.levels is not None and base.levels is not None and not np.array_equal(own.levels, base.levels):
            levels = None
        pair = paired_difference(own.losses, base.losses, levels=levels, level=level)
        numbers = {name: getattr(pair, name) for name in NUMBERS}
        rows.append(
            {"flops": budget, "family": family, "size": own.size, "reference": reference}
            | {"reference_size": base.size, **numbers}
        )
    names = ("flops", "family", "size", "reference", "reference_size", *NUMBERS)
    table = pd.DataFrame(rows, columns=list(names)).sort_values(["family", "flops"], ignore_index=True)
    return table.assign(**{name: number_column(list(table[name])) for name in NUMBERS[:6]})


NUMBERS = ("difference", "low", "high", "se", "text_se", "unpaired_se", "seeds", "windows")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Best:
    size: str
    losses: np.ndarray
    levels: np.ndarray | None

    @property
    def windows(self) -> int:
        return self.losses.shape[1]


def _best_size(part: pd.DataFrame) -> _Best:
    """The size with the lowest mean loss, with the losses (R, n) of its networks."""
    sizes: list[tuple[float, _Best]] = []
    for size, rows in part.groupby("size", sort=True):
        lists = [np.asarray(values, dtype=np.float64) for values in rows["losses"]]
        lists = [values for values in lists if len(values) == len(lists[0]) and np.isfinite(values).all()]
        if not lists:
            continue
        levels = rows["levels"].iloc[0]
        levels_of_size = None if levels is None or not len(levels) else np.asarray(levels, dtype=np.float64)
        together = np.stack(lists)
        sizes.append((float(together.mean()), _Best(size=str(size), losses=together, levels=levels_of_size)))
    if not sizes:
        return _Best(size="", losses=np.empty((0, 0)), levels=None)
    return min(sizes, key=lambda pair: pair[0])[1]


def pairwise_text(table: pd.DataFrame) -> TextTable:
    """The result of `compare_sequences` as it is printed: gain is how much smaller the error of the text is
    than that of two texts, seeds whether the interval has the error of the training seeds."""
    rows = [
        (
            f"{row['family']} {row['size']}",
            f"{row['reference']} {row['reference_size']}",
            flops_text(row["flops"]),
            interval_text(row["difference"], row["low"], row["high"], lambda value: f"{value:+.4f}"),
            f"{row['unpaired_se'] / row['text_se']:.1f}x" if row["text_se"] > 0 else "",
            "yes" if row["seeds"] else "no",
        )
        for row in table.to_dict("records")
    ]
    heads = ("family", "less", "FLOPs", "difference", "gain", "seeds")
    return TextTable(columns=heads, rows=tuple(rows))
