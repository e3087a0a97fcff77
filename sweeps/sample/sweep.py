"""Samples of a sweep: its best runs sampled on a pool, the table written, and the frontier printed."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from rich.console import Console

from analysis.errors import UserError as AnalysisError
from analysis.text import count_text, duration, flops_text, number_text
from scaling.data import prepare
from scaling.errors import UserError, unknown
from scaling.evaluation.perplexity import Rule
from scaling.files import write_whole
from scaling.spec import RunSpec
from sweeps.driver.stopping import stop_on_signals
from sweeps.ledger.status import of_families, open_ledger
from sweeps.ledger.types import Run, State
from sweeps.pools.base import Pool, PoolOptions
from sweeps.pools.start import start as start_pool
from sweeps.pools.storage.files import usable_storage
from sweeps.pools.storage.pool import StoragePool
from sweeps.sample.drive import Progress, drive, earlier
from sweeps.sample.judging import choose_judge, finished_runs
from sweeps.sample.points import (
    BATCH,
    FOLDER,
    REPEATS,
    Point,
    Setting,
    best_runs,
    choose_samplers,
    plan_points,
)
from sweeps.sample.stored import fetch_samples, storage_uri
from sweeps.show.tables import RowsTable, lasting_console

if TYPE_CHECKING:
    import pandas as pd


TABLE = "samples.parquet"
LINE_S = 10.0
"""Without a terminal, a line at most this often."""
UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})
DONE, INCOMPLETE, INTERRUPTED = 0, 1, 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Options of `scaling sample SWEEP`."""

    families: Sequence[str] = ()
    samplers: Sequence[str] = ()
    """Names, or "all"; none: the usual one of each family."""
    steps: Sequence[int] = ()
    """None: powers of two up to a step a token."""
    length: int | None = None
    """Tokens of a text; None: the context of the runs."""
    batch: int = BATCH
    repeats: int = REPEATS
    seed: int = 0
    judge: str | None = None
    rule: str = "attention_mask"
    pool: str = "ray"
    address: str | None = None
    storage: str | None = None
    """URI for the files of points and runs; None: the one that the sweep names, if it has one."""


