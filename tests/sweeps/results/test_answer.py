"""`scaling ask`: the answer in a terminal, its limits, and what it says of bad questions."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from rich.console import Console

import analysis
from analysis import published, recommend
from analysis.errors import UserError as AnalysisError
from scaling.errors import UserError
from sweeps.results.answer import show_answer
from sweeps.results.laws import RunTable, store_table
from sweeps.show.steps import Waiting
from tests.analysis.planted import isoflop_table, samples_table
from tests.sweeps.command_line import here, quick_machine, refused, scaling, write_table

__all__ = ["here", "quick_machine"]


@pytest.fixture(scope="module")
def sahoo() -> RunTable:
    return store_table("published:sahoo2026", None)


@pytest.fixture
def out(monkeypatch) -> Console:
    return Console(width=80, force_terminal=False, color_system=None)


def test_it_says_what_the_interface_says(sahoo, out, capsys):
    assert show_answer(sahoo, out, flops="1e22")
    text = capsys.readouterr().out
    answer = recommend(published.runs("sahoo2026"), 1e22)
    assert " ".join(text.split()).startswith(f"{answer.sentence} {answer.confidence}")
    assert "masked or uniform" in text
    assert max(map(len, text.splitlines())) <= 80


def test_without_a_budget_it_is_ten_times_the_largest(sahoo, out, capsys):
    show_answer(sahoo, out)
    assert "For 1.0e21 FLOPs train ar" in capsys.readouterr().out


def test_a_budget_too_far_away_is_refused_without_numbers(sahoo, out, capsys):
    assert not show_answer(sahoo, out, flops="1e24")
    text = capsys.readouterr().out
    assert "These runs cannot answer 1.0e24 FLOPs" in text
    assert "masked" not in text


def test_the_reference_is_a_family_by_any_of_its_names(sahoo, out, capsys):
    assert show_answer(sahoo, out, flops="1e20", reference="mdlm")
    assert "masked ends 0." in capsys.readouterr().out
    with pytest.raises(
        AnalysisError, match="reference = 'block': the runs have ar, masked, uniform, esoteric"
    ):
        show_answer(sahoo, out, flops="1e20", reference="block")


def test_what_a_loss_costs(sahoo, out, capsys):
    assert show_answer(sahoo, out, loss=2.6)
    text = capsys.readouterr().out
    assert "what a loss of 2.6 nats per token costs" in text
    assert text.index("ar") < text.index("masked") < text.index("uniform")
    assert max(map(len, text.splitlines())) <= 80
    with pytest.raises(UserError, match="--loss asks for its budget"):
        show_answer(sahoo, out, loss=2.6, flops="1e20")


def test_json_is_the_whole_answer(sahoo, out, capsys):
    show_answer(sahoo, out, flops="1e20", as_json=True)
    assert json.loads(capsys.readouterr().out)["ranking"][0]["family"] == "ar"
    show_answer(sahoo, out, loss=2.0, as_json=True)
    costs = json.loads(capsys.readouterr().out)
    assert costs[0]["family"] == "ar"
    assert None in [row["high"] for row in costs]


def test_a_family_without_a_law_is_named(out, capsys):
    runs = isoflop_table(span=3.0, sizes=9, noise=0.001, family="ar")
    few = isoflop_table(span=3.0, sizes=9, noise=0.001, family="masked").head(2)
    table = RunTable(frame=pd.concat([runs, few], ignore_index=True), source="here")
    assert not show_answer(table, out)
    assert "no law of masked: runs: 2 different" in capsys.readouterr().out


def test_runs_that_are_not_done_are_no_answer(out):
    runs = isoflop_table().assign(status="running")
    with pytest.raises(UserError, match="no finished run to answer from"):
        show_answer(RunTable(frame=runs, source="here"), out)


def test_in_a_pipe_it_says_which_family_it_fits_when_that_takes_long(out, capsys, monkeypatch):
    monkeypatch.setattr(
        Waiting, "__enter__", lambda self: (self._tell(), self)[1]
    )  # the time is over at once
    runs = isoflop_table(span=3.0, sizes=9, noise=0.001, family="ar")
    show_answer(RunTable(frame=runs, source="here"), out)
    captured = capsys.readouterr()
    assert captured.err.splitlines() == ["asking the laws ...", "fitting ar (1 of 1) ..."]
    assert "fitting" not in captured.out


class TestSpeed:
    def ask(self, here, capsys, *more):
        write_table("runs.csv", {"ar": 3, "masked": 3})
        code = scaling("ask", "--store", "runs.csv", *more)
        return code, " ".join(capsys.readouterr().out.split())

    def test_samples_of_the_sweep_answer_a_speed(self, here, capsys):
        samples = samples_table({"ar": (20.0, 120.0, 2e5), "masked": (26.0, 60.0, 1.8e5)}, noise=0.02)
        (here / "runs" / "runs").mkdir(parents=True)
        samples.to_parquet(here / "runs" / "runs" / "samples.parquet")
        comparison = analysis.speed_quality(samples)
        _, text = self.ask(here, capsys)
        assert comparison.sentence in text
        _, text = self.ask(here, capsys, "--tokens-per-s", "10000")
        assert comparison.answer(tokens_per_s=10_000) in text
        assert "give tokens_per_s or latency_s, one of the two" in refused(
            capsys, "ask", "--store", "runs.csv", "--tokens-per-s", "10000", "--latency-s", "1"
        )

    def test_without_samples_a_speed_is_refused(self, here, capsys):
        write_table("runs.csv", {"ar": 3})
        sentence = refused(capsys, "ask", "--store", "runs.csv", "--latency-s", "1")
        assert "latency_s needs samples of the runs" in sentence
        sentence = refused(capsys, "ask", "--store", "runs.csv", "--loss", "2", "--latency-s", "1")
        assert "--loss asks for its budget" in sentence
