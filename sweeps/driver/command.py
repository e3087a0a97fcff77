"""`scaling sweep`: check everything, prepare the data, run what is not done, then fit and show."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from analysis.text import without_secrets
from sweeps.driver.caps import Caps
from sweeps.driver.sweep import Report, run_sweep
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.types import Run, State
from sweeps.plan import diff, prepare
from sweeps.plan.plan import DataFacts, Plan
from sweeps.pools import base as pool
from sweeps.pools.storage.files import Storage, usable_storage
from sweeps.record.tracking import check_tracking, tracking_uri
from sweeps.results import laws as results
from sweeps.results import terminal as report
from sweeps.show.events import Events, call_webhook, check_webhook
from sweeps.show.progress import Progress
from sweeps.show.tables import KEY_LETTERS, console, plan_brief

if TYPE_CHECKING:
    from rich.console import Console

    from scaling.data import Dataset
    from sweeps.pools.base import Pool

DONE, INCOMPLETE, UNRECORDED, INTERRUPTED = 0, 1, 3, 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How a sweep is started; nothing here changes what comes out of a run."""

    store: str | None = None
    """Tracking store; None: MLFLOW_TRACKING_URI, else an SQLite file."""
    address: str | None = None
    """Of a Ray cluster; None: RAY_ADDRESS, else this machine."""
    pool_kind: str = "ray"
    bootstrap: int = 1000
    caps: Caps = field(default_factory=Caps)
    priority: int = 0
    extend: bool = False
    """Whether a config changed under the same name adds its runs to the sweep."""
    events: str | None = None
    """A file for events, "-" for standard output; what is said to people then goes to standard error."""
    webhook: str | None = None
    storage: str | None = None
    """URI where runs keep their files, for workers that do not see OUT."""


def drive(asked: prepare.Request, how: Launch | None = None) -> int:
    """Run a whole sweep and return the exit code.

    0 done, 1 some runs or laws are missing, 3 the tracking store does not have every run, 130 stopped.

    Raises UserError, with nothing started and nothing overwritten, for whatever can be wrong beforehand.
    """
    how = how or Launch()
    terminal = console(stderr=how.events == "-")
    out = asked.out
    uri = how.store or tracking_uri(out)
    check_tracking(uri)
    if how.webhook:
        check_webhook(how.webhook)
    storage = usable_storage(how.storage) if how.storage else None
    name = asked.config.name
    with ExitStack() as stack:
        shared = None if storage else out
        start = partial(_start_pool, stack, how.pool_kind, shared=shared, sweep=name)
        runners = start(how.address) if _elsewhere(how.address) else None
        if runners is not None:
            runners.ready()  # what is wrong with a cluster is told before any data is prepared
        dataset = prepare.prepare_data(asked, terminal)
        plan = prepare.plan(asked, DataFacts.of(dataset))
        prepare.check_room(plan, out, checkpoints_elsewhere=storage is not None)
        events = Events(how.events, name) if how.events else None
        _keep_config(asked, dataset, extend=how.extend)
        if runners is None and plan.to_do:
            runners = start(None)
        terminal.print(plan_brief(plan, slots=prepare.local_slots(asked.config)))
        terminal.print(f"recorded in {without_secrets(uri)}", soft_wrap=True)
        _tell_storage(asked, storage, terminal)
        stack.pop_all()  # from here on run_sweep closes the pool
        ended = run_sweep(
            [plan.entry(run, dataset.folder) for run in plan.runs],
            sweep=name,
            out=out,
            pool=runners or how.pool_kind,
            tracking=uri,
            watchers=[Progress(terminal, name), *([events] if events else [])],
            caps=how.caps,
            priority=how.priority,
            storage=storage,
        )
    terminal.print(ended.sentence, soft_wrap=True)
    _tell_failures(ended.runs, terminal)
    code = conclude(asked, plan, ended, how, terminal)
    if events:
        events.done(ended)
    if how.webhook and (problem := call_webhook(how.webhook, name, ended)):
        terminal.print(problem, style="yellow", soft_wrap=True)
    return code


def conclude(asked: prepare.Request, plan: Plan, ended: Report, how: Launch, out: Console) -> int:
    """Fit what there is, unless somebody wanted it all to stop; the exit code."""
    if ended.interrupted:
        return INTERRUPTED
    table = results.ledger_table(asked.folder, asked.config.name, plan.keys, plan.families)
    refused = report.fit_all(table, asked.folder, bootstrap=how.bootstrap, journals=True, out=out)
    report.show_refused(refused, out)
    for step in report.next_steps(asked, plan.families):
        out.print(f"next: {step}", soft_wrap=True)
    if refused or not all(run.state in (State.FINISHED, State.DIVERGED) for run in ended.runs):
        return INCOMPLETE
    return UNRECORDED if ended.waiting_records else DONE


def _keep_config(asked: prepare.Request, dataset: Dataset, *, extend: bool) -> None:
    """Remember the config in the ledger. UserError where it holds runs of another one, unless `extend`."""
    now = diff.snapshot(asked.config, dataset.fingerprint)
    with Ledger(asked.ledger_folder) as ledger:
        if not extend:
            diff.check_unchanged(ledger, now)
        diff.remember(ledger, now)


def _tell_storage(asked: prepare.Request, storage: Storage | None, out: Console) -> None:
    """Say where runs keep their files, where that is not OUT, and whether it was elsewhere before."""
    now = str(storage) if storage is not None else None
    with Ledger(asked.ledger_folder) as ledger:
        before = ledger.fact("storage")
        ledger.note_fact("storage", now)
    if now:
        out.print(f"files of runs go to {now}", soft_wrap=True)
    if before not in (None, now):
        text = f"they went to {before} before, so runs that are not finished start from their beginning"
        out.print(text, style="yellow", soft_wrap=True)


def _elsewhere(address: str | None) -> bool:
    import os

    return bool(address or os.environ.get("RAY_ADDRESS"))


def _start_pool(stack: ExitStack, kind: str, address: str | None, **told: Any) -> Pool:
    """A pool that is closed again should anything go wrong before the sweep takes it over."""
    runners = pool.start(kind, address=address, **told)
    stack.callback(runners.close)
    return runners


def _tell_failures(runs: Sequence[Run], out: Console) -> None:
    """Runs that ended otherwise than finished, and why."""
    for run in runs:
        if run.state in (State.FAILED, State.DIVERGED, State.UNSCHEDULABLE):
            name = f"{run.family} {run.spec['size']['name']} at {run.spec['budget']:.3g} FLOPs"
            out.print(f"{name} ({run.key[:KEY_LETTERS]}): {run.sentence}", style="red", soft_wrap=True)
