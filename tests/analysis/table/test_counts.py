"""Params and FLOPs counted in another way: the law of that count, budgets that still group the runs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis.errors import UserError
from tests.analysis.planted import isoflop_table


def runs_counted_twice() -> pd.DataFrame:
    """A table with its own counts (without embeddings, 6 N D), all parameters, and exact FLOPs."""
    runs = isoflop_table(noise=0.001, sizes=7, span=8, family="ar")
    own = {"params_non_embedding": runs["params"], "flops_6nd": runs["budget"], "flops": runs["budget"]}
    exact = runs["budget"] * (1.2 + 0.05 * np.sin(np.arange(len(runs))))
    return runs.assign(
        **own, params_total=runs["params"] + 1e6, flops_exact=exact, flop_convention="6nd", status="finished"
    )


def test_another_count_is_that_column() -> None:
    runs = runs_counted_twice()
    for name in ("total", "params_total"):
        assert analysis.counted(runs, params=name)["params"].tolist() == runs["params_total"].tolist()
    exact = analysis.counted(runs, flops="exact")
    assert exact["flops"].tolist() == runs["flops_exact"].tolist()
    assert set(exact["flop_convention"]) == {"exact"}
    assert runs["flops"].tolist() == runs["flops_6nd"].tolist()  # the table itself stays as it is


def test_budgets_go_on_grouping_and_are_worth_what_their_runs_spent() -> None:
    runs = runs_counted_twice()
    exact = analysis.counted(runs, flops="exact")
    spent = np.log(runs["flops_exact"]).groupby(runs["budget"]).mean()
    assert np.log(exact["budget"].unique()) == pytest.approx(spent.to_numpy())
    law = analysis.fit_law(exact, "isoflop", bootstrap=0)
    assert len(law.budget_flops) == 5
    assert law.optimal(1e19).params < analysis.fit_law(runs, "isoflop", bootstrap=0).optimal(1e19).params


def test_the_count_that_the_table_has_changes_nothing() -> None:
    runs = runs_counted_twice()
    for same in (analysis.counted(runs), analysis.counted(runs, "non_embedding", "6nd")):
        pd.testing.assert_frame_equal(same[runs.columns], runs)


def test_a_count_that_is_not_there_gets_one_sentence() -> None:
    runs = runs_counted_twice()
    with pytest.raises(
        UserError, match="params = 'body': no such column; choose one of params_total, params_non"
    ):
        analysis.counted(runs, params="body")
    runs.loc[0, "flops_exact"] = None
    with pytest.raises(
        UserError, match="flops = 'exact': not every finished run has it; choose one of flops_6nd"
    ):
        analysis.counted(runs, flops="exact")
    assert len(analysis.counted(runs.assign(status=["failed", *["finished"] * 34]), flops="exact")) == 35
    with pytest.raises(UserError, match="flops = 'exact': no such column; the table has no other count"):
        analysis.counted(isoflop_table(), flops="exact")
