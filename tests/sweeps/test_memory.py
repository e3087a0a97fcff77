"""A run out of memory goes on with half the sequences at once; the next of its size starts there."""

from __future__ import annotations

from dataclasses import replace

import pytest
from simulation import Clock, SimulatedPool, entry, failed, finished, other_owner

from sweeps.ledger import Ledger
from sweeps.ledger_types import State
from sweeps.schedule import Driver
from sweeps.worker import Trouble


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    monkeypatch.setattr("sweeps.ledger_file.SYNCHRONOUS", "OFF")
    clock = Clock()
    with Ledger(tmp_path / "ledger", now=clock, uptime=clock, owner=other_owner("me")) as ledger:
        ledger.enlist()
        yield ledger


def of_size(key: str, name: str, batch: int = 10, **options):
    made = entry(key)
    spec = {**made.spec, "size": {"name": name}, "batch_size": batch}
    return replace(made, spec=spec, options=options)


class Machine:
    """Holds `limit` sequences; remembers how many each attempt brought."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.brought: dict[str, list[int]] = {}

    def __call__(self, job):
        sequences = job.options.get("micro_batch_size") or job.spec["batch_size"]
        self.brought.setdefault(job.key, []).append(sequences)
        fits = sequences <= self.limit
        return 1.0, finished(job) if fits else failed("out of memory: 80 GB", Trouble.MEMORY)


def drive(entries, ledger, machine):
    ledger.register(entries)
    Driver(entries, ledger, SimulatedPool(ledger.now, machine, slots=1)).run()


def test_the_micro_batch_is_halved_until_it_fits_and_remembered_for_the_size(ledger):
    machine = Machine(3)
    drive([of_size("a", "big"), of_size("b", "big", batch=40)], ledger, machine)
    drive([of_size("c", "big"), of_size("d", "small")], ledger, machine)
    assert machine.brought["a"] == [10, 5, 3]
    assert machine.brought["b"] == [3], "another run of that size begins where the first one ended"
    assert machine.brought["c"] == [3]
    assert machine.brought["d"] == [10, 5, 3], "another size has to find out for itself"
    assert {run.state for run in ledger.runs()} == {State.FINISHED}


def test_a_sequence_that_does_not_fit_alone_is_given_up(ledger):
    machine = Machine(0)
    drive([of_size("a", "big", micro_batch_size=4)], ledger, machine)
    assert machine.brought["a"] == [4, 2, 1, 1, 1]
    [run] = ledger.runs()
    assert run.state == State.FAILED
    assert "after 3 failed attempts" in run.sentence


def test_what_suffices_is_left_as_the_config_says(ledger):
    machine = Machine(64)
    drive([of_size("a", "big"), of_size("b", "big", micro_batch_size=4)], ledger, machine)
    assert machine.brought == {"a": [10], "b": [4]}
    assert ledger.micro_batches() == {}
