"""A sweep from another machine: only the tracking store is within reach."""

from __future__ import annotations

import shutil

import pytest

from scaling.errors import UserError
from sweeps.attempt.journal import JOURNAL, Journal, attempt_folder, run_folder
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.status import runs_with_progress, to_brief
from sweeps.ledger.types import State
from sweeps.record import board
from sweeps.show.remote import reach
from tests.sweeps.recording import record
from tests.sweeps.simulation import entry

CONFIG = (
    "name: s\nfamilies: [uniform]\nladder: desk\ngrid: {budgets: [1e9], sizes: [4x1]}\n"
    "context_length: 8\nlearning_rate: {base: 1e-3}\nbatch: {base_tokens: 64}\n"
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A sweep of a finished, a failed and a planned run, recorded in OUT/mlflow.db."""
    folder = tmp_path_factory.mktemp("out")
    with Ledger(folder / "s" / "ledger") as ledger:
        ledger.register(entry(key) for key in ("done", "bad", "new"))
        for key, state in (("done", State.FINISHED), ("bad", State.FAILED)):
            claim = ledger.claim(key)
            path = attempt_folder(run_folder(folder / "s", "uniform", key), 1) / JOURNAL
            with Journal(path) as journal:
                for step in (1, 2, 3):
                    journal.append({"kind": "train", "step": step, "loss": 3.0 / step, "tokens": step})
            ledger.end(
                claim,
                state,
                sentence=f"it is {state}",
                result={"key": key, "bound": 1.5, "steps_done": 3} if state == State.FINISHED else None,
                traceback="Traceback: boom" if state == State.FAILED else None,
                signature="boom",
            )
    assert record("s", folder, uri(folder)) == 0
    return folder


@pytest.fixture
def out(recorded, tmp_path):
    """A copy of that sweep."""
    shutil.copytree(recorded, tmp_path / "out")
    return tmp_path / "out"


def uri(out) -> str:
    return f"sqlite:///{out / 'mlflow.db'}"


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def elsewhere(out, config, tmp_path):
    """The sweep as a machine sees it that has no ledger."""
    with reach(None, config, uri(out), tmp_path / "nothing") as reached:
        yield reached


def test_runs_are_those_of_the_ledger(elsewhere, out, config):
    with reach(None, config, None, out) as here:
        assert list(map(to_brief, elsewhere.runs())) == list(map(to_brief, here.runs()))
    assert {row.key: row.state for row in elsewhere.runs()} == {
        "done": "finished",
        "bad": "failed",
        "new": "planned",
    }


def test_a_wish_is_carried_out_by_the_next_recorder(elsewhere, out, monkeypatch):
    monkeypatch.setattr(board, "ANSWER_S", 0.2)
    assert "as soon as somebody does" in board.ask(elsewhere._tags, "retry", [], ["bad"], patience_s=0.2)
    assert record("s", out, uri(out)) == 0
    with Ledger(out / "s" / "ledger") as ledger:
        assert {row.key: row.state for row in runs_with_progress(ledger)}["bad"] == "planned"
    assert {row.key: row.state for row in elsewhere.runs()}["bad"] == "planned"


def test_the_story_of_a_run_comes_from_the_store(elsewhere, capsys):
    elsewhere.log("bad", lines=2, follow=False)
    text = capsys.readouterr().out
    assert "step       3  train_loss 1.0000" in text
    assert "step       1" not in text
    assert "failed: it is failed" in text
    assert "Traceback: boom" in text
    elsewhere.log("new", lines=2, follow=False)
    assert "not been recorded yet" in capsys.readouterr().out
    with pytest.raises(UserError, match="--follow needs the ledger"):
        elsewhere.log("bad", lines=2, follow=True)


def test_the_story_here_has_every_attempt(out, config, capsys):
    with reach(None, config, None, out) as here:
        here.log("do", lines=1, follow=True)
    text = capsys.readouterr().out
    assert "attempt 1" in text
    assert "2 training records before these" in text
    assert "finished: it is finished" in text


def test_what_is_not_there_is_told(out, config, tmp_path):
    other = tmp_path / "t.yaml"
    other.write_text(CONFIG.replace("name: s", "name: t"))
    with pytest.raises(UserError, match="has no sweep 't'"), reach(None, other, uri(out), tmp_path):
        pass
    with pytest.raises(UserError, match="has no runs under"), reach(None, config, None, tmp_path / "nothing"):
        pass
    with (
        pytest.raises(UserError, match="does not answer"),
        reach(None, config, "http://127.0.0.1:1", tmp_path),
    ):
        pass
