"""Tables of samples: one row per run, sampler and steps, with speed, quality, and the numbers of each
text."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.errors import UserError
from analysis.text import printable

NEEDED = (
    *("family", "key", "sampler", "steps", "length", "tokens_per_s", "latency_s", "judge", "judge_rule"),
    *("entropy", "text_nats", "text_tokens", "text_entropy"),
)
"""Columns without which speed and quality cannot be compared."""
PER_TEXT = ("text_nats", "text_tokens", "text_entropy")
"""Columns with a list in each row: judged nats, judged tokens and unigram entropy (nats) of every text."""
ALIKE = {
    "judge": "judges give different perplexities to the same text",
    "judge_rule": "the rules count different tokens",
    "length": "perplexity and entropy change with the length",
    "device": "speeds compare on one device alone",
}
"""Columns that must hold one value, and why."""


def load_samples(path: str | Path) -> pd.DataFrame:
    """The table of samples that `scaling sample SWEEP` has written, from its Parquet file or the sweep's
    folder.

    One row per run, sampler and steps. UserError, in one sentence, for
    a file that is not there, is no Parquet file, or lacks a column that `analysis.speed_quality` needs.
    """
    path = Path(os.fspath(path))
    path = path / "samples.parquet" if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"{path} is not there: `scaling sample SWEEP` writes samples.parquet beside a sweep")
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        reason = printable(str(error).splitlines()[0])
        raise UserError(f"{path} is no Parquet file that can be read: {reason}") from None
    checked_columns(table, str(path))
    return table.assign(**{name: table[name].map(list) for name in PER_TEXT})


def checked_columns(table: pd.DataFrame, source: str) -> None:
    """UserError for a table without a row or without a needed column."""
    missing = [name for name in NEEDED if name not in table.columns]
    if missing:
        raise UserError(
            f"{source} has no column {' and no column '.join(missing)}: give a table of samples as "
            "`scaling sample SWEEP` writes it"
        )
    if not len(table):
        raise UserError(f"{source} has no rows: sample a sweep first, `scaling sample SWEEP`")


def comparable(samples: object) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The rows that can be compared, in a fixed order, and a sentence for each that is left out.

    UserError for anything that is no table of samples, for rows of several judges, rules of judging, lengths
    or devices, and if no row is left.
    """
    if isinstance(samples, Mapping):
        samples = pd.DataFrame(dict(samples))
    if not isinstance(samples, pd.DataFrame):
        path = "; analysis.load_samples reads a file" if isinstance(samples, str | Path) else ""
        raise UserError(f"samples is a {type(samples).__name__}; give a table of samples{path}")
    checked_columns(samples, "samples")
    for name, reason in ALIKE.items():
        values = [] if name not in samples else sorted(map(str, samples[name].unique()))
        if len(values) > 1:
            raise UserError(f"samples have {len(values)} values of {name} ({', '.join(values)}): {reason}")
    absent: dict[str, Any] = dict.fromkeys(("budget", "params", "heldout_entropy"), float("nan"))
    absent |= {"options": "{}", "batch": pd.NA}
    absent |= {"tokens_per_s_low": samples["tokens_per_s"], "tokens_per_s_high": samples["tokens_per_s"]}
    table = samples.assign(**{name: value for name, value in absent.items() if name not in samples})
    reasons = [_fault(row) for row in table.to_dict("records")]
    kept = table[[reason is None for reason in reasons]]
    left_out = tuple(
        f"{point_name(row)}: {reason}"
        for row, reason in zip(table.to_dict("records"), reasons, strict=True)
        if reason is not None
    )
    if not len(kept):
        raise UserError(f"samples hold nothing to compare: {left_out[0]}")
    order = ["family", "budget", "key", "sampler", "options", "steps"]
    return kept.sort_values(order, kind="stable", ignore_index=True), left_out


def _fault(row: Mapping[str, Any]) -> str | None:
    """Why a row has no place on a front."""
    lists = {name: np.asarray(row[name], dtype=np.float64) for name in PER_TEXT}
    counts = {len(values) for values in lists.values()}
    if len(counts) > 1:
        return "its lists of texts have different lengths"
    if not counts.pop():
        return "it has no texts"
    if not all(np.isfinite(values).all() for values in lists.values()) or not lists["text_tokens"].sum():
        return "its texts were not judged"
    if not all(0 < float(row[name]) < np.inf for name in ("tokens_per_s", "latency_s")):
        return "its speed was not measured"
    return None


def point_name(row: Mapping[str, Any]) -> str:
    """ "masked ancestral 64 (3f2a8c1d)"."""
    return f"{row['family']} {sampler_text(row)} ({str(row['key'])[:8]})"


def sampler_text(row: Mapping[str, Any]) -> str:
    """Sampler, steps, and options where there are some: "remdm 64 eta=0.02"."""
    import json

    options = json.loads(row["options"]) if row.get("options") else {}
    words = [str(row["sampler"]), str(row["steps"]), *(f"{name}={value}" for name, value in options.items())]
    return " ".join(words)
