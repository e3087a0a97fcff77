"""The answer for a budget: right on known worlds, honest where methods disagree, refused far away."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis import budget_for, published, recommend
from analysis.answer.grade import CARE, REFUSED, RELIABLE, grade_of
from analysis.answer.recommendation import answer_from
from analysis.errors import UserError
from analysis.frontier import optimal_logs, optimal_loss, surface_loss
from analysis.laws import fit_law
from tests.analysis.planted import BUDGETS, CHINCHILLA, isoflop_table, samples_table

NOISE = 0.001


def planted(factor: float, seed: int, family: str, **columns: object) -> pd.DataFrame:
    """Runs of a family whose reducible loss is `factor` times Chinchilla's, with a little noise."""
    runs = isoflop_table(span=3.0, sizes=9)  # so narrow that parabolas have next to no bias
    theta = np.array([CHINCHILLA[0], factor * CHINCHILLA[1], factor * CHINCHILLA[2], *CHINCHILLA[3:]])
    clean = surface_loss(theta, runs["params"].to_numpy(), runs["tokens"].to_numpy())
    noise = np.exp(NOISE * np.random.default_rng(seed).standard_normal(len(runs)))
    return runs.assign(loss=clean * noise, family=family, **columns)


@pytest.fixture(scope="module")
def two():
    return pd.concat([planted(1.0, 1, "ar", bound="exact"), planted(1.3, 2, "masked", bound="upper")])


@pytest.fixture(scope="module")
def answer(two):
    return recommend(two, float(max(BUDGETS)))


@pytest.fixture(scope="module")
def sahoo():
    return recommend(published.runs("sahoo2026"), 1e20)


def test_labelled_and_distilled_runs_have_no_part_in_the_answer(two, answer):
    """However low their losses."""
    lower = two.assign(loss=two["loss"] / 2)
    mixed = pd.concat([lower.assign(labels="3 kind"), two, lower.assign(distilled_from="0a1b")])
    budget = float(max(BUDGETS))
    both = recommend(mixed, budget)
    pd.testing.assert_frame_equal(both.table, answer.table)
    assert both.sentence == answer.sentence
    assert (
        analysis.compare(mixed, "ar", bootstrap=20)
        .summary()
        .equals(analysis.compare(two, "ar", bootstrap=20).summary())
    )


def test_on_a_known_world_family_size_loss_and_difference_are_right(answer):
    assert answer.best == "ar"
    assert answer.grade == RELIABLE
    assert answer.order_share == 1.0
    rows = answer.table.set_index("family")
    for family, factor in (("ar", 1.0), ("masked", 1.3)):
        theta = np.array([CHINCHILLA[0], factor * CHINCHILLA[1], factor * CHINCHILLA[2], *CHINCHILLA[3:]])
        logs = optimal_logs(theta, np.array([answer.flops]), fit_law(planted(1.0, 1, "ar"), bootstrap=0).cost)
        row, loss = rows.loc[family], theta[0] + optimal_loss(theta, *logs)[0]
        assert row["loss_low"] <= loss <= row["loss_high"]
        assert row["loss"] == pytest.approx(loss, rel=0.004)
        assert row["params_low"] < np.exp(logs[0][0]) < row["params_high"]
        assert row["tokens_low"] < np.exp(logs[1][0]) < row["tokens_high"]
        # within 0.5% of the best loss, and not far beyond that
        ends = surface_loss(theta, row[["params_low", "params_high"]].to_numpy(float),
                            row[["tokens_high", "tokens_low"]].to_numpy(float))  # fmt: skip
        assert ends == pytest.approx(loss * 1.005, rel=0.004)
    truth = 0.3 * (rows.loc["ar", "loss"] - CHINCHILLA[0])
    assert rows.loc["masked", "difference"] == pytest.approx(truth, rel=0.05)


