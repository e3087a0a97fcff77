"""The benchmark of sampling compares what it says: the same texts, with more tokens passed and with fewer."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import sampling
from scaling.ladder import Size

CONTEXT, BATCH = 12, 3


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    size = Size(name="small", hidden=16, num_layers=2, num_heads=2, cond_dim=8, time_features=8)
    monkeypatch.setattr(sampling, "SHAPES", {"sheet": size})
    monkeypatch.setattr(sampling, "REUSE_STEPS", 40)
    sampling.network.cache_clear()


@pytest.mark.parametrize("name", ["ar", "esoteric", "block"])
def test_with_a_cache_the_same_texts_take_fewer_tokens(name: str) -> None:
    row = sampling.compare(name, "sheet", CONTEXT, BATCH, 1, 1)
    assert row["same_texts"] == BATCH
    assert row["calls"][0] == row["calls"][1]
    assert row["tokens"][0] < row["tokens"][1]
    assert row["ratio"] > 0


def test_without_reuse_the_whole_batch_passes_at_every_step() -> None:
    row = sampling.compare("masked", "sheet", CONTEXT, BATCH, 1, 1)
    assert row["same_texts"] == BATCH
    assert row["calls"][1] == 40
    assert row["tokens"][1] == 40 * BATCH * CONTEXT
    assert row["calls"][0] <= CONTEXT
    assert row["tokens"][0] <= BATCH * CONTEXT**2


def test_what_lies_on_the_wrong_side_of_its_bound_is_named() -> None:
    about: dict[str, Any] = {"family": "ar", "shape": "sheet", "threads": 2}
    rows = [
        {**about, "what": "cache", "context": 512, "ratio": 4.9, "floor": 5.0},
        {**about, "what": "cache", "context": 512, "ratio": 5.0, "floor": 5.0},
        {**about, "what": "cache", "context": 256, "ratio": 1.0, "floor": 5.0},
        {**about, "what": "outside", "context": 256, "share": 0.16},
        {**about, "what": "outside", "context": 256, "share": 0.15},
    ]
    assert sampling.missed(rows) == [
        "ar at shape sheet, 512 tokens, 2 threads: 4.90 x, the floor is 5",
        "ar at shape sheet, 256 tokens, 2 threads: 16.0% of the time outside the network",
    ]


def test_every_family_has_its_share_measured() -> None:
    for name in sampling.FAMILIES:
        row = sampling.outside(name, "sheet", CONTEXT, 1, 1)
        assert 0 < row["share"] < 1, name
