"""From finished runs to laws, their figures and law.json. `results.terminal` prints them.

The runs come from the sweep's ledger, from a tracking store or from a file. A fit uses the runs of the
present config: runs of an earlier version of it, under the same name, are counted and left out.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

import analysis
from analysis import figures
from analysis.answer.recommendation import REFERENCE
from analysis.comparison.multipliers import Comparison
from analysis.errors import UserError as AnalysisError
from analysis.laws import standard_methods
from analysis.laws.result import Law
from analysis.report import write_report as write_page
from analysis.table.columns import typed
from analysis.table.runs import CURVE_COLUMNS
from analysis.text import flops_text, printable, without_secrets
from scaling.errors import UserError
from scaling.families import family_name
from scaling.files import write_whole
from sweeps.attempt.journal import merged, run_folder
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.status import of_families, open_ledger
from sweeps.ledger.types import State
from sweeps.plan.rows import run_rows
from sweeps.show.status import summary

FOLDER_NAME = re.compile(
    r"(?!(data|ledger|samples|mlflow\.db.*|.*\.(json|html|parquet|png|svg|pdf))$)[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
)
"""Names that are safe as folders beside our own files: no path, and no name of ours."""
Report = Callable[[str], object]


def folder_name(name: str) -> str:
    """A folder for a name from outside: forbidden characters become _, and a hash keeps such names apart."""
    if FOLDER_NAME.fullmatch(name):
        return name
    safe = re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip(".-")[:60]
    return f"{safe or '_'}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTable:
    """Runs to fit: the rows, where they came from, and how many of other configs were left out."""

    frame: pd.DataFrame
    source: str
    older: Mapping[str, int] = field(default_factory=dict)
    """Finished runs of an earlier config, by family."""

    @property
    def families(self) -> tuple[str, ...]:
        if "family" not in self.frame.columns:
            return ()
        return tuple(str(name) for name in self.frame["family"].dropna().unique())

    def label(self, family: str | None) -> str:
        """A family of this table, in messages."""
        return f"{family!r} of {self.source}" if family else self.source

    def older_runs(self, family: str | None) -> int:
        return sum(self.older.values()) if family is None else self.older.get(family, 0)

    def of_family(self, family: str | None) -> pd.DataFrame:
        """The rows of a family, and those without one, which a fit names as left out."""
        if family is None:
            return self.frame
        return self.frame[(self.frame["family"] == family) | self.frame["family"].isna()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fits:
    """The laws of one family by method, and for each method without a law the reason."""

    family: str | None
    laws: Mapping[str, Law]
    refused: Mapping[str, str] = field(default_factory=dict)


def ledger_table(
    sweep_folder: Path,
    sweep: str,
    keys: Iterable[str] | None = None,
    families: Sequence[str] = (),
    *,
    ledger: Ledger | None = None,
) -> RunTable:
    """The runs of a sweep's ledger, only of `families` if some are named.

    keys: only these; other finished runs are counted as older. ledger: the open one, if it is open already.
    UserError if there is no ledger, a family has no runs in it, or none of the runs is among `keys`.
    """
    with nullcontext(ledger) if ledger is not None else open_ledger(sweep_folder, sweep) as opened:
        recorded = opened.run_ids()
        runs = of_families(opened.runs(), families)
    rows = [row for run in runs for row in run_rows(run, sweep, run_id=recorded.get(run.key))]
    present = {run.key for run in runs} if keys is None else set(keys)
    chosen = [row for row in rows if row["key"] in present]
    older = Counter(run.family for run in runs if run.state == State.FINISHED and run.key not in present)
    if not chosen:
        raise UserError(
            f"none of the {len(runs)} runs under {sweep_folder} belongs to the present config of sweep "
            f"{sweep!r}; run `scaling sweep` again, or fit the old ones with --store"
        )
    return RunTable(
        frame=_labelled(typed(pd.DataFrame(chosen), str(sweep_folder))), source=str(sweep_folder), older=older
    )


@contextmanager
def columns_by_option() -> Iterator[None]:
    """Missing columns hint at the option of the command line, not at Python."""
    from analysis.table.inputs import MissingColumnsError

    try:
        yield
    except MissingColumnsError as error:
        pairs = ",".join(f"{printable(name)}={target}" for name, target in error.pairs.items())
        named = f"; --columns {shlex.quote(pairs)} names them" if pairs else ""
        raise UserError(f"{error.sentence}{named}") from None


def store_table(
    store: str, sweep: str | None, families: Iterable[str] = (), columns: Mapping[str, str] | None = None
) -> RunTable:
    """The runs of --store; columns: its names -> ours; UserError as `analysis.load_runs`."""
    import analysis
    from analysis.table.runs import UnknownNameError

    if columns is not None and store.startswith("published:"):
        raise UserError(f"columns is for .csv and .parquet files; {store} has the usual names")
    if store.startswith("published:"):
        frame = analysis.published.runs(store.removeprefix("published:"))
        if missing := [column for column in ("family", "params", "tokens", "loss") if column not in frame]:
            raise UserError(f"{store} holds no runs to fit: it has no column {', '.join(missing)}")
        there = list(frame["family"].unique())
        names = [family_name(name, there) for name in families] or there
        if absent := set(names) - set(frame["family"]):
            has = ", ".join(frame["family"].unique())
            raise UserError(f"family {', '.join(sorted(absent))} is not in {store}, which has: {has}")
        return RunTable(frame=_labelled(frame[frame["family"].isin(names)]), source=store)
    names = list(families)
    with columns_by_option():
        try:
            frame = analysis.load_runs(store, sweep=sweep, family=names or None, columns=columns)
        except UnknownNameError:
            there = analysis.load_runs(store, sweep=sweep, columns=columns).get("family", [])
            if (ours := [family_name(name, set(there)) for name in names]) == names:
                raise
            frame = analysis.load_runs(store, sweep=sweep, family=ours, columns=columns)
    return RunTable(frame=_labelled(frame), source=without_secrets(store))


def _labelled(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows named by size, budget and seed, for the messages of laws."""
    if not {"size", "budget"} <= set(frame.columns):
        return frame
    seeds = frame["seed"] if "seed" in frame.columns and frame["seed"].nunique() > 1 else None
    labels = [
        f"{size} at {flops_text(budget)} FLOPs" + ("" if seeds is None else f" (seed {seeds.iloc[i]})")
        for i, (size, budget) in enumerate(zip(frame["size"], frame["budget"], strict=True))
    ]
    return frame.set_axis(labels, axis=0)


