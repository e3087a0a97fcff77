"""What became of a sweep's runs, as people see it in a terminal."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from analysis.text import duration, flops_text
from sweeps.ledger.status import Row
from sweeps.ledger.types import SETTLED, State
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


def show(rows: Sequence[Row], sweep: str, out: Console | None = None, *, whole: bool = False) -> None:
    """A table and a picture per family, and a line for the whole. whole: every row of a long table."""
    out = out or console()
    for part in view(rows, sweep, whole=whole):
        out.print(part)


def view(rows: Sequence[Row], sweep: str, *, whole: bool = False) -> list[Table | Text]:
    """The parts of `show`."""
    parts: list[Table | Text] = []
    for family in dict.fromkeys(row.family for row in rows):
        own = [row for row in rows if row.family == family]
        shown = own if whole or len(own) <= LONG else [row for row in own if row.state not in QUIET]
        if shown:
            parts.append(status_table(shown, family))
        if len(shown) < len(own):
            title = "" if shown else f"{family}: "
            parts.append(Text(f"{title}{len(own) - len(shown)} runs planned or finished; --all lists them"))
        parts.append(picture((row.budget, row.size, row.params or 0.0, row.state) for row in own))
    parts.append(Text(f"sweep {sweep}: {summary(row.state for row in rows)}"))
    return parts


def summary(states: Iterable[str]) -> str:
    """24 runs: 20 finished, 3 running, 1 failed."""
    counts = Counter(str(state) for state in states)
    parts = [f"{counts[state]} {WORDS[state][1]}" for state in WORDS if counts[state]]
    return f"{sum(counts.values())} runs" + (f": {', '.join(parts)}" if parts else "")


def status_table(rows: Sequence[Row], title: str) -> Table:
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
    for row in rows:
        table.add_row(
            flops_text(row.budget) if row.budget != last else "",
            row.size,
            row.key[:KEY_LETTERS],
            state_text(row.state),
            str(row.attempt),
            _loss(row),
            "" if row.bits_per_byte is None else f"{row.bits_per_byte:.3f}",
            duration(row.seconds) if row.seconds else "",
            "" if row.share is None else f"{row.share:.0%}",
            "" if row.left_s is None else duration(row.left_s),
            row.host or "",
            Text(row.sentence if row.state in TOLD else ""),
        )
        last = row.budget
    return table


def _loss(row: Row) -> str:
    if row.loss is None:
        return ""
    if row.state == State.RUNNING:
        return f"training {row.loss:.3f}"
    return f"{row.loss:.4f}" if row.loss_se is None else f"{row.loss:.4f} ± {row.loss_se:.4f}"


def watch(read: Callable[[], Sequence[Row]], sweep: str, *, every_s: float = WATCH_S) -> None:
    """Show the sweep until all of it is settled, or Ctrl-C. Without a terminal: a line per change."""
    out = console()
    try:
        if out.is_terminal:
            _watch_terminal(read, sweep, out, every_s)
        else:
            _watch_lines(read, sweep, out, every_s)
    except KeyboardInterrupt:
        return


def _settled(rows: Sequence[Row]) -> bool:
    return all(row.state in SETTLED for row in rows)


def _watch_terminal(read: Callable[[], Sequence[Row]], sweep: str, out: Console, every_s: float) -> None:
    from rich.console import Group
    from rich.live import Live

    with Live(console=out, auto_refresh=False, screen=True, vertical_overflow="crop") as live:
        while not _settled(rows := read()):
            busy = [row for row in rows if row.state not in QUIET]
            parts = view(rows, sweep)
            if len(rows) + len(parts) > out.height:  # the table of all would hide the rest
                pictures = [part for part in parts if isinstance(part, Text)]
                parts = [*([status_table(busy, sweep)] if busy else []), *pictures]
            live.update(Group(*parts), refresh=True)
            time.sleep(every_s)
    show(rows, sweep, out)


def _watch_lines(read: Callable[[], Sequence[Row]], sweep: str, out: Console, every_s: float) -> None:
    said = ""
    while True:
        rows = read()
        line = f"sweep {sweep}: {summary(row.state for row in rows)}"
        if line != said:
            said = line
            out.print(line, soft_wrap=True)
        if _settled(rows):
            return
        time.sleep(every_s)
