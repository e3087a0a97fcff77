"""What became of a sweep's runs, as its ledger tells it; and cancelling those that are not done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from scaling.errors import UserError
from sweeps.ledger import Ledger
from sweeps.ledger_types import SETTLED, Glance, Run, State
from sweeps.tables import WORDS, console, duration, flops_text, new_table, picture, state_text

if TYPE_CHECKING:
    from rich.console import Console

TOLD = frozenset({State.FAILED, State.DIVERGED, State.UNSCHEDULABLE, State.WAITING, State.PREEMPTED})
"""States whose sentence the table shows."""


def open_ledger(sweep_folder: Path, sweep: str) -> Ledger:
    """The ledger of a sweep that was started before; UserError where there is none."""
    folder = sweep_folder / "ledger"
    if not Ledger.exists(folder):
        raise UserError(
            f"sweep {sweep!r} has no runs under {sweep_folder} yet; "
            f"start it with `scaling sweep --sweep {sweep}`"
        )
    return Ledger(folder)


def runs_of(ledger: Ledger, families: Sequence[str]) -> list[Run]:
    """The ledger's runs, of `families` where some are named; UserError for one it has no run of."""
    runs = ledger.runs()
    glances = ledger.glance(run.key for run in runs)
    runs = [_orphaned(run) if _is_orphan(glances[run.key]) else run for run in runs]
    known = sorted({run.family for run in runs})
    for family in families:
        if family not in known:
            raise UserError(
                f"family {family!r} has no runs in this sweep, which has: {', '.join(known) or 'none'}"
            )
    return [run for run in runs if not families or run.family in families]


def _is_orphan(glance: Glance) -> bool:
    return glance.state == State.RUNNING and not glance.alive


def _orphaned(run: Run) -> Run:
    """A run whose driver died without a word: it stands still until a driver takes it up."""
    return replace(run, state=State.PREEMPTED, sentence="its driver is gone; `scaling sweep` takes it up")


def show_status(sweep_folder: Path, sweep: str, families: Sequence[str], out: Console | None = None) -> None:
    """A table and a picture per family, and a line for the whole."""
    out = out or console()
    with open_ledger(sweep_folder, sweep) as ledger:
        runs = runs_of(ledger, families)
    for family in dict.fromkeys(run.family for run in runs):
        own = sorted((run for run in runs if run.family == family), key=_place)
        out.print(status_table(own, family), picture(_cell(run) for run in own), sep="\n")
    out.print(f"sweep {sweep}: {summary(run.state for run in runs)}")


def _place(run: Run) -> tuple[float, float]:
    return float(run.spec["budget"]), float(run.columns.get("params") or 0)


def _cell(run: Run) -> tuple[float, str, float, str]:
    budget, params = _place(run)
    return budget, run.spec["size"]["name"], params, str(run.state)


def summary(states: Iterable[str]) -> str:
    """24 runs: 20 finished, 3 running, 1 failed."""
    counts = Counter(str(state) for state in states)
    parts = [f"{counts[state]} {WORDS[state][1]}" for state in WORDS if counts[state]]
    return f"{sum(counts.values())} runs" + (f": {', '.join(parts)}" if parts else "")


def status_table(runs: Sequence[Run], title: str) -> Table:
    """One row per run: state, tries, loss, time, where it ran, and what went wrong."""
    table = new_table(title)
    for name in ("budget", "size", "key", "state", "tries", "loss", "bits/byte", "time", "where", ""):
        right = name in ("budget", "tries", "loss", "bits/byte", "time")
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "")
    last = None
    for run in runs:
        budget = float(run.spec["budget"])
        result: dict[str, Any] = dict(run.result) if run.state == State.FINISHED else {}
        seconds = result.get("train_s", 0.0) + result.get("evaluation_s", 0.0)
        table.add_row(
            flops_text(budget) if budget != last else "",
            run.spec["size"]["name"],
            run.key,
            state_text(str(run.state)),
            str(run.attempt),
            _loss(result.get("bound"), result.get("bound_se")),
            _three(result.get("bits_per_byte")),
            duration(seconds) if seconds else "",
            run.host or "",
            Text(run.sentence if run.state in TOLD else ""),
        )
        last = budget
    return table


def _loss(bound: float | None, se: float | None) -> str:
    if bound is None:
        return ""
    return f"{bound:.4f}" if se is None else f"{bound:.4f} ± {se:.4f}"


def _three(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def cancel_runs(sweep_folder: Path, sweep: str, families: Sequence[str], keys: Sequence[str]) -> str:
    """Cancel the runs that are not done (of `families`, whose keys begin as said), and say how many that is.

    UserError for a key that no run begins with, or that is done already.
    """
    with open_ledger(sweep_folder, sweep) as ledger:
        runs = runs_of(ledger, families)
        chosen = [key for start in keys for key in _keys_like(start, runs)] if keys else None
        wanted = [run.key for run in runs if chosen is None or run.key in chosen]
        open_keys = {run.key for run in runs if run.state not in SETTLED}
        number = ledger.cancel([key for key in wanted if key in open_keys])
    left = len(wanted) - number
    done = f"; {left} were done already" if left else ""
    return f"sweep {sweep}: {number} run{'' if number == 1 else 's'} cancelled{done}"


def _keys_like(start: str, runs: Sequence[Run]) -> list[str]:
    found = [run.key for run in runs if run.key.startswith(start)]
    if not found:
        raise UserError(f"no run's key begins with {start!r}; `scaling status` lists them")
    return found
