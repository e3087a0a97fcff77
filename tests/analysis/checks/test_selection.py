"""Choice between forms: the planted one wins, ties are near, and the likelihood is a density."""

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad

from analysis import fit_law, select
from analysis.checks.selection import aicc
from analysis.errors import UserError
from analysis.laws.solver.objective import huber_deviance
from tests.analysis.planted import isoflop_table

FORMS = {"free": {}, "tied": {"tied": True}, "no E": {"E": "none"}}


@pytest.mark.parametrize(
    ("form", "theta"),
    [
        ("free", (1.69, 406.4, 410.7, 0.40, 0.28)),
        ("tied", (1.69, 406.4, 410.7, 0.31, 0.31)),
        ("no E", (0.0, 406.4, 410.7, 0.34, 0.28)),
    ],
)
def test_the_planted_form_has_the_least_aicc(form, theta):
    """In most of 5 tables: a needless parameter has the lower AICc in about 1 of 6."""
    tables = [isoflop_table(theta, noise=0.002, sizes=9, seed=seed) for seed in range(5)]
    wins = sum(select(table, FORMS).best["aicc"] == form for table in tables)
    assert wins >= 3


def test_left_out_budgets_are_missed_by_the_noise():
    """0.5% noise, 45 runs: the error at a left-out budget is that and the law's own."""
    selection = select(isoflop_table(noise=0.005, sizes=9), {"free": {}}).table
    assert selection["run_error"][0] == pytest.approx(0.5, rel=0.5)
    assert selection["num_parameters"][0] == 5


def test_aicc_does_not_depend_on_how_the_residual_is_written():
    """With a wide threshold both residuals are least squares of nearly the same thing."""
    table = isoflop_table(noise=0.002, sizes=9)
    on_log = aicc(fit_law(table, bootstrap=0, delta=1.0))
    on_loss = aicc(fit_law(table, bootstrap=0, delta=3.0, residual="loss"))
    assert on_log == pytest.approx(on_loss, abs=5)


@pytest.mark.parametrize("delta", [1e-3, 0.01, 1.0])
def test_the_likelihood_is_that_of_a_density(delta):
    """Brute force: normalise the density numerically, scan the scale."""
    residuals = 0.005 * np.random.default_rng(0).standard_normal(40)
    size = np.abs(residuals)
    huber = float(np.where(size <= delta, size**2 / 2, delta * (size - delta / 2)).sum())

    def term(r):
        return r**2 / 2 if abs(r) <= delta else delta * (abs(r) - delta / 2)

    def deviance(s):
        half = quad(lambda r: np.exp(-term(r) / s**2), 0, delta)[0]
        half += quad(lambda r: np.exp(-term(r) / s**2), delta, delta + 60 * max(s, s**2 / delta))[0]
        return 2 * len(residuals) * np.log(2 * half) + 2 * huber / s**2

    scales = np.geomspace(1e-4, 0.1, 3001)
    assert huber_deviance(huber, 40, delta) == pytest.approx(min(map(deviance, scales)), abs=1e-3)


def test_what_a_candidate_does_not_have_is_missing_and_said():
    selection = select(isoflop_table(noise=0.002, sizes=9), {"free": {}, "curves": {"method": "isoflop"}})
    row = selection.table.iloc[1]
    assert row["aicc"] is pd.NA
    assert row["loss_error"] > 0
    assert selection.best["aicc"] == "free"
    few = isoflop_table(noise=0.002, sizes=2, budgets=(1e17, 1e18, 1e19, 1e20))
    refused = select(few, {"free": {}, "curves": {"method": "isoflop"}}).table.iloc[1]
    assert "2 sizes at" in refused["note"]


def test_default_candidates_are_fitted():
    selection = select(isoflop_table(noise=0.002, sizes=7, budgets=(1e17, 1e18, 1e19)))
    assert len(selection.table) == 7
    assert "least aicc" in str(selection)


def test_bad_requests_get_one_sentence():
    table = isoflop_table(sizes=7)
    with pytest.raises(UserError, match="candidates is empty"):
        select(table, {})
    with pytest.raises(UserError, match="2 budgets; leaving one out needs at least 3"):
        select(table[table["budget"] <= 1e18])
    with pytest.raises(UserError, match="no candidate can be fitted"):
        select(isoflop_table(sizes=2), {"curves": {"method": "isoflop"}})
