"""Refits of a surface: the same optimum as a fit from scratch, for other weights and other losses."""

import numpy as np
import pytest

from analysis import fit_law
from analysis.laws.solver.objective import Problem
from analysis.laws.solver.refit import centred, leave_one_out, refit_surface
from tests.analysis.planted import CHINCHILLA, isoflop_table


@pytest.fixture(scope="module")
def law():
    return fit_law(isoflop_table(noise=0.003, sizes=8, span=8), bootstrap=0)


def test_leaving_out_a_run_is_fitting_without_it(law):
    weights = leave_one_out(np.arange(len(law.runs)))[[0, 17, 39]]
    thetas, converged = refit_surface(law, weights=weights)
    assert converged.all()
    for theta, weight in zip(thetas, weights, strict=True):
        scratch = fit_law(law.runs[weight > 0], bootstrap=0)
        # 2e-4 of the objective is what kinks may cost a warm start; parameters agree much better
        np.testing.assert_allclose(theta[[0, 3, 4]], scratch.thetas[0][[0, 3, 4]], rtol=1e-5)


def test_other_losses_give_their_own_law(law):
    other = (1.8, *CHINCHILLA[1:])
    exact = np.array(
        [other[0] + other[1] / law.runs["params"] ** other[3] + other[2] / law.runs["tokens"] ** other[4]]
    )
    thetas, converged = refit_surface(law, losses=exact)
    assert converged.all()
    np.testing.assert_allclose(thetas[0], other, rtol=1e-6)


def test_coordinates_and_back(law):
    problem = Problem.of(*(law.runs[name].to_numpy() for name in ("params", "tokens", "loss")))
    np.testing.assert_allclose(problem.natural(centred(problem, law.thetas)), law.thetas, rtol=1e-12)
