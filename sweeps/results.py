"""The end of a sweep: from finished runs to a law, a table of it, figures, law.json, and what to do next.

The runs come from the sweep's ledger, which is the truth about it; a tracking store or a file serves as well.
A fit uses the runs of the config as it stands: runs of an earlier version of it, under the same name, are
counted and left out.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.errors import UserError
from sweeps.tables import console, flops_text, frame_table, short, warning_lines

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from analysis.comparison import Comparison
    from analysis.laws.result import Law

METHODS = ("isoflop", "surface")
LN2 = 0.6931471805599453


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

    def of_family(self, family: str | None) -> pd.DataFrame:
        return self.frame if family is None else self.frame[self.frame["family"] == family]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fits:
    """The laws of one family: by method, and for those that could not be fitted the sentence why."""

    family: str | None
    laws: Mapping[str, Law]
    refused: Mapping[str, str] = field(default_factory=dict)


# --- tables of runs


def ledger_table(
    sweep_folder: Path, sweep: str, keys: Iterable[str] | None = None, families: Sequence[str] = ()
) -> RunTable:
    """The runs of a sweep's ledger, of `families` where some are named.

    keys: only these, the finished others being counted as older. Raises UserError where there is no ledger,
    a family has no runs in it, or none of its runs is among `keys`.
    """
    import pandas as pd

    from analysis.run_columns import typed
    from sweeps.recorder import run_ids
    from sweeps.rows import run_row
    from sweeps.status import open_ledger, runs_of

    with open_ledger(sweep_folder, sweep) as ledger:
        recorded = run_ids(ledger)
        rows = [run_row(run, sweep, run_id=recorded.get(run.key)) for run in runs_of(ledger, families)]
    wanted = None if keys is None else set(keys)
    chosen = [row for row in rows if wanted is None or row["key"] in wanted]
    chosen_keys = {row["key"] for row in chosen}
    older = Counter(
        row["family"] for row in rows if row["status"] == "finished" and row["key"] not in chosen_keys
    )
    if not chosen:
        raise UserError(
            f"none of the {len(rows)} runs under {sweep_folder} belongs to sweep {sweep!r} as its "
            "config stands; run `scaling sweep` again, or fit the old ones with --store"
        )
    return RunTable(
        frame=_labelled(typed(pd.DataFrame(chosen), str(sweep_folder))), source=str(sweep_folder), older=older
    )


def store_table(store: str, sweep: str | None, families: Iterable[str] = ()) -> RunTable:
    """The runs of a tracking store or a .parquet or .csv file; UserError as `analysis.load_runs`."""
    import analysis

    frame = analysis.load_runs(store, sweep=sweep, family=list(families) or None)
    return RunTable(frame=_labelled(frame), source=store)


def _labelled(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows called by size, budget and seed, so that a law can say whom it left out."""
    if not {"size", "budget"} <= set(frame.columns):
        return frame
    seeds = frame["seed"] if "seed" in frame.columns and frame["seed"].nunique() > 1 else None
    labels = [
        f"{size} at {budget:.3g} FLOPs" + ("" if seeds is None else f" (seed {seeds.iloc[i]})")
        for i, (size, budget) in enumerate(zip(frame["size"], frame["budget"], strict=True))
    ]
    return frame.set_axis(labels, axis=0)


def check_table_path(path: Path) -> None:
    """UserError unless a run table can be written under this name."""
    if path.suffix not in (".parquet", ".csv"):
        ending = repr(path.suffix) if path.suffix else "no ending"
        raise UserError(f"{path}: a run table is written as .parquet or .csv; this name has {ending}")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the name of a file")


def save_table(frame: pd.DataFrame, path: Path) -> None:
    """Write a run table as .parquet or .csv, whole or not at all; UserError where that cannot be."""
    check_table_path(path)
    frame = frame.reset_index(drop=True)
    _make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if path.suffix == ".parquet":
            frame.to_parquet(temporary, index=False)
        else:
            frame.to_csv(temporary, index=False)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error})") from None
    finally:
        temporary.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror or error})") from None


def curves(frame: pd.DataFrame, sweep_folder: Path, sweep: str) -> pd.DataFrame:
    """Training loss along the runs of `frame`, from their journals: columns `analysis.runs.CURVE_COLUMNS`."""
    import pandas as pd

    from analysis.runs import CURVE_COLUMNS
    from sweeps.journal import merged, run_folder

    points = []
    for family, size, key, params in frame[["family", "size", "key", "params"]].itertuples(index=False):
        known = {"sweep": sweep, "family": family, "size": size, "key": key, "params": params}
        for record in merged(run_folder(sweep_folder, family, key)):
            if record["kind"] == "train":
                numbers = {name: float(record[name]) for name in ("tokens", "flops", "loss")}
                points.append({**known, "step": int(record["step"]), **numbers})
    return pd.DataFrame(points, columns=list(CURVE_COLUMNS))


# --- fitting


