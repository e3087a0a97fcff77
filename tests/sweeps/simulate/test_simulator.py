"""Simulated schedules: the driver's decisions on pretended nodes, and the bound they are held against."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.driver.caps import Caps, Spent
from sweeps.ledger.types import Needs
from sweeps.simulate.cluster import parse_cluster
from sweeps.simulate.simulator import lower_bound_s, simulate
from tests.sweeps.simulation import entry

GPU = Needs(cpus=1, gpus=1)


def seconds(entry, node):
    return entry.predicted_s


def test_longest_first_on_as_many_slots_as_there_are():
    entries = [entry(name, s) for name, s in zip("abcde", (1, 5, 3, 4, 2), strict=True)]
    schedule = simulate(entries, parse_cluster("2xCPU"), seconds)
    assert [stay.entry.key for stay in schedule.stays] == list("bdcea")
    assert [(stay.start_s, stay.end_s, stay.lane) for stay in schedule.stays] == [
        (0, 5, 0),
        (0, 4, 1),
        (4, 7, 1),
        (5, 7, 0),
        (7, 8, 0),
    ]
    assert schedule.makespan_s == 8
    assert schedule.bound_s == 7.5
    assert schedule.utilisation == pytest.approx(15 / 16)
    assert schedule.lanes == {"CPU-1": 2}
    assert schedule.gpu_hours == schedule.held_gpu_hours == 0


def test_gpu_hours_in_use_and_held():
    entries = [entry("a", 3600, needs=GPU), entry("b", 1800, needs=Needs(cpus=1, gpus=2))]
    schedule = simulate(entries, parse_cluster("4xH100"), seconds)
    assert schedule.gpu_hours == pytest.approx(1 + 1)
    assert schedule.held_gpu_hours == pytest.approx(4)
    assert schedule.utilisation == pytest.approx(2 / 4)


def by_kind(entry, node):
    return entry.predicted_s * (1 if node.gpu_kind == "H100" else 10)


def test_runs_wait_for_a_fast_gpu_as_long_as_that_pays():
    entries = [entry(str(i), 100 - i, needs=GPU) for i in range(4)]
    schedule = simulate(entries, parse_cluster("2xT4,2xH100"), by_kind)
    assert {stay.node for stay in schedule.stays} == {"H100-1"}
    assert schedule.makespan_s == 197
    assert schedule.bound_s == pytest.approx((100 + 99 + 98 + 97) / (2 + 2 / 10))


def test_slow_gpus_get_the_short_runs():
    entries = [entry(str(i), 100 - i if i < 8 else 10, needs=GPU) for i in range(40)]
    schedule = simulate(entries, parse_cluster("2xT4,2xH100"), by_kind)
    slow = [stay.entry.predicted_s for stay in schedule.stays if stay.node == "T4-1"]
    assert len(slow) >= 4
    assert set(slow) == {10}
    assert schedule.makespan_s <= 1.15 * schedule.bound_s


def test_runs_go_to_a_slow_gpu_where_the_fast_ones_have_too_little_memory():
    large = entry("large", 100, needs=Needs(cpus=1, gpus=1, gpu_memory_bytes=70e9))
    small = [entry(f"small {i}", 50, needs=GPU) for i in range(2)]
    schedule = simulate([large, *small], parse_cluster("1xA100,1xL40S"), lambda e, node: e.predicted_s)
    assert next(stay.node for stay in schedule.stays if stay.entry.key == "large") == "A100-1"


def test_a_run_that_fits_no_node_is_told_and_the_others_run():
    entries = [
        entry("big", 5, needs=Needs(cpus=1, gpus=1, gpu_memory_bytes=90e9)),
        entry("small", 9, needs=Needs(cpus=1, gpus=1, gpu_memory_bytes=9e9)),
    ]
    schedule = simulate(entries, parse_cluster("1xH100"), seconds)
    assert [stay.entry.key for stay in schedule.stays] == ["small"]
    assert set(schedule.refused) == {"big"}
    assert "1 GPU of 90.0 GB" in schedule.refused["big"]
    assert schedule.bound_s == 9


def test_quotas_are_left_out():
    mine = entry("a", 3, needs=Needs(cpus=1, resources=(("mine", 1.0),)))
    assert simulate([mine], parse_cluster("1xCPU"), seconds).makespan_s == 3


def test_nothing_to_do_takes_no_time():
    schedule = simulate([], parse_cluster("8xH100"), seconds)
    assert (schedule.makespan_s, schedule.bound_s, schedule.utilisation) == (0, 0, 0)


@settings(max_examples=25)
@given(
    times=st.lists(st.tuples(st.floats(1, 1000), st.sampled_from([1, 2])), min_size=1, max_size=30),
    cluster=st.sampled_from(["1xCPU", "3xCPU", "2xCPU:3", "2xCPU,3xCPU:2"]),
)
def test_no_slot_holds_two_runs_and_no_schedule_beats_the_bound(times, cluster):
    entries = [entry(f"r{i}", s, needs=Needs(cpus=c)) for i, (s, c) in enumerate(times)]
    nodes = parse_cluster(cluster)
    schedule = simulate(entries, nodes, seconds)
    assert len(schedule.stays) + len(schedule.refused) == len(entries)
    fitting = [e for e in entries if e.key not in schedule.refused]
    assert schedule.bound_s == lower_bound_s(fitting, nodes, seconds)
    assert schedule.makespan_s >= schedule.bound_s * (1 - 1e-9)
    places = sorted((stay.node, stay.lane, stay.start_s, stay.end_s) for stay in schedule.stays)
    for one, two in itertools.pairwise(places):
        assert one[:2] != two[:2] or one[3] <= two[2]
    for node in nodes:
        lanes = {stay.lane for stay in schedule.stays if stay.node == node.name}
        assert len(lanes) <= node.cpus


# --- caps


def test_a_cap_of_hours_ends_the_schedule_there():
    entries = [entry(name, s) for name, s in zip("abcde", (1, 5, 3, 4, 2), strict=True)]
    schedule = simulate(entries, parse_cluster("2xCPU"), seconds, caps=Caps(hours=6 / 3600))
    assert [(stay.entry.key, stay.start_s, stay.end_s) for stay in schedule.stays] == [
        ("b", 0, 5),
        ("d", 0, 4),
        ("c", 4, 6),
        ("e", 5, 6),
    ]
    assert schedule.stopped == {"c", "e"}
    assert schedule.not_started == 1
    assert schedule.makespan_s == 6
    assert schedule.ended_by == Caps(hours=6 / 3600).text("hours")
    whole = simulate(entries, parse_cluster("2xCPU"), seconds, caps=Caps(hours=8 / 3600))
    assert (whole.makespan_s, whole.stopped, whole.not_started, whole.ended_by) == (8, set(), 0, "")


def test_a_cap_of_flops_is_the_drivers_own():
    costs = {"a": 4e9, "b": 3e9, "c": 2e9}
    entries = [
        replace(made := entry(name, cost / 1e9), columns={**made.columns, "flops_exact": cost})
        for name, cost in costs.items()
    ]
    schedule = simulate(
        entries, parse_cluster("1xCPU"), seconds, caps=Caps(flops=8e9), spent=Spent(flops=1.5e9)
    )
    assert [stay.entry.key for stay in schedule.stays] == ["a", "c"], "b would be too much, c is not"
    assert (schedule.not_started, schedule.stopped, schedule.ended_by) == (1, set(), "the cap of 8.0e9 FLOPs")


@given(
    times=st.lists(st.tuples(st.floats(1, 1000), st.sampled_from((1, 2, 4))), min_size=1, max_size=12),
    share=st.floats(0, 1.5),
    spent=st.floats(0, 1),
)
def test_a_cap_of_gpu_hours_is_spent_on_whole_runs_until_no_other_fits(times, share, spent):
    entries = [entry(f"r{i}", s, needs=Needs(cpus=1, gpus=gpus)) for i, (s, gpus) in enumerate(times)]
    nodes = parse_cluster("4xH100:2", cpus_per_gpu=1)
    whole = simulate(entries, nodes, seconds)
    may = share * whole.gpu_hours
    capped = simulate(entries, nodes, seconds, caps=Caps(gpu_hours=may + spent), spent=Spent(gpu_hours=spent))
    assert capped.gpu_hours <= may * (1 + 1e-9) + 1e-9
    assert not capped.stopped
    assert len(capped.stays) + capped.not_started == len(entries)
    placed = {stay.entry.key for stay in capped.stays}
    costs = [e.predicted_s * e.needs.gpus / 3600 for e in entries if e.key not in placed]
    assert all(capped.gpu_hours + cost > may * (1 - 1e-9) for cost in costs)
    assert bool(capped.ended_by) == bool(costs)
