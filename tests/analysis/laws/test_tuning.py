"""Learning-rate and batch laws from planted tuning sweeps."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from analysis import fit_tuning_law
from analysis.errors import UserError


def sweep(noise=0.0, seed=0, rates=9):
    """Four sizes x three token counts x learning rates x three batch sizes; lr* = 0.3 N^-0.3 D^0.05,
    B* = 2 D^0.6."""
    generator = np.random.default_rng(seed)
    rows = []
    for params, tokens in product(np.geomspace(1e7, 1e9, 4), np.geomspace(1e9, 1e11, 3)):
        best_rate, best_batch = 0.3 * params**-0.3 * tokens**0.05, 2 * tokens**0.6
        tried = 10 ** np.round(np.log10(best_rate)) * np.geomspace(0.05, 20, rates)
        for rate, batch in product(tried, best_batch * np.array([0.3, 1.1, 2.5])):
            loss = 3 + 0.02 * np.log(rate / best_rate) ** 2 + 0.01 * np.log(batch / best_batch) ** 2
            loss *= np.exp(noise * generator.standard_normal())
            rows.append((params, tokens, rate, batch, loss))
    return pd.DataFrame(rows, columns=["params", "tokens", "learning_rate", "batch_size", "loss"])


def test_planted_laws_are_recovered():
    rate = fit_tuning_law(sweep(), knob="learning_rate", bootstrap=50)
    assert rate.law.exponents["params"] == pytest.approx(-0.3, abs=1e-9)
    assert rate.law.exponents["tokens"] == pytest.approx(0.05, abs=1e-9)
    assert rate.best(params=1e8, tokens=1e10) == pytest.approx(0.3 * 1e8**-0.3 * 1e10**0.05, rel=1e-9)
    batch = fit_tuning_law(sweep(), knob="batch_size", bootstrap=50)
    assert batch.law.exponent == pytest.approx(0.6, abs=1e-9)
    assert batch.best(tokens=1e12) == pytest.approx(2 * 1e12**0.6, rel=1e-8)
    assert len(batch.optima) == 12


def test_labelled_and_distilled_runs_have_no_part():
    runs = sweep()
    lower = runs.assign(loss=runs["loss"] - 0.5 * np.log(runs["learning_rate"] * 1e4) ** 2)
    both = pd.concat([runs, lower.assign(labels="3 kind"), lower.assign(distilled_from="0a1b")])
    law = fit_tuning_law(both, knob="learning_rate", bootstrap=0)
    pd.testing.assert_frame_equal(law.optima, fit_tuning_law(runs, knob="learning_rate", bootstrap=0).optima)


def test_noise_gives_intervals_that_hold_the_truth():
    law = fit_tuning_law(sweep(noise=0.002, seed=3), knob="learning_rate").law
    assert law.exponents["params"].low < -0.3 < law.exponents["params"].high
    assert law.exponents["tokens"].low < 0.05 < law.exponents["tokens"].high


def test_groups_without_a_minimum_are_refused_and_listed():
    runs = sweep()
    first = (runs["params"] == 1e7) & (runs["tokens"] == 1e9)
    runs.loc[first, "loss"] = 3 + 0.1 * (np.log(runs["learning_rate"]) + 20) ** 2
    law = fit_tuning_law(runs, knob="learning_rate", bootstrap=0)
    refused = law.optima[law.optima["status"] == "refused"]
    assert refused["reason"].tolist() == ["the minimum lies beyond the smallest setting"]
    assert refused["learning_rate"].isna().all()
    assert "left out: 10.0M params, 1.00B tokens" in str(law)


def test_bad_questions_get_one_sentence():
    with pytest.raises(UserError, match="warmup: no such column"):
        fit_tuning_law(sweep(), knob="warmup")
    with pytest.raises(UserError, match="choose params, tokens or both"):
        fit_tuning_law(sweep(), knob="learning_rate", against=("flops",))
    with pytest.raises(UserError, match=r"0 of 12 groups .*fewer than 3 settings"):
        fit_tuning_law(sweep(rates=2), knob="learning_rate")
    with pytest.raises(UserError, match="best: give params"):
        fit_tuning_law(sweep(), knob="learning_rate", bootstrap=0).best(tokens=1e9)
