"""The end of a sweep in a terminal: laws in tables with intervals, verdicts, files, what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from analysis.checks.diagnostics import MOST_DIAGNOSED, diagnose
from analysis.comparison.multipliers import Comparison
from analysis.comparison.pairwise import compare_sequences, pairwise_text
from analysis.estimate import Estimate
from analysis.laws import METHODS
from analysis.text import MISSING, flops_text, interval_text, number_text, value_text
from scaling.families import family_name
from sweeps.plan.prepare import Request
from sweeps.results.laws import (
    Fits,
    RunTable,
    check_folder,
    compare,
    curves,
    fit_each,
    folder_name,
    save_table,
    write_comparison,
    write_law,
    write_report,
)
from sweeps.results.sequences import FILE, sequence_losses
from sweeps.show.steps import Steps
from sweeps.show.tables import RowsTable, console

STYLES = {"reliable": "green", "use with care": "yellow", "do not use": "red"}
"""How advice begins (see `analysis.checks.diagnostics.Diagnosis.advice`), and its colour."""
MOST_NAMED = 10
"""Runs left out of a fit that are named one by one."""


def show_fits(fits: Fits, table: RunTable, out: Console | None = None) -> None:
    """The law as tables with intervals, a verdict for each method, and warnings."""
    out = out or console()
    frame, name = table.of_family(fits.family), fits.family or "all runs"
    for law in fits.laws.values():
        if hasattr(law, "minima"):
            out.print(_minima_table(law, frame, name))
    rows = []
    for quantity in ("params", "tokens", "tokens_per_param", "loss", "reducible_loss"):
        values = {method: law.exponents.get(quantity) for method, law in fits.laws.items()}
        if any(value is not None for value in values.values()):
            cells = {method: MISSING if value is None else str(value) for method, value in values.items()}
            rows.append({"exponent of": quantity.replace("_", " "), **cells})
    level = next(iter(fits.laws.values())).level
    out.print(RowsTable(title=f"{name}: exponents in compute, with {level:.0%} intervals", rows=rows))
    for method, law in fits.laws.items():
        if symbols := METHODS[method].symbols:
            rows = [
                {"parameter": symbol, "value": _parameter(symbol, getattr(law, symbol))} for symbol in symbols
            ]
            title = f"{name}: {METHODS[method].label} {METHODS[method].formula}"
            out.print(RowsTable(title=title.strip(), rows=rows))
    for method, law in fits.laws.items():
        if len(law.runs) <= MOST_DIAGNOSED:
            advice = diagnose(law).advice
            out.print(f"{method} law: {advice}", style=STYLES[advice.partition(":")[0]])
    notes = [f"warning: {sentence}" for law in fits.laws.values() for sentence in law.warnings]
    notes += [f"no {method} law: {sentence}" for method, sentence in fits.refused.items()]
    excluded = next(iter(fits.laws.values())).excluded
    for run in excluded[:MOST_NAMED]:
        label = f"row {run.row}" if isinstance(run.row, Integral) else run.row
        notes.append(f"left out: {label}, {run.reason}")
    if len(excluded) > MOST_NAMED:
        notes.append(f"left out: {len(excluded) - MOST_NAMED} more; law.json lists all")
    if older := table.older_runs(fits.family):
        notes.append(f"left out: {older} finished runs of an earlier config under the same name")
    for note in dict.fromkeys(notes):
        out.print(note, style="yellow")


NO_ENTROPY = 1e-4
"""Nats per token below which E is written as 0: no loss is measured as finely."""


def _parameter(symbol: str, value: Estimate) -> str:
    """A parameter with its interval. A fit that needs no E stops just above 0."""
    if symbol != "E" or value >= NO_ENTROPY or value.low is None or value.high is None:
        return "0" if symbol == "E" and value < NO_ENTROPY else str(value)
    ends = ("0" if end < NO_ENTROPY else number_text(end) for end in (value.low, value.high))
    return f"0 [{', '.join(ends)}]"


def _minima_table(law: Any, frame: pd.DataFrame, name: str) -> RowsTable:
    """Best size per budget, from the parabolas."""

    def value(row: Mapping[str, Any], name: str, digits: int) -> str:
        return value_text(name, row[name], row[f"{name}_low"], row[f"{name}_high"], digits=digits)

    # bits per byte of one nat per token on this text, if the table has both
    bits = float("nan")
    if {"loss", "bits_per_byte"} <= set(frame.columns):
        bits = float((frame["bits_per_byte"] / frame["loss"]).median())
    rows = []
    for row in law.minima.astype(object).to_dict(orient="records"):
        inside = row["status"] == "bracketed"
        rows.append(
            {
                "budget": flops_text(row["flops"]),
                "runs": str(row["num_runs"]),
                "best params": value(row, "params", 3) if inside else str(row["reason"]),
                "tokens": value(row, "tokens", 3) if inside else "",
                "tokens/param": value(row, "tokens_per_param", 3) if inside else "",
                "loss": value(row, "loss", 5) if inside else "",
                "bits/byte": f"{row['loss'] * bits:.4f}" if inside and bits == bits else "",
            }
        )
    title = f"{name}: best size at each budget (loss in nats per token)"
    return RowsTable(title=title, rows=rows, right=("runs",), spare=("bits/byte", "runs", "tokens/param"))


def show_files(files: Iterable[Path], out: Console) -> None:
    """The files that were written, by folder."""
    by_folder: dict[Path, list[str]] = {}
    for file in files:
        by_folder.setdefault(file.parent, []).append(file.name)
    for folder, names in by_folder.items():
        out.print(f"written to {folder}: {', '.join(names)}")


def fit_all(
    table: RunTable,
    folder: Path,
    *,
    methods: Sequence[str] = (),
    bootstrap: int,
    journals: bool,
    out: Console,
) -> dict[str, str]:
    """Fit, print and write the law of every family, below `folder`; returns why some have none.

    journals: whether the folder is a sweep's own, with the training losses of its runs.
    """
    check_folder(folder)  # before minutes of fitting
    refused: dict[str, str] = {}
    with Steps(out, [1.0] * max(1, len(table.families))) as step:
        for fits in fit_each(table, refused, methods=methods, bootstrap=bootstrap, report=step):
            show_fits(fits, table, out)
            losses = curves(table.of_family(fits.family), folder, folder.name) if journals else None
            # A table without a family column is one law; its results stand beside the families'.
            own = folder / folder_name(fits.family) if fits.family else folder
            show_files(write_law(fits, table, own, sweep=folder.name, losses=losses), out)
    return refused


def compare_all(
    table: RunTable, folder: Path, reference: str, *, bootstrap: int, out: Console
) -> dict[str, str]:
    """Compare the families with `reference`, print and write it; returns why some are left out."""
    check_folder(folder)
    with Steps(out, [1.0, 2.0]) as step:  # drawing takes longer than fitting
        comparison, refused = compare(table, reference, bootstrap=bootstrap, report=step)
        show_comparison(comparison, out)
        step("drawing the comparison")
        files = _compare_sequences(table, folder, reference, out)
        show_files([*write_comparison(comparison, folder), *files], out)
    return refused


def _compare_sequences(table: RunTable, folder: Path, reference: str, out: Console) -> list[Path]:
    """Print the families at equal compute, sequence by sequence of the held-out text, and write the losses
    behind it; the files written. Nothing where the runs have kept none."""
    losses = sequence_losses(table.frame, folder)
    pairs = compare_sequences(losses, family_name(reference, table.families))
    if not len(pairs):
        return []
    out.print("\nLosses at equal compute, sequence by sequence of the same text (nats per token)\n")
    out.print(str(pairwise_text(pairs)), highlight=False)
    save_table(losses, folder / FILE)
    return [folder / FILE]


def report_all(
    table: RunTable, folder: Path, reference: str, *, bootstrap: int, journals: bool, out: Console
) -> dict[str, str]:
    """Write the report; returns why some families have no law. journals: as `fit_all`."""
    check_folder(folder)
    losses = curves(table.frame, folder, folder.name) if journals else None
    number = max(1, len(table.families))
    # drawing a family takes longer than fitting it
    weights = [*[1.0] * number, *([number] if number > 1 else []), 8.0 * number]
    with Steps(out, weights) as step:
        path, refused = write_report(
            table, folder, folder.name, reference=reference, bootstrap=bootstrap, losses=losses, report=step
        )
    show_files([path], out)
    return refused


def show_refused(refused: Mapping[str, str], out: Console) -> None:
    """Why families have no law; printed last, so that nobody misses it."""
    for sentence in refused.values():
        out.print(sentence, style="yellow")


def next_steps(request: Request, families: Sequence[str]) -> list[str]:
    """Useful commands after a sweep of `families`, each with its purpose."""
    name = request.sweep
    fitted = {path.parent.name for path in request.folder.glob("*/law.json")}
    by_make = request.file is None and request.out == Path("runs") and Path("Makefile").is_file()

    def command(action: str, family: str = "", sweep: str = name) -> str:
        if by_make:
            values = {"FAMILY": family, "SWEEP": "" if sweep == "desk" else sweep, "DATA": request.data}
            return shlex.join(["make", action, *(f"{key}={value}" for key, value in values.items() if value)])
        which = ["--config", str(request.file)] if request.file else ["--sweep", sweep]
        which += ["--data", request.data] if request.data else []
        only = ["--family", family] if family else []
        return shlex.join(["scaling", action, *only, *which, "--out", str(request.out)])

    others = [family.name for family in request.config.families if family.name not in {*fitted, *families}]
    steps = [f"{command('sweep', others[0])}      the same for another family"] if others else []
    if len(fitted) > 1:
        steps.append(f"{command('compare')}      compute multipliers between families")
    if request.file is None and (bigger := {"smoke": "desk", "desk": "evening"}.get(name)):
        steps.append(f"{command('sweep', families[0], bigger)}      a law from larger budgets")
    return steps


def show_comparison(comparison: Comparison, out: Console | None = None) -> None:
    """Multipliers with their intervals, the losses and budgets they are taken at, and crossovers."""
    out = out or console()
    rows = [
        {
            "family": row["family"],
            "budget": flops_text(row["at_flops"]),
            "at loss": f"{row['at_loss']:.4f}",
            "needs": interval_text(row["multiplier"], row["low"], row["high"], unit="x"),
            f"{comparison.reference} needs": flops_text(row["reference_flops"]),
            "": "extrapolated" if row["extrapolated"] else "",
        }
        for row in comparison.multipliers.astype(object).to_dict(orient="records")
    ]
    title = f"compute over {comparison.reference} at equal loss ({comparison.method} laws)"
    out.print(RowsTable(title=title, rows=rows, once="family", spare=("at loss",)))
    for row in comparison.measured_crossovers.astype(object).to_dict(orient="records"):
        note = " (extrapolated)" if row["extrapolated"] else ""
        out.print(f"{row['family']} meets {row['reference']} at {flops_text(row['flops'])} FLOPs{note}")
    for sentence in comparison.warnings:
        out.print(f"warning: {sentence}", style="yellow")
