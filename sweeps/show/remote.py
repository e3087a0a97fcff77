"""A sweep from its ledger on this machine, or from the tracking store on any other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from analysis.text import duration, without_secrets
from scaling.errors import UserError
from sweeps.config.load import find_name
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.requests import carry_out, find_one
from sweeps.ledger.status import open_ledger, runs_with_progress
from sweeps.ledger.types import Run, State
from sweeps.record.board import ask, read_status
from sweeps.record.recorded import experiment_name, recorded_run, recorded_runs
from sweeps.record.recorder import read_note
from sweeps.record.tracking import ExperimentTags, check_tracking, client, tracking_uri
from sweeps.show.audit import audit, audit_store
from sweeps.show.logs import show_log, show_recorded
from sweeps.show.tables import console

STALE_S = 60.0
"""The age of a recorded status is shown from here on, if something still runs."""


@contextmanager
def reach(
    sweep: str | None, config: Path | None, store: str | None, out: Path, data: str | None = None
) -> Iterator[SweepHere | SweepInStore]:
    """The sweep from its ledger under `out`, or from the tracking store if one is given.

    UserError if there is no such ledger, or the store does not answer or has no such sweep.
    """
    name = find_name(sweep, config, data, out, store=store)
    if store is not None:
        yield SweepInStore(store, name)
        return
    with open_ledger(out / name, name) as ledger:
        yield SweepHere(ledger, name)


@dataclass(frozen=True)
class SweepHere:
    """A sweep by its ledger."""

    ledger: Ledger
    sweep: str
    note: str = ""

    def runs(self) -> list[Run]:
        return runs_with_progress(self.ledger)

    def request(self, action: str, families: Sequence[str], keys: Sequence[str]) -> str:
        return carry_out(self.ledger, action, families, keys)

    def log(self, key: str, *, lines: int, follow: bool) -> None:
        show_log(self.ledger, find_one(self.runs(), key), lines=lines, follow=follow)


class SweepInStore:
    """A sweep by the status that the tracking store holds."""

    note = ""
    """A remark about the runs last read."""

    def __init__(self, uri: str, sweep: str) -> None:
        check_tracking(uri, to_write=False)
        self.uri, self.sweep = uri, sweep
        api = client(uri)
        experiment = api.get_experiment_by_name(sweep)  # looking does not create it
        if experiment is None:
            raise UserError(f"tracking store {without_secrets(uri)} has no sweep {sweep!r}")
        self._tags = ExperimentTags(api, experiment.experiment_id)

    def runs(self) -> list[Run]:
        runs, age_s = read_status(self._tags, self.sweep)
        running = any(run.state == State.RUNNING for run in runs)
        self.note = f"as of {duration(age_s)} ago" if running and age_s > STALE_S else ""
        return runs

    def request(self, action: str, families: Sequence[str], keys: Sequence[str]) -> str:
        check_tracking(self.uri)
        return ask(self._tags, action, families, keys)

    def log(self, key: str, *, lines: int, follow: bool) -> None:
        if follow:
            raise UserError(
                "--follow needs the ledger: give --out on the machine that has it, without --store"
            )
        run = find_one(self.runs(), key)
        show_recorded(run, recorded_run(self.uri, self.sweep, run.key), lines=lines)


def run_audit(
    sweep: str | None, config: Path | None, store: str | None, out: Path, data: str | None = None
) -> bool:
    """Print all checks that can be made; True if none found a problem.

    With a ledger under `out`, compares ledger, journals and store (the one given, else the usual one if it
    exists); without a ledger, checks the store alone.
    """
    name = find_name(sweep, config, data, out, store=store)
    have_ledger = Ledger.exists(out / name / "ledger")
    uri = store or tracking_uri(out)
    if not have_ledger and store is None:
        open_ledger(out / name, name)  # says what to do
    in_file = uri.startswith("sqlite:///")
    absent = store is None and in_file and not Path(uri.removeprefix("sqlite:///")).exists()
    recorded = None
    if not absent:
        check_tracking(uri, to_write=False)
        there = name
        if have_ledger:
            with Ledger(out / name / "ledger") as ledger:
                there = experiment_name(uri, name, read_note(ledger, uri)["identity"])
        recorded = recorded_runs(uri, there if have_ledger or sweep or config or data else None)
        recorded = [replace(run, sweep=name) if run.sweep == there else run for run in recorded]
    checks = audit(out / name, name, recorded) if have_ledger else audit_store(recorded or [])
    terminal = console()
    for check in checks:
        mark, style = ("ok", "green") if check.good else ("NO", "red")
        terminal.print(f"{mark:3} {check.question} ({check.examined})", style=style)
        for problem in check.problems[:20]:
            terminal.print(f"      {problem}")
        if len(check.problems) > 20:
            terminal.print(f"      and {len(check.problems) - 20} more")
    return all(check.good for check in checks)
