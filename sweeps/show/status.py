"""What became of a sweep's runs, as people see it in a terminal."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from analysis.text import duration, flops_text
from sweeps.ledger.types import SETTLED, Run, State
from sweeps.show.tables import KEY_LETTERS, WORDS, console, new_table, picture, state_text

if TYPE_CHECKING:
    from rich.console import Console

TOLD = frozenset({State.FAILED, State.DIVERGED, State.UNSCHEDULABLE, State.WAITING, State.PREEMPTED})
"""States whose sentence the table shows."""
QUIET = frozenset({State.PLANNED, State.FINISHED})
"""States of which a long table leaves out the rows."""
LONG = 200
"""Rows of a family beyond which the table shows only those that need attention."""
WATCH_S = 2.0


# -- what it looks like -------------------------------------------------------------------------


def show(runs: Sequence[Run], sweep: str, out: Console | None = None, *, whole: bool = False) -> None:
    """A table and a picture per family, and a line for the whole. whole: every row of a long table."""
    out = out or console()
    for part in view(runs, sweep, whole=whole):
        out.print(part)


def view(runs: Sequence[Run], sweep: str, *, whole: bool = False) -> list[Table | Text]:
    """The parts of `show`."""
    parts: list[Table | Text] = []
    for family in dict.fromkeys(run.family for run in runs):
        own = [run for run in runs if run.family == family]
        shown = own if whole or len(own) <= LONG else [run for run in own if run.state not in QUIET]
        if shown:
            parts.append(status_table(shown, family))
        if len(shown) < len(own):
            title = "" if shown else f"{family}: "
            parts.append(Text(f"{title}{len(own) - len(shown)} runs planned or finished; --all lists them"))
        parts.append(picture((run.budget, run.size, run.params or 0.0, run.state) for run in own))
    parts.append(Text(f"sweep {sweep}: {summary(run.state for run in runs)}"))
    return parts


def summary(states: Iterable[str]) -> str:
    """24 runs: 20 finished, 3 running, 1 failed."""
    counts = Counter(str(state) for state in states)
    parts = [f"{counts[state]} {WORDS[state][1]}" for state in WORDS if counts[state]]
    return f"{sum(counts.values())} runs" + (f": {', '.join(parts)}" if parts else "")


def status_table(runs: Sequence[Run], title: str) -> Table:
    """One row per run: state, tries, loss, time, where it ran, and what went wrong."""
    table = new_table(title)
    columns = (
        "budget",
        "size",
        "key",
        "state",
        "tries",
        "loss",
        "bits/byte",
        "time",
        "done",
        "left",
        "where",
    )
    for name in (*columns, ""):
        right = name not in ("size", "key", "state", "where", "")
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "")
    last = None
    for run in runs:
        bits, share = run.result.get("bits_per_byte"), run.progress.get("share")
        left_s = run.progress.get("left_s")
        table.add_row(
            flops_text(run.budget) if run.budget != last else "",
            run.size,
            run.key[:KEY_LETTERS],
            state_text(run.state),
            str(run.attempt),
            _loss(run),
            "" if bits is None else f"{bits:.3f}",
            duration(run.worked_s) if run.worked_s else "",
            "" if share is None else f"{share:.0%}",
            "" if left_s is None else duration(left_s),
            run.host or "",
            Text(run.sentence if run.state in TOLD else ""),
        )
        last = run.budget
    return table


def _loss(run: Run) -> str:
    if run.loss is None:
        return ""
    if run.state == State.RUNNING:
        return f"training {run.loss:.3f}"
    error = run.result.get("bound_se")
    return f"{run.loss:.4f}" if error is None else f"{run.loss:.4f} ± {error:.4f}"


def watch(read: Callable[[], Sequence[Run]], sweep: str, *, every_s: float = WATCH_S) -> None:
    """Show the sweep until all of it is settled, or Ctrl-C. Without a terminal: a line per change."""
    out = console()
    try:
        if out.is_terminal:
            _watch_terminal(read, sweep, out, every_s)
        else:
            _watch_lines(read, sweep, out, every_s)
    except KeyboardInterrupt:
        return


def _settled(runs: Sequence[Run]) -> bool:
    return all(run.state in SETTLED for run in runs)


def _watch_terminal(read: Callable[[], Sequence[Run]], sweep: str, out: Console, every_s: float) -> None:
    from rich.console import Group
    from rich.live import Live

    with Live(console=out, auto_refresh=False, screen=True, vertical_overflow="crop") as live:
        while not _settled(runs := read()):
            busy = [run for run in runs if run.state not in QUIET]
            parts = view(runs, sweep)
            if len(runs) + len(parts) > out.height:  # the table of all would hide the rest
                pictures = [part for part in parts if isinstance(part, Text)]
                parts = [*([status_table(busy, sweep)] if busy else []), *pictures]
            live.update(Group(*parts), refresh=True)
            time.sleep(every_s)
    show(runs, sweep, out)


def _watch_lines(read: Callable[[], Sequence[Run]], sweep: str, out: Console, every_s: float) -> None:
    said = ""
    while True:
        runs = read()
        line = f"sweep {sweep}: {summary(run.state for run in runs)}"
        if line != said:
            said = line
            out.print(line, soft_wrap=True)
        if _settled(runs):
            return
        time.sleep(every_s)
