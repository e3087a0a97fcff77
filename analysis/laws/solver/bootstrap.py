"""Resamples as integer weights: how often each run is drawn. The data themselves are never copied."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analysis.errors import UserError

if TYPE_CHECKING:
    from analysis.table.fit_table import RunTable

INTERVALS = ("form", "bca")
CHUNK_ELEMENTS = 61_440
"""Runs times resamples handled at once: 256 resamples of 240 runs, arrays of 480 kB that stay in cache."""


def chunk_rows(num_runs: int) -> int:
    """How many resamples to handle at once."""
    return max(1, CHUNK_ELEMENTS // num_runs)


def resample_weights(
    num_runs: int, draws: int, seed: int, groups: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Yield chunks (r, num_runs) of how often each run occurs in each resample, `draws` rows in all.

    With groups (num_runs,), numbered 0, 1, ..., whole groups are drawn (as many as there are), because the
    errors of a group are correlated. The same seed gives the same weights to the bit.
    """
    generator = np.random.default_rng(seed)
    chunk = chunk_rows(num_runs)
    for first in range(0, draws, chunk):
        yield draw_weights(num_runs, min(chunk, draws - first), generator, groups)


def draw_weights(
    num_runs: int, draws: int, generator: np.random.Generator, groups: np.ndarray | None = None
) -> np.ndarray:
    """How often each run occurs (draws, num_runs), see `resample_weights`."""
    units = num_runs if groups is None else int(groups.max()) + 1
    drawn = generator.integers(0, units, size=(draws, units)) + units * np.arange(draws)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=draws * units).reshape(draws, units).astype(np.float64)
    return counts if groups is None else counts[:, groups]


def leave_one_out(groups: np.ndarray) -> np.ndarray:
    """Weights (G, n) that leave out one group after the other; groups (n,) are numbered 0, 1, ..."""
    return (groups[None, :] != np.arange(groups.max() + 1)[:, None]).astype(np.float64)


def group_numbers(rows: pd.DataFrame, column: str) -> np.ndarray:
    """Number the distinct values of a column 0, 1, ...; UserError unless it exists and has at least 3 of
    them."""
    if column not in rows.columns:
        raise UserError(
            f"cluster = {column!r} is no column of the run table; choose one of {', '.join(rows.columns)}"
        )
    if rows[column].isna().any():
        raise UserError(
            f"cluster = {column!r}: {int(rows[column].isna().sum())} runs have no value in that column"
        )
    _, numbers = np.unique(rows[column].astype(str).to_numpy(), return_inverse=True)
    if numbers.max() < 2:
        raise UserError(
            f"cluster = {column!r} has {numbers.max() + 1} distinct values; resampling needs at least 3"
        )
    return np.asarray(numbers)


def resampling_units(table: RunTable, cluster: str | None) -> np.ndarray | None:
    """The groups (n,) that are drawn as wholes: values of the column `cluster`, else the cells of the design
    if some of them were repeated, else None, for runs one by one.

    Repeats differ by their seeds and those are independent, but what a curve misses at a size it misses in
    all of that size's repeats: drawn one by one they would promise that this averages out.
    """
    return table.repeats if cluster is None else group_numbers(table.rows, cluster)


def check_options(
    bootstrap: int, seed: int, level: float, interval: str = "form", intervals: Sequence[str] = INTERVALS
) -> str:
    """The kind of interval ("percentile" is the former name of "form"); UserError for options that no method
    can use."""
    if isinstance(bootstrap, bool) or not isinstance(bootstrap, int) or bootstrap < 0:
        raise UserError(
            f"bootstrap = {bootstrap!r}: the number of resamples is a whole number, 0 for no intervals"
        )
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise UserError(f"seed = {seed!r}: a seed is a whole number, 0 or more")
    if not 0 < level < 1:
        raise UserError(f"level = {level!r}: a confidence level lies between 0 and 1, e.g. 0.95")
    if interval == "percentile":
        interval = "form"
    if interval not in intervals:
        raise UserError(f"interval = {interval!r}; choose one of {', '.join(intervals)}")
    return interval
