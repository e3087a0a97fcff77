"""The origin of numbers in words: the runs and their counts, the law, the versions of the software."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import TYPE_CHECKING

from analysis.table.columns import as_times
from analysis.text import is_missing, time_text, without_secrets

if TYPE_CHECKING:
    import pandas as pd

    from analysis.laws.result import Law

PARAMS = {
    "params_total": "all",
    "params_non_embedding": "without input embedding",
    "params_body": "transformer blocks only",
}
FLOPS = {"flops_exact": "exact", "flops_6nd": "6 N D", "flops_sahoo2026": "as Sahoo et al. 2026"}
NAMED = {
    "sweep": "sweep",
    "status": "status",
    "objective": "objective",
    "bound": "bound",
    "corpus": "text",
    "tokenizer": "tokenizer",
    "data_fingerprint": "fingerprint of the text",
    "context_length": "context length",
    "device": "device",
    "code_version": "version that trained them",
}
ENDS = {"started": "min", "ended": "max"}
MOST_NAMED = 6
PACKAGES = ("scaling", "numpy", "scipy", "pandas", "plotly")
UNSAID = "the table does not say"


def of_runs(runs: pd.DataFrame, source: str = "") -> list[tuple[str, str]]:
    """Pairs of a name and a sentence about the runs; UNSAID for a fact that the table does not hold."""
    times = [as_times(runs[name]).agg(end) for name, end in ENDS.items() if name in runs]
    return [
        ("store", without_secrets(source) or UNSAID),
        ("runs", str(len(runs))),
        *((word, _values(runs, name)) for name, word in NAMED.items()),
        ("parameters counted", _counted(runs, "params", PARAMS)),
        ("FLOPs counted", _counted(runs, "flops", FLOPS)),
        ("trained", " to ".join(time_text(time) for time in times if not is_missing(time)) or UNSAID),
    ]


def _values(runs: pd.DataFrame, name: str) -> str:
    """The different values with the number of runs that have each, the most frequent first."""
    if name not in runs or not runs[name].notna().any():
        return UNSAID
    counts = runs[name].value_counts(dropna=True)
    # whole numbers are floats in a table with gaps
    counts.index = [f"{v:.0f}" if isinstance(v, float) and v.is_integer() else str(v) for v in counts.index]
    if len(counts) == 1 and counts.iloc[0] == len(runs):
        return str(counts.index[0])
    parts = [f"{value} ({count})" for value, count in counts.head(MOST_NAMED).items()]
    parts += [f"{len(counts) - MOST_NAMED} more"] if len(counts) > MOST_NAMED else []
    unsaid = int(runs[name].isna().sum())
    return ", ".join([*parts, f"unsaid ({unsaid})"] if unsaid else parts)


def _counted(runs: pd.DataFrame, name: str, ways: dict[str, str]) -> str:
    """The counts of the table that equal column `name`."""
    if name not in runs:
        return "6 N D" if name == "flops" else UNSAID
    present = runs[runs[name].notna()]
    same = [word for other, word in ways.items() if other in runs and (present[other] == present[name]).all()]
    return " = ".join(same) or f"column {name} as the table has it"


def of_law(law: Law) -> str:
    """One line below a number of that law: method, runs, data, intervals."""
    options = law.options
    left_out = f", {len(law.excluded)} left out" if law.excluded else ""
    kind = f" ({options['interval']})" if "interval" in options else ""
    resamples = f"{law.level:.0%} intervals from {options['bootstrap']} resamples{kind}"
    intervals = resamples if options["bootstrap"] else "no intervals"
    return f"{law.method} law of {len(law.runs)} runs{left_out}, data {law.sha256[:16]}; {intervals}"


def of_program() -> list[tuple[str, str]]:
    """Versions of the software that fitted and drew."""
    return [("Python", platform.python_version()), *((name, metadata.version(name)) for name in PACKAGES)]
