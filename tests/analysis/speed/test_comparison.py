"""Speed against quality: numbers of planted tables, the share of intervals that hold them, and refusals."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis.errors import UserError
from analysis.speed.comparison import MANY, ONE
from tests.analysis.planted import samples_table

# perplexities meet where 20 + 120 s / 2e5 = 26 + 60 s / 1.8e5, at s = 22500 tokens/s
TRUE_CROSSING = 22_500.0
FAMILIES = {"masked": (20.0, 120.0, 200_000.0), "uniform": (26.0, 60.0, 180_000.0)}


@pytest.fixture(scope="module")
def samples() -> pd.DataFrame:
    return samples_table(FAMILIES, noise=0.02)


def test_perplexity_is_pooled_over_texts() -> None:
    samples = samples_table({"ar": (20.0, 0.0, 1e5)}, texts=2, steps=(4,))
    samples.at[0, "text_nats"], samples.at[0, "text_tokens"] = [100.0, 900.0], [100, 300]
    (row,) = analysis.speed_quality(samples).points.to_dict("records")
    assert row["gen_ppl"] == pytest.approx(np.exp(1000 / 400))


def test_the_lead_and_its_crossing(samples: pd.DataFrame) -> None:
    comparison = analysis.speed_quality(samples)
    own = comparison.leads[comparison.leads["at"] == MANY]
    assert own["family"].tolist()[:2] == ["masked", "uniform"]
    crossing = comparison.crossings[comparison.crossings["at"] == MANY].iloc[0]
    # between two numbers of steps the line in logs lies a little above the planted curve
    assert crossing["speed"] == pytest.approx(TRUE_CROSSING, rel=0.15)
    assert crossing["low"] < crossing["speed"] < crossing["high"]
    alone = comparison.crossings[comparison.crossings["at"] == ONE].iloc[0]
    assert alone["speed"] == pytest.approx(crossing["speed"] / 40, rel=0.02)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Both that of a perplexity and that of a crossing; a fine ladder, so that lines follow the curves."""
    steps = (2, 3, 4, 6, 8, 12, 16, 24, 32)
    held_perplexity, held_crossing = [], []
    for seed in range(60):
        samples = samples_table(FAMILIES, steps=steps, noise=0.15, seed=seed)
        comparison = analysis.speed_quality(samples, bootstrap=200)
        for row in comparison.points[comparison.points["steps"].isin([2, 8])].to_dict("records"):
            floor, slope, _ = FAMILIES[row["family"]]
            # the mean of nats is the planted one
            held_perplexity.append(row["gen_ppl_low"] <= floor + slope / row["steps"] <= row["gen_ppl_high"])
        many = comparison.crossings[comparison.crossings["at"] == MANY]
        held_crossing.append(bool(((many["low"] <= TRUE_CROSSING) & (many["high"] >= TRUE_CROSSING)).any()))
    assert np.mean(held_perplexity) > 0.88
    assert np.mean(held_crossing) > 0.88


def test_texts_of_one_number_are_drawn_together() -> None:
    """Points that share their texts' luck differ by less than their intervals say."""
    samples = samples_table({"a": (20.0, 0.0, 1e5), "b": (20.0, 0.0, 1e5)}, steps=(4,), noise=0.3)
    texts = zip(samples["text_nats"][0], samples["text_tokens"][0], strict=True)
    worse = [nats + 0.01 * tokens for nats, tokens in texts]
    samples.at[1, "text_nats"] = worse
    comparison = analysis.speed_quality(samples.assign(tokens_per_s_low=samples["tokens_per_s"]))
    first, second = comparison.points.to_dict("records")
    assert first["gen_ppl_high"] > second["gen_ppl"]
    lead = comparison.leads[comparison.leads["at"] == ONE].iloc[0]
    assert (lead["family"], lead["share"]) == ("a", 1.0)


