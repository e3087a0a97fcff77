"""The runs of a sweep with size, loss and progress, for people and for the tracking store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scaling.errors import UserError
from scaling.families import family_name
from sweeps.attempt import journal
from sweeps.attempt.journal import JOURNAL, attempt_folder, run_folder
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.types import Run, State

BRIEF = (
    *("key", "family", "size", "budget", "params", "seed", "replicas", "loss", "loss_se", "bits_per_byte"),
    *("worked_s", "state", "attempt", "share", "left_s", "host", "sentence"),
)
"""Fields of a run in the status that the tracking store shows; another list is another BRIEF_VERSION."""
BRIEF_VERSION = 2


def open_ledger(sweep_folder: Path, sweep: str) -> Ledger:
    """The ledger of a sweep that was started before; UserError if there is none."""
    folder = sweep_folder / "ledger"
    if not Ledger.exists(folder):
        raise UserError(
            f"sweep {sweep!r} has no runs under {sweep_folder} yet; start it with `scaling sweep`, or give "
            "--store to ask the tracking server of another machine"
        )
    return Ledger(folder)


def runs_with_progress(ledger: Ledger) -> list[Run]:
    """All runs of the ledger, by budget and size, with the progress of those that run."""
    runs = ledger.runs(whole=False)
    running = [run.key for run in runs if run.state == State.RUNNING]
    specs = {run.key: run.spec for run in ledger.runs(running)} if running else {}
    for place, run in enumerate(runs if running else ()):
        if run.state != State.RUNNING or not (spec := specs.get(run.key)):
            continue
        folder = attempt_folder(run_folder(ledger.folder.parent, run.family, run.key), run.attempt)
        record = journal.last(folder / JOURNAL, kind="train")
        if record is not None and (done := record.numbers.get("tokens")):
            tokens = spec["sequences"] * spec["data"]["context_length"]
            speed = record.numbers.get("tokens_per_s")
            evaluation_s = record.numbers.get("evaluation_left_s", 0.0)
            runs[place] = run._replace(
                loss=run.loss if record.loss is None else record.loss,
                worked_s=record.numbers.get("elapsed_s", run.worked_s),
                share=done / tokens,
                left_s=run.replicas * max(0.0, tokens - done) / speed + evaluation_s if speed else None,
            )
    return sorted(runs, key=lambda run: (run.budget, run.params or 0.0))


def to_brief(run: Run) -> list[Any]:
    """The fields of BRIEF, as plain data."""
    return [getattr(run, name) for name in BRIEF]


def from_brief(fields: Sequence[Any]) -> Run:
    """The run of `to_brief`. ValueError for fields of another version of the program."""
    values = dict(zip(BRIEF, fields, strict=True))
    objects = {"state": State(values["state"]), "worked_s": values["worked_s"] or 0.0, "changed": 0}
    return Run(**(values | objects))


def of_families(runs: Sequence[Run], families: Sequence[str]) -> list[Run]:
    """The runs of `families`, all if none is named; UserError for a family without runs."""
    present = sorted({run.family for run in runs})
    families = [family_name(family, present) for family in families]
    for family in families:
        if family not in present:
            raise UserError(
                f"family {family!r} has no runs in this sweep, which has: {', '.join(present) or 'none'}"
            )
    return [run for run in runs if not families or run.family in families]
