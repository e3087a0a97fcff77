"""`scaling plan`: what a sweep would do, and with --cluster when, where and at what cost."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.text import duration
from scaling.errors import UserError
from sweeps.driver.caps import SPENDS, Caps, Spent
from sweeps.ledger.types import Entry
from sweeps.plan import prepare
from sweeps.pools.rack import Node
from sweeps.show.tables import console, places, plan_view
from sweeps.simulate.cluster import describe, parse_cluster

if TYPE_CHECKING:
    import pandas as pd

    from sweeps.config.model import SweepConfig
    from sweeps.plan.plan import Plan
    from sweeps.simulate.simulator import Schedule

PAGE = "schedule.html"


def show_plan(
    asked: prepare.Request,
    *,
    cluster: str | None = None,
    gpu_price: float | None = None,
    page: bool = False,
    caps: Caps | None = None,
) -> None:
    """Print the plan; with a cluster also its simulated schedule, as a page, too, where that is wanted.

    caps: what the sweep may spend, with what it has spent so far.

    UserError for a cluster that cannot be read, or that has no room for the kind of runs the config asks for.
    """
    nodes = _nodes(asked.config, cluster)
    about_cluster = {"--gpu-price": gpu_price is not None, "--page": page, "a cap": bool(caps)}
    if not nodes and any(about_cluster.values()):
        option = next(name for name, given in about_cluster.items() if given)
        raise UserError(
            f"{option} is about a cluster, and --cluster is not given; write --cluster 8xH100:4, say"
        )
    out = console()
    facts = prepare.facts_for_plan(asked, out)
    plan = prepare.plan(asked, facts, kind=_fastest_kind(nodes) if asked.config.resources.gpus else "")
    slots = _slots(plan, nodes) if nodes else prepare.local_slots(asked.config)
    out.print(plan_view(plan, slots=slots))
    out.print(places(plan, asked.folder, data=asked.data_folder))
    if not facts.prepared:
        out.print("the data is not prepared yet, so what is done already is not known")
    if nodes and plan.to_do:
        schedule = simulated(plan, nodes, caps, _spent(plan, asked) if caps else None)
        for line, style in summary_lines(schedule, gpu_price):
            out.print(line, style=style)
        if page and schedule.stays:
            out.print(f"wrote {_write_page(schedule, asked)}")
        elif schedule.stays:
            out.print(f"--page draws which run goes where and when ({asked.folder / PAGE})")
        elif page:
            out.print("no run starts, so there is no schedule to draw")


def _nodes(config: SweepConfig, cluster: str | None) -> tuple[Node, ...]:
    if cluster is None:
        return ()
    wanted = config.resources
    nodes = parse_cluster(cluster, cpus_per_gpu=wanted.cpus / wanted.gpus if wanted.gpus else 0.0)
    if not wanted.gpus and not any(node.cpus for node in nodes):
        raise UserError(
            f"cluster {cluster!r} names no CPUs, and the runs of {config.source} use no GPU; say how many a "
            "node has, such as 8xH100+64xCPU:4 or 64xCPU:4"
        )
    return nodes


def _fastest_kind(nodes: tuple[Node, ...]) -> str:
    """What predicted times are for, as the driver takes them; "" without any GPU."""
    return max(nodes, key=lambda node: node.gpu_speed).gpu_kind if nodes else ""


def _slots(plan: Plan, nodes: tuple[Node, ...]) -> int:
    from sweeps.pools.rack import Rack

    return max((Rack(nodes).slots(run.needs) for run in plan.to_do), default=1)


def _spent(plan: Plan, asked: prepare.Request) -> Spent:
    """What counts towards the sweep's caps already."""
    from sweeps.ledger.ledger import Ledger

    to_do = {run.key for run in plan.to_do}
    past = [run for run in plan.runs if run.key not in to_do and run.state in SPENDS]
    flops = sum(plan.entry(run, dataset=".").flops for run in past)
    if not Ledger.exists(asked.ledger_folder):
        return Spent(flops=flops)
    with Ledger(asked.ledger_folder) as ledger:
        return Spent(flops=flops, gpu_hours=ledger.gpu_seconds(run.key for run in plan.runs) / 3600)