def test_the_order_of_rows_changes_nothing(samples: pd.DataFrame) -> None:
    shuffled = samples.sample(frac=1, random_state=3)
    assert str(analysis.speed_quality(samples)) == str(analysis.speed_quality(shuffled))


def test_fronts_hold_measured_points_only(samples: pd.DataFrame) -> None:
    comparison = analysis.speed_quality(samples)
    front = comparison.front("masked")
    assert front["tokens_per_s"].is_monotonic_increasing
    assert front["gen_ppl"].is_monotonic_increasing
    assert set(front["tokens_per_s"]) <= set(samples["tokens_per_s"])
    with pytest.raises(UserError, match="family = 'ar' has no samples: there are masked, uniform"):
        comparison.front("ar")
    with pytest.raises(UserError, match="give 'many texts' or 'one text'"):
        comparison.front("masked", "two texts")


def test_less_entropy_is_named(samples: pd.DataFrame) -> None:
    assert not [note for note in analysis.speed_quality(samples).notes if "entropy" in note]
    low = samples["family"] == "uniform"
    dull = samples.assign(text_entropy=[
        [value - 0.5 * is_low for value in values]
        for values, is_low in zip(samples["text_entropy"], low, strict=True)
    ])  # fmt: skip
    comparison = analysis.speed_quality(dull)
    (note,) = (note for note in comparison.notes if "entropy" in note)
    assert re.match(r"uniform leads masked with less entropy \(up to 0\.5", note)
    assert note in " ".join(str(comparison).split())


def test_families_that_cannot_be_told_apart_are_named() -> None:
    alike = {"masked": (20.0, 120.0, 1e5), "uniform": (20.0, 120.0, 1.001e5)}
    comparison = analysis.speed_quality(samples_table(alike, noise=0.3))
    assert any("lead in fewer than 95% of resamples" in note for note in comparison.notes)
    assert {row[0] for row in comparison.leads_table().rows} & {"masked/uniform", "uniform/masked"}
    assert re.search("(masked or uniform|uniform or masked) ", comparison.sentence)


class TestAt:
    def test_the_best_at_a_speed(self, samples: pd.DataFrame) -> None:
        comparison = analysis.speed_quality(samples)
        slow, fast = comparison.at(tokens_per_s=10_000), comparison.at(tokens_per_s=60_000)
        assert slow["family"].tolist() == ["masked", "uniform"]
        assert fast["family"].tolist() == ["uniform", "masked"]
        assert slow["best_share"].tolist() == [1.0, 0.0]
        assert slow["offered"].iloc[0] == pytest.approx(26, rel=0.05)
        assert (slow["offered_low"] < slow["offered"]).all()
        assert slow["steps"].tolist() == [16, 16]  # the next faster point that was measured
        assert (slow["tokens_per_s"] >= 10_000).all()

    def test_a_latency_is_a_speed_of_one_text(self, samples: pd.DataFrame) -> None:
        comparison = analysis.speed_quality(samples)
        by_latency = comparison.at(latency_s=128 * 40 / 10_000)
        assert by_latency["family"].tolist() == comparison.at(tokens_per_s=10_000)["family"].tolist()

    def test_as_a_sentence(self, samples: pd.DataFrame) -> None:
        comparison = analysis.speed_quality(samples)
        text = comparison.answer(tokens_per_s=10_000)
        assert text.startswith("For 10.0k tokens/s of many texts use masked: perplexity 2")
        assert "it is the best in 100% of resamples. Next is uniform: perplexity" in text
        alone = comparison.answer(tokens_per_s=95_000)
        assert alone.startswith("For 95.0k tokens/s of many texts use masked")
        assert alone.endswith("no other family is that fast.")

    def test_refusals(self, samples: pd.DataFrame) -> None:
        comparison = analysis.speed_quality(samples)
        with pytest.raises(UserError, match="one of the two"):
            comparison.at()
        with pytest.raises(UserError, match="tokens_per_s = -1: give a number above 0"):
            comparison.at(tokens_per_s=-1)
        with pytest.raises(UserError, match="no sampler is that fast; the fastest one does 100k"):
            comparison.at(tokens_per_s=1e9)
        with pytest.raises(UserError, match=r"latency_s = 1e-09: .* the fastest one does 0\.0512 s"):
            comparison.at(latency_s=1e-9)


