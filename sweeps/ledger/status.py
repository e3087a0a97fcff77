"""The runs of a sweep with size, loss and progress, for people and for the tracking store."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scaling.errors import UserError
from sweeps.attempt import journal
from sweeps.attempt.journal import JOURNAL, attempt_folder, run_folder
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.types import Run, State

BRIEF = (
    *("key", "family", "size", "budget", "params", "seed", "loss", "loss_se", "bits_per_byte", "seconds"),
    *("state", "attempt", "share", "left_s", "host", "sentence"),
)
"""Fields of a run in the status that the tracking store shows; another list is another BRIEF_VERSION."""
BRIEF_VERSION = 1

_NUMBERS = """,
    json_extract(spec, '$.size.name') AS size,
    json_extract(spec, '$.budget') AS budget,
    json_extract(columns, '$.params') AS params,
    json_extract(spec, '$.seed') AS seed,
    json_extract(result, '$.bound') AS loss,
    json_extract(result, '$.bound_se') AS loss_se,
    json_extract(result, '$.bits_per_byte') AS bits_per_byte,
    json_extract(result, '$.train_s') + COALESCE(json_extract(result, '$.evaluation_s'), 0.0) AS seconds,
    CASE state WHEN 'running' THEN
        json_extract(spec, '$.sequences') * json_extract(spec, '$.data.context_length') END AS tokens
"""
"""SQLite picks the numbers: to parse 10,000 runs in Python takes a second."""


def open_ledger(sweep_folder: Path, sweep: str) -> Ledger:
    """The ledger of a sweep that was started before; UserError if there is none."""
    folder = sweep_folder / "ledger"
    if not Ledger.exists(folder):
        raise UserError(
            f"sweep {sweep!r} has no runs under {sweep_folder} yet; start it with "
            f"`scaling sweep --sweep {sweep}`, or give --store to ask the tracking server of another machine"
        )
    return Ledger(folder)


def runs_with_progress(ledger: Ledger) -> list[Run]:
    """All runs of the ledger, by budget and size, with the progress of those that run."""
    runs = ledger.runs(whole=False, also=_NUMBERS, fields=_numbers)
    for place, run in enumerate(runs):
        if run.state == State.RUNNING and (tokens := run.spec["tokens"]):
            folder = attempt_folder(run_folder(ledger.folder.parent, run.family, run.key), run.attempt)
            record = journal.last(folder / JOURNAL, kind="train")
            if record is not None and (done := record.numbers.get("tokens")):
                speed = record.numbers.get("tokens_per_s")
                evaluation_s = record.numbers.get("evaluation_left_s", 0.0)
                progress = {
                    "loss": record.loss,
                    "share": done / tokens,
                    "left_s": max(0.0, tokens - done) / speed + evaluation_s if speed else None,
                    "seconds": record.numbers.get("elapsed_s"),
                }
                present = {name: value for name, value in progress.items() if value is not None}
                runs[place] = replace(run, progress=present)
    return sorted(runs, key=lambda run: (run.budget, run.params or 0.0))


def _numbers(values: Mapping[str, Any] | sqlite3.Row) -> dict[str, Any]:
    """The parts of spec, columns and result that people look at."""
    names = ("size", "budget", "seed", "params", "loss", "loss_se", "bits_per_byte", "seconds")
    size, budget, seed, params, loss, loss_se, bits, seconds = (values[name] for name in names)
    return {
        "spec": {"size": {"name": size}, "budget": budget, "seed": seed, "tokens": values["tokens"]},
        "columns": {"params": params},
        "result": {"bound": loss, "bound_se": loss_se, "bits_per_byte": bits, "train_s": seconds},
    }


def to_brief(run: Run) -> list[Any]:
    """The fields of BRIEF, as plain data."""
    values = {
        "seed": run.spec["seed"],
        "loss_se": run.result.get("bound_se"),
        "bits_per_byte": run.result.get("bits_per_byte"),
        "seconds": run.worked_s or None,
        "share": run.progress.get("share"),
        "left_s": run.progress.get("left_s"),
    }
    return [values[name] if name in values else getattr(run, name) for name in BRIEF]


def from_brief(fields: Sequence[Any]) -> Run:
    """The run of `to_brief`. ValueError for fields of another version of the program."""
    values = dict(zip(BRIEF, fields, strict=True))
    state = State(values["state"])
    names = ("loss", "seconds", "share", "left_s") if state == State.RUNNING else ()
    return Run(
        key=values["key"],
        family=values["family"],
        state=state,
        attempt=values["attempt"],
        changed=0,
        sentence=values["sentence"],
        host=values["host"],
        progress={name: values[name] for name in names if values[name] is not None},
        **_numbers({**values, "tokens": None}),
    )


def of_families(runs: Sequence[Run], families: Sequence[str]) -> list[Run]:
    """The runs of `families`, all if none is named; UserError for a family without runs."""
    present = sorted({run.family for run in runs})
    for family in families:
        if family not in present:
            raise UserError(
                f"family {family!r} has no runs in this sweep, which has: {', '.join(present) or 'none'}"
            )
    return [run for run in runs if not families or run.family in families]
