"""Answers of the page: those of `analysis.recommend`, from laws that a fit left beside its file."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import analysis
from analysis.dashboard import answers, fits, worker
from analysis.errors import UserError
from tests.analysis.dashboard.dashboard_help import made_up


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return fits.counted(made_up(), "params_non_embedding", "flops_6nd")


@pytest.fixture(scope="module")
def own(frame: pd.DataFrame) -> answers.Answers:
    return answers.answers_of(frame)


def test_sentences_and_tables_are_those_of_recommend(own: answers.Answers) -> None:
    expected = analysis.recommend(made_up(), "1e19 FLOPs")
    content = own.answer({"budget": "1e19"})
    json.dumps(content, allow_nan=False)
    assert (content["sentences"], content["confidence"]) == (expected.sentences, expected.confidence)
    assert content["families"] == expected.table["family"].tolist()
    assert content["numbers"][0]["loss"] == pytest.approx(expected.table["loss"][0], rel=1e-5)
    assert content["ranking"]["rows"][1][0] == content["families"][1]
    assert len(content["methods"]["rows"]) == len(expected.methods)
    assert content["figure"]["data"]


def test_without_a_budget_it_is_ten_times_the_largest(own: answers.Answers) -> None:
    assert own.answer({"size": ""})["sentences"] == own.answer({"budget": "6.4e19"})["sentences"]
    assert "100M parameters on" in own.answer({"size": "100M"})["sentences"][0]


def test_one_family_has_nobody_to_be_compared_with(frame: pd.DataFrame) -> None:
    alone = answers.answers_of(frame[frame["family"] == "ar"])
    assert "figure" not in alone.answer({})
    assert "numbers" in alone.answer({})
    assert replace(alone, measured=(2e9,)).ready()[0] == ("budget=2e9", "2e9", "measured")


def test_a_refused_answer_has_no_numbers(own: answers.Answers) -> None:
    content = own.answer({"gpus": "64xH100", "days": "999"})
    assert content["grade"] == "do not use"
    assert not content.keys() & {"ranking", "methods", "numbers", "figure"}


@pytest.mark.parametrize(
    ("question", "words"),
    [({"budget": "lots"}, "flops = 'lots'"), ({"budget": "1e19", "gpus": "8"}, "given twice"),
     ({"gpus": "8"}, "give days"), ({"epochs": "x"}, "epochs = 'x'"),
     ({"size": "1B", "tokens": "1B"}, "one of the two")],
)  # fmt: skip
def test_a_bad_question_is_one_sentence(own: answers.Answers, question: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        own.answer(question)


def test_costs_of_a_loss_are_those_of_budget_for(own: answers.Answers) -> None:
    costs = own.costs("2.9")["costs"]["rows"]
    expected = analysis.budget_for(made_up(), 2.9)
    assert [row[0] for row in costs] == expected["family"].tolist()
    assert [row[1].split(" ")[0] for row in costs] == [
        f"{x:.2e}".replace("e+", "e") for x in expected["flops"]
    ]
    with pytest.raises(UserError, match="loss = 'low'"):
        own.costs("low")


def test_budgets_to_choose_are_the_measured_ones_and_some_beyond(own: answers.Answers) -> None:
    ready = own.ready()
    assert [text for _, text, _ in ready][:4] == ["1e17", "4e17", "1.6e18", "6.4e18"]
    assert [words for _, _, words in ready][3:6] == [
        "measured",
        "3 times the largest",
        "10 times the largest",
    ]
    assert [question for question, _, _ in ready][4:] == [
        "budget=1.92e19",
        "",
        "budget=1.92e20",
        "budget=6.4e20",
    ]


def test_a_budget_counted_otherwise_is_what_its_runs_spent(own: answers.Answers) -> None:
    other = answers.answers_of(fits.counted(made_up(), "params_total", "flops_exact"))
    assert all(a > b for a, b in zip(other.measured, own.measured, strict=True))


def test_runs_without_budgets_and_runs_without_a_law(frame: pd.DataFrame) -> None:
    assert answers.answers_of(frame.assign(nominal=float("nan"))).measured == ()
    none = answers.answers_of(frame.head(3))
    assert none.problem
    assert none.ready() == []
    with pytest.raises(UserError, match=r"\w"):
        none.answer({})


class TestFitter:
    @pytest.fixture(autouse=True)
    def _same_priority(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A fit makes its process give way to others, which would be that of the tests."""
        monkeypatch.setattr(worker.os, "nice", lambda _: 10)

    def fitted(self, frame: pd.DataFrame, cache: Path) -> Path:
        worker.with_keys(frame).to_parquet(cache / worker.SNAPSHOT, index=False)
        job = {
            "params": "params_non_embedding",
            "flops": "flops_6nd",
            "hash": "h",
            "bootstrap": 0,
            "paint": False,
        }
        *_, last = worker.Fitter(cache).fit(job)
        return Path(last["file"])

    def test_leaves_what_questions_are_answered_from(self, tmp_path: Path) -> None:
        (tmp_path / "laws-old-params_non_embedding-flops_6nd.pickle.gz").write_bytes(b"of other runs")
        laws = self.fitted(made_up(), tmp_path)
        content = json.loads(gzip.decompress(laws.read_bytes()))
        fitter = worker.Fitter(tmp_path)
        (answer,) = fitter.answer({"laws": str(laws), "question": {"budget": "6.4e19"}})
        assert answer["sentences"] == content["answers"][""]["sentences"]
        assert content["answers"][""]["figure"]
        assert "figure" not in answer, "the page asks for it when the text is there"
        assert {name for name, *_ in content["ready"]} == content["answers"].keys()
        (problem,) = fitter.answer({"laws": str(laws), "question": {"loss": "low"}})
        assert problem == {"problem": "loss = 'low': give a loss in nats per token, above 0", "end": True}
        picture = {"laws": str(laws), "name": "answer?budget=1e19", "format": "svg", "theme": "light"}
        (drawn,) = fitter.figure({**picture, "families": [], "budgets": []})
        assert drawn["content"]
        assert sorted(path.name.partition(".")[2] for path in tmp_path.glob("laws-*")) == [
            "json.gz",
            "pickle.gz",
        ]

    def test_says_why_there_is_no_answer(self, tmp_path: Path) -> None:
        laws = self.fitted(made_up().head(3), tmp_path)
        content = json.loads(gzip.decompress(laws.read_bytes()))
        assert content["no_answer"]
        assert not content["answers"]
        (answer,) = worker.Fitter(tmp_path).answer({"laws": str(laws), "question": {}})
        assert answer["problem"] == content["no_answer"]

    def test_has_no_answer_from_laws_that_are_gone(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="being fitted again"):
            next(
                worker.Fitter(tmp_path).answer({"laws": str(tmp_path / "laws-x-y-z.json.gz"), "question": {}})
            )