class TestRefusals:
    @pytest.mark.parametrize(("column", "value", "reason"), [
        ("judge", "gpt2", "judges give different perplexities"),
        ("judge_rule", "other", "count different tokens"),
        ("length", 64, "change with the length"),
        ("device", "cpu: y", "one device"),
    ])  # fmt: skip
    def test_what_must_not_be_mixed(
        self, samples: pd.DataFrame, column: str, value: object, reason: str
    ) -> None:
        mixed = samples.copy()
        mixed.loc[3, column] = value
        with pytest.raises(UserError, match=f"samples have 2 values of {column} .*{reason}") as error:
            analysis.speed_quality(mixed)
        assert "\n" not in str(error.value)

    def test_no_table(self, samples: pd.DataFrame) -> None:
        with pytest.raises(UserError, match="samples has no column judge and no column entropy"):
            analysis.speed_quality(samples.drop(columns=["judge", "entropy"]))
        with pytest.raises(UserError, match="samples has no rows"):
            analysis.speed_quality(samples.iloc[:0])
        with pytest.raises(UserError, match=r"samples is a str; .*load_samples reads a file"):
            analysis.speed_quality("x.parquet")  # type: ignore[arg-type]
        with pytest.raises(UserError, match="at least 40 draws"):
            analysis.speed_quality(samples, bootstrap=0)
        with pytest.raises(UserError, match="between 0 and 1"):
            analysis.speed_quality(samples, level=95)

    def test_rows_without_a_place_are_named(self, samples: pd.DataFrame) -> None:
        broken = samples.copy()
        broken.at[0, "text_nats"] = [float("nan")] * 24
        broken.loc[1, "tokens_per_s"] = float("nan")
        broken.at[2, "text_tokens"] = [1]
        for column in ("text_nats", "text_tokens", "text_entropy"):
            broken.at[3, column] = []
        comparison = analysis.speed_quality(broken)
        reasons = ["not judged", "speed was not measured", "different lengths", "no texts"]
        assert len(comparison.points) == len(samples) - 4
        for reason, sentence in zip(reasons, comparison.left_out, strict=True):
            assert sentence.startswith("masked ancestral ")
            assert reason in sentence
        with pytest.raises(UserError, match="nothing to compare: masked ancestral 2"):
            analysis.speed_quality(broken.head(4))


def test_printed_within_80_columns_and_with_the_same_cells(samples: pd.DataFrame) -> None:
    comparison = analysis.speed_quality(samples)
    text = str(comparison)
    assert max(map(len, text.splitlines())) <= 80
    for cell in ("many texts", "one text", "ancestral 64"):
        assert cell in text
        assert cell in comparison._repr_html_()
    assert "ancestral 64" in comparison.to_markdown()
    assert comparison.summary() is comparison.leads
    stored = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert len(stored["points"]) == len(samples)
    assert "text_nats" not in stored["points"][0]
    assert "masked up to" in comparison.sentence


def test_one_text_has_no_interval() -> None:
    comparison = analysis.speed_quality(samples_table(FAMILIES, texts=1))
    assert comparison.points["gen_ppl_low"].isna().all()
    assert "[" not in str(comparison.text_table())
    assert len(comparison.plot().data)


