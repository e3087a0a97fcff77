"""Akima's interpolant of one budget against SciPy on a fine grid, and its verdict at the ends."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.interpolate import Akima1DInterpolator

from analysis.laws.solver.akima import solve_splines

SIZES = np.linspace(15.0, 19.0, 8)


@example(losses=[2.0, 3.0, 2.0, 3.0, 2.0, 3.0, 3.0, 2.0])
@example(losses=[2.0, 2.25, 2.0, 2.25, 2.0, 2.25, 2.5, 2.0])
@given(losses=st.lists(st.floats(2.0, 4.0), min_size=8, max_size=8))
def test_the_minimum_is_the_lowest_point_of_the_interpolant(losses):
    loss = np.array(losses)
    convex, place, lowest = solve_splines(SIZES, loss[None], np.ones((1, 8))).lowest()
    grid = np.linspace(SIZES[0], SIZES[-1], 20001)
    values = np.exp(Akima1DInterpolator(SIZES, np.log(loss))(grid))
    if convex[0] and np.isfinite(place[0]):
        assert lowest[0] <= values.min() * (1 + 1e-12)
        # quadratic near its minimum: the grid misses it by less than that
        assert lowest[0] == pytest.approx(values.min(), rel=1e-5)
    else:
        assert values.min() == pytest.approx(min(loss[0], loss[-1]), rel=1e-12)


def test_a_minimum_at_an_end_lies_beyond_it():
    falling = 3 - 0.1 * np.arange(8.0)
    rows = np.stack([falling, falling[::-1], 2 + (np.arange(8) - 3) ** 2 / 10])
    convex, place, lowest = solve_splines(SIZES, rows, np.ones((3, 8))).lowest()
    assert convex.all()
    assert place[:2].tolist() == [np.inf, -np.inf]
    assert lowest[:2].tolist() == pytest.approx([2.3, 2.3])
    assert place[2] == pytest.approx(SIZES[3], abs=0.05)


def test_a_size_that_is_left_out_is_interpolated():
    loss = np.exp(0.1 * (SIZES - 17) ** 2)
    without = np.ones((1, 8))
    without[0, 2] = 0
    left_out = solve_splines(SIZES, loss[None], without)
    others = Akima1DInterpolator(np.delete(SIZES, 2), np.delete(np.log(loss), 2))
    assert left_out.log_loss[0, 2] == pytest.approx(float(others(SIZES[2])), rel=1e-12)
    np.testing.assert_array_equal(np.delete(left_out.log_loss[0], 2), np.delete(np.log(loss), 2))
