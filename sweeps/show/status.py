"""The states of a sweep's runs in a terminal: tables, pictures, and a view that keeps itself up to date."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext

from rich.console import Console, Group
from rich.text import Text

from analysis.text import duration, flops_text
from sweeps.ledger.status import Row
from sweeps.ledger.types import SETTLED, State
from sweeps.show.tables import KEY_LETTERS, WORDS, RowsTable, console, picture, state_text

TROUBLED = frozenset({State.FAILED, State.DIVERGED, State.UNSCHEDULABLE, State.WAITING, State.PREEMPTED})
"""States that need an explanation."""
QUIET = frozenset({State.PLANNED, State.FINISHED})
"""States of which a long table leaves out the rows."""
LONG = 200
"""Rows of a family beyond which the table shows only those that need attention."""
WATCH_S = 2.0


def show(rows: Sequence[Row], sweep: str, out: Console | None = None, *, whole: bool = False) -> None:
    """A table and a picture per family, and a line for the whole. whole: every row of a long table."""
    out = out or console()
    for part in view(rows, sweep, long=len(rows) if whole else LONG):
        out.print(part)


def view(rows: Sequence[Row], sweep: str, *, long: int = LONG) -> list[RowsTable | Text]:
    """The parts of `show`. A family of more than `long` rows lists only those that need attention."""
    parts: list[RowsTable | Text] = []
    for family in dict.fromkeys(row.family for row in rows):
        own = [row for row in rows if row.family == family]
        listed = own if len(own) <= long else [row for row in own if row.state not in QUIET]
        if listed:
            parts += status_table(listed, family)
        if len(listed) < len(own):
            title = "" if listed else f"{family}: "
            parts.append(Text(f"{title}{len(own) - len(listed)} runs planned or finished; --all lists them"))
        parts.append(picture((row.budget, row.size, row.params or 0.0, row.state) for row in own))
    parts.append(Text(f"sweep {sweep}: {summary(row.state for row in rows)}"))
    return parts


def summary(states: Iterable[str]) -> str:
    """24 runs: 20 finished, 3 running, 1 failed."""
    counts = Counter(str(state) for state in states)
    parts = [f"{counts[state]} {WORDS[state][1]}" for state in WORDS if counts[state]]
    return f"{sum(counts.values())} runs" + (f": {', '.join(parts)}" if parts else "")


def status_table(rows: Sequence[Row], title: str) -> list[RowsTable | Text]:
    """One row per run: state, attempts, loss, time, where it ran; below them what went wrong."""
    cells: list[dict[str, str | Text]] = [
        {
            "budget": flops_text(row.budget),
            "size": row.size,
            "key": row.key[:KEY_LETTERS],
            "state": state_text(row.state),
            "tries": str(row.attempt),
            "loss": _loss(row),
            "bits/byte": "" if row.bits_per_byte is None else f"{row.bits_per_byte:.3f}",
            "time": duration(row.seconds) if row.seconds else "",
            "done": "" if row.share is None else f"{row.share:.0%}",
            "left": "" if row.left_s is None else duration(row.left_s),
            "where": row.host or "",
        }
        for row in rows
    ]
    right = ("budget", "tries", "loss", "bits/byte", "time", "done", "left")
    spare = ("bits/byte", "where", "tries", "time")
    table = RowsTable(title=title, rows=cells, right=right, once="budget", spare=spare)
    troubles = [row for row in rows if row.sentence and row.state in TROUBLED]
    return [table, *(Text(f"{row.key[:KEY_LETTERS]}: {row.sentence}") for row in troubles)]


def _loss(row: Row) -> str:
    if row.loss is None:
        return ""
    if row.state == State.RUNNING:
        return f"training {row.loss:.3f}"
    return f"{row.loss:.4f}" if row.loss_se is None else f"{row.loss:.4f} ± {row.loss_se:.4f}"


def watch(read: Callable[[], Sequence[Row]], sweep: str, *, every_s: float = WATCH_S) -> None:
    """Show the sweep until all of it is settled, or Ctrl-C. Without a terminal: a line per change."""
    from rich.live import Live

    out = console()
    live = Live(console=out, auto_refresh=False, screen=True, vertical_overflow="crop")
    printed = ""
    try:
        with live if out.is_terminal else nullcontext():
            while True:
                rows = read()
                line = f"sweep {sweep}: {summary(row.state for row in rows)}"
                settled = all(row.state in SETTLED for row in rows)
                if out.is_terminal and not settled:
                    parts = view(rows, sweep)
                    if len(rows) + len(parts) > out.height:  # the table of all would hide the rest
                        parts = view(rows, sweep, long=0)
                    live.update(Group(*parts), refresh=True)
                elif not out.is_terminal and line != printed:
                    out.print(line)
                    printed = line
                if settled:
                    break
                time.sleep(every_s)
        if out.is_terminal:
            show(rows, sweep, out)
    except KeyboardInterrupt:
        return
