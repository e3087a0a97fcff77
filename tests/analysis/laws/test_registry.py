"""Every registered law keeps the same promises, and so does one that is registered from outside."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis.errors import UserError
from analysis.estimate import Estimate
from analysis.laws import METHODS, LawEntry, register, standard_methods
from analysis.laws.result import Law, PredictingLaw
from analysis.laws.solver.repeats import constrained_loss
from examples.own_law import ENTRY
from sweeps.results.laws import RunTable, fit
from tests.analysis.planted import CHINCHILLA, best_params, isoflop_table

SHIPPED = tuple(METHODS)


@pytest.fixture
def kaplan():
    """The law of examples/own_law.py, registered for one test."""
    register(ENTRY)
    yield ENTRY
    del METHODS[ENTRY.name]


def table_for(entry: LawEntry) -> pd.DataFrame:
    """Five budgets with a known surface; every third run repeats its text if the law is about that."""
    runs = isoflop_table(sizes=9, span=8, noise=0.001, family="masked")
    if "unique_tokens" in entry.needs:
        epochs = np.where(np.arange(len(runs)) % 3 == 0, 8.0, 1.0)
        runs["unique_tokens"] = runs["tokens"] / epochs
        theta = np.array([[*CHINCHILLA, 15.0, 5.0]])
        columns = (runs[name].to_numpy() for name in ("params", "tokens", "unique_tokens"))
        runs["loss"] = constrained_loss("effective", theta, *columns)[0]
    return runs


def check_promises(entry: LawEntry) -> None:
    runs = table_for(entry)
    law = analysis.fit_law(runs, entry.name, bootstrap=12)
    assert isinstance(law, Law)
    assert law.method == entry.name
    assert entry.label
    assert law.family == "masked"
    assert entry.name in str(law)

    a = CHINCHILLA[4] / (CHINCHILLA[3] + CHINCHILLA[4])
    for name in ("params", "tokens"):
        assert law.exponents[name].low <= law.exponents[name] <= law.exponents[name].high
    assert law.exponents["params"] == pytest.approx(a, abs=0.06)

    best = law.optimal(1e19)
    assert np.log(best.params / best_params(CHINCHILLA, 1e19)) == pytest.approx(0, abs=0.5)
    assert 6 * best.params * best.tokens == pytest.approx(1e19, rel=0.02)
    assert law.curve.loss(np.array([1e19]))[0, 0] == pytest.approx(best.loss, rel=0.01)

    summary = law.summary()
    assert list(summary.columns)[:4] == ["quantity", "value", "low", "high"]
    assert summary["quantity"].is_unique
    content = json.loads(law.to_json())
    assert content == law.to_dict()
    assert content["method"] == entry.name
    assert content["num_runs"] == len(runs)
    assert law.figure in analysis.figures.FIGURES
    assert len(law.plot().data) > 0

    again = analysis.fit_law(law.runs, entry.name, **law.options)
    assert again.to_dict()["parameters"] == content["parameters"]
    with pytest.raises(UserError, match=f"colour is no option of method '{entry.name}'; its options are"):
        analysis.fit_law(runs, entry.name, colour="red")

    assert isinstance(law, PredictingLaw) == hasattr(law, "predict") == entry.predicts == bool(entry.formula)
    for symbol in entry.symbols:
        assert isinstance(getattr(law, symbol), Estimate)
        assert symbol in dir(law)
        assert symbol in content["parameters"]
    if isinstance(law, PredictingLaw):
        columns = [runs[name].to_numpy() for name in law.inputs]
        mean, run = law.predict(*columns), law.predict(*columns, kind="run")
        # 5%, for a law of another form than the planted one
        assert np.median(np.abs(np.log(mean["loss"] / runs["loss"]))) < 0.05
        wider = (run["loss_high"] - run["loss_low"]) >= 0.5 * (mean["loss_high"] - mean["loss_low"])
        assert wider.all()
        assert isinstance(law.predict(*(float(column[0]) for column in columns)), Estimate)
        with pytest.raises(UserError, match="must be finite numbers above 0"):
            law.predict("1e9", *columns[1:])


@pytest.mark.parametrize("name", SHIPPED)
def test_a_registered_law_keeps_what_a_law_promises(name):
    check_promises(METHODS[name])


def test_a_law_registered_from_outside_keeps_them_too(kaplan):
    check_promises(kaplan)


@pytest.mark.parametrize("name", SHIPPED)
def test_several_budgets_get_a_table_and_text_is_refused(name):
    law = analysis.fit_law(table_for(METHODS[name]), name, bootstrap=0)
    several = law.optimal([1e18, 1e20])
    pd.testing.assert_frame_equal(several, law.frontier([1e18, 1e20]))
    assert several["params"].tolist() == [law.optimal(1e18).params, law.optimal(1e20).params]
    for wrong in ("1e20", ["1e20"], [], None, -1e20, np.nan):
        with pytest.raises(UserError, match="a budget is a positive number of FLOPs"):
            law.optimal(wrong)


def test_one_budget_at_a_time_with_scarce_text():
    law = analysis.fit_law(table_for(METHODS["constrained"]), "constrained", bootstrap=0)
    with pytest.raises(UserError, match="give one budget with unique_tokens, not 2"):
        law.optimal([1e18, 1e20], unique_tokens=1e9)


def test_everything_that_lists_laws_reads_the_registry(kaplan):
    runs = isoflop_table(sizes=9, span=8, noise=0.002, family="masked").assign(status="finished")
    assert "kaplan" in set(analysis.select(runs).table["candidate"])
    law = analysis.fit_law(runs, "surface", bootstrap=0)
    approaches = analysis.diagnose(law).variants.query("check == 'approach'")["variant"].tolist()
    assert approaches == ["isoflop", "isoflop, bias corrected", "isoflop, akima", "envelope", "kaplan"]
    with pytest.raises(
        UserError, match="choose one of surface, interaction, isoflop, envelope, constrained, kaplan"
    ):
        analysis.fit_law(runs, "approach 3")


def test_a_standard_law_is_fitted_by_sweeps():
    standard = LawEntry(
        name="kaplan", label="Kaplan", fit=ENTRY.fit, symbols=ENTRY.symbols, predicts=True, standard=True
    )
    runs = isoflop_table(sizes=6, span=8, noise=0.002, family="masked").assign(status="finished")
    assert standard_methods() == ("isoflop", "surface")
    register(standard)
    try:
        fits = fit(RunTable(frame=runs, source="here"), "masked", bootstrap=3)
    finally:
        del METHODS["kaplan"]
    assert list(fits.laws) == ["isoflop", "kaplan", "surface"]


def test_a_name_is_taken_once():
    with pytest.raises(UserError, match="a law called 'surface' is registered already"):
        register(LawEntry(name="surface", label="another", fit="nowhere:nothing"))


def test_the_example_runs():
    done = subprocess.run(
        [sys.executable, "-m", "examples.own_law"], capture_output=True, text=True, check=True
    )
    assert "kaplan law of ar: 240 runs" in done.stdout
    assert "least aicc: surface" in done.stdout
