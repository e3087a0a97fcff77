"""`scaling plan`: the runs of a sweep; with --cluster also their schedule and its cost."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.text import duration
from scaling.errors import UserError
from sweeps.driver.caps import SPENDS, Caps, Spent
from sweeps.driver.order import choose_order
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.types import Entry
from sweeps.plan import prepare
from sweeps.plan.plan import Plan
from sweeps.pools.rack import Node, Rack
from sweeps.show.tables import console, places, plan_view, seeds_text
from sweeps.simulate.bought import bought_lines
from sweeps.simulate.cluster import describe, parse_cluster
from sweeps.simulate.simulator import Schedule, simulate

if TYPE_CHECKING:
    import pandas as pd

PAGE = "schedule.html"


def show_plan(
    request: prepare.Request,
    *,
    cluster: str | None = None,
    gpu_price: float | None = None,
    page: bool = False,
    caps: Caps | None = None,
    order: str | None = None,
) -> None:
    """Print the plan; with a cluster also its simulated schedule, and write that as a page with `page`.

    caps: for all runs of the sweep, finished ones included. order: see `choose_order`. UserError for an
    unknown order, a cluster that cannot be read, or one that has no CPUs for runs without GPUs.
    """
    chosen_order = choose_order(order, capped=bool(caps))
    resources = request.config.resources
    nodes: tuple[Node, ...] = ()
    if cluster is not None:
        per_gpu = resources.cpus / resources.gpus if resources.gpus else 0.0
        nodes = parse_cluster(cluster, cpus_per_gpu=per_gpu)
        if not resources.gpus and not any(node.cpus for node in nodes):
            raise UserError(
                f"cluster {cluster!r} names no CPUs, and the runs of {request.config.source} use no GPU; say "
                "how many a node has, such as 8xH100+64xCPU:4 or 64xCPU:4"
            )
    else:
        needs_cluster = {"--gpu-price": gpu_price is not None, "--page": page, "--order": order is not None}
        needs_cluster["a cap"] = bool(caps)
        for option, is_set in needs_cluster.items():
            if is_set:
                raise UserError(
                    f"{option} is about a cluster, and --cluster is not given; write --cluster 8xH100:4, say"
                )
    # times are predicted for the fastest GPU, as the driver expects them
    fastest = max(nodes, key=lambda node: node.gpu_speed).gpu_kind if nodes and resources.gpus else ""
    out = console()
    facts = prepare.facts_for_plan(request, out)
    plan = prepare.plan(request, facts, kind=fastest, nodes=nodes)
    slots = prepare.local_slots(request.config)
    if nodes:
        slots = max((Rack(nodes).slots(run.needs) for run in plan.to_do), default=1)
    out.print(plan_view(plan, slots=slots))
    out.print(places(plan, request.folder, data=request.data_folder))
    if not facts.prepared:
        out.print("the data is not prepared yet, so finished runs are not known")
    if nodes and plan.to_do:
        spent = _spent(plan, request) if caps else None
        schedule = simulated(plan, nodes, caps, spent, chosen_order)
        for line, style in summary_lines(schedule, gpu_price):
            out.print(line, style=style)
        if caps:
            finished = {stay.entry.key for stay in schedule.stays} - schedule.stopped
            for line, style in bought_lines(plan, finished):
                out.print(line, style=style)
        if page and schedule.stays:
            out.print(f"wrote {_write_page(schedule, request)}")
        elif schedule.stays:
            out.print(f"--page draws which run goes where and when ({request.folder / PAGE})")
        elif page:
            out.print("no run starts, so there is no schedule to draw")


def _spent(plan: Plan, request: prepare.Request) -> Spent:
    """The part of the caps that the sweep has spent."""
    to_do = {run.key for run in plan.to_do}
    past = [run for run in plan.runs if run.key not in to_do and run.state in SPENDS]
    flops = sum(plan.entry(run, dataset=".").flops for run in past)
    if not Ledger.exists(request.ledger_folder):
        return Spent(flops=flops)
    with Ledger(request.ledger_folder) as ledger:
        return Spent(flops=flops, gpu_hours=ledger.gpu_seconds(run.key for run in plan.runs) / 3600)


def simulated(
    plan: Plan,
    nodes: tuple[Node, ...],
    caps: Caps | None = None,
    spent: Spent | None = None,
    order: str | None = None,
) -> Schedule:
    """The schedule of the runs to do, each with its expected time on the node that it gets."""
    entries = [plan.entry(run, dataset=".") for run in plan.to_do]
    on_gpus = bool(plan.config.resources.gpus)
    kinds = {node.gpu_kind if on_gpus and node.gpu_kind else plan.kind for node in nodes}
    times = {kind: plan.seconds_on(kind) for kind in kinds}

    def seconds(entry: Entry, node: Node) -> float:
        return times[node.gpu_kind if on_gpus and node.gpu_kind else plan.kind][entry.key]

    return simulate(entries, nodes, seconds, caps=caps, spent=spent, order=order)


def summary_lines(schedule: Schedule, gpu_price: float | None = None) -> list[tuple[str, str]]:
    """The schedule in lines with their styles. gpu_price: in any currency."""
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
    for reason, count in Counter(schedule.refused.values()).items():
        lines.append((f"{count} run{'s' if count > 1 else ''}: {reason}", "red"))
    return lines


def schedule_table(schedule: Schedule) -> pd.DataFrame:
    """One row per run: node and slot, start and end in seconds from the start, and the run itself."""
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
            "seed": stay.entry.spec.seed
            if stay.entry.spec.replicas == 1
            else seeds_text(stay.entry.spec.seeds),
            "key": stay.entry.key,
        }
        for stay in schedule.stays
    ]
    return pd.DataFrame(rows)


def _write_page(schedule: Schedule, request: prepare.Request) -> Path:
    from analysis import figures

    note = (
        f"{describe(schedule.nodes)}: {duration(schedule.makespan_s)} from start to end, "
        f"slots in use {schedule.utilisation:.0%} of the time. Simulated"
    )
    if schedule.ended_by:
        note += f" within {schedule.ended_by}"
    slots = [(node, lane + 1) for node, lanes in schedule.lanes.items() for lane in range(lanes)]
    figure = figures.schedule(
        schedule_table(schedule), slots, title=f"Sweep {request.config.name}", note=note
    )
    return figures.save(figure, request.folder / PAGE)