def check_table_path(path: Path) -> None:
    """UserError unless this is a name for a run table."""
    if path.suffix not in (".parquet", ".csv"):
        ending = repr(path.suffix) if path.suffix else "no ending"
        raise UserError(f"{path}: a run table is written as .parquet or .csv; this name has {ending}")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the name of a file")


def check_folder(folder: Path) -> None:
    """UserError unless files can be written into `folder`; nothing of the attempt stays."""
    made: list[Path] = []
    try:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror or error})") from None
    finally:
        with suppress(OSError):
            for path in made:
                path.rmdir()


def save_table(frame: pd.DataFrame, path: Path) -> None:
    """Write a run table as .parquet or .csv, whole or not at all; UserError if it cannot be written."""
    check_table_path(path)
    frame = frame.reset_index(drop=True)
    with _written(path) as temporary:
        if path.suffix == ".parquet":
            frame.to_parquet(temporary, index=False)
        else:
            frame.to_csv(temporary, index=False)


def _write_json(path: Path, content: Any) -> None:
    with _written(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


@contextmanager
def _written(path: Path) -> Iterator[Path]:
    """A temporary file that then becomes `path`; UserError if it cannot be written."""
    try:
        with write_whole(path) as temporary:
            yield temporary
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error})") from None


def curves(frame: pd.DataFrame, sweep_folder: Path, sweep: str) -> pd.DataFrame:
    """Losses along the runs of `frame`, from their journals: columns `table.runs.CURVE_COLUMNS`."""
    points = []
    of_runs = frame.drop_duplicates("key")[["family", "size", "key", "params"]]  # replicas share a curve
    for family, size, key, params in of_runs.itertuples(index=False):
        about = {"sweep": sweep, "family": family, "size": size, "key": key, "params": params}
        by_step: dict[int, dict[str, Any]] = {}
        story = merged(run_folder(sweep_folder, family, key))
        for record in (r for r in story if r.has_objective or r.kind == "held_out"):
            objective = {"loss": record.loss} if record.has_objective else {}
            named = {name: record.numbers[name] for name in CURVE_COLUMNS if name in record.numbers}
            by_step.setdefault(record.step, {}).update(named | objective)
        points += [{**about, "step": step, **by_step[step]} for step in sorted(by_step)]
    return pd.DataFrame(points, columns=list(CURVE_COLUMNS))