def simulated(
    plan: Plan, nodes: tuple[Node, ...], caps: Caps | None = None, spent: Spent | None = None
) -> Schedule:
    """The schedule of what the plan has to do, each run as long as is expected of it where it lands."""
    from sweeps.simulate.simulator import simulate

    entries = [plan.entry(run, dataset=".") for run in plan.to_do]
    on_gpus = bool(plan.config.resources.gpus)
    kinds = {node.gpu_kind if on_gpus and node.gpu_kind else plan.kind for node in nodes}
    times = {kind: plan.seconds_on(kind) for kind in kinds}

    def seconds(entry: Entry, node: Node) -> float:
        return times[node.gpu_kind if on_gpus and node.gpu_kind else plan.kind][entry.key]

    return simulate(entries, nodes, seconds, caps=caps, spent=spent)


def summary_lines(schedule: Schedule, gpu_price: float | None = None) -> list[tuple[str, str]]:
    """What the schedule amounts to, in lines with their styles. gpu_price: in whatever currency."""
    lines = [(describe(schedule.nodes), "bold")]
    if schedule.ended_by:
        stopped = len(schedule.stopped)
        ends = {"stopped with a checkpoint": stopped, "not started": schedule.not_started}
        runs = [f"{len(schedule.stays) - stopped} finished"]
        runs += [f"{count} {how}" for how, count in ends.items() if count]
        lines.append((f"within {schedule.ended_by}: {', '.join(runs)}", "yellow"))
    if schedule.stays:
        slots = sum(schedule.lanes.values())
        text = (
            f"{len(schedule.stays)} runs, {slots} at once: {duration(schedule.makespan_s)} from start to end"
        )
        if not schedule.ended_by:
            above = schedule.makespan_s / schedule.bound_s - 1
            text += f", {above:.1%} above the least possible ({duration(schedule.bound_s)})"
        lines.append((f"{text}; slots in use {schedule.utilisation:.0%} of the time", ""))
    if schedule.stays and schedule.held_gpu_hours:
        used, held = schedule.gpu_hours, schedule.held_gpu_hours
        text = f"{used:,.1f} GPU-hours in use, {held:,.1f} while all GPUs are held"
        if gpu_price is not None:
            text += f"; at {gpu_price:g} per GPU-hour {used * gpu_price:,.0f} and {held * gpu_price:,.0f}"
        lines.append((text, ""))
    reasons = Counter(schedule.refused.values())
    return lines + [
        (f"{count} run{'s' if count > 1 else ''}: {why}", "red") for why, count in reasons.items()
    ]


# --- as a page


def schedule_table(schedule: Schedule) -> pd.DataFrame:
    """One row per run: where, from when to when (seconds from the start), and what it is."""
    import pandas as pd

    rows = [
        {
            "node": stay.node,
            "slot": stay.lane + 1,
            "start_s": stay.start_s,
            "end_s": stay.end_s,
            "family": stay.entry.family,
            "size": stay.entry.spec.size.name,
            "budget": stay.entry.spec.budget,
            "seed": stay.entry.spec.seed,
            "key": stay.entry.key,
        }
        for stay in schedule.stays
    ]
    return pd.DataFrame(rows)


def _write_page(schedule: Schedule, asked: prepare.Request) -> Path:
    from analysis import figures

    note = (
        f"{describe(schedule.nodes)}: {duration(schedule.makespan_s)} from start to end, "
        f"slots in use {schedule.utilisation:.0%} of the time. Simulated"
    )
    if schedule.ended_by:
        note += f" within {schedule.ended_by}"
    slots = [(node, lane + 1) for node, lanes in schedule.lanes.items() for lane in range(lanes)]
    figure = figures.schedule(schedule_table(schedule), slots, title=f"Sweep {asked.config.name}", note=note)
    return figures.save(figure, asked.folder / PAGE)
