"""Surfaces with one E: exact on planted laws, the same as one fit when there is one family, and tested."""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize

from analysis import compare, fit_law
from analysis.comparison.joint import fit_shared_E
from analysis.errors import UserError
from tests.analysis.planted import isoflop_table

AR = (1.8, 400.0, 1500.0, 0.34, 0.36)
OTHER = (1.8, 900.0, 4000.0, 0.37, 0.30)
SEEDS = {"ar": 1, "masked": 2}


def tables(noise=0.0, other=OTHER, seed=0):
    return {
        "ar": isoflop_table(AR, sizes=7, span=6, noise=noise, seed=2 * seed),
        "masked": isoflop_table(other, sizes=7, span=6, noise=noise, seed=2 * seed + 1),
    }


def together(noise=0.0, other=OTHER, seed=0):
    return pd.concat(
        [t.assign(family=name) for name, t in tables(noise, other, seed).items()], ignore_index=True
    )


def test_planted_surfaces_are_recovered():
    shared = fit_shared_E(tables(), bootstrap=0, seeds=SEEDS)
    for law, theta in zip(shared.laws.values(), (AR, OTHER), strict=True):
        np.testing.assert_allclose(law.thetas[0], theta, rtol=1e-6)
    assert shared.excess == 0
    assert shared.p == 1


def test_the_joint_optimum_is_that_of_another_minimiser():
    """At a wide threshold the objective is least squares: SciPy from the truth, nine numbers."""
    runs = tables(noise=0.003)
    shared = fit_shared_E(runs, bootstrap=0, seeds=SEEDS, delta=1.0)
    start = np.array(
        [np.log(1.8), np.log(400), np.log(1500), 0.34, 0.36, np.log(900), np.log(4000), 0.37, 0.30]
    )

    def objective(x):
        total = 0.0
        for k, table in enumerate(runs.values()):
            a, b, alpha, beta = x[1 + 4 * k : 5 + 4 * k]
            N, D = table["params"], table["tokens"]
            predicted = np.exp(x[0]) + np.exp(a - alpha * np.log(N)) + np.exp(b - beta * np.log(D))
            total += float(np.sum(np.log(table["loss"] / predicted) ** 2)) / 2
        return total

    optimum = minimize(objective, start, method="BFGS", options={"gtol": 1e-10, "maxiter": 3000})
    ours = objective(
        np.concatenate(
            [[np.log(shared.laws["ar"].E)]]
            + [[np.log(law.A), np.log(law.B), law.alpha, law.beta] for law in shared.laws.values()]
        )
    )
    assert ours <= optimum.fun * (1 + 1e-6)


def test_one_E_narrows_where_it_is_true_and_is_refused_where_it_is_not():
    true = fit_shared_E(tables(noise=0.003), bootstrap=150, seeds=SEEDS)
    alone = fit_law(tables(noise=0.003)["masked"], bootstrap=150)
    law = true.laws["masked"]
    assert law.E.high - law.E.low < alone.E.high - alone.E.low
    np.testing.assert_array_equal(law.thetas[:, 0], true.laws["ar"].thetas[:, 0])
    assert law.E.low < 1.8 < law.E.high
    assert true.p > 0.01
    false = fit_shared_E(tables(noise=0.003, other=(2.6, *OTHER[1:])), bootstrap=0, seeds=SEEDS)
    assert false.p < 1e-6
    assert false.excess > 0.2


def test_rows_are_drawn_too_and_seeds_repeat():
    first, second = (
        fit_shared_E(tables(noise=0.003), bootstrap=30, seeds=SEEDS, resample="rows") for _ in range(2)
    )
    np.testing.assert_array_equal(first.laws["ar"].thetas, second.laws["ar"].thetas)
    assert first.laws["ar"].options["resample"] == "rows"
    assert np.std(first.laws["ar"].thetas[1:, 3]) > 0


def test_compare_takes_one_E_and_says_what_speaks_against_it():
    comparison = compare(together(noise=0.002), bootstrap=60, shared_E=True)
    assert comparison.laws["ar"].E == comparison.laws["masked"].E
    assert not any("speak against one E" in warning for warning in comparison.warnings)
    wrong = together(noise=0.002, other=(2.6, *OTHER[1:])).assign(
        bound=lambda t: np.where(t["family"] == "ar", "exact", "upper")
    )
    messages = compare(wrong, bootstrap=60, shared_E=True).warnings
    assert any("speak against one E" in warning for warning in messages)
    assert any("one E is an assumption here" in warning for warning in messages)


def test_options_that_one_E_does_not_have_are_refused():
    with pytest.raises(UserError, match="shared_E is for method = 'surface'"):
        compare(together(), method="isoflop", shared_E=True)
    with pytest.raises(UserError, match="tied is no option with shared_E"):
        compare(together(), shared_E=True, tied=True)
    short = tables()
    short["masked"] = short["masked"].query("budget == 1e18")
    with pytest.raises(UserError, match="family masked: runs: all 7 runs spend one budget"):
        fit_shared_E(short, bootstrap=0, seeds=SEEDS)
