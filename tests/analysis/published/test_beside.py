"""A law beside published ones: the numbers of the papers, what is refused, what is drawn."""

import json

import numpy as np
import pytest

import analysis
from analysis import figures, published
from analysis.errors import UserError
from analysis.published.beside import OWN


@pytest.fixture(scope="module")
def law():
    return analysis.fit_law(published.runs("hoffmann2022"), bootstrap=60)


@pytest.fixture(scope="module")
def masked():
    runs = published.runs("sahoo2026")
    return analysis.fit_law(runs[runs["family"] == "masked"], method="isoflop", bootstrap=30)


def at(beside, name, flops):
    rows = beside.table[(beside.table["law"] == name) & np.isclose(beside.table["flops"], flops)]
    assert len(rows) == 1
    return rows.iloc[0]


def test_numbers_are_those_of_the_papers(law):
    beside = law.against("hoffmann2022", flops=[1e20, 5.76e23])
    assert list(dict.fromkeys(beside.table["law"])) == [
        OWN,
        "hoffmann2022_envelope",
        "hoffmann2022_isoflop",
        "hoffmann2022_surface",
    ]
    # the printed, rounded surface has 92.6 tokens per parameter at Gopher's budget
    assert at(beside, "hoffmann2022_surface", 5.76e23)["tokens_per_param"] == pytest.approx(92.6, abs=0.1)
    assert at(beside, "hoffmann2022_envelope", 1e20)["params"] == pytest.approx(0.09e10)
    own, best = at(beside, OWN, 1e20), law.optimal(1e20)
    for name in ("params", "tokens", "loss", "tokens_per_param"):
        assert own[name] == getattr(best, name)
        assert own[f"{name}_low"] == getattr(best, name).low
    assert any("corrected" in note and "see besiroglu2024" in note for note in beside.notes)


def test_what_a_law_does_not_say_is_missing(masked):
    beside = masked.against("sahoo2026")
    theirs = beside.table[beside.table["law"] == "sahoo2026_masked"]
    assert theirs["params"].isna().all()
    assert theirs["loss"].notna().all()
    # their loss law is a refit of the same points
    own = beside.table[beside.table["law"] == OWN]
    np.testing.assert_allclose(theirs["loss"], own["loss"], rtol=0.005)
    assert any("family masked are shown" in note for note in beside.notes)
    flops_per_token = masked.against("vonruette2025_masked").table
    assert flops_per_token["params"].isna().any()


def test_withdrawn_laws_are_refused_unless_asked_for(masked):
    with pytest.raises(UserError, match=r"chao2026_prime was withdrawn .* give withdrawn=True"):
        masked.against("chao2026_prime")
    with pytest.raises(UserError, match="published without coefficients"):
        masked.against("chao2026_prime", withdrawn=True)
    assert masked.against("chao2026").published["name"].tolist() == ["chao2026_masked"]


def test_unknown_names_list_the_known_ones(law):
    with pytest.raises(
        UserError, match="no published law is called 'kaplan2020'; there are laws of hoffmann2022"
    ):
        law.against("kaplan2020")
    with pytest.raises(UserError, match="a budget is a positive number"):
        law.against("besiroglu2024", flops=-1)


def test_the_figure_shows_the_laws(law, masked):
    beside = law.against("hoffmann2022")
    table = figures.against_table(beside)
    assert table["flops"].min() == pytest.approx(law.flops_range[0])
    assert table["flops"].max() == pytest.approx(10 * law.flops_range[1])
    figure = beside.plot()
    legend = [trace.name for trace in figure.data if trace.showlegend is not False and trace.name]
    assert legend == [OWN, "hoffmann2022_envelope", "hoffmann2022_isoflop", "hoffmann2022_surface"]
    drawn = [t for t in figure.data if t.name == "hoffmann2022_surface" and t.x[0] is not None]
    assert len(drawn) == 4
    json.loads(figure.to_json())
    # a law of losses alone has one line
    lines = [
        t for t in masked.against("sahoo2026").plot().data if t.name == "sahoo2026_masked" and len(t.x) > 1
    ]
    assert len(lines) == 1


def test_it_prints_and_shows(law):
    beside = law.against("besiroglu2024")
    assert "besiroglu2024" in str(beside)
    assert "<table" in beside._repr_html_()
