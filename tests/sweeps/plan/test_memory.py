"""A run out of memory goes on with half the sequences at once; the next of its size starts there."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.attempt.job import Trouble
from sweeps.driver.driver import Driver
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.types import Needs, State
from sweeps.plan.memory import as_fits, at_most, micro_batch
from sweeps.pools.rack import Node, Rack
from tests.sweeps.simulation import Clock, SimulatedPool, entry, failed, finished, other_owner


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    monkeypatch.setattr("sweeps.ledger.file.SYNCHRONOUS", "OFF")
    clock = Clock()
    with Ledger(tmp_path / "ledger", now=clock, uptime=clock, owner=other_owner("me")) as ledger:
        ledger.enlist()
        yield ledger


def of_size(key: str, name: str, batch: int = 10, **options):
    made = entry(key)
    spec = replace(made.spec, size=replace(made.spec.size, name=name), sequences=800, batch_size=batch)
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


def test_memory_that_others_took_shrinks_no_run(ledger):
    brought = []

    def behave(job):
        brought.append(job.options.get("micro_batch_size"))
        low = failed("the node was low on memory", Trouble.NODE_MEMORY)
        return 1.0, low if job.attempt < 4 else finished(job)

    drive([of_size("a", "big")], ledger, behave)
    assert brought == [None] * 4
    assert ledger.micro_batches() == {}
    assert [run.state for run in ledger.runs()] == [State.FINISHED]


def test_each_sweep_tries_twice_as_many_again(ledger):
    machine = Machine(3)
    drive([of_size("a", "big")], ledger, machine)
    ledger.relax_micro_batches()
    machine.limit = 64
    drive([of_size("b", "big")], ledger, machine)
    ledger.relax_micro_batches()
    drive([of_size("c", "big")], ledger, machine)
    assert (machine.brought["b"], machine.brought["c"]) == ([6], [10])


# -- before a run starts ------------------------------------------------------------------------


def large(key: str, batch: int = 256, **options):
    """40 GB of its own, half a GB for each sequence at once."""
    needs = Needs(gpus=1, gpu_memory_bytes=40e9 + batch * 0.5e9)
    return replace(of_size(key, "big", batch=batch, **options), needs=needs, sequence_bytes=0.5e9)


def test_sequences_are_halved_until_the_estimate_fits_the_largest_gpu():
    rack = Rack([Node(name="a", cpus=8, gpus=1, gpu_memory_bytes=80e9), Node(name="b", cpus=8)])
    runs = as_fits([large("x"), large("y", batch=60)], lambda needs: rack.refusal(needs) is None)
    assert [micro_batch(one) for one in runs] == [64, 60]
    assert runs[0].needs.gpu_memory_bytes == pytest.approx(40e9 + 64 * 0.5e9)
    assert runs[0].spec.batch_size == 256, "the global batch is the run's own"


def test_what_fits_with_no_sequence_is_refused_as_it_is_planned():
    rack = Rack([Node(name="a", cpus=8, gpus=1, gpu_memory_bytes=24e9)])
    assert as_fits([large("x")], lambda needs: rack.refusal(needs) is None) == [large("x")]


@given(sequences=st.integers(1, 300), batch=st.integers(1, 300))
def test_fewer_sequences_need_less_memory_and_never_become_more(sequences, batch):
    once = at_most(large("x", batch=batch), sequences)
    assert micro_batch(once) == min(batch, sequences)
    assert once.needs.gpu_memory_bytes == pytest.approx(40e9 + min(batch, sequences) * 0.5e9)
    assert at_most(once, sequences) == once


def test_a_driver_starts_with_as_many_as_fit(ledger):
    machine = Machine(1000)
    entries = [large("x")]
    ledger.register(entries)
    pool = SimulatedPool(ledger.now, machine, gpus=1, gpu_memory_bytes=80e9)
    Driver(entries, ledger, pool).run()
    assert machine.brought["x"] == [64]
    assert not ledger.micro_batches(), "an estimate is not remembered as if it had been tried"
