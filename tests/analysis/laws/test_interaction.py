"""Surfaces whose data exponent depends on the size: planted laws, nesting, units, frontier, warnings."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from analysis import fit_law, published
from analysis.errors import UserError
from analysis.laws.result import FitStatus
from tests.analysis.planted import isoflop_table, loss_of

PLANTED = (1.7, 400.0, 410.0, 0.34, 0.28)


def planted(kappa, c=0.0, noise=0.0, seed=0):
    """Five budgets x ten sizes; the data exponent is 0.28 + kappa log(N / 1e8)."""
    runs = isoflop_table(sizes=10)
    x = np.log(runs["params"] / 1e8)
    data = 410.0 * np.exp(c * x) / runs["tokens"] ** (0.28 + kappa * x)
    loss = 1.7 + 400.0 / runs["params"] ** 0.34 + data
    return runs.assign(loss=loss * np.exp(noise * np.random.default_rng(seed).standard_normal(len(runs))))


@pytest.mark.parametrize(("kappa", "c"), [(0.0, 0.0), (0.01, 0.2), (-0.008, -0.1)])
def test_planted_interactions_are_recovered(kappa, c):
    law = fit_law(planted(kappa, c), "interaction", bootstrap=10)
    assert law.status is FitStatus.CONVERGED
    assert law.kappa == pytest.approx(kappa, abs=1e-9)
    assert law.c == pytest.approx(c, abs=1e-8)
    assert (law.E, law.A, law.alpha) == pytest.approx((1.7, 400, 0.34), rel=1e-8)
    shift = np.log(law.reference_params / 1e8)
    assert law.beta == pytest.approx(0.28 + kappa * shift, abs=1e-9)
    assert law.share_of_starts > 0.9


def test_it_fits_no_worse_than_the_surface_it_contains():
    runs = published.runs("hoffmann2022")
    plain, law = (fit_law(runs, method, bootstrap=100) for method in ("surface", "interaction"))
    assert law.objective < plain.objective
    assert law.gradient < 1e-6
    assert law.kappa.high < 0
    assert law.warnings == ()


def test_units_do_not_matter():
    runs = planted(-0.008, noise=0.003)
    scaled = runs.assign(
        params=runs["params"] / 1e6, tokens=runs["tokens"] / 1e9, budget=runs["budget"] / 1e15
    )
    law, other = (fit_law(table, "interaction", bootstrap=20) for table in (runs, scaled))
    columns = [0, 3, 4, 6]
    np.testing.assert_allclose(other.thetas[:, columns], law.thetas[:, columns], rtol=1e-6, atol=1e-9)
    assert other.optimal(1e5).params * 1e6 == pytest.approx(law.optimal(1e20).params, rel=1e-5)


def test_the_optimum_is_where_a_numeric_search_finds_it():
    law = fit_law(planted(0.01), "interaction", bootstrap=10)
    best = law.optimal(1e20)
    optimum = minimize_scalar(
        lambda x: float(law.predict(np.exp(x), 1e20 / 6 / np.exp(x))),
        bounds=(np.log(best.params) - 3, np.log(best.params) + 3),
        method="bounded",
        options={"xatol": 1e-10},
    )
    # a minimum is flat: its place is known to the root of rounding
    assert np.log(best.params) == pytest.approx(optimum.x, abs=1e-6)
    assert 6 * best.params * best.tokens == pytest.approx(1e20, rel=1e-9)
    assert best.loss == pytest.approx(float(law.predict(best.params, best.tokens)), rel=1e-12)
    np.testing.assert_allclose(
        law.curve.loss(np.array(law.flops_range)), law._along(np.array(law.flops_range))["loss"], rtol=1e-12
    )


def test_without_interaction_exponents_are_those_of_the_surface():
    law = fit_law(planted(0.0), "interaction", bootstrap=0)
    for name, expected in (("params", 0.28 / 0.62), ("tokens", 0.34 / 0.62), ("reducible_loss", -0.1535)):
        assert law.exponents[name] == pytest.approx(expected, abs=1e-4)
    assert law.predict(1e9, 2e10) == pytest.approx(loss_of(PLANTED, 1e9, 2e10), rel=1e-8)


def test_an_interaction_that_is_not_there_is_not_identified():
    law = fit_law(planted(0.0, noise=0.01), "interaction", bootstrap=100)
    assert law.kappa.low < 0 < law.kappa.high
    assert any("the interaction is not identified" in warning for warning in law.warnings)
    run, mean = (law.predict(1e9, 2e10, kind=kind) for kind in ("run", "mean"))
    assert run.low < mean.low < mean.high < run.high
    json.loads(law.to_json())
    assert "kappa" in str(law)


def test_a_law_without_a_minimum_says_so_and_still_prints():
    law = fit_law(planted(0.01), "interaction", bootstrap=4)
    thetas = law.thetas.copy()
    # loss that rises with tokens: the largest network is always best
    thetas[:, [4, 5, 6]] = [-0.1, 0.0, 0.0]
    spoiled = replace(law, thetas=thetas)
    assert spoiled.exponents == {}
    assert spoiled.optimal(1e20).params == np.inf
    assert np.isfinite(spoiled.optimal(1e20).loss)
    assert "kappa" in str(spoiled)
    json.loads(spoiled.to_json())


def test_options_of_the_surface_hold_here_too():
    law = fit_law(planted(0.01), "interaction", bootstrap=5, E=1.7, residual="loss")
    assert law.kappa == pytest.approx(0.01, abs=1e-8)
    assert law.E.low is None
    with pytest.raises(AttributeError, match="no attribute 'gamma'"):
        law.gamma  # noqa: B018


@pytest.mark.parametrize("option", ["tied", "resample", "interval"])
def test_what_an_interaction_cannot_have_is_refused(option):
    with pytest.raises(
        UserError,
        match=f"{option} is no option of method 'interaction' but of 'surface'.*; its options are delta",
    ):
        fit_law(planted(0.0), "interaction", **{option: True})
