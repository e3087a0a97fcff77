"""How plans, sweeps and laws look in a terminal: tables, and a picture of budgets against sizes."""

from __future__ import annotations

import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from analysis.text import (
    MISSING,
    count_text,
    duration,
    flops_text,
    number_text,
    printable,
    size_text,
    value_text,
)
from sweeps.ledger.types import State

if TYPE_CHECKING:
    from sweeps.plan.plan import Plan, PlannedRun

WORDS: Mapping[str, tuple[str, str, str]] = {
    "planned": ("○", "planned", ""),
    "waiting": ("○", "waiting", ""),
    "running": ("◐", "running", "cyan"),
    "preempted": ("◑", "resume", "yellow"),
    "finished": ("●", "finished", "green"),
    "diverged": ("✗", "diverged", "red"),
    "failed": ("✗", "failed", "red"),
    "cancelled": ("–", "cancelled", "yellow"),
    "unschedulable": ("!", "unschedulable", "red"),
}
"""What a state looks like: its mark in the picture, its word in a table, its colour."""


SKIPPED = {
    State.FINISHED: "",
    State.DIVERGED: "`scaling retry KEY` trains one again",
    State.CANCELLED: "`scaling resume` takes them up",
}
"""States that a sweep leaves as they are, and what changes that."""
KEY_LETTERS = 8
"""Of a key, in a table: enough to name a run by."""
NARROW = 120
"""Columns of a terminal below which the plan's table leaves out what can be worked out from the rest."""


class _Console(Console):
    """Shows what is printed as it is: no markup is looked for in it, and control characters are escaped."""

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
    """An output that may be lost (a full disk, a closed terminal) without ending who writes to it."""

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


def new_table(title: str) -> Table:
    """An empty table in the house style."""
    return Table(
        title=title or None, box=SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False
    )


# --- the plan


def plan_view(plan: Plan, *, slots: int = 1, width: int = NARROW) -> RenderableType:
    """The whole plan: a table and a picture per family, totals and warnings.

    slots: how many runs go at once here, for the expected end. width: of the terminal, in characters.
    """
    parts: list[RenderableType] = [_heading(plan)]
    for family in plan.families:
        runs = plan.of_family(family)
        options = ", ".join(f"{k} {v}" for k, v in plan.config.family(family).options.items())
        title = f"{family} ({options})" if options else family
        parts += [plan_table(runs, title, width=width), picture(_cell(run) for run in runs)]
        parts += [Text(runs[0].spec.build_family().statement), Text()]
    parts.append(totals(plan, slots=slots))
    parts += [Text(sentence) for sentence in plan.news]
    parts += warning_lines(plan.warnings)
    return Group(*parts)


def plan_brief(plan: Plan, *, slots: int = 1) -> RenderableType:
    """The plan without its table: what is on the grid, what is left, and what to be careful about."""
    parts: list[RenderableType] = [_heading(plan)]
    for family in plan.families:
        parts += [Text(family, style="bold"), picture(_cell(run) for run in plan.of_family(family))]
    news = [Text(sentence) for sentence in plan.news]
    return Group(*parts, totals(plan, slots=slots), *news, *warning_lines(plan.warnings))


def _heading(plan: Plan) -> Text:
    config, data = plan.config, plan.data
    if data.train_tokens is not None:
        tokens = f"{count_text(data.train_tokens)} training tokens"
    else:
        tokens = "endless" if data.prepared else "not prepared yet"
    facts = [
        f"sweep {config.name}",
        f"data {data.corpus}, {data.tokenizer} ({data.num_token_ids} ids, {tokens})",
        f"context {config.context_length}",
        f"budgets in '{config.flop_convention}' FLOPs",
        *(["sizes are width x blocks"] if config.ladder == "desk" and not config.own_sizes else []),
        config.precision,
    ]
    return Text("; ".join(facts))


def plan_table(runs: Sequence[PlannedRun], title: str, *, width: int = NARROW) -> Table:
    """One row per run, by budget and size. FLOPs are the exact count, whatever the budgets mean."""
    left_out = {"FLOPs", "batch", "memory", "tokens/param"} if width < NARROW else set()
    seeds = len({run.spec.seed for run in runs}) > 1
    rows = [_plan_row(run, seeds=seeds) for run in runs]
    table = new_table(title)
    names = [name for name in rows[0] if name not in left_out] if rows else []
    for name in names:
        table.add_column(name, justify="left" if name in ("size", "key", "state") else "right", no_wrap=True)
    last = None
    for row in rows:
        cells = {**row, "budget": "" if row["budget"] == last else row["budget"]}
        table.add_row(*(cells[name] for name in names))
        last = row["budget"]
    return table


