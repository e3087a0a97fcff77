"""Loss curves: thinned honestly, packed small, and the same after unpacking."""

from __future__ import annotations

import gzip
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.dashboard import curves


def unpacked(content: bytes) -> tuple[dict[str, Any], list[tuple[list[int], list[float | None]]]]:
    """As the page reads it, written anew: the head, and each run's steps and losses."""
    head, _, rest = gzip.decompress(content).partition(b"\n")
    head = json.loads(head)
    total = sum(head["counts"])
    assert len(rest) == 8 * total
    runs, start = [], 0
    for count in head["counts"]:
        steps = summed(rest[: 4 * total], start, count)
        units = summed(rest[4 * total :], start, count)
        losses = [None if u == head["missing"] else math.exp(u / head["per_log"]) for u in units]
        runs.append((steps, losses))
        start += count
    return head, runs


def summed(planes: bytes, start: int, count: int) -> list[int]:
    size, value, values = len(planes) // 4, 0, []
    for at in range(start, start + count):
        number = sum(planes[at + plane * size] << (8 * plane) for plane in range(4))
        value += -(number + 1) // 2 if number % 2 else number // 2
        values.append(value)
    return values


def pair(steps: list[float], losses: list[float], *measured: tuple[float, float, float]) -> Any:
    """The curves of a run; measured: step, held-out loss and its error of each point."""
    return (np.array(steps), np.array(losses)), tuple(np.array(measured).reshape(-1, 3).T)


def of(*runs: tuple[list[float], list[float]]) -> curves.Curves:
    return curves.collected((pair(s, v) for s, v in runs), len(runs), time.monotonic() + 60)


LOSSES = st.one_of(st.floats(1e-3, 1e3), st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -1.0, 1e300]))
RUNS = st.lists(
    st.dictionaries(st.integers(1, 10**8), LOSSES, max_size=12).map(lambda d: (sorted(d), list(d.values()))),
    max_size=6,
)


@given(RUNS)
def test_what_was_packed_comes_out_again(runs: list[tuple[list[int], list[float]]]) -> None:
    head, result = unpacked(curves.packed(of(*runs)))
    assert head["recorded"] == [len(steps) for steps, _ in runs] + [0] * len(runs)
    for (steps, losses), (steps_again, losses_again) in zip(runs, result[: len(runs)], strict=True):
        assert steps_again == steps
        for loss, again in zip(losses, losses_again, strict=True):
            if not math.isfinite(loss) or loss <= 0:
                assert again is None
            else:
                assert again == pytest.approx(loss, rel=0.6 / curves.PER_LOG)


@given(st.lists(st.integers(0, 300), min_size=1, max_size=5), st.integers(1, 60))
def test_a_thinned_curve_keeps_its_ends_its_mean_and_its_order(lengths: list[int], most: int) -> None:
    runs = [(np.arange(1.0, n + 1), 2 + 5 / np.arange(1.0, n + 1)) for n in lengths]
    whole = of(*runs)
    thin = curves.thinned(whole, most)
    counts = thin.counts[: len(runs)]
    assert counts.tolist() == [min(n, c) for n, c in zip(lengths, counts, strict=True)]
    assert (thin.counts <= most).all()
    for place, (steps, losses) in enumerate(runs):
        start = int(thin.counts[:place].sum())
        part = slice(start, start + int(thin.counts[place]))
        if len(steps) <= most:
            assert thin.steps[part].tolist() == steps.tolist()
            assert thin.losses[part].tolist() == losses.tolist()
        else:
            assert 1 <= thin.steps[part][0] <= thin.steps[part][-1] <= len(steps)
            assert (np.diff(thin.steps[part]) > 0).all()
            assert (np.diff(thin.losses[part]) < 0).all()


