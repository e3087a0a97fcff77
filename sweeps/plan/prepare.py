"""Everything that happens before a run starts: what the user asked for is checked, and the data made ready.

The order is cheapest first, and nothing is written before all that can be checked without writing is.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.errors import UserError
from sweeps.config.load import find_config
from sweeps.config.model import SweepConfig
from sweeps.ledger.ledger import Ledger
from sweeps.plan.plan import DataFacts, Plan, choose_families, make_plan

if TYPE_CHECKING:
    from rich.console import Console

    from scaling.data import Dataset
    from sweeps.ledger.types import Run

SPARE_BYTES = 200e6
"""Room that a sweep leaves on the disk beside what it writes itself."""
RUN_BYTES = 2e6
"""Journal, spec, result and records of one run, generously."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked for on the command line, checked as far as that goes without touching data."""

    config: SweepConfig
    families: tuple[str, ...]
    out: Path
    file: Path | None = None
    """The config's, where it does not ship with the package."""

    @property
    def folder(self) -> Path:
        """Of the sweep: ledger, runs and results."""
        return self.out / self.config.name

    @property
    def ledger_folder(self) -> Path:
        return self.folder / "ledger"

    @property
    def data_folder(self) -> Path:
        return self.out / "data"


def request(sweep: str | None, config: Path | None, families: Sequence[str], out: Path) -> Request:
    """Find and check the config and the families; UserError for the first thing that is wrong."""
    found = find_config(sweep, config)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; it must be a folder or not exist yet")
    return Request(config=found, families=choose_families(found, families), out=out, file=config)


# --- room


def _existing(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _check_writable(folder: Path) -> None:
    nearest = _existing(folder.absolute())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{folder} cannot be written to; choose another folder with --out")


def check_room(plan: Plan, out: Path, *, checkpoints_elsewhere: bool = False) -> None:
    """UserError unless `out` can be written and has room for the checkpoints and records still to come."""
    _check_writable(out)
    # Weights and two moments in float32, two checkpoints kept.
    checkpoints = 0 if checkpoints_elsewhere else sum(2 * 12 * r.spec.param_count() for r in plan.to_do)
    needed = checkpoints + RUN_BYTES * len(plan.to_do) + SPARE_BYTES
    free = shutil.disk_usage(_existing(out.absolute())).free
    if free < needed:
        raise UserError(
            f"{out} has {free / 1e9:.1f} GB free and this sweep needs about {needed / 1e9:.1f} GB; "
            "make room or choose another disk with --out"
        )


# --- data


def prepare_data(request: Request, out: Console) -> Dataset:
    """The config's corpus as tokens, built now if it never was, with a progress bar on a terminal."""
    from scaling.data import prepare

    data = request.config.data
    with _progress(out) as report:

        def tell(record: Mapping[str, Any]) -> None:
            with suppress(OSError):  # of the terminal; `prepare` would take it for one of the data's disk
                report(record)

        return prepare(data.corpus, data.tokenizer, request.data_folder, report=tell)


def facts_for_plan(request: Request, out: Console) -> DataFacts:
    """What a plan needs to know of the data.

    Local text is prepared, which takes seconds, so that keys and states are known; a corpus that has to be
    fetched is not, and the config's own num_token_ids stands in for it.

    UserError where a corpus to be fetched is not prepared and the config does not say how many ids it has.
    """
    data = request.config.data
    if not data.corpus.startswith("hf:"):
        return DataFacts.of(prepare_data(request, out))
    prepared = _fetched_before(request)
    if prepared is not None:
        return DataFacts.of(prepared)
    if data.num_token_ids is None:
        raise UserError(
            f"{request.config.source}: data.num_token_ids is missing; a plan needs it until {data.corpus!r} "
            "has been fetched by a sweep"
        )
    return DataFacts(
        corpus=data.corpus, tokenizer=data.tokenizer, fingerprint="", num_token_ids=data.num_token_ids
    )


def _fetched_before(request: Request) -> Dataset | None:
    from scaling.data import open_dataset

    data = request.config.data
    for meta in sorted(request.data_folder.glob("*/meta.json")):
        dataset = open_dataset(meta.parent)
        if (dataset.corpus, dataset.tokenizer) == (data.corpus, data.tokenizer):
            return dataset
    return None


_STAGES = {
    "waiting": "waiting for another process that prepares the same data",
    "tokenizer": "training the tokenizer",
    "tokens": "preparing the data",
}


@contextmanager
def _progress(out: Console) -> Iterator[Any]:
    """A function for `prepare(report=)`: a bar on a terminal, one line per stage elsewhere."""
    if out.is_terminal:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
        with Progress(*columns, console=out, transient=True) as bar:
            task = bar.add_task("", total=None, visible=False)

            def draw(record: Mapping[str, Any]) -> None:
                words = _STAGES.get(record["stage"], record["stage"])
                done, total = record["done_bytes"], record["total_bytes"]
                bar.update(task, description=words, completed=done, total=total, visible=True)

            yield draw
        return
    seen: set[str] = set()

    def tell(record: Mapping[str, Any]) -> None:
        if record["stage"] not in seen:
            seen.add(record["stage"])
            out.print(f"{_STAGES.get(record['stage'], record['stage'])} ...")

    yield tell


# --- the plan


def local_slots(config: SweepConfig) -> int:
    """How many of the sweep's runs this machine takes at once, as a plan without a cluster assumes."""
    from sweeps.plan.timing import gpu_names

    needs = config.resources
    by_cpu = int((os.cpu_count() or 1) / needs.cpus)
    return max(1, min(by_cpu, int(len(gpu_names()) / needs.gpus)) if needs.gpus else by_cpu)


def plan(request: Request, data: DataFacts, kind: str = "", *, ledger: Ledger | None = None) -> Plan:
    """The plan with the states that the sweep's ledger knows, and times corrected by its finished runs.

    kind: of device, that times are for; see `make_plan`. ledger: the sweep's, where it is open already.
    """
    past: list[Run] = []
    if data.prepared and (ledger is not None or Ledger.exists(request.ledger_folder)):
        with nullcontext(ledger) if ledger is not None else Ledger(request.ledger_folder) as opened:
            past = opened.runs()
    return make_plan(request.config, data, request.families, past=past, kind=kind)
