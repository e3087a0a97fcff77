"""Rows of replicas: one for each network, and sums over rows are what the run paid."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.table.replicas import OWN, SHARED, metric, numbers_of, rows_of, with_replicas

RUN = {
    "key": "k", "seed": 5, "replicas": 3, "status": "finished", "params": 10.0, "tokens": 20.0, "flops": 30.0,
    "loss": 2.0, "loss_se": 0.1, "wall_s": 6.0, "evaluation_s": 3.0, "evaluation_flops": 9.0,
    "tokens_per_s": 100.0,
}  # fmt: skip
NUMBERS = {0: {"loss": 1.5, "loss_se": 0.1}, 2: {"loss": 2.5, "loss_se": 0.2}}


def test_each_network_has_its_own_seed_loss_and_status() -> None:
    rows = rows_of(RUN, NUMBERS)
    assert [row["replica"] for row in rows] == [0, 1, 2]
    assert [row["seed"] for row in rows] == [5, 6, 7]
    assert [row["status"] for row in rows] == ["finished", "diverged", "finished"]
    assert [row.get("loss") for row in rows] == [1.5, None, 2.5]
    assert [row.get("loss_se") for row in rows] == [0.1, None, 0.2]
    assert {row["key"] for row in rows} == {"k"}


def test_sums_over_rows_are_what_the_run_paid() -> None:
    rows = rows_of(RUN, NUMBERS)
    for name in SHARED:
        assert sum(row[name] for row in rows) == pytest.approx(RUN[name])
    for name in ("params", "tokens", "flops", "tokens_per_s"):
        assert {row[name] for row in rows} == {RUN[name]}, "of one network, and the speed of all"


@pytest.mark.parametrize("status", ["planned", "running", "preempted", "failed", "diverged"])
def test_replicas_of_a_run_that_has_not_finished_have_its_status(status) -> None:
    rows = rows_of({**RUN, "status": status}, {})
    assert [row["status"] for row in rows] == [status] * 3
    assert not any(name in row for row in rows for name in OWN)


@given(
    st.dictionaries(
        st.integers(0, 40),
        st.dictionaries(st.sampled_from(OWN), st.floats(allow_nan=False, width=32), min_size=1),
        max_size=5,
    )
)
def test_metrics_of_replicas_are_read_as_they_were_written(numbers) -> None:
    metrics = {metric(replica, name): x for replica, own in numbers.items() for name, x in own.items()}
    assert numbers_of({**metrics, "loss": 1.0, "train_loss": 2.0, "replica_x/loss": 3.0}) == numbers


def test_only_runs_of_several_networks_get_more_rows() -> None:
    plain = {**RUN, "key": "p", "replicas": None}
    table = pd.DataFrame([plain, RUN], index=["a", "b"])
    table["replica"] = None
    rows = with_replicas(table, {"b": NUMBERS})
    assert rows.index.tolist() == ["a", "b", "b", "b"]
    assert rows["seed"].tolist() == [5, 5, 6, 7]
    assert rows["loss"].tolist()[:2] == [2.0, 1.5]
    assert rows["replica"].isna().tolist() == [True, False, False, False]
    pd.testing.assert_frame_equal(with_replicas(table.iloc[:1], {}), table.iloc[:1])
