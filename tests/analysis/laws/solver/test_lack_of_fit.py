"""The F test of lack of fit: its false alarms are as rare as it says, a wrong curve is found."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import f, kstest

from analysis.laws.isoflop import fit_isoflop
from analysis.laws.solver.lack_of_fit import budgets_lack_of_fit, lack_of_fit
from analysis.laws.surface import fit_surface
from analysis.table.fit_table import prepare
from tests.analysis.planted import BUDGETS, isoflop_table, repeated_isoflops


@pytest.mark.parametrize("repeats", [3, (4, 4, 2, 2, 1, 1)])
def test_true_parabolas_raise_as_many_alarms_as_stated(repeats: int | tuple[int, ...]) -> None:
    tests = [
        budgets_lack_of_fit(prepare(repeated_isoflops(repeats, seed=seed)), "parabola") for seed in range(400)
    ]
    pooled = [test.pooled.p for test in tests if test is not None]
    assert len(pooled) == 400
    assert kstest(pooled, "uniform").pvalue > 1e-3
    assert np.mean([test.p < 0.1 for test in tests if test is not None]) < 0.1 + 3 * 0.015
    assert np.mean([test.fails for test in tests if test is not None]) < 0.01 + 3 * 0.005


def test_planted_cubics_are_found() -> None:
    tests = [
        budgets_lack_of_fit(prepare(repeated_isoflops(cubic=0.02, seed=seed)), "parabola")
        for seed in range(40)
    ]
    assert all(test is not None and test.fails for test in tests)
    described = [
        budgets_lack_of_fit(prepare(repeated_isoflops(cubic=0.02, seed=seed)), "cubic") for seed in range(40)
    ]
    assert sum(test is not None and test.fails for test in described) <= 3


def test_one_bent_budget_is_named() -> None:
    bent, straight = repeated_isoflops(cubic=0.02), repeated_isoflops()
    table = straight.assign(loss=bent["loss"].where(bent["budget"] == BUDGETS[1], straight["loss"]))
    law = fit_isoflop(table, bootstrap=0)
    assert law.lack_of_fit is not None
    assert [test.flops for test in law.lack_of_fit.budgets if test.p < 0.001] == [BUDGETS[1]]
    assert "least at 1.0e18 FLOPs" in law.lack_of_fit.sentence


def test_the_ratio_is_the_textbooks() -> None:
    """A straight line through three cells of two, by hand: lack of fit 1 on 1, pure error 6 x 0.25 on 3."""
    off = np.array([-1.0, 2.0, -1.0]).repeat(2) / np.sqrt(12)
    deviations = off + np.tile([0.5, -0.5], 3)
    test = lack_of_fit(deviations, np.arange(3).repeat(2), 2)
    assert test is not None
    assert test.pooled.ratio == pytest.approx(1 / 0.5)
    assert test.p == pytest.approx(float(f.sf(2.0, 1, 3)))


def test_without_repeats_or_cells_to_spare_nothing_is_tested() -> None:
    assert fit_isoflop(repeated_isoflops(1), bootstrap=0).lack_of_fit is None
    assert fit_isoflop(repeated_isoflops(3, sizes=3), bootstrap=0).lack_of_fit is None
    assert fit_isoflop(repeated_isoflops(3), bootstrap=0, shape="akima").lack_of_fit is None
    copies = repeated_isoflops(2, noise=0.0, misfit=0.01)
    assert fit_isoflop(copies, bootstrap=0).lack_of_fit is None, "repeats without noise are copies"


def test_a_surface_is_tested_about_its_least_squares() -> None:
    """Runs of a true surface lie on it; shifted sizes do not."""
    design = isoflop_table(budgets=BUDGETS[:4], sizes=6, span=3)
    alarms = 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        rows = design.loc[design.index.repeat(3)].reset_index(drop=True)
        rows["loss"] *= np.exp(0.003 * generator.standard_normal(len(rows)))
        test = fit_surface(rows, bootstrap=0).lack_of_fit
        assert test is not None
        assert not test.budgets
        alarms += test.p < 0.1
        if seed == 0:
            shifted = rows.assign(loss=rows["loss"] * np.tile([1.02, 1, 1, 0.98, 1, 1], 4).repeat(3))
            law = fit_surface(shifted, bootstrap=0)
            assert law.lack_of_fit is not None
            assert law.lack_of_fit.fails
            assert any("no surface describes the means of repeated runs" in w for w in law.warnings)
    assert alarms <= 14
