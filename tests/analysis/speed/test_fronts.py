"""Fronts against brute force, and crossings of curves whose crossings are planted."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.speed.fronts import contest, non_dominated, offered


@pytest.mark.parametrize("seed", range(20))
def test_a_front_holds_what_no_other_point_beats(seed: int) -> None:
    rng = np.random.default_rng(seed)
    speed, quality = rng.integers(1, 8, (2, 15)).astype(float)  # with ties
    on_front = non_dominated(speed, quality)
    points = list(zip(speed, quality, strict=True))
    beaten = [
        any(s >= speed[i] and q <= quality[i] and (s, q) != points[i] for s, q in points) for i in range(15)
    ]
    kept = [point for point, is_kept in zip(points, on_front, strict=True) if is_kept]
    assert set(kept) == {point for point, is_beaten in zip(points, beaten, strict=True) if not is_beaten}
    assert len(kept) == len(set(kept))


def test_a_speed_gets_the_best_point_that_is_fast_enough() -> None:
    rng = np.random.default_rng(1)
    speed, quality = rng.uniform(1, 9, (2, 5, 12))
    grid = np.array([0.5, 2.0, 4.0, 8.0, 20.0])
    values = offered(speed, quality, grid)
    for draw in range(5):
        for place, at in enumerate(grid):
            fast = quality[draw][speed[draw] >= at]
            assert values[draw, place] == (fast.min() if len(fast) else np.inf)


def test_between_two_numbers_of_steps_lies_the_line_in_logs() -> None:
    speed, quality = np.array([[1.0, 100.0, 200.0]]), np.array([[2.0, 4.0, 3.5]])
    between = offered(speed, quality, np.array([1.0, 10.0, 100.0, 150.0]), [[0, 1]])
    assert between[0] == pytest.approx([2.0, 3.0, 3.5, 3.5])  # the third point is no part of the ladder
    assert offered(speed, quality, np.array([10.0]))[0, 0] == 3.5


def test_a_ladder_may_turn_back() -> None:
    """More steps are not always slower, and noise of speed can swap two neighbours."""
    swapped = offered(np.array([[100.0, 1.0]]), np.array([[4.0, 2.0]]), np.array([10.0]), [[0, 1]])
    assert swapped[0, 0] == pytest.approx(3.0)
    same = offered(np.array([[5.0, 5.0]]), np.array([[4.0, 2.0]]), np.array([5.0, 6.0]), [[0, 1]])
    assert same[0].tolist() == [2.0, np.inf]


def planted(draws: int = 200, noise: float = 0.01) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    """Two families whose lines in logs cross at speed 10: log quality 1 + log s, and 1 + log(10 s) / 2."""
    rng = np.random.default_rng(0)
    speed = np.geomspace(1, 100, 5)
    steep, flat = 1 + np.log(speed), 1 + np.log(10 * speed) / 2
    quality = np.concatenate([steep, flat]) + noise * rng.normal(size=(draws + 1, 10))
    quality[0] = np.concatenate([steep, flat])
    families = ["steep"] * 5 + ["flat"] * 5
    return families, families, np.tile(np.tile(speed, 2), (draws + 1, 1)), quality


def test_the_lead_changes_where_the_lines_cross() -> None:
    result = contest(*planted(), 0.95)
    assert [lead.family for lead in result.leads] == ["steep", "flat"]
    (crossing,) = result.crossings
    assert (crossing.slower, crossing.faster, crossing.runs_out) == ("steep", "flat", False)
    assert crossing.speed == pytest.approx(10, rel=0.02)  # the grid is that fine
    assert crossing.low < 10 < crossing.high
    assert crossing.high / crossing.low < 1.2
    assert all(lead.share > 0.99 for lead in result.leads)
    assert result.leads[0].above == 0
    assert result.leads[-1].fastest == 100


def test_more_noise_gives_a_wider_interval() -> None:
    widths = [contest(*planted(noise=noise), 0.95).crossings[0] for noise in (0.01, 0.05, 3.0)]
    assert widths[0].high / widths[0].low < widths[1].high / widths[1].low
    assert (widths[2].low, widths[2].high) == (0.0, np.inf)  # nothing can be said


def test_a_family_without_faster_points_runs_out() -> None:
    speed, quality = np.array([[1.0, 10.0, 100.0]] * 3), np.array([[1.0, 1.1, 3.0]] * 3)
    result = contest(["good", "good", "fast"], ["a", "a", "b"], speed, quality, 0.95)
    (crossing,) = result.crossings
    assert crossing.runs_out
    assert crossing.speed == 10
    assert result.leads[1].runner_up is None


def test_a_family_alone_has_no_rival() -> None:
    result = contest(["a", "a"], ["a", "a"], np.array([[1.0, 2.0]] * 2), np.array([[1.0, 2.0]] * 2), 0.95)
    assert not result.crossings
    assert result.leads[0].runner_up is None
    assert result.leads[0].share == 1
    assert result.leads[0].fastest == 2
