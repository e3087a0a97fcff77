import subprocess
import sys

import numpy as np
import pytest

import analysis
from analysis import published
from analysis.errors import UserError


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("sahoo2026", 134),
        ("sahoo2026_isoflop", 134),
        ("hoffmann2022", 245),
        ("porian2024", 121),
        ("muennighoff2023", 296),
        ("chao2026", 133),
    ],
)
def test_run_tables_are_ready_for_a_fit(name, rows):
    runs = published.runs(name)
    assert len(runs) == rows
    for column in ("params", "tokens", "flops", "loss"):
        assert runs[column].dtype == np.float64
        assert (runs[column] > 0).all()
    assert not runs.isna().any().any()
    assert runs["family"].isin(["ar", "masked", "uniform", "esoteric"]).all()
    assert runs.attrs["source"]
    assert runs.attrs["licence"]


def test_each_table_is_what_its_note_says():
    sahoo = published.runs("sahoo2026")
    assert sahoo.groupby("family").size().to_dict() == {"ar": 34, "esoteric": 41, "masked": 29, "uniform": 30}
    assert sorted(sahoo["flops"].unique()) == [6e18, 1e19, 3e19, 6e19, 1e20]
    # tokens are whole steps of 256 sequences of 2048
    assert (sahoo["tokens"] % 524288 == 0).all()
    assert sahoo.loc[sahoo["family"] == "ar", "bound"].unique().tolist() == ["exact"]
    hoffmann = published.runs("hoffmann2022")
    assert (hoffmann["excluded"] != "").sum() == 5
    # ten printed digits
    np.testing.assert_allclose(hoffmann["flops"], 6 * hoffmann["params"] * hoffmann["tokens"], rtol=1e-8)
    porian = published.runs("porian2024")
    np.testing.assert_allclose(porian["flops"], 6 * porian["params"] * porian["tokens"], rtol=1e-8)
    assert porian["flops"].nunique() == 12


def test_runs_on_repeated_text_say_how_much_of_it_was_new():
    runs = published.runs("muennighoff2023")
    assert (runs["excluded"] == "").sum() == 182
    # no run reads less than its unique tokens
    assert (runs["tokens"] >= runs["unique_tokens"]).all()
    assert (runs["tokens"] / runs["unique_tokens"]).max() == 9000
    np.testing.assert_allclose(runs["flops"], 6 * runs["params"] * runs["tokens"], rtol=1e-8)


def test_losses_that_bound_nothing_are_kept_apart():
    runs = published.runs("chao2026")
    assert runs.groupby("family").size().to_dict() == {"ar": 65, "masked": 68}
    np.testing.assert_allclose(runs["flops"], 6 * runs["params"] * runs["tokens"], rtol=1e-8)
    prime = published.runs("chao2026_prime")
    assert prime["bound"].unique().tolist() == ["none"]
    assert "withdrawn" in prime.attrs["status"]
    with pytest.raises(UserError, match="no finished run to fit"):
        analysis.fit_law(prime)


@pytest.mark.parametrize(("family", "E", "a"), [("ar", 2.029, 0.524), ("masked", 2.427, 0.496)])
def test_chao_surfaces_are_those_of_the_table_of_laws(family, E, a):
    runs = published.runs("chao2026")
    law = analysis.fit_law(runs[runs["family"] == family], bootstrap=0)
    printed = published.laws().set_index("name").loc[f"chao2026_{family}"]
    assert law.E == pytest.approx(E, abs=1e-3) == printed["E"]
    assert law.exponents["params"] == pytest.approx(a, abs=1e-3) == printed["params_exponent"]


def test_the_ladder_has_sizes_and_flops():
    ladder = published.runs("sahoo2026_ladder")
    assert len(ladder) == 28
    size = ladder.set_index("name").loc["170M"]
    assert size["params_non_embedding"] == pytest.approx(163.06e6, rel=1e-4)
    runs = published.runs("sahoo2026").query("size == '170M'")
    assert (runs["params"] == size["params_non_embedding"]).all()
    # tokens = budget / (3 x forward FLOPs per token), rounded down to whole steps
    expected = runs["flops"] / (3 * size["forward_flops_per_sequence"] / 2048)
    assert ((expected - runs["tokens"]) / 524288).between(-1.01, 1.01).all()


