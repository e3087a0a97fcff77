"""The fitting benchmark measures what it says: the same resamples, and a sound reference."""

import argparse

import numpy as np
import pytest

from analysis import fit_law, published
from benchmarks import fitting


@pytest.fixture(scope="module")
def law():
    return fit_law(published.runs("hoffmann2022"), bootstrap=12, resample="rows")


def test_both_solve_the_same_resamples(law):
    """Our optima lie nowhere above those of scipy by more than its own tolerance."""
    _, theirs = fitting.least_squares_resamples(law, 12)
    mine = fitting.our_objectives(law, 12)
    np.testing.assert_allclose(mine, theirs, rtol=2e-3)
    assert np.max(mine / theirs - 1) < 2e-4


def test_a_small_run_of_it_names_every_number():
    numbers = fitting.measure(argparse.Namespace(resamples=20, rounds=1, runs=300))
    assert set(fitting.FLOORS) <= set(numbers)
    assert numbers["objective"] <= 1.01827402e-3
    assert fitting.missed(numbers | {"summary_cpu_s": 99.0})[-1] in fitting.FLOORS
    assert fitting.missed(dict.fromkeys(fitting.FLOORS, 0.0)) == ["least_squares_over_ours"]
