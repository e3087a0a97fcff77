"""What `scaling status` says of runs that nobody runs any more."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from sweeps.ledger.ledger import Ledger
from sweeps.ledger.owner import Owner
from sweeps.ledger.status import runs_with_progress
from sweeps.ledger.types import Run, State
from sweeps.show import status
from sweeps.show.status import show, watch
from tests.sweeps.simulation import entry

NO_PROCESS = 2**22 + 1
"""Beyond the largest process number of Linux."""


@pytest.mark.parametrize("width", [80, 64])
def test_a_run_is_one_line_with_its_key_and_state_however_narrow_the_terminal(width):
    out = io.StringIO()
    runs = [
        Run(
            key=f"{place:08x}ffffffff", family="masked", state=state, attempt=2, changed=place,
            host="a-host-of-a-cluster.example.org", size="2121M", budget=1e20, params=2.1e9,
            loss=2.5, loss_se=0.0231, bits_per_byte=3.6, worked_s=7e4,
        )
        for place, state in enumerate(State)
    ]  # fmt: skip
    show(runs, "wide", Console(file=out, width=width))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    for place, state in enumerate(State):
        assert sum(f"{place:08x}" in line and f" {state} " in line for line in lines) == 1


def test_a_run_whose_driver_was_killed_is_not_shown_as_running(tmp_path):
    here = Owner.this_process()
    for key, owner in (("alive", here), ("dead", replace(here, id="gone", pid=NO_PROCESS))):
        with Ledger(tmp_path / "ledger", owner=owner) as ledger:
            ledger.enlist()
            ledger.register([entry(key)])
            assert ledger.claim(key) is not None
    out = io.StringIO()
    with Ledger(tmp_path / "ledger") as ledger:
        show(runs_with_progress(ledger), "toy", Console(file=out, width=200))
    lines = {key: line for line in out.getvalue().splitlines() for key in ("alive", "dead") if key in line}
    assert "running" in lines["alive"]
    assert "running" not in lines["dead"]
    assert "its driver is gone" in lines["dead"]
    assert "1 running" in out.getvalue()


def test_a_sweep_fits_eighty_columns_and_troubles_stand_below_the_table(tmp_path):
    with Ledger(tmp_path / "ledger") as ledger:
        ledger.register([entry("finished"), entry("broken")])
        for key, state, sentence in (
            ("finished", State.FINISHED, "done"),
            ("broken", State.FAILED, "failed: " + "a long reason " * 10),
        ):
            result = {"bound": 2.5, "bound_se": 0.01, "bits_per_byte": 3.6, "train_s": 4e5}
            ledger.end(ledger.claim(key), state, sentence=sentence, result=result, facts={"host": "n" * 30})
        rows = runs_with_progress(ledger)
    out = io.StringIO()
    show(rows, "toy", Console(file=out, width=80))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in out.getvalue()
    table, below = out.getvalue().split("broken: failed: a long reason")
    assert "2.5000 ± 0.0100" in table
    assert "a long reason" not in table
    assert "finished:" not in below


def test_watching_without_a_terminal_prints_a_line_per_change_and_ends_with_the_sweep(capsys):
    states = iter([State.PLANNED, State.RUNNING, State.RUNNING, State.FINISHED])

    def read() -> list[Run]:
        return [Run(key="a", family="uniform", state=next(states), attempt=1, changed=1)]

    watch(read, "toy", every_s=0.0)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"sweep toy: 1 runs: 1 {state}" for state in ("planned", "running", "finished")]
    assert next(states, None) is None


def test_watching_on_a_terminal_ends_with_the_tables_of_all_runs(tmp_path, monkeypatch):
    with Ledger(tmp_path / "ledger") as ledger:
        ledger.register([entry("one")])
        planned = runs_with_progress(ledger)
        ledger.end(ledger.claim("one"), State.FINISHED, sentence="done", result={"bound": 2.5})
        finished = runs_with_progress(ledger)
    out = Console(file=io.StringIO(), width=80, height=3, force_terminal=True, color_system=None)
    monkeypatch.setattr(status, "console", lambda: out)
    views = iter([planned, finished])
    watch(lambda: next(views), "toy", every_s=0.0)
    text = out.file.getvalue()
    assert "1 runs planned or finished; --all lists them" in text, "three lines have no room for the table"
    assert text.rstrip().endswith("sweep toy: 1 runs: 1 finished")
    assert "2.5000" in text