def test_the_sentence_names_family_sizes_tokens_and_loss(answer):
    row = answer.table.iloc[0]
    text = str(answer)
    assert text.startswith(f"For {answer.budget} train ar: ")
    assert f"loss about {row['loss']:.3f}" in answer.sentence
    assert "it beats masked in 100% of resamples" in answer.sentence
    assert "Best other family: masked" in answer.sentence
    assert "Confidence: reliable. The budget is within the budgets measured" in text


def test_a_shared_error_of_the_held_out_text_cancels_in_the_difference(two):
    alone = recommend(two, 1e20).table.iloc[1]
    shared = recommend(two.assign(loss_se=0.1), 1e20).table.iloc[1]

    def width(row, name):
        return row[f"{name}_high"] - row[f"{name}_low"]

    assert width(shared, "loss") > 5 * width(alone, "loss")
    assert width(shared, "difference") < 0.05 * width(shared, "loss")


def test_the_other_budget_of_the_same_laws_is_the_answer_fitted_anew(two, answer):
    again, anew = answer.at("2 x 10^20"), recommend(two, 2e20)
    pd.testing.assert_frame_equal(again.table, anew.table)
    assert str(again) == str(anew)


def test_published_runs_say_so_when_the_methods_disagree(sahoo):
    near, far = sahoo, sahoo.at(1e22)
    assert near.grade == RELIABLE
    assert near.best == "ar"
    assert far.grade == CARE
    assert "masked or uniform. The surface prefers uniform" in far.sentence
    assert "IsoFLOP prefers masked" in far.sentence
    shares = far.methods[far.methods["method"] == "surface"].set_index("family")["loss"]
    assert shares["uniform"] < shares["masked"]
    parabolas = far.methods[far.methods["method"] == "isoflop"].set_index("family")["loss"]
    assert parabolas["masked"] < parabolas["uniform"]
    # the combined interval holds the estimates of both methods that take part
    row = far.table.set_index("family").loc["masked"]
    both = far.methods.query("family == 'masked' and method != 'surface'")["loss"]
    assert row["loss_low"] <= both.min() <= both.max() <= row["loss_high"]


def test_isoflop_takes_no_part_where_its_minima_refute_its_power_law(answer, sahoo):
    # four decades of budgets bend away from a power law without E
    assert all(family.combined == ("allowance", "allowance") for family in answer.families.values())
    row = answer.table.iloc[0]
    assert (row["loss_high"] - row["loss_low"]) / row["loss"] < 0.01
    assert "isoflop" in set(answer.methods["method"])
    assert sahoo.families["masked"].combined == ("allowance", "isoflop")


def test_beyond_the_distance_at_which_intervals_were_tested_it_refuses(sahoo):
    far = sahoo.at(1e24)
    assert far.grade == REFUSED
    assert far.sentence == (
        "These runs cannot answer 1.0e24 FLOPs: the largest budget measured is 1.0e20, 10000 times below. "
        "Add budgets up to about 1e22 FLOPs."
    )
    assert "train" not in str(far)
    low = sahoo.at(1e14)
    assert low.grade == REFUSED
    assert low.sentence == (
        "These runs cannot answer 1.0e14 FLOPs: the budget lies far below what was measured; the smallest "
        "budget measured is 6.0e18 FLOPs."
    )


def test_an_upper_bound_close_to_an_exact_loss_asks_for_care():
    close = pd.concat([planted(1.0, 1, "ar", bound="exact"), planted(1.02, 2, "masked", bound="upper")])
    answer = recommend(close, float(max(BUDGETS)))
    assert answer.grade == CARE
    assert any("the loss of masked is an upper bound" in cause for cause in answer.causes)


def test_families_that_cannot_be_told_apart_are_both_named():
    same = pd.concat([planted(1.0, 1, "masked"), planted(1.0, 2, "uniform")])
    answer = recommend(same, float(max(BUDGETS)), reference="ar")
    assert answer.reference is None
    assert answer.grade == CARE
    assert "masked or uniform" in answer.sentence or "uniform or masked" in answer.sentence


def test_a_family_without_a_law_is_named_and_the_others_answered(two):
    few = planted(1.1, 3, "block").head(3)
    answer = recommend(pd.concat([two, few]), 1e20)
    assert "block" in answer.refused
    assert "no law: block:" in str(answer)
    assert list(answer.table["family"]) == ["ar", "masked"]


