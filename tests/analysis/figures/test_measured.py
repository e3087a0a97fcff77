"""The runs before any law: which of them count as measured, and which is the best of a budget."""

from __future__ import annotations

import pandas as pd
import pytest

from analysis import figures
from analysis.figures.measured import measured_table


def with_others() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Runs, and the same with labelled, distilled, excluded and failed ones of lower loss."""
    runs = pd.DataFrame({
        "key": [f"{n:016x}" for n in range(8)], "family": ["uniform", "ar"] * 4, "size": "8x1",
        "budget": [1e9, 1e9, 1e9, 1e9, 4e9, 4e9, 4e9, 4e9], "flops": 1e9, "params": 1e3, "tokens": 1e5,
        "loss": [3.0, 2.5, 2.9, 2.6, 2.7, 2.2, 2.8, 2.3], "status": "finished",
    })  # fmt: skip
    lower = runs.assign(loss=runs["loss"] - 1)
    others = [
        lower.assign(key="l" + lower["key"], labels="3 kind"),
        lower.assign(key="x" + lower["key"], excluded="it"),
        lower[lower["family"] == "uniform"].assign(key="d" + lower["key"], distilled_from="0" * 16),
        lower.assign(key="f" + lower["key"], status="failed"),
    ]  # fmt: skip
    return runs, pd.concat([*others, runs], ignore_index=True)


def test_labelled_and_distilled_runs_are_no_familys_best() -> None:
    runs, everything = with_others()
    best = figures.best_losses_table(everything)
    assert {(f, b): loss for f, b, loss in best[["family", "nominal", "loss"]].itertuples(index=False)} == {
        ("uniform", 1e9): 2.9, ("ar", 1e9): 2.5, ("uniform", 4e9): 2.7, ("ar", 4e9): 2.2,
    }  # fmt: skip
    assert measured_table(everything)["key"].tolist() == runs["key"].tolist()


@pytest.mark.parametrize("draw", [figures.best_losses, figures.measured])
def test_the_figures_are_those_of_the_other_runs(draw) -> None:  # type: ignore[no-untyped-def]
    runs, everything = with_others()
    assert draw(everything).to_dict()["data"] == draw(runs).to_dict()["data"]


def test_a_table_without_the_columns_counts_every_run() -> None:
    _, everything = with_others()
    finished = everything[everything["status"] == "finished"]
    assert len(measured_table(finished.drop(columns=["labels", "distilled_from", "excluded"]))) == len(
        finished
    )
