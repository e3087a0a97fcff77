"""The ledger: one holder per run, dead drivers found out, late attempts ignored, bad files refused."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from scaling.errors import UserError
from sweeps.ledger.ledger import Ledger, LedgerUnavailableError
from sweeps.ledger.owner import BOOT_ID, Owner, process_start
from sweeps.ledger.types import SETTLED, Claim, Needs, State
from tests.sweeps.simulation import Clock, entry, other_owner


@pytest.fixture(autouse=True)
def no_synced_writes(monkeypatch):
    """The power does not fail here, and thousands of synced writes take minutes on a busy disk."""
    monkeypatch.setattr("sweeps.ledger.file.SYNCHRONOUS", "OFF")


@pytest.fixture
def clock():
    return Clock()


def open_as(folder: Path, name: str, clock: Clock) -> Ledger:
    ledger = Ledger(folder, now=clock, uptime=clock, owner=other_owner(name), lease_s=15.0)
    ledger.enlist()
    return ledger


def end(ledger: Ledger, claim: Claim, state: State = State.FINISHED, **values) -> bool:
    return ledger.end(claim, state, sentence=str(state), **values)


def test_a_run_is_held_by_one_driver_at_a_time(tmp_path, clock):
    with open_as(tmp_path, "a", clock) as a, open_as(tmp_path, "b", clock) as b:
        a.register([entry("k")])
        claim = a.claim("k")
        assert claim == Claim(key="k", attempt=1)
        assert b.claim("k") is None
        assert a.claim("k") is None
        assert end(a, claim, result={"bound": 2.0})
        assert b.claim("k") is None
        [run] = b.runs()
        assert run.state == State.FINISHED
        assert run.result == {"bound": 2.0}


def test_unknown_runs_cannot_be_claimed(tmp_path, clock):
    with open_as(tmp_path, "a", clock) as a:
        assert a.claim("nobody") is None


def test_registering_again_changes_nothing_that_was_done(tmp_path, clock):
    with open_as(tmp_path, "a", clock) as a:
        a.register([entry("k", 10.0)])
        end(a, a.claim("k"), result={"bound": 2.0})
        a.register([entry("k", 20.0), entry("new")])
        runs = {run.key: run for run in a.runs()}
        assert runs["k"].state == State.FINISHED
        assert runs["k"].result == {"bound": 2.0}
        assert runs["k"].predicted_s == 20.0
        assert runs["new"].state == State.PLANNED


def test_a_silent_driver_is_dead_after_a_lease_and_its_late_word_is_ignored(tmp_path, clock):
    with open_as(tmp_path, "a", clock) as a, open_as(tmp_path, "b", clock) as b:
        a.register([entry("k")])
        old = a.claim("k")
        assert b.runs()[0].state == State.RUNNING
        clock.sleep(14.0)
        assert b.claim("k") is None
        clock.sleep(1.0)
        [run] = b.runs()
        assert run.state == State.PREEMPTED, "whoever asks is told the same"
        assert "driver is gone" in run.sentence
        new = b.claim("k")
        assert new is not None
        assert new.attempt == 2
        assert not end(a, old, result={"bound": 9.0})
        assert end(b, new, result={"bound": 2.0})
        assert b.runs()[0].result == {"bound": 2.0}
        first, second = b.attempts("k")
        assert (first["state"], first["accepted"]) == ("finished", 0)
        assert (second["state"], second["accepted"]) == ("finished", 1)


def test_a_beating_driver_is_alive_for_ever(tmp_path, clock):
    with open_as(tmp_path, "a", clock) as a, open_as(tmp_path, "b", clock) as b:
        a.register([entry("k")])
        a.claim("k")
        for _ in range(20):
            clock.sleep(10.0)
            a.beat()
            assert b.claim("k") is None


def test_a_driver_that_left_is_dead_at_once(tmp_path, clock):
    with open_as(tmp_path, "a", clock) as a, open_as(tmp_path, "b", clock) as b:
        a.register([entry("k")])
        a.claim("k")
        a.retire()
        assert b.claim("k").attempt == 2


def test_a_driver_whose_process_is_gone_from_this_machine_is_dead_at_once(tmp_path):
    code = (
        "import sys, time; from sweeps.ledger.ledger import Ledger\n"
        "ledger = Ledger(sys.argv[1]); ledger.enlist(); ledger.claim('k'); print('held', flush=True)\n"
        "time.sleep(60)"
    )
    with Ledger(tmp_path) as ledger:
        ledger.register([entry("k")])
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
        with process:
            assert process.stdout.readline() == b"held\n"
            assert ledger.claim("k") is None
            process.kill()
        assert ledger.claim("k").attempt == 2


def test_a_number_that_another_process_got_is_no_sign_of_life():
    me = Owner.this_process()
    assert not me.provably_gone()
    earlier = Owner(id="x", host=me.host, machine=me.machine, pid=me.pid, process_started=0.0)
    assert earlier.provably_gone()
    no_process = Owner(id="x", host=me.host, machine=me.machine, pid=2**22 + 1, process_started=0.0)
    assert no_process.provably_gone()
    assert not other_owner("far").provably_gone()


@pytest.mark.skipif(not BOOT_ID.exists(), reason="elsewhere the start of a process is wall time")
def test_a_clock_that_is_set_does_not_make_a_living_driver_look_gone(monkeypatch):
    me = Owner.this_process()
    start = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: start(process) + 3600)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert not me.provably_gone()


def test_a_process_that_has_ended_and_is_not_waited_for_is_gone():
    process = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    with process:
        assert process.stdout.read() == b""
        end = time.monotonic() + 60
        while (started := process_start(process.pid)) is not None and time.monotonic() < end:
            time.sleep(0.01)
        assert started is None


def test_processes_that_claim_at_once_share_the_runs(tmp_path):
    keys = [f"run{i}" for i in range(40)]
    with Ledger(tmp_path / "ledger") as ledger:
        ledger.register([entry(key) for key in keys])
    code = (
        "import sys, json; from sweeps.ledger.ledger import Ledger, State\n"
        "with Ledger(sys.argv[1]) as ledger, ledger.driving():\n"
        "    claims = [c for c in map(ledger.claim, sys.argv[2:]) if c]\n"
        "    [ledger.end(c, State.FINISHED, sentence='') for c in claims]\n"
        "    print(json.dumps([c.key for c in claims]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "ledger"), *keys]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    taken = [key for process in processes for key in json.loads(process.communicate()[0])]
    assert sorted(taken) == sorted(keys)


def test_two_processes_may_create_the_ledger_at_once(tmp_path):
    code = "import sys; from sweeps.ledger.ledger import Ledger; print(len(Ledger(sys.argv[1]).runs()))"
    command = [sys.executable, "-c", code, str(tmp_path / "ledger")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    assert [process.communicate()[0] for process in processes] == [b"0\n"] * 3


def test_a_run_waits_until_it_may_be_tried_again_and_counts_its_failures(tmp_path, clock):
    with open_as(tmp_path, "a", clock) as a:
        a.register([entry("k")])
        assert end(a, a.claim("k"), State.WAITING, signature="boom #", retry_at=clock() + 5)
        assert a.claim("k") is None
        clock.sleep(5)
        claim = a.claim("k")
        assert (claim.attempt, claim.failures, claim.last_signature) == (2, 1, "boom #")


def test_reopening_gives_failed_runs_all_their_tries_again(tmp_path, clock):
    with open_as(tmp_path, "a", clock) as a:
        a.register([entry(key) for key in "abcd"])
        for key, state in zip("abc", (State.FAILED, State.DIVERGED, State.FINISHED), strict=True):
            end(a, a.claim(key), state, signature="boom")
        a.refuse("d", "needs a GPU")
        assert a.reopen() == 2
        states = {run.key: run.state for run in a.runs()}
        assert states == {"a": "planned", "b": "diverged", "c": "finished", "d": "planned"}
        assert a.claim("a").failures == 0
        assert a.reopen(["b"], [State.DIVERGED]) == 1


def test_cancelling(tmp_path, clock):
    with open_as(tmp_path, "a", clock) as a, open_as(tmp_path, "b", clock) as b:
        a.register([entry(key) for key in ("waits", "runs", "done", "orphan")])
        end(a, a.claim("done"))
        a.claim("runs")
        lost = open_as(tmp_path, "c", clock)
        lost.claim("orphan")
        lost.retire()
        lost.close()
        assert b.cancel() == 3
        states = {run.key: run.state for run in b.runs()}
        assert states == {"waits": "cancelled", "runs": "running", "done": "finished", "orphan": "cancelled"}
        assert a.cancel_requests() == ["runs"]
        assert b.cancel_requests() == []
        assert b.cancel(["done"]) == 0


def test_a_cancelled_run_of_a_dead_driver_is_not_taken_over(tmp_path, clock):
    with open_as(tmp_path, "a", clock) as a, open_as(tmp_path, "b", clock) as b:
        a.register([entry("k")])
        a.claim("k")
        b.cancel(["k"])
        a.retire()
        assert b.claim("k") is None
        assert b.runs()[0].state == State.CANCELLED


def test_one_driver_has_a_role(tmp_path, clock):
    with open_as(tmp_path, "a", clock) as a, open_as(tmp_path, "b", clock) as b:
        assert a.hold("recorder")
        assert a.hold("recorder")
        assert not b.hold("recorder")
        clock.sleep(15.0)
        assert b.hold("recorder")
        assert not a.hold("recorder")
        b.release("recorder")
        assert a.hold("recorder")


def test_a_driver_beats_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr("sweeps.ledger.ledger.BEAT_S", 0.02)
    with Ledger(tmp_path) as ledger:
        with ledger.driving():
            time.sleep(0.3)
            [row] = ledger.query("SELECT * FROM drivers")
            assert row["beat"] >= 2
            assert row["ended"] is None
        [row] = ledger.query("SELECT * FROM drivers")
        assert row["ended"] is not None


def test_a_newer_schema_is_refused(tmp_path):
    Ledger(tmp_path).close()
    db = sqlite3.connect(tmp_path / "ledger.db")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(UserError, match=r"schema version 99.*reads 3"):
        Ledger(tmp_path)


def test_a_file_that_is_no_ledger_is_refused_and_left_alone(tmp_path):
    (tmp_path / "ledger.db").write_text("my diary, volume 3\n" * 100)
    for read_only in (True, False):
        with pytest.raises(UserError, match=r"is not a ledger.*run the same `scaling sweep` again"):
            Ledger(tmp_path, read_only=read_only)
    assert (tmp_path / "ledger.db").read_text().startswith("my diary")


# -- order, identity and waits do not depend on the clock ---------------------------------------


def test_changes_are_numbered_whatever_the_clock_says(tmp_path, clock):
    with open_as(tmp_path, "a", clock) as a:
        a.register([entry("x"), entry("y")])
        newest = max(run.changed for run in a.runs())
        clock.time -= 86400
        claim = a.claim("y")
        assert [run.key for run in a.runs(since=newest)] == ["y"]
        end(a, claim)
        [run] = a.runs(since=newest)
        assert (run.key, run.state) == ("y", State.FINISHED)
        assert a.runs(since=run.changed) == []


def test_a_clock_set_back_makes_no_run_wait_for_long(tmp_path, clock):
    with open_as(tmp_path, "a", clock) as a:
        a.register([entry("k")])
        end(a, a.claim("k"), State.WAITING, retry_at=clock() + 100)
        assert not a.runs()[0].due(clock())
        assert a.claim("k") is None
        clock.time -= 86400
        assert a.runs()[0].due(clock())
        assert a.claim("k").attempt == 2


def test_a_wish_to_cancel_is_kept_whatever_the_attempt_comes_to(tmp_path, clock):
    with open_as(tmp_path, "a", clock) as a, open_as(tmp_path, "b", clock) as b:
        a.register([entry(key) for key in ("waits", "done")])
        claims = {key: a.claim(key) for key in ("waits", "done")}
        assert b.cancel() == 2
        assert end(a, claims["waits"], State.WAITING, retry_at=clock()) == State.CANCELLED
        assert end(a, claims["done"], State.FINISHED) == State.FINISHED
        assert a.claim("waits") is None
        assert {run.key: str(run.state) for run in b.runs()} == {"waits": "cancelled", "done": "finished"}
        assert b.reopen(["waits"], [State.CANCELLED]) == 1
        assert end(a, a.claim("waits"), State.WAITING) == State.WAITING, "the old wish is gone"


def test_a_full_disk_is_told_and_loses_nothing_that_was_there(tmp_path, clock):
    with open_as(tmp_path, "a", clock) as a:
        a.register([entry("k")])
        claim = a.claim("k")
        pages = a.connection().execute("PRAGMA page_count").fetchone()[0]
        a.connection().execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own way of having no room
        with pytest.raises(LedgerUnavailableError, match="full"):
            end(a, claim, traceback="x" * 100_000)
        assert a.runs()[0].state == State.RUNNING
        a.connection().execute("PRAGMA max_page_count = 100000")
        assert end(a, claim)


class Drivers(RuleBasedStateMachine):
    """Three drivers that claim, finish, fail, freeze, die and come back, in any order."""

    def __init__(self):
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.drivers = [open_as(Path(self.folder.name), f"d{i}", self.clock) for i in range(3)]
        self.drivers[0].register([entry("x"), entry("y")])
        self.claims: list[tuple[int, Claim]] = []
        self.accepted: list[str] = []
        self.newest = {"x": 0, "y": 0}

    def teardown(self):
        for driver in self.drivers:
            driver.close()
        self.folder.cleanup()

    @rule(driver=st.integers(0, 2), key=st.sampled_from("xy"))
    def claim(self, driver, key):
        claim = self.drivers[driver].claim(key)
        if claim is not None:
            assert claim.attempt == self.newest[key] + 1
            assert key not in self.accepted
            self.newest[key] = claim.attempt
            self.claims.append((driver, claim))

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), state=st.sampled_from([State.FINISHED, State.PREEMPTED, State.WAITING]))
    def end(self, data, state):
        driver, claim = self.claims.pop(data.draw(st.integers(0, len(self.claims) - 1)))
        accepted = end(self.drivers[driver], claim, state)
        assert (accepted is not None) == (claim.attempt == self.newest[claim.key])
        if accepted and state == State.FINISHED:
            assert claim.key not in self.accepted
            self.accepted.append(claim.key)

    @rule(driver=st.integers(0, 2))
    def beat(self, driver):
        self.drivers[driver].beat()

    @rule(seconds=st.sampled_from([1.0, 16.0]))
    def time_passes(self, seconds):
        for driver in self.drivers:
            driver.runs(whole=False)
        self.clock.sleep(seconds)

    @invariant()
    def what_is_accepted_stays(self):
        states = {run.key: run.state for run in self.drivers[0].runs()}
        assert [key for key in "xy" if states[key] in SETTLED] == sorted(self.accepted)


Drivers.TestCase.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
TestDrivers = Drivers.TestCase


def test_a_ledger_of_the_first_schema_is_brought_up_to_date(tmp_path, clock):
    with open_as(tmp_path, "a", clock) as a:
        a.register([entry("k", 10.0)])
        end(a, a.claim("k"), result={"bound": 2.0})
    db = sqlite3.connect(tmp_path / "ledger.db")
    db.executescript(
        "DROP INDEX runs_changed; ALTER TABLE drivers DROP COLUMN role; UPDATE runs SET changed = 1.7e9; "
        "ALTER TABLE runs DROP COLUMN failed_host; DROP TABLE facts; DROP TABLE micro_batches; "
        "UPDATE runs SET needs = '[2.0, 1.0, 3e9]'; PRAGMA user_version = 1"
    )
    db.close()
    with open_as(tmp_path, "b", clock) as b:
        [run] = b.runs()
        assert run.needs == Needs(cpus=2.0, gpus=1.0, memory_bytes=3e9)
        assert run.result == {"bound": 2.0}
        b.register([entry("later")])
        assert [run.key for run in b.runs(since=run.changed)] == ["later"]
        b.note_fact("config", {"name": "desk"})
        assert b.fact("config") == {"name": "desk"}


def test_a_ledger_of_the_second_schema_keeps_its_recorder_apart(tmp_path, clock):
    with open_as(tmp_path, "recorder:a", clock) as a:
        a.register([entry("k", 10.0)])
        end(a, a.claim("k"), result={"bound": 2.0})
    db = sqlite3.connect(tmp_path / "ledger.db")
    db.executescript(
        "DROP INDEX runs_changed; ALTER TABLE drivers DROP COLUMN role; "
        "DELETE FROM facts WHERE name = 'ledger'; PRAGMA user_version = 2"
    )
    db.close()
    with Ledger(tmp_path, now=clock, uptime=clock) as b:
        assert b.id
        assert not b.driven(), "a recorder drives nothing"
        assert b.runs()[0].result == {"bound": 2.0}
