"""Checks of a law: quiet on an exact one, loud on planted trouble, equal to brute force where that is
possible."""

import json

import numpy as np
import pandas as pd
import pytest

from analysis import diagnose, figures, fit_law, published
from analysis.errors import UserError
from tests.analysis.planted import CHINCHILLA, isoflop_table, loss_of


@pytest.fixture(scope="module")
def porian():
    return diagnose(fit_law(published.runs("porian2024"), bootstrap=150))


@pytest.fixture(scope="module")
def good():
    return diagnose(fit_law(isoflop_table(noise=0.001, sizes=9, span=8), bootstrap=150))


def grades(diagnosis):
    return dict(diagnosis.table[["check", "grade"]].itertuples(index=False))


def test_a_good_table_is_called_good(good):
    assert "concern" not in grades(good).values()
    assert good.verdict.startswith("the exponent of N* is stable")
    assert "E is identified" in good.verdict
    assert "no check speaks against it" in good.verdict
    assert good.advice == "reliable"
    assert len(good.summary()) == 12


def test_porian_all_rows_are_a_wrong_form(porian):
    """E above the lowest loss, and E from 2 to 3.2 over windows and thresholds (published analysis of the
    table)."""
    assert grades(porian)["E"] == "concern"
    assert grades(porian)["delta"] == "concern"
    assert "E is not identified" in porian.verdict
    assert porian.advice == "do not use: E lies at or above the lowest loss"
    E = porian.table.set_index("check").loc["E"]
    assert E["value"] == pytest.approx(3.1308 / 3.0974, abs=1e-3)
    assert "at or above the lowest loss" in str(porian)
    windows = porian.variants.query("check == 'window'")["exponent"].astype(float)
    assert windows.between(0.47, 0.53).all()


def test_leaving_out_a_run_agrees_with_a_fit_from_scratch(good):
    row = good.influence["exponent_change"].abs().idxmax()
    scratch = fit_law(good.law.runs.drop(index=row), bootstrap=0)
    assert good.influence.loc[row, "exponent_without"] == pytest.approx(scratch.exponents["params"], rel=1e-5)
    assert good.influence.loc[row, "E_without"] == pytest.approx(scratch.E, rel=1e-5)


def test_leverages_are_those_of_a_hat_matrix(good):
    leverage = good.influence["leverage"]
    assert leverage.sum() == pytest.approx(5)
    assert leverage.between(0, 1).all()


def test_a_lonely_run_has_the_leverage():
    """One size ten times below all others: it alone tells alpha, so it is fitted nearly by itself."""
    table = isoflop_table(noise=0.001, sizes=6, span=3, budgets=(1e19, 1e20, 1e21))
    lonely = table.iloc[[0]].assign(params=table["params"].min() / 1000)
    lonely = lonely.assign(tokens=lonely["budget"] / 6 / lonely["params"])
    lonely["loss"] = loss_of(CHINCHILLA, lonely["params"], lonely["tokens"])
    runs = pd.concat([table, lonely], ignore_index=True)
    diagnosis = diagnose(fit_law(runs, bootstrap=0, delta=0.01))
    assert diagnosis.influence["leverage"].idxmax() == len(table)
    assert grades(diagnosis)["leverage"] == "note"


def test_outliers_are_named_with_and_without():
    table = isoflop_table(noise=0.001, sizes=9, span=8)
    table.loc[[3, 20], "loss"] *= 1.2
    diagnosis = diagnose(fit_law(table, bootstrap=0))
    row = diagnosis.table.set_index("check").loc["outliers"]
    assert row["value"] == 2
    assert "(row " in row["finding"]
    assert set(diagnosis.influence.index[diagnosis.influence["outlier"]]) == {3, 20}


def test_other_counts_in_the_table_are_tried():
    table = isoflop_table(noise=0.001, sizes=9, span=8)
    table["flops"] = 6 * table["params"] * table["tokens"]
    table["params_total"] = table["params"] * 1.5 + 1e7
    table = table.assign(flops_6nd=table["flops"], flops_exact=1.1 * table["flops"])
    diagnosis = diagnose(fit_law(table, bootstrap=0)).variants.query("check == 'convention'")
    assert diagnosis["variant"].tolist() == ["params: params_total", "flops: flops_exact"]
    assert diagnosis["exponent"].notna().all()