class TestFigure:
    def test_it_shows_the_fronts_and_the_crossings(self, samples: pd.DataFrame) -> None:
        comparison = analysis.speed_quality(samples)
        figure = comparison.plot()
        assert figure.layout.meta["name"] == "speed_quality"
        lines = [trace for trace in figure.data if trace.meta["role"] == "line" and trace.xaxis == "x"]
        for trace in lines:
            front = comparison.front(trace.meta["family"])
            assert list(trace.x) == front["tokens_per_s"].tolist()  # one ladder: no corners
            assert list(trace.y) == front["gen_ppl"].tolist()
        marks = [trace for trace in figure.data if trace.meta["role"] == "reference"]
        many = comparison.crossings[comparison.crossings["at"] == MANY]
        assert list(marks[0].x) == many["speed"].tolist()

    def test_two_samplers_meet_at_a_corner(self, samples: pd.DataFrame) -> None:
        ar = samples[samples["family"] == "masked"].copy()
        ar.loc[ar["steps"] > 8, "sampler"] = "other"
        line = next(t for t in analysis.speed_quality(ar).plot().data if t.meta["role"] == "line")
        assert len(line.x) == len(ar) + 1
        corner = [place for place in range(len(line.x) - 1) if line.x[place] == line.x[place + 1]]
        assert len(corner) == 1


class TestDullTexts:
    """A sampler that says one thing again and again: a perplexity near 1 at an entropy near 0."""

    @staticmethod
    def with_a_dull_sampler(samples: pd.DataFrame) -> pd.DataFrame:
        dull = samples[samples["steps"] == 2].assign(sampler="greedy", tokens_per_s=1e6)
        count = len(dull["text_nats"].iloc[0])
        dull = dull.assign(text_nats=[[12.7] * count] * 2, text_entropy=[[0.1] * count] * 2)
        return pd.concat([samples, dull], ignore_index=True)

    def test_it_stands_on_no_front(self, samples: pd.DataFrame) -> None:
        mixed = self.with_a_dull_sampler(samples).assign(heldout_entropy=4.1)
        comparison = analysis.speed_quality(mixed)
        assert comparison.least_entropy == pytest.approx(0.9 * 4.1)
        clean = analysis.speed_quality(samples)
        assert comparison.leads["family"].tolist() == clean.leads["family"].tolist()
        assert comparison.points["dull"].sum() == 2
        assert "greedy" not in str(comparison.text_table())
        (note,) = (note for note in comparison.notes if "repeat" in note)
        assert note.startswith("2 samples have less entropy than 3.69 nats (90% of held-out text's)")
        assert comparison.at(tokens_per_s=1e4)["sampler"].tolist() == ["ancestral"] * 2
        with pytest.raises(UserError, match="no sampler is that fast"):
            comparison.at(tokens_per_s=5e5)
        figure = comparison.plot()
        assert "2 samples of too little entropy are not drawn" in figure.layout.meta["caption"]
        drawn = [key for trace in figure.data if trace.meta["role"] == "points" for key in trace.meta["keys"]]
        assert len(drawn) == 4 * len(samples)  # in each of four panels

    def test_without_a_limit_it_would_lead(self, samples: pd.DataFrame) -> None:
        mixed = self.with_a_dull_sampler(samples)
        for comparison in (
            analysis.speed_quality(mixed),
            analysis.speed_quality(mixed.assign(heldout_entropy=4.1), least_entropy=0),
        ):
            assert comparison.leads["gen_ppl_slowest"].iloc[0] == pytest.approx(1.105, abs=0.001)
            assert comparison.least_entropy == 0

    def test_a_family_with_dull_texts_alone_has_an_empty_front(self, samples: pd.DataFrame) -> None:
        uniform = samples["family"] == "uniform"
        entropies = [
            [0.1] * 24 if dull else list(own)
            for dull, own in zip(uniform, samples["text_entropy"], strict=True)
        ]
        comparison = analysis.speed_quality(samples.assign(text_entropy=entropies), least_entropy=3.0)
        assert not len(comparison.front("uniform"))
        assert set(comparison.leads["family"]) == {"masked"}
        assert max(map(len, str(comparison).splitlines())) <= 80
        assert len(comparison.plot().data)
        with pytest.raises(UserError, match=r"at most 4\.0. nats of entropy, and 9\.00 are needed"):
            analysis.speed_quality(samples, least_entropy=9.0)
