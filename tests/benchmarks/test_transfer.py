"""The coordinate check of CompleteP at every family, and optima of planted grids of rates."""

from __future__ import annotations

import math
from typing import Any

import pytest

from benchmarks.transfer import (
    BASE,
    CHECK_DEPTHS,
    CHECK_WIDTHS,
    CHECKED,
    DEPTHS,
    RATES,
    WIDTHS,
    coordinates_figure,
    mean_bounds,
    moved,
    optimum,
    rates_figure,
    regret,
    sizes_of,
    spread,
)
from scaling.families import FAMILIES


def movement(family: str, sizes: list[tuple[int, int]], *, complete: bool) -> list[float]:
    """Of the output of the last block."""
    return [moved(family, *size, complete=complete)[0] for size in sizes]


def test_a_step_moves_every_width_alike_with_completep_alone() -> None:
    """32 to 512 units at two blocks."""
    sizes = [(width, 2) for width in CHECK_WIDTHS]
    with_it, without = (movement("masked", sizes, complete=complete) for complete in (True, False))
    assert max(with_it) / min(with_it) < 1.6
    assert without[-1] / without[0] > 20
    assert without == sorted(without)


def test_a_step_moves_every_depth_alike_with_completep_alone() -> None:
    """2 to 16 blocks at 32 units."""
    sizes = [(32, depth) for depth in CHECK_DEPTHS]
    with_it, without = (movement("masked", sizes, complete=complete) for complete in (True, False))
    assert max(with_it) / min(with_it) < 1.7
    assert without[-1] / without[0] > 4
    assert without == sorted(without)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_takes_it(family: str) -> None:
    """Queries, keys and values at eight times the base's width."""
    with_it, without = (
        [moved(family, hidden, 2, complete=complete)[1] for hidden in (32, 256)] for complete in (True, False)
    )
    assert with_it[1] / with_it[0] == pytest.approx(1, abs=0.35)
    assert without[1] / without[0] > 2


def planted(best: dict[tuple[int, int, bool], float]) -> list[dict[str, Any]]:
    """Parabolas in log rate about the best rate of each network, in doublings."""
    return [
        {"family": "ar", "hidden": hidden, "layers": layers, "complete": complete, "rate": rate, "steps": 10,
         "seed": 0, "bound": 2 + 0.05 * (math.log2(rate / at)) ** 2}
        for (hidden, layers, complete), at in best.items()
        for rate in RATES
    ]  # fmt: skip


def test_optima_are_those_that_were_planted() -> None:
    sizes = sizes_of(WIDTHS, DEPTHS, BASE)
    best = {(*size, True): 0.02 for size in sizes} | {(*size, False): 0.8 / size[0] for size in sizes}
    rows = planted(best)
    for (hidden, layers, complete), at in best.items():
        bounds = mean_bounds(rows, hidden, layers, complete)
        assert optimum(bounds)[1] == pytest.approx(at)
    assert spread(rows, complete=True) == 0
    assert spread(rows, complete=False) == 3
    names = {trace.name for trace in rates_figure(rows).data}
    assert names == {f"{hidden}x{layers}" for hidden, layers in sizes}


def test_an_optimum_at_an_end_or_beside_a_diverged_run_is_that_of_the_grid() -> None:
    assert optimum({0.1: 1.0, 0.2: 2.0, 0.4: 3.0}) == (0.1, 0.1)
    assert optimum({0.1: 2.0, 0.2: 1.0, 0.4: math.inf}) == (0.2, 0.2)
    assert regret({0.1: 2.0, 0.2: 1.0, 0.4: math.inf}, 0.1) == 1
    rows = planted({(16, 2, True): 0.02})
    rows[-1]["bound"] = None
    assert mean_bounds(rows, 16, 2, complete=True)[RATES[-1]] == math.inf


def test_the_figure_of_coordinates_has_every_network() -> None:
    about = {"family": "masked", "steps": 1, "rate": 0.01}
    rows = [
        about | {"complete": complete, "hidden": hidden, "layers": layers} | dict.fromkeys(CHECKED, 0.5)
        for complete in (True, False)
        for hidden, layers in sizes_of(CHECK_WIDTHS, CHECK_DEPTHS, (32, 2))
    ]
    points = [trace for trace in coordinates_figure(rows).data if trace.meta["role"] == "points"]
    assert sorted(len(trace.x) for trace in points) == [4] * 4 + [5] * 4
