"""The driver, with a simulated pool and a clock: order, room, retries, sharing, stopping."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.attempt.job import Outcome, Trouble
from sweeps.driver.driver import KILL_S, LEDGER_PATIENCE_S, Driver
from sweeps.driver.stopping import StopRequest
from sweeps.driver.verdict import Retries, judge
from sweeps.ledger.ledger import Ledger, LedgerLostError, LedgerUnavailableError
from sweeps.ledger.types import Claim, Needs, State
from tests.sweeps.simulation import Clock, SimulatedPool, entry, failed, finish, finished, other_owner


@pytest.fixture(autouse=True)
def no_synced_writes(monkeypatch):
    """The power does not fail here, and thousands of synced writes take minutes on a busy disk."""
    monkeypatch.setattr("sweeps.ledger.file.SYNCHRONOUS", "OFF")


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ledger(tmp_path, clock):
    with open_as(tmp_path, "me", clock) as ledger:
        yield ledger


def open_as(tmp_path, name, clock) -> Ledger:
    ledger = Ledger(tmp_path / "ledger", now=clock, uptime=clock, owner=other_owner(name))
    ledger.enlist()
    return ledger


def drive(entries, ledger, pool, **options) -> Driver:
    ledger.register(entries)
    driver = Driver(entries, ledger, pool, **options)
    driver.run()
    return driver


def states(ledger) -> dict[str, str]:
    return {run.key: str(run.state) for run in ledger.runs()}


def test_longest_first_and_as_many_as_there_is_room_for(ledger, clock):
    entries = [entry(name, seconds) for name, seconds in zip("abcde", (1, 5, 3, 4, 2), strict=True)]
    times = {e.key: e.predicted_s for e in entries}
    pool = SimulatedPool(clock, lambda job: (times[job.key], finished(job)), slots=2)
    drive(entries, ledger, pool)
    assert pool.started() == ["b", "d", "c", "e", "a"]
    assert pool.most == 2
    assert set(states(ledger).values()) == {"finished"}
    assert clock() - 1e9 == pytest.approx(8, abs=0.6)  # 15 s of work on two slots


@settings(max_examples=25, deadline=None)
@given(
    seconds=st.lists(st.floats(1, 100), min_size=1, max_size=40),
    slots=st.integers(1, 8),
    error=st.floats(0, 0.2),
)
def test_no_slot_idles_while_a_run_waits(tmp_path_factory, seconds, slots, error):
    """List scheduling: never longer than total / slots + longest (Graham 1969), whatever was predicted."""
    clock = Clock()
    entries = [entry(f"r{i}", s) for i, s in enumerate(seconds)]
    real = {e.key: e.predicted_s * (1 + error * (-1) ** i) for i, e in enumerate(entries)}
    pool = SimulatedPool(clock, lambda job: (real[job.key], finished(job)), slots=slots)
    with open_as(tmp_path_factory.mktemp("sweep"), "me", clock) as ledger:
        drive(entries, ledger, pool)
    total, longest = sum(real.values()), max(real.values())
    assert clock() - 1e9 <= total / slots + longest * (1 - 1 / slots) + 1e-3
    assert sorted(pool.started()) == sorted(real)


def test_what_is_done_is_skipped(ledger, clock):
    entries = [entry("done"), entry("new")]
    ledger.register(entries)
    ledger.end(ledger.claim("done"), State.FINISHED, sentence="")
    pool = SimulatedPool(clock, finish(1))
    drive(entries, ledger, pool)
    assert pool.started() == ["new"]
    drive(entries, ledger, pool)
    assert pool.started() == ["new"]


def test_a_lost_worker_is_replaced_later_and_later_but_not_for_ever(ledger, clock):
    lost = failed("killed by SIGKILL", Trouble.LOST)
    pool = SimulatedPool(clock, lambda job: (1.0, lost))
    drive([entry("k")], ledger, pool, retries=Retries(lost=3, wait_s=2, factor=4))
    starts = [time for time, event, _ in pool.log if event == "start"]
    assert [round(b - a) for a, b in itertools.pairwise(starts)] == [3, 9]
    [run] = ledger.runs()
    assert run.state == State.FAILED
    assert "after 3 failed attempts" in run.sentence
    assert run.traceback == "killed by SIGKILL"


def test_a_run_that_recovers_is_finished(ledger, clock):
    pool = SimulatedPool(
        clock, lambda job: (1.0, finished(job) if job.attempt == 3 else failed("lost", Trouble.LOST))
    )
    drive([entry("k")], ledger, pool)
    [run] = ledger.runs()
    assert (run.state, run.attempt, run.traceback) == (State.FINISHED, 3, None)


def test_a_lost_gpu_is_left_for_another_host(ledger, clock):
    """Also by a run that had got further, whose loss does not count."""
    where = []

    def behave(job):
        where.append(pool.rack.on("node 0") != [])
        (Path(job.folder) / "journal.jsonl").parent.mkdir(parents=True, exist_ok=True)
        (Path(job.folder) / "journal.jsonl").write_text('{"kind": "checkpoint", "step": 4}\n')
        return 1.0, failed("GPU lost", Trouble.LOST) if where[-1] else finished(job)

    pool = SimulatedPool(clock, behave, slots=1, nodes=2)
    drive([entry("k")], ledger, pool)
    assert where == [True, False]
    assert states(ledger) == {"k": "finished"}


def test_the_same_failure_twice_is_enough(ledger, clock):
    pool = SimulatedPool(
        clock, lambda job: (1.0, failed(f"IndexError: index {job.attempt} at 0x7f{job.attempt}"))
    )
    drive([entry("k")], ledger, pool)
    assert len(pool.started()) == 2
    assert "the same twice" in ledger.runs()[0].sentence


def test_wrong_input_and_divergence_are_not_tried_again(ledger, clock):
    outcomes = {
        "user": failed("corpus is missing", Trouble.USER),
        "diverged": Outcome(status="diverged", sentence="the loss exploded", result={"steps_done": 7}),
    }
    pool = SimulatedPool(clock, lambda job: (1.0, outcomes[job.key]))
    drive([entry("user"), entry("diverged")], ledger, pool)
    assert len(pool.started()) == 2
    assert states(ledger) == {"user": "failed", "diverged": "diverged"}


@pytest.mark.parametrize(
    ("outcome", "stopping", "cancelled", "state"),
    [
        (Outcome(status="finished", sentence=""), True, True, State.FINISHED),
        (Outcome(status="preempted", sentence=""), True, False, State.PREEMPTED),
        (Outcome(status="preempted", sentence=""), False, False, State.WAITING),
        (Outcome(status="preempted", sentence=""), False, True, State.CANCELLED),
        (failed("full", Trouble.DISK), False, False, State.WAITING),
        (failed("full", Trouble.MEMORY), False, False, State.WAITING),
        (failed("boom"), True, False, State.WAITING),
        (failed("boom"), False, True, State.CANCELLED),
    ],
)
def test_verdicts(outcome, stopping, cancelled, state):
    claim = Claim(key="k", attempt=1)
    verdict = judge(outcome, claim, now=0.0, retries=Retries(), stopping=stopping, cancelled=cancelled)
    assert verdict.state == state


def test_a_run_that_fits_no_node_is_named_with_what_it_needs(ledger, clock):
    pool = SimulatedPool(clock, finish(1), slots=4)
    drive([entry("big", needs=Needs(cpus=8, gpus=1, memory_bytes=2e9)), entry("small")], ledger, pool)
    assert pool.started() == ["small"]
    run = ledger.runs(["big"])[0]
    assert run.state == State.UNSCHEDULABLE
    assert "8 CPU + 1 GPU + 2.0 GB of memory" in run.sentence


def test_only_runs_that_end_in_time_pass_a_big_one_that_waits(ledger, clock):
    """'now' takes one of two CPUs for 10 s, 'big' needs both: 'long' fits beside it, 'short' no more."""
    seconds = {"now": 10.0, "big": 9.0, "long": 8.0, "short": 3.0}
    entries = [entry(key, s, needs=Needs(cpus=2 if key == "big" else 1)) for key, s in seconds.items()]
    pool = SimulatedPool(clock, lambda job: (seconds[job.key], finished(job)), slots=2)
    ledger.register(entries)
    driver = Driver(entries, ledger, pool)
    driver._round()
    assert pool.started() == ["now", "long"]  # 8 s end before the 10 s of 'now'
    driver.run()
    starts = {key: round(time - 1e9) for time, event, key in pool.log if event == "start"}
    assert starts == {"now": 0, "long": 0, "big": 10, "short": 19}


def rounds(*drivers: Driver) -> None:
    """Let drivers take turns until all are done."""
    active = list(drivers)
    for _ in range(10_000):
        for driver in list(active):
            driver.ledger.beat()
            driver._round()
            if driver._done():
                active.remove(driver)
        if not active:
            return
    pytest.fail("the drivers do not come to an end")


def test_two_drivers_share_and_nothing_runs_twice(tmp_path, clock):
    entries = [entry(f"r{i}", 10.0 + i) for i in range(9)]
    with open_as(tmp_path, "a", clock) as a, open_as(tmp_path, "b", clock) as b:
        a.register(entries)
        pools = [SimulatedPool(clock, finish(20), slots=2) for _ in range(2)]
        rounds(Driver(entries, a, pools[0]), Driver(entries, b, pools[1]))
        started = [pool.started() for pool in pools]
        assert sorted(started[0] + started[1]) == sorted(e.key for e in entries)
        assert min(len(s) for s in started) >= 3
        assert {run.attempt for run in a.runs()} == {1}


def test_a_driver_takes_over_from_one_that_fell_silent(tmp_path, clock):
    entries = [entry("x"), entry("y")]
    with open_as(tmp_path, "dead", clock) as dead, open_as(tmp_path, "b", clock) as b:
        dead.register(entries)
        claim = dead.claim("x")
        pool = SimulatedPool(clock, finish(5), slots=1)
        drive(entries, b, pool)
        assert pool.started() == ["y", "x"]
        assert clock() - 1e9 == pytest.approx(20, abs=2)  # the lease, then the run
        assert not dead.end(claim, State.FINISHED, sentence="too late", result={"bound": 9.9})
        assert b.runs(["x"])[0].result["bound"] == 1.5


def test_the_outcome_of_an_attempt_that_lost_its_run_is_ignored(tmp_path, clock):
    with open_as(tmp_path, "slow", clock) as slow, open_as(tmp_path, "b", clock) as b:
        slow.register([entry("k")])
        mine = Driver([entry("k")], slow, SimulatedPool(clock, finish(60)))
        mine._round()
        pool = SimulatedPool(clock, lambda job: (1.0, finished(job)))
        theirs = Driver([entry("k")], b, pool)
        while not theirs._done():  # 'slow' does not beat, so after a lease it is taken for dead
            theirs._round()
        mine.run()
        assert b.runs()[0].attempt == 2
        assert [a["accepted"] for a in b.attempts("k")] == [0, 1]


def test_the_first_wish_to_stop_lets_runs_save_and_the_next_sweep_goes_on(ledger, clock):
    stop = StopRequest()
    entries = [entry("a"), entry("b"), entry("c")]
    pool = SimulatedPool(clock, finish(100), slots=2)
    ledger.register(entries)
    driver = Driver(entries, ledger, pool, stop=stop)
    driver._round()
    stop.ask("Ctrl-C")
    driver.run()
    assert states(ledger) == {"a": "preempted", "b": "preempted", "c": "planned"}
    assert "stopped by Ctrl-C" in ledger.runs(["a"])[0].sentence
    assert list((ledger.folder / "stop").iterdir()) == []
    drive(entries, ledger, pool)
    assert set(states(ledger).values()) == {"finished"}


def test_the_second_wish_ends_runs_at_once(ledger, clock):
    stop = StopRequest()
    pool = SimulatedPool(clock, finish(100), slots=2)
    ledger.register([entry("a")])
    driver = Driver([entry("a")], ledger, pool, stop=stop)
    driver._round()
    driver._files.ask = lambda reason: None  # a worker that does not listen
    stop.ask("Ctrl-C")
    driver._round()
    assert driver.flights
    stop.ask("Ctrl-C")
    driver.run()
    assert states(ledger) == {"a": "preempted"}
    assert "at once" in ledger.runs()[0].sentence


def test_a_stop_file_that_cannot_be_written_ends_runs_at_once(ledger, clock):
    stop = StopRequest()
    ledger.register([entry("a")])
    driver = Driver([entry("a")], ledger, SimulatedPool(clock, finish(100)), stop=stop)
    driver._round()
    (ledger.folder / "stop").write_text("in the way of the folder")
    stop.ask("Ctrl-C")
    driver.run()
    assert states(ledger) == {"a": "preempted"}


def test_a_running_run_is_cancelled_from_elsewhere(tmp_path, ledger, clock):
    entries = [entry("a"), entry("b")]
    pool = SimulatedPool(clock, finish(30), slots=2)
    ledger.register(entries)
    driver = Driver(entries, ledger, pool)
    driver._round()
    with Ledger(tmp_path / "ledger") as other:
        assert other.cancel(["a"]) == 1
    driver.run()
    assert states(ledger) == {"a": "cancelled", "b": "finished"}


def test_a_preempted_worker_is_not_a_failure(ledger, clock):
    preempted = Outcome(status="preempted", sentence="the worker got SIGTERM")
    pool = SimulatedPool(clock, lambda job: (1.0, preempted if job.attempt < 6 else finished(job)))
    drive([entry("k")], ledger, pool)
    assert ledger.runs()[0].state == State.FINISHED


def test_a_ledger_that_cannot_be_written_for_a_while_loses_no_outcome(ledger, clock, monkeypatch):
    pool = SimulatedPool(clock, finish(5))
    ledger.register([entry("k")])
    driver = Driver([entry("k")], ledger, pool)
    driver._round()
    real, broken_until = ledger.end, clock() + 30

    def end(*args, **values):
        if clock() < broken_until:
            raise LedgerUnavailableError("the disk is full")
        return real(*args, **values)

    monkeypatch.setattr(ledger, "end", end)
    driver.run()
    assert ledger.runs()[0].state == State.FINISHED
    assert pool.started() == ["k"]


def test_a_ledger_that_stays_out_of_reach_ends_the_driver_with_a_sentence(ledger, clock, monkeypatch):
    ledger.register([entry("k")])
    driver = Driver([entry("k")], ledger, SimulatedPool(clock, finish(5)))
    driver._round()

    def end(*args, **values):
        raise LedgerUnavailableError("the disk is full")

    monkeypatch.setattr(ledger, "end", end)
    with pytest.raises(LedgerUnavailableError, match="the disk is full"):
        driver.run()
    assert LEDGER_PATIENCE_S <= clock() - 1e9 < LEDGER_PATIENCE_S + 30


def lose(ledger, pool) -> Driver:
    """A driver with a running run, whose ledger file is then deleted."""
    ledger.register([entry("k"), entry("later")])
    driver = Driver([entry("k"), entry("later")], ledger, pool)
    driver._round()
    (ledger.folder / "ledger.db").unlink()
    return driver


def test_a_ledger_that_is_gone_ends_the_sweep_within_seconds_and_lets_runs_save(ledger, clock):
    pool = SimulatedPool(clock, finish(10_000), slots=1)
    views = []
    driver = lose(ledger, pool)
    driver.show = views.append
    with pytest.raises(LedgerLostError, match=r"is gone.*run the same `scaling sweep` again"):
        driver.run()
    assert clock() - 1e9 < 20
    assert "is gone" in views[-1].note
    assert [event for _, event, _ in pool.log] == ["start", "preempted"], "not killed: it could save"
    assert not (ledger.folder / "ledger.db").exists()


def test_a_ledger_that_is_away_for_a_moment_is_waited_for(ledger, clock):
    path = ledger.folder / "ledger.db"
    pool = SimulatedPool(clock, finish(5))
    ledger.register([entry("k")])
    driver = Driver([entry("k")], ledger, pool)
    driver._round()
    path.rename(path.with_name("away"))
    driver._round()
    driver._round()
    path.with_name("away").rename(path)
    driver.run()
    assert ledger.runs()[0].state == State.FINISHED


def test_the_second_wish_to_stop_leaves_whatever_the_ledger_does(ledger, clock, monkeypatch):
    stop = StopRequest()
    ledger.register([entry("k")])
    driver = Driver([entry("k")], ledger, SimulatedPool(clock, finish(5)), stop=stop)
    driver._round()

    def refuse(*args, **values):
        raise LedgerUnavailableError("the disk is full")

    monkeypatch.setattr(ledger, "end", refuse)
    while driver.flights:
        driver._round()
    stop.ask("Ctrl-C")
    driver._round()
    assert not driver._done(), "the first one waits for the ledger"
    stop.ask("Ctrl-C")
    began = clock()
    driver.run()
    assert clock() - began < 5


def test_a_second_wish_leaves_a_pool_that_ends_nothing(ledger, clock):
    stop = StopRequest()
    pool = SimulatedPool(clock, finish(10_000))
    pool.kill = lambda handle: None
    ledger.register([entry("k")])
    driver = Driver([entry("k")], ledger, pool, stop=stop)
    driver._round()
    driver._files.ask = lambda reason: None
    stop.ask("Ctrl-C")
    stop.ask("Ctrl-C")
    began = clock()
    driver.run()
    assert clock() - began < KILL_S + 5


def test_a_cancelled_run_whose_stop_file_cannot_be_written_is_ended_at_once(ledger, clock, tmp_path):
    pool = SimulatedPool(clock, finish(1000), slots=2)
    ledger.register([entry("a")])
    driver = Driver([entry("a")], ledger, pool)
    driver._round()
    (ledger.folder / "stop").write_text("in the way of the folder")
    with Ledger(tmp_path / "ledger") as other:
        other.cancel(["a"])
    driver.run()
    assert states(ledger) == {"a": "cancelled"}
    assert clock() - 1e9 < 30


def test_a_wish_to_cancel_that_comes_as_the_run_is_preempted_is_honoured(ledger, clock, tmp_path):
    def preempted(job):
        with Ledger(tmp_path / "ledger") as other:
            other.cancel(["a"])
        return 0.1, Outcome(status="preempted", sentence="the worker got SIGTERM")

    pool = SimulatedPool(clock, preempted)
    drive([entry("a")], ledger, pool)
    assert states(ledger) == {"a": "cancelled"}
    assert pool.started() == ["a"]


def test_data_that_is_away_costs_no_tries_and_few_attempts(ledger, clock):
    def behave(job):
        away = clock() < 1e9 + 1800
        return 1.0, failed("the data cannot be read", Trouble.DATA) if away else finished(job)

    pool = SimulatedPool(clock, behave, slots=4)
    notes = set()
    entries = [entry(f"r{i}") for i in range(20)]
    drive(entries, ledger, pool, show=lambda view: notes.add(view.note))
    assert set(states(ledger).values()) == {"finished"}
    assert any("data cannot be read" in note for note in notes)
    assert len(pool.log) / 2 < 20 + 4 * 40, "the driver holds back, run by run nothing is learned"
    assert clock() - 1e9 < 1800 + 120 + 60


def test_one_host_without_the_data_does_not_hold_up_the_others(ledger, clock):
    def behave(job):
        blind = pool.rack.on("node 0") != []
        return 1.0, failed("the data cannot be read", Trouble.DATA) if blind else finished(job)

    pool = SimulatedPool(clock, behave, slots=1, nodes=2)
    notes = set()
    drive([entry("a")], ledger, pool, show=lambda view: notes.add(view.note))
    assert states(ledger) == {"a": "finished"}
    assert notes == {""}


def test_watchers_are_told_of_an_end_once_with_its_verdict(ledger, clock):
    ends = []
    pool = SimulatedPool(clock, lambda job: (7.0, finished(job)))
    drive([entry("a")], ledger, pool, show=lambda view: ends.extend(view.ended))
    [end] = ends
    assert (end.entry.key, end.verdict.state, end.seconds) == ("a", State.FINISHED, 7.0)
