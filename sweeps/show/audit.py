"""Proof that nothing was done twice: ledger, journals, data and tracking store compared with each other.

Steps that were lost with a killed worker and done again are no fault, but they are counted: they are what the
faults have cost.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.table.columns import BIASED_LOSS, HELD_OUT_LOSS, TRAIN_LOSS
from scaling.errors import UserError
from sweeps.attempt import journal
from sweeps.attempt.journal import attempt_folders, run_folder
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.types import State
from sweeps.plan.rows import replica_numbers
from sweeps.record.recorded import RecordedRun
from sweeps.show.tables import short

Point = tuple[str, int]
"""Of a run's curves: "step" or "held-out step", and its number."""


@dataclass(frozen=True, slots=True)
class Check:
    """One question, how much was examined, and what is wrong."""

    question: str
    examined: str
    problems: Sequence[str]

    @property
    def good(self) -> bool:
        return not self.problems


def audit(sweep_folder: Path, sweep: str, recorded: Sequence[RecordedRun] | None) -> list[Check]:
    """All checks of a sweep. recorded: the runs in its tracking store, None without a store."""
    from scaling.data.shards import check_tokens, read_meta
    from scaling.spec import RunSpec

    with Ledger(sweep_folder / "ledger") as ledger:
        runs = ledger.runs()
        attempts = {run.key: ledger.attempts(run.key) for run in runs}
    finished = [run for run in runs if run.state == State.FINISHED]
    networks = sum(run.replicas for run in finished)

    # each run was claimed by one attempt at a time, and ended once
    gaps, endings = [], []
    for run in runs:
        numbers = [row["attempt"] for row in attempts[run.key]]
        if numbers != list(range(1, run.attempt + 1)):
            gaps.append(f"run {short(run.key)}: attempts {numbers}, the run says {run.attempt}")
    for run in finished:
        ended = [
            row["attempt"] for row in attempts[run.key] if row["state"] == State.FINISHED and row["accepted"]
        ]
        if ended != [run.attempt]:
            endings.append(f"run {short(run.key)}: finished by attempts {ended} of {run.attempt}")
        if run.result.get("key", run.key) != run.key:
            endings.append(f"run {short(run.key)}: its result is of run {short(run.result['key'])}")
        seeds = [one["seed"] for one in run.result.get("replicas", ())]
        if run.replicas > 1 and seeds != list(RunSpec.from_dict(run.spec).seeds):
            endings.append(
                f"run {short(run.key)}: its result has replicas of seeds {seeds} of {run.replicas}"
            )

    # each training step is in a run's curve once, up to the end of the run
    curves: dict[str, dict[Point, float]] = {}
    broken, points, repeated, damaged = [], 0, 0, 0
    for run in runs:
        folder = run_folder(sweep_folder, run.family, run.key)
        story = journal.merged(folder)
        records = [record for record in story if record.kind == "train"]
        steps = [record.step for record in records]
        curves[run.key] = {("step", r.step): r.loss for r in records if r.loss is not None}
        held_out = {r.step: r.numbers.get(HELD_OUT_LOSS, math.nan) for r in story if r.kind == "held_out"}
        curves[run.key] |= {("held-out step", n): loss for n, loss in held_out.items() if math.isfinite(loss)}
        for path in attempt_folders(folder).values():
            reader = journal.Follower(path / journal.JOURNAL)
            repeated += sum(record.kind == "train" for record in reader.read())
            damaged += reader.skipped
        points, repeated = points + len(steps), repeated - len(steps)
        if sorted(set(steps)) != steps:
            broken.append(f"run {short(run.key)}: the steps of its curve are not in order, each once")
        if run.state == State.FINISHED and steps:
            last = int(run.result.get("steps_done", steps[-1]))
            if steps[-1] != last:
                broken.append(f"run {short(run.key)}: its curve ends at step {steps[-1]} of {last}")
    examined = f"{points} points of {len(finished)} finished runs"
    examined += f", {repeated} more were done again after faults" if repeated else ""
    examined += f", {damaged} damaged lines left out" if damaged else ""

    # the prepared data that the runs read is, byte for byte, what was written
    fingerprints = {run.spec.get("data", {}).get("fingerprint") for run in runs}
    changed, tokens = [], 0
    for path in sorted((sweep_folder.parent / "data").glob("*/meta.json")):
        try:
            meta = read_meta(path.parent)
            if meta["fingerprint"] in fingerprints:
                check_tokens(path.parent, meta)
                tokens += sum(split["tokens"] for split in meta["splits"].values())
        except UserError as error:
            changed.append(str(error))

    ended_text = f"{len(finished)} finished runs"
    ended_text += f" of {networks} networks" if networks > len(finished) else ""
    number = f"{sum(map(len, attempts.values()))} attempts of {len(runs)} runs"
    checks = [
        Check("attempts are numbered without a gap, the last one is the run's", number, gaps),
        Check("each run ended once, by its last attempt", ended_text, endings),
        Check("each run's curve has every point once, up to its end", examined, broken),
        Check("the prepared data matches the hashes made when it was written", f"{tokens} tokens", changed),
    ]
    if recorded is not None:
        own = {run.key: run for run in recorded if run.sweep == sweep}
        differences = []
        for run in finished:
            if run.key not in own:
                differences.append(f"run {short(run.key)} is finished and not in the tracking store")
                continue
            store, curve = own[run.key], curves[run.key]
            names = {TRAIN_LOSS: "step", BIASED_LOSS: "step", HELD_OUT_LOSS: "held-out step"}
            stored = {
                (word, step): loss
                for name, word in names.items()
                for step, loss in store.curves.get(name, {}).items()
            }
            missing, extra = len(curve.keys() - stored.keys()), len(stored.keys() - curve.keys())
            if missing or extra:
                differences.append(
                    f"run {short(run.key)}: {missing} points are not in the store, {extra} only there"
                )
            wrong = sorted(step for step in stored.keys() & curve.keys() if stored[step] != curve[step])
            if wrong:
                first = wrong[0]
                differences.append(
                    f"run {short(run.key)}: {len(wrong)} points differ, {first[0]} {first[1]} is "
                    f"{curve[first]!r} in the journal and {stored[first]!r} in the store"
                )
            bound = run.result.get("bound")
            if bound is not None and store.loss != bound:
                differences.append(
                    f"run {short(run.key)}: its loss is {bound!r} and the store has {store.loss!r}"
                )
            losses = {number: own["loss"] for number, own in replica_numbers(run).items()}
            if losses != store.replica_losses:
                differences.append(
                    f"run {short(run.key)}: the losses of its replicas are {losses} and the store has "
                    f"{store.replica_losses}"
                )
        compared = [run.key for run in finished if run.key in own]
        examined = f"{len(compared)} finished runs, {sum(len(curves[key]) for key in compared)} points"
        question = "the tracking store's losses are those of journals and ledger"
        checks += audit_store([run for run in recorded if run.sweep == sweep])
        checks.append(Check(question, examined, differences))
    return checks


def audit_store(recorded: Sequence[RecordedRun]) -> list[Check]:
    """Whether a tracking store has each run once and each of its steps once."""
    keys = Counter((run.sweep, run.key) for run in recorded)
    runs = [f"run {short(key)} of {sweep} is there {n} times" for (sweep, key), n in keys.items() if n > 1]
    steps = [
        f"run {short(run.key)} of {run.sweep}: {name} has step {step} {count} times"
        for run in recorded
        for name, step, count in run.repeated
    ]
    points = f"{sum(run.points for run in recorded)} points"
    return [
        Check("the tracking store has each run once", f"{len(recorded)} recorded runs", runs),
        Check("the tracking store has each step of each metric once", points, steps),
    ]
