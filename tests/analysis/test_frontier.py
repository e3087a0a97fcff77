import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from analysis.errors import UserError
from analysis.frontier import (
    Cost,
    Curve,
    as_flops,
    fit_cost,
    frontier_exponents,
    optimal_logs,
    optimal_loss,
    surface_curve,
    surface_loss,
)

theta = st.tuples(
    st.floats(0.5, 3), st.floats(10, 1e4), st.floats(10, 1e4), st.floats(0.15, 0.9), st.floats(0.15, 0.9)
).map(np.array)
costs = st.builds(Cost, k=st.floats(1, 30), q=st.floats(0.7, 1.3))


@settings(max_examples=20, deadline=None)
@given(theta=theta, cost=costs, log_flops=st.floats(14, 60))
def test_optimum_is_where_a_numeric_search_finds_it(theta, cost, log_flops):
    flops = np.exp(log_flops)
    log_params, log_tokens = (float(x[0, 0]) for x in optimal_logs(theta[None], np.array([flops]), cost))
    assert cost.flops(np.exp(log_params), np.exp(log_tokens)) == pytest.approx(flops, rel=1e-9)

    def loss(x):
        return surface_loss(theta, np.exp([x]), cost.tokens(np.exp([x]), np.array([flops])))[0]

    optimum = minimize_scalar(loss, bracket=(log_params - 3, log_params + 2), tol=1e-10)
    # a search on values cannot place a minimum better than the square root of rounding
    assert loss(log_params) <= optimum.fun * (1 + 1e-12)


@settings(max_examples=20, deadline=None)
@given(theta=theta, cost=costs)
def test_exponents_are_slopes_of_the_frontier(theta, cost):
    flops = np.array([1e18, 1e19])
    log_params, log_tokens = optimal_logs(theta[None], flops, cost)
    above = optimal_loss(theta[None], log_params, log_tokens)
    slopes = {
        "params": np.diff(log_params[0]),
        "tokens": np.diff(log_tokens[0]),
        "tokens_per_param": np.diff(log_tokens[0] - log_params[0]),
        "reducible_loss": np.diff(np.log(above[0])),
    }
    for name, value in frontier_exponents(theta, cost).items():
        assert value == pytest.approx(slopes[name][0] / np.log(10), abs=1e-9), name
    curve = surface_curve(theta[None], cost, (1e17, 1e20))
    np.testing.assert_allclose(curve.loss(flops)[0], theta[0] + above[0], rtol=1e-9)
    np.testing.assert_allclose(curve.flops_at(curve.loss(flops))[0], flops, rtol=1e-6)


def test_6nd_is_recognised_exactly():
    params, tokens = np.geomspace(1e6, 1e9, 7), np.geomspace(1e9, 1e7, 7)
    assert fit_cost(params, tokens, 6 * params * tokens * (1 + 1e-8)) == Cost()
    assert Cost().is_6nd
    assert str(Cost()) == "6 N D"


def test_another_cost_is_fitted():
    params, tokens = np.geomspace(1e6, 1e9, 7), np.geomspace(1e9, 1e7, 7)
    cost = fit_cost(params, tokens, 11.0 * params**0.95 * tokens)
    assert cost.k == pytest.approx(11.0, rel=1e-9)
    assert cost.q == pytest.approx(0.95, rel=1e-9)
    assert cost.largest_error < 1e-9


def test_flops_that_do_not_belong_to_the_sizes_are_refused():
    params, tokens = np.geomspace(1e6, 1e9, 7), np.full(7, 1e9)
    with pytest.raises(UserError, match="no cost k N\\^q D describes"):
        fit_cost(params, tokens, 6 * params * tokens * np.array([1, 1, 1, 3, 1, 1, 1]))


def test_one_size_has_a_cost_too():
    cost = fit_cost(np.full(3, 1e6), np.array([1e8, 1e9, 1e10]), 8e6 * np.array([1e8, 1e9, 1e10]))
    assert cost.flops(1e6, 1e9) == pytest.approx(8e15)


def test_no_compute_reaches_the_floor():
    curve = Curve(E=np.array([2.0]), log_K=np.array([1.0]), c=np.array([0.1]), flops_range=(1.0, 2.0))
    np.testing.assert_array_equal(curve.flops_at(np.array([[2.0, 1.0]])), [[np.inf, np.inf]])


@pytest.mark.parametrize("bad", [0, -1e18, np.nan, np.inf, []])
def test_a_budget_is_positive(bad):
    with pytest.raises(UserError, match="a budget is a positive number"):
        as_flops(bad)