def test_every_table_is_listed_with_its_provenance():
    listed = published.tables()
    assert listed["name"].tolist() == [
        "sahoo2026",
        "sahoo2026_ladder",
        "hoffmann2022",
        "porian2024",
        "muennighoff2023",
        "chao2026",
        "chao2026_prime",
    ]
    assert (listed[["source", "licence", "status", "note"]] != "").all().all()
    assert listed["rows"].tolist() == [134, 28, 245, 121, 296, 133, 62]


def test_an_unknown_table_lists_the_known_ones():
    with pytest.raises(UserError, match=r"is called 'kaplan2020'; there are sahoo2026, .*porian2024"):
        published.runs("kaplan2020")


def test_laws_have_source_convention_and_standing():
    laws = published.laws().set_index("name")
    assert laws.index.is_unique
    required = [
        "paper",
        "arxiv",
        "family",
        "method",
        "params_counted",
        "flops_counted",
        "corpus",
        "evidence",
        "status",
    ]
    assert (laws[required] != "").all().all()
    assert set(laws["status"]) <= {"valid", "corrected", "withdrawn", "disputed"}
    assert laws.loc["chao2026_prime", "status"] == "withdrawn"
    assert laws.loc["hoffmann2022_surface", "status"] == "corrected"
    assert laws["arxiv"].str.fullmatch(r"\d{4}\.\d{5}").all()
    assert laws.loc["hoffmann2022_surface", "E"] == 1.69
    assert laws.loc["muennighoff2023_constrained", ["R_D", "R_N"]].tolist() == [15.387756, 5.309743]
    assert laws.loc["prabhudesai2025_masked", "status"] == "disputed"
    sums = laws["params_exponent"].dropna() + laws["tokens_exponent"].dropna()
    # a + b = 1 where C = k N D; a fitted D* may miss it by a few percent
    assert sums.between(0.98, 1.01).all()
    surface = laws[laws["alpha"].notna() & laws["params_exponent"].notna()]
    a = surface["beta"] / (surface["alpha"] + surface["beta"])
    # Hoffmann et al. print 0.46 beside exponents that give 0.452
    assert (a - surface["params_exponent"]).abs().max() < 0.01


def test_the_besiroglu_law_is_near_the_exact_optimum():
    law = analysis.fit_law(published.runs("hoffmann2022"), bootstrap=0)
    printed = published.laws().set_index("name").loc["besiroglu2024"]
    for symbol, tolerance in (("E", 1e-3), ("alpha", 1e-3), ("beta", 2e-3)):
        assert getattr(law, symbol) == pytest.approx(printed[symbol], abs=tolerance)


def test_public_names():
    assert analysis.__all__ == [
        "Estimate",
        "budget_for",
        "compare",
        "compare_sequences",
        "counted",
        "diagnose",
        "figures",
        "fit_law",
        "fit_laws",
        "fit_power_law",
        "fit_response",
        "fit_tuning_law",
        "laws",
        "load_law",
        "load_runs",
        "load_samples",
        "load_sequence_losses",
        "paired_difference",
        "published",
        "recommend",
        "rollout",
        "select",
        "speed_quality",
    ]
    for name in analysis.__all__:
        assert getattr(analysis, name) is not None
    # completion offers the public names and nothing else
    assert dir(analysis) == analysis.__all__
    with pytest.raises(AttributeError, match="has no attribute 'fit_them'"):
        analysis.fit_them  # noqa: B018


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, analysis; print([m for m in ('numpy', 'pandas', 'scipy', 'plotly') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_names_stay_functions_after_their_modules_are_imported():
    import analysis.comparison
    import analysis.laws.surface

    assert callable(analysis.compare)
    assert callable(analysis.fit_law)