def fit(table: RunTable, family: str | None, *, bootstrap: int = 1000) -> Fits:
    """IsoFLOP and surface laws of one family; UserError if neither can be fitted."""
    import analysis
    from analysis.errors import UserError as AnalysisError

    laws: dict[str, Law] = {}
    refused: dict[str, str] = {}
    for method in METHODS:
        try:
            laws[method] = analysis.fit_law(table.of_family(family), method, bootstrap=bootstrap)
        except AnalysisError as error:
            refused[method] = str(error)
    if not laws:
        reasons = list(dict.fromkeys(refused.values()))
        raise UserError(f"no law can be fitted to {_whose(table, family)}: {'; '.join(reasons)}")
    return Fits(family=family, laws=laws, refused=refused)


def _whose(table: RunTable, family: str | None) -> str:
    return f"{family!r} of {table.source}" if family else table.source


def write_law(
    fits: Fits, table: RunTable, folder: Path, *, sweep: str | None, losses: pd.DataFrame | None = None
) -> list[Path]:
    """law.json, the runs and the figures (PNG and HTML) of one family into `folder`; the files written.

    losses: training loss along the runs, for a figure of it (see `curves`).
    """
    from analysis import figures

    _make_folder(folder)
    law_file, runs_file = folder / "law.json", folder / "runs.parquet"
    save_table(table.of_family(fits.family), runs_file)
    written = [law_file, runs_file]
    drawings: dict[str, Any] = {}
    if "isoflop" in fits.laws:
        drawings["isoflop"] = fits.laws["isoflop"].plot()
    drawings["frontier"] = figures.frontier(fits.laws)
    if losses is not None and len(losses):
        drawings["loss_curves"] = figures.loss_curves(table.of_family(fits.family), losses)
    written += save_figures(drawings, folder)
    content = {
        "sweep": sweep,
        "family": fits.family,
        "source": table.source,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "older_runs_left_out": _older(table, fits.family),
        "laws": {method: law.to_dict() for method, law in fits.laws.items()},
        "refused": dict(fits.refused),
    }
    write_text(law_file, json.dumps(content, indent=2, allow_nan=False) + "\n")
    return written


def save_figures(drawings: Mapping[str, Any], folder: Path) -> list[Path]:
    """Each figure as PNG and as a page of its own; the files written."""
    from analysis import figures

    written = [folder / f"{name}.{ending}" for name in drawings for ending in ("png", "html")]
    for path in written:
        figures.save(drawings[path.stem], path)
    return written


def write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error})") from None
    finally:
        temporary.unlink(missing_ok=True)


# --- telling


def show_fits(fits: Fits, table: RunTable, out: Console | None = None) -> None:
    """The law as tables with intervals, whom it left out, and what to be careful about."""
    out = out or console()
    frame = table.of_family(fits.family)
    name = fits.family or "all runs"
    if "isoflop" in fits.laws:
        out.print(_minima_table(fits.laws["isoflop"], frame, name))
    out.print(_exponent_table(fits, name))
    if "surface" in fits.laws:
        out.print(_surface_table(fits.laws["surface"], name))
    for note in _notes(fits, table):
        out.print(note, style="yellow", soft_wrap=True)


def _minima_table(law: Any, frame: pd.DataFrame, name: str) -> Any:
    """Best size per budget, from the parabolas."""
    import pandas as pd

    bits = _bits_per_nat(frame)
    rows = []
    for row in law.minima.astype(object).to_dict(orient="records"):
        found = row["status"] == "bracketed"
        rows.append(
            {
                "budget": flops_text(row["flops"]),
                "runs": row["num_runs"],
                "best params": _interval(row, "params") if found else str(row["reason"]),
                "tokens": _interval(row, "tokens") if found else "",
                "tokens/param": _interval(row, "tokens_per_param") if found else "",
                "loss": _interval(row, "loss", "{:.4f}") if found else "",
                "bits/byte": f"{row['loss'] * bits:.4f}" if found and bits else "",
            }
        )
    table = frame_table(pd.DataFrame(rows), f"{name}: best size at each budget (loss in nats per token)")
    return table


def _bits_per_nat(frame: pd.DataFrame) -> float | None:
    """Bits per byte of one nat per token on this table's text, where the table knows both."""
    if not {"loss", "bits_per_byte"} <= set(frame.columns):
        return None
    ratio = (frame["bits_per_byte"] / frame["loss"]).dropna()
    return float(ratio.median()) if len(ratio) else None


def _interval(row: Mapping[str, Any], name: str, form: str = "") -> str:
    text = form.format if form else short
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if low is None or high is None or low != low or high != high:
        return text(row[name])
    return f"{text(row[name])} [{text(low)}, {text(high)}]"