def fit(table: RunTable, family: str | None, *, methods: Sequence[str] = (), bootstrap: int = 1000) -> Fits:
    """Laws of one family by these methods of `analysis.laws.METHODS`, the standard ones if none is named.

    UserError if none can be fitted.
    """
    frame = table.of_family(family)
    if "status" in frame.columns and not (frame["status"] == "finished").any():
        states = summary(frame["status"])
        raise UserError(f"no law can be fitted to {table.label(family)}: no run is finished ({states})")
    laws: dict[str, Law] = {}
    refused: dict[str, str] = {}
    for method in methods or standard_methods():
        try:
            laws[method] = analysis.fit_law(frame, method, bootstrap=bootstrap)
        except AnalysisError as error:
            refused[method] = str(error)
    if not laws:
        reasons = list(dict.fromkeys(refused.values()))
        raise UserError(f"no law can be fitted to {table.label(family)}: {'; '.join(reasons)}")
    return Fits(family=family, laws=laws, refused=refused)


def fit_each(
    table: RunTable,
    refused: dict[str, str],
    *,
    methods: Sequence[str] = (),
    bootstrap: int = 1000,
    report: Report = str,
) -> Iterator[Fits]:
    """The laws of each family that has one; the reasons of the others go into `refused`.

    report: gets the name of each step, which may take half a minute.
    """
    for family in table.families or (None,):
        report(f"fitting {family or 'all runs'} ({bootstrap:,} resamples)")
        try:
            fits = fit(table, family, methods=methods, bootstrap=bootstrap)
        except UserError as error:
            refused[family or "all runs"] = str(error)
            continue
        yield fits


def write_law(
    fits: Fits, table: RunTable, folder: Path, *, sweep: str | None, losses: pd.DataFrame | None = None
) -> list[Path]:
    """law.json, the runs and the figures (PNG and HTML) of one family into `folder`; the files written.

    losses: training loss along the runs, for a figure of it (see `curves`).
    """
    law_file, runs_file = folder / "law.json", folder / "runs.parquet"
    save_table(table.of_family(fits.family), runs_file)
    written = [law_file, runs_file]
    drawings: dict[str, Any] = {
        law.figure: law.plot() for law in fits.laws.values() if law.figure != "frontier"
    }
    drawings["frontier"] = figures.frontier(fits.laws)
    if losses is not None and len(losses):
        drawings["loss_curves"] = figures.loss_curves(table.of_family(fits.family), losses)
    written += save_figures(drawings, folder)
    content = {
        "sweep": sweep,
        "family": fits.family,
        "source": table.source,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "older_runs_left_out": table.older_runs(fits.family),
        "laws": {method: law.to_dict() for method, law in fits.laws.items()},
        "refused": dict(fits.refused),
    }
    _write_json(law_file, content)
    return written


