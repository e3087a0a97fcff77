"""Laws of the best settings from planted trials."""

import math

import numpy as np
import pytest

from analysis.errors import UserError
from analysis.laws.response import fit_response
from tests.analysis.planted import TUNING_POINTS, best_batch, best_rate, tuning_trials


def test_planted_laws_are_recovered():
    response = fit_response(tuning_trials(noise=1e-9).drop(columns="weight_decay"), bootstrap=50)
    rate, batch = response.laws["learning_rate"], response.laws["batch"]
    assert rate.exponents["params"] == pytest.approx(-0.4, abs=1e-5)
    assert rate.exponents["steps"] == pytest.approx(-0.25, abs=1e-5)
    assert rate.best(params=5e3, steps=700) == pytest.approx(best_rate(5e3, 700), rel=1e-5)
    assert batch.exponents["tokens"] == pytest.approx(0.3, abs=1e-5)
    assert batch.best(tokens=8e5) == pytest.approx(512, rel=1e-5)
    for row in response.optima.to_dict("records"):
        assert row["learning_rate"] == pytest.approx(best_rate(row["params"], row["steps"]), rel=0.01)
    assert response.noise == pytest.approx(1e-9, rel=0.3)


def test_intervals_hold_the_truth_as_often_as_they_say():
    held = {"params": 0, "steps": 0, "value": 0}
    for seed in range(60):
        law = fit_response(tuning_trials(seed).drop(columns="weight_decay"), bootstrap=200).laws[
            "learning_rate"
        ]
        truth = {"params": -0.4, "steps": -0.25}
        for name, value in truth.items():
            held[name] += law.exponents[name].low <= value <= law.exponents[name].high
        middle = best_rate(**law.reference)
        held["value"] += law.value.low <= middle <= law.value.high
    assert min(held.values()) >= 52  # of 57; 51 or fewer has a chance of one in a hundred


def test_the_gain_is_what_the_rule_lost():
    response = fit_response(tuning_trials(noise=0.002).drop(columns="weight_decay"), bootstrap=100)
    for point, (params, tokens) in TUNING_POINTS.items():
        rate = 0.014 * (params / 8000) ** -0.5
        lost = 0.05 * math.log(rate / best_rate(params, tokens / 512)) ** 2
        lost += 0.06 * math.log(512 / best_batch(tokens)) ** 2
        assert response.gains[point] == pytest.approx(lost, abs=0.004)


def test_a_setting_without_effect_or_with_its_best_beyond_the_range_has_no_law_and_the_others_have():
    response = fit_response(tuning_trials(seed=3), bootstrap=200)
    assert set(response.laws) == {"learning_rate", "batch"}
    assert response.refused["weight_decay"] == "the loss does not curve upwards in it by more than noise"
    runs = tuning_trials(seed=4, noise=0.001)
    runs["loss"] += 0.02 * (np.log(runs["weight_decay"]) - 6) ** 2 - 0.8
    response = fit_response(runs, bootstrap=200, within=9)
    assert "best lies beyond the largest tried" in response.refused["weight_decay"]
    assert "learning_rate" in response.laws


def test_diverged_trials_and_those_far_above_the_best_are_not_fitted():
    runs = tuning_trials(noise=0.001).drop(columns="weight_decay")
    runs.loc[(runs["trial"] == 5) & (runs["seed"] == 0), "loss"] = np.nan
    runs.loc[runs["trial"] == 6, "loss"] = 9.0
    response = fit_response(runs, bootstrap=50, within=0.5)
    assert response.trials.loc[~response.trials["fitted"], "trial"].tolist() == [5, 6] * 4
    assert response.laws["learning_rate"].exponents["steps"] == pytest.approx(-0.25, abs=0.03)


def test_lack_of_fit_is_found_by_the_scatter_of_seeds():
    runs = tuning_trials(noise=0.005).drop(columns="weight_decay")
    assert fit_response(runs, bootstrap=20).misfit > 0.01
    bent = runs.assign(loss=runs["loss"] + 0.03 * np.sin(4 * np.log(runs["learning_rate"])))
    response = fit_response(bent, bootstrap=20)
    assert response.misfit < 1e-3
    assert "scatter about the parabolas by more than their seeds do" in response.warnings[0]
    assert math.isnan(fit_response(tuning_trials(seeds=1), bootstrap=20).misfit)


def test_a_batch_that_does_not_vary_is_no_setting_and_what_cannot_be_told_apart_is_left_out():
    runs = tuning_trials(batch=512.0).drop(columns="weight_decay")
    response = fit_response(runs, bootstrap=20)
    assert list(response.laws) == ["learning_rate"]
    two = fit_response(
        tuning_trials(batch=512.0, points={name: TUNING_POINTS[name] for name in "ab"}).drop(
            columns="weight_decay"
        )
    )
    assert list(two.laws["learning_rate"].reference) == ["params"], "size and steps go together"


def test_bad_tables_get_one_sentence():
    with pytest.raises(UserError, match="the trials have one rate only"):
        fit_response(tuning_trials().assign(learning_rate=0.01))
    with pytest.raises(
        UserError, match=r"12 trials that can be fitted for 14 coefficients; train at least 18"
    ):
        fit_response(tuning_trials(per=3), within=1)
    with pytest.raises(UserError, match="no law of learning_rate: the loss does not curve upwards"):
        fit_response(tuning_trials().assign(loss=np.random.default_rng(0).uniform(2, 2.1, size=128)))
    with pytest.raises(UserError, match="steps"):
        fit_response(tuning_trials().drop(columns="steps"))


def test_an_exponent_that_the_trials_do_not_determine_is_kept():
    """Two points of nearly one size, and steps that vary little: the rule's exponents stay."""
    near = {"a": (5e3, 4e5), "b": (5.5e3, 5e5)}
    runs = tuning_trials(points=near, per=24, noise=0.03, batch=512.0).drop(columns="weight_decay")
    response = fit_response(runs, exponents={"learning_rate": {"params": -0.5, "steps": -0.1}}, bootstrap=200)
    law = response.laws["learning_rate"]
    assert law.kept
    kept = {"params": -0.5, "steps": -0.1}
    for name in law.kept:
        assert law.exponents[name] == kept[name]
        assert f"the exponent {kept[name]:g} is kept" in "".join(response.warnings)
        assert f"^{kept[name]:g} (kept)" in str(law)
    # the rate itself is found all the same
    assert law.best(params=5.2e3, steps=900) == pytest.approx(best_rate(5.2e3, 900), rel=0.25)
    for row in response.optima.to_dict("records"):
        assert row["learning_rate"] == pytest.approx(best_rate(row["params"], row["steps"]), rel=0.35)
