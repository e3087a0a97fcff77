"""Before any run starts: the request is checked, and the data prepared.

Cheap checks come first; nothing is written before everything that can be checked without writing is checked.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from scaling.data import Dataset, open_dataset, prepare
from scaling.errors import UserError
from sweeps.config.load import find_config, swept_names
from sweeps.config.model import SweepConfig
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.types import Needs, Run
from sweeps.plan import timing
from sweeps.plan.plan import DataFacts, Plan, choose_families, make_plan
from sweeps.pools.rack import Node, Rack

SPARE_BYTES = 200e6
"""Room that stays free on the disk."""
RUN_BYTES = 2e6
"""Journal, spec, result and records of one run, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A sweep as the command line names it; config and families are checked, the data is not."""

    config: SweepConfig
    families: tuple[str, ...]
    out: Path
    file: Path | None = None
    """The config's, unless it comes with the package."""
    sweep: str = "desk"
    """The sweep of the package that was named, if there is no file; with other text the config has another
    name."""
    data: str | None = None
    """The text that replaces the config's, as the user named it."""

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


def request(
    sweep: str | None, config: Path | None, families: Sequence[str], out: Path, data: str | None = None
) -> Request:
    """Find and check the config and the families; UserError for the first thing that is wrong.

    data: text of one's own instead of the config's, see `sweeps.config.own_text`.
    """
    loaded = find_config(sweep, config, data, swept=swept_names(out))
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; it must be a folder or not exist yet")
    chosen = choose_families(loaded, families)
    return Request(config=loaded, families=chosen, out=out, file=config, sweep=sweep or "desk", data=data)


def check_room(plan: Plan, out: Path, *, checkpoints_elsewhere: bool = False) -> None:
    """UserError unless `out` can be written and has room for the checkpoints and records still to come."""
    nearest = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{out} cannot be written to; choose another folder with --out")
    # Weights and two moments, and what else there is, in float32; two checkpoints kept until a run has ended.
    copies = [
        run.spec.replicas * 2 * 4 * run.spec.weight_copies * run.spec.param_count() for run in plan.to_do
    ]
    checkpoints = 0 if checkpoints_elsewhere else sum(copies)
    needed = checkpoints + RUN_BYTES * len(plan.to_do) + SPARE_BYTES
    free = shutil.disk_usage(nearest).free
    if free < needed:
        raise UserError(
            f"{out} has {free / 1e9:.1f} GB free and this sweep needs about {needed / 1e9:.1f} GB; "
            "make room or choose another disk with --out"
        )


def prepare_data(request: Request, out: Console) -> Dataset:
    """The config's corpus as tokens, built now if it never was.

    A terminal shows a progress bar, other outputs get a line per stage.
    """
    data, stages = request.config.data, set()
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task("", total=None, visible=False)

        def report(record: Mapping[str, Any]) -> None:
            stage, done, total = record["stage"], record["done_bytes"], record["total_bytes"]
            with suppress(OSError):  # of the terminal; `prepare` would take it for one of the data's disk
                words = _STAGES.get(stage, stage)
                bar.update(task, description=words, completed=done, total=total, visible=True)
                if not out.is_terminal and stage not in stages:
                    stages.add(stage)
                    out.print(f"{words} ...")

        dataset = prepare(data.corpus, data.tokenizer, request.data_folder, report=report)
    labels = request.config.labels
    if labels is not None and not labels.clustered:
        dataset.label_names(labels)  # UserError if it has none
    return dataset


def facts_for_plan(request: Request, out: Console) -> DataFacts:
    """The facts of the data that a plan needs.

    Local text is prepared, which takes seconds. A corpus that has to be fetched is not: unless a sweep has
    fetched it before, the config's num_token_ids has to do, and it is a UserError if that is missing.
    """
    data = request.config.data
    if not data.corpus.startswith("hf:"):
        return DataFacts.of(prepare_data(request, out))
    for meta in sorted(request.data_folder.glob("*/meta.json")):
        dataset = open_dataset(meta.parent)
        if (dataset.corpus, dataset.tokenizer) == (data.corpus, data.tokenizer):
            return DataFacts.of(dataset)
    if data.num_token_ids is None:
        raise UserError(
            f"{request.config.source}: data.num_token_ids is missing; a plan needs it until {data.corpus!r} "
            "has been fetched by a sweep"
        )
    return DataFacts(
        corpus=data.corpus, tokenizer=data.tokenizer, fingerprint="", num_token_ids=data.num_token_ids
    )


_STAGES = {
    "waiting": "waiting for another process that prepares the same data",
    "tokenizer": "training the tokenizer",
    "tokens": "preparing the data",
}


def local_slots(config: SweepConfig) -> int:
    """Runs of the sweep that this machine takes at once."""
    needs = config.resources
    slots = int((os.cpu_count() or 1) / needs.cpus)
    if needs.gpus:
        slots = min(slots, int(len(timing.gpu_names()) / needs.gpus))
    return max(1, slots)


def plan(
    request: Request,
    data: DataFacts,
    kind: str = "",
    *,
    ledger: Ledger | None = None,
    nodes: Sequence[Node] = (),
) -> Plan:
    """The plan with the states of the sweep's ledger, and times corrected by its finished runs.

    kind: see `make_plan`. ledger: the sweep's, if it is open already. nodes: that the runs will have; none:
    this machine.
    """
    needs = request.config.resources
    slots, memory_bytes = local_slots(request.config), float(psutil.virtual_memory().total)
    if nodes:
        slots = max(1, Rack(nodes).slots(Needs(cpus=needs.cpus, gpus=needs.gpus)))
        memory_bytes = max(node.gpu_memory_bytes if needs.gpus else node.memory_bytes for node in nodes)
    elif needs.gpus:  # the planned kind's memory, which may be of another machine
        memory_bytes = math.inf
    past: list[Run] = []
    if data.prepared and (ledger is not None or Ledger.exists(request.ledger_folder)):
        with nullcontext(ledger) if ledger is not None else Ledger(request.ledger_folder) as opened:
            past = opened.runs()
    return make_plan(
        request.config, data, request.families, past=past, kind=kind, slots=slots, memory_bytes=memory_bytes
    )