def save_figures(drawings: Mapping[str, Any], folder: Path) -> list[Path]:
    """Each figure as PNG and as a page of its own; the files written."""
    written = [folder / f"{name}.{ending}" for name in drawings for ending in ("png", "html")]
    for path in written:
        figures.save(drawings[path.stem], path)
    return written


def compare(
    table: RunTable, reference: str, *, bootstrap: int = 1000, report: Report = str
) -> tuple[Comparison, dict[str, str]]:
    """The families that have a law against `reference`, and for the others the reason why they have none.

    UserError if the reference has no runs or no law, or no other family has one.
    """
    reference = _reference(table, reference)
    refused = {}
    for family in table.families:
        try:
            analysis.fit_law(table.of_family(family), "surface", bootstrap=0)
        except AnalysisError as error:
            refused[family] = f"no law can be fitted to {table.label(family)}: {error}"
    others = [family for family in table.families if family not in refused]
    if refused and (reference in refused or len(others) < 2):
        raise UserError(refused.get(reference) or "; ".join(refused.values()))
    report(f"comparing {len(others)} families ({bootstrap:,} resamples)")
    frame = table.frame[~table.frame["family"].isin(list(refused))]
    return analysis.compare(frame, reference=reference, bootstrap=bootstrap), refused


def _reference(table: RunTable, name: str) -> str:
    """The family of that name; UserError if it has no runs."""
    reference = family_name(name, table.families)
    if reference not in table.families:
        raise UserError(
            f"the reference family {reference!r} has no runs in {table.source}; sweep it first, or choose "
            f"another with --reference (there: {', '.join(table.families) or 'none'})"
        )
    return reference


def write_comparison(comparison: Comparison, folder: Path) -> list[Path]:
    """compare.json and the figures of a comparison into `folder`; the files written."""
    written = [folder / "compare.json"]
    _write_json(written[0], comparison.to_dict())
    drawings = {"compare": figures.compare(comparison), "frontiers": figures.frontier(comparison.laws)}
    return written + save_figures(drawings, folder)


def write_report(
    table: RunTable,
    folder: Path,
    sweep: str,
    *,
    reference: str,
    bootstrap: int = 1000,
    losses: pd.DataFrame | None = None,
    report: Report = str,
) -> tuple[Path, dict[str, str]]:
    """Write report.html: every family's laws, and their comparison if `reference` has a law.

    A family without a law stands in the report with the reason, and in the second result; UserError if no
    family has a law, and for a reference other than ar that has no runs.
    """
    if reference != REFERENCE:
        reference = _reference(table, reference)
    laws: dict[str, Mapping[str, Law]] = {}
    refused: dict[str, Sequence[str]] = {}
    missing: dict[str, str] = {}
    for fits in fit_each(table, missing, bootstrap=bootstrap, report=report):
        name = fits.family or "all runs"
        laws[name] = fits.laws
        refused[name] = [f"no {method} law: {sentence}" for method, sentence in fits.refused.items()]
    laws |= {name: {} for name in missing}
    refused |= {name: [sentence] for name, sentence in missing.items()}
    comparison = None
    if reference in laws and sum(bool(fitted) for fitted in laws.values()) > 1:
        try:
            comparison, _ = compare(table, reference, bootstrap=bootstrap, report=report)
        except (UserError, AnalysisError) as error:
            refused[reference] = [*refused[reference], f"families are not compared: {error}"]
    report("drawing the report")
    title = f"{sweep}: scaling laws"
    samples = analysis.load_samples(folder) if (folder / "samples.parquet").is_file() else None
    try:
        path = write_page(
            folder / "report.html",
            table.frame,
            laws,
            title=title,
            source=table.source,
            comparison=comparison,
            refused=refused,
            losses=losses,
            samples=samples,
        )
    except AnalysisError as error:
        reasons = "; ".join(sentence for sentences in refused.values() for sentence in sentences)
        raise UserError(f"{error}: {reasons}" if reasons else str(error)) from None
    return path, missing
