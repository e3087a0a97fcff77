"""Noise of runs: its estimate, which kind of resample a table gets, and intervals that need leave-outs."""

import numpy as np
import pandas as pd
import pytest

from analysis import fit_law
from analysis.laws.solver.noise import scatter
from tests.analysis.planted import CHINCHILLA, isoflop_table


def test_scatter_of_normal_noise_is_its_standard_deviation():
    residuals = 0.003 * np.random.default_rng(0).standard_normal(20_000)
    # standard error of a scale: 1 / sqrt(2 x degrees of freedom)
    assert scatter(residuals, 5).sd == pytest.approx(0.003, rel=0.02)


def test_degrees_of_freedom_are_those_of_the_estimate():
    """Over many tables the variance estimate varies as one with `freedom` degrees of freedom."""
    generator = np.random.default_rng(1)
    estimates = np.array([scatter(generator.standard_normal(205), 5).sd ** 2 for _ in range(2000)])
    measured = 2 / (estimates.std() / estimates.mean()) ** 2
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


@pytest.fixture(scope="module")
def table():
    return isoflop_table(budgets=(1e17, 1e18, 1e19, 1e20), sizes=7, span=6, noise=0.005, seed=3)


def width(estimate):
    return estimate.high - estimate.low


def test_small_tables_simulate_and_large_ones_redraw(table):
    assert fit_law(table, bootstrap=0).options["resample"] == "parametric"
    assert fit_law(table, bootstrap=0, cluster="budget").options["resample"] == "rows"
    large = isoflop_table(sizes=20, noise=0.005)
    assert len(large) == 100
    assert fit_law(large, bootstrap=0).options["resample"] == "rows"


def test_simulated_intervals_are_as_wide_as_sweeps_scatter(table):
    """Half-widths against 1.96 standard deviations over 80 sweeps of the same design."""
    sweeps = (
        isoflop_table(budgets=(1e17, 1e18, 1e19, 1e20), sizes=7, span=6, noise=0.005, seed=s)
        for s in range(80)
    )
    exponents = [fit_law(sweep, bootstrap=0).exponents["params"] for sweep in sweeps]
    sd = float(np.std(exponents))
    widths = {}
    for kind in ("parametric", "residuals", "rows"):
        laws = [
            fit_law(
                isoflop_table(budgets=(1e17, 1e18, 1e19, 1e20), sizes=7, span=6, noise=0.005, seed=seed),
                bootstrap=200,
                resample=kind,
            )
            for seed in range(6)
        ]
        widths[kind] = float(np.median([width(law.exponents["params"]) for law in laws])) / (2 * 1.96 * sd)
    assert 0.8 < widths["parametric"] < 1.4
    assert 0.7 < widths["residuals"] < 1.4
    assert widths["rows"] > widths["parametric"]


def test_a_known_error_of_the_text_moves_the_floor_and_not_the_exponents(table):
    plain = fit_law(table, bootstrap=300)
    law = fit_law(table.assign(loss_se=0.05), bootstrap=300)
    assert width(law.optimal(1e20).loss) > 3 * width(plain.optimal(1e20).loss)
    assert width(law.alpha) < 1.3 * width(plain.alpha)


@pytest.mark.parametrize("kind", ["rows", "parametric", "residuals"])
def test_bca_keeps_the_estimate_and_moves_the_ends(table, kind):
    plain = fit_law(table, bootstrap=300, resample=kind)
    bca = fit_law(table, bootstrap=300, resample=kind, interval="bca")
    assert bca.leave_outs == len(table)
    assert len(bca.thetas) == 1 + 300 + len(table)
    assert float(bca.alpha) == float(plain.alpha)
    assert bca.alpha.low < bca.alpha < bca.alpha.high
    assert 0.5 < width(bca.alpha) / width(plain.alpha) < 2
    assert len(bca.curve.E) == 301, "leave-outs are no resamples"
    again = fit_law(table.sample(frac=1, random_state=2), bootstrap=300, resample=kind, interval="bca")
    assert again.to_json() == bca.to_json()


def test_signs_by_group_keep_a_shared_error(table):
    """Two seeds whose losses differ by 1%: drawn apart that averages out of the level, by groups it stays."""
    both = [table.assign(seed=0, loss=table["loss"] * 0.99), table.assign(seed=1, loss=table["loss"] * 1.01)]
    both.append(table.assign(seed=2))
    runs = pd.concat(both, ignore_index=True)
    apart = fit_law(runs, bootstrap=200, resample="residuals").optimal(1e19).loss
    together = fit_law(runs, bootstrap=200, resample="residuals", cluster="seed").optimal(1e19).loss
    assert width(together) > 1.5 * width(apart)


def test_variants_are_simulated_about_themselves(table):
    for options in ({"tied": True}, {"E": 1.69}, {"E": "none"}, {"residual": "loss", "delta": 0.01}):
        law = fit_law(table, bootstrap=60, interval="bca", **options)
        assert law.options["resample"] == "parametric"
        assert law.beta.low < law.beta < law.beta.high
        if "E" in options:
            np.testing.assert_array_equal(law.thetas[:, 0], law.thetas[0, 0])
        if "tied" in options:
            np.testing.assert_array_equal(law.thetas[:, 3], law.thetas[:, 4])


def test_intervals_hold_the_planted_law():
    """20 sweeps of 28 runs, nominal 95%: at least 16 hold each planted number (p > 0.99)."""
    held = np.zeros(2)
    for seed in range(20):
        runs = isoflop_table(budgets=(1e17, 1e18, 1e19, 1e20), sizes=7, span=6, noise=0.005, seed=seed)
        law = fit_law(runs, bootstrap=150, seed=seed)
        held += [
            law.alpha.low <= CHINCHILLA[3] <= law.alpha.high,
            law.beta.low <= CHINCHILLA[4] <= law.beta.high,
        ]
    assert (held >= 16).all()
