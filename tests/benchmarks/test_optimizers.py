"""Paired differences of optimizers by hand."""

from __future__ import annotations

import pytest

from benchmarks.optimizers import best, paired


def test_the_interval_of_paired_differences_is_students() -> None:
    """Differences 1, 2, 3: mean 2, standard error 1/sqrt(3), 4.303 at two degrees of freedom."""
    mean, half = paired([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert mean == 2
    assert half == pytest.approx(4.3027 / 3**0.5, rel=1e-4)


def test_the_best_rate_is_one_that_every_seed_finished() -> None:
    runs = [{"bounds": [1.0, None]}, {"bounds": [2.0, 2.2]}, {"bounds": [2.0, 2.1]}]
    assert best(runs) is runs[2]
