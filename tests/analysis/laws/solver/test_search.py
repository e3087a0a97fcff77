"""From starts to an optimum, and to the optima of resamples."""

import numpy as np
import pytest

from analysis.laws.solver.bootstrap import resample_weights
from analysis.laws.solver.newton import minimise
from analysis.laws.solver.objective import Derivatives, Problem
from analysis.laws.solver.search import best_of, grid_starts, refit_resamples
from tests.analysis.planted import isoflop_table


@pytest.fixture
def problem():
    runs = isoflop_table(noise=0.005, sizes=8)
    return Problem.of(*(runs[name].to_numpy() for name in ("params", "tokens", "loss")))


def test_the_best_of_many_starts_and_how_many_reach_it(problem):
    objective = Derivatives(problem)
    starts = grid_starts(problem, objective)
    best, share = best_of(objective, starts, len(problem.x), 1e-3)
    assert share == 1
    assert objective.relative_gradient(best, np.ones((1, len(problem.x))), 1e-3)[0] < 1e-9
    # a start in another basin is counted as one that does not get there
    lost = np.concatenate([starts[:1], [[-14.0, -40.0, -40.0, 5.0, 5.0]]])
    again, share = best_of(objective, lost, len(problem.x), 1e-3)
    np.testing.assert_allclose(again, best, rtol=1e-6)
    assert share == 0.5


def test_resamples_do_not_depend_on_chunks_or_on_who_is_slow(problem):
    objective = Derivatives(problem)
    best, _ = best_of(objective, grid_starts(problem, objective), len(problem.x), 1e-3)
    optima, unfinished = refit_resamples(objective, best, len(problem.x), 40, 7, None, 1e-3)
    weights = np.concatenate(list(resample_weights(len(problem.x), 40, 7)))
    alone = [minimise(objective, best, weight[None], 1e-3).theta_Rp[0] for weight in weights]
    assert unfinished == 0
    np.testing.assert_allclose(optima, alone, rtol=1e-4)


def test_each_resample_may_have_its_own_start():
    """With E held, every resample keeps the E it starts with."""
    runs = isoflop_table(noise=0.005, sizes=8)
    columns = (runs[name].to_numpy() for name in ("params", "tokens", "loss"))
    problem = Problem.of(*columns, E=1.7)
    objective = Derivatives(problem)
    best, _ = best_of(objective, grid_starts(problem, objective), len(problem.x), 1e-3)
    optima, _ = refit_resamples(
        objective, best, len(problem.x), 10, 0, None, 1e-3, start_Rp=np.repeat(best, 10, axis=0)
    )
    assert np.all(optima[:, 0] == best[0, 0])