def _plan_row(run: PlannedRun, *, seeds: bool) -> dict[str, str | Text]:
    spec = run.spec
    return {
        "budget": flops_text(spec.budget),
        "size": spec.size.name + (f" #{spec.seed}" if seeds else ""),
        "key": run.key[:KEY_LETTERS],
        "params": count_text(run.params),
        "tokens": count_text(spec.tokens),
        "tokens/param": count_text(spec.tokens / run.params),
        "steps": str(spec.steps),
        "batch": count_text(spec.batch_size * spec.data.context_length),
        "learning\nrate": number_text(spec.optimizer.learning_rate, 2),
        "FLOPs": flops_text(spec.training_flops("exact")),
        "memory": size_text(run.memory_bytes),
        "time": duration(run.expected_s) if run.state != "finished" else "",
        "state": state_text(run.state),
    }


def totals(plan: Plan, *, slots: int) -> Text:
    """How much work in all, how much is left, and how long that takes with `slots` runs at once."""
    left = plan.to_do
    work_s = sum(run.expected_s for run in left)
    longest_s = max((run.expected_s for run in left), default=0.0)
    flops = sum(run.spec.training_flops("exact") for run in left)
    done = len(plan.runs) - len(left)
    if not left:
        return Text(f"{len(plan.runs)} runs, all of them done")
    wait_s = max(work_s / max(slots, 1), longest_s)
    at_once = "one at a time" if slots == 1 else f"{slots} at a time"
    return Text(
        f"{len(plan.runs)} runs, {done} done, {len(left)} to do: {flops_text(flops)} FLOPs, "
        f"about {duration(wait_s)} {at_once} ({_grounds(plan)})"
    )


def places(plan: Plan, folder: Path, *, data: Path) -> Text:
    """Which runs are left out and why, and where everything goes. folder: of the sweep."""
    from sweeps.attempt.journal import run_folder

    lines = []
    for state, remedy in SKIPPED.items():
        number = sum(run.state == state for run in plan.runs)
        if number:
            lines.append(f"skipped: {number} {state}" + (f" ({remedy})" if remedy else ""))
    lines.append(f"each run in {run_folder(folder, 'FAMILY', 'KEY')}, laws and figures in {folder}/FAMILY")
    lines.append(f"states in {folder}/ledger, data in {data}")
    return Text("\n".join(lines))


def _grounds(plan: Plan) -> str:
    """What the expected times rest on."""
    from sweeps.pools.devices import is_cpu

    cpu = is_cpu(plan.kind)
    device = "this machine" if cpu else plan.kind
    if plan.kind in plan.experience.kinds:
        return f"from runs done on {device}"
    others = [kind for kind in plan.experience.kinds if is_cpu(kind) == cpu]
    if others:
        return f"a guess for {device} from runs done on {' and '.join(sorted(others))}"
    return (
        "a guess from a quick measurement of this machine"
        if cpu
        else f"a guess from the data sheet of one {device}"
    )


def warning_lines(warnings: Iterable[str]) -> list[Text]:
    """Each warning on a line of its own."""
    return [Text(f"warning: {sentence}", style="yellow") for sentence in warnings]


# --- budget x size


Cell = tuple[float, str, float, str]
"""Budget, size name, params, state."""


def _cell(run: PlannedRun) -> Cell:
    return run.spec.budget, run.spec.size.name, float(run.params), run.state


MANY = 8
"""Runs of one cell beyond which they are counted instead of drawn one by one."""


def picture(cells: Iterable[Cell]) -> Text:
    """Budgets across, sizes down (largest on top), a mark per run; several seeds stand side by side."""
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
    text.append("\n" + _legend(states.values()), style="dim")
    return text


def _marks(states: Sequence[str]) -> Text:
    """A mark for each state, or where there are many a number before each kind's."""
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


def _legend(states: Iterable[Sequence[str]]) -> str:
    seen = {state for group in states for state in group}
    words = [WORDS[state][:2] for state in WORDS if state in seen]
    return "  ".join(f"{mark} {word}" for mark, word in dict.fromkeys(words))


# --- tables of anything


def frame_table(frame: Any, title: str = "") -> Table:
    """A DataFrame as a table; floats to four significant digits."""
    table = new_table(title)
    named = frame.index.name is not None or frame.index.dtype.kind not in "iu"
    if named:
        table.add_column(str(frame.index.name or ""))
    for name in frame.columns:
        table.add_column(str(name), justify="right" if frame[name].dtype.kind in "iuf" else "left")
    for index, row in zip(frame.index, frame.itertuples(index=False, name=None), strict=True):
        cells = [value_text("", value) or MISSING for value in row]
        table.add_row(*([str(index)] if named else []), *cells)
    return table
