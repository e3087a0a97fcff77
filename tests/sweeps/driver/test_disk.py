"""Without room on the disk nothing is started, nothing is given up, and the sweep goes on by itself."""

from __future__ import annotations

import pytest

from sweeps.attempt.worker import Trouble
from sweeps.driver.disk import FIRST_WAIT_S, LONGEST_WAIT_S, SPARE_BYTES, Disk
from sweeps.driver.driver import Driver
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.types import State
from tests.sweeps.simulation import Clock, SimulatedPool, entry, failed, finished, other_owner


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ledger(tmp_path, clock, monkeypatch):
    monkeypatch.setattr("sweeps.ledger.file.SYNCHRONOUS", "OFF")
    with Ledger(tmp_path / "ledger", now=clock, uptime=clock, owner=other_owner("me")) as ledger:
        ledger.enlist()
        ledger.register([entry("a"), entry("b")])
        yield ledger


def test_a_disk_that_is_full_for_hours_costs_no_run_its_tries(ledger, clock, tmp_path):
    def behaviour(job):
        full = clock() < 1e9 + 4 * 3600
        return 1.0, failed("disk full", Trouble.DISK) if full else finished(job)

    pool = SimulatedPool(clock, behaviour)
    disk = Disk(tmp_path, free_bytes=lambda path: 1e12)  # a quota: the disk itself has room
    Driver([entry("a"), entry("b")], ledger, pool, disk=disk).run()
    assert {run.state for run in ledger.runs()} == {State.FINISHED}
    assert len(pool.started()) < 50
    assert clock() - 1e9 < 4 * 3600 + LONGEST_WAIT_S + 60


def test_nothing_is_started_while_too_little_is_free(ledger, clock, tmp_path):
    disk = Disk(tmp_path, free_bytes=lambda path: SPARE_BYTES / 2 if clock() < 1e9 + 100 else 1e12)
    pool = SimulatedPool(clock, lambda job: (1.0, finished(job)))
    notes = []
    driver = Driver([entry("a")], ledger, pool, disk=disk, show=lambda view: notes.append(view.note))
    driver.run()
    [(time, *_)] = [event for event in pool.log if event[1] == "start"]
    assert time >= 1e9 + 100
    assert "25 MB free" in notes[0]
    assert notes[-1] == ""


def test_waits_grow_and_end_when_a_run_could_write(tmp_path):
    disk = Disk(tmp_path, free_bytes=lambda path: 1e12)
    assert disk.trouble(0.0) is None
    disk.proved_full(0.0)
    assert disk.trouble(FIRST_WAIT_S - 1)
    assert disk.trouble(FIRST_WAIT_S) is None
    disk.proved_full(100.0)
    assert disk.trouble(100.0 + 2 * FIRST_WAIT_S - 1)
    disk.proved_free()
    assert disk.trouble(100.0) is None
