"""A ledger that is damaged, gone or another one: noticed, told in a sentence, built anew from the runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from sweeps.attempt.job import RESULT, Outcome, write_json
from sweeps.attempt.journal import JOURNAL, Journal, attempt_folder, run_folder
from sweeps.ledger.ledger import Ledger, LedgerLostError
from sweeps.ledger.rebuild import open_whole, take_over
from sweeps.ledger.types import State
from sweeps.show.audit import audit
from tests.sweeps.simulation import Clock, entry


@pytest.fixture(autouse=True)
def no_synced_writes(monkeypatch):
    monkeypatch.setattr("sweeps.ledger.file.SYNCHRONOUS", "OFF")


@pytest.fixture
def clock():
    return Clock()


def trained(out: Path, clock: Clock) -> None:
    """Three runs, of which one is finished in its second attempt, one was interrupted, one diverged."""
    with Ledger(out / "ledger", now=clock, uptime=clock) as ledger:
        ledger.register([entry("done"), entry("half"), entry("bad"), entry("new")])
        ends = [("done", State.WAITING), ("done", State.FINISHED), ("half", State.PREEMPTED)]
        for key, state in [*ends, ("bad", State.DIVERGED)]:
            claim = ledger.claim(key)
            folder = attempt_folder(run_folder(out, "uniform", key), claim.attempt)
            with Journal(folder / JOURNAL, now=clock) as journal:
                journal.append({"kind": "train", "step": 3, "loss": 2.0})
            result = {"key": key, "bound": 2.5} if state == State.FINISHED else {}
            status = "preempted" if state == State.WAITING else str(state)
            outcome = Outcome(status=status, sentence=f"so it {status}", result=result, host="h")
            write_json(folder / RESULT, asdict(outcome))
            clock.sleep(1)
            ledger.end(claim, state, sentence="", result=result)


def noise(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[8192:] = bytes(i * 37 % 251 for i in range(len(content) - 8192))
    path.write_bytes(content)


DAMAGES = {
    "noise": noise,
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "no header": lambda path: path.write_bytes(bytes(100) + path.read_bytes()[100:]),
    "text": lambda path: path.write_text("my diary, volume 3\n" * 100),
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_ledger_is_kept_and_built_anew_from_the_runs_folders(tmp_path, clock, damage):
    trained(tmp_path, clock)
    path = tmp_path / "ledger" / "ledger.db"
    DAMAGES[damage](path)
    damaged = path.read_bytes() if path.exists() else b""
    ledger, sentence = open_whole(tmp_path / "ledger")
    with ledger:
        entries = [entry("done"), entry("half"), entry("bad"), entry("new")]
        ledger.register(entries)
        take_over(ledger, entries)
        take_over(ledger, entries)
        runs = {run.key: run for run in ledger.runs()}
        assert {key: (str(run.state), run.attempt) for key, run in runs.items()} == {
            "done": ("finished", 2),
            "half": ("preempted", 1),
            "bad": ("diverged", 1),
            "new": ("planned", 0),
        }
        assert runs["done"].result["bound"] == 2.5
        assert ledger.claim("half").attempt == 2, "the folder of the first attempt stays as it is"
        assert [a["state"] for a in ledger.attempts("done")] == ["preempted", "finished"]
        checks = audit(tmp_path, "s", None)[:2]  # those of the ledger alone
        assert all(not check.problems for check in checks)
    kept = tmp_path / "ledger" / "damaged-1.db"
    assert kept.exists() == bool(damaged)
    assert not damaged or (kept.read_bytes() == damaged and str(kept) in sentence)


def test_what_has_a_whole_ledger_is_not_taken_from_folders(tmp_path, clock):
    trained(tmp_path, clock)
    before = (tmp_path / "ledger" / "ledger.db").read_bytes()
    ledger, sentence = open_whole(tmp_path / "ledger")
    with ledger:
        assert sentence == ""
        assert len(ledger.attempts("done")) == 2
    assert (tmp_path / "ledger" / "ledger.db").read_bytes() == before


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "noise"])
def test_whoever_uses_a_ledger_that_is_lost_is_told_in_one_sentence(tmp_path, clock, damage):
    trained(tmp_path, clock)
    with Ledger(tmp_path / "ledger") as ledger:
        ledger.runs()
        DAMAGES[damage](tmp_path / "ledger" / "ledger.db")
        for use in (ledger.runs, ledger.beat, lambda: ledger.claim("new")):
            with pytest.raises(LedgerLostError, match="run the same `scaling sweep` again"):
                use()
    assert damage != "gone" or not (tmp_path / "ledger" / "ledger.db").exists(), "no empty one in its place"


def test_another_ledger_under_the_same_name_is_noticed(tmp_path, clock):
    trained(tmp_path, clock)
    with Ledger(tmp_path / "other") as other:
        other.register([entry("done")])
    path = tmp_path / "ledger" / "ledger.db"
    with Ledger(tmp_path / "ledger") as ledger:
        content = (tmp_path / "other" / "ledger.db").read_bytes()
        path.write_bytes(content)  # the same file, another content
        with pytest.raises(LedgerLostError, match="another one"):
            ledger.runs()
    with Ledger(tmp_path / "ledger") as ledger:
        (tmp_path / "other" / "ledger.db").replace(path)
        with pytest.raises(LedgerLostError, match="another one"):
            ledger.beat()


def test_values_that_are_no_json_are_damage_and_no_traceback(tmp_path, clock):
    trained(tmp_path, clock)
    with Ledger(tmp_path / "ledger") as ledger:
        for change in (
            "result = '{'",
            "result = '{}', state = 'asleep'",
            "state = 'finished', needs = '[1]'",
        ):
            with ledger.write() as db:
                db.execute(f"UPDATE runs SET {change} WHERE key = 'done'")
            with pytest.raises(LedgerLostError, match="run 'done'"):
                ledger.runs()
