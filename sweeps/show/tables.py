"""Plans, sweeps and laws in a terminal: tables, and a picture of budgets against sizes."""

from __future__ import annotations

import os
import sys
import textwrap
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from analysis.text import count_text, duration, flops_text, number_text, printable, size_text
from sweeps.attempt.journal import run_folder
from sweeps.ledger.types import State
from sweeps.pools.devices import is_cpu

if TYPE_CHECKING:
    from sweeps.plan.plan import Plan, PlannedRun

WORDS: Mapping[str, tuple[str, str, str]] = {
    "planned": ("○", "planned", ""),
    "waiting": ("○", "waiting", ""),
    "running": ("◐", "running", "cyan"),
    "preempted": ("◑", "preempted", "yellow"),
    "finished": ("●", "finished", "green"),
    "diverged": ("✗", "diverged", "red"),
    "failed": ("✗", "failed", "red"),
    "cancelled": ("–", "cancelled", "yellow"),
    "unschedulable": ("!", "unschedulable", "red"),
}
"""The mark of a state in the picture, its word in a table, its colour."""


SKIPPED = {
    State.FINISHED: "",
    State.DIVERGED: "`scaling retry KEY` trains one again",
    State.CANCELLED: "`scaling resume` takes them up",
}
"""States that a sweep does not run again, and the command that changes that."""
KEY_LETTERS = 8
"""Letters of a key in a table: enough to name a run."""


def short(key: str) -> str:
    """A key as tables and messages show it."""
    return key[:KEY_LETTERS]


WRAP: Mapping[str, Any] = {"break_long_words": False, "break_on_hyphens": False}


