import copy
import math
import pickle

import numpy as np
import pytest
from scipy.stats import bootstrap

from analysis import Estimate
from analysis.estimate import Rule, estimate_of, interval, spread


def test_is_a_float_with_an_interval():
    a = Estimate(0.5139, 0.4812, 0.5561)
    assert a == 0.5139
    assert a + 1 == pytest.approx(1.5139)
    assert (a.low, a.high, a.level) == (0.4812, 0.5561, 0.95)
    assert repr(a) == "0.514 [0.481, 0.556]"
    assert f"{a:.2f}" == "0.51"


def test_without_resamples_both_ends_are_none():
    a = estimate_of(np.array([2.5]), Rule(level=0.9))
    assert (a.low, a.high, a.level) == (None, None, 0.9)
    assert repr(a) == "2.500"
    assert a.to_dict() == {"value": 2.5, "low": None, "high": None, "level": 0.9}


@pytest.mark.parametrize("copied", [lambda a: pickle.loads(pickle.dumps(a)), copy.copy, copy.deepcopy])
def test_survives_copying(copied):
    b = copied(Estimate(1.0, 0.5, 2.0, 0.8))
    assert (float(b), b.low, b.high, b.level) == (1.0, 0.5, 2.0, 0.8)


@pytest.mark.parametrize("bad", [(math.nan,), (1.0, math.nan, 2.0), (1.0, 0.5, None)])
def test_refuses_nan_and_half_intervals(bad):
    with pytest.raises(ValueError, match=r"NaN|two ends"):
        Estimate(*bad)


def test_an_open_end_is_none_in_json():
    assert Estimate(1.0, 0.0, math.inf).to_dict() == {"value": 1.0, "low": 0.0, "high": None, "level": 0.95}


def test_percentiles_agree_with_numpy_up_to_one_draw():
    draws = np.random.default_rng(0).standard_normal(999)
    low, high = spread(draws, 0.9)
    ordered = np.sort(draws)
    # never narrower than the interpolated percentile, and at most one draw wider
    assert ordered[48] <= low <= np.percentile(draws, 5)
    assert np.percentile(draws, 95) <= high <= ordered[950]


def test_infinite_draws_stay_infinite():
    low, high = spread(np.array([0.0, 1.0, 2.0, np.inf, np.inf]), 0.8)
    assert (low, high) == (0.0, np.inf)


def test_bca_of_a_mean_is_the_exact_bootstrap_formula():
    """An independent reference: SciPy on the mean of skewed numbers."""
    generator = np.random.default_rng(0)
    numbers = generator.exponential(size=40)
    draws = numbers[generator.integers(0, 40, size=(4000, 40))].mean(axis=1)
    leave_outs = (numbers.sum() - numbers) / 39
    values = np.concatenate([[numbers.mean()], draws, leave_outs])
    low, high = interval(values, Rule(level=0.9, leave_outs=40))
    reference = bootstrap((numbers,), np.mean, n_resamples=20000, confidence_level=0.9, method="BCa", rng=1)
    # 4000 resamples know an end to about 2% of the interval's width
    assert float(low) == pytest.approx(reference.confidence_interval.low, abs=0.015)
    assert float(high) == pytest.approx(reference.confidence_interval.high, abs=0.025)
    plain = interval(values[:-40], Rule(level=0.9))
    assert low > plain[0]
    assert high > plain[1]


def test_intervals_of_infinite_draws_are_open_and_never_nan():
    values = np.concatenate([[1.0], np.linspace(0.5, 1.5, 50), np.full(10, np.inf), [0.9, np.inf, 1.1]])
    low, high = interval(values, Rule(level=0.95, leave_outs=3))
    assert 0.5 <= low < 1
    assert high == np.inf
    assert interval(np.array([1.0, 0.9, 1.1]), Rule(level=0.95, leave_outs=2)) is None
