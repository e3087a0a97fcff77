"""A sweep spends no more than it may, and says what it left undone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sweeps.driver.caps import Caps
from sweeps.driver.driver import Driver
from sweeps.driver.stopping import StopRequest
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.types import Needs, State
from tests.sweeps.simulation import Clock, SimulatedPool, entry, finish, other_owner


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