def test_one_refused_method_leaves_the_other(two):
    # every budget loses its largest sizes: no minimum is bracketed, but a surface can be fitted
    cut = two[two["params"] < 0.7 * two.groupby("budget")["params"].transform("median")]
    answer = recommend(cut, 1e20)
    assert set(answer.methods["method"]) == {"surface", "allowance"}
    assert len(answer.table) == 2


def test_runs_without_a_family_get_an_answer(two):
    answer = recommend(two[two["family"] == "ar"].drop(columns="family"), 1e20)
    assert answer.sentence.startswith("For 1.0e20 FLOPs train ")
    assert list(answer.table["family"]) == [""]


def test_a_given_size_and_given_tokens_are_held(two, answer):
    sized = answer.at(1e20, params="1B")
    assert sized.table["params"].to_numpy() == pytest.approx(1e9)
    assert sized.table["tokens"].iloc[0] == pytest.approx(1e20 / 6e9, rel=0.01)
    read = answer.at(1e20, tokens="50B")
    assert read.table["tokens"].to_numpy() == pytest.approx(5e10)
    assert (sized.table["loss"] > answer.at(1e20).table["loss"] * 0.999).all()


class TestScarceText:
    """Unique tokens as a limit."""

    def test_a_family_without_a_law_of_repeats_reads_it_once(self, answer):
        best = answer.at(1e20).table.iloc[0]
        scarce = answer.at(1e20, unique_tokens=best["tokens"] / 4).table.iloc[0]
        assert scarce["tokens"] <= best["tokens"] / 4 * 1.001
        assert scarce["loss"] > best["loss"]
        # text that is not scarce changes nothing but the search, which is on a grid of sizes
        plenty = answer.at(1e20, unique_tokens=best["tokens"] * 50)
        assert plenty.table["loss"].iloc[0] == pytest.approx(best["loss"], rel=0.005)
        assert "read once" not in plenty.sentence
        sentence = answer.at(1e20, unique_tokens=best["tokens"] / 4, epochs=4).sentence
        assert sentence.endswith(
            "The runs of ar, masked do not show what repeated text is worth, so it is read once."
        )

    def test_repeats_pay_where_the_runs_say_so(self):
        answer = recommend(published.runs("muennighoff2023").drop(columns="excluded"), 1e21, draws=40)
        assert answer.families["ar"].repeats is not None
        once = answer.at(1e21, unique_tokens="3B", epochs=1).table.iloc[0]
        assert "12.0B tokens (4 epochs)" in answer.at(1e21, unique_tokens="3B", epochs=4).sentence
        four = answer.at(1e21, unique_tokens="3B", epochs=4).table.iloc[0]
        assert four["tokens"] <= 4.001 * 3e9
        assert four["loss"] < once["loss"]
        # without a limit it is read as often as pays
        free = answer.at(1e21, unique_tokens="3B").table.iloc[0]
        assert free["tokens"] > four["tokens"]
        assert free["loss"] < four["loss"]


