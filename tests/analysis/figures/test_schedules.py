"""The figure of a schedule: a bar per run, a row per slot, also for slots that nobody used."""

from __future__ import annotations

import pandas as pd
import pytest

from analysis import figures

HOUR = 3600.0


def table(**changes) -> pd.DataFrame:
    row = {"node": "a", "slot": 1, "start_s": 0.0, "end_s": 4 * HOUR, "budget": 1e9}
    row |= {"family": "<b>", "size": "4x1", "seed": 1, "key": "0123456789"}
    second = {**row, "slot": 2, "start_s": HOUR, "end_s": 3 * HOUR, "budget": 3e9, **changes}
    return pd.DataFrame([row, second])


SLOTS = [("a", 1), ("a", 2), ("alone", 1)]


def test_a_bar_per_run_in_the_row_of_its_slot():
    figure = figures.schedule(table(), SLOTS, title="Sweep x", note="simulated")
    first, second = (bar for bar in figure.data if bar.type == "bar")
    assert (first.name, second.name) == ("1.0e9", "3.0e9")
    assert (list(second.base), list(second.x), list(second.y)) == ([1.0], [2.0], [1])
    assert list(figure.layout.yaxis.ticktext) == ["a 1", "a 2", "alone"]
    assert figure.layout.yaxis.range == (2.5, -0.5)
    assert figure.layout.xaxis.title.text == "Time since the start (hours)"
    assert [trace.name for trace in figure.data if trace.showlegend] == ["1.0e9", "3.0e9"]
    assert "&lt;b&gt; 4x1" in first.hovertext[0]
    assert "key 01234567<br>" in first.hovertext[0]


@pytest.mark.parametrize(
    ("end_s", "unit"), [(60, "seconds"), (600, "minutes"), (5 * HOUR, "hours"), (72 * HOUR, "days")]
)
def test_the_axis_has_a_unit_that_people_think_in(end_s, unit):
    short = table(start_s=0.0, end_s=end_s).iloc[1:]
    figure = figures.schedule(short, SLOTS, title="", note="")
    assert figure.layout.xaxis.title.text == f"Time since the start ({unit})"


def test_many_rows_are_named_now_and_then_and_fit_a_screen():
    slots = [(f"n{i}", 1) for i in range(1024)]
    figure = figures.schedule(table(node="n7", slot=1).iloc[1:], slots, title="", note="")
    assert len(figure.layout.yaxis.tickvals) <= 40
    assert figure.layout.height < 1400
    assert figure.data[-1].y == (7,)
