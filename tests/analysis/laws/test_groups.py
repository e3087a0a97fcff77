"""One law for each group of a table, and its summary."""

from __future__ import annotations

import pandas as pd
import pytest

import analysis
from analysis.errors import UserError
from tests.analysis.planted import isoflop_table


@pytest.fixture(scope="module")
def three() -> pd.DataFrame:
    """Two families that can be fitted and one with too few runs."""
    return pd.concat(
        [
            isoflop_table(noise=0.002, sizes=7, family="ar"),
            isoflop_table(noise=0.002, sizes=7, seed=1, family="masked"),
            isoflop_table(budgets=[1e18], sizes=3, family="short"),
            isoflop_table(budgets=[1e18], sizes=3).assign(family=None),
        ],
        ignore_index=True,
    )


def test_each_group_has_the_law_of_its_rows_alone(three: pd.DataFrame) -> None:
    laws = analysis.fit_laws(three, bootstrap=20)
    assert list(laws) == ["ar", "masked"]
    alone = analysis.fit_law(three[three.family == "masked"], bootstrap=20)
    assert laws["masked"].to_json() == alone.to_json()
    assert "3 different (params, tokens)" in laws.refused["short"]
    assert laws.refused["rows without a group"] == "3 rows have no value in family"
    assert "warning: no law of short: runs: 3 different" in str(laws)


def test_the_summary_is_numeric_and_printing_is_formatted(three: pd.DataFrame) -> None:
    laws = analysis.fit_laws(three, bootstrap=20)
    summary = laws.summary()
    assert summary["family"].tolist() == ["ar", "masked"]
    assert summary["alpha"].tolist() == [float(law.alpha) for law in laws.values()]
    assert summary["params_exponent_low"].tolist() == [law.exponents["params"].low for law in laws.values()]
    assert analysis.fit_laws(three, "isoflop", bootstrap=0).summary()["loss_exponent_low"].isna().all()
    exponent = laws["ar"].exponents["params"]
    assert f"{float(exponent):.3f} [{exponent.low:.3f}, {exponent.high:.3f}]" in str(laws)
    assert "<table" in laws._repr_html_()
    assert laws.to_markdown().startswith("| family | ar | masked |")
    assert r"$\alpha$ & " in laws.to_latex()
    assert all(len(line) < 80 for line in str(laws).split("\n") if not line.startswith("warning"))
    assert len(laws.plot().data) > len(laws["ar"].plot().data)


def test_frontiers_stand_one_below_the_other(three: pd.DataFrame) -> None:
    laws = analysis.fit_laws(three, bootstrap=0)
    table = laws.frontier([1e18, 1e19])
    assert table["family"].tolist() == ["ar", "ar", "masked", "masked"]
    assert table["params"][3] == laws["masked"].optimal(1e19).params


def test_groups_may_be_of_several_columns() -> None:
    one = isoflop_table(noise=0.002, sizes=7)
    runs = pd.concat([one.assign(corpus=c, seed=s) for c in ("web", "code") for s in (1, 2)])
    laws = analysis.fit_laws(runs, by=["corpus", "seed"], bootstrap=0)
    assert list(laws) == ["web, 1", "web, 2", "code, 1", "code, 2"]
    assert laws.summary()["corpus, seed"].tolist() == list(laws)


def test_bad_groups_get_one_sentence(three: pd.DataFrame) -> None:
    with pytest.raises(UserError, match="by = 'colour': no such column; columns: budget, params"):
        analysis.fit_laws(three, by="colour")
    for nothing in ([], None, 3):
        with pytest.raises(UserError, match=r"by = .*: name a column whose values are the groups"):
            analysis.fit_laws(three, by=nothing)
    with pytest.raises(UserError, match=r"^runs: 3 different"):
        analysis.fit_laws(three[three.family == "short"])
    # a fault of the options is told once, not for each group
    for function in (analysis.fit_laws, analysis.compare):
        with pytest.raises(
            UserError, match=r"^n_boot is no option of method 'surface', did you mean bootstrap?"
        ):
            function(three, n_boot=3)
    with pytest.raises(UserError, match=r"^level = 95: a confidence level lies between 0 and 1, e.g. 0.95$"):
        analysis.fit_laws(three, level=95)
    assert list(analysis.fit_laws(three, family="ar", bootstrap=0)) == ["ar"]
    with pytest.raises(UserError, match=r"by is no option .*: analysis.fit_laws"):
        analysis.fit_law(three, by="family")
