"""What a table says is what a fit uses: rows counted once, the cost its budgets tell, units and families."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import compare, fit_law, published
from analysis.errors import UserError
from analysis.table.columns import typed
from analysis.table.fit_table import comparable, prepare
from tests.analysis.planted import isoflop_table


def noisy(**changes: Any) -> pd.DataFrame:
    return isoflop_table(sizes=5, noise=0.01, **changes)


@pytest.mark.parametrize("method", ["surface", "isoflop"])
def test_repeated_rows_count_once_and_are_named(method: str) -> None:
    runs = noisy()
    once = fit_law(runs, method, bootstrap=50)
    twice = fit_law(pd.concat([runs, runs], ignore_index=True), method, bootstrap=50)
    assert twice.sha256 == once.sha256
    assert str(twice.summary()) == str(once.summary())
    assert [str(run) for run in twice.excluded] == [
        f"row {len(runs) + i}: repeats row {i}" for i in runs.index
    ]
    assert f"{len(runs)} rows of the table repeat others; each run counts once" in twice.warnings


def test_one_run_from_two_exports_counts_once_by_its_key() -> None:
    runs = noisy().assign(key=lambda t: [f"k{i}" for i in t.index], host="a")
    table = prepare(pd.concat([runs, runs.head(2).assign(host="b")], ignore_index=True))
    assert len(table) == len(runs)
    assert [run.reason for run in table.excluded] == ["repeats row 0", "repeats row 1"]
    other = runs.head(1).assign(loss=9.0)
    with pytest.raises(UserError, match="listed more than once, with different results"):
        prepare(pd.concat([runs, other], ignore_index=True))


def test_runs_with_labels_are_left_out_until_the_column_is_dropped() -> None:
    """A part of their training served the labels: their losses lie on no curve of runs without."""
    runs = noisy()
    mixed = pd.concat([runs, runs.assign(loss=runs["loss"] + 0.1, labels="3 kind")], ignore_index=True)
    table = prepare(mixed)
    assert len(table) == len(runs)
    assert {run.reason for run in table.excluded} == {
        "trained with labels (3 kind); drop the column labels to fit it"
    }
    assert len(prepare(mixed.drop(columns="labels"))) == 2 * len(runs)


def test_losses_compare_of_runs_that_trained_on_text_alone() -> None:
    runs = pd.DataFrame({"loss": [1.0, 2, 3, 4], "labels": ["3 kind", None, "", None],
                         "distilled_from": [None, "0a1b", None, None]}, index=[4, 5, 6, 7])  # fmt: skip
    assert comparable(runs).to_dict() == {4: False, 5: False, 6: True, 7: True}
    assert comparable(runs[["loss"]]).all()


def test_distilled_runs_are_left_out() -> None:
    runs = noisy()
    mixed = pd.concat([runs, runs.assign(loss=runs["loss"] + 0.1, distilled_from="0a1b")], ignore_index=True)
    table = prepare(mixed)
    assert len(table) == len(runs)
    assert {run.reason for run in table.excluded} == {"distilled from run 0a1b, not trained on the bound"}
    assert len(prepare(mixed.drop(columns="distilled_from"))) == 2 * len(runs)


def test_runs_that_differ_anywhere_are_no_repetition() -> None:
    runs = noisy()
    assert len(prepare(pd.concat([runs.assign(seed=0), runs.assign(seed=1)]))) == 2 * len(runs)
    assert not [w for w in prepare(runs).warnings if "repeat" in w]


@pytest.mark.parametrize("method", ["surface", "isoflop", "envelope"])
def test_the_cost_is_what_the_budgets_say(method: str) -> None:
    """Budgets of 2 params tokens: the best size and its tokens lie among the runs, not 3 times beside."""
    runs = isoflop_table(sizes=9).assign(budget=lambda t: t["budget"] / 3)
    law = fit_law(runs, method, bootstrap=0)
    for flops, group in runs.groupby("budget"):
        best = law.optimal(flops)
        assert best.params * best.tokens == pytest.approx(flops / 2, rel=1e-6)
        assert best.loss == pytest.approx(group["loss"].min(), rel=0.05)
        assert group["tokens"].min() < best.tokens < group["tokens"].max()


def test_a_comparison_takes_the_cost_from_the_budgets() -> None:
    of_two = isoflop_table(family="ar").assign(budget=lambda t: t["budget"] / 3)
    runs = pd.concat([of_two, of_two.assign(family="masked")])
    comparison = compare(runs, bootstrap=0)
    assert comparison.laws["masked"].cost.k == pytest.approx(2.0)
    assert comparison.multipliers["at_flops"].max() == of_two["budget"].max()


def test_budgets_that_only_name_6nd_or_nothing_leave_it_at_6nd() -> None:
    runs = noisy()
    assert prepare(runs.assign(budget=runs["budget"] * 1.03)).cost.is_6nd
    without_rule = runs.assign(budget=runs["budget"] * np.geomspace(1, 30, len(runs))[::-1])
    table = prepare(without_rule)
    assert table.cost.is_6nd
    assert any("flops and budget differ" in warning for warning in table.warnings)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda t: t.assign(flops=6e-9 * t["params"] * t["tokens"]), r"flops: .* 6\.00e-9 .* 1\.0e9 FLOPs\?"),
        (lambda t: t.assign(budget=t["budget"] / 1e12), r"budget: .* 6\.00e-12 .* 1\.0e12 FLOPs\?"),
        (lambda t: t.assign(params=t["params"] / 1e6), r"budget: .* 6\.00e6 .* params or tokens .* 1\.0e6\?"),
        (
            lambda t: t.drop(columns="budget").assign(tokens=t["tokens"] / 1e9),
            "tokens: the median of tokens / params is .*e-8, usually 1 to 1000; are tokens in billions",
        ),
    ],
)
def test_units_that_do_not_belong_together_are_asked_about(
    spoil: Callable[[pd.DataFrame], pd.DataFrame], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        fit_law(spoil(noisy()), bootstrap=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["sahoo2026", "hoffmann2022", "porian2024", "muennighoff2023", "chao2026"])
def test_published_tables_have_sound_units_and_no_repeated_rows(name: str) -> None:
    runs = published.runs(name)
    for _, rows in runs.groupby("family"):
        assert not [warning for warning in prepare(rows).warnings if "repeat" in warning]


def test_rows_without_a_family_are_one_family_unless_others_have_one() -> None:
    runs = noisy()
    assert prepare(runs.assign(family=None)).family is None
    mixed = prepare(runs.assign(family=["ar", *[None] * 2, *["ar"] * (len(runs) - 3)]))
    assert mixed.family == "ar"
    assert [str(run) for run in mixed.excluded] == [
        f"row {i}: no family, which other rows have" for i in (1, 2)
    ]


def test_states_in_other_words_are_finished_runs_and_unknown_ones_are_told() -> None:
    runs = noisy()
    words = ["FINISHED", "completed", "ok"] * len(runs)
    assert len(prepare(runs.assign(status=words[: len(runs)]))) == len(runs)
    with pytest.raises(
        UserError, match=r"no finished run to fit \(25 rows, 25 left out: status is pruned .25.\)"
    ):
        prepare(runs.assign(status="pruned"))


def test_columns_with_one_name_are_refused() -> None:
    runs = noisy()
    with pytest.raises(UserError, match="more than one column is called loss"):
        prepare(pd.concat([runs, runs[["loss"]]], axis=1))
    with pytest.raises(UserError, match="more than one column is called loss"):
        typed(pd.concat([runs, runs[["loss"]]], axis=1), "here")


@pytest.mark.parametrize("method", ["surface", "isoflop", "envelope"])
def test_a_table_without_rows_is_refused_in_a_sentence(method: str) -> None:
    with pytest.raises(UserError, match="no finished run to fit"):
        fit_law(noisy().iloc[:0], method)
