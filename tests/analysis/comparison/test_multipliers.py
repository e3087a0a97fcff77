"""Families against each other: planted multipliers and crossovers, the published study, refusals."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis import compare, published
from analysis.comparison.multipliers import together
from analysis.errors import UserError
from tests.analysis.planted import isoflop_table

AR = (1.8, 400.0, 1500.0, 0.34, 0.36)
BUDGETS = (1e18, 1e19, 1e20, 1e21)


def slower(theta, factor):
    """The same law for a family that needs `factor` times the compute: N* and D* each grow by its square
    root."""
    E, A, B, alpha, beta = theta
    return (E, A * factor ** (alpha / 2), B * factor ** (beta / 2), alpha, beta)


def two_families(other, noise=0.0, seed=0, budgets=BUDGETS):
    return pd.concat(
        [
            isoflop_table(AR, budgets=budgets, sizes=7, span=6, noise=noise, seed=2 * seed, family="ar"),
            isoflop_table(
                other, budgets=budgets, sizes=7, span=6, noise=noise, seed=2 * seed + 1, family="masked"
            ),
        ],
        ignore_index=True,
    )


def test_a_planted_multiplier_is_found():
    multipliers = compare(two_families(slower(AR, 16.0)), bootstrap=0).multipliers
    assert multipliers["at_flops"].tolist() == list(BUDGETS)
    np.testing.assert_allclose(multipliers["multiplier"], 16.0, rtol=1e-6)
    np.testing.assert_allclose(multipliers["reference_flops"], np.array(BUDGETS) / 16, rtol=1e-6)
    assert multipliers["law"].tolist() == ["surface"] * 4


def test_power_laws_find_it_where_the_frontier_has_no_floor():
    """With E = 0 the frontier is a power law. With a floor it is not, which is why the surface is the
    default."""
    straight = (0.0, *AR[1:])
    runs = pd.concat(
        isoflop_table(theta, budgets=BUDGETS, sizes=7, span=6, family=family)
        for theta, family in ((straight, "ar"), (slower(straight, 16.0), "masked"))
    )
    comparison = compare(runs, method="isoflop", bootstrap=0)
    np.testing.assert_allclose(comparison.multipliers["multiplier"], 16.0, rtol=1e-6)
    bent = compare(two_families(slower(AR, 16.0)), method="isoflop", bootstrap=0).multipliers
    assert np.abs(np.log(bent["multiplier"] / 16)).max() > 0.5


def test_a_family_with_its_own_reference_has_multiplier_one():
    same = two_families(AR)
    multipliers = compare(same, bootstrap=0).multipliers
    np.testing.assert_allclose(multipliers["multiplier"], 1.0, rtol=1e-6)
    assert not multipliers["extrapolated"].any()


def test_reading_the_reference_outside_its_data_is_said():
    comparison = compare(two_families(slower(AR, 16.0)), bootstrap=0)
    assert comparison.multipliers["extrapolated"].tolist() == [True, True, False, False]
    assert any("2 of 4 multipliers read the law of ar outside its budgets" in w for w in comparison.warnings)


def test_intervals_hold_the_planted_multiplier():
    """8 noisy tables x 4 budgets; the 4 of a table go together, so at least 6 tables of 8 (p > 0.99)."""
    held = 0
    for seed in range(8):
        multipliers = compare(
            two_families(slower(AR, 16.0), noise=0.003, seed=seed), bootstrap=100, seed=seed
        ).multipliers
        assert (multipliers["low"] < multipliers["multiplier"]).all()
        held += ((multipliers["low"] <= 16) & (multipliers["high"] >= 16)).mean()
    assert held >= 6


def test_multipliers_and_crossovers_agree_where_frontiers_meet():
    """A steeper family overtakes: before the crossing it needs more compute, after it less."""
    steeper = (1.8, 900.0, 4000.0, 0.37, 0.40)
    comparison = compare(two_families(steeper, noise=0.001), bootstrap=100)
    assert len(comparison.crossovers) == 1
    crossing = comparison.crossovers.iloc[0]
    assert crossing["low"] < crossing["flops"] < crossing["high"]
    assert crossing["share"] > 0.9
    laws = comparison.laws
    at = crossing["flops"]
    assert laws["ar"].optimal(at).loss == pytest.approx(laws["masked"].optimal(at).loss, abs=1e-9)
    assert crossing["loss"] == pytest.approx(laws["ar"].optimal(at).loss, abs=1e-9)
    before, after = (
        float(laws["masked"].optimal(f * at).loss - laws["ar"].optimal(f * at).loss) for f in (0.5, 2)
    )
    assert before > 0 > after


def test_a_crossing_that_no_run_is_near_is_not_printed():
    far = compare(two_families((1.8, 900.0, 4000.0, 0.37, 0.40)), bootstrap=0)
    assert far.crossovers["flops"].item() > 10 * max(BUDGETS)
    assert far.measured_crossovers.empty
    assert "meets" not in str(far)
    near = replace(far, crossovers=far.crossovers.assign(flops=3e19))
    assert len(near.measured_crossovers) == 1
    assert "masked meets ar at" in str(near)


def test_a_resample_in_which_the_reference_needs_nothing_opens_the_interval():
    """Runs of a minute, so far from any floor that some resamples have none; warnings are errors here."""
    losses = {
        "ar": [4.94, 5.32, 5.4, 5.43, 5.44, 3.68, 4.61, 5.12, 5.24, 5.32, 3.51, 3.53, 4.01, 4.4, 4.88],
        "masked": [4.87, 5.1, 5.17, 5.24, 5.22, 3.77, 4.54, 4.78, 4.88, 5.0, 3.52, 3.55, 3.95, 4.21, 4.51],
    }
    places = [(flops, params) for flops in (1e8, 2e8, 4e8) for params in (2133, 4057, 6365, 9057, 15593)]
    rows = [
        {"family": family, "params": params, "tokens": flops / (6 * params), "loss": loss}
        for family, own in losses.items()
        for (flops, params), loss in zip(places, own, strict=True)
    ]
    multipliers = compare(pd.DataFrame(rows), bootstrap=50).multipliers
    assert np.isinf(multipliers["high"]).any()
    assert np.isfinite(multipliers["multiplier"]).all()


def test_frontiers_that_never_meet_have_no_crossover():
    comparison = compare(two_families(slower(AR, 4.0)), bootstrap=50)
    assert comparison.crossovers.empty
    assert "meets" not in str(comparison)


def test_below_the_floor_of_the_reference_there_is_no_multiplier():
    better = (1.2, 400.0, 1500.0, 0.34, 0.36)
    comparison = compare(two_families(better), bootstrap=20)
    assert len(comparison.multipliers) < 4
    assert not comparison.multipliers.isna().any().any()
    assert any("lies at or below the floor E of ar" in warning for warning in comparison.warnings)


@pytest.fixture(scope="module")
def sahoo():
    return compare(published.runs("sahoo2026"), method="isoflop", bootstrap=200)


@pytest.mark.parametrize(
    ("family", "first", "last"), [("masked", 11.7, 14.7), ("uniform", 24.6, 25.2), ("esoteric", 30.5, 35.3)]
)
def test_published_runs_give_the_known_multipliers(sahoo, family, first, last):
    """Equal-loss ratios of offset-free laws at 6e18 and 1e20, recomputed elsewhere from these 134 runs."""
    rows = sahoo.multipliers[sahoo.multipliers["family"] == family]
    assert rows["multiplier"].iloc[0] == pytest.approx(first, rel=0.01)
    assert rows["multiplier"].iloc[-1] == pytest.approx(last, rel=0.01)
    assert rows["low"].iloc[-1] < last < rows["high"].iloc[-1]
    assert rows["at_flops"].tolist() == [6e18, 1e19, 3e19, 6e19, 1e20]


def test_the_other_law_is_asked_and_disagreement_is_said(sahoo):
    assert set(sahoo.checks["law"]) == {"surface"}
    assert sahoo.warnings[0].startswith("the form of the law matters more than the noise; from the surface")
    assert all(f"{name} " in sahoo.warnings[0] for name in ("masked", "uniform", "esoteric"))
    assert "is an upper bound on its likelihood" in sahoo.warnings[1]


def test_the_same_warning_of_several_families_is_one_line():
    assert together(
        [
            ("masked", "99 of 1000 resamples did not converge"),
            ("block", "it is so"),
            ("block", "8 of 1000 resamples did not converge"),
            ("masked", "E = 1.5 lies above the loss 2.0e3"),
            ("block", "E = 2.5 lies above the loss 3.0e3"),
            ("masked", "it is so"),
            ("hybrid", "E = 1.5 lies above the loss 2.0e3"),
        ]
    ) == [
        "99 (masked), 8 (block) of 1000 resamples did not converge",
        "block, masked: it is so",
        "masked, hybrid: E = 1.5 lies above the loss 2.0e3",
        "block: E = 2.5 lies above the loss 3.0e3",
    ]


def test_what_is_printed_says_where_and_from_which_law(sahoo):
    text = str(sahoo)
    assert "compute over ar at equal loss, from the isoflop law of each family\n" in text
    allowing = compare(published.runs("sahoo2026"), interval="allowance", bootstrap=20)
    assert "surface law of each family, allowing for a deviation from its form\n" in str(allowing)
    assert "at loss 2.825 (its budget 1.0e20 FLOPs" in text
    summary = sahoo.summary()
    assert summary["family"].tolist() == ["ar", "masked", "uniform", "esoteric"]
    assert summary["multiplier_at_largest"][0] == 1
    last = sahoo.multipliers[sahoo.multipliers["family"] == "masked"].iloc[-1]
    masked = summary[summary["family"] == "masked"].iloc[0]
    ends = [masked[f"multiplier_at_largest{end}"] for end in ("", "_low", "_high")]
    assert ends == last[["multiplier", "low", "high"]].tolist()
    assert masked["params_exponent"] == float(sahoo.laws["masked"].exponents["params"])
    numbers = summary.drop(columns=["family", "law"])
    assert all(pd.api.types.is_numeric_dtype(kind) for kind in numbers.dtypes)
    page = sahoo._repr_html_()
    assert page.count("<tr>") == 16
    assert "exponents of masked less those of ar" in page
    assert "upper bound" in page
    assert sahoo.to_latex().count("extrapolated") == sahoo.multipliers["extrapolated"].sum()
    assert "| masked | 1.0e20 | 2.825 | " in sahoo.to_markdown()
    assert "upper bound" in text
    values = json.loads(json.dumps(sahoo.to_dict(), allow_nan=False))
    assert len(values["multipliers"]) == 15


def test_the_best_runs_of_all_families_are_ranked_by_their_loss(sahoo):
    table = sahoo.optimal([1e22, 1e20])
    assert table["family"].tolist()[:2] == ["ar", "masked"]
    assert len(table) == 8
    for _, rows in table.groupby("flops"):
        assert rows["loss"].is_monotonic_increasing
    assert table["params"][0] == sahoo.laws["ar"].optimal(1e20).params


def test_methods_and_columns_have_other_names_in_a_comparison_too(sahoo):
    runs = published.runs("sahoo2026").rename(columns={"params": "N"})
    same = compare(runs, method="approach 2", columns={"N": "params"}, bootstrap=200)
    pd.testing.assert_frame_equal(same.multipliers, sahoo.multipliers)
    assert same.method == "isoflop"


def test_seeds_make_comparisons_repeatable(sahoo):
    again = compare(
        published.runs("sahoo2026").sample(frac=1, random_state=0), method="isoflop", bootstrap=200
    )
    columns = ["family", "at_flops"]
    pd.testing.assert_frame_equal(
        again.multipliers.sort_values(columns, ignore_index=True),
        sahoo.multipliers.sort_values(columns, ignore_index=True),
    )


def test_an_earlier_comparison_spares_its_fits_and_gives_the_same(monkeypatch):
    runs = two_families(slower(AR, 4.0), noise=0.002)
    first, fresh = (compare(runs, reference, bootstrap=20) for reference in ("ar", "masked"))
    monkeypatch.delattr("analysis.comparison.multipliers.fit_law")  # no law is fitted
    again = compare(runs, "masked", bootstrap=20, laws=first)
    assert again.warnings == fresh.warnings
    pd.testing.assert_frame_equal(again.multipliers, fresh.multipliers)
    pd.testing.assert_frame_equal(again.checks, fresh.checks)


def test_a_family_without_a_law_is_named_and_the_others_are_compared():
    runs = pd.concat(
        [
            two_families(slower(AR, 4.0)),
            isoflop_table(AR, budgets=[1e18], family="short"),
            isoflop_table(AR).head(3).assign(family=None),
        ]
    )
    comparison = compare(runs, bootstrap=0)
    assert list(comparison.laws) == ["ar", "masked"]
    assert comparison.multipliers["multiplier"].to_numpy() == pytest.approx(4.0, rel=1e-6)
    assert set(comparison.checks["family"]) == {"masked"}
    assert any(
        "not compared: family short: runs: all 15 runs spend one budget" in w for w in comparison.warnings
    )
    assert "3 rows without a family are left out" in comparison.warnings
    assert list(compare(runs, "masked", bootstrap=0, laws=comparison.laws).laws) == ["masked", "ar"]
    for laws, reason in ((comparison.laws, "'short' has no law"), (None, "family short: runs: all 15 runs")):
        with pytest.raises(UserError, match=reason):
            compare(runs, "short", bootstrap=0, laws=laws)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda t: t.drop(columns="family"), "a column family"),
        (lambda t: t[t["family"] == "masked"], "reference = 'ar' has no runs; the families are masked"),
        (lambda t: t[t["family"] == "ar"], "only the family ar has runs"),
        (lambda t: t.assign(corpus=t["family"]), "corpus: the families' runs hold 2 kinds"),
        (lambda t: t.assign(flop_convention=t["family"]), "flop_convention: the families' runs hold 2 kinds"),
        (
            lambda t: t[(t["family"] == "ar") | (t["budget"] == 1e18)],
            "family masked: runs: all 7 runs spend one budget",
        ),
    ],
)
def test_bad_tables_get_one_sentence(spoil, sentence):
    with pytest.raises(UserError, match=sentence):
        compare(spoil(two_families(slower(AR, 4.0))), bootstrap=0)