class TestBudgetForALoss:
    """The question the other way round."""

    def test_it_inverts_the_frontier(self, two, answer):
        loss = float(answer.at(1e20).table["loss"].iloc[0])
        table = budget_for(two, loss)
        assert list(table["family"]) == ["ar", "masked"]
        assert table["flops"].iloc[0] == pytest.approx(1e20, rel=0.05)
        assert (table["low"] <= table["flops"]).all()
        assert (table["flops"] <= table["high"]).all()
        pd.testing.assert_frame_equal(table, answer.budget_for(loss))

    def test_a_loss_below_the_floor_is_never_reached(self, answer):
        table = answer.budget_for(CHINCHILLA[0] - 0.5)
        assert (table["flops"] > 1e26).all()
        with pytest.raises(UserError, match="loss = 0: give a loss in nats per token, above 0"):
            answer.budget_for(0)


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        ({"flops": "lots"}, "flops = 'lots': give a number of FLOPs"),
        ({"flops": 1e20, "gpus": 8, "days": 2}, "given twice"),
        ({"flops": 1e20, "params": 1e9, "tokens": 1e9}, "params and tokens fix the budget"),
        ({"flops": 1e20, "params": 1e9, "unique_tokens": 1e9}, "give it without params and tokens"),
        ({"flops": 1e20, "epochs": 2}, "epochs = 2 needs unique_tokens: how much text there is"),
        ({"flops": 1e20, "unique_tokens": 1e9, "epochs": 0.5}, "epochs = 0.5: how often unique_tokens may"),
        ({"flops": 1e20, "tokens": "few"}, "tokens = 'few'"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused_before_any_fit(limits, sentence, monkeypatch):
    monkeypatch.setattr("analysis.answer.recommendation.fit_families", None)
    with pytest.raises(UserError, match=sentence):
        recommend(pd.DataFrame(), **limits)


def test_runs_no_law_can_be_fitted_to_are_refused_with_the_reasons():
    with pytest.raises(UserError, match="ar: runs: 3 different"):
        recommend(planted(1.0, 1, "ar").head(3), 1e20)
    with pytest.raises(UserError, match="give a pandas DataFrame"):
        recommend([1, 2, 3], 1e20)


def test_what_is_wrong_with_a_whole_table_is_said_once(two):
    with pytest.raises(UserError, match=r"^runs: empty$"):
        recommend(two.head(0), 1e20)
    with pytest.raises(UserError, match=rf"^runs: none of the {len(two)} rows names a family$"):
        recommend(two.assign(family=None), 1e20)
    with pytest.raises(UserError, match=r"^ar, masked: runs: column loss is missing \(columns"):
        recommend(two.drop(columns="loss"), 1e20)


def test_a_reference_without_runs_is_refused_unless_it_is_the_usual_one(two):
    with pytest.raises(UserError, match="reference = 'maked': the runs have ar, masked"):
        recommend(two, 1e20, reference="maked", draws=40)
    assert recommend(two, 1e20, reference=None, draws=40).reference is None


def test_a_notebook_shows_what_is_printed(sahoo):
    page = sahoo._repr_html_()
    assert all(sentence in page for sentence in sahoo.sentences)
    assert all(line in page for line in str(sahoo).partition("\n\n")[2].splitlines()), (
        "numbers formatted as on a terminal"
    )
    refused = sahoo.at(1e26)
    assert refused.sentence in refused._repr_html_()
    assert "<pre" not in refused._repr_html_(), "no numbers beside a refusal"


def test_it_is_plain_json_and_a_figure(sahoo):
    content = json.loads(json.dumps(sahoo.to_dict(), allow_nan=False))
    assert content["sentence"] == sahoo.sentence
    assert [row["family"] for row in content["ranking"]] == list(sahoo.table["family"])
    figure = sahoo.plot()
    assert figure.layout.meta["name"] == "answer"
    assert {trace.meta["family"] for trace in figure.data} == set(sahoo.table["family"])
    assert analysis.recommend is recommend


def test_another_way_of_counting_parameters_widens_the_interval(two):
    ar = two[two["family"] == "ar"]
    counted = ar.assign(params_total=ar["params"] * (1 + 3e8 / ar["params"]))
    plain, wider = recommend(ar, 3e21), recommend(counted, 3e21)
    assert len(wider.families["ar"].recounted) == 1
    row, other = plain.table.iloc[0], wider.table.iloc[0]
    assert other["loss_low"] < row["loss_low"] or other["loss_high"] > row["loss_high"]


def test_a_difference_lies_among_those_of_the_methods_that_take_part(sahoo):
    far = sahoo.at(1e22)
    # ar is the allowance alone, masked the mean of both: losses of unlike methods are not subtracted
    assert far.families["ar"].combined != far.families["masked"].combined
    row = far.table.set_index("family").loc["masked"]
    own = far.methods.query("family == 'masked' and method != 'surface'")["difference"]
    assert own.min() <= row["difference"] <= own.max()


def test_repeated_text_does_not_enter_the_laws_of_unlimited_text():
    runs = published.runs("muennighoff2023")
    runs = runs[runs["excluded"] == ""].drop(columns="excluded")
    fresh = runs[runs["tokens"] <= runs["unique_tokens"]]
    every, once = (recommend(table, 1e20, draws=40).table.iloc[0] for table in (runs, fresh))
    assert every["loss"] == once["loss"]


def test_sizes_and_texts_far_from_the_runs_ask_for_care(answer, sahoo):
    odd = answer.at(1e20, params="10B")
    assert odd.grade == CARE
    assert any("tokens per parameter are far outside" in cause for cause in odd.causes)
    one = answer_from({"masked": sahoo.families["masked"]}, {}, 1e20)
    apart = one.methods.copy()
    apart.loc[apart["method"] == "isoflop", "params"] = 1e10
    _, causes = grade_of(one.families, one.table, apart, one.flops, limited=False)
    assert any("the methods put the best size of" in cause for cause in causes)


def test_beyond_the_budgets_the_checks_of_the_best_law_ask_for_care(sahoo):
    advice = sahoo.families["ar"].advice
    assert advice.startswith("use with care: the exponent of N* differs")
    assert sahoo.at(1e20).grade == RELIABLE
    beyond = sahoo.at(5e20)
    assert (beyond.grade, beyond.cause) == (CARE, advice.replace("use with care", "checks of the law of ar"))


def test_the_interval_of_the_loss_reaches_to_what_each_method_estimates(sahoo):
    masked = sahoo.at(1e20).table.set_index("family").loc["masked"]
    surface = sahoo.at(1e20).methods.query("family == 'masked' and method == 'surface'")["loss"].item()
    assert masked["loss_low"] < masked["loss"] < surface == pytest.approx(masked["loss_high"], abs=0.02)
    assert surface <= masked["loss_high"]


@pytest.mark.parametrize("draws", [0, 1, 39, True, 50.0])
def test_too_few_draws_for_an_interval_are_refused(draws):
    with pytest.raises(UserError, match=r"draws = .*from 40 on"):
        recommend(published.runs("sahoo2026"), 1e20, draws=draws)


def test_runs_that_make_no_law_are_refused_without_a_warning():
    runs = published.runs("sahoo2026").query("family == 'masked'")
    worse = recommend(runs.assign(loss=runs["loss"].to_numpy()[::-1]), 1e20, draws=40)
    assert worse.grade == REFUSED
    assert "is not determined by its runs" in worse.sentence


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_a_family_whose_law_is_broken_is_named_and_the_others_answered(factor):
    runs = published.runs("sahoo2026").query("family in ('ar', 'masked')")
    masked = runs["family"] == "masked"
    worse = runs.copy()
    worse.loc[masked, "loss"] = factor * runs.loc[masked, "loss"].to_numpy()[::-1]
    answer = recommend(worse, 1e20, draws=40)
    assert list(answer.table["family"]) == ["ar"]
    assert answer.grade == CARE
    assert answer.cause.startswith("masked is left out: the surface of masked is not determined")
    assert "is not determined by its runs" in answer.refused["masked"]
    assert "no law: masked" in str(answer)
    assert list(answer.budget_for(2.4)["family"]) == ["ar"]


def test_a_run_of_a_shape_like_none_measured_is_refused(sahoo):
    for limits in ({"params": "1T"}, {"tokens": 10}, {"unique_tokens": 1e4}):
        answer = sahoo.at(1e21, **limits)
        assert answer.grade == REFUSED, limits
        assert "tokens per parameter are far outside the" in answer.sentence
    assert sahoo.at(1e21, unique_tokens="5B").grade == CARE


def test_a_limit_on_text_that_does_not_bind_changes_nothing(sahoo):
    free, wide = sahoo.at(1e20), sahoo.at(1e20, unique_tokens="1000B")
    pd.testing.assert_frame_equal(wide.table, free.table)
    assert wide.sentence == free.sentence
    tight = sahoo.at(1e20, unique_tokens="10B").table.set_index("family")
    fixed = sahoo.at(1e20, tokens="10B").table.set_index("family")
    best = free.table.set_index("family")
    for family in ("masked", "uniform", "esoteric"):
        assert tight.loc[family, "tokens"] == pytest.approx(10e9)
        assert tight.loc[family, "loss_low"] == fixed.loc[family, "loss_low"] > best.loc[family, "loss"]


def test_the_budget_for_a_loss_is_looked_for_about_the_data(sahoo):
    costs = sahoo.budget_for(2.8).set_index("family")
    assert costs.loc["masked", "low"] > 1e19
    assert costs.loc["esoteric", "low"] > 1e19
    near = sahoo.budget_for(3.4).set_index("family").loc["masked"]
    assert near["low"] > 1e17
    assert near["low"] < near["flops"] < near["high"] < 1e20


def test_a_family_is_not_asked_further_than_its_own_budgets_reach(sahoo):
    runs = published.runs("sahoo2026")
    runs = runs[(runs["family"] != "ar") | (runs["flops"] <= 1.1e19)]
    short = recommend(runs, 2e20, draws=40)
    assert short.best == "ar"
    assert (short.grade, short.cause) == (
        CARE, "20 times beyond the largest budget measured for ar (1.0e19 FLOPs)"
    )  # fmt: skip
    far = short.at(5e21)
    assert "ar" not in set(far.table["family"])
    assert far.cause == "ar is left out: its budgets end too far from 5.0e21 FLOPs"
    below = sahoo.at(1e17)
    assert (below.grade, below.cause) == (CARE, "60 times below the smallest budget measured (6.0e18 FLOPs)")


def test_a_family_with_a_bad_row_is_missing_in_the_cause_too():
    runs = published.runs("sahoo2026").reset_index(drop=True)
    runs.loc[runs.index[runs["family"] == "ar"][0], "loss"] = np.nan
    answer = recommend(runs, 1e20, draws=40)
    assert answer.best == "masked"
    assert answer.grade == CARE
    assert answer.cause.startswith("ar is left out: loss: row 0")


def test_runs_of_several_sweeps_ask_for_care(two):
    halves = two.assign(sweep=np.where(np.arange(len(two)) % 2, "first", "second"))
    answer = recommend(halves, float(max(BUDGETS)), draws=40)
    assert (answer.grade, answer.cause) == (CARE, "runs of several sweeps are taken together (first, second)")


class TestSpeed:
    SAMPLES = samples_table({"ar": (20.0, 120.0, 2e5), "masked": (26.0, 60.0, 1.8e5)}, noise=0.02)

    def test_samples_add_a_sentence_that_stays_for_other_budgets(self) -> None:
        runs = isoflop_table(family="ar", noise=0.002, sizes=7)
        plain = analysis.recommend(runs, 1e22, draws=40)
        answer = analysis.recommend(runs, 1e22, draws=40, samples=self.SAMPLES)
        sentence = analysis.speed_quality(self.SAMPLES).sentence
        assert answer.sentences == [*plain.sentences, sentence]
        assert answer.at(1e21).sentences[-1] == sentence
        assert answer.to_dict()["speed"] == sentence
        assert plain.to_dict()["speed"] == ""

    def test_a_speed_is_a_second_question(self) -> None:
        runs = isoflop_table(family="ar", noise=0.002, sizes=7)
        comparison = analysis.speed_quality(self.SAMPLES)
        for question in ({"tokens_per_s": 1e4}, {"latency_s": 0.5}):
            answer = analysis.recommend(runs, 1e22, draws=40, samples=self.SAMPLES, **question)
            assert answer.sentences[-1] == comparison.answer(**question)
        with pytest.raises(UserError, match="latency_s needs samples of the runs: `scaling sample SWEEP`"):
            analysis.recommend(runs, 1e22, latency_s=1.0)
        with pytest.raises(UserError, match="no sampler is that fast"):
            analysis.recommend(runs, 1e22, samples=self.SAMPLES, tokens_per_s=1e12)
