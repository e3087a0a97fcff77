"""Where numbers come from: what the table says, what it does not, and the law in one line."""

from __future__ import annotations

import pandas as pd
import pytest

import analysis
from analysis.table import provenance
from tests.analysis.planted import CHINCHILLA, isoflop_table


def runs() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "sweep": ["desk"] * 4, "context_length": [128.0] * 4,
            "status": ["finished"] * 3 + ["diverged"], "corpus": ["a", "b", "b", None],
            "params": [1.0, 2.0, 3.0, 4.0], "params_total": [2.0, 3.0, 4.0, 5.0],
            "params_body": [1.0, 2.0, 3.0, 4.0],
            "flops": [6.0, 7.0, 8.0, None], "flops_exact": [6.0, 7.0, 8.0, 9.0],
            "started": pd.to_datetime(["2026-01-02 03:04"] * 4, utc=True), "ended": pd.NaT,
        }
    )  # fmt: skip


def test_runs_are_told_by_store_values_counts_and_times() -> None:
    facts = dict(provenance.of_runs(runs(), "sqlite:///x.db"))
    assert facts["store"] == "sqlite:///x.db"
    assert facts["runs"] == "4"
    assert facts["sweep"] == "desk"
    assert facts["context length"] == "128"
    assert facts["status"] == "finished (3), diverged (1)"
    assert facts["text"] == "b (2), a (1), unsaid (1)"
    assert facts["parameters counted"] == "transformer blocks only"
    assert facts["FLOPs counted"] == "exact"
    assert facts["trained"] == "2026-01-02 03:04 UTC"
    assert facts["tokenizer"] == provenance.UNSAID


def test_times_of_any_form_and_a_store_without_its_login() -> None:
    table = runs().assign(started=["2026-01-02 03:04:05.25", "2026-01-03", "some day", None], ended="never")
    facts = dict(provenance.of_runs(table, "http://bob:S3cr3t@h:5000"))
    assert facts["trained"] == "2026-01-02 03:04 UTC"
    assert facts["store"] == "http://***@h:5000"


def test_a_table_of_three_columns_says_what_is_missing() -> None:
    facts = dict(provenance.of_runs(pd.DataFrame({"params": [1.0], "tokens": [1.0], "loss": [3.0]})))
    assert facts["store"] == facts["sweep"] == facts["trained"] == provenance.UNSAID
    assert facts["FLOPs counted"] == "6 N D"
    assert facts["parameters counted"] == "column params as the table has it"


def test_many_values_are_counted_not_listed() -> None:
    frame = pd.DataFrame({"device": [f"d{n}" for n in range(10)]})
    assert dict(provenance.of_runs(frame))["device"].endswith("(1), 4 more")


@pytest.mark.parametrize("method", ["isoflop", "surface", "envelope"])
def test_a_law_in_one_line(method: str) -> None:
    table = isoflop_table(CHINCHILLA, noise=0.002, sizes=7)
    law = analysis.fit_law(table, method, bootstrap=20)
    line = provenance.of_law(law)
    assert line.startswith(f"{method} law of {len(law.runs)} runs")
    assert law.sha256[:16] in line
    assert "95% intervals from 20 resamples" in line
    assert provenance.of_law(analysis.fit_law(table, method, bootstrap=0)).endswith("no intervals")


def test_versions_are_those_in_use() -> None:
    assert ("pandas", pd.__version__) in provenance.of_program()
