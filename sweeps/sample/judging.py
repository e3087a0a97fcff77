"""Who judges the texts of a sweep: the largest `ar` run of all sweeps on the same corpus, or who is named.

One judge reads all texts, for perplexities of two judges do not compare.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from analysis.text import flops_text
from scaling.errors import UserError
from scaling.families import FAMILIES, family_class
from scaling.families.ar import Autoregressive
from scaling.spec import DataSpec
from scaling.training.finished import has_weights
from sweeps.attempt.journal import run_folder
from sweeps.config.load import swept_names
from sweeps.ledger.status import open_ledger
from sweeps.ledger.types import Run, State
from sweeps.plan.rows import replica_numbers
from sweeps.sample.corpora import prepared_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Who judges the texts: a run, or a Hugging Face model."""

    name: str
    folder: str = ""
    """Of the run; "" for a model of the hub."""
    data: str = ""
    """Folder of the corpus that the run was trained on; "": that of the sampled runs."""
    key: str = ""
    """Of the run, whose own texts it does not judge."""
    replica: int = 0
    """Of a run that trained several networks."""


class Candidate(NamedTuple):
    """A finished run and its folder."""

    run: Run
    folder: Path


def is_plain(run: Run) -> bool:
    """Whether the run was trained on text alone, by its family's bound: neither labelled nor distilled.
    Only the losses of such runs compare."""
    return run.spec.get("labels") is None and run.spec.get("distillation") is None


def sampled_replica(run: Run) -> tuple[int, float | None]:
    """The first replica of a finished run that has not diverged, and its loss; 0 of a run of one network."""
    numbers = replica_numbers(run)
    if not numbers:
        return 0, run.loss
    first = min(numbers)
    return first, numbers[first]["loss"]


def finished_runs(out: Path, sweep: str, storage: str | None = None) -> list[Candidate]:
    """The finished runs of all sweeps below `out`, those of `sweep` first and each run once.

    A run of another sweep counts only where its weights are: below `out`, or if `sweep` has its files in a
    storage, in the same one, as the ledgers name it. A sweep that cannot be read has none.
    """
    runs_of: dict[str, Candidate] = {}
    for name in (sweep, *(other for other in swept_names(out) if other != sweep)):
        try:
            with open_ledger(out / name, name) as ledger:
                keys = [run.key for run in ledger.runs(whole=False) if run.state == State.FINISHED]
                runs, beside = ledger.runs(keys), storage is not None and ledger.fact("storage") == storage
        except UserError:
            if name == sweep:
                raise
            continue
        for run in runs:
            folder = run_folder(out / name, run.family, run.key)
            there = name == sweep or (has_weights(folder) if storage is None else beside)
            if run.loss is not None and math.isfinite(run.loss) and there:
                runs_of.setdefault(run.key, Candidate(run, folder))
    return list(runs_of.values())


def choose_judge(
    name: str | None,
    candidates: Iterable[Candidate],
    sampled: Collection[str],
    data: DataSpec,
    places: Sequence[Path],
) -> Judge:
    """The judge of all texts of a sweep; data: what its runs learned from; places: folders of corpora.

    name: the start of a run's key, or a Hugging Face model. None: of the ar runs on the same corpus, with any
    tokenizer, the one with the most training FLOPs; of several with as many, one that is not sampled (their
    keys: `sampled`), and of those the one with the lowest loss. UserError if there is none, or if the named
    run cannot judge.
    """
    candidates = list(candidates)
    if name is not None:
        called = [each for each in candidates if len(name) >= 4 and each.run.key.startswith(name)]
        if not called:
            return _hub(name)
        if len(called) > 1:
            raise UserError(f"--judge {name}: {len(called)} runs' keys begin with it; give more of it")
        return _named(name, called[0], data, places)
    able = {
        each.run.key: each
        for each in candidates
        if _is_ar(each.run) and is_plain(each.run) and _data(each.run)["corpus"] == data.corpus
    }
    order = sorted(
        able.values(), key=lambda each: (-each.run.budget, each.run.key in sampled, each.run.loss or 0.0)
    )
    for each in order:
        corpus = _corpus_folder(each.run, data, places)
        if corpus is not None:
            return _run_judge(each, corpus)
    raise UserError(
        f"there is no judge: no sweep has a finished run of ar on {data.corpus}; sweep ar, or give a Hugging "
        "Face model, --judge NAME"
    )


def _hub(name: str) -> Judge:
    """A model of the hub or of a folder; UserError for what is rather a key that no run has."""
    if not name.strip():
        raise UserError(f"--judge is {name!r}; give a run of ar by its key, or a Hugging Face model")
    if re.fullmatch("[0-9a-f]{4,16}", name) and not Path(name).is_dir():
        raise UserError(
            f"--judge {name}: no finished run's key begins with it in the sweeps below --out, and it is no "
            "name of a Hugging Face model"
        )
    return Judge(name=name)


def _named(name: str, candidate: Candidate, data: DataSpec, places: Sequence[Path]) -> Judge:
    run = candidate.run
    if not _is_ar(run):
        raise UserError(f"--judge {name} is a run of {run.family}; a judge must be one of ar")
    if not is_plain(run):
        raise UserError(f"--judge {name} is a run with labels; a judge must be trained on text alone")
    corpus = _corpus_folder(run, data, places)
    if corpus is None:
        raise UserError(
            f"--judge {name} was trained on {_data(run)['corpus']} as {_data(run)['tokenizer']}, which is "
            f"not below {' or '.join(map(str, places))}, so its tokenizer is missing; choose another judge"
        )
    return _run_judge(candidate, corpus)


def _run_judge(candidate: Candidate, corpus: str) -> Judge:
    run = candidate.run
    return Judge(
        name=f"{run.family} {run.size} at {flops_text(run.budget)} FLOPs ({run.key[:8]})",
        folder=str(candidate.folder.absolute()), data=corpus, key=run.key,
        replica=sampled_replica(run)[0],
    )  # fmt: skip


def _corpus_folder(run: Run, data: DataSpec, places: Sequence[Path]) -> str | None:
    """The folder of the run's corpus, "" for that of `data`; None if it is not there."""
    if _data(run)["fingerprint"] == data.fingerprint:
        return ""
    folder = prepared_folder(_data(run)["fingerprint"], places)
    return None if folder is None else str(folder.absolute())


def _data(run: Run) -> Mapping[str, Any]:
    """Of the spec, which an earlier version of the program may have written."""
    return run.spec.get("data") or dict.fromkeys(("corpus", "tokenizer", "fingerprint"))


def _is_ar(run: Run) -> bool:
    return run.family in FAMILIES and issubclass(family_class(run.family), Autoregressive)
