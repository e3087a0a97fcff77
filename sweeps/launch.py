"""`scaling sweep`: check everything, prepare the data, run the open runs, then fit and show."""

from __future__ import annotations

import os
from contextlib import ExitStack, closing
from dataclasses import dataclass, field

from rich.console import Console

from analysis.text import flops_text, without_secrets
from sweeps.driver.caps import Caps
from sweeps.driver.order import choose_order
from sweeps.driver.sweep import Report, run_sweep
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.rebuild import open_whole
from sweeps.ledger.types import State
from sweeps.plan import diff, prepare
from sweeps.plan.plan import DataFacts, Plan
from sweeps.pools.base import Pool, PoolOptions
from sweeps.pools.start import start as start_pool
from sweeps.pools.storage.files import usable_storage
from sweeps.pools.storage.pool import StoragePool
from sweeps.record.tracking import check_tracking, tracking_uri
from sweeps.show.events import Events, call_webhook, check_webhook
from sweeps.show.progress import Progress
from sweeps.show.tables import lasting_console, plan_view, short

DONE, INCOMPLETE, UNRECORDED, INTERRUPTED = 0, 1, 3, 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Options of `scaling sweep`; none of them changes a result."""

    store: str | None = None
    """Tracking store; None: MLFLOW_TRACKING_URI, else an SQLite file."""
    address: str | None = None
    """Of a Ray cluster; None: RAY_ADDRESS, else this machine."""
    pool: str = "ray"
    """A name of `sweeps.pools.start.POOLS`."""
    bootstrap: int = 1000
    caps: Caps = field(default_factory=Caps)
    order: str | None = None
    """See `driver.order`; None: the cheapest budgets first under a cap, else the longest runs."""
    priority: int = 0
    extend: bool = False
    """Whether a config changed under the same name adds its runs to the sweep."""
    events: str | None = None
    """A file for events; "-": standard output, and messages then go to standard error."""
    webhook: str | None = None
    storage: str | None = None
    """URI for the files of runs, if workers cannot read OUT."""


def drive(request: prepare.Request, how: Launch | None = None) -> int:
    """Run a whole sweep and return the exit code.

    0 done, 1 some runs or laws are missing, 3 the tracking store does not have every run, 130 stopped.

    UserError, with nothing started and nothing overwritten, for everything that is wrong at the start.
    """
    how = how or Launch()
    out, name, uri = request.out, request.config.name, how.store or tracking_uri(request.out)
    order = choose_order(how.order, capped=bool(how.caps))
    check_tracking(uri)
    if how.webhook:
        check_webhook(how.webhook)
    storage = usable_storage(how.storage) if how.storage else None
    with ExitStack() as stack:
        terminal = stack.enter_context(lasting_console(stderr=how.events == "-"))
        elsewhere = how.pool == "ray" and bool(how.address or os.environ.get("RAY_ADDRESS"))

        def start() -> Pool:
            logs, shared = out / name, None if storage else out
            options = PoolOptions(address=how.address, logs=logs, shared=shared, sweep=name)
            return stack.enter_context(closing(start_pool(how.pool, options)))

        pool = start() if elsewhere else None
        if pool is not None:
            pool.ready()  # trouble with a cluster is reported before any data is prepared
        dataset = prepare.prepare_data(request, terminal)

        def open_ledger() -> Ledger:
            ledger, repaired = open_whole(request.ledger_folder)
            if repaired:
                terminal.print(f"{repaired}; the plan below does not know them yet", style="yellow")
            return stack.enter_context(ledger)

        # a refused sweep leaves no ledger behind
        ledger = open_ledger() if Ledger.exists(request.ledger_folder) else None
        nodes = pool.rack.nodes if pool is not None else ()
        plan = prepare.plan(request, DataFacts.of(dataset), ledger=ledger, nodes=nodes)
        prepare.check_room(plan, out, checkpoints_elsewhere=storage is not None)
        events = Events(how.events, name) if how.events else None
        ledger = ledger or open_ledger()
        snapshot = diff.snapshot(request.config, dataset.fingerprint)
        if not how.extend:
            diff.check_unchanged(ledger, snapshot)
        diff.remember(ledger, snapshot)
        if pool is None and plan.to_do:
            pool = start()
        if pool is not None and storage is not None:
            pool = stack.enter_context(closing(StoragePool(pool, storage, [dataset.folder])))
        terminal.print(plan_view(plan, slots=prepare.local_slots(request.config), brief=True))
        if how.caps:
            first = (
                "the cheapest budgets, across all families," if order == "cheapest" else "the longest runs"
            )
            terminal.print(f"within {how.caps}: {first} first")
        terminal.print(f"recorded in {without_secrets(uri)}")
        files, files_before = str(storage) if storage is not None else None, ledger.fact("storage")
        ledger.note_fact("storage", files)
        if files:
            terminal.print(f"files of runs go to {files}")
        if files_before not in (None, files):
            text = f"they went to {files_before} before, so unfinished runs start from their beginning"
            terminal.print(text, style="yellow")
        report = run_sweep(
            [plan.entry(run, dataset.folder) for run in plan.runs],
            ledger,
            pool,
            sweep=name,
            tracking=uri,
            watchers=[Progress(terminal, name), *([events] if events else [])],
            caps=how.caps,
            order=order,
            priority=how.priority,
        )
        terminal.print(report.sentence)
        for run in report.runs:
            if run.state in (State.FAILED, State.DIVERGED, State.UNSCHEDULABLE):
                label = f"{run.family} {run.size} at {flops_text(run.budget)} FLOPs ({short(run.key)})"
                terminal.print(f"{label}: {run.sentence}", style="red")
        code = conclude(request, ledger, plan, report, how.bootstrap, terminal)
        if events:
            events.done(report)
        if how.webhook and (problem := call_webhook(how.webhook, name, report)):
            terminal.print(problem, style="yellow")
        return code


def conclude(
    request: prepare.Request, ledger: Ledger, plan: Plan, report: Report, bootstrap: int, out: Console
) -> int:
    """Fit the finished runs, unless the sweep was interrupted, and print the next steps; the exit code."""
    if report.interrupted:
        return INTERRUPTED
    # not before: the fits load pandas and scipy, which a driver does without for days
    from sweeps.results import laws as results
    from sweeps.results import terminal as printing
    from sweeps.results.answer import show_answer

    table = results.ledger_table(request.folder, request.config.name, plan.keys, plan.families, ledger=ledger)
    refused = printing.fit_all(table, request.folder, bootstrap=bootstrap, journals=True, out=out)
    printing.show_refused(refused, out)
    if len(refused) < len(plan.families):
        show_answer(table, out)
    for step in printing.next_steps(request, plan.families):
        out.print(f"next: {step}")
    if refused or not all(run.state in (State.FINISHED, State.DIVERGED) for run in report.runs):
        return INCOMPLETE
    return UNRECORDED if report.waiting_records else DONE
