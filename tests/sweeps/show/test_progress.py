"""What a person sees: honest times, one line per run, and quiet lines where there is no terminal."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from rich.console import Console

from sweeps.attempt.journal import JOURNAL, Journal
from sweeps.driver.verdict import Verdict
from sweeps.driver.view import Flight, View
from sweeps.ledger.types import Claim, Entry, Run, State
from sweeps.pools.rack import Node
from sweeps.show.progress import Forecast, Progress
from tests.sweeps.simulation import entry

NOW = datetime(2026, 11, 20, 12, 0).timestamp()
"""Noon where the test runs, so that a minute later is the same day."""


def run(key: str, state: State) -> Run:
    return Run(key=key, family="uniform", state=state, attempt=1, changed=1)


def ended(entry: Entry, state: State, sentence: str, seconds: float) -> Flight:
    verdict = Verdict(state=state, sentence=sentence)
    return replace(flight(entry.key, Path()), entry=entry, verdict=verdict, seconds=seconds)


def flight(key: str, folder, *, seconds: float = 100.0, started: float = NOW, attempt: int = 1) -> Flight:
    claim = Claim(key=key, attempt=attempt)
    node = Node(name="here", cpus=1)
    return Flight(entry=entry(key, seconds), claim=claim, folder=folder / key, started=started, node=node)


def view(flights=(), waiting=(), done=(), just_ended=(), elsewhere=(), *, slots=2, now=NOW, note="") -> View:
    entries = [*(f.entry for f in flights), *waiting, *done, *elsewhere]
    kinds = {State.RUNNING: [*(f.entry for f in flights), *elsewhere]}
    kinds |= {State.PLANNED: waiting, State.FINISHED: done}
    states = {e.key: run(e.key, state) for state, those in kinds.items() for e in those}
    return View(
        entries=entries, states=states, flights=flights, ended=just_ended, slots=slots, now=now, note=note
    )


def log(
    flight: Flight, *, share: float, elapsed_s: float, loss: float = 2.5, name: str = "loss", **more: float
) -> None:
    """A training record: the entry's 800 tokens are done to `share`, after `elapsed_s`."""
    tokens = 800 * share
    with Journal(flight.folder / JOURNAL, now=lambda: NOW) as lines:
        lines.append(
            {
                "kind": "train",
                "step": int(10 * share),
                name: loss,
                "tokens": tokens,
                "tokens_per_s": tokens / elapsed_s,
                "elapsed_s": elapsed_s,
                **more,
            }
        )


def test_before_anything_is_known_the_plan_counts(tmp_path):
    forecast = Forecast()
    now = view([flight("a", tmp_path)], [entry("b", 50.0), entry("c", 40.0), entry("d", 30.0)])
    forecast.update(now)
    assert forecast.pace(now) == 1.0
    assert forecast.left(now) == 120.0  # a: 100; the other slot: b, c, d


def test_a_run_slower_than_planned_makes_all_that_waits_slower(tmp_path):
    running = flight("a", tmp_path, started=NOW - 60)
    log(running, share=0.25, elapsed_s=50.0)
    forecast = Forecast()
    now = view([running], [entry("b", 100.0)], slots=1)
    forecast.update(now)
    assert forecast.left_of(running, now) == pytest.approx(150)
    assert forecast.pace(now) == pytest.approx(2.0)
    assert forecast.left(now) == pytest.approx(150 + 200)


def test_held_out_losses_still_to_come_are_waited_for(tmp_path):
    running = flight("a", tmp_path, started=NOW - 60)
    log(running, share=0.25, elapsed_s=50.0, evaluation_left_s=30.0)
    forecast = Forecast()
    now = view([running])
    forecast.update(now)
    assert forecast.left_of(running, now) == pytest.approx(150 + 30)


def test_a_run_that_has_hardly_begun_says_nothing_yet(tmp_path):
    running = flight("a", tmp_path, started=NOW - 5)
    log(running, share=0.01, elapsed_s=5.0)
    forecast = Forecast()
    now = view([running])
    forecast.update(now)
    assert forecast.pace(now) == 1.0
    assert forecast.left_of(running, now) == 95.0


def test_finished_runs_correct_the_rest(tmp_path):
    good = ended(entry("x", 10.0), State.FINISHED, "", 5.0)
    failed = ended(entry("y", 10.0), State.WAITING, "", 900.0)
    forecast = Forecast()
    now = view([], [entry("b", 100.0)], just_ended=[good, failed])
    forecast.update(now)
    assert forecast.left(now) == 50.0


def test_runs_that_a_cap_leaves_out_take_no_time(tmp_path):
    busy, cheap, dear = flight("busy", tmp_path, seconds=100.0), entry("cheap", 50.0), entry("dear", 900.0)
    now = replace(view([busy], [cheap, dear], slots=1), unaffordable=frozenset({"dear"}))
    forecast = Forecast()
    forecast.update(now)
    assert forecast.left(now) == pytest.approx(150.0)
    assert "1 running, 1 beyond the cap, about 2.5 min left" in Progress(Console(), "s").sweep_line(now)


def test_waiting_runs_take_the_slots_in_their_order(tmp_path):
    waiting = [entry(key, seconds) for key, seconds in zip("abc", (10.0, 10.0, 100.0), strict=True)]
    now = view([], waiting, slots=2)
    forecast = Forecast()
    forecast.update(now)
    assert forecast.left(now) == pytest.approx(110.0), "the longest starts last"


