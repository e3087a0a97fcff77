import numpy as np
import pandas as pd
import pytest

from analysis.errors import UserError
from analysis.laws.solver.bootstrap import CHUNK_ELEMENTS, group_numbers, resample_weights


def test_every_resample_draws_as_many_runs_as_there_are():
    chunks = list(resample_weights(50, 2000, seed=1))
    weights = np.concatenate(chunks)
    assert weights.shape == (2000, 50)
    assert all(chunk.size <= CHUNK_ELEMENTS for chunk in chunks)
    np.testing.assert_array_equal(weights.sum(axis=1), 50)
    # each count is binomial(50, 1/50): mean 1, variance 0.98; 100,000 of them
    assert weights.mean(axis=0) == pytest.approx(1, abs=0.12)
    assert weights.var() == pytest.approx(0.98, abs=0.03)


def test_same_seed_same_weights():
    one, two, other = (np.concatenate(list(resample_weights(30, 100, seed))) for seed in (7, 7, 8))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)


def test_groups_come_whole():
    groups = np.array([0, 0, 1, 2, 2, 2, 3])
    weights = np.concatenate(list(resample_weights(7, 500, 0, groups)))
    for group in range(4):
        members = weights[:, groups == group]
        np.testing.assert_array_equal(members, members[:, :1].repeat(members.shape[1], axis=1))
    per_group = np.stack([weights[:, groups == group][:, 0] for group in range(4)], axis=1)
    np.testing.assert_array_equal(per_group.sum(axis=1), 4)


def test_no_resamples():
    assert list(resample_weights(10, 0, seed=0)) == []


def test_group_columns_are_checked():
    rows = pd.DataFrame({"size": ["a", "b", "a", "c"], "seed": [1, 1, 2, 2], "odd": [1, None, 2, 3]})
    assert group_numbers(rows, "size").tolist() == [0, 1, 0, 2]
    with pytest.raises(UserError, match="2 distinct values"):
        group_numbers(rows, "seed")
    with pytest.raises(UserError, match="1 runs have no value"):
        group_numbers(rows, "odd")
    with pytest.raises(UserError, match="no column of the run table; choose one of size, seed, odd"):
        group_numbers(rows, "shape")
