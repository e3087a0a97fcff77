"""GPUs of several speeds: runs go to where they end first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sweeps.driver.queues import Queues
from sweeps.ledger.types import Needs
from sweeps.pools.rack import Node

GPU = Needs(gpus=1)
FAST = Node(name="fast", cpus=8, gpus=2, gpu_speed=4.0, gpu_memory_bytes=40e9)
SLOW = Node(name="slow", cpus=8, gpus=2, gpu_speed=1.0, gpu_memory_bytes=80e9)
UNKNOWN = Node(name="unknown", cpus=8, gpus=2)


def queues(*ends: float) -> Queues:
    queues = Queues(fastest=4.0)
    for end in ends:
        queues.add(FAST, end)
    return queues


def test_a_run_waits_for_the_fast_gpu_only_where_it_ends_sooner():
    assert queues(20.0).better_later(GPU, 10.0, SLOW, 0.0), "20 + 10 is before 40"
    assert not queues(40.0).better_later(GPU, 10.0, SLOW, 0.0), "40 + 10 is after 40"
    assert not queues(20.0).better_later(GPU, 10.0, FAST, 0.0), "there is nothing faster"


def test_who_waits_is_in_the_queue():
    line = queues(5.0, 6.0)
    waits = [line.better_later(GPU, 10.0, SLOW, 0.0) for _ in range(8)]
    # They would end at 15, 16, 25, 26, 35 and 36; the next at 45 is later than 40 on the slow one.
    assert waits == [True] * 6 + [False] * 2


def test_an_overdue_run_ends_any_moment():
    assert queues(-50.0).better_later(GPU, 10.0, SLOW, 0.0)


def test_nobody_waits_for_what_does_not_fit_or_is_not_known():
    assert not queues(1.0).better_later(Needs(gpus=1, gpu_memory_bytes=60e9), 10.0, SLOW, 0.0)
    assert not queues(1.0).better_later(Needs(cpus=1), 10.0, SLOW, 0.0)
    assert not queues(1.0).better_later(GPU, 10.0, UNKNOWN, 0.0)
    line = Queues()
    line.add(UNKNOWN, 1.0)
    assert not line.better_later(GPU, 10.0, SLOW, 0.0)
    assert line.seconds_on(UNKNOWN, 10.0) == 10.0


@given(speed=st.floats(0.1, 10), predicted=st.floats(1, 1000))
def test_predictions_are_for_the_fastest_gpu(speed, predicted):
    line = Queues()
    assert line.seconds_on(FAST, predicted) == predicted
    other = Node(name="other", cpus=1, gpus=1, gpu_speed=speed)
    ratio = line.seconds_on(FAST, predicted) / line.seconds_on(other, predicted)
    assert abs(ratio * 4.0 / speed - 1) < 1e-9 or speed > 4.0
