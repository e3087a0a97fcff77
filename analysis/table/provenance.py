"""Where numbers come from, in words: the runs, how they count, the law, the versions of what computed it."""

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
MOST_NAMED = 6
PACKAGES = ("scaling", "numpy", "scipy", "pandas", "plotly")
UNSAID = "the table does not say"


def of_runs(runs: pd.DataFrame, source: str = "") -> list[tuple[str, str]]:
    """What is known of the runs as pairs of a name and a sentence; what the table does not say is said."""
    told = [("store", without_secrets(source) or UNSAID), ("runs", str(len(runs)))]
    told += [(word, _values(runs, name)) for name, word in NAMED.items()]
    told += [("parameters counted", _counted(runs, "params", PARAMS))]
    told += [("FLOPs counted", _counted(runs, "flops", FLOPS))]
    return [*told, ("trained", _times(runs))]


def _values(runs: pd.DataFrame, name: str) -> str:
    """The different values with the number of runs that have each, the most frequent first."""
    if name not in runs or not runs[name].notna().any():
        return UNSAID
    counts = runs[name].value_counts(dropna=True)
    if len(counts) == 1 and counts.iloc[0] == len(runs):
        return _plain(counts.index[0])
    shown = [f"{_plain(value)} ({count})" for value, count in counts.head(MOST_NAMED).items()]
    shown += [f"{len(counts) - MOST_NAMED} more"] if len(counts) > MOST_NAMED else []
    unsaid = int(runs[name].isna().sum())
    return ", ".join([*shown, f"unsaid ({unsaid})"] if unsaid else shown)


def _plain(value: object) -> str:
    """Whole numbers stand as floats in a table with gaps."""
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)


def _counted(runs: pd.DataFrame, name: str, ways: dict[str, str]) -> str:
    """Which of the counts that the table has is the one in column `name`."""
    if name not in runs:
        return "6 N D" if name == "flops" else UNSAID
    own = runs[name]
    same = [
        word for column, word in ways.items() if column in runs and (runs[column] == own)[own.notna()].all()
    ]
    return " = ".join(same) or f"column {name} as the table has it"


def _times(runs: pd.DataFrame) -> str:
    times = {name: as_times(runs[name]) for name in ("started", "ended") if name in runs}
    ends = [times[name].agg(at) for name, at in (("started", "min"), ("ended", "max")) if name in times]
    return " to ".join(time_text(end) for end in ends if not is_missing(end)) or UNSAID


def of_law(law: Law) -> str:
    """One line below a number of that law: method, runs, data, intervals."""
    options = law.options
    left_out = f", {len(law.excluded)} left out" if law.excluded else ""
    kind = f" ({options['interval']})" if "interval" in options else ""
    resamples = f"{law.level:.0%} intervals from {options['bootstrap']} resamples{kind}"
    intervals = resamples if options["bootstrap"] else "no intervals"
    return f"{law.method} law of {len(law.runs)} runs{left_out}, data {law.sha256[:16]}; {intervals}"


def of_program() -> list[tuple[str, str]]:
    """Versions of what fitted and drew."""
    return [("Python", platform.python_version()), *((name, metadata.version(name)) for name in PACKAGES)]