def sample_sweep(name: str, out: Path, how: Sampling, terminal: Console | None = None) -> int:
    """Sample the best run of each family and budget of sweep `name` below `out`; the exit code.

    0 done, 1 some points failed, 130 stopped; the same call goes on. UserError, with nothing started, for
    a sweep without finished runs, and for whatever of `how` does not fit it.
    """
    folder = out / name
    _check(how)
    with open_ledger(folder, name) as ledger:
        everything = ledger.runs()
        best = best_runs(everything)
        runs = of_families(best, how.families) if best else []
        recorded = ledger.fact("storage")
    if not runs:
        finished = any(run.state == State.FINISHED for run in everything)
        what = "finished run without labels" if finished else "finished run"
        raise UserError(
            f"sweep {name!r} has no {what} to sample; see `scaling status --sweep {name}`"
            + (", and `scaling sample KEY --label NAME` for texts of one run" if finished else "")
        )
    specs = [RunSpec.from_dict(run.spec) for run in runs]
    contexts = {spec.data.context_length for spec in specs}
    if how.length is None and len(contexts) > 1:
        raise UserError(f"the runs have contexts of {sorted(contexts)} tokens; give one --length for all")
    judge = choose_judge(how.judge, finished_runs(out, name, recorded), [run.key for run in best],
                         specs[0].data, [out / "data"])  # fmt: skip
    judged = [run for run in runs if run.key != judge.key]
    if not judged:
        raise UserError(
            f"the only run to sample is the judge itself, {judge.name}; give another one, --judge NAME"
        )
    setting = Setting(
        length=how.length or contexts.pop(), batch=how.batch, repeats=how.repeats, seed=how.seed,
        judge=judge, rule=how.rule,
    )  # fmt: skip
    samplers = choose_samplers(how.samplers, judged)
    points = plan_points(judged, samplers, how.steps, setting)
    with ExitStack() as stack:
        stack.enter_context(_writing_below(folder))
        terminal = terminal or stack.enter_context(lasting_console())
        done, storage = earlier(points, folder), None
        if len(done) < len(points) and (files := storage_uri(how.storage, recorded)):
            storage = usable_storage(files)
            fetch_samples(storage, points, folder)
            done = earlier(points, folder)
        if len(done) < len(points) and not judge.folder and find_spec("transformers") is None:
            raise UserError(
                f"--judge {judge.name} is no run, and Hugging Face models need the package transformers: "
                "pip install -c constraints.txt -e '.[judge]'"
            )
        terminal.print(_plan_table(judged, points))
        terminal.print(
            f"{len(points)} points, {len(done)} of them done before; {setting.texts} texts of "
            f"{setting.length} tokens each, judged by {judge.name}"
        )
        if len(judged) < len(runs):
            terminal.print(
                f"{judge.name} is not sampled, for no run judges its own texts; --judge takes another one"
            )
        progress = Progress(points=points, done=done)
        stopped = False
        if len(done) < len(points):
            data = prepare(specs[0].data.corpus, specs[0].data.tokenizer, out / "data")
            options = PoolOptions(
                address=how.address, logs=folder, shared=None if storage else out, sweep=name
            )
            pool: Pool = stack.enter_context(closing(start_pool(how.pool, options)))
            if storage is not None:
                datasets = [data.folder, *(Path(folder) for folder in [judge.data] if folder)]
                terminal.print(f"weights and results of points pass through {storage}")
                pool = stack.enter_context(closing(StoragePool(pool, storage, datasets)))
            pool.ready()
            stop = stack.enter_context(stop_on_signals())
            with _Lines(terminal) as lines:
                progress = drive(points, pool, folder, str(data.folder.absolute()), stop=stop, show=lines)
            stopped = stop.asked
        failed = _show_troubles(progress, terminal)
        table = samples_table(folder, best, setting)
        compared = len(table) > 0 and show_frontier(table, folder, terminal)
        if stopped:
            terminal.print("stopped; the same command goes on with the points that are left", style="yellow")
            return INTERRUPTED
        return DONE if compared and not failed else INCOMPLETE