class _Console(Console):
    """Shows text as it is: no markup, control characters escaped. Sentences wrap at words on a terminal; in a
    file or a pipe each stays on one line."""

    def print(self, *objects: Any, **options: Any) -> None:
        if self.is_terminal and objects and all(isinstance(part, str) for part in objects):
            # unlike Rich, textwrap can leave a path longer than the line whole, so that it can be copied
            lines = " ".join(objects).split("\n")
            objects = ("\n".join(textwrap.fill(line, self.width, **WRAP) for line in lines),)
            options["soft_wrap"] = True
        elif not self.is_terminal and all(isinstance(part, str | Text) for part in objects):
            options["soft_wrap"] = True
        super().print(*objects, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or segment.text == "\n" or segment.text.isprintable():
                yield segment
            else:
                yield segment._replace(text="\n".join(map(printable, segment.text.split("\n"))))


def console(*, stderr: bool = False) -> Console:
    """A console that does not squeeze tables when the output goes to a file or a pipe."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 140
    return _Console(file=stream, highlight=False, markup=False, emoji=False, width=width)


class _Lasting:
    """An output whose loss (a full disk, a closed terminal) does not end the program."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


@contextmanager
def lasting_console(*, stderr: bool = False) -> Iterator[Console]:
    """A `console` that may fail: the process goes on, and ends with its own exit code."""
    out = console(stderr=stderr)
    stream = out.file
    out.file = _Lasting(stream)  # type: ignore[assignment]
    try:
        yield out
    finally:
        try:
            stream.flush()
        except OSError:  # Python would flush again at its exit, and make that exit an error
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def state_text(state: str) -> Text:
    """A state in its colour."""
    _, word, style = WORDS.get(state, ("?", state, ""))
    return Text(word, style=style)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsTable:
    """A table of rows with the same keys, in the house style.

    Columns without any entry are left out, and as many of `spare` as it takes to fit the width.
    """

    title: str
    rows: Sequence[Mapping[str, str | Text]]
    right: Collection[str] = ()
    """Columns set to the right: numbers."""
    once: str = ""
    """A column that shows a value only where it changes."""
    spare: Sequence[str] = ()
    """Columns to do without, the first one first."""
    wraps: str = ""
    """The column whose cells go over several lines, if the table is too wide."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        names = [name for name in self.rows[0] if any(row[name] for row in self.rows)] if self.rows else []
        endless = options.update(max_width=10_000)
        for name in (*self.spare, ""):
            table = self._table(names)
            if name == "" or Measurement.get(console, endless, table).maximum <= options.max_width:
                break
            names = [other for other in names if other != name]
        # not the table's own title, which would wrap at the width of the table
        if self.title:
            yield Text(self.title, style="bold")
        yield table

    def _table(self, names: Sequence[str]) -> Table:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for name in names:
            whole = bool(self.wraps) and name != self.wraps
            table.add_column(name, justify="right" if name in self.right else "left", no_wrap=whole)
        last: str | Text | None = None
        for row in self.rows:
            cells = dict(row)
            if self.once and row[self.once] == last:
                cells[self.once] = ""
            last = row[self.once] if self.once else None
            table.add_row(*(cells[name] for name in names))
        return table


# --- the plan


def plan_view(plan: Plan, *, slots: int = 1, brief: bool = False) -> RenderableType:
    """A plan: a table and a picture per family, totals and warnings. brief: without the tables.

    slots: how many runs go at once, for the expected end.
    """
    config, data = plan.config, plan.data
    tokens = "endless" if data.prepared else "not prepared yet"
    if data.train_tokens is not None:
        tokens = f"{count_text(data.train_tokens)} training tokens"
    desk = config.ladder == "desk" and config.sizes is None and config.size_rule is None
    facts = [
        f"sweep {config.name}",
        f"data {data.corpus}, {data.tokenizer} ({data.num_token_ids} ids, {tokens})",
        f"context {config.context_length}",
        f"budgets in '{config.flop_convention}' FLOPs",
        *(["sizes are width x blocks"] if desk else []),
        config.precision,
    ]
    parts: list[RenderableType] = [Text("; ".join(facts))]
    for family in plan.families:
        runs = plan.of_family(family)
        drawn = picture((r.spec.budget, r.spec.size.name, float(r.params), r.state) for r in runs)
        if brief:
            parts += [Text(family, style="bold"), drawn]
            continue
        options = ", ".join(f"{k} {v}" for k, v in config.family(family).options.items())
        parts += [plan_table(runs, f"{family} ({options})" if options else family), drawn]
        parts += [Text(runs[0].spec.build_family().statement), Text()]
    parts += [totals(plan, slots=slots), *map(Text, plan.news)]
    return Group(*parts, *(Text(f"warning: {sentence}", style="yellow") for sentence in plan.warnings))


def plan_table(runs: Sequence[PlannedRun], title: str) -> RowsTable:
    """One row per run, by budget and size. FLOPs are the exact count, whatever the budgets mean, of all its
    replicas; tokens and steps are those of each.
    """
    seeds = len({seed for run in runs for seed in run.spec.seeds}) > 1
    rows: list[dict[str, str | Text]] = [
        {
            "budget": flops_text(run.spec.budget),
            "size": run.spec.size.name + (f" #{seeds_text(run.spec.seeds)}" if seeds else ""),
            "key": short(run.key),
            "replicas": str(run.spec.replicas) if run.spec.replicas > 1 else "",
            "params": count_text(run.params),
            "tokens": count_text(run.spec.tokens),
            "tokens/param": count_text(run.spec.tokens / run.params),
            "steps": str(run.spec.steps),
            "batch": count_text(run.spec.batch_size * run.spec.data.context_length),
            "learning\nrate": number_text(run.spec.optimizer.learning_rate, 2),
            "FLOPs": flops_text(run.spec.replicas * run.spec.training_flops("exact")),
            "memory": size_text(run.memory_bytes),
            "time": duration(run.expected_s) if run.state != "finished" else "",
            "state": state_text(run.state),
        }
        for run in runs
    ]
    right = rows[0].keys() - {"size", "key", "state"} if rows else ()
    spare = ("FLOPs", "batch", "memory", "tokens/param", "steps", "learning\nrate")
    return RowsTable(title=title, rows=rows, right=right, once="budget", spare=spare)


def seeds_text(seeds: Sequence[int]) -> str:
    """1, or 1-4."""
    return f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]}-{seeds[-1]}"


def totals(plan: Plan, *, slots: int) -> Text:
    """The work in all and what is left of it; how long that takes with `slots` runs at once, and why so."""
    left = plan.to_do
    number, networks = len(plan.runs), sum(run.spec.replicas for run in plan.runs)
    all_runs = f"{number} runs" + (f" of {networks} networks" if networks > number else "")
    if not left:
        return Text(f"{all_runs}, all of them done")
    flops = sum(run.spec.replicas * run.spec.training_flops("exact") for run in left)
    times = [run.expected_s for run in left]
    wait_s = max(sum(times) / max(slots, 1), *times)
    at_once = "one at a time" if slots == 1 else f"{slots} at a time"
    cpu = is_cpu(plan.kind)
    device = "this machine" if cpu else plan.kind
    others = [kind for kind in plan.experience.kinds if is_cpu(kind) == cpu]
    if plan.kind in plan.experience.kinds:
        source = f"from runs done on {device}"
    elif others:
        source = f"a guess for {device} from runs done on {' and '.join(sorted(others))}"
    elif cpu:
        source = "a guess from a quick measurement of this machine"
    else:
        source = f"a guess from the data sheet of one {device}"
    done = number - len(left)
    return Text(
        f"{all_runs}, {done} done, {len(left)} to do: {flops_text(flops)} FLOPs, "
        f"about {duration(wait_s)} {at_once} ({source})"
    )


def places(plan: Plan, folder: Path, *, data: Path) -> str:
    """The runs that are skipped and why, and where everything is written. folder: of the sweep."""
    lines = []
    for state, remedy in SKIPPED.items():
        number = sum(run.state == state for run in plan.runs)
        if number:
            lines.append(f"skipped: {number} {state}" + (f" ({remedy})" if remedy else ""))
    lines.append(f"each run in {run_folder(folder, 'FAMILY', 'KEY')}, laws and figures in {folder}/FAMILY")
    lines.append(f"states in {folder}/ledger, data in {data}")
    return "\n".join(lines)


# --- budget x size


MANY = 8
"""More runs than this in one cell are counted instead of drawn one by one."""


def picture(cells: Iterable[tuple[float, str, float, str]]) -> Text:
    """Budgets across, sizes down (largest on top), a mark per run; several seeds stand side by side.

    cells: budget, size, params and state of each run.
    """
    states: dict[tuple[str, float], list[str]] = defaultdict(list)
    params: dict[str, float] = {}
    for budget, size, count, state in cells:
        states[size, budget].append(state)
        params[size] = count
    drawn = {place: _marks(group) for place, group in states.items()}
    budgets = sorted({budget for _, budget in states})
    sizes = sorted(params, key=lambda name: -params[name])
    name_width = max((len(name) for name in sizes), default=0)
    width = max(8, 2 + max((len(marks) for marks in drawn.values()), default=0))
    text = Text()
    for size in sizes:
        text.append(f"{size:>{name_width}} {count_text(params[size]):>6} ", style="dim")
        for budget in budgets:
            marks = drawn.get((size, budget), Text("·", style="dim"))
            left = (width - len(marks)) // 2
            text.append(" " * left).append_text(marks).append(" " * (width - left - len(marks)))
        text.append("\n")
    text.append(" " * (name_width + 8) + "".join(f"{flops_text(b):^{width}}" for b in budgets), style="dim")
    present = set().union(*states.values())
    legend = dict.fromkeys(WORDS[state][:2] for state in WORDS if state in present)
    text.append("\n" + "  ".join(f"{mark} {word}" for mark, word in legend), style="dim")
    return text


def _marks(states: Sequence[str]) -> Text:
    """A mark for each state, or for many runs a number and a mark for each kind."""
    text = Text()
    if len(states) <= MANY:
        for state in states:
            mark, _, style = WORDS.get(state, ("?", state, ""))
            text.append(mark, style=style)
        return text
    counts = Counter(states)
    for state in (name for name in WORDS if counts[name]):
        mark, _, style = WORDS[state]
        text.append(f" {counts[state]}{mark}" if text else f"{counts[state]}{mark}", style=style)
    return text
