import copy
import math
import pickle

import numpy as np
import pytest

from analysis import Estimate
from analysis.estimate import estimate, shortest, spread


def test_is_a_float_with_an_interval():
    a = Estimate(0.5139, 0.4812, 0.5561)
    assert a == 0.5139
    assert a + 1 == pytest.approx(1.5139)
    assert (a.low, a.high, a.level) == (0.4812, 0.5561, 0.95)
    assert repr(a) == "0.514 [0.481, 0.556]"
    assert f"{a:.2f}" == "0.51"


def test_without_resamples_both_ends_are_none():
    a = estimate(2.5, None, 0.9)
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


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.51389, "0.5139"), (477.826, "477.8"), (1.0413e10, "1.041e+10"), (2e-5, "2.000e-05"), (0, "0.000")],
)
def test_numbers_are_short(number, text):
    assert shortest(number) == text