def _exponent_table(fits: Fits, name: str) -> Any:
    """Exponents of the frontier, one column per method."""
    import pandas as pd

    wanted = ("params", "tokens", "tokens_per_param", "loss", "reducible_loss")
    rows = []
    for quantity in wanted:
        values = {method: law.exponents.get(quantity) for method, law in fits.laws.items()}
        if any(value is not None for value in values.values()):
            cells = {method: "" if value is None else str(value) for method, value in values.items()}
            rows.append({"exponent of": quantity.replace("_", " "), **cells})
    level = next(iter(fits.laws.values())).level
    return frame_table(pd.DataFrame(rows), f"{name}: exponents in compute, with {level:.0%} intervals")


def _surface_table(law: Any, name: str) -> Any:
    """The five parameters of L = E + A/N^alpha + B/D^beta."""
    import pandas as pd

    row = {symbol: str(getattr(law, symbol)) for symbol in ("E", "A", "B", "alpha", "beta")}
    return frame_table(pd.DataFrame([row]), f"{name}: surface L = E + A/N^alpha + B/D^beta")


def _notes(fits: Fits, table: RunTable) -> list[str]:
    notes = [f"warning: {sentence}" for law in fits.laws.values() for sentence in law.warnings]
    notes += [f"no {method} law: {sentence}" for method, sentence in fits.refused.items()]
    notes += [f"left out: {run.row}, {run.reason}" for run in next(iter(fits.laws.values())).excluded]
    if older := _older(table, fits.family):
        notes.append(f"left out: {older} finished runs of an earlier config under the same name")
    return list(dict.fromkeys(notes))


def _older(table: RunTable, family: str | None) -> int:
    return sum(table.older.values()) if family is None else table.older.get(family, 0)


def show_files(files: Iterable[Path], out: Console) -> None:
    """Where results were written, one folder at a time."""
    by_folder: dict[Path, list[str]] = {}
    for file in files:
        by_folder.setdefault(file.parent, []).append(file.name)
    for folder, names in by_folder.items():
        out.print(f"written to {folder}: {', '.join(names)}", soft_wrap=True)


def next_steps(sweep: str, family: str, known: Iterable[str], finished: Iterable[str]) -> list[str]:
    """What a person may want to do after a sweep; `finished`: families that have a law already."""
    done = set(finished) | {family}
    others = [name for name in known if name not in done]
    steps = []
    if others:
        steps.append(f"make sweep FAMILY={others[0]}{_sweep_option(sweep)}      the same for another family")
    if len(done) > 1:
        steps.append(f"make compare{_sweep_option(sweep)}      compute multipliers between families")
    if sweep in ("smoke", "desk"):
        bigger = {"smoke": "desk", "desk": "evening"}[sweep]
        steps.append(f"make sweep FAMILY={family} SWEEP={bigger}      a law from larger budgets")
    return steps


def _sweep_option(sweep: str) -> str:
    return "" if sweep == "desk" else f" SWEEP={sweep}"


# --- comparing


def compare(table: RunTable, reference: str, *, bootstrap: int = 1000) -> Comparison:
    """Every family against `reference`; UserError where it has no runs, or a family no law."""
    import analysis

    if reference not in table.families:
        raise UserError(
            f"the reference family {reference!r} has no runs in {table.source}; sweep it first, or choose "
            f"another with --reference (there: {', '.join(table.families) or 'none'})"
        )
    return analysis.compare(table.frame, reference=reference, bootstrap=bootstrap)


def show_comparison(comparison: Comparison, out: Console | None = None) -> None:
    """Multipliers with their intervals, the losses and budgets they are taken at, and crossovers."""
    import pandas as pd

    out = out or console()
    rows = []
    for row in comparison.multipliers.astype(object).to_dict(orient="records"):
        ends = "" if row["low"] is None else f" [{short(row['low'])}, {short(row['high'])}]"
        rows.append(
            {
                "family": row["family"],
                "at its budget": flops_text(row["at_flops"]),
                "at loss": f"{row['at_loss']:.4f}",
                "needs": f"{short(row['multiplier'])}x{ends}",
                f"{comparison.reference} needs": flops_text(row["reference_flops"]),
                "": "extrapolated" if row["extrapolated"] else "",
            }
        )
    title = f"compute over {comparison.reference} at equal loss ({comparison.method} laws)"
    out.print(frame_table(pd.DataFrame(rows), title))
    for row in comparison.crossovers.astype(object).to_dict(orient="records"):
        where = " (extrapolated)" if row["extrapolated"] else ""
        out.print(f"{row['family']} meets {row['reference']} at {flops_text(row['flops'])} FLOPs{where}")
    for line in warning_lines(comparison.warnings):
        out.print(line, soft_wrap=True)


def write_comparison(comparison: Comparison, folder: Path) -> list[Path]:
    """compare.json and the figures of a comparison into `folder`; the files written."""
    from analysis import figures

    _make_folder(folder)
    written = [folder / "compare.json"]
    write_text(written[0], json.dumps(comparison.to_dict(), indent=2, allow_nan=False) + "\n")
    drawings = {"compare": figures.compare(comparison), "frontiers": figures.frontier(comparison.laws)}
    return written + save_figures(drawings, folder)
