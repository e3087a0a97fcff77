"""Filters of predicted clean tokens."""

from __future__ import annotations

import pytest
import torch

from scaling.errors import UserError
from scaling.sampling.filters import Filters

PROBS = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)


def test_neutral_filters_change_nothing():
    assert Filters()(PROBS) is PROBS


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"temperature": 0.5}, [0.25, 0.09, 0.0225, 0.0025]),
        ({"top_k": 2}, [5, 3, 0, 0]),
        ({"top_k": 9}, [10, 6, 3, 1]),
        ({"top_p": 0.79}, [5, 3, 0, 0]),
        ({"top_p": 0.81}, [10, 6, 3, 0]),
        ({"top_p": 1e-9}, [1, 0, 0, 0]),
        ({"top_p": 0.81, "drop_crossing": True}, [5, 3, 0, 0]),
        ({"top_p": 0.1, "drop_crossing": True}, [1, 0, 0, 0]),
        ({"min_p": 0.29}, [10, 6, 3, 0]),
        ({"temperature": 2.0, "top_k": 3, "min_p": 0.6}, [0.5**0.5, 0.3**0.5, 0, 0]),
    ],
)
def test_each_filter_keeps_what_it_says(options, expected):
    weights = torch.tensor(expected, dtype=torch.float64)
    order = torch.tensor([2, 0, 3, 1])  # the order of the ids does not matter
    out = Filters(**options)(PROBS[order].expand(3, 1, -1))
    torch.testing.assert_close(out[1, 0], (weights / weights.sum())[order])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"temperature": 0}, "temperature is 0, it must be above 0"),
        ({"top_k": 0}, "top_k is 0, it must be at least 1"),
        ({"top_p": 1.1}, "top_p is 1.1, it must be in"),
        ({"min_p": 1.0}, "min_p is 1.0, it must be in"),
    ],
)
def test_values_out_of_range_are_refused(options, sentence):
    with pytest.raises(UserError, match=sentence):
        Filters(**options)
