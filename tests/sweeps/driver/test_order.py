"""The order of runs: a sweep that a cap ends has complete budgets, in every family the same ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling.errors import UserError
from scaling.ladder import Size
from sweeps.driver.order import cheapest, choose_order, longest, spread_out
from sweeps.ledger.types import Entry
from tests.sweeps.simulation import entry


def grid(sizes_of: dict[str, dict[float, int]], seeds=(0,)) -> list[Entry]:
    """Entries of so many sizes per family and budget; a dearer budget and a smaller size take longer."""
    return [
        replace(
            made := entry(f"{family} {budget:g} {i} {seed}", budget / 1e8 - i / 100),
            spec=replace(
                made.spec,
                family=family,
                budget=budget,
                seed=seed,
                size=Size(name=f"s{i}", hidden=4 * (i + 1), num_layers=1, num_heads=1),
            ),
        )
        for family, budgets in sizes_of.items()
        for budget, count in budgets.items()
        for i in range(count)
        for seed in seeds
    ]


counts = st.dictionaries(st.sampled_from((1e9, 3e9, 1e10)), st.integers(1, 9), min_size=1)


@given(
    sizes_of=st.fixed_dictionaries({"ar": counts, "masked": counts}), seeds=st.sampled_from([(0,), (1, 2)])
)
def test_wherever_the_cheapest_order_is_cut_families_have_the_same_budgets_and_as_many_sizes(sizes_of, seeds):
    order = cheapest(grid(sizes_of, seeds))
    assert sorted(e.key for e in order) == sorted(e.key for e in grid(sizes_of, seeds))
    places = [(e.spec.budget, e.spec.seed) for e in order]
    assert places == sorted(places)
    for place in set(places):
        budget = place[0]
        done: Counter[str] = Counter()
        for e in order:
            if (e.spec.budget, e.spec.seed) != place:
                continue
            done[e.family] += 1
            behind = [f for f in sizes_of if done[f] < min(sizes_of[f].get(budget, 0), done[e.family] - 1)]
            assert not behind


def test_sizes_of_a_budget_that_is_cut_short_span_its_range():
    order = cheapest(grid({"ar": {1e9: 7}}))
    assert [e.spec.size.name for e in order] == ["s0", "s6", "s3", "s1", "s4", "s2", "s5"]


@given(st.integers(0, 60))
def test_each_place_of_a_range_comes_once_and_the_ends_first(count):
    values = [str(i) for i in range(count)]
    order = spread_out(values)
    assert sorted(order) == sorted(values)
    assert order[:2] == [*values[:1], *values[1:][-1:]]


def test_the_longest_order_is_by_expected_time_alone():
    entries = grid({"ar": {1e9: 2, 3e9: 1}, "masked": {3e9: 2}})
    assert [e.predicted_s for e in longest(entries)] == sorted((e.predicted_s for e in entries), reverse=True)


def test_a_cap_puts_the_cheapest_budgets_first_unless_an_order_is_named():
    assert (choose_order(None, capped=False), choose_order(None, capped=True)) == ("longest", "cheapest")
    assert (choose_order("longest", capped=True), choose_order("cheapest", capped=False)) == (
        "longest",
        "cheapest",
    )
    with pytest.raises(UserError, match=r"unknown order 'cheap' \(--order\); did you mean 'cheapest'\?"):
        choose_order("cheap", capped=True)
