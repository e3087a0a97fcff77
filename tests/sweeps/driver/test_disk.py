"""Without room on the disk nothing is started, nothing is given up, and the sweep goes on by itself."""

from __future__ import annotations

import pytest

from sweeps.attempt.job import Trouble
from sweeps.driver.disk import LOOK_S, SPARE_BYTES, Disk, Pause, reserve_room
from sweeps.driver.driver import Driver
from sweeps.ledger.ledger import Ledger, LedgerUnavailableError
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
    disk = Disk(tmp_path, free_bytes=lambda path: 1e12, reserve=lambda path: None)  # only trying shows it
    Driver([entry("a"), entry("b")], ledger, pool, disk=disk).run()
    assert {run.state for run in ledger.runs()} == {State.FINISHED}
    assert len(pool.started()) < 50
    assert clock() - 1e9 < 4 * 3600 + 1800 + 60


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


def test_a_disk_that_looked_full_is_used_as_soon_as_it_has_room(tmp_path):
    room = {"is": False}

    def reserve(path) -> None:
        if not room["is"]:
            raise OSError(28, "No space left on device")

    disk = Disk(tmp_path, free_bytes=lambda path: 1e12, reserve=reserve)
    assert disk.trouble(0.0) is None
    for uptime in range(100):  # many runs, and rounds in which the ledger cannot be written
        disk.proved_full(float(uptime))
    assert "full" in disk.trouble(100.0)
    room["is"] = True
    assert disk.trouble(100.0 + LOOK_S) is None


def test_waits_grow_and_end_when_a_run_could_write(tmp_path):
    disk = Disk(tmp_path, free_bytes=lambda path: 1e12, reserve=lambda path: None)
    disk.proved_full(0.0)
    disk.proved_full(1.0)
    assert disk.trouble(4.0)
    assert disk.trouble(5.0) is None, "runs that fail together count once"
    disk.proved_full(100.0)
    assert disk.trouble(109.0)
    disk.proved_free()
    assert disk.trouble(109.0) is None


def test_a_pause_has_a_longest_length():
    pause = Pause(2.0, 5.0)
    for uptime in (0.0, 10.0, 20.0):
        pause.extend(uptime)
    assert pause.lasts(24.9)
    assert not pause.lasts(25.0)


def test_room_is_looked_for_by_taking_it(tmp_path, monkeypatch):
    reserve_room(tmp_path)
    assert not list(tmp_path.iterdir()), "and given back"
    with pytest.raises(OSError, match="No such file"):
        reserve_room(tmp_path / "gone")


def test_an_outcome_that_the_ledger_cannot_take_yet_is_learned_from_once(
    ledger, clock, tmp_path, monkeypatch
):
    """A full disk holds the ledger's own file, too."""
    full_until = clock() + 30.0

    def reserve(path) -> None:
        return None

    pool = SimulatedPool(
        clock, lambda job: (1.0, finished(job) if job.attempt > 1 else failed("full", Trouble.DISK))
    )
    disk = Disk(tmp_path, free_bytes=lambda path: 1e12, reserve=reserve)
    real = ledger.end

    def end(*args, **values):
        if clock() < full_until:
            raise LedgerUnavailableError("the disk is full")
        return real(*args, **values)

    monkeypatch.setattr(ledger, "end", end)
    Driver([entry("a")], ledger, pool, disk=disk).run()
    assert ledger.runs(["a"])[0].state == State.FINISHED
    assert clock() < full_until + 15, "not half an hour"
