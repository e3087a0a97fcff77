"""Sums of positive terms: derivatives against finite differences and against the surface's own."""

import numpy as np
import pytest

from analysis.laws.interaction import interaction_space, interaction_terms
from analysis.laws.solver.logsum import LogSum
from analysis.laws.solver.objective import Derivatives, Problem

DELTA = 0.03


@pytest.fixture(params=[False, True], ids=["log", "loss"])
def noisy(request):
    """Objective on a table with residuals on both sides of the threshold, thetas and weights."""
    generator = np.random.default_rng(3)
    params, tokens = np.exp(generator.uniform(14, 22, 40)), np.exp(generator.uniform(18, 25, 40))
    loss = (1.8 + 480 / params**0.35 + 2100 / tokens**0.37) * np.exp(0.05 * generator.standard_normal(40))
    problem = Problem.of(params, tokens, loss, on_loss=request.param)
    objective = LogSum(
        interaction_terms(problem), problem.z, interaction_space(problem), on_loss=request.param
    )
    middle = np.array([-0.5, -1.5, -1.2, 0.35, 0.4, 0.1, 0.02])
    theta_Rp = middle + 0.05 * generator.standard_normal((4, 7))
    return problem, objective, theta_Rp, generator.integers(0, 4, (4, 40)).astype(float)


def test_gradient_and_hessian_are_those_of_the_objective(noisy):
    _, objective, theta_Rp, weight_Rn = noisy
    here = objective.at(theta_Rp, weight_Rn, DELTA)
    step = 1e-6
    for j in range(7):
        moved = [objective.at(theta_Rp + s * step * np.eye(7)[j], weight_Rn, DELTA) for s in (1, -1)]
        slope = (moved[0].f_R - moved[1].f_R) / (2 * step)
        bend = (moved[0].gradient_Rp - moved[1].gradient_Rp) / (2 * step)
        # central differences: error of order step^2 plus rounding / step
        np.testing.assert_allclose(slope, here.gradient_Rp[:, j], rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(bend, here.hessian_Rpp[:, j], rtol=1e-4, atol=1e-6)


def test_without_interaction_it_is_the_surface(noisy):
    problem, objective, theta_Rp, weight_Rn = noisy
    theta_Rp[:, 5:] = 0
    surface = Derivatives(problem)
    ours, theirs = objective.at(theta_Rp, weight_Rn, DELTA), surface.at(theta_Rp[:, :5], weight_Rn, DELTA)
    np.testing.assert_allclose(ours.f_R, theirs.f_R, rtol=1e-12)
    np.testing.assert_allclose(ours.gradient_Rp[:, :5], theirs.gradient_Rp, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ours.hessian_Rpp[:, :5, :5], theirs.hessian_Rpp, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(
        objective.majoriser(theta_Rp, weight_Rn, DELTA)[:, :5, :5],
        surface.majoriser(theta_Rp[:, :5], weight_Rn, DELTA),
        rtol=1e-9,
        atol=1e-10,
    )


def test_shares_sum_to_one(noisy):
    _, objective, theta_Rp, _ = noisy
    np.testing.assert_allclose(sum(objective.shares(theta_Rp)), 1, rtol=1e-14)
