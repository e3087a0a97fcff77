"""Progress in steps: a line each in a pipe, one line that goes away on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from sweeps.show import steps
from sweeps.show.steps import Steps


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(steps.time, "monotonic", lambda: now[0])
    return now


def test_each_step_is_a_line_in_a_pipe_with_the_time_left_by_weight(clock):
    out = io.StringIO()
    with Steps(Console(file=out, width=200), [1, 1, 4]) as step:
        step("fitting ar")
        clock[0] += 3
        step("fitting masked")
        clock[0] += 2
        step("drawing")
    assert out.getvalue().splitlines() == [
        "fitting ar ... 1 of 3",
        "fitting masked ... 2 of 3, about 15 s left",
        "drawing ... 3 of 3, about 10 s left",
    ]


def test_the_seconds_of_a_step_count(clock):
    step = Steps(Console(file=io.StringIO()), [1, 1])
    step("fitting ar")
    clock[0] += 5
    assert step.line() == "fitting ar ... 1 of 2, 5 s"
    step("fitting masked")
    clock[0] += 3
    assert step.line() == "fitting masked ... 2 of 2, about 2 s left"
    clock[0] += 3
    assert step.line() == "fitting masked ... 2 of 2"  # longer than foretold


def test_a_terminal_keeps_results_and_no_progress(clock):
    out = io.StringIO()
    terminal = Console(file=out, force_terminal=True, width=60)
    with Steps(terminal, [1, 1]) as step:
        step("fitting ar")
        terminal.print("a result")
    text = out.getvalue()
    assert text.index("fitting ar") < text.index("a result")
    assert "\x1b[2K" in text[text.rindex("fitting ar") :]  # erased at the end
