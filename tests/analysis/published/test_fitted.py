"""Published laws that answer like fitted ones."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest

from analysis import published
from analysis.errors import UserError
from analysis.frontier import Optimum


def test_the_formula_of_chinchilla_predicts_and_gives_the_best_run() -> None:
    law = published.law("hoffmann2022")
    assert law.name == "hoffmann2022_surface"
    assert [law.E, law.A, law.B, law.alpha, law.beta] == [1.69, 406.4, 410.7, 0.34, 0.28]
    # Chinchilla itself: 70B parameters, 1.4T tokens
    loss = law.predict(70e9, 1.4e12)
    assert loss == pytest.approx(1.69 + 406.4 / 70e9**0.34 + 410.7 / 1.4e12**0.28)
    assert loss.low is None
    assert law.predict(params=70e9, flops=6 * 70e9 * 1.4e12) == pytest.approx(loss)
    best = law.optimal(5.88e23)
    assert isinstance(best, Optimum)
    assert 6 * best.params * best.tokens == pytest.approx(5.88e23)
    along = law.predict(params=best.params * np.array([0.9, 1.0, 1.1]), flops=5.88e23)
    assert along["loss"].argmin() == 1
    assert best.loss.high is None
    assert law.exponents["params"] == 0.46
    assert law.exponents["tokens_per_param"] == pytest.approx((0.34 - 0.28) / (0.34 + 0.28))


def test_a_law_without_a_formula_says_what_it_has() -> None:
    law = published.law("sahoo2026", "masked")
    assert law.family == "masked"
    with pytest.raises(
        UserError, match="predict: sahoo2026_masked was published as power laws of the best runs"
    ):
        law.predict(1e9, 1e10)
    with pytest.raises(
        UserError, match="published without params, tokens, tokens_per_param; frontier has its loss"
    ):
        law.optimal(1e20)
    assert law.frontier(1e20)["loss"][0] == pytest.approx(49.4 * 1e20 ** law.row["loss_exponent"])
    with pytest.raises(UserError, match="published without coefficients, only its exponents are known"):
        published.law("porian2024").frontier(1e20)
    with pytest.raises(AttributeError, match="published law sahoo2026_masked has no attribute 'E'"):
        law.E  # noqa: B018


@pytest.mark.parametrize("name", published.laws()["name"])
def test_every_published_law_prints_its_numbers_and_its_source(name: str) -> None:
    law = published.law(name, withdrawn=True)
    text = str(law)
    assert str(law.row["arxiv"]) in text
    assert ("note: withdrawn" in text) == (law.row["status"] == "withdrawn")
    assert len(law.summary()) == len(law.text_table().rows) == law.to_markdown().count("\n") - 1
    assert law.summary()["low"].isna().all()
    assert "<table" in law._repr_html_()
    assert {"E", "alpha"} <= set(dir(law)) or not law._parameters()
    assert copy.copy(law).name == name
    budgets = [1e18, 1e22]
    if not pd.isna(law.row["E"]):
        several = law.optimal(budgets)
        assert several["loss"].tolist() == [law.optimal(flops).loss for flops in budgets]


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("chinchilla", {}, "no published law is called 'chinchilla'; there are laws of hoffmann2022, besi"),
        ("sahoo2026", {}, "sahoo2026 has several laws: sahoo2026_ar, sahoo2026_masked, .*; name one of them"),
        (
            "sahoo2026",
            {"family": "block"},
            "family = 'block': sahoo2026 has no law of it; its families are ar, ",
        ),
        ("chao2026_prime", {}, "chao2026_prime was withdrawn .*; give withdrawn=True to have it"),
        ("muennighoff2023", {}, "muennighoff2023 has several laws: muennighoff2023_tied, "),
    ],
)
def test_names_that_do_not_name_one_law_get_one_sentence(
    name: str, options: dict[str, str], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        published.law(name, **options)
