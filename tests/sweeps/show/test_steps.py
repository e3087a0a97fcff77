"""Progress in steps: a line each in a pipe, one line that goes away on a terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from sweeps.show import steps
from sweeps.show.steps import Steps, Waiting


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


@pytest.fixture
def timers(monkeypatch) -> list[Any]:
    """Timers that run out when the test says so."""
    made: list[Any] = []

    class Timer:
        def __init__(self, seconds: float, act: Any) -> None:
            self.seconds, self.act, self.state = seconds, act, "made"
            made.append(self)

        def start(self) -> None:
            self.state = "runs"

        def cancel(self) -> None:
            self.state = "cancelled"

    monkeypatch.setattr(steps.threading, "Timer", Timer)
    return made


def test_a_pipe_gets_lines_on_standard_error_once_a_command_takes_long(timers, capsys):
    out = io.StringIO()
    with Waiting(Console(file=out), "asking the laws ...") as step:
        step("fitting ar (1 of 3) ...")
        assert capsys.readouterr().err == "", "a quick command says nothing"
        (timer,) = timers
        assert (timer.seconds, timer.state) == (2.0, "runs")
        timer.act()
        step("fitting masked (2 of 3) ...")
        step("fitting uniform (3 of 3) ...")
    lines = ["fitting ar (1 of 3) ...", "fitting masked (2 of 3) ...", "fitting uniform (3 of 3) ..."]
    assert capsys.readouterr().err.splitlines() == lines
    assert out.getvalue() == "", "which holds the answer alone"
    assert timer.state == "cancelled"


def test_a_terminal_gets_a_line_that_goes_away(timers, capsys):
    out = io.StringIO()
    with Waiting(Console(file=out, force_terminal=True, width=60), "asking ...") as step:
        step("fitting ar (1 of 3) ...")
    assert capsys.readouterr().err == ""
    assert "\x1b[2K" in out.getvalue()
    assert timers[0].state == "cancelled"