@contextmanager
def _writing_below(folder: Path) -> Iterator[None]:
    """UserError where no file can be made, or the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        sys.stdout.flush()  # raises where it is standard output that cannot be written
        raise UserError(
            f"results cannot be written below {folder}: {os.strerror(error.errno)}; those that stand there "
            "are kept, and the same command goes on"
        ) from error


def _check(how: Sampling) -> None:
    least = {"length": 2, "batch": 1, "repeats": 1}
    checked = [(name, getattr(how, name), bound) for name, bound in least.items()]
    for name, value, bound in [*checked, *(("steps", count, 1) for count in how.steps)]:
        if value is not None and value < bound:
            raise UserError(f"--{name} is {value}; it must be at least {bound}")
    if how.rule not in get_args(Rule):
        raise unknown("rule", how.rule, get_args(Rule))


def _plan_table(runs: Sequence[Run], points: Sequence[Point]) -> RowsTable:
    """Which runs are sampled, and how."""
    rows = []
    for run in runs:
        own = [point for point in points if point.run.key == run.key]
        steps = sorted({point.steps for point in own})
        rows.append({
            "family": run.family, "budget": flops_text(run.budget), "size": run.size,
            "params": count_text(run.params), "loss": number_text(run.loss, 4), "run": run.key[:8],
            "samplers": ", ".join(dict.fromkeys(sorted(point.sampler for point in own))),
            "steps": ", ".join(map(str, steps)),
        })  # fmt: skip
    title = "sampled: of each family and budget the finished run with the lowest loss"
    return RowsTable(title=title, rows=rows, once="family", spare=("params", "size"), wraps="samplers")


class _Lines:
    """Progress in one line that changes in place, or without a terminal a line every LINE_S seconds."""

    def __init__(self, terminal: Console) -> None:
        self.terminal, self._status, self._last = terminal, terminal.status("starting ..."), 0.0

    def __enter__(self) -> _Lines:
        if self.terminal.is_terminal:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def __call__(self, progress: Progress, ended: Point | None) -> None:
        now = time.monotonic()
        line = f"{len(progress.done)} of {len(progress.points)} points"
        left = progress.left_s(now)
        if left is not None and len(progress.done) < len(progress.points):
            line += f", about {duration(left)} left"
        if ended is not None:
            line = f"{ended}: {_ended_text(progress.done[ended.key])}; {line}"
        if self.terminal.is_terminal:
            self._status.update(line)
        elif ended is not None and (now - self._last >= LINE_S or len(progress.done) == len(progress.points)):
            self._last = now
            self.terminal.print(line)


def _ended_text(outcome: Any) -> str:
    row: Mapping[str, Any] = outcome.result.get("row", {})
    if not row:
        return str(outcome.sentence)
    return (
        f"{count_text(row['tokens_per_s'])} tokens/s, perplexity {number_text(row['gen_ppl'])}, "
        f"entropy {number_text(row['entropy'])}"
    )


def _show_troubles(progress: Progress, terminal: Console) -> int:
    """Print why points have no numbers, a line per reason; the number that failed and may do better."""
    reasons: dict[str, list[str]] = {}
    failed = 0
    for point in progress.points:
        outcome = progress.done.get(point.key)
        if outcome is not None and outcome.status != "finished":
            reasons.setdefault(outcome.sentence, []).append(str(point))
            failed += outcome.trouble is None or str(outcome.trouble) != "user"
    for sentence, names in reasons.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        terminal.print(f"no samples of {names[0]}{more}: {sentence}", style="yellow")
    return failed


def samples_table(folder: Path, runs: Sequence[Run], setting: Setting) -> pd.DataFrame:
    """All samples of these runs under this setting, of this call and of earlier ones, written as
    samples.parquet; empty if there are none."""
    import pandas as pd

    from sweeps.attempt.job import read_outcome

    keys = {run.key for run in runs}
    wanted_setting = Point(run=runs[0], sampler="", steps=1, setting=setting).identity
    rows = []
    for place in sorted((folder / FOLDER).glob("*/result.json")):
        outcome = read_outcome(place.parent)
        point = outcome.result.get("point") if outcome is not None else None
        if outcome is None or not point or point["run"] not in keys:
            continue
        names = ("length", "batch", "repeats", "seed", "rule")
        alike = all(point[name] == wanted_setting[name] for name in names)
        if alike and point["judge"]["name"] == setting.judge.name:
            rows.append(outcome.result["row"])
    table = pd.DataFrame(rows)
    if rows:
        order = ["family", "budget", "sampler", "steps"]
        table = table.sort_values(order, kind="stable", ignore_index=True)
        with write_whole(folder / TABLE) as temporary:
            table.to_parquet(temporary, index=False)
    return table


def show_frontier(table: pd.DataFrame, folder: Path, terminal: Console) -> bool:
    """Print who leads at which speed and the front of each family, and write table and figure; or why there
    is no front, and return False."""
    import json

    from analysis import figures
    from analysis.speed.comparison import speed_quality

    try:
        comparison = speed_quality(table)
    except AnalysisError as error:
        terminal.print(f"no front: {error}; {folder / TABLE} has the samples", style="yellow")
        return False
    terminal.print(str(comparison), highlight=False, markup=False, soft_wrap=True)
    figure = comparison.plot()
    for suffix in ("html", "png"):
        figures.save(figure, folder / f"speed_quality.{suffix}")
    text = json.dumps(comparison.to_dict(), indent=1, allow_nan=False)
    with write_whole(folder / "speed_quality.json") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    files = f"{TABLE}, speed_quality.html, speed_quality.png, speed_quality.json"
    terminal.print(f"written to {folder}: {files}")
    return True