def test_a_file_gets_as_many_points_as_it_has_room_for() -> None:
    rng = np.random.default_rng(0)
    steps = np.arange(1.0, 201)
    many = of(*[(steps, 3 + rng.normal(0, 0.1, 200)) for _ in range(100)])
    whole = curves.packed(many)
    assert curves.fitting(many, len(whole)) == whole
    head, runs = unpacked(curves.fitting(many, len(whole) // 4))
    assert len(curves.fitting(many, len(whole) // 4)) <= len(whole) // 4
    assert head["recorded"] == [200] * 100 + [0] * 100
    assert all(12 <= len(steps) < 100 for steps, _ in runs[:100])
    assert "no room" in json.loads(gzip.decompress(curves.fitting(many, 100)))["problem"]


def test_the_more_runs_the_fewer_points_each() -> None:
    assert curves.most_of(1) == curves.most_of(1000) == curves.MOST_POINTS
    assert curves.most_of(10_000) == 80
    assert curves.most_of(10**7) == curves.LEAST_POINTS


def test_runs_without_a_curve_and_runs_that_were_not_read_are_head_apart(tmp_path: Path) -> None:
    late = iter([pair([1.0, 2.0], [3.0, 2.0], (2.0, 4.0, 0.1)), pair([], []), pair([1.0], [1.0])])
    result = curves.collected(late, 3, until=time.monotonic() - 1)
    result.save(tmp_path / "held.npz")
    again = curves.Curves.load(tmp_path / "held.npz")
    assert again.recorded.tolist() == [2, curves.UNREAD, curves.UNREAD, 1, curves.UNREAD, curves.UNREAD]
    assert of(([], [])).recorded.tolist() == [0, 0]


def test_held_out_losses_follow_all_training_curves() -> None:
    runs = [pair([1.0, 2.0], [5.0, 4.0], (2.0, 4.5, 0.1)), pair([1.0], [3.0]), pair([], [], (7.0, 2.0, 0.1))]
    _, result = unpacked(curves.packed(curves.collected(runs, 3, time.monotonic() + 60)))
    assert [steps for steps, _ in result] == [[1, 2], [1], [], [2], [], [7]]
    assert [losses for _, losses in result[3:]] == [
        [pytest.approx(4.5, rel=3e-4)],
        [],
        [pytest.approx(2, rel=3e-4)],
    ]


def test_of_a_repeated_step_the_latest_value_counts() -> None:
    points = pd.DataFrame(
        {
            "run_id": ["b", "a", "b", "b", "b", "b"],
            "key": ["train_loss"] * 4 + ["held_out_loss", "held_out_loss_se"],
            "step": [2, 1, 1, 2, 2, 2],
            "timestamp": [5, 1, 1, 9, 9, 9],
            "value": [9.0, 4, 3, 2, 2.5, 0.1],
        }
    )
    result = curves.by_run(points, ["a", None, "b"])
    assert [[values.tolist() for values in curve] for curve, _ in result] == [
        [[1], [4]],
        [[], []],
        [[1, 2], [3, 2]],
    ]
    assert [[values.tolist() for values in measured] for _, measured in result] == [
        [[], [], []],
        [[], [], []],
        [[2], [2.5], [0.1]],
    ]
    assert [len(curve[0]) for curve, _ in curves.by_run(points.head(0), ["a"])] == [0]


def test_the_curves_of_a_run_come_as_columns() -> None:
    steps = np.arange(0, 5001)
    columns = curves.columns_of(pair(steps, 1 + 1 / (steps + 1), (50.0, 2.0, 0.25), (5000.0, 1.5, math.nan)))
    curve = columns["curve"]
    assert len(curve["step"]) <= curves.MOST_POINTS
    assert (curve["step"][0], curve["recorded"]) == (1, 5000)
    assert curve["loss"] == sorted(curve["loss"], reverse=True)
    assert columns["held_out"] == {"step": [50, 5000], "loss": [2, 1.5], "loss_se": [0.25, None]}
    assert curves.columns_of(pair([1, 2], [3.0, math.nan]))["curve"]["loss"] == [3, None]
