"""Proof that nothing was done twice: ledger, journals and tracking store held against each other.

Each check says how much it looked at and what it found wrong. Steps that were lost with a killed worker and
done again are no fault, but they are counted: they are what the faults have cost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.table.columns import BIASED_LOSS, TRAIN_LOSS
from scaling.errors import UserError
from sweeps.attempt import journal
from sweeps.attempt.journal import attempt_folders, run_folder
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.types import Run, State
from sweeps.record.recorded import RecordedRun


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One question, how many things it was asked of, and the answers that are not as they should be."""

    question: str
    examined: str
    problems: Sequence[str]

    @property
    def good(self) -> bool:
        return not self.problems


def audit_ledger(ledger: Ledger) -> list[Check]:
    """Whether each run was claimed by one attempt at a time and ended once."""
    runs = ledger.runs()
    attempts = {run.key: ledger.attempts(run.key) for run in runs}
    number = sum(map(len, attempts.values()))
    return [
        Check(
            question="attempts are numbered without a gap, the last one is the run's",
            examined=f"{number} attempts of {len(runs)} runs",
            problems=[*_numbering(runs, attempts)],
        ),
        Check(
            question="each run ended once, by its last attempt",
            examined=f"{sum(run.state == State.FINISHED for run in runs)} finished runs",
            problems=[*_endings(runs, attempts)],
        ),
    ]


Attempts = Mapping[str, Sequence[Mapping[str, object]]]


def _numbering(runs: Iterable[Run], attempts: Attempts) -> Iterator[str]:
    for run in runs:
        numbers = [row["attempt"] for row in attempts[run.key]]
        if numbers != list(range(1, run.attempt + 1)):
            yield f"run {run.key}: attempts {numbers}, the run says {run.attempt}"


def _endings(runs: Iterable[Run], attempts: Attempts) -> Iterator[str]:
    for run in runs:
        ended = [
            row["attempt"] for row in attempts[run.key] if row["state"] == State.FINISHED and row["accepted"]
        ]
        if run.state == State.FINISHED and ended != [run.attempt]:
            yield f"run {run.key}: finished by attempts {ended} of {run.attempt}"
        if run.state == State.FINISHED and run.result.get("key", run.key) != run.key:
            yield f"run {run.key}: its result is of run {run.result['key']}"


def audit_journals(ledger: Ledger) -> list[Check]:
    """Whether every step of a finished run's curve is there once, up to its end."""
    problems, steps, again, done, damaged = [], 0, 0, 0, 0
    for run in ledger.runs():
        folder = run_folder(ledger.folder.parent, run.family, run.key)
        told = [record.step for record in journal.merged(folder) if record.kind == "train"]
        written = 0
        for path in attempt_folders(folder).values():
            reader = journal.Follower(path / journal.JOURNAL)
            written += sum(record.kind == "train" for record in reader.read())
            damaged += reader.skipped
        steps, again = steps + len(told), again + written - len(told)
        if sorted(set(told)) != told:
            problems.append(f"run {run.key}: the steps of its curve are not in order, each once")
        if run.state == State.FINISHED:
            done += 1
            last = int(run.result.get("steps_done", told[-1] if told else 0))
            if told and told[-1] != last:
                problems.append(f"run {run.key}: its curve ends at step {told[-1]} of {last}")
    share = f", {again} more were done again after faults" if again else ""
    share += f", {damaged} damaged lines left out" if damaged else ""
    question = "each run's curve has every point once, up to its end"
    examined = f"{steps} points of {done} finished runs{share}"
    return [Check(question=question, examined=examined, problems=problems)]


def audit_data(folder: Path, ledger: Ledger) -> list[Check]:
    """Whether the prepared data in `folder` that the runs read is, byte for byte, what was written."""
    from scaling.data.shards import check_tokens, read_meta

    wanted = {run.spec.get("data", {}).get("fingerprint") for run in ledger.runs()}
    problems, tokens = [], 0
    for path in sorted(folder.glob("*/meta.json")):
        try:
            meta = read_meta(path.parent)
            if meta["fingerprint"] in wanted:
                check_tokens(path.parent, meta)
                tokens += sum(split["tokens"] for split in meta["splits"].values())
        except UserError as error:
            problems.append(str(error))
    question = "the prepared data matches the hashes made when it was written"
    return [Check(question=question, examined=f"{tokens} tokens", problems=problems)]


def audit_store(recorded: Sequence[RecordedRun]) -> list[Check]:
    """Whether a tracking store has each run once and each of its steps once."""
    keys = Counter((run.sweep, run.key) for run in recorded)
    twice = [f"run {key} of {sweep} is there {n} times" for (sweep, key), n in keys.items() if n > 1]
    repeated = [
        f"run {run.key} of {run.sweep}: {name} has step {step} {count} times"
        for run in recorded
        for name, step, count in run.repeated
    ]
    points = sum(run.points for run in recorded)
    return [
        Check(
            question="the tracking store has each run once",
            examined=f"{len(recorded)} recorded runs",
            problems=twice,
        ),
        Check(
            question="the tracking store has each step of each metric once",
            examined=f"{points} points",
            problems=repeated,
        ),
    ]


def audit_between(ledger: Ledger, recorded: Sequence[RecordedRun], sweep: str) -> list[Check]:
    """Whether the store's curves are the journals', point by point, and its final losses the ledger's."""
    here = {run.key: run for run in recorded if run.sweep == sweep}
    problems, points, compared = [], 0, 0
    for run in ledger.runs():
        if run.state != State.FINISHED:
            continue
        if run.key not in here:
            problems.append(f"run {run.key} is finished and not in the tracking store")
            continue
        folder = run_folder(ledger.folder.parent, run.family, run.key)
        story = [record for record in journal.merged(folder) if record.kind == "train"]
        told = {record.step: record.loss for record in story if record.loss is not None}
        compared += 1
        points += len(told)
        problems += _compare(run, told, here[run.key])
    return [
        Check(
            question="the tracking store's losses are those of journals and ledger",
            examined=f"{compared} finished runs, {points} points",
            problems=problems,
        )
    ]


def _compare(run: Run, told: Mapping[int, float], recorded: RecordedRun) -> list[str]:
    problems = []
    curve = {**recorded.curves.get(TRAIN_LOSS, {}), **recorded.curves.get(BIASED_LOSS, {})}
    if curve.keys() != told.keys():
        missing, extra = len(told.keys() - curve.keys()), len(curve.keys() - told.keys())
        problems.append(f"run {run.key}: {missing} points are not in the store, {extra} only there")
    wrong = sorted(step for step in curve.keys() & told.keys() if curve[step] != told[step])
    if wrong:
        step = wrong[0]
        problems.append(
            f"run {run.key}: {len(wrong)} points differ, step {step} is {told[step]!r} "
            f"in the journal and {curve[step]!r} in the store"
        )
    bound = run.result.get("bound")
    if bound is not None and recorded.loss != bound:
        problems.append(f"run {run.key}: its loss is {bound!r} and the store has {recorded.loss!r}")
    return problems


def audit(sweep_folder: Path, sweep: str, recorded: Sequence[RecordedRun] | None) -> list[Check]:
    """All checks of a sweep; recorded: what its tracking store has, None where there is none to look at."""
    with Ledger(sweep_folder / "ledger") as ledger:
        data = audit_data(sweep_folder.parent / "data", ledger)
        checks = [*audit_ledger(ledger), *audit_journals(ledger), *data]
        if recorded is not None:
            own = [run for run in recorded if run.sweep == sweep]
            checks += [*audit_store(own), *audit_between(ledger, own, sweep)]
    return checks
