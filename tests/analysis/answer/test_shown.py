"""Tables of an answer: numbers as people read them, none where the budget is too far."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis import published
from analysis.answer.grade import FARTHEST
from analysis.answer.methods import METHODS, fit_families
from analysis.answer.recommendation import answer_from, usual_budget
from analysis.answer.shown import (
    costs_table,
    methods_table,
    percent_text,
    range_text,
    ranking_caption,
    ranking_table,
)


@pytest.fixture(scope="module")
def families():
    runs = published.runs("sahoo2026")
    return fit_families(runs[runs["family"].isin(["ar", "masked"])], draws=50)[0]


def test_the_budget_that_nobody_gave_is_ten_times_the_largest(families):
    largest = max(family.largest_budget for family in families.values())
    assert usual_budget(families) == pytest.approx(10 * largest, rel=0.005)
    answers = [answer_from(families, {}, factor * usual_budget(families)) for factor in (1, 1.2)]
    assert ["beyond the largest" in "".join(answer.causes) for answer in answers] == [False, True]


def test_the_ranking_has_ranges_where_the_size_was_free(families):
    answer = answer_from(families, {}, 1e20)
    plain, wide = ranking_table(answer), ranking_table(answer, ranges=True)
    assert [row[0] for row in plain.rows] == list(answer.table["family"])
    assert max(map(len, str(plain).splitlines())) <= 82
    best = answer.table.iloc[0]
    assert wide.rows[0][4] == f"{plain.rows[0][1]} ({range_text(best['params_low'], best['params_high'])})"
    assert plain.rows[0][4] == wide.rows[0][2] == "" != wide.rows[1][2]
    fixed = answer_from(families, {}, 1e20, params="1B")
    assert [row[4] for row in ranking_table(fixed, ranges=True).rows] == ["1.00B", "1.00B"]


def test_differences_that_are_not_those_of_the_losses_shown_are_explained(families):
    answers = [answer_from(families, {}, flops) for flops in (1e20, 1e21)]
    tables = [answer.table for answer in answers]
    gaps = [abs(table["difference"][1] - table["loss"].diff()[1]) for table in tables]
    assert gaps[0] < 0.01 < gaps[1]
    assert "above the best" not in ranking_caption(answers[0])
    assert "above the best: averaged over methods" in ranking_caption(answers[1])


def test_each_method_has_a_row_for_each_family_in_the_order_of_the_ranking(families):
    answer = answer_from(families, {}, 1e20)
    rows = methods_table(answer).rows
    assert [row[0] for row in rows] == [name for name in answer.table["family"] for _ in METHODS]
    assert [row[5] for row in rows[: len(METHODS)]] == [""] * len(METHODS)
    assert rows[0][1:2] == ("surface",)


def test_a_cost_too_far_from_the_budgets_is_no_number(families):
    answer = answer_from(families, {}, 1e20)
    near, far = (costs_table(answer.budget_for(loss), families, FARTHEST).rows for loss in (2.9, 2.0))
    costs = answer.budget_for(2.9)
    assert [row[0] for row in near] == list(costs["family"])
    assert near[0][1].startswith(f"{costs['flops'][0]:.2e}".replace("e+", "e"))
    assert far[1][1].startswith("more than 1.0e22, too far")
    assert far[1][2:] == ("", "", "", "")
    never = pd.DataFrame([{"family": "ar", "flops": np.inf, "extrapolated": True}])
    assert "too far" in costs_table(never, families, FARTHEST).rows[0][1]


@pytest.mark.parametrize(
    ("share", "text"), [(1, "100%"), (0.9999, "over 99%"), (0.001, "under 1%"), (0, "0%"), (0.5, "50%")]
)
def test_all_and_none_are_only_said_where_it_is_so(share, text):
    assert percent_text(share) == text


def test_days_may_be_text(families):
    answer = answer_from(families, {}, gpus="64xH100", days="14", utilisation="0.4")
    assert answer.budget.endswith("(64 H100 for 14 days)")
