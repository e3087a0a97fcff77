"""The table of best losses in real Chromium: of runs that trained on text alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest

from tests.analysis.dashboard.dashboard_help import made_up, open_view, served, text_of, write_csv

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A table with a labelled and a distilled run of a lower loss at every budget."""
    folder = tmp_path_factory.mktemp("best")
    runs = made_up()
    lower = runs[runs["size"] == "s3"].assign(loss=0.125)
    labelled = lower.assign(key="b" + lower["key"].str[1:], labels="3 kind")
    distilled = lower.assign(key="c" + lower["key"].str[1:], distilled_from=lower["key"])
    store = write_csv(pd.concat([labelled, runs, distilled]), folder / "runs.csv")
    with served(str(store), folder / "cache") as (where, _):
        yield where


def test_labelled_and_distilled_runs_are_no_familys_best(page: Any, address: str) -> None:
    open_view(page, address, "overview")
    runs = made_up()
    cells = (
        page.locator("section", has_text="Best loss of each budget")
        .last.locator("tbody td")
        .all_inner_texts()
    )
    for lowest in runs.groupby(["family", "budget"])["loss"].min():
        assert f"{lowest:.3f}" in [cell.strip() for cell in cells]
    assert "0.125" not in cells


def test_the_checks_name_them_as_left_out(page: Any, address: str) -> None:
    open_view(page, address, "health", figure=False)
    page.wait_for_function("document.body.innerText.includes('trained with labels')")
    assert "8 trained with labels, 8 distilled" in text_of(page)
