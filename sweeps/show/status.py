"""The states of a sweep's runs in a terminal: tables, pictures, and a view that keeps itself up to date."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from analysis.text import duration, flops_text
from sweeps.ledger.types import SETTLED, Run, State
from sweeps.show.tables import WORDS, RowsTable, console, picture, short, state_text

TROUBLED = frozenset({State.FAILED, State.DIVERGED, State.UNSCHEDULABLE, State.WAITING, State.PREEMPTED})
"""States that need an explanation."""
QUIET = frozenset({State.PLANNED, State.FINISHED})
"""States of which a long table leaves out the runs."""
LONG = 200
"""Rows of a family beyond which the table shows only those that need attention."""
WATCH_S = 2.0


def show(runs: Sequence[Run], sweep: str, out: Console | None = None, *, whole: bool = False) -> None:
    """A table and a picture per family, and a line for the whole. whole: every row of a long table."""
    out = out or console()
    for part in view(runs, sweep, long=len(runs) if whole else LONG):
        out.print(part)


def view(runs: Sequence[Run], sweep: str, *, long: int = LONG) -> list[RowsTable | Text]:
    """The parts of `show`. A family of more than `long` runs lists only those that need attention."""
    parts: list[RowsTable | Text] = []
    for family in dict.fromkeys(run.family for run in runs):
        own = [run for run in runs if run.family == family]
        listed = own if len(own) <= long else [run for run in own if run.state not in QUIET]
        if listed:
            parts += status_table(listed, family)
        if len(listed) < len(own):
            title = "" if listed else f"{family}: "
            parts.append(Text(f"{title}{len(own) - len(listed)} runs planned or finished; --all lists them"))
        parts.append(picture((run.budget, run.size, run.params or 0.0, run.state) for run in own))
    parts.append(Text(f"sweep {sweep}: {summary(run.state for run in runs)}"))
    return parts


def summary(states: Iterable[str]) -> str:
    """24 runs: 20 finished, 3 running, 1 failed."""
    counts = Counter(str(state) for state in states)
    parts = [f"{counts[state]} {WORDS[state][1]}" for state in WORDS if counts[state]]
    return f"{sum(counts.values())} runs" + (f": {', '.join(parts)}" if parts else "")


def status_table(runs: Sequence[Run], title: str) -> list[RowsTable | Text]:
    """One row per run: state, attempts, loss (of replicas the mean), time, where it ran; below them what went
    wrong."""
    cells: list[dict[str, str | Text]] = [
        {
            "budget": flops_text(run.budget),
            "size": run.size,
            "key": short(run.key),
            "replicas": str(run.replicas) if run.replicas > 1 else "",
            "state": state_text(run.state),
            "attempts": str(run.attempt),
            "loss": _loss(run),
            "bits/byte": _number(run.bits_per_byte, ".3f"),
            "time": duration(run.worked_s) if run.worked_s else "",
            "done": _number(run.share, ".0%"),
            "left": duration(run.left_s) if run.left_s is not None else "",
            "where": run.host or "",
        }
        for run in runs
    ]
    right = ("budget", "replicas", "attempts", "loss", "bits/byte", "time", "done", "left")
    spare = ("bits/byte", "where", "attempts", "time")
    table = RowsTable(title=title, rows=cells, right=right, once="budget", spare=spare)
    troubles = [run for run in runs if run.sentence and run.state in TROUBLED]
    return [table, *(Text(f"{short(run.key)}: {run.sentence}") for run in troubles)]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"


def _loss(run: Run) -> str:
    if run.loss is None:
        return ""
    if run.state == State.RUNNING:
        return f"training {run.loss:.3f}"
    return f"{run.loss:.4f}" if run.loss_se is None else f"{run.loss:.4f} ± {run.loss_se:.4f}"


def watch(read: Callable[[], Sequence[Run]], sweep: str, *, every_s: float = WATCH_S) -> None:
    """Show the sweep until all of it is settled, or Ctrl-C. Without a terminal: a line per change."""
    out = console()
    live = Live(console=out, auto_refresh=False, screen=True, vertical_overflow="crop")
    printed = ""
    try:
        with live if out.is_terminal else nullcontext():
            while True:
                runs = read()
                line = f"sweep {sweep}: {summary(run.state for run in runs)}"
                settled = all(run.state in SETTLED for run in runs)
                if out.is_terminal and not settled:
                    parts = view(runs, sweep)
                    if len(runs) + len(parts) > out.height:  # the table of all would hide the rest
                        parts = view(runs, sweep, long=0)
                    live.update(Group(*parts), refresh=True)
                elif not out.is_terminal and line != printed:
                    out.print(line)
                    printed = line
                if settled:
                    break
                time.sleep(every_s)
        if out.is_terminal:
            show(runs, sweep, out)
    except KeyboardInterrupt:
        return
