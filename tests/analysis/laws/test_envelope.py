import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import ConvexHull

from analysis import fit_law, published
from analysis.errors import UserError
from analysis.laws.envelope import hull
from analysis.laws.solver.curves import read_curves
from tests.analysis.planted import CHINCHILLA, best_params, isoflop_table, loss_of


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(4, 60))
def test_hull_is_the_falling_lower_part_of_the_convex_hull(seed, size):
    x, y = np.random.default_rng(seed).standard_normal((2, size))
    members = hull(x, y, np.arange(size))
    corners = ConvexHull(np.column_stack([x, y])).vertices
    assert set(members.tolist()) <= set(corners.tolist())
    assert (np.diff(x[members]) > 0).all()
    assert (np.diff(y[members]) < 0).all()
    assert y[members[-1]] == y.min()
    assert x[members[0]] == x.min()
    slopes = np.diff(y[members]) / np.diff(x[members])
    assert (np.diff(slopes) > 0).all(), "convex"
    # no run lies below the envelope
    assert (y >= np.interp(x, x[members], y[members], right=-np.inf) - 1e-12).all()


def test_runs_on_a_power_law_are_all_on_the_envelope():
    """At the optimum of every budget the runs lie on one curve; here a pure power law, so it is found
    exactly."""
    flops = np.geomspace(1e17, 1e21, 9)
    params, loss = 0.1 * flops**0.5, 40 * flops**-0.06
    table = pd.DataFrame(
        {"params": params, "tokens": flops / 6 / params, "loss": loss * (1 + 1e-9 * np.arange(9) ** 2)}
    )
    worse = table.assign(params=3 * params, tokens=table["tokens"] / 3, loss=1.1 * loss)
    law = fit_law(pd.concat([table, worse], ignore_index=True), "envelope", bootstrap=0)
    assert len(law.vertices) == 9
    assert law.exponents["params"] == pytest.approx(0.5, abs=1e-6)
    assert law.exponents["tokens"] == pytest.approx(0.5, abs=1e-6)
    assert law.exponents["loss"] == pytest.approx(-0.06, abs=1e-6)
    assert law.optimal(1e22).params == pytest.approx(0.1 * 1e11, rel=1e-4)


def test_the_three_approaches_agree_on_the_hoffmann_runs():
    runs = published.runs("hoffmann2022")
    envelope = fit_law(runs, "envelope", bootstrap=100)
    surface = fit_law(runs, bootstrap=0)
    a = envelope.exponents["params"]
    assert a.low < surface.exponents["params"] < a.high
    assert str(envelope).startswith("envelope law of ar: 240 runs")


def test_too_few_runs_on_the_envelope():
    table = isoflop_table(budgets=(1e18, 1e19), sizes=5)
    with pytest.raises(UserError, match="only 2 runs lie on the lower envelope"):
        fit_law(table, "envelope")
    with pytest.raises(UserError, match="spend one budget"):
        fit_law(table[table["budget"] == 1e18], "envelope")


def curve_table(sizes=21, *, steps=200, noise=0.0, theta=CHINCHILLA):
    """Loss curves of runs that train far beyond their optimum, each on the surface all the way."""
    generator = np.random.default_rng(0)
    rows = []
    for params in np.geomspace(1e7, 1e10, sizes):
        tokens = np.geomspace(1e7, 1e13 / params**0.2, steps)
        loss = loss_of(theta, params, tokens) * np.exp(noise * generator.standard_normal(steps))
        columns = {"key": f"{params:.3e}", "params": params, "step": np.arange(steps), "tokens": tokens}
        rows.append(pd.DataFrame(columns | {"flops": 6 * params * tokens, "loss": loss}))
    return pd.concat(rows, ignore_index=True)


@pytest.mark.parametrize("noise", [0.0, 0.001])
def test_the_lowest_of_many_curves_has_the_exponents_of_the_surface(noise):
    law = fit_law(curve_table(noise=noise), "envelope", bootstrap=40)
    alpha, beta = CHINCHILLA[3:]
    a = law.exponents["params"]
    assert a == pytest.approx(beta / (alpha + beta), abs=0.03)
    assert law.exponents["tokens"] == pytest.approx(1 - a, abs=1e-9)
    assert a.low < a < a.high
    best = best_params(CHINCHILLA, law.vertices["flops"].median())
    assert law.optimal(law.vertices["flops"].median()).params == pytest.approx(best, rel=0.35)
    assert "training objective is not the bound" in law.warnings[-1]


def test_noisy_curves_give_wide_intervals():
    a = fit_law(curve_table(noise=0.01), "envelope", bootstrap=100).exponents["params"]
    alpha, beta = CHINCHILLA[3:]
    assert a.low < beta / (alpha + beta) < a.high
    assert a.high - a.low > 0.1


def test_a_smoothed_curve_keeps_a_power_law_to_its_end():
    table = curve_table(5)
    grid = read_curves(table)
    for row, params in zip(grid.loss, grid.params, strict=True):
        there = np.isfinite(row)
        flops = grid.flops[there]
        assert row[there] == pytest.approx(loss_of(CHINCHILLA, params, flops / 6 / params), rel=2e-3)


def test_budgets_whose_best_size_is_at_the_edge_are_left_out():
    table = curve_table(sizes=7)
    law = fit_law(table, "envelope", bootstrap=0)
    assert law.vertices["params"].min() > table["params"].min()
    assert law.vertices["params"].max() < table["params"].max()
    with pytest.raises(UserError, match=r"neither the smallest nor the largest.*add sizes"):
        fit_law(curve_table(sizes=2), "envelope")


def test_rows_with_a_held_out_loss_alone_are_no_points_of_the_objective():
    table = curve_table(5)
    alone = table.head(1).assign(loss=np.nan, held_out_loss=9.0)
    both = pd.concat([table, alone], ignore_index=True)
    assert np.array_equal(read_curves(both).loss, read_curves(table).loss)


def test_curves_of_labelled_and_distilled_runs_are_not_read():
    table = curve_table(5)
    lower = table.assign(loss=table["loss"] / 2)
    others = [
        lower.assign(key=lower["key"] + "l", labels="3 kind"),
        lower.assign(key=lower["key"] + "d", distilled_from="0a1b"),
    ]
    both = pd.concat([table, *others], ignore_index=True)
    assert np.array_equal(read_curves(both).loss, read_curves(table).loss)


def test_curves_that_cannot_be_read():
    table = curve_table(5)
    with pytest.raises(UserError, match="column key is missing"):
        fit_law(table.drop(columns="key"), "envelope")
    with pytest.raises(UserError, match="2 rows hold a value that is not a finite number above 0"):
        fit_law(table.assign(loss=table["loss"].where(table.index > 1, np.nan)), "envelope")
    with pytest.raises(UserError, match="one envelope is of one family"):
        fit_law(table.assign(family=np.where(table.index % 2, "ar", "masked")), "envelope")
