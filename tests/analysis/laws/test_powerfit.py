"""Power laws of any columns: closed forms, planted laws with offset, units, refusals."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import least_squares

import analysis
from analysis import fit_power_law
from analysis.errors import UserError
from tests.analysis.planted import isoflop_table


def table(noise=0.05, rows=8, seed=0):
    flops = np.geomspace(1e17, 1e22, rows)
    generator = np.random.default_rng(seed)
    noisy = np.exp(noise * generator.standard_normal((3, rows)))
    return pd.DataFrame(
        {
            "flops": flops,
            "params": 3 * flops**0.5 * noisy[0],
            "loss": (1.7 + 1e3 * flops**-0.15) * noisy[1] ** 0.02,
            "batch": 2.0 * flops**0.2 * np.array([1, 3] * (rows // 2)) ** 0.4 * noisy[2],
            "width": [1.0, 3.0] * (rows // 2),
        }
    )


def test_least_squares_and_its_t_interval():
    runs = table()
    law = fit_power_law(runs, y="params", x="flops", bootstrap=20_000)
    reference = stats.linregress(np.log(runs["flops"]), np.log(runs["params"]))
    assert law.exponent == pytest.approx(reference.slope, rel=1e-12)
    assert law.coefficient == pytest.approx(np.exp(reference.intercept), rel=1e-10)
    half = stats.t.ppf(0.975, 6) * reference.stderr
    # percentiles of 20,000 draws: 2% of the half width
    assert law.exponent.low == pytest.approx(reference.slope - half, abs=0.03 * half)
    assert law.exponent.high == pytest.approx(reference.slope + half, abs=0.03 * half)
    assert law.warnings == ()
    assert float(law.E) == 0


@settings(max_examples=15, deadline=None)
@given(E=st.floats(0.2, 3), exponent=st.floats(-0.4, -0.05) | st.floats(0.05, 0.4))
def test_planted_offsets_are_recovered(E, exponent):
    flops = np.geomspace(1e17, 1e22, 9)
    k = E / np.mean(flops**exponent)
    law = fit_power_law(
        pd.DataFrame({"x": flops, "y": E + k * flops**exponent}), y="y", x="x", offset=True, bootstrap=5
    )
    assert law.E == pytest.approx(E, rel=1e-6)
    assert law.exponent == pytest.approx(exponent, rel=1e-6)
    assert law.coefficient == pytest.approx(k, rel=1e-5)


def test_a_noisy_offset_agrees_with_scipy():
    runs = table(noise=0.2)
    law = fit_power_law(runs, y="loss", x="flops", offset=True)

    def residual(t):
        return np.log((t[0] + np.exp(t[1]) * runs["flops"] ** t[2]) / runs["loss"])

    start = [float(law.E), np.log(law.coefficient), float(law.exponent)]
    optimum = least_squares(residual, start, x_scale="jac", xtol=1e-15, ftol=1e-15, gtol=1e-15)
    assert law.objective <= optimum.cost * (1 + 1e-9)
    assert law.E == pytest.approx(optimum.x[0], rel=1e-5)
    assert law.E.low < 1.7 < law.E.high
    assert law.exponent.low < -0.15 < law.exponent.high


def test_several_columns_are_a_product_of_powers():
    law = fit_power_law(table(), y="batch", x=("flops", "width"))
    assert law.exponents["flops"].low < 0.2 < law.exponents["flops"].high
    assert law.exponents["width"].low < 0.4 < law.exponents["width"].high
    with pytest.raises(UserError, match="there are 2 \\(flops, width\\); see exponents"):
        law.exponent  # noqa: B018
    prediction = law.predict([1e20, 1e21], 3.0)
    assert prediction.columns.tolist() == ["flops", "width", "batch", "batch_low", "batch_high"]


def test_a_threshold_disregards_outliers():
    runs = table(noise=0.01, rows=12)
    runs.loc[5, "params"] *= 5
    robust = fit_power_law(runs, y="params", x="flops", delta=0.005)
    plain = fit_power_law(runs, y="params", x="flops")
    assert abs(robust.exponent - 0.5) < 0.2 * abs(plain.exponent - 0.5)
    assert robust.exponent.high - robust.exponent.low < plain.exponent.high - plain.exponent.low


def test_predictions_units_seeds_and_json():
    runs = table()
    law = fit_power_law(runs, y="params", x="flops")
    mean, run = (law.predict(1e23, kind=kind) for kind in ("mean", "run"))
    assert run.low < mean.low < mean < mean.high < run.high
    scaled = runs.assign(flops=runs["flops"] / 1e18, params=runs["params"] / 1e6)
    other = fit_power_law(scaled, y="params", x="flops")
    np.testing.assert_allclose(other.thetas[:, 2], law.thetas[:, 2], rtol=1e-9)
    assert other.predict(1e5) * 1e6 == pytest.approx(mean, rel=1e-9)
    np.testing.assert_array_equal(fit_power_law(runs, y="params", x="flops").thetas, law.thetas)
    values = json.loads(law.to_json())
    assert values["parameters"]["exponent of flops"]["value"] == float(law.exponent)
    assert law.summary()["quantity"].tolist() == ["coefficient", "exponent of flops"]
    assert "params = " in str(law)
    assert "<table" in law._repr_html_()
    assert "exponent of flops & 0." in law.to_latex()
    assert law.to_markdown().startswith("| quantity | value and 95% interval |")


def test_optima_of_a_law_are_a_table_like_any_other():
    minima = analysis.fit_law(isoflop_table(noise=0.002), method="isoflop").minima
    law = fit_power_law(minima.astype({"params": float, "flops": float}), y="params", x="flops")
    assert law.exponent.low < 0.28 / 0.62 < law.exponent.high


def test_an_offset_that_is_not_there_is_told():
    runs = table(noise=0.02)
    law = fit_power_law(runs, y="params", x="flops", offset=True)
    assert any("offset" in warning or "no lower limit on E" in warning for warning in law.warnings)


REFUSALS = [
    ({"y": "size"}, "size: no such column \\(columns: flops, params"),
    ({"y": "bad"}, "bad: row 2 must be a finite number above 0"),
    ({"x": ("flops", "twice")}, "do not vary on their own"),
    ({"x": "same"}, "same: 8 rows at 1 different values for 2 parameters"),
    ({"x": ("flops", "width"), "offset": True}, "a law with an offset has one x, not 2"),
    ({"delta": -1}, "delta = -1"),
    ({"level": 2}, "level = 2"),
]


@pytest.mark.parametrize(("options", "sentence"), REFUSALS)
def test_what_cannot_be_fitted_gets_one_sentence(options, sentence):
    runs = table().assign(same=1.0, twice=lambda t: t["flops"] ** 2, bad=lambda t: t["params"])
    runs.loc[2, "bad"] = np.nan
    with pytest.raises(UserError, match=sentence):
        fit_power_law(runs, **({"y": "params", "x": "flops"} | options))


def test_questions_that_cannot_be_answered():
    law = fit_power_law(table(), y="params", x="flops", bootstrap=0)
    assert law.exponent.low is None
    with pytest.raises(UserError, match="give 1 values: flops"):
        law.predict(1.0, 2.0)
    with pytest.raises(UserError, match="above 0"):
        law.predict(-1.0)
