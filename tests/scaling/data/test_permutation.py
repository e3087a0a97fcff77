"""The shuffle of windows: a permutation, different per key, that looks like one drawn at random."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.data.permutation import permute


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(), st.integers(0, 5))
def test_every_index_is_hit_once(size: int, seed: int, epoch: int) -> None:
    order = permute(np.arange(size), size, seed, epoch)
    np.testing.assert_array_equal(np.sort(order), np.arange(size))


@settings(deadline=None)
@given(st.integers(1, 2**62), st.integers(0, 2**62 - 1))
def test_any_range_and_any_index_alone(size: int, index: int) -> None:
    image = int(permute(np.array([index % size]), size, "key")[0])
    assert 0 <= image < size
    both = permute(np.array([[index % size], [0]]), size, "key")
    assert both.shape == (2, 1)
    assert int(both[0, 0]) == image


def test_keys_give_different_orders() -> None:
    keys = [(seed, epoch) for seed in range(10) for epoch in range(10)]
    orders = {tuple(permute(np.arange(50), 50, *key).tolist()) for key in keys}
    assert len(orders) == 100


def test_small_orders_are_about_uniform() -> None:
    """All 24 orders of 4 over 1,200 keys: chi-square with 23 degrees of freedom, 99.99% point 55.6."""
    drawn = [tuple(permute(np.arange(4), 4, key).tolist()) for key in range(1200)]
    counts = np.array([drawn.count(order) for order in set(drawn)])
    assert len(counts) == 24
    assert ((counts - 50) ** 2 / 50).sum() < 55.6


def test_neighbours_are_scattered() -> None:
    """Steps between neighbours of a random order of n are about n / 3 on average (standard error 0.24% n)."""
    size = 10_007
    steps = np.abs(np.diff(permute(np.arange(size), size, 0, 0)))
    assert abs(steps.mean() / size - 1 / 3) < 0.01
