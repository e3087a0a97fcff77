"""The list of runs in real Chromium: found, sorted, its columns chosen, curves of several in one figure."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.analysis.dashboard.dashboard_help import (
    drawn,
    fetch,
    made_up,
    open_view,
    served,
    text_of,
    wait_for,
    write_csv,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::Warning:(mlflow|alembic|sqlalchemy|pydantic|google).*"),
]
KEYS = [f"{number:016x}" for number in (0, 1, 7)]
"""Runs of the generated store: ar and masked at its first budget, ar at its second."""

MEDIUM = int((made_up(("ar",))["params"] > 1e7).sum() - (made_up(("ar",))["params"] > 1e8).sum())


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A table of runs of two seeds, one of which diverged."""
    folder = tmp_path_factory.mktemp("desk")
    first = made_up()
    second = made_up(seed=1).assign(seed=2, key=[f"f{key[1:]}" for key in first["key"]])
    second.loc[0, ["status", "loss"]] = ["diverged", None]
    store = write_csv(pd.concat([first, second]), folder / "desk.csv")
    with served(str(store), folder / "cache") as (address, _):
        yield address


@pytest.fixture(scope="module")
def curved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A tracking database with curves whose losses jump up and down by 10% from one record to the next."""
    from benchmarks.generated_store import write_store

    folder = tmp_path_factory.mktemp("curved")
    store = write_store(folder / "mlflow.db", 30, 200)
    with sqlite3.connect(folder / "mlflow.db") as database:
        jump = "CASE timestamp % 2 WHEN 0 THEN 1.1 ELSE 0.9 END"
        database.execute(f"UPDATE metrics SET value = value * {jump} WHERE key = 'train_loss'")
    with served(store, folder / "cache") as (address, _):
        yield address


def rows_of(page: Any) -> list[list[str]]:
    rows = page.locator("main tbody tr").all()
    return [[text.strip() for text in row.locator("td").all_inner_texts()] for row in rows]


def column_of(page: Any, title: str) -> list[str]:
    heads = [
        text.strip(" ▲▼") for text in page.locator("main thead tr").first.locator("th, td").all_inner_texts()
    ]
    return [row[heads.index(title)] for row in rows_of(page)]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("masked 1e17", 14), ("1.6e18 s3", 4), ("budget=1e17 family=ar", 14), ("budget = 1.00e17", 28),
        ("diverged", 1), ("status!=finished", 1), ("family~mask", 56),
        ("seed=2 params>10M params<=100M ar", MEDIUM),
        ("loss<0", 0), ("", 112),
    ],
)  # fmt: skip
def test_runs_are_found_by_words_and_comparisons(page: Any, desk: str, text: str, count: int) -> None:
    open_view(page, desk, "run", figure=False)
    page.fill("#find", text)
    words = "No run matches" if not count else f"{count} run{'s' * (count > 1)}\n"
    wait_for(lambda: words in text_of(page), seconds=5)
    assert len(rows_of(page)) == min(count, 100)


def test_a_comparison_finds_the_runs_that_meet_it(page: Any, desk: str) -> None:
    open_view(page, desk, "run?find=loss<3.2&cols=loss", figure=False)
    both = pd.concat([made_up(), made_up(seed=1).drop(index=0)])
    losses = [float(text) for text in column_of(page, "loss (nats)")]
    assert max(losses) < 3.2
    assert len(losses) == (both["loss"] < 3.2).sum() > 5


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("los<2", 'There is no column "los"; try loss, loss_se.'),
        ("loss<", "loss< needs a value, as in loss<2.5."),
        ("loss<low", '"low" is no number for loss; write numbers as 2.5, 1e20 or 300M.'),
        ("family<ar", "family holds texts; write family=ar or family~ar."),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named_and_hides_nothing(
    page: Any, desk: str, text: str, sentence: str
) -> None:
    open_view(page, desk, "run", figure=False)
    page.fill("#find", text)
    wait_for(lambda: sentence in text_of(page), seconds=5)
    assert "112 runs" in text_of(page)


def test_a_column_sorts_up_down_and_not_at_all(page: Any, desk: str) -> None:
    open_view(page, desk, "run?find=seed=1", figure=False)
    unsorted = column_of(page, "loss (nats)")
    orders = []
    for _ in range(3):
        page.click("#sort-loss")
        orders.append(column_of(page, "loss (nats)"))
        assert page.evaluate("document.activeElement.id") == "sort-loss", "the keyboard stays where it was"
    assert orders == [sorted(unsorted), sorted(unsorted)[::-1], unsorted]
    page.click("#sort-params")
    assert page.locator("th[aria-sort=ascending]").inner_text() == "parameters ▲"
    assert "sort=params" in page.evaluate("location.hash")
    page.reload()
    page.wait_for_selector("th[aria-sort=ascending]")


def test_missing_values_come_last_either_way(page: Any, desk: str) -> None:
    for sort in ("loss", "-loss"):
        open_view(page, desk, f"run?find=s0&sort={sort}&cols=loss,status", figure=False)
        assert column_of(page, "status")[-1] == "diverged"


def test_columns_are_chosen_and_stand_in_the_address(page: Any, desk: str) -> None:
    open_view(page, desk, "run", figure=False)
    page.click("summary:has-text('Columns')")
    page.check("label:has-text('host')")
    page.uncheck("label:has-text('tokens') >> nth=0")
    assert set(column_of(page, "host")) == {"here"}
    assert "tokens" not in page.locator("main thead").inner_text()
    assert "host" in page.evaluate("location.hash")
    page.click("text=Usual columns")
    wait_for(lambda: "tokens" in page.locator("main thead").inner_text())


def test_seeds_become_one_row_with_mean_and_spread(page: Any, desk: str) -> None:
    open_view(page, desk, "run?find=ar+6.4e18", figure=False)
    assert len(rows_of(page)) == 14
    page.check("#group-seeds")
    assert "14 runs in 7 rows" in text_of(page)
    pair = pd.concat([made_up(), made_up(seed=1)]).query(
        "family == 'ar' and budget == 6.4e18 and size == 's3'"
    )
    expected = f"{pair['loss'].mean():.4f} ± {pair['loss'].std():.4f}"
    assert expected in column_of(page, "loss (nats)")
    page.fill("#find", "ar 1e17 s0")
    wait_for(lambda: "2 runs in 1 row" in text_of(page), seconds=5)
    assert column_of(page, "loss (nats)") == [f"{made_up()['loss'][0]:.4f}"], "the other one diverged"


def test_a_table_has_no_boxes_for_curves(page: Any, desk: str) -> None:
    open_view(page, desk, "run", figure=False)
    assert page.locator("main tbody input").count() == 0
    assert "curve" not in text_of(page)


def test_chosen_runs_share_one_figure(page: Any, curved: str) -> None:
    open_view(page, curved, "run", figure=False)
    for key in KEYS:
        page.check(f"#curve-{key}")
    wait_for(lambda: len(drawn(page)) == 3)
    assert [trace["customdata"][0] for trace in drawn(page)] == KEYS
    assert [(trace["name"], trace["showlegend"]) for trace in drawn(page)] == [
        ("ar", True),
        ("masked", True),
        ("ar", False),
    ]
    page.select_option("#pick-by", "nominal")
    wait_for(lambda: {trace["name"] for trace in drawn(page)} == {"1e18 FLOPs", "2.1e18 FLOPs"})
    page.select_option("#pick-x", "step")
    title = "document.querySelector('.figure[data-drawn] .plot')?.layout.xaxis.title.text"
    wait_for(lambda: page.evaluate(title) == "Steps")
    assert all(f"{name}=" in page.evaluate("location.hash") for name in ("runs", "by", "x"))
    page.click("#no-curves")
    wait_for(lambda: page.locator(".figure").count() == 0)


def test_smoothing_takes_the_jumps_away_and_keeps_the_curve(page: Any, curved: str) -> None:
    def roughness(trace: dict[str, Any]) -> float:
        losses = pd.Series(trace["y"][100:])
        return float((losses.diff() / losses).abs().mean())

    open_view(page, curved, f"run?runs={KEYS[0]}&x=step")
    (raw,) = drawn(page)
    page.select_option("#pick-smooth", "0.15")
    smooth, faint = wait_for(lambda: len(drawn(page)) == 2 and drawn(page))
    assert faint["y"] == raw["y"]
    assert faint["opacity"] < 0.5
    assert roughness(smooth) < roughness(raw) / 10
    assert sum(smooth["y"][100:]) == pytest.approx(sum(raw["y"][100:]), rel=0.01)


def test_an_exported_file_has_the_chosen_curves(page: Any, curved: str, tmp_path: Path) -> None:
    view = f"run?runs={','.join(KEYS)}&smooth=0.05"
    (tmp_path / "file.html").write_bytes(fetch(f"{curved}export.html"))
    open_view(page, f"file://{tmp_path / 'file.html'}", view)
    assert len(drawn(page)) == 6
    page.click("summary:has-text('Export')")
    with page.expect_download() as waiting:
        page.click("[data-export=csv]")
    waiting.value.save_as(tmp_path / "curves.csv")
    table = pd.read_csv(tmp_path / "curves.csv")
    assert set(table["run"].astype(str).str.zfill(16)) == set(KEYS)
    assert {"step", "tokens", "flops", "loss"} <= set(table.columns)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_list_and_curves(browser: Any, curved: str, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    context = browser.new_context(color_scheme=scheme, bypass_csp=True, reduced_motion="reduce")
    page = context.new_page()
    open_view(page, curved, f"run?sort=loss&smooth=0.15&runs={','.join(KEYS)}")
    page.click("summary:has-text('Columns')")
    page.wait_for_timeout(300)
    violations = axe.Axe().run(page).response["violations"]
    bad = [
        (one["id"], one["nodes"][0]["html"][:160])
        for one in violations
        if one["impact"] in ("serious", "critical")
    ]
    context.close()
    assert not bad, bad


def test_a_phone_shows_the_loss_of_every_run(page: Any, desk: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    open_view(page, desk, "run", figure=False)
    cell = page.locator("#sort-loss").bounding_box()
    assert cell["x"] + cell["width"] <= 390
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
