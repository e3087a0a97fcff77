"""Equal loss: planted multipliers along the whole curve, percent statements, differences of exponents."""

import json

import numpy as np
import pandas as pd
import pytest

from analysis import compare, figures
from analysis.errors import UserError
from tests.analysis.planted import isoflop_table

AR = (1.8, 400.0, 1500.0, 0.34, 0.36)
BUDGETS = (1e18, 1e19, 1e20, 1e21)


def families(other, noise=0.0, seed=0):
    parts = [
        isoflop_table(theta, budgets=BUDGETS, sizes=7, span=6, noise=noise, seed=2 * seed + k, family=name)
        for k, (name, theta) in enumerate((("ar", AR), ("masked", other)))
    ]
    return pd.concat(parts, ignore_index=True)


def slower(factor):
    E, A, B, alpha, beta = AR
    return (E, A * factor ** (alpha / 2), B * factor ** (beta / 2), alpha, beta)


@pytest.fixture(scope="module")
def noisy():
    return compare(families(slower(16.0), noise=0.002), bootstrap=150)


def test_the_curve_is_the_planted_multiplier_everywhere():
    curve = compare(families(slower(16.0)), bootstrap=0).curve("masked")
    np.testing.assert_allclose(curve["multiplier"], 16.0, rtol=1e-5)
    assert (np.diff(curve["at_loss"]) < 0).all()
    assert curve["low"].isna().all()
    inside = curve[~curve["extrapolated"]]
    # both laws inside their budgets: the family's from 1.6e19 on, where the reference has spent 1e18
    assert inside["at_flops"].min() == pytest.approx(1.6e19, rel=0.3)
    assert inside["at_flops"].max() == pytest.approx(1e21, rel=0.3)


def test_the_band_holds_the_points_of_the_table(noisy):
    curve = noisy.curve("masked")
    for row in noisy.multipliers.to_dict(orient="records"):
        at = np.interp(np.log(row["at_flops"]), np.log(curve["at_flops"]), curve["multiplier"])
        assert at == pytest.approx(row["multiplier"], rel=0.01)
    assert (curve["low"] <= curve["multiplier"]).all()
    assert (curve["multiplier"] <= curve["high"]).all()
    with pytest.raises(UserError, match="family = 'ar' is not compared; choose one of masked"):
        noisy.curve("ar")


def test_percent_statements_follow_from_the_multipliers(noisy):
    saved = noisy.savings
    table = noisy.multipliers
    np.testing.assert_allclose(saved["percent_fewer"], 100 * (1 - table["multiplier"]))
    np.testing.assert_allclose(1 + saved["percent_more_efficient"] / 100, 1 / table["multiplier"])
    np.testing.assert_allclose(saved["percent_fewer_low"].astype(float), 100 * (1 - table["high"]))
    assert (saved["percent_more_efficient_low"] < saved["percent_more_efficient"]).all()
    assert (saved["percent_more_efficient"] < saved["percent_more_efficient_high"]).all()


def test_a_family_that_needs_an_eighth_less_is_fourteen_percent_more_efficient():
    savings = compare(families(slower(0.875)), bootstrap=0).savings
    np.testing.assert_allclose(savings["percent_fewer"], 12.5, rtol=1e-4)
    np.testing.assert_allclose(savings["percent_more_efficient"], 100 * (1 / 0.875 - 1), rtol=1e-4)
    assert savings["percent_fewer_low"].isna().all()


def test_equal_exponents_are_not_called_different(noisy):
    table = noisy.exponents.set_index("exponent")
    assert set(table.index) == {"params", "tokens", "reducible_loss", "alpha", "beta"}
    assert (table["p"] > 0.01).all()
    assert (table["low"] < table["difference"]).all()
    assert "exponents of masked less those of ar" in str(noisy)


def test_different_exponents_are():
    comparison = compare(families((1.8, 900.0, 4000.0, 0.34, 0.44), noise=0.001), bootstrap=150)
    table = comparison.exponents.set_index("exponent")
    assert table.loc["params", "difference"] == pytest.approx(0.44 / 0.78 - 0.36 / 0.70, abs=0.02)
    assert table.loc["beta", "low"] > 0
    assert table.loc["beta", "p"] < 0.05
    assert table.loc["alpha", "p"] > 0.01
    json.dumps(comparison.to_dict(), allow_nan=False)


def test_power_laws_compare_their_own_exponents():
    exponents = compare(families(slower(4.0), noise=0.002), method="isoflop", bootstrap=60).exponents
    assert exponents["exponent"].tolist() == ["params", "tokens", "loss"]
    assert (exponents["p"] > 0).all()
    assert compare(families(slower(4.0)), bootstrap=0).exponents["p"].isna().all()


def test_curves_are_drawn_with_bands(noisy, tmp_path):
    figure = noisy.plot()
    assert {trace.name for trace in figure.data if trace.showlegend} == {"masked"}
    assert [trace.meta["role"] for trace in figure.data].count("band") == 1
    assert (figures.compare_table(noisy)["kind"] == "curve").sum() == 60
    figures.save(figure, tmp_path / "curves.svg")
    assert (tmp_path / "curves.svg").stat().st_size > 1000
