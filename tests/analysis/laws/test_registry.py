"""Every registered law keeps the same promises, and so does one that is registered from outside."""

import inspect
import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis.errors import UserError
from analysis.estimate import Estimate
from analysis.laws import METHODS, LawEntry, register, standard_methods
from analysis.laws.predicting import PredictingLaw
from analysis.laws.result import Law
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


def test_several_budgets_with_scarce_text_get_a_table_too():
    law = analysis.fit_law(table_for(METHODS["constrained"]), "constrained", bootstrap=12)
    table = law.optimal([1e18, 1e20], unique_tokens=1e9)
    assert list(table.columns) == list(law.frontier(1e18).columns)
    for row, flops in zip(table.to_dict(orient="records"), (1e18, 1e20), strict=True):
        one = law.optimal(flops, unique_tokens=1e9)
        # the sums of other rows may round in the last digit
        for name in ("params", "tokens", "loss", "tokens_per_param"):
            value = getattr(one, name)
            ends = [row[name], row[f"{name}_low"], row[f"{name}_high"]]
            assert ends == pytest.approx([value, value.low, value.high], rel=1e-9)
    with pytest.raises(UserError, match=r"unique_tokens = \[1000000000.0\]: give one number"):
        law.optimal(1e20, unique_tokens=[1e9])
    with pytest.raises(UserError, match="with unique_tokens give flops, not loss"):
        law.optimal(unique_tokens=1e9, loss=3.0)


def test_everything_that_lists_laws_reads_the_registry(kaplan):
    runs = isoflop_table(sizes=9, span=8, noise=0.002, family="masked").assign(status="finished")
    assert "kaplan" in set(analysis.select(runs).table["candidate"])
    law = analysis.fit_law(runs, "surface", bootstrap=0)
    approaches = analysis.diagnose(law).variants.query("check == 'approach'")["variant"].tolist()
    assert approaches == ["isoflop", "isoflop, bias corrected", "isoflop, akima", "envelope", "kaplan"]
    with pytest.raises(
        UserError, match="choose one of surface, interaction, isoflop, envelope, constrained, kaplan"
    ):
        analysis.fit_law(runs, "approach 4")


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


@pytest.mark.parametrize(
    ("name", "method"),
    [
        (3, "surface"), ("3", "surface"), ("approach 3", "surface"), ("Approach_3", "surface"),
        ("chinchilla", "surface"), (2, "isoflop"), ("approach2", "isoflop"), ("IsoFLOP", "isoflop"),
        ("approach-1", "envelope"), (1, "envelope"),
        ("data-constrained", "constrained"),
    ],
)  # fmt: skip
def test_methods_have_other_names(name, method):
    law = analysis.fit_law(table_for(METHODS[method]), name, bootstrap=0)
    assert law.method == method


def test_other_names_are_unique_and_taken_too():
    names = [name for entry in METHODS.values() for name in (entry.name, *entry.aliases)]
    assert len(names) == len(set(names))
    with pytest.raises(UserError, match="a law called 'chinchilla' is registered already"):
        register(LawEntry(name="chinchilla", label="another", fit="nowhere:nothing"))


def test_the_signature_of_fit_law_shows_every_option_and_its_help_says_whose_it_is():
    parameters = inspect.signature(analysis.fit_law).parameters
    text = analysis.fit_law.__doc__.split("method, with its")[1].split("family: the rows")[0]
    sections = dict(zip(SHIPPED, re.split(r'\n +"\w+" ', text)[1:], strict=True))
    for name, entry in METHODS.items():
        options = entry.load().__kwdefaults__
        assert set(options) <= set(parameters)
        for option in set(options) - {"bootstrap", "seed", "level"}:
            assert re.search(rf"\b{option}\b", sections[name].split(":", 1)[1]), (name, option)


@pytest.mark.parametrize(
    ("option", "meant"),
    [("n_boot", "bootstrap"), ("random_state", "seed"), ("confidence", "level"), ("bootstarp", "bootstrap")],
)
def test_options_of_other_programs_get_a_hint(option, meant):
    with pytest.raises(UserError, match=f"{option} is no option of method 'surface', did you mean {meant}?"):
        analysis.fit_law(table_for(METHODS["surface"]), **{option: 1})


