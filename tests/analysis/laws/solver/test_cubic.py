"""Cubics of a budget: the minimum of a known one, and none where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.laws.solver.cubic import solve_cubics


def cubic(coefficients: tuple[float, ...], sizes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    x = np.linspace(10.0, 13.0, sizes)
    return x, np.polynomial.Polynomial(coefficients)(x - 11.5)


@pytest.mark.parametrize("coefficients", [(3, 0.1, 0.2, -0.03), (3, -0.1, 0.2, 0.04), (3, 0.1, 0.2, 0.0)])
def test_the_minimum_is_where_a_fine_grid_has_it(coefficients: tuple[float, ...]) -> None:
    x, loss = cubic(coefficients)
    curves = solve_cubics(x, loss[None], np.ones((1, 6)))
    grid = np.linspace(10, 13, 300_001)
    on_grid = curves.at(grid)[0]
    exists, place, lowest = (values[0] for values in curves.lowest())
    assert exists
    assert place == pytest.approx(grid[on_grid.argmin()], abs=2e-5)
    assert lowest == pytest.approx(on_grid.min(), abs=1e-9)
    step = 1e-3
    around = curves.at(np.array([place - step, place, place + step]))[0]
    assert curves.curvature() == pytest.approx(
        (around[0] - 2 * around[1] + around[2]) / step**2 / 2, rel=1e-3
    )


@pytest.mark.parametrize(
    ("coefficients", "end"),
    [((3, -0.1, 0.0, -0.03), "largest"), ((3, 0.1, 0.0, 0.03), "smallest"), ((3, 0.2, 0.1, -0.2), "largest")],
)
def test_a_curve_without_a_lowest_point_inside_has_none(coefficients: tuple[float, ...], end: str) -> None:
    x, loss = cubic(coefficients)
    curves = solve_cubics(x, loss[None], np.ones((1, 6)))
    assert not curves.lowest()[0][0]
    assert curves.falls_towards() == end


def test_rows_with_three_sizes_are_flat() -> None:
    x, loss = cubic((3, 0.1, 0.2, -0.03))
    weights = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0]], dtype=float)
    exists = solve_cubics(x, np.stack([loss, loss]), weights).lowest()[0]
    assert exists.tolist() == [True, False]
