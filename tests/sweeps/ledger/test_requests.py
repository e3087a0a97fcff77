"""Cancel, retry, resume: here, and from a machine that reaches the tracking store only."""

from __future__ import annotations

import hashlib
import json
import threading

import pytest

from scaling.errors import UserError
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.requests import carry_out, find_one
from sweeps.ledger.status import runs_with_progress, to_brief
from sweeps.ledger.types import State
from sweeps.record.board import ANSWER, STATUS, WISH, Board, ask, packed, read_status, unpacked
from tests.sweeps.simulation import entry, other_owner


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    """Runs in every state that ends, one that waits and one that a driver elsewhere runs."""
    monkeypatch.setattr("sweeps.ledger.file.SYNCHRONOUS", "OFF")
    with Ledger(tmp_path / "s" / "ledger", owner=other_owner("driver")) as ledger:
        ledger.enlist()
        names = ("finished", "failed", "diverged", "cancelled", "unschedulable", "running", "planned")
        ledger.register(entry(name) for name in names)
        for name in ("finished", "failed", "diverged"):
            ledger.end(ledger.claim(name), State(name), sentence=f"it {name}", signature="x")
        ledger.cancel(["cancelled"])
        ledger.refuse("unschedulable", "too big")
        assert ledger.claim("running")
    with Ledger(tmp_path / "s" / "ledger") as ledger:
        yield ledger


def states(ledger) -> dict[str, str]:
    return {row.key: row.state for row in runs_with_progress(ledger)}


def test_retry_takes_what_failed_and_a_diverged_run_only_by_name(ledger):
    assert carry_out(ledger, "retry", [], []) == "2 runs to be tried again"
    assert states(ledger)["failed"] == states(ledger)["unschedulable"] == "planned"
    assert states(ledger)["diverged"] == "diverged"
    assert carry_out(ledger, "retry", [], ["div"]) == "1 run to be tried again"
    assert states(ledger)["diverged"] == "planned"
    assert ledger.claim("failed").failures == 0, "it has all its tries again"


def test_resume_takes_up_what_was_cancelled(ledger):
    assert carry_out(ledger, "resume", ["uniform"], []).startswith("1 run to go on")
    assert states(ledger)["cancelled"] == "planned"
    assert carry_out(ledger, "resume", [], ["fin"]).startswith("0 runs to go on; 1 others were in no state")


def test_cancel_takes_what_is_not_done(ledger):
    assert carry_out(ledger, "cancel", [], []).startswith("2 runs cancelled")
    assert states(ledger)["planned"] == "cancelled"
    assert ledger.query("SELECT cancel_asked FROM runs WHERE key = 'running'")[0][0] == 1


def test_without_a_driver_it_is_said_that_one_is_needed(tmp_path):
    with Ledger(tmp_path / "ledger") as ledger:
        ledger.register([entry("a")])
        ledger.cancel(["a"])
        assert "nobody drives the sweep now" in carry_out(ledger, "resume", [], [])


def test_keys_and_families_that_are_not_there_are_named(ledger):
    with pytest.raises(UserError, match="no run's key begins with 'zz'"):
        carry_out(ledger, "cancel", [], ["zz"])
    with pytest.raises(UserError, match="family 'ar' has no runs in this sweep, which has: uniform"):
        carry_out(ledger, "retry", ["ar"], [])
    with pytest.raises(UserError, match="action is 'destroy'"):
        carry_out(ledger, "destroy", [], [])
    ledger.register([entry("failed2")])
    with pytest.raises(UserError, match="2 runs' keys begin with 'fail'"):
        find_one(runs_with_progress(ledger), "fail")


# -- by the tracking store ----------------------------------------------------------------------


class Pins:
    """An experiment's tags."""

    def __init__(self) -> None:
        self.pinned: dict[str, str] = {}
        self.writes = 0

    def tags(self):
        return dict(self.pinned)

    def set_tag(self, name, value):
        assert len(value) <= 5000
        self.writes += 1
        self.pinned[name] = value

    def delete_tag(self, name):
        self.pinned.pop(name, None)


def test_the_status_is_the_same_from_anywhere(ledger):
    pins = Pins()
    board = Board(ledger, pins)
    board.attend()
    rows, age_s = read_status(pins, "s")
    assert [to_brief(run) for run in rows] == [to_brief(run) for run in runs_with_progress(ledger)]
    assert age_s < 60
    writes = pins.writes
    board.attend()
    assert pins.writes == writes, "what has not changed is not written again"


def test_a_wish_is_carried_out_and_answered(ledger):
    pins = Pins()
    board = Board(ledger, pins)
    done = threading.Event()
    messages = []

    def asker():
        messages.append(ask(pins, "retry", [], ["failed"]))
        done.set()

    thread = threading.Thread(target=asker)
    thread.start()
    while not done.wait(0.05):
        board.attend()
    thread.join()
    assert messages[0].startswith("1 run to be tried again")
    assert states(ledger)["failed"] == "planned"
    assert not [name for name in pins.pinned if name.startswith((WISH, ANSWER))]


def test_a_wish_nobody_hears_stays_and_is_carried_out_later(ledger):
    pins = Pins()
    assert "as soon as somebody does" in ask(pins, "cancel", [], ["planned"], patience_s=0.1)
    assert states(ledger)["planned"] == "planned"
    Board(ledger, pins).attend()
    assert states(ledger)["planned"] == "cancelled"


def test_a_wish_that_makes_no_sense_is_refused_and_the_recorder_goes_on(ledger):
    pins = Pins()
    pins.pinned[WISH + "1"] = "no json"
    pins.pinned[WISH + "2"] = json.dumps({"action": "cancel", "families": [], "keys": ["zz"]})
    Board(ledger, pins).attend()
    assert pins.pinned[ANSWER + "1"].startswith("refused: ")
    assert "no run's key begins with 'zz'" in pins.pinned[ANSWER + "2"]
    assert STATUS in pins.pinned


def test_ten_thousand_runs_fit_on_the_board():
    rows = [
        [
            hashlib.sha256(b"%d" % i).hexdigest()[:16],
            "uniform",
            "8x1",
            1e9 * i,
            1e4,
            0,
            "finished",
            1,
            2 + i / 7,
        ]
        for i in range(10_000)
    ]
    pieces = packed(rows)
    assert unpacked(pieces) == rows
    assert len(pieces) < 150
    with pytest.raises(ValueError, match="do not belong together"):
        unpacked([pieces[1], pieces[0]])


def test_a_store_without_the_sweep_says_so():
    with pytest.raises(UserError, match="no status of sweep 'desk'"):
        read_status(Pins(), "desk")


def test_a_status_of_another_version_is_refused_with_a_word(ledger):
    pins = Pins()
    Board(ledger, pins).attend()
    older = packed([to_brief(run)[:-1] for run in runs_with_progress(ledger)])
    assert len(older) == 1, "it fits one piece"
    pins.pinned[f"{STATUS}.0"] = older[0]
    with pytest.raises(UserError, match="not of this version of the program"):
        read_status(pins, "s")


def test_the_version_of_a_status_tells_whether_it_can_be_read(ledger):
    pins = Pins()
    Board(ledger, pins).attend()
    head = json.loads(pins.pinned[STATUS])
    first = {name: value for name, value in head.items() if name != "version"}  # it wrote no number
    for other in (first, head | {"version": head["version"] + 1}):
        pins.pinned[STATUS] = json.dumps(other)
        with pytest.raises(UserError, match="not of this version of the program"):
            read_status(pins, "s")
