"""Named sizes: the published 28, and what cannot be built is refused."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from scaling.ladder import LADDERS, Size


def test_the_published_ladder_has_28_sizes() -> None:
    sizes = LADDERS["sahoo2026"]
    assert len(sizes) == 28
    assert (sizes["6M"].hidden, sizes["6M"].num_layers, sizes["6M"].num_heads) == (256, 6, 4)
    assert (sizes["2121M"].hidden, sizes["2121M"].num_layers, sizes["2121M"].num_heads) == (2176, 28, 17)
    assert {s.cond_dim for s in sizes.values()} == {128}
    assert {s.time_features for s in sizes.values()} == {256}


@pytest.mark.parametrize("ladder", sorted(LADDERS))
def test_every_size_knows_its_name_and_can_be_built(ladder: str) -> None:
    for name, size in LADDERS[ladder].items():
        assert size.name == name
        assert Size(**asdict(size)) == size
        assert size.head_dim * size.num_heads == size.hidden
        assert size.head_dim % 2 == 0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"hidden": 0}, "hidden is 0, it must be a positive integer"),
        ({"num_layers": 1.5}, "num_layers is 1.5, it must be a positive integer"),
        ({"num_heads": 3}, "hidden 8 must split over 3 heads"),
        ({"num_heads": 8}, "into an even head dimension"),
        ({"time_features": 5}, "time_features is 5, it must be even"),
        ({"cond_dim": -1}, "cond_dim is -1"),
    ],
)
def test_a_size_that_cannot_be_built(change: dict[str, Any], sentence: str) -> None:
    whole: dict[str, Any] = {"name": "odd", "hidden": 8, "num_layers": 1, "num_heads": 2}
    with pytest.raises(ValueError, match=sentence):
        Size(**(whole | change))
