"""A sweep's ledger as a source of the dashboard: what changed, who is dead, and nothing written."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pandas as pd
import pytest

from analysis.dashboard.sources import StoreSource
from analysis.errors import UserError
from scaling.errors import UserError as OursError
from sweeps.attempt.journal import JOURNAL, Journal, attempt_folder, run_folder
from sweeps.ledger.ledger import Ledger, State
from sweeps.ledger.owner import Owner
from sweeps.results.dashboard import LedgerSource, show, spec_of
from tests.sweeps.simulation import entry

NO_PROCESS = 2**22 + 1
"""Beyond the largest process number of Linux."""
COLUMNS = {
    "size": "s", "budget": 1e9, "flop_convention": "exact", "flops": 1e9, "flops_exact": 1e9, "params": 10.0,
    "params_non_embedding": 10.0, "tokens": 1e6,
}  # fmt: skip


def planned(key):
    one = entry(key)
    return replace(one, columns={**COLUMNS, "family": one.family, "key": key})


def test_before_the_sweep_starts_there_are_no_runs_and_a_sentence(tmp_path):
    source = LedgerSource(str(tmp_path / "desk"), "desk")
    change = source.read(None)
    assert len(change.rows) == 0
    assert "no runs yet" in change.note
    assert source.read(change.mark) is None
    assert not (tmp_path / "desk").exists(), "looking makes nothing"


def test_only_what_changed_is_read_again(tmp_path):
    clock = iter(range(1000, 100000, 10))
    with Ledger(tmp_path / "desk" / "ledger", now=lambda: float(next(clock))) as ledger:
        ledger.enlist()
        ledger.register([planned("a"), planned("b"), planned("c")])
        source = LedgerSource(str(tmp_path / "desk"), "desk")
        first = source.read(None)
        assert sorted(first.rows["key"]) == ["a", "b", "c"]
        assert first.whole
        json.dumps(first.mark)
        assert source.read(first.mark) is None
        claim = ledger.claim("b")
        second = source.read(first.mark)
        assert (list(second.rows["key"]), list(second.rows["status"])) == (["b"], ["running"])
        assert not second.whole
        ledger.end(claim, State.FINISHED, sentence="bound 3", result={"bound": 3.0, "bits_per_byte": 1.2})
        third = source.read(second.mark)
        assert third.rows["loss"].tolist() == [3.0]
        assert source.story(third.rows.iloc[0])[0]["sentence"] == "bound 3"
        ((objective, measured),) = source.curves(third.rows)
        assert [len(values) for values in (*objective, *measured)] == [0] * 5
        run = run_folder(tmp_path / "desk", str(third.rows["family"][0]), "b")
        with Journal(attempt_folder(run, 1) / JOURNAL) as lines:
            lines.append({"kind": "train", "step": 10, "biased_loss": 1.0})
            lines.append({"kind": "held_out", "step": 10, "held_out_loss": 4.0, "held_out_loss_se": 0.5})
            lines.append({"kind": "train", "step": 20, "loss": 3.5})
        ((objective, measured),) = source.curves(third.rows)
        assert [values.tolist() for values in objective] == [[20], [3.5]]
        assert [values.tolist() for values in measured] == [[10], [4.0], [0.5]]


def test_samples_are_those_of_the_last_attempt_that_has_some(tmp_path):
    row = {"family": "ar", "key": "a"}
    source = LedgerSource(str(tmp_path / "desk"), "desk")
    assert source.texts(row) == []
    run = run_folder(tmp_path / "desk", "ar", "a")
    for number, texts in ((1, ["old"]), (2, ["new", "<b>newer</b>"])):
        with Journal(attempt_folder(run, number) / JOURNAL) as journal:
            journal.append({"kind": "samples", "texts": texts})
            journal.append({"kind": "end", "status": "finished", "sentence": ""})
    with Journal(attempt_folder(run, 3) / JOURNAL) as journal:
        journal.append({"kind": "start"})
    assert source.texts(row) == ["new", "<b>newer</b>"]


def test_a_run_of_a_dead_driver_is_told_as_interrupted_once(tmp_path):
    gone = replace(Owner.this_process(), id="gone", pid=NO_PROCESS)
    with Ledger(tmp_path / "desk" / "ledger", owner=gone) as ledger:
        ledger.enlist()
        ledger.register([planned("a")])
        ledger.claim("a")
    source = LedgerSource(str(tmp_path / "desk"), "desk")
    change = source.read(None)
    assert change.rows["status"].tolist() == ["preempted"]
    assert source.read(change.mark) is None


def test_a_clock_set_back_hides_no_change(tmp_path):
    now = [1e9]
    with Ledger(tmp_path / "desk" / "ledger", now=lambda: now[0]) as ledger:
        ledger.enlist()
        ledger.register([planned("a"), planned("b")])
        source = LedgerSource(str(tmp_path / "desk"), "desk")
        first = source.read(None)
        now[0] -= 3600
        ledger.end(ledger.claim("b"), State.FINISHED, sentence="", result={"bound": 3.0})
        assert source.read(first.mark).rows["key"].tolist() == ["b"]


def test_a_ledger_that_was_built_anew_is_read_whole(tmp_path):
    def fill(*keys) -> None:
        with Ledger(tmp_path / "desk" / "ledger") as ledger:
            ledger.register([planned(key) for key in keys])

    fill("a", "b", "c")
    source = LedgerSource(str(tmp_path / "desk"), "desk")
    first = source.read(None)
    (tmp_path / "desk" / "ledger" / "ledger.db").unlink()
    fill("d")
    with pytest.raises(UserError, match="another one"):
        source.read(first.mark)
    again = source.read(first.mark)
    assert (again.rows["key"].tolist(), again.whole) == (["d"], True)


def test_nothing_is_written_to_the_ledger(tmp_path):
    with Ledger(tmp_path / "desk" / "ledger") as ledger:
        ledger.register([planned("a")])
    path = tmp_path / "desk" / "ledger" / "ledger.db"
    before = path.read_bytes(), path.stat().st_mtime_ns
    source = LedgerSource(str(tmp_path / "desk"), "desk")
    source.read(None)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    with pytest.raises(UserError, match="readonly"), source._opened() as opened:
        opened.note_fact("x", 1)


def test_another_schema_or_a_file_of_something_else_is_one_sentence(tmp_path):
    (tmp_path / "desk" / "ledger").mkdir(parents=True)
    (tmp_path / "desk" / "ledger" / "ledger.db").write_text("this is no database " * 100)
    with pytest.raises(UserError, match="is not a ledger"):
        LedgerSource(str(tmp_path / "desk"), "desk").read(None)


def test_what_the_server_needs_is_plain_json(tmp_path):
    spec = spec_of(tmp_path / "desk", "desk", ["ar"])
    assert json.loads(json.dumps(spec))["source"] == "sweeps.results.dashboard:LedgerSource"


class TestShow:
    """What the server is started with; it is not started."""

    @pytest.fixture
    def started(self, monkeypatch):
        calls = []
        monkeypatch.setattr(
            "sweeps.results.dashboard.serve", lambda place, **how: calls.append({"place": place, **how})
        )
        return calls

    def ledgers(self, out, *names):
        """One after the other, the last one is the newest."""
        for number, name in enumerate(names):
            with Ledger(out / name / "ledger"):
                pass
            os.utime(out / name / "ledger" / "ledger.db", (1000 + number, 1000 + number))

    @pytest.mark.parametrize(
        ("names", "sweep", "first"),
        [((), None, "desk"), (("desk", "evening"), None, "desk"), (("evening", "again"), None, "again"),
         (("evening", "again"), "evening", "evening")],
    )  # fmt: skip
    def test_every_sweep_of_the_folder_can_be_chosen(self, tmp_path, started, names, sweep, first):
        self.ledgers(tmp_path, *names)
        show(sweep, None, [], None, tmp_path)
        (call,) = started
        assert (call["sweep"], call["title"]) == (first, first)
        assert call["place"].notes == tmp_path / first / "notes.json"
        others = call["others"]()
        assert set(others) == {*names, first}
        for name, place in others.items():
            assert place.spec["options"]["sweep"] == name
            files = tmp_path / name / "ledger" / "ledger.db", tmp_path / name / "samples.parquet"
            assert place.files == files
        self.ledgers(tmp_path, "later")
        assert "later" in call["others"](), "one that is started meanwhile"

    def test_a_table_keeps_its_notes_beside_it_and_offers_the_sweeps_it_has(self, tmp_path, started):
        (tmp_path / "runs.csv").write_text("params,tokens,loss\n1,2,3\n")
        show(None, None, [], str(tmp_path / "runs.csv"), tmp_path)
        (call,) = started
        assert call["place"].notes == tmp_path / "runs.csv.notes.json"
        assert (call["title"], call["sweep"], call.get("others")) == ("runs", "", None)

    @pytest.mark.parametrize("ending", ["csv", "parquet"])
    def test_a_table_of_something_else_is_refused_at_the_start(self, tmp_path, started, ending):
        path = tmp_path / f"ab.{ending}"
        frame = pd.DataFrame({"N": [1.0], "D": [2.0], "loss": [3.0]})
        frame.to_csv(path, index=False) if ending == "csv" else frame.to_parquet(path)
        with pytest.raises(
            OursError, match=r"no column params or tokens: .* --columns N=params,D=tokens names"
        ):
            show(None, None, [], str(path), tmp_path)
        assert not started
        names = {"N": "params", "D": "tokens"}
        show(None, None, [], str(path), tmp_path, columns=names)
        (call,) = started
        assert call["place"].spec["options"]["columns"] == names
        change = StoreSource(**call["place"].spec["options"]).read(None)
        assert change.rows["params"].tolist() == [1.0]

    def test_a_table_that_is_still_empty_is_waited_for(self, tmp_path, started):
        (tmp_path / "runs.csv").write_text("")
        show(None, None, [], str(tmp_path / "runs.csv"), tmp_path)
        assert started
