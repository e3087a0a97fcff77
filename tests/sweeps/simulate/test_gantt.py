"""The picture of a schedule in a terminal."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sweeps.driver.caps import Caps
from sweeps.ledger.types import Needs
from sweeps.show.tables import console
from sweeps.simulate.cluster import parse_cluster
from sweeps.simulate.gantt import IDLE, START, picture, schedule_view
from sweeps.simulate.simulator import simulate
from tests.sweeps.simulation import entry


def schedule_of(cluster: str, *runs: tuple[float, float], gpu_memory: float = 1e9):
    """Runs of (seconds, budget)."""
    entries = [
        replace(
            entry(f"r{i}", seconds, needs=Needs(cpus=1, gpus=1, gpu_memory_bytes=gpu_memory)),
            spec={**entry("x").spec, "budget": budget},
        )
        for i, (seconds, budget) in enumerate(runs)
    ]
    return simulate(entries, parse_cluster(cluster), lambda e, node: e.predicted_s)


def text_of(schedule, **options) -> str:
    out = console()
    with out.capture() as captured:
        out.print(schedule_view(schedule, **options))
    return captured.get()


def rows_of(schedule, width: int = 60) -> dict[str, str]:
    lines = picture(schedule, width=width).plain.splitlines()[:-2]
    names = [line[: line.index(START if START in line else IDLE)].strip() for line in lines]
    return dict(zip(names, lines, strict=True))


def test_a_row_per_slot_marked_by_budget():
    rows = rows_of(schedule_of("2xH100", (100, 2e9), (50, 1e9), (25, 1e9)))
    assert list(rows) == ["H100-1 1", "H100-1 2"]
    assert all(len(row) == 60 for row in rows.values())
    one, two = (row.split(" ", 2)[2] for row in rows.values())
    assert one.count("2") == len(one) - 1
    assert two.count("1") + two.count(START) == pytest.approx(0.75 * len(two), abs=1)
    assert two.count(START) == 2
    assert two.endswith(IDLE * 5)


def test_many_slots_have_a_row_per_node():
    schedule = schedule_of("8xH100:5", *[(100 - i, 1e9) for i in range(20)])
    rows = picture(schedule, width=100).plain.splitlines()
    assert [row.split()[0] for row in rows[:5]] == [f"H100-{i}" for i in range(1, 6)]
    assert set(rows[4].split()[1]) == {IDLE}
    assert max(map(len, rows)) <= 100


def test_more_nodes_than_rows_are_counted():
    schedule = schedule_of("1xT4:50", *[(100, 1e9)] * 50)
    assert "and 18 more nodes" in picture(schedule).plain


def test_figures_and_cost():
    text = text_of(schedule_of("4xH100", (7200, 2e9), (3600, 1e9)), gpu_price=2.5)
    assert "1 node of 4 H100" in text
    assert "2 runs, 4 at once: 2.0 h from start to end, 0.0% above the least possible (2.0 h)" in text
    assert "slots in use 38% of the time" in text
    assert "3.0 GPU-hours in use, 8.0 while all GPUs are held; at 2.5 per GPU-hour 8 and 20" in text
    assert "per GPU-hour" not in text_of(schedule_of("4xH100", (7200, 2e9)))


def test_runs_that_fit_nowhere_are_counted_with_the_reason():
    text = text_of(schedule_of("4xH100", (1, 2e9), (2, 1e9), gpu_memory=90e9))
    assert "2 runs: no node can hold this run" in " ".join(text.split())


def test_a_cap_that_is_reached_is_told_with_what_becomes_of_the_runs():
    entries = [entry(f"r{i}", 3600.0) for i in range(5)]
    schedule = simulate(entries, parse_cluster("2xCPU"), lambda e, node: 3600.0, caps=Caps(hours=1.5))
    text = " ".join(text_of(schedule).split())
    assert "within the cap of 1.5 hours: 2 finished, 2 stopped with a checkpoint, 1 not started" in text
    assert "4 runs, 2 at once: 1.5 h from start to end; slots in use 100% of the time" in text
    nothing = simulate(entries, parse_cluster("2xCPU"), lambda e, node: 3600.0, caps=Caps(hours=0.0))
    assert "within the cap of 0 hours: 0 finished, 5 not started" in text_of(nothing)
