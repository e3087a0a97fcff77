"""What a person is told at the end of a sweep: the law in tables with intervals, files, what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.text import flops_text, interval_text, value_text
from sweeps.results.laws import Fits, RunTable, curves, fit_each, folder_name, older_runs, write_law
from sweeps.show.tables import NARROW, console, frame_table, warning_lines

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from analysis.comparison.multipliers import Comparison
    from sweeps.plan.prepare import Request


def show_fits(fits: Fits, table: RunTable, out: Console | None = None) -> None:
    """The law as tables with intervals, whom it left out, and what to be careful about."""
    import pandas as pd

    from analysis.checks.diagnostics import MOST_DIAGNOSED, diagnose
    from analysis.laws import METHODS

    out = out or console()
    frame = table.of_family(fits.family)
    name = fits.family or "all runs"
    for law in fits.laws.values():
        if hasattr(law, "minima"):
            out.print(_minima_table(law, frame, name, narrow=out.width < NARROW))
    out.print(_exponent_table(fits, name))
    for method, law in fits.laws.items():
        if symbols := METHODS[method].symbols:
            rows = [{"parameter": symbol, "value": str(getattr(law, symbol))} for symbol in symbols]
            title = f"{name}: {METHODS[method].label} {METHODS[method].formula}"
            out.print(frame_table(pd.DataFrame(rows), title.strip()))
    for method, law in fits.laws.items():
        if len(law.runs) <= MOST_DIAGNOSED:
            out.print(f"{method} law: {diagnose(law).verdict}", soft_wrap=True)
    for note in _notes(fits, table):
        out.print(note, style="yellow", soft_wrap=True)


def _minima_table(law: Any, frame: pd.DataFrame, name: str, *, narrow: bool) -> Any:
    """Best size per budget, from the parabolas; narrow: without what follows from the rest."""
    import pandas as pd

    def value(row: Mapping[str, Any], name: str, digits: int) -> str:
        return value_text(name, row[name], row[f"{name}_low"], row[f"{name}_high"], digits=digits)

    bits = _bits_per_nat(frame)
    rows = []
    for row in law.minima.astype(object).to_dict(orient="records"):
        found = row["status"] == "bracketed"
        rows.append(
            {
                "budget": flops_text(row["flops"]),
                "runs": row["num_runs"],
                "best params": value(row, "params", 3) if found else str(row["reason"]),
                "tokens": value(row, "tokens", 3) if found else "",
                "tokens/param": value(row, "tokens_per_param", 3) if found else "",
                "loss": value(row, "loss", 5) if found else "",
                "bits/byte": f"{row['loss'] * bits:.4f}" if found and bits else "",
            }
        )
    shown = pd.DataFrame(rows).drop(columns=["runs", "tokens/param", "bits/byte"] if narrow else [])
    return frame_table(shown, f"{name}: best size at each budget (loss in nats per token)")


def _bits_per_nat(frame: pd.DataFrame) -> float | None:
    """Bits per byte of one nat per token on this table's text, where the table knows both."""
    if not {"loss", "bits_per_byte"} <= set(frame.columns):
        return None
    ratio = (frame["bits_per_byte"] / frame["loss"]).dropna()
    return float(ratio.median()) if len(ratio) else None


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


def _notes(fits: Fits, table: RunTable) -> list[str]:
    notes = [f"warning: {sentence}" for law in fits.laws.values() for sentence in law.warnings]
    notes += [f"no {method} law: {sentence}" for method, sentence in fits.refused.items()]
    notes += [f"left out: {run.row}, {run.reason}" for run in next(iter(fits.laws.values())).excluded]
    if older := older_runs(table, fits.family):
        notes.append(f"left out: {older} finished runs of an earlier config under the same name")
    return list(dict.fromkeys(notes))


def show_files(files: Iterable[Path], out: Console) -> None:
    """Where results were written, one folder at a time."""
    by_folder: dict[Path, list[str]] = {}
    for file in files:
        by_folder.setdefault(file.parent, []).append(file.name)
    for folder, names in by_folder.items():
        out.print(f"written to {folder}: {', '.join(names)}", soft_wrap=True)


def fit_all(table: RunTable, folder: Path, *, bootstrap: int, journals: bool, out: Console) -> dict[str, str]:
    """Fit, show and write the law of every family, below `folder`; of families without one the sentence why.

    journals: whether the folder is a sweep's own, with the losses along its runs.
    """
    refused: dict[str, str] = {}
    for fits in fit_each(table, refused, bootstrap=bootstrap, tell=out.print):
        show_fits(fits, table, out)
        losses = curves(table.of_family(fits.family), folder, folder.name) if journals else None
        # A table without a family column is one law; its results stand beside the families'.
        own = folder / folder_name(fits.family) if fits.family else folder
        show_files(write_law(fits, table, own, sweep=folder.name, losses=losses), out)
    return refused


def show_refused(refused: Mapping[str, str], out: Console) -> None:
    """Families without a law, and why; last, so that nobody misses it."""
    for sentence in refused.values():
        out.print(sentence, style="yellow", soft_wrap=True)


def next_steps(asked: Request, families: Sequence[str]) -> list[str]:
    """Commands that a person may want to give after a sweep of `families`, each with what it is for."""
    name, folder = asked.config.name, asked.folder
    fitted = {path.parent.name for path in folder.glob("*/law.json")}
    by_make = asked.file is None and asked.out == Path("runs") and Path("Makefile").is_file()

    def command(action: str, family: str = "", sweep: str = name) -> str:
        if by_make:
            options = (f" FAMILY={family}" if family else "") + ("" if sweep == "desk" else f" SWEEP={sweep}")
            return f"make {action}{options}"
        which = ["--config", str(asked.file)] if asked.file and sweep == name else ["--sweep", sweep]
        only = ["--family", family] if family else []
        return shlex.join(["scaling", action, *only, *which, "--out", str(asked.out)])

    others = [family.name for family in asked.config.families if family.name not in {*fitted, *families}]
    steps = [f"{command('sweep', others[0])}      the same for another family"] if others else []
    if len(fitted) > 1:
        steps.append(f"{command('compare')}      compute multipliers between families")
    if asked.file is None and (bigger := {"smoke": "desk", "desk": "evening"}.get(name)):
        steps.append(f"{command('sweep', families[0], bigger)}      a law from larger budgets")
    return steps


def show_comparison(comparison: Comparison, out: Console | None = None) -> None:
    """Multipliers with their intervals, the losses and budgets they are taken at, and crossovers."""
    import pandas as pd

    out = out or console()
    rows = []
    for row in comparison.multipliers.astype(object).to_dict(orient="records"):
        rows.append(
            {
                "family": row["family"],
                "budget": flops_text(row["at_flops"]),
                "at loss": f"{row['at_loss']:.4f}",
                "needs": interval_text(row["multiplier"], row["low"], row["high"], unit="x"),
                f"{comparison.reference} needs": flops_text(row["reference_flops"]),
                "": "extrapolated" if row["extrapolated"] else "",
            }
        )
    title = f"compute over {comparison.reference} at equal loss ({comparison.method} laws)"
    out.print(frame_table(pd.DataFrame(rows), title))
    for row in comparison.measured_crossovers.astype(object).to_dict(orient="records"):
        where = " (extrapolated)" if row["extrapolated"] else ""
        out.print(f"{row['family']} meets {row['reference']} at {flops_text(row['flops'])} FLOPs{where}")
    for line in warning_lines(comparison.warnings):
        out.print(line, soft_wrap=True)
