"""`scaling logs RUN`: one run, attempt by attempt."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from rich.text import Text

from analysis.text import count_text, duration, flops_text
from sweeps.attempt.journal import JOURNAL, Follower, Record, attempt_folders, run_folder
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.types import SETTLED, Run
from sweeps.record.recorded import RecordedRun
from sweeps.show.tables import console, short, state_text

LINES = 10
FOLLOW_S = 1.0
# With an indent of two and the longest values, 79 columns.
TRAINING = "{:<15}  {:>7}  {:<14}  {:>13}  {:>8}  {:>8}"
TRAINING_NAMES = TRAINING.format("", "step", "loss", "learning rate", "gradient", "tokens/s")


def show_log(ledger: Ledger, run: Run, *, lines: int = LINES, follow: bool = False) -> None:
    """Print the run's attempts, the last `lines` training records of each, and how they ended.

    follow: then print new records until the run is settled, or Ctrl-C.
    """
    out = console()
    out.print(heading(run))
    folder = run_folder(ledger.folder.parent, run.family, run.key)
    out.print(f"kept in {folder}", style="dim")
    attempts = ledger.attempts(run.key)
    readers = {number: Follower(path / JOURNAL) for number, path in attempt_folders(folder).items()}
    records = {number: reader.read() for number, reader in readers.items()}
    for attempt in attempts:
        number = attempt["attempt"]
        for line in attempt_lines(attempt, records.get(number, []), lines):
            out.print(line)
        if number in readers and readers[number].skipped:
            out.print(
                f"  {readers[number].skipped} damaged lines of its journal are left out", style="yellow"
            )
    if not attempts:
        out.print("it has not been started yet")
    with suppress(KeyboardInterrupt):
        while follow:
            run = ledger.runs([run.key])[0]
            for number, path in attempt_folders(folder).items():
                if (reader := readers.get(number)) is None:
                    reader = readers[number] = Follower(path / JOURNAL)
                    out.print(f"attempt {number}", style="bold")
                    out.print(f"  {TRAINING_NAMES}", style="dim")
                for text in filter(None, map(record_line, reader.read())):
                    out.print(f"  {text}")
            if run.state in SETTLED:
                out.print(heading(run))
                return
            time.sleep(FOLLOW_S)


def heading(run: Run) -> Text:
    """Key, family, size, budget, number of networks and state in a line."""
    several = f", {run.replicas} replicas" if run.replicas > 1 else ""
    name = f"{run.family} {run.size} at {flops_text(run.budget)} FLOPs{several}"
    text = Text(f"{short(run.key)}  {name}: ", style="bold")
    return text.append_text(state_text(run.state))


def attempt_lines(attempt: Mapping[str, Any], records: Sequence[Record], lines: int) -> list[Text]:
    """One attempt: when and where, what it resumed, its last training records, how it ended."""
    ended = attempt["ended"]
    took = f" for {duration(ended - attempt['started'])}" if ended else ", still running"
    where = f" on {attempt['host']}" if attempt["host"] else ""
    title = f"attempt {attempt['attempt']}: {_when(attempt['started'])}{took}{where}"
    out = [Text(title, style="bold")]
    training = [record for record in records if record.kind == "train"]
    hidden = {id(record) for record in training[: max(0, len(training) - lines)]}
    if hidden:
        out.append(Text(f"  ... {len(hidden)} training records before these", style="dim"))
    if training or not ended:  # in the second case the lines that follow
        out.append(Text(f"  {TRAINING_NAMES}", style="dim"))
    out += [Text(f"  {line}") for r in records if id(r) not in hidden and (line := record_line(r))]
    if attempt["sentence"]:
        out.append(Text(f"  {attempt['state']}: {attempt['sentence']}"))
    if not attempt["accepted"] and ended and attempt["state"] != "lost":
        out.append(Text("  it had lost the run by then, so this does not count", style="yellow"))
    out += [Text(f"  {line}", style="red") for line in (attempt["traceback"] or "").splitlines()]
    return out


def record_line(record: Record) -> str | None:
    """A record of the journal, training ones under `TRAINING_NAMES`; None for those only programs need."""
    at, values, numbers = _when(record.at), record.values, record.numbers
    if record.kind == "train":
        loss = "–" if record.loss is None else f"{record.loss:.4f}{' biased' if record.biased else ''}"
        speed = count_text(numbers["tokens_per_s"]) if numbers.get("tokens_per_s") else "–"
        rate, gradient = (f"{numbers.get(name, 0.0):.3g}" for name in ("learning_rate", "grad_norm"))
        return TRAINING.format(at, record.step, loss, rate, gradient, speed)
    nan = float("nan")
    bound, error = numbers.get("bound", nan), numbers.get("bound_se", nan)
    text = {
        "start": f"started by process {values.get('pid')} on {values.get('host')}, {values.get('device')}",
        "resumed": f"goes on from step {record.step}" if record.step else "begins at step 0",
        "damaged": f"passed over: {values.get('sentence')}",
        "held_out": f"step {record.step:>7}  held-out loss {numbers.get('held_out_loss', nan):.4f} "
        f"± {numbers.get('held_out_loss_se', nan):.4f}",
        "bound": f"bound {bound:.4f} ± {error:.4f} nats per token{_each(values.get('replicas', ()))}",
        "end": f"ended: {values.get('status')}",
    }.get(record.kind)
    return f"{at}  {text}" if text else None


def _each(replicas: Sequence[Mapping[str, Any]]) -> str:
    """The bound of each replica."""
    bounds = [one["status"] if one["bound"] is None else f"{one['bound']:.4f}" for one in replicas]
    return f", mean of {', '.join(bounds)}" if bounds else ""


def show_recorded(run: Run, recorded: RecordedRun | None, *, lines: int = LINES) -> None:
    """Print what a tracking store has of a run: its last losses, how it ended, the traceback."""
    out = console()
    out.print(heading(run))
    if recorded is None:
        out.print("it has not been recorded yet")
        return
    for name, curve in recorded.curves.items():
        for step, value in sorted(curve.items())[-lines:]:
            out.print(f"  step {step:>7}  {name} {value:.4f}")
    if run.sentence:
        out.print(f"  {run.state}: {run.sentence}")
    for line in recorded.tags.get("scaling.traceback", "").splitlines():
        out.print(Text(f"  {line}", style="red"))


def _when(at: float) -> str:
    return f"{datetime.fromtimestamp(float(at)):%d %b %H:%M:%S}"
