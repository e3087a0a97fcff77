import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import isoflop_table
from scipy.spatial import ConvexHull

from analysis import fit_law, published
from analysis.errors import UserError
from analysis.laws.envelope import hull


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(4, 60))
def test_hull_is_the_falling_lower_part_of_the_convex_hull(seed, size):
    x, y = np.random.default_rng(seed).standard_normal((2, size))
    found = hull(x, y, np.arange(size))
    corners = ConvexHull(np.column_stack([x, y])).vertices
    assert set(found.tolist()) <= set(corners.tolist())
    assert (np.diff(x[found]) > 0).all()
    assert (np.diff(y[found]) < 0).all()
    assert y[found[-1]] == y.min()
    assert x[found[0]] == x.min()
    slopes = np.diff(y[found]) / np.diff(x[found])
    assert (np.diff(slopes) > 0).all(), "convex"
    # no run lies below the envelope
    assert (y >= np.interp(x, x[found], y[found], right=-np.inf) - 1e-12).all()


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