def test_an_exponent_that_is_not_there_is_said():
    """Hardly any data term: beta cannot be told from 0."""
    generator = np.random.default_rng(0)
    table = isoflop_table((1.7, 406.4, 0.5, 0.34, 0.05), noise=0, sizes=6, span=4)
    table["loss"] *= np.exp(0.01 * generator.standard_normal(len(table)))
    diagnosis = diagnose(fit_law(table, bootstrap=150))
    assert grades(diagnosis)["exponents"] == "concern"
    assert "alpha or beta may be 0" in diagnosis.verdict
    assert diagnosis.advice.startswith("do not use: ")
    assert "alpha or beta may be 0" in diagnosis.advice


@pytest.mark.parametrize("method", ["isoflop", "envelope"])
def test_other_laws_are_checked_too(method):
    law = fit_law(published.runs("sahoo2026").query("family == 'ar'"), method, bootstrap=40)
    diagnosis = diagnose(law)
    assert diagnosis.table["check"].tolist()[0] == "fit"
    assert {"window", "approach"} <= set(diagnosis.table["check"])
    assert "exponent of N*" in diagnosis.verdict
    apart = diagnosis.table.set_index("check")["value"]["approach"]
    assert diagnosis.advice.startswith("use with care: ")
    rows = diagnosis.variants.query("check == 'approach'").dropna(subset="exponent").set_index("variant")
    away = (rows["exponent"].astype(float) - float(law.exponents["params"])).abs()
    named = f"{away.idxmax()}: {rows['exponent'][away.idxmax()]:.2f}"
    assert f"by {apart:.2g} between methods ({named})" in diagnosis.advice
    with pytest.raises(UserError, match="of a surface, not of"):
        figures.influence(diagnosis)
    with pytest.raises(UserError, match="of a surface, not of"):
        figures.draws(diagnosis)


def test_every_check_has_a_figure(porian):
    for check in [None, *porian.table["check"]]:
        figure = porian.plot(check)
        assert len(figure.data)
    assert len(figures.variants_table(porian, "delta")) == 7
    assert len(figures.draws_table(porian)) == 151
    assert len(figures.influence_table(porian)) == 121
    with pytest.raises(UserError, match="check = 'vibes' was not made"):
        porian.plot("vibes")


def test_figures_are_drawn_without_a_browser(porian, tmp_path):
    for check in (None, "leverage", "E"):
        figures.save(porian.plot(check), tmp_path / "figure.svg")
        assert (tmp_path / "figure.svg").read_text().startswith("<?xml")


def test_what_is_told_is_plain_json(porian):
    values = json.loads(json.dumps(porian.to_dict(), allow_nan=False))
    assert values["verdict"] == porian.verdict
    assert len(values["checks"]) == len(porian.table)


def test_without_resamples_there_is_no_interval_and_it_is_said():
    diagnosis = diagnose(fit_law(isoflop_table(noise=0.001, sizes=9, span=8), bootstrap=0))
    assert "no intervals" in str(diagnosis)
    with pytest.raises(UserError, match="no resamples to draw"):
        diagnosis.plot("E")


@pytest.mark.parametrize(
    "options",
    [
        {"tied": True},
        {"E": 2.0},
        {"E": "none"},
        {"residual": "loss", "delta": 0.01},
        {"interval": "bca"},
        {"method": "interaction"},
    ],
)
def test_variants_of_the_surface_are_checked(options):
    law = fit_law(published.runs("sahoo2026").query("family == 'masked'"), bootstrap=40, **options)
    diagnosis = diagnose(law)
    assert (diagnosis.variants["note"] == "").all()
    assert "exponent of N*" in diagnosis.verdict
    assert len(diagnosis.plot().data) >= 2
    if diagnosis.influence is not None:
        free = 5 - ("tied" in options) - ("E" in options)
        assert diagnosis.influence["leverage"].sum() == pytest.approx(free)


def test_a_law_of_repeated_text_is_checked():
    runs = published.runs("muennighoff2023")
    diagnosis = diagnose(fit_law(runs, "constrained", bootstrap=0))
    assert "window" in set(diagnosis.table["check"])
    assert diagnosis.variants.query("check == 'window'")["exponent"].notna().all()