def test_completion_shows_what_a_user_calls():
    law = analysis.fit_law(table_for(METHODS["isoflop"]), "isoflop", bootstrap=0)
    names = [name for name in dir(law) if not name.startswith("_")]
    assert {"optimal", "frontier", "minima", "save", "to_latex", "plot", "summary", "exponents"} <= set(names)
    assert not {"leave_outs", "rule", "curve", "power_laws", "plain", "MACHINERY"} & set(names)
    assert len(names) < 35
    assert dir(analysis) == analysis.__all__
    assert set(dir(analysis.laws)) == {"METHODS", "LawEntry", "fit_law", "register", "standard_methods"}
    assert set(dir(analysis.published)) == {"law", "laws", "runs", "tables"}


PREDICTING = [name for name in SHIPPED if METHODS[name].predicts]


@pytest.mark.parametrize("name", PREDICTING)
def test_any_two_of_params_tokens_and_flops_predict(name):
    law = analysis.fit_law(table_for(METHODS[name]), name, bootstrap=12)
    rest = {"unique_tokens": 1e9} if "unique_tokens" in law.inputs else {}
    flops = float(law.cost.flops(np.array(1e9), np.array(2e10)))
    expected = law.predict(1e9, 2e10, **rest)
    for two in ({"params": 1e9, "flops": flops}, {"tokens": 2e10, "flops": flops}):
        same = law.predict(**two, **rest)
        assert [same, same.low, same.high] == pytest.approx([expected, expected.low, expected.high], rel=1e-9)
    along = law.predict(params=[5e8, 1e9], flops=flops, **rest)
    assert list(along.columns)[:3] == ["params", "tokens", "flops"]
    assert law.cost.flops(along["params"], along["tokens"]).to_numpy() == pytest.approx(flops)
    assert along["loss"][1] == pytest.approx(expected)
    for wrong, has in (
        ({}, "none"), ({"flops": 1e20}, "flops alone"), ({"params": 1, "tokens": 1, "flops": 1}, "all three")
    ):  # fmt: skip
        with pytest.raises(UserError, match=f"give two of params, tokens and flops .FLOPs = .*, not {has}$"):
            law.predict(**wrong, **rest)
    with pytest.raises(
        UserError, match="give arrays of one length, or single numbers, not 2 params and 3 flops"
    ):
        law.predict(params=[1e9, 2e9], flops=[1e20] * 3, **rest)


def test_a_law_of_the_frontier_says_why_it_predicts_no_run():
    law = analysis.fit_law(table_for(METHODS["isoflop"]), "isoflop", bootstrap=0)
    with pytest.raises(AttributeError, match="it describes the best runs, see optimal, and a surface law"):
        law.predict(1e9, 1e10)
    with pytest.raises(UserError, match="give unique_tokens too"):
        analysis.fit_law(table_for(METHODS["constrained"]), "constrained", bootstrap=0).predict(1e9, 1e10)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_budget_of_a_loss_is_the_one_whose_best_run_has_it(name):
    law = analysis.fit_law(table_for(METHODS[name]), name, bootstrap=12)
    best = law.optimal(3e19)
    cheapest = law.optimal(loss=float(best.loss))
    # the frontier of an interaction bends a little, and its curve does not
    close = 0.05 if name == "interaction" else 1e-6
    assert cheapest.flops == pytest.approx(3e19, rel=close)
    assert cheapest.params == pytest.approx(best.params, rel=close)
    assert cheapest.flops.low <= cheapest.flops <= cheapest.flops.high
    assert cheapest.loss == best.loss
    assert f"at 3.0e19 [{cheapest.flops.low:.1e}".replace("+", "") in str(cheapest)
    with pytest.raises(UserError, match="give flops or loss, not both"):
        law.optimal(1e20, loss=2.5)
    with pytest.raises(UserError, match="optimal: loss must be finite numbers above 0"):
        law.optimal(loss=-1.0)
    if hasattr(law, "E"):
        with pytest.raises(UserError, match=r"loss = 0.1000 is not above E = .* no budget reaches it"):
            law.optimal(loss=0.1)


def test_power_laws_give_no_interval_of_a_budget_beyond_those_measured():
    law = analysis.fit_law(analysis.published.runs("sahoo2026"), "isoflop", family="masked", bootstrap=50)
    beyond, inside = law.optimal(loss=2.5), law.optimal(loss=2.9)
    assert beyond.flops > law.flops_range[1] > inside.flops
    for name in ("flops", "params", "tokens", "tokens_per_param"):
        assert getattr(beyond, name).low is None
        assert getattr(inside, name).low < getattr(inside, name).high
    assert "the budget for a loss has no interval beyond the budgets" in str(beyond)
    assert "[" not in str(beyond)
    assert inside.note == ""
    assert law.optimal(1e22).note.startswith("the loss has no interval beyond the budgets")
