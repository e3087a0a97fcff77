"""Scatter of runs: what it estimates, and how sure it is."""

import numpy as np
import pytest

from analysis.laws.solver.newrun import scatter


def test_scatter_of_normal_noise_is_its_standard_deviation():
    residuals = 0.003 * np.random.default_rng(0).standard_normal(20_000)
    # standard error of a scale: 1 / sqrt(2 x degrees of freedom)
    assert scatter(residuals, 5).sd == pytest.approx(0.003, rel=0.02)


def test_degrees_of_freedom_are_those_of_the_estimate():
    """Over many tables the variance estimate varies as one with `freedom` degrees of freedom."""
    generator = np.random.default_rng(1)
    found = np.array([scatter(generator.standard_normal(205), 5).sd ** 2 for _ in range(2000)])
    measured = 2 / (found.std() / found.mean()) ** 2
    assert scatter(generator.standard_normal(205), 5).freedom == pytest.approx(measured, rel=0.12)


def test_a_tenth_of_outliers_hardly_widens_it():
    residuals = np.random.default_rng(2).standard_normal(1000)
    clean = scatter(residuals, 0).sd
    residuals[::10] *= 50
    assert scatter(residuals, 0).sd < 1.35 * clean


def test_spent_parameters_are_paid_for():
    residuals = np.random.default_rng(3).standard_normal(20)
    assert scatter(residuals, 10).sd > scatter(residuals, 0).sd


def test_exact_tables_have_no_scatter():
    assert scatter(np.zeros(9), 5).sd == 0.0


def test_the_same_seed_gives_the_same_new_runs():
    noise = scatter(np.random.default_rng(4).standard_normal(50), 5)
    value, draws = np.ones((1, 3)), np.ones((20, 3))
    one, same, other = (noise.with_run(value, draws, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert np.all(one[0] == 1)
    assert len(noise.with_run(value, draws[:0], 0)) == 1
