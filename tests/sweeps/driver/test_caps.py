"""A sweep spends no more than it may, and says what it left undone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scaling.spec import DistillationSpec
from sweeps.attempt.job import Trouble
from sweeps.driver.caps import Caps
from sweeps.driver.driver import Driver
from sweeps.driver.stopping import StopRequest
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.types import Needs, State
from tests.scaling.toys import toy_spec
from tests.sweeps.simulation import Clock, SimulatedPool, entry, failed, finish, finished, other_owner


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ledger(tmp_path, clock, monkeypatch):
    monkeypatch.setattr("sweeps.ledger.file.SYNCHRONOUS", "OFF")
    with Ledger(tmp_path / "ledger", now=clock, uptime=clock, owner=other_owner("me")) as ledger:
        ledger.enlist()
        yield ledger


def costing(key: str, flops: float, seconds: float = 10.0, gpus: float = 0.0):
    made = entry(key, seconds, needs=Needs(gpus=gpus))
    return replace(made, columns={**made.columns, "flops_exact": flops})


def drive(entries, ledger, pool, caps, **options) -> Driver:
    ledger.register(entries)
    driver = Driver(entries, ledger, pool, caps=caps, **options)
    driver.run()
    return driver


def states(ledger) -> dict[str, str]:
    return {run.key: str(run.state) for run in ledger.runs()}


def test_no_run_is_started_that_would_exceed_the_cap_of_flops(ledger, clock):
    entries = [costing("dear", 6e9, 60.0), costing("big", 3e9, 30.0), costing("small", 1e9)]
    pool = SimulatedPool(clock, finish(5), slots=1)
    driver = drive(entries, ledger, pool, Caps(flops=4.5e9))
    assert states(ledger) == {"dear": "planned", "big": "finished", "small": "finished"}
    assert driver.capped == "1 run is beyond the cap of 4.5e9 FLOPs"
    again = drive(entries, ledger, pool, Caps(flops=4.5e9))
    assert again.capped
    assert sorted(pool.started()) == ["big", "small"], "what was spent before counts"
    assert drive(entries, ledger, pool, Caps(flops=1e10)).capped is None
    assert set(states(ledger).values()) == {"finished"}


def test_hours_stop_what_runs_with_a_checkpoint_and_the_sweep_can_go_on(ledger, clock):
    entries = [costing("a", 1e9), costing("b", 1e9)]
    stop = StopRequest()
    drive(entries, ledger, SimulatedPool(clock, finish(7200), slots=1), Caps(hours=1), stop=stop)
    assert clock() - 1e9 == pytest.approx(3600, abs=5)
    assert states(ledger) == {"a": "preempted", "b": "planned"}
    assert stop.reason == "the cap of 1 hours"
    assert stop.planned
    assert "the cap of 1 hours" in ledger.runs(["a"])[0].sentence


def test_gpu_hours_count_every_attempt(ledger, clock):
    entries = [costing("a", 1e9, gpus=2.0)]
    pool = SimulatedPool(clock, finish(7200), slots=1, gpus=2)
    drive(entries, ledger, pool, Caps(gpu_hours=2))
    assert clock() - 1e9 == pytest.approx(3600, abs=5)
    assert states(ledger) == {"a": "preempted"}
    assert ledger.gpu_seconds(["a"]) == pytest.approx(7200, abs=10)
    drive(entries, ledger, pool, Caps(gpu_hours=2))
    assert ledger.runs()[0].attempt == 1, "nothing is left of the cap"
    drive(entries, ledger, pool, Caps(gpu_hours=9))
    assert ledger.runs()[0].state == State.FINISHED


def test_no_run_is_started_that_the_cap_of_gpu_hours_would_not_let_end(ledger, clock):
    times = {"a": 3600.0, "b": 3600.0, "c": 1800.0}
    entries = [costing(key, 1e9, seconds, gpus=1.0) for key, seconds in times.items()]
    pool = SimulatedPool(clock, lambda job: (times[job.key], finished(job)), slots=3, gpus=3)
    driver = drive(entries, ledger, pool, Caps(gpu_hours=1.6))
    assert states(ledger) == {"a": "finished", "b": "planned", "c": "finished"}, "all three had room"
    assert driver.capped == "1 run is beyond the cap of 1.6 GPU-hours"
    assert not driver.stop.asked
    assert drive(entries, ledger, pool, Caps(gpu_hours=3)).capped is None
    assert set(states(ledger).values()) == {"finished"}


def test_runs_that_took_longer_than_expected_make_the_next_ones_count_for_more(ledger, clock):
    entries = [costing(key, 1e9, 3600.0, gpus=1.0) for key in "ab"]
    pool = SimulatedPool(clock, finish(7200), slots=1, gpus=1)
    driver = drive(entries, ledger, pool, Caps(gpu_hours=3.9))
    assert states(ledger) == {"a": "finished", "b": "planned"}, "1 hour was expected, it will take 2"
    assert driver.capped


def test_a_run_that_goes_on_counts_for_what_it_still_needs(ledger, clock):
    entries = [costing("a", 1e9, 7200.0, gpus=1.0)]
    ledger.register(entries)
    claim = ledger.claim("a")
    clock.sleep(5400)
    ledger.end(claim, State.PREEMPTED, sentence="")
    pool = SimulatedPool(clock, finish(1800), slots=1, gpus=1)
    assert drive(entries, ledger, pool, Caps(gpu_hours=2.01)).capped is None
    assert states(ledger) == {"a": "finished"}


def test_runs_of_another_driver_count_for_what_they_will_take(ledger, clock, tmp_path):
    entries = [costing(key, 1e9, 3600.0, gpus=1.0) for key in "ab"]
    ledger.register(entries)
    with Ledger(tmp_path / "ledger", now=clock, uptime=clock, owner=other_owner("you")) as other:
        other.enlist()
        claim = other.claim("a")
        pool = SimulatedPool(clock, finish(3600), slots=2, gpus=2)
        clock.sleep(600)
        other.beat()

        def look(view) -> None:
            if clock() - 1e9 > 3000 and claim.key in view.states and view.states["a"].state == State.RUNNING:
                other.end(claim, State.FINISHED, sentence="")
            other.beat()

        driver = drive(entries, ledger, pool, Caps(gpu_hours=1.5), show=look)
    assert pool.started() == []
    assert driver.capped == "1 run is beyond the cap of 1.5 GPU-hours"


def test_under_a_cap_the_cheapest_budgets_go_first_and_a_larger_cap_goes_on_from_there(ledger, clock):
    entries = [
        replace(made := costing(f"{family} {budget:g}", budget, budget / 1e8), spec=replace(
            made.spec, family=family, budget=budget
        ))
        for family in ("ar", "uniform")
        for budget in (4e9, 1e9, 2e9)
    ]  # fmt: skip
    pool = SimulatedPool(clock, finish(5), slots=1)
    drive(entries, ledger, pool, Caps(flops=6e9))
    cheap = ["ar 1e+09", "uniform 1e+09", "ar 2e+09", "uniform 2e+09"]
    assert pool.started() == cheap
    drive(entries, ledger, pool, Caps(flops=1e10))
    assert pool.started() == [*cheap, "ar 4e+09"]
    drive(entries, ledger, pool, Caps())
    assert pool.started() == [*cheap, "ar 4e+09", "uniform 4e+09"]


def test_another_order_can_be_chosen_under_a_cap(ledger, clock):
    entries = [
        replace(made := costing(f"{budget:g}", budget, budget / 1e8), spec=replace(made.spec, budget=budget))
        for budget in (1e9, 2e9, 4e9)
    ]
    pool = SimulatedPool(clock, finish(5), slots=1)
    drive(entries, ledger, pool, Caps(flops=6e9), order="longest")
    assert pool.started() == ["4e+09", "2e+09"]


def test_runs_that_the_cap_will_not_let_start_are_foreseen(ledger, clock):
    entries = [costing(key, 1e9, 3600.0, gpus=1.0) for key in "abcd"]
    pool = SimulatedPool(clock, finish(3600), slots=1, gpus=1)
    foreseen = []
    drive(entries, ledger, pool, Caps(gpu_hours=2.5), show=lambda view: foreseen.append(view.unaffordable))
    assert foreseen[0] == {"c", "d"}
    assert set(foreseen) == {frozenset("cd")}
    assert pool.started() == ["a", "b"]


def distilling(key: str, parent: str, seconds: float = 10.0):
    how = DistillationSpec(of=parent, rounds=1, steps_per_round=1)
    spec = toy_spec("uniform", sequences=8, distillation=how, optimizer={"ema_decay": 0.9})
    return replace(entry(key, seconds), spec=spec)


@pytest.mark.parametrize("end", ["finished", "failed"])
def test_a_run_that_distils_another_waits_until_that_is_settled(ledger, clock, end, tmp_path):
    """After a failure it starts as well: then its own failure names the run that it lacks."""
    entries = [distilling("child", "parent", 50.0), entry("parent", 10.0), entry("other", 5.0)]
    jobs = {}

    def behave(job):
        jobs[job.key] = job
        broken = job.key == "parent" and end == "failed"
        return (10.0, failed("broken", Trouble.USER) if broken else finished(job))

    pool = SimulatedPool(clock, behave, slots=3)
    drive(entries, ledger, pool, Caps())
    assert pool.started() == ["parent", "other", "child"]
    assert {run.key: str(run.state) for run in ledger.runs()} == {
        "parent": end,
        "other": "finished",
        "child": "finished",
    }
    starts = {key: time for time, event, key in pool.log if event == "start"}
    assert starts["child"] >= starts["parent"] + 10
    assert jobs["child"].runs["parent"] == str(tmp_path / "uniform" / "runs" / "parent")
    assert not jobs["other"].runs


def test_a_run_whose_parent_a_cap_keeps_from_starting_does_not_start_either(ledger, clock):
    parent = replace(entry("parent"), columns={"flops_exact": 1e9})
    driver = drive(
        [distilling("child", "parent"), parent], ledger, SimulatedPool(clock, finish(1)), caps=Caps(flops=1e8)
    )
    assert {run.key: str(run.state) for run in ledger.runs()} == {"parent": "planned", "child": "planned"}
    assert "1 run is beyond" in str(driver.capped)