def test_runs_of_other_drivers_take_slots_of_their_own(tmp_path):
    forecast = Forecast()
    now = view([], [entry("b", 30.0)], elsewhere=[entry("far", 100.0)], slots=1)
    assert forecast.left(now) == 100.0
    assert forecast.left(view([])) == 0.0


def test_an_overdue_run_has_no_negative_time_left(tmp_path):
    running = flight("a", tmp_path, started=NOW - 1000)
    assert Forecast().left_of(running, view([running])) == 0.0


def test_lines_where_there_is_no_terminal(tmp_path):
    out = io.StringIO()
    progress = Progress(Console(file=out, width=200), "desk")
    running = flight("a", tmp_path)
    progress.show(view([running], [entry("b", 50.0)]))
    assert out.getvalue() == ""
    progress.show(view([running], [entry("b", 50.0)], now=NOW + 30))
    assert out.getvalue() == ""
    progress.show(view([running], [entry("b", 50.0)], now=NOW + 61))
    assert "desk: 0 of 2 runs finished, 1 running" in out.getvalue()
    done = ended(running.entry, State.FINISHED, "bound 2.5", 42.0)
    progress.show(view([], [entry("b", 50.0)], [running.entry], [done], now=NOW + 70))
    last = out.getvalue().splitlines()[-1]
    assert last.startswith("uniform 4k 1.0e9: finished, bound 2.5 (42 s); desk: 1 of 2 runs finished")
    assert "about 21 s left" in last  # 50 s at 42 real for 100 planned seconds
    progress.show(view([], [entry("b", 50.0)], [running.entry], note="Ctrl-C: stopping", now=NOW + 71))
    assert out.getvalue().splitlines()[-1] == "Ctrl-C: stopping"
    progress.close()


def test_a_terminal_shows_a_line_per_run_and_troubles_above(tmp_path):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120, height=40, color_system=None)
    progress = Progress(console, "desk")
    running = [flight("a", tmp_path), flight("b", tmp_path, attempt=2)]
    log(running[0], share=0.5, elapsed_s=10.0)
    bad = ended(entry("z"), State.WAITING, "killed by SIGKILL", 3.0)
    good = ended(entry("g"), State.FINISHED, "fine", 3.0)
    progress.show(view(running, just_ended=[bad, good], note="a note"))
    progress.close()
    text = out.getvalue()
    for part in ("2.500", "5/10", "40", "10 s", "(attempt 2)", "killed by SIGKILL", "2 running", "a note"):
        assert part in text
    assert "fine" not in text


def test_a_run_in_a_biased_phase_is_shown_with_its_loss(tmp_path):
    out = io.StringIO()
    progress = Progress(Console(file=out, force_terminal=True, width=120, color_system=None), "desk")
    running = flight("a", tmp_path)
    log(running, share=0.5, elapsed_s=10.0, name="biased_loss")
    progress.show(view([running]))
    progress.close()
    assert "2.500 (biased)" in out.getvalue()
    assert "5/10" in out.getvalue()


def test_more_runs_than_lines(tmp_path):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120, height=10, color_system=None)
    progress = Progress(console, "desk")
    progress.show(view([flight(f"k{i}", tmp_path) for i in range(30)], slots=30))
    progress.close()
    assert "and 25 more running" in out.getvalue()


def test_the_end_is_told_with_its_day_where_that_is_another(tmp_path):
    progress = Progress(Console(file=io.StringIO()), "desk")
    soon = progress.sweep_line(view([], [entry("b", 60.0)], slots=1))
    late = progress.sweep_line(view([], [entry("b", 2 * 86400.0)], slots=1))
    in_a_minute, in_two_days = soon.split("ends about ")[1], late.split("ends about ")[1]
    assert re.fullmatch(r"\d\d:\d\d", in_a_minute)
    assert re.fullmatch(r"\w{3} \d\d \w{3} \d\d:\d\d", in_two_days)


def test_no_time_left_is_told_while_nothing_moves(tmp_path):
    progress = Progress(Console(file=io.StringIO()), "desk")
    running = flight("a", tmp_path)
    for after, moves, expected in (
        (0, True, "left"),
        (25, True, "left"),
        (50, False, "left"),
        (80, False, "waiting"),
    ):
        if moves:
            log(running, share=0.2 + after / 100, elapsed_s=10.0 + after)
        progress.show(now := view([running], now=NOW + after))
        assert expected in progress.sweep_line(now)
    log(running, share=0.9, elapsed_s=90.0)
    progress.show(now := view([running], now=NOW + 90))
    assert "left" in progress.sweep_line(now), "it moves again"
    assert "waiting" in progress.sweep_line(view([running], note="the disk is full", now=NOW + 91))


def test_a_long_run_may_be_quiet_for_longer(tmp_path):
    forecast = Forecast()
    running = flight("a", tmp_path, seconds=36_000.0)
    forecast.update(view([running]))
    assert forecast.left(view([running], now=NOW + 1000)) is not None
    assert forecast.left(view([running], now=NOW + 2000)) is None


def test_a_note_that_counts_down_is_a_line_a_minute(tmp_path):
    out = io.StringIO()
    progress = Progress(Console(file=out, width=200), "desk")
    for after in range(120):
        progress.show(view([], [entry("b")], note=f"waits for {1800 - after} s", now=NOW + after))
    lines = [line for line in out.getvalue().splitlines() if "waits" in line]
    assert lines == ["waits for 1800 s", "waits for 1740 s"]
