"""Losses along runs: thinned, and packed so that those of thousands of runs fit into one file.

A run has two curves: of its training objective, and of the held-out losses measured during training. Where
those of several runs stand one after the other, all of the second kind follow all of the first.
A point of a thinned curve is the mean over a stretch; stretches are even on a logarithmic scale of steps.
Packed: a line of JSON, then for all points, run after run, their steps and the logarithms of their losses in
units of 1 / `PER_LOG`, both as differences to the point before, as unsigned numbers of four bytes (2 d, or
-2 d - 1 below zero), all first bytes before all second ones, and so on. Most of these bytes are alike.
"""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.dashboard.columns import nothing, plain_number

if TYPE_CHECKING:
    import pandas as pd

Curve = tuple[np.ndarray, np.ndarray]
"""Steps, rising, and the losses there (nats per token)."""
Measured = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Steps, held-out losses and their standard errors."""
Pair = tuple[Curve, Measured]
"""The training objective and the held-out losses of a run."""

MOST_POINTS = 240
MOST_IN_ALL, LEAST_POINTS = 800_000, 12
"""Points of all runs together that are kept at first, and of one run at least. More do not fit into a file
of 6 MB: noisy ones take a byte each."""
SHARES = (1.0, 0.7, 0.5, 0.35, 0.25, 0.15)
"""Of the points kept at first, tried one after the other until a file has room for all runs."""
PER_LOG = 2000
"""Losses are kept to 0.025%, a tenth of a pixel of their figure."""
MISSING = -(1 << 22)
"""Stands for a loss that is not a finite number above 0; the log of no float comes near."""
UNREAD = -1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curves:
    """Curves, one after the other."""

    counts: np.ndarray
    """(curves,) points of each."""
    recorded: np.ndarray
    """(curves,) points that its store holds; UNREAD where there was no time to look."""
    steps: np.ndarray
    """(points,)"""
    losses: np.ndarray
    """(points,) nats per token."""

    def save(self, path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, **{name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def load(cls, path: Path) -> Curves:
        with np.load(path, allow_pickle=False) as held:
            return cls(**{name: held[name] for name in cls.__slots__})


def collected(pairs: Iterable[Pair], num_runs: int, until: float) -> Curves:
    """Curves of every run, thinned as they come; those after `until` (as time.monotonic) are left unread."""
    objectives, measured = [], []
    for objective, held_out in pairs:
        objectives.append(thinned(_one(objective), most_of(num_runs)))
        measured.append(thinned(_one(held_out[:2]), most_of(num_runs)))
        if time.monotonic() > until:
            break
    unread = replace(_one((np.zeros(0), np.zeros(0))), recorded=np.array([UNREAD]))
    rest = [unread] * (num_runs - len(objectives))
    parts = [*objectives, *rest, *measured, *rest]
    return Curves(
        counts=np.array([len(part.steps) for part in parts], dtype=np.int64),
        recorded=np.array([part.recorded[0] for part in parts], dtype=np.int64),
        steps=np.concatenate([np.zeros(0), *(part.steps for part in parts)]),
        losses=np.concatenate([np.zeros(0), *(part.losses for part in parts)]),
    )


def most_of(num_runs: int) -> int:
    """Points that each of so many runs may keep at first."""
    return max(LEAST_POINTS, min(MOST_POINTS, MOST_IN_ALL // max(num_runs, 1)))


def _one(curve: Curve) -> Curves:
    """The curve of one run; steps below 1 have no place on a logarithmic scale."""
    steps, losses = (np.asarray(values, dtype=np.float64) for values in curve)
    usable = steps >= 1
    steps, losses = steps[usable], losses[usable]
    count = np.array([len(steps)])
    return Curves(counts=count, recorded=count, steps=steps, losses=losses)


def by_run(points: pd.DataFrame, run_ids: list[str | None]) -> list[Pair]:
    """Curves from recorded values (run_id, key, step, timestamp, value); of a step the latest counts."""
    from analysis.table.columns import CURVE_METRICS

    place = ["run_id", "key", "step"]
    points = points.sort_values([*place, "timestamp"]).drop_duplicates(place, keep="last")
    objectives, losses, errors = (
        _of_metric(points[points["key"] == name], run_ids) for name in CURVE_METRICS
    )
    # an error is recorded with its loss, in one batch
    return [
        (objective, (*loss, error[1] if len(error[1]) == len(loss[1]) else loss[1] * float("nan")))
        for objective, loss, error in zip(objectives, losses, errors, strict=True)
    ]


def _of_metric(points: pd.DataFrame, run_ids: list[str | None]) -> list[Curve]:
    empty = np.zeros(0), np.zeros(0)
    ids, steps, values = (points[name].to_numpy() for name in ("run_id", "step", "value"))
    ends = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1], [True]])) if len(ids) else [0]
    by_id = {ids[start]: (steps[start:end], values[start:end]) for start, end in pairwise(ends)}
    return [by_id.get(run_id, empty) for run_id in run_ids]


def thinned(curves: Curves, most: int) -> Curves:
    """Curves longer than `most` as means over as many stretches, fewer where stretches are empty."""
    counts = curves.counts
    if not len(curves.steps) or counts.max() <= most:
        return curves
    run = np.repeat(np.arange(len(counts)), counts)
    starts = np.cumsum(counts) - counts
    logs = np.log(curves.steps)
    first, last = (logs[np.minimum(at, len(logs) - 1)] for at in (starts, np.maximum(starts + counts - 1, 0)))
    width = np.maximum((last - first) / most, 1e-9)
    stretch = np.minimum((logs - first[run]) / width[run], most - 1).astype(np.int64)
    as_they_are = np.arange(len(run)) - starts[run]
    group = run * most + np.where(counts[run] > most, stretch, as_they_are)
    begins = np.flatnonzero(np.diff(group, prepend=-1))
    sizes = np.diff(begins, append=len(group))
    with np.errstate(invalid="ignore"):  # of a run that diverged: inf - inf
        means = [np.add.reduceat(values, begins) / sizes for values in (curves.steps, curves.losses)]
    kept = np.bincount(run[begins], minlength=len(counts))
    return Curves(counts=kept, recorded=curves.recorded, steps=means[0], losses=means[1])


def packed(curves: Curves) -> bytes:
    """As above, gzipped."""
    with np.errstate(all="ignore"):
        logs = np.log(curves.losses)
    usable = np.isfinite(logs)
    units = np.where(usable, np.round(PER_LOG * np.where(usable, logs, 0)), MISSING).astype(np.int64)
    steps = np.round(curves.steps).astype(np.int64)
    head = {"per_log": PER_LOG, "missing": MISSING, "counts": curves.counts.tolist(),
            "recorded": curves.recorded.tolist()}  # fmt: skip
    line = json.dumps(head, separators=(",", ":")).encode() + b"\n"
    return gzip.compress(line + _bytes(steps, curves.counts) + _bytes(units, curves.counts), 9, mtime=0)


def _bytes(values: np.ndarray, counts: np.ndarray) -> bytes:
    """Differences along each run, see above."""
    change = np.diff(values, prepend=0)
    starts = (np.cumsum(counts) - counts)[counts > 0]
    change[starts] = values[starts]
    unsigned = ((change << 1) ^ (change >> 63)).astype("<u4")
    return unsigned.view(np.uint8).reshape(-1, 4).T.tobytes()


def fitting(curves: Curves, room: int) -> bytes:
    """Packed with as many points as `room` bytes hold; if these are too few, the sentence that says so."""
    most = most_of(len(curves.counts) // 2)
    for share in SHARES:
        content = packed(thinned(curves, max(LEAST_POINTS, round(share * most))))
        if len(content) <= room:
            return content
    return nothing("The file has no room for loss curves of so many runs; the served page has them.")


def columns_of(pair: Pair) -> dict[str, dict[str, Any]]:
    """The curves of a run as columns of JSON, short enough to send: "curve" of the objective, of which
    `recorded` tells how many points there are, and "held_out"."""
    thin = thinned(_one(pair[0]), MOST_POINTS)
    curve = _plain(step=thin.steps, loss=thin.losses)
    steps, losses, errors = pair[1]
    held_out = _plain(step=steps, loss=losses, loss_se=errors)
    return {"curve": {**curve, "recorded": int(thin.recorded[0])}, "held_out": held_out}


def _plain(**columns: np.ndarray) -> dict[str, Any]:
    return {name: [plain_number(x) for x in values.tolist()] for name, values in columns.items()}
