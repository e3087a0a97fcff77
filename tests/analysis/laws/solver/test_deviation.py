"""The deviation from a surface against dense Gaussian-process algebra, least squares, and planted fields."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from scipy.stats import t as student

from analysis import compare, fit_law, published
from analysis.errors import UserError
from analysis.frontier import surface_loss
from analysis.laws.solver import deviation
from analysis.laws.solver.deviation import fit_deviation, shares, waves

THETA = np.array([2.235, 4106.0, 7570.0, 0.484, 0.4095])
DRAWS = 4000


@pytest.fixture(scope="module")
def masked():
    runs = published.runs("sahoo2026")
    return runs[runs["family"] == "masked"].reset_index(drop=True)


def columns(runs: pd.DataFrame) -> list[np.ndarray]:
    return [runs[name].to_numpy(float) for name in ("params", "tokens", "loss")]


def noisy(runs: pd.DataFrame, noise: float, seed: int, field: float = 0.0) -> pd.DataFrame:
    """Losses of THETA with noise, and with a smooth field of that standard deviation and a reach of 2.3."""
    generator = np.random.default_rng(seed)
    x, y = np.log(runs["params"].to_numpy()), np.log(runs["tokens"].to_numpy())
    clean = np.log(surface_loss(THETA, runs["params"].to_numpy(), runs["tokens"].to_numpy()))
    if field:
        distance = (x[:, None] - x) ** 2 + (y[:, None] - y) ** 2
        covariance = np.exp(-distance / (2 * 2.3**2)) + 1e-10 * np.eye(len(x))
        clean += field * np.linalg.cholesky(covariance) @ generator.standard_normal(len(x))
    return runs.assign(loss=np.exp(clean + noise * generator.standard_normal(len(x))))


def test_products_of_the_waves_are_the_covariance():
    places = np.random.default_rng(0).uniform(-4, 4, size=(300, 2))
    features = waves(*places.T)
    distance = np.sum((places[:, None] - places) ** 2, axis=-1)
    expected = np.exp(-distance / (2 * deviation.REACH**2))
    np.testing.assert_allclose(features @ features.T, expected, atol=1e-3)


def test_estimate_and_spread_are_those_of_dense_algebra(masked, monkeypatch):
    # one ratio of the grid at a time, so that the posterior is a single t distribution
    params, tokens, loss = columns(masked)
    groups = np.unique(params, return_inverse=True)[1]
    target = np.log([1.1e9]), np.log([1.5e11])
    for ratio in (0.0, 40.0, 2000.0):
        monkeypatch.setattr(deviation, "RATIOS", np.array([0.0, ratio or 1.0]))
        monkeypatch.setattr(deviation, "NO_DEVIATION", 1.0 if ratio == 0 else 0.0)
        fitted = fit_deviation(THETA, params, tokens, loss, groups=groups, draws=DRAWS)

        x, y = np.log(params) - fitted.means[0], np.log(tokens) - fitted.means[1]
        X, Y = target[0] - fitted.means[0], target[1] - fitted.means[1]
        r = np.log(loss / surface_loss(THETA, params, tokens))
        J, J_there = shares(fitted.theta, x, y), shares(fitted.theta, X, Y)[0]
        doublings = np.abs(y[:, None] - y) / np.log(2)
        same = groups[:, None] == groups
        S = np.where(same, 0.71 * 0.72**doublings, 0.0) + 0.29 * np.eye(len(r))
        S += ratio * np.exp(-((x[:, None] - x) ** 2 + (y[:, None] - y) ** 2) / (2 * 2.3**2))
        k = ratio * np.exp(-((x - X) ** 2 + (y - Y) ** 2) / (2 * 2.3**2))
        # b has so wide a prior that generalised least squares is its limit
        inverse = np.linalg.inv(S)
        scale = np.median(np.abs(r)) / 0.6745
        P = J.T @ inverse @ J + np.diag((scale / deviation.PARAMETERS) ** 2)
        b = np.linalg.solve(P, J.T @ inverse @ r)
        freedom = len(r) - 5 + 2
        rest = r - J @ b
        variance = (r @ inverse @ rest + 2 * 0.003**2) / freedom
        mean = J_there @ b + k @ inverse @ rest
        lean = J_there - k @ inverse @ J
        sd = np.sqrt(variance * (ratio - k @ inverse @ k + lean @ np.linalg.solve(P, lean)))

        draws = fitted.at(*target)[:, 0]
        assert draws[0] == pytest.approx(mean, abs=2e-3 * sd)
        ends = mean + sd * student.ppf([0.025, 0.975], freedom)
        np.testing.assert_allclose(np.quantile(draws[1:], [0.025, 0.975]), ends, atol=0.12 * sd)


def test_without_a_deviation_the_interval_is_that_of_least_squares(masked, monkeypatch):
    monkeypatch.setattr(deviation, "NO_DEVIATION", 1.0)
    monkeypatch.setattr(deviation, "PRIOR_RUNS", 1e-9)
    runs = noisy(masked, 0.003, 1)
    law = fit_law(runs, bootstrap=DRAWS, delta=1.0)  # so wide a threshold is least squares
    params, tokens, loss = columns(runs)
    x, y = np.log(params) - np.log(params).mean(), np.log(tokens) - np.log(tokens).mean()
    E, A, B, alpha, beta = law.thetas[0]
    means = np.log(params).mean(), np.log(tokens).mean()
    theta = np.array([E, A * np.exp(-alpha * means[0]), B * np.exp(-beta * means[1]), alpha, beta])
    J = shares(theta, x, y)
    residual = np.log(loss / surface_loss(law.thetas[0], params, tokens))
    covariance = np.linalg.inv(J.T @ J) * (residual @ residual) / (len(loss) - 5)
    best = fit_law(runs, bootstrap=0, delta=1.0).optimal(1e21)
    gradient = shares(
        theta, *(np.log([float(v)]) - m for v, m in zip((best.params, best.tokens), means, strict=True))
    )
    half = student.ppf(0.975, len(loss) - 5) * np.sqrt(gradient @ covariance @ gradient.T)[0, 0]
    allowed = law.allowance.optimal(1e21).loss
    assert np.log(allowed.high / allowed.low) / 2 == pytest.approx(half, rel=0.05)


def test_on_exact_runs_it_is_at_most_2_6_times_as_wide(masked):
    ratios = []
    for seed in range(12):
        law = fit_law(noisy(masked, 0.005, seed), bootstrap=400)
        form, allowed = law.optimal(1e21).loss, law.allowance.optimal(1e21).loss
        ratios.append((allowed.high - allowed.low) / (form.high - form.low))
    assert 1.0 < np.median(ratios) < 2.6


def test_it_holds_a_planted_field_that_the_form_misses(masked):
    # two runs beyond the budgets belong to the same field, so their noise-free losses are known
    beyond = pd.DataFrame({"params": [9e8, 1.1e9], "tokens": [1.1e11, 1.5e11], "loss": 1.0})
    table = pd.concat([masked[["params", "tokens", "loss"]], beyond], ignore_index=True)
    held = {"form": 0, "allowance": 0}
    sweeps = 24
    for seed in range(sweeps):
        runs = noisy(table, 0.002, seed, field=0.02)
        law = fit_law(runs[:-2], bootstrap=300)
        for kind, chosen in (("form", law), ("allowance", law.allowance)):
            there = chosen.predict(runs["params"][-2:], runs["tokens"][-2:], kind="run")
            held[kind] += ((there["loss_low"] <= runs["loss"].to_numpy()[-2:])
                           & (runs["loss"].to_numpy()[-2:] <= there["loss_high"])).sum()  # fmt: skip
    assert held["allowance"] >= 0.85 * 2 * sweeps
    assert held["form"] < held["allowance"]


def test_units_change_nothing(masked):
    law = fit_law(masked, bootstrap=200).allowance
    scaled = masked.assign(
        params=masked["params"] / 1e6, tokens=masked["tokens"] / 1e9, loss=masked["loss"] / np.log(2),
        flops=masked["flops"] / 1e15,
    )  # fmt: skip
    other = fit_law(scaled, bootstrap=200).allowance
    np.testing.assert_allclose(other.predict(900.0, 100.0) * np.log(2), law.predict(9e8, 1e11), rtol=1e-4)
    assert other.exponents["params"] == pytest.approx(law.exponents["params"], abs=1e-4)


def test_runs_that_share_a_seed_widen_the_interval(masked):
    runs = noisy(masked, 0.01, 3)
    own = runs.assign(seed=np.arange(len(runs)))
    one = runs.assign(seed=1)
    widths = [
        np.log(v.high / v.low)
        for v in (fit_law(t, bootstrap=1000).allowance.optimal(1e21).loss for t in (own, one))
    ]
    assert widths[1] > 1.03 * widths[0]


def test_a_broken_run_is_left_out_and_named(masked):
    broken = masked.copy()
    broken.loc[7, "loss"] *= 1.4
    law = fit_law(broken, bootstrap=0)
    assert law.runs.index[law.allowance.deviation.outliers].tolist() == [7]
    assert "(row 7)" in " ".join(law.allowance.warnings)
    clean = fit_law(masked.drop(index=7), bootstrap=0).allowance.optimal(1e21).loss
    assert law.allowance.optimal(1e21).loss == pytest.approx(clean, rel=0.01)


def test_the_noise_of_a_new_run_is_about_that_of_the_runs(masked):
    runs = noisy(masked, 0.004, 5)
    law = fit_law(runs, bootstrap=DRAWS).allowance
    mean, run = (law.predict(4e8, 4e10, kind=kind) for kind in ("mean", "run"))
    added = np.sqrt(np.log(run.high / run.low) ** 2 - np.log(mean.high / mean.low) ** 2)
    assert added / (2 * norm.ppf(0.975)) == pytest.approx(0.004, rel=0.35)


class TestAllowance:
    """Intervals that allow for a smooth deviation of the losses from the form."""

    def test_as_an_option_and_as_a_property_it_is_the_same(self, masked):
        law = fit_law(masked, bootstrap=200)
        chosen = fit_law(masked, bootstrap=200, interval="allowance")
        assert chosen.options["interval"] == "allowance"
        assert chosen.optimal(1e21).loss.low == law.allowance.optimal(1e21).loss.low
        assert chosen.allowance is chosen
        assert chosen.to_dict()["optima"] == law.allowance.to_dict()["optima"]

    def test_the_summary_has_both_intervals_side_by_side(self, masked):
        law = fit_law(masked, bootstrap=400)
        own = law.summary().set_index("quantity")
        other = law.allowance.summary().set_index("quantity")
        loss = "loss at 1.0e21 FLOPs"
        assert own.loc[loss, "allowance_low"] == other.loc[loss, "low"]
        assert other.loc[loss, "form_high"] == own.loc[loss, "high"]
        assert other.loc[loss, "high"] - other.loc[loss, "low"] > own.loc[loss, "high"] - own.loc[loss, "low"]
        # parameters stay those of the form
        assert own.loc["E", "low"] == other.loc["E", "low"]
        assert pd.isna(own.loc["E", "allowance_low"])

    def test_a_comparison_takes_it_through(self):
        runs = published.runs("sahoo2026")
        runs = runs[runs["family"].isin(["ar", "masked"])]
        form, allowed = (compare(runs, interval=kind, bootstrap=200) for kind in ("form", "allowance"))
        assert (allowed.multipliers["low"] < allowed.multipliers["multiplier"]).all()
        width = {id(c): np.log(c.multipliers["high"] / c.multipliers["low"]).iloc[0] for c in (form, allowed)}
        assert width[id(allowed)] > width[id(form)]
        assert set(allowed.exponents["exponent"]) == {"params", "tokens", "loss"}

    def test_its_curve_meets_its_frontier_and_inverts(self, masked):
        law = fit_law(masked, bootstrap=50).allowance
        budgets = np.array([1e19, 3e20])
        losses = law.curve.loss(budgets)
        np.testing.assert_allclose(losses[0], law.frontier(budgets)["loss"], rtol=1e-4)
        falling = np.all(np.diff(law.curve.losses[:, :78], axis=1) < 0, axis=1)
        back = law.curve.flops_at(losses)[falling]
        np.testing.assert_allclose(np.log(back / budgets), 0.0, atol=1e-6)
        assert falling.sum() > 25

    @pytest.mark.parametrize("name", ["sahoo2026", "hoffmann2022", "muennighoff2023"])
    def test_its_best_run_is_the_lowest_of_its_predictions(self, name):
        runs = published.runs(name).groupby("family").get_group("ar")
        law = fit_law(runs[runs["excluded"] == ""] if "excluded" in runs else runs, bootstrap=0).allowance
        for budget in (law.flops_range[1], 10 * law.flops_range[1]):
            best = law.optimal(budget)
            sizes = best.params * np.exp(np.linspace(-1.5, 1.5, 601))
            losses = law.predict(sizes, flops=budget)["loss"].to_numpy()
            assert losses.min() == pytest.approx(best.loss, rel=1e-5)
            assert sizes[losses.argmin()] == pytest.approx(best.params, rel=0.02)

    def test_without_resamples_there_are_no_intervals(self, masked):
        best = fit_law(masked, bootstrap=0, interval="allowance").optimal(1e21)
        assert best.loss.low is None

    def test_a_given_E_and_tied_exponents_stay(self, masked):
        law = fit_law(masked, bootstrap=50, E=2.0, tied=True).allowance
        b = law.deviation.coefficients[:, :5]
        assert (b[:, 0] == 0).all()
        np.testing.assert_array_equal(b[:, 3], b[:, 4])


def test_delta_auto_is_more_efficient_and_recorded(masked):
    wide, narrow = [], []
    for seed in range(8):
        table = noisy(masked, 0.005, seed)
        for widths, delta in ((wide, 0.001), (narrow, "auto")):
            law = fit_law(table, delta=delta, bootstrap=300)
            widths.append(law.exponents["params"].high - law.exponents["params"].low)
    assert law.options["delta"] == pytest.approx(1.345 * 0.005, rel=0.5)
    # 12% narrower, as the efficiency of the two thresholds on normal noise says
    assert np.median(np.array(narrow) / np.array(wide)) < 0.88
    with pytest.raises(UserError, match="or 'auto'"):
        fit_law(table, delta="wide")
