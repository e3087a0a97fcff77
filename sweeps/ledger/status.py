"""A sweep's runs as rows that say all a person asks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from scaling.errors import UserError
from sweeps.attempt import journal
from sweeps.attempt.journal import JOURNAL, attempt_folder, run_folder
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.types import Run, State


class Row(NamedTuple):
    """A run as people ask about it. What is not known is None."""

    key: str
    family: str
    size: str
    budget: float
    params: float | None
    seed: int | None
    loss: float | None = None
    """The bound of a finished run; of a running one, the training loss it last told. Nats per token."""
    loss_se: float | None = None
    bits_per_byte: float | None = None
    seconds: float | None = None
    """Spent in training and evaluation, over all attempts."""
    state: str = State.PLANNED
    attempt: int = 0
    share: float | None = None
    """Of its tokens, done by a running run."""
    left_s: float | None = None
    host: str | None = None
    sentence: str = ""


OfFamily = TypeVar("OfFamily", Row, Run)

_NUMBERS = """
SELECT key, family,
    json_extract(spec, '$.size.name') AS size,
    json_extract(spec, '$.budget') AS budget,
    json_extract(columns, '$.params') AS params,
    json_extract(spec, '$.seed') AS seed,
    json_extract(result, '$.bound') AS loss,
    json_extract(result, '$.bound_se') AS loss_se,
    json_extract(result, '$.bits_per_byte') AS bits_per_byte,
    json_extract(result, '$.train_s') + COALESCE(json_extract(result, '$.evaluation_s'), 0.0) AS seconds,
    json_extract(spec, '$.sequences') * json_extract(spec, '$.data.context_length') AS tokens
FROM runs ORDER BY rowid
"""
"""The first fields of a Row, and its tokens. SQLite picks them: to parse 10,000 runs here takes a second."""


def open_ledger(sweep_folder: Path, sweep: str) -> Ledger:
    """The ledger of a sweep that was started before; UserError where there is none."""
    folder = sweep_folder / "ledger"
    if not Ledger.exists(folder):
        raise UserError(
            f"sweep {sweep!r} has no runs under {sweep_folder} yet; start it with "
            f"`scaling sweep --sweep {sweep}`, or give --store to ask the tracking server of another machine"
        )
    return Ledger(folder)


def rows_of(ledger: Ledger) -> list[Row]:
    """All runs of the ledger, by budget and size."""
    numbers = {values["key"]: values for values in ledger.query(_NUMBERS)}
    rows = []
    for run in ledger.runs(numbers, whole=False):
        *values, tokens = numbers[run.key]
        row = Row._make([*values, str(run.state), run.attempt, None, None, run.host, run.sentence])
        if run.state == State.RUNNING:
            row = row._replace(**_under_way(row, tokens, ledger.folder.parent))
        rows.append(row)
    return sorted(rows, key=lambda row: (row.budget, row.params or 0.0))


def _under_way(row: Row, tokens: int, sweep_folder: Path) -> dict[str, Any]:
    """What the journal of a running attempt said last. tokens: that the run is to train on."""
    folder = attempt_folder(run_folder(sweep_folder, row.family, row.key), row.attempt)
    record = journal.last(folder / JOURNAL, kind="train")
    if record is None or not (done := record.numbers.get("tokens")):
        return {}
    speed = record.numbers.get("tokens_per_s")
    return {
        "loss": record.loss,
        "share": done / tokens,
        "left_s": max(0.0, tokens - done) / speed if speed else None,
        "seconds": record.numbers.get("elapsed_s"),
    }


def of_families(rows: Sequence[OfFamily], families: Sequence[str]) -> list[OfFamily]:
    """Those of `families` where some are named; UserError for one that has no run."""
    known = sorted({row.family for row in rows})
    for family in families:
        if family not in known:
            raise UserError(
                f"family {family!r} has no runs in this sweep, which has: {', '.join(known) or 'none'}"
            )
    return [row for row in rows if not families or row.family in families]
