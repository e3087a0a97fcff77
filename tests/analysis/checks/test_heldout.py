"""Rollout: exact where the law is, off where the table is, covered where the noise is known."""

import json

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis import published
from analysis.errors import UserError
from tests.analysis.planted import BUDGETS, isoflop_table


def test_an_exact_table_is_predicted_exactly():
    rollout = analysis.rollout(isoflop_table(sizes=7, span=4), bootstrap=0)
    runs = rollout.table[rollout.table["quantity"] == "loss of a run"]
    # 4 windows; the first budget alone identifies nothing
    assert sorted(runs["trained_to"].unique()) == list(BUDGETS[1:4])
    assert runs["error_percent"].abs().max() < 1e-4
    assert (runs["flops"] > runs["trained_to"]).all()
    assert [reason.split(":")[0] for reason in rollout.skipped] == ["up to 1.0e17 FLOPs"]
    assert rollout.table["covered"].isna().all()
    counts = runs.groupby("trained_to").size()
    assert counts.tolist() == [21, 14, 7]


def test_intervals_of_a_new_run_cover_new_runs():
    """12 sweeps, every window: nominal 95%, the runs of a window go together."""
    shares = []
    for seed in range(12):
        table = isoflop_table(sizes=7, span=4, noise=0.005, seed=seed)
        part = analysis.rollout(table, bootstrap=100, seed=seed).table
        shares.append(part.loc[part["quantity"] == "loss of a run", "covered"].astype(float).mean())
    assert 0.88 < np.mean(shares) <= 1


def test_every_method_is_held_against_the_dearer_minima():
    runs = published.runs("sahoo2026").query("family == 'ar'")
    for method in ("surface", "isoflop", "envelope"):
        rollout = analysis.rollout(runs, method, bootstrap=40)
        best = rollout.table[rollout.table["quantity"] == "best size"]
        assert len(best)
        assert best["covered"].notna().all()
        error = 100 * (best["predicted"] / best["measured"] - 1)
        np.testing.assert_allclose(best["error_percent"], error)
        summary = rollout.summary()
        assert (summary["worst"].abs() >= summary["mean_size"]).all()
        assert "off by" in str(rollout)
        assert len(rollout.to_dict()["rows"]) == len(rollout.table)
        json.dumps(rollout.to_dict(), allow_nan=False)


def test_many_budgets_are_taken_together():
    rollout = analysis.rollout(published.runs("hoffmann2022"), bootstrap=0)
    assert 4 <= rollout.table["trained_to"].nunique() <= 7


def test_the_same_seed_gives_the_same_rollout():
    runs = published.runs("sahoo2026").query("family == 'masked'")
    first, second = (analysis.rollout(r, bootstrap=30) for r in (runs, runs.sample(frac=1, random_state=3)))
    columns = ["trained_to", "quantity", "flops", "measured"]
    pd.testing.assert_frame_equal(
        first.table.sort_values(columns, ignore_index=True),
        second.table.sort_values(columns, ignore_index=True),
    )


def test_one_budget_cannot_be_rolled_out():
    table = isoflop_table(sizes=7)
    with pytest.raises(UserError, match="all runs spend one budget"):
        analysis.rollout(table[table["budget"] == 1e18])
    with pytest.raises(UserError, match="nothing could be predicted with method 'isoflop'"):
        analysis.rollout(table[table["budget"] <= 1e18], "isoflop")
