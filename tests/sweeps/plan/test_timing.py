"""Expected times: what finished runs teach, and the machine that is measured."""

from __future__ import annotations

import pytest

from sweeps.attempt.worker import device_name
from sweeps.ledger.types import Run, State
from sweeps.plan import timing


def test_nearer_runs_count_more():
    kind = device_name("cpu")
    start = timing.START_S
    about = {"family": "ar", "state": State.FINISHED, "attempt": 1, "changed": 1, "device": kind}
    done = [
        (Run(key="a", columns={"params": 1e4}, worked_s=1.0, **about), 1 + start),
        (Run(key="b", columns={"params": 1e6}, worked_s=4.0, **about), 1 + start),
    ]
    experience = timing.Experience(done)
    times = [experience.seconds(1 + start, "ar", params, kind) - start for params in (1e4, 1e5, 1e6)]
    assert times == sorted(times)
    assert times[0] == pytest.approx(1, rel=0.01)
    assert times[1] == pytest.approx(2, rel=0.01)
    assert times[2] == pytest.approx(4, rel=0.01)


def test_the_machine_is_measured():
    speeds = timing.matmul_flops_per_s(frozenset({(64, 16), (256, 64)}), 1, 0.002)
    assert set(speeds) == {(64, 16), (256, 64)}
    assert all(1e7 < speed < 1e14 for speed in speeds.values())
