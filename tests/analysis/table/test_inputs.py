"""Run tables under other names: renamed columns, dicts of arrays, one family of several, and the hints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis.errors import UserError
from analysis.table.inputs import as_table, hint
from tests.analysis.planted import isoflop_table

OTHER_NAMES = {"params": "N", "tokens": "D", "loss": "val_loss"}
BACK = {"N": "params", "D": "tokens", "val_loss": "loss"}


def noisy() -> pd.DataFrame:
    return isoflop_table(sizes=7, noise=0.002)


def test_renamed_columns_give_the_law_of_the_usual_names() -> None:
    runs = noisy()
    law = analysis.fit_law(runs, bootstrap=0)
    renamed = analysis.fit_law(runs.rename(columns=OTHER_NAMES), bootstrap=0, columns=BACK)
    assert renamed.sha256 == law.sha256
    assert renamed.exponents == law.exponents


def test_a_file_with_other_names_is_read_with_columns(tmp_path: Path) -> None:
    runs = noisy()
    runs.rename(columns=OTHER_NAMES).to_csv(tmp_path / "mine.csv", index=False)
    read = analysis.load_runs(tmp_path / "mine.csv", columns=BACK)
    pd.testing.assert_frame_equal(read[runs.columns], runs)
    with pytest.raises(
        UserError, match=r'columns=\{"N": "params", "D": "tokens", "val_loss": "loss"\} names'
    ):
        analysis.load_runs(tmp_path / "mine.csv")


def test_a_tracking_store_has_the_usual_names(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"columns is for \.csv and \.parquet files"):
        analysis.load_runs(tmp_path / "mlflow.db", columns=BACK)


def test_a_dict_of_arrays_is_a_table_everywhere() -> None:
    runs = isoflop_table(sizes=7, noise=0.002)
    arrays = {name: runs[name].to_numpy() for name in ("params", "tokens", "loss", "budget")}
    law = analysis.fit_law(arrays, bootstrap=0)
    assert law.sha256 == analysis.fit_law(runs, bootstrap=0).sha256
    lists = {name: values.tolist() for name, values in arrays.items()} | {"family": "ar"}
    assert analysis.fit_law(lists, "isoflop", bootstrap=0).family == "ar"
    assert len(analysis.select(arrays).table) == len(analysis.select(runs).table)


def test_checks_read_other_names_and_select_a_family_too() -> None:
    runs = isoflop_table(sizes=7, noise=0.002)
    both = pd.concat([runs.assign(family="ar"), runs.assign(family="masked", loss=runs["loss"] + 1)])
    other = both.rename(columns=OTHER_NAMES)
    names: dict[str, Any] = {"family": "ar", "columns": BACK}
    rolled = analysis.rollout(other, "approach 2", bootstrap=0, **names)
    pd.testing.assert_frame_equal(rolled.table, analysis.rollout(runs, "isoflop", bootstrap=0).table)
    assert rolled.method == "isoflop"
    candidates = {"plain": {}, "tied": {"tied": True}}
    selected = analysis.select(other, candidates, **names).table
    pd.testing.assert_frame_equal(selected, analysis.select(runs, candidates).table)
    with pytest.raises(UserError, match=r"^n_boot is no option of method 'surface'"):
        analysis.rollout(runs, n_boot=3)


def test_one_family_is_selected() -> None:
    both = pd.concat([noisy().assign(family="ar"), isoflop_table(noise=0.01, seed=1, family="masked")])
    law = analysis.fit_law(both, bootstrap=0, family="masked")
    assert law.family == "masked"
    assert law.sha256 == analysis.fit_law(both[both.family == "masked"], bootstrap=0).sha256
    with pytest.raises(UserError, match="family = 'mask' has no runs: the families are ar, masked"):
        analysis.fit_law(both, family="mask")
    with pytest.raises(UserError, match="has no runs: the table has no column family to select from"):
        analysis.fit_law(noisy(), family="ar")
    with pytest.raises(UserError, match=r"select one, e.g. family='ar', or use analysis.fit_laws or compare"):
        analysis.fit_law(both)


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"X": "params"}, "columns: runs has no column 'X' \\(columns: budget, N, D, val_loss\\)$"),
        ({"budget": "N"}, "would have more than one column 'N'"),
        ({"N": "loss", "val_loss": "loss"}, "would have more than one column 'loss'"),
        (["params"], "columns = \\['params'\\]: give the table's names and those here"),
        ({"N": 1}, 'give the table\'s names and those here, e.g. {"N": "params"}'),
        ({"params": "N"}, "no column 'params' .*; the table's own name stands first: {'N': 'params'}"),
    ],
)
def test_names_that_do_not_fit_get_one_sentence(columns: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        analysis.fit_law(noisy().rename(columns=OTHER_NAMES), columns=columns)


@pytest.mark.parametrize(
    ("runs", "sentence"),
    [
        ({"params": [1, 2], "tokens": [1], "loss": [1, 2]}, "a dict needs arrays of one length"),
        ({"params": 1.0}, "a dict needs arrays of one length"),
        ("runs.csv", "runs is a str; give .*; analysis.load_runs reads a file or a store"),
        ([[1, 2, 3]], "runs is a list; give a pandas DataFrame, or a dict of arrays"),
        (None, "runs is a NoneType"),
    ],
)
def test_what_is_no_table_gets_one_sentence(runs: Any, sentence: str) -> None:
    for function in (
        analysis.fit_law,
        analysis.fit_laws,
        analysis.compare,
        analysis.counted,
        analysis.select,
    ):
        with pytest.raises(UserError, match=sentence) as caught:
            function(runs)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "renames"),
    [
        ("N D L C", {"N": "params", "D": "tokens", "L": "loss", "C": "flops"}),
        ("n_params num_tokens val_loss", {"n_params": "params", "num_tokens": "tokens", "val_loss": "loss"}),
        ("Model Size|D|eval loss", {"Model Size": "params", "D": "tokens", "eval loss": "loss"}),
        ("a b c_", {}),
    ],
)
def test_usual_names_are_recognised(names: str, renames: dict[str, str]) -> None:
    columns = names.split("|" if "|" in names else None)
    text = hint(("params", "tokens", "loss"), columns)
    assert all(f'"{name}": "{here}"' in text for name, here in renames.items())
    assert bool(text) == bool(renames)
    if renames:
        runs = pd.DataFrame(np.ones((2, len(columns))), columns=columns)
        assert {"params", "tokens", "loss"} <= set(as_table(runs, renames))


def test_flops_under_another_name_are_told_not_silently_left_out() -> None:
    runs = noisy().drop(columns="budget")
    exact = 7.0 * runs["params"] * runs["tokens"]
    (warning,) = analysis.fit_law(runs.assign(C=exact), bootstrap=0).warnings
    assert (
        warning == 'FLOPs are 6 params tokens: column C is not read; columns={"C": "flops"} counts them by it'
    )
    law = analysis.fit_law(runs.assign(C=exact), bootstrap=0, columns={"C": "flops"})
    assert law.cost.k == pytest.approx(7.0)
    assert not law.warnings
    # hours of computing, or FLOPs beside those that are read, are something else
    for other in (runs.assign(compute=3.0), runs.assign(C=exact, flops=exact), runs.assign(C="a")):
        assert not analysis.fit_law(other, bootstrap=0).warnings
