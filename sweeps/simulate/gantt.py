"""A simulated schedule in a terminal: its figures, and who runs where and when."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from analysis.figures.theme import budget_colours, rgb
from sweeps.show.tables import duration, flops_text
from sweeps.simulate.cluster import describe
from sweeps.simulate.simulator import Schedule, Stay

MOST_ROWS = 32
"""With more slots there is a row per node, and of more nodes the first ones are shown."""
WIDEST = 100
MARKS = "123456789abcdefghijklmnopqrstuvwxyz"
"""Of budgets, smallest first."""
START, IDLE = "▏", "·"


def schedule_view(
    schedule: Schedule, *, gpu_price: float | None = None, width: int = WIDEST
) -> RenderableType:
    """What the schedule amounts to, and its picture. gpu_price: of a GPU-hour, in whatever currency."""
    parts: list[RenderableType] = [Text(describe(schedule.nodes), style="bold")]
    if schedule.ended_by:
        parts.append(_capped(schedule))
    if schedule.stays:
        parts += [
            _figures(schedule),
            *_cost(schedule, gpu_price),
            picture(schedule, width=min(width, WIDEST)),
        ]
    parts += [Text(line, style="red") for line in _refusals(schedule)]
    return Group(*parts)


def _capped(schedule: Schedule) -> Text:
    """How far the sweep gets."""
    stopped = len(schedule.stopped)
    ends = {
        "finished": len(schedule.stays) - stopped,
        "stopped with a checkpoint": stopped,
        "not started": schedule.not_started,
    }
    runs = ", ".join(f"{count} {how}" for how, count in ends.items() if count or how == "finished")
    return Text(f"within {schedule.ended_by}: {runs}", style="yellow")


def _figures(schedule: Schedule) -> Text:
    slots = sum(schedule.lanes.values())
    text = f"{len(schedule.stays)} runs, {slots} at once: {duration(schedule.makespan_s)} from start to end"
    if not schedule.ended_by:
        above = schedule.makespan_s / schedule.bound_s - 1
        text += f", {above:.1%} above the least possible ({duration(schedule.bound_s)})"
    return Text(f"{text}; slots in use {schedule.utilisation:.0%} of the time")


def _cost(schedule: Schedule, gpu_price: float | None) -> list[Text]:
    if not schedule.held_gpu_hours:
        return []
    used, held = schedule.gpu_hours, schedule.held_gpu_hours
    text = f"{used:,.1f} GPU-hours in use, {held:,.1f} while all GPUs are held"
    if gpu_price is not None:
        text += f"; at {gpu_price:g} per GPU-hour {used * gpu_price:,.0f} and {held * gpu_price:,.0f}"
    return [Text(text)]


def _refusals(schedule: Schedule) -> list[str]:
    counts = Counter(schedule.refused.values())
    return [f"{count} run{'s' if count > 1 else ''}: {why}" for why, count in counts.items()]


# --- the picture


def picture(schedule: Schedule, *, width: int = WIDEST) -> Text:
    """Time across; a row per slot, or per node where there are many; the mark of a run is its budget's."""
    budgets = sorted({_budget(stay) for stay in schedule.stays})
    marks = {budget: MARKS[min(i, len(MARKS) - 1)] for i, budget in enumerate(budgets)}
    colours = dict(zip(budgets, budget_colours(len(budgets)), strict=True))
    by_slot = sum(schedule.lanes.values()) <= MOST_ROWS
    rows: dict[str, list[Stay]] = defaultdict(list)
    for node, lanes in schedule.lanes.items():
        for lane in range(lanes if by_slot else 1):
            rows[_name(node, lane) if by_slot and lanes > 1 else node] = []
    for stay in schedule.stays:
        lanes = schedule.lanes[stay.node]
        rows[_name(stay.node, stay.lane) if by_slot and lanes > 1 else stay.node].append(stay)
    name_width = max(len(name) for name in rows)
    columns = max(20, width - name_width - 1)
    cell_s = schedule.makespan_s / columns
    text = Text()
    for name, stays in list(rows.items())[:MOST_ROWS]:
        text.append(f"{name:>{name_width}} ", style="dim")
        shared = 1 if by_slot else schedule.lanes[name]
        for budget, starts in _cells(stays, columns, cell_s, shared):
            if budget is None:
                text.append(IDLE, style="dim")
            else:
                text.append(START if starts else marks[budget], style=_style(colours[budget]))
        text.append("\n")
    if len(rows) > MOST_ROWS:
        text.append(f"{'':>{name_width}} and {len(rows) - MOST_ROWS} more nodes\n", style="dim")
    text.append(" " * (name_width + 1) + _axis(schedule.makespan_s, columns) + "\n", style="dim")
    for budget in budgets:
        text.append(marks[budget], style=_style(colours[budget]))
        text.append(f" {flops_text(budget)}  ", style="dim")
    text.append(f"FLOPs   {START} start of a run   {IDLE} idle", style="dim")
    return text


def _budget(stay: Stay) -> float:
    return float(stay.entry.spec["budget"])


def _name(node: str, lane: int) -> str:
    return f"{node} {lane + 1}"


Cell = tuple[float | None, bool]
"""A budget, None where idle; and whether a run that is wide enough starts there."""


def _cells(stays: Iterable[Stay], columns: int, cell_s: float, lanes: int) -> list[Cell]:
    """For each column the budget of the run that starts there, else of most of the time."""
    busy: list[dict[float, float]] = [defaultdict(float) for _ in range(columns)]
    starts: dict[int, float] = {}
    for stay in stays:
        first = min(int(stay.start_s / cell_s), columns - 1)
        last = min(int(stay.end_s / cell_s), columns - 1)
        if lanes == 1 and last - first >= 2:
            starts[first] = _budget(stay)
        for cell in range(first, last + 1):
            overlap_s = min(stay.end_s, (cell + 1) * cell_s) - max(stay.start_s, cell * cell_s)
            busy[cell][_budget(stay)] += max(overlap_s, 0.0)
    cells: list[Cell] = []
    for cell, times in enumerate(busy):
        most = max(times, key=lambda budget: times[budget], default=None)
        idle = sum(times.values()) < lanes * cell_s / 2
        cells.append((starts.get(cell, None if idle else most), cell in starts))
    return cells


def _style(colour: str) -> str:
    red, green, blue = rgb(colour)
    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 140
    return f"{'white' if dark else 'black'} on {colour}"


def _axis(makespan_s: float, columns: int) -> str:
    """0 ... 1.5 h ... 3.0 h, at quarters."""
    line = [" "] * columns
    _write(line, 0, "0")
    for quarter in (1, 2, 3):
        text = duration(makespan_s * quarter / 4)
        _write(line, columns * quarter // 4 - len(text) // 2, text)
    end = duration(makespan_s)
    _write(line, columns - len(end), end)
    return "".join(line)


def _write(line: list[str], place: int, text: Sequence[str]) -> None:
    line[place : place + len(text)] = text
