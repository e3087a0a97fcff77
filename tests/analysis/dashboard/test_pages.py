"""The page in real Chromium: every view, filters, links, export, dark, narrow, live, lost, accessible."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.analysis.dashboard.dashboard_help import (
    EVIL,
    drawn,
    fetch,
    made_up,
    open_view,
    served,
    state_of,
    text_of,
    wait_for,
    write_csv,
)

pytestmark = pytest.mark.slow
VIEWS = ("overview", "isoflop", "frontier", "compare", "health", "run")
WITH_FIGURE = ("overview", "isoflop", "frontier", "compare", "health")
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server whose laws are all there."""
    folder = tmp_path_factory.mktemp("desk")
    frame = made_up(("ar", "masked", "uniform"))
    lost = frame.head(1).assign(key="f" * 16, status="diverged", loss=None)
    store = write_csv(pd.concat([frame, lost]), folder / "desk.csv")
    with served(str(store), folder / "cache") as (address, _):
        wait_for(lambda: '"done":true' in state_of(address), seconds=120)
        yield address


@pytest.mark.parametrize("view", WITH_FIGURE)
def test_every_view_draws_its_figure_and_its_numbers(page: Any, desk: str, view: str) -> None:
    open_view(page, desk, view)
    for family in ("ar", "masked", "uniform"):
        assert family in text_of(page)
    assert page.locator("td").count() > 2
    assert not re.search(r"\b(NaN|undefined|null|\[object)\b", text_of(page))


def test_the_first_drawing_does_not_wait_for_the_library(page: Any, desk: str) -> None:
    page.route("**/plotly.js*", lambda route: None)
    open_view(page, desk, "isoflop", figure=False)
    image = page.wait_for_selector('.figure[data-shown="svg"] img')
    assert wait_for(lambda: image.evaluate("image => image.naturalWidth")) > 500


def test_filters_choose_what_figures_show(page: Any, desk: str) -> None:
    def families() -> set[str]:
        return {trace["meta"]["family"] for trace in drawn(page) if trace["meta"].get("family")}

    open_view(page, desk, "frontier")
    assert families() == {"ar", "masked", "uniform"}
    page.dblclick("#family-masked")
    wait_for(lambda: families() == {"masked"})
    open_view(page, desk, "isoflop?family=ar,uniform&budget=4.0e17")
    assert families() == {"ar", "uniform"}
    assert {trace["meta"]["budget"] for trace in drawn(page) if trace["meta"].get("budget")} == {4e17}
    panels = "Object.keys(document.querySelector('.plot').layout).filter(name => /^xaxis/.test(name)).length"
    assert page.evaluate(panels) == 2


def test_a_click_on_a_chip_hides_or_shows_it_and_two_show_it_alone(page: Any, desk: str) -> None:
    def pressed() -> list[str]:
        return [chip.get_attribute("id") for chip in page.locator("[id^=family-][aria-pressed=true]").all()]

    open_view(page, desk, "run", figure=False)
    page.click("#family-ar")
    assert pressed() == ["family-masked", "family-uniform"]
    page.wait_for_timeout(500)  # a second click within 0.4 s would be a double click
    page.click("#family-ar")
    assert pressed() == ["family-ar", "family-masked", "family-uniform"]
    page.dblclick("#family-uniform")
    assert pressed() == ["family-uniform"]
    page.click("#family-ar")
    assert pressed() == ["family-ar", "family-uniform"]
    page.click("#family-masked", modifiers=["Shift"])
    assert pressed() == ["family-masked"]
    page.wait_for_timeout(500)
    page.click("#family-masked")
    assert pressed() == ["family-ar", "family-masked", "family-uniform"], "the last one brings all back"


def test_losses_in_bits_scale_the_figure(page: Any, desk: str) -> None:
    def best() -> float:
        return min(y for trace in drawn(page, "Best loss") if len(trace["y"]) > 1 for y in trace["y"])

    open_view(page, desk, "overview")
    answer = drawn(page, "Loss of every family")[0]["x"]
    before = best()
    page.select_option("#pick-loss", "bits")
    assert wait_for(lambda: best() < before and best()) == pytest.approx(0.4 * before, rel=1e-3)
    title = "document.querySelector('.figure[aria-label^=\"Best loss\"] .plot').layout.yaxis.title.text"
    assert "bits per byte" in page.evaluate(title)
    assert drawn(page, "Loss of every family")[0]["x"] == answer, "answers are in nats, as their sentences"


def test_filters_act_everywhere_and_stand_in_the_address(page: Any, desk: str) -> None:
    open_view(page, desk, "isoflop")
    page.dblclick("#family-masked")
    page.dblclick("#budget-4\\.0e17")
    assert page.evaluate("location.hash") == "#/isoflop?family=masked&budget=4.0e17"
    cells = page.locator("main tbody td").all_inner_texts()
    assert "masked" in cells[0]
    assert not any(cell.strip() == "ar" for cell in cells)
    page.click("nav >> text=Overview")
    page.wait_for_selector(".card")  # the address changes first, then the view
    assert page.locator(".card").count() == 1
    page.click("#all-family")
    assert page.locator(".card").count() == 3


def test_a_link_opens_what_it_names(page: Any, desk: str) -> None:
    open_view(page, desk, "frontier?family=ar&params=params_total&loss=bits")
    assert page.input_value("#pick-params") == "params_total"
    assert page.input_value("#pick-loss") == "bits"
    assert page.get_attribute("#family-masked", "aria-pressed") == "false"


def test_conventions_switch_loss_and_counts(page: Any, desk: str) -> None:
    open_view(page, desk, "overview")
    before = float(page.locator("main table td.num a").first.inner_text())
    page.select_option("#pick-loss", "bits")
    after = float(page.locator("main table td.num a").first.inner_text())
    assert after == pytest.approx(before * 0.4, abs=2e-3)
    page.select_option("#pick-params", "params_total")
    page.select_option("#pick-flops", "flops_exact")
    assert "params=params_total&flops=flops_exact&loss=bits" in page.evaluate("location.hash")
    wait_for(lambda: "surface laws" in text_of(page))


def test_a_point_leads_to_its_run(page: Any, desk: str) -> None:
    open_view(page, desk, "isoflop?family=ar")
    # lines of minima and curves lie over some points: any that answers will do
    for point in page.locator(".scatterlayer .points path.point[d*='A4']").all()[:12]:
        box = point.bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.wait_for_timeout(150)
        if "run=" in page.evaluate("location.hash"):
            break
    assert "#/run?family=ar&run=" in page.evaluate("location.hash")
    assert "Finished" in text_of(page)


def test_runs_are_found_by_words(page: Any, desk: str) -> None:
    open_view(page, desk, "run", figure=False)
    page.fill("input[aria-label='Find runs']", "diverged")
    wait_for(lambda: "1 run\n" in text_of(page))
    page.click("td a")
    wait_for(lambda: "no training curve" in text_of(page))
    assert "Status: diverged" in text_of(page)


def verdict_of(page: Any) -> str:
    return str(page.inner_text("#answer .verdict"))


def test_the_page_opens_with_the_answer_that_recommend_gives(page: Any, desk: str) -> None:
    import analysis

    answer = analysis.recommend(made_up(("ar", "masked", "uniform")), 6.4e19)
    open_view(page, desk, "", figure=False)
    page.wait_for_selector("#answer .sentence")
    assert page.title() == "Overview · desk"
    assert page.locator(".sentence").all_inner_texts() == answer.sentences
    assert answer.confidence in verdict_of(page).replace("\n", " ")
    assert page.locator("#answer table").first.locator("tbody tr").count() == 3
    page.fill("#question-flop", "2 x 10^19")
    page.keyboard.press("Enter")
    wait_for(lambda: page.locator(".sentence").all_inner_texts() == answer.at(2e19).sentences)
    assert page.evaluate("location.hash").startswith("#/overview?flop=")
    page.click("summary:has-text('Each method alone')")
    wait_for(lambda: "surface allowing a deviation" in page.inner_text("#answer .numbers"))


def test_a_budget_of_gpus_with_limits_is_answered_and_a_bad_one_is_one_sentence(page: Any, desk: str) -> None:
    open_view(page, desk, "overview?gpus=64xL40S&days=0.01", figure=False)
    wait_for(lambda: "64 L40S for 0.01 days" in verdict_of(page))
    page.fill("#question-flop", "1e19")
    page.keyboard.press("Enter")
    wait_for(lambda: "the budget is given twice" in verdict_of(page))
    assert page.locator("#answer .numbers table").count() == 0
    page.fill("#question-gpus", "")
    page.fill("#question-days", "")
    page.click("summary:has-text('Limits')")
    page.fill("#question-size", "100M")
    page.keyboard.press("Enter")
    wait_for(lambda: "train ar: 100M parameters on" in verdict_of(page))


def test_an_answer_too_far_away_is_refused_without_numbers(page: Any, desk: str) -> None:
    open_view(page, desk, "overview?flop=1e24", figure=False)
    wait_for(lambda: "These runs cannot answer 1.0e24 FLOPs" in verdict_of(page))
    assert "Confidence: do not use." in verdict_of(page)
    assert page.locator("#answer table").count() == 0
    assert page.locator("#answer .figure").count() == 0


def test_a_loss_has_its_price(page: Any, desk: str) -> None:
    open_view(page, desk, "overview", figure=False)
    page.click("summary:has-text('What does a loss cost?')")
    page.fill("#question-target", "2.9")
    page.keyboard.press("Enter")
    wait_for(lambda: "What a loss of 2.9 nats per token costs" in page.inner_text("div.costs"))
    assert page.locator("div.costs tbody tr").count() == 3
    page.fill("#question-target", "low")
    page.keyboard.press("Enter")
    wait_for(lambda: "loss = 'low': give a loss" in page.inner_text("div.costs"))


def test_the_file_answers_for_a_list_of_budgets(page: Any, desk: str, tmp_path: Path) -> None:
    open_view(page, desk, "overview", figure=False)
    choices = page.locator(".choices a")
    texts = choices.all_inner_texts()
    assert texts == ["1e17", "4e17", "1.6e18", "6.4e18", "1.92e19", "6.4e19", "1.92e20", "6.4e20"]
    choices.last.click()
    wait_for(lambda: "For 6.4e20 FLOPs" in verdict_of(page))
    served = verdict_of(page)
    (tmp_path / "file.html").write_bytes(fetch(f"{desk}export.html"))
    open_view(page, f"file://{tmp_path / 'file.html'}", "overview")
    assert page.locator("#answer form").count() == 0
    assert "For 6.4e19 FLOPs" in verdict_of(page)
    page.locator(".choices a").last.click()
    wait_for(lambda: verdict_of(page) == served)


@pytest.mark.parametrize("kind", ["png", "svg", "pdf", "csv", "html"])
def test_a_view_is_exported(page: Any, desk: str, kind: str, tmp_path: Path) -> None:
    open_view(page, desk, "isoflop?family=ar,masked")
    page.click("summary:has-text('Export')")
    with page.expect_download() as waiting:
        page.click(f"[data-export={kind}]")
    path = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(path)
    assert path.suffix == f".{kind}"
    content = path.read_bytes()
    start = {
        "png": b"\x89PNG",
        "svg": b"<?xml",
        "pdf": b"%PDF",
        "csv": b"family,budget",
        "html": b"<!doctype html>",
    }[kind]
    assert content.startswith(start)
    assert len(content) > 500
    if kind == "html":
        page.goto(f"file://{path}")
        page.wait_for_selector(".figure[data-drawn]", timeout=60000)
        assert page.evaluate("location.hash") == ""
        assert page.get_attribute("#family-uniform", "aria-pressed") == "false"
        assert "Best size at each budget" in text_of(page)


@pytest.mark.parametrize("width", [390, 1024])
@pytest.mark.parametrize(
    "view", ["overview", "isoflop", "frontier", "compare", "overview?flop=9e18&target=3.2", "health", "run"]
)
def test_nothing_sticks_out_of_a_narrow_window(page: Any, desk: str, view: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    open_view(page, desk, view, figure=view in WITH_FIGURE)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


TABLES = """[...document.querySelectorAll('.scroll')].map(box => {
    const caption = box.querySelector('caption span')?.getBoundingClientRect();
    return {width: box.clientWidth, inside: box.scrollWidth,
        left: caption?.left ?? 0, right: caption?.right ?? 0, stacked: Boolean(box.querySelector('.stacked')),
        hint: getComputedStyle(box).backgroundImage};
})"""


@pytest.mark.parametrize("width", [390, 1440])
def test_tables_of_the_answer_are_whole_and_captions_can_be_read(page: Any, desk: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    open_view(page, desk, "overview?flop=9e18&target=3.2")
    page.wait_for_selector("div.costs table")
    page.click("summary:has-text('Each method alone')")
    wait_for(lambda: page.locator("#answer table").count() == 3)
    tables = page.evaluate(TABLES)
    assert [table["stacked"] for table in tables] == [True, True, True, False]
    for table in tables:
        if table["stacked"] or width > 390:
            assert table["inside"] <= table["width"]
        assert 0 <= table["left"] <= table["right"] <= width
        assert table["hint"].count("gradient") == 4, "which shows where a table goes on"
    titles = (
        "[...document.querySelectorAll('#answer table.stacked')[0].querySelectorAll('tr:nth-child(2) td')]"
    )
    words = page.evaluate(f"{titles}.map(cell => getComputedStyle(cell, '::before').content)")
    assert ('"above the best"' in words) == (width == 390)


@pytest.mark.parametrize("view", ["overview", "run"])
def test_head_and_filters_take_a_fifth_of_a_phone_at_most(page: Any, desk: str, view: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    open_view(page, desk, view, figure=False)
    assert page.evaluate("document.querySelector('header').offsetHeight") < 0.2 * 844
    tab = "document.querySelector('nav a[aria-current]').getBoundingClientRect()"
    ends = page.evaluate(f"(({{left, right}}) => [left, right])({tab})")
    assert 0 <= ends[0] < ends[1] <= 390, "the tab of this view is in sight"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "view",
    [
        *WITH_FIGURE,
        "overview?flop=1e19&tokens=2B&target=3.2",
        "overview?flop=1e25",
        "run",
        "run?run=0000000000000000",
    ],
)
def test_axe_finds_nothing_serious(browser: Any, desk: str, view: str, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    context = browser.new_context(color_scheme=scheme, bypass_csp=True, reduced_motion="reduce")
    page = context.new_page()
    open_view(page, desk, view, figure=view in WITH_FIGURE)
    assert page.get_attribute("html", "data-theme") == scheme
    page.wait_for_timeout(300)
    violations = axe.Axe().run(page).response["violations"]
    bad = [(one["id"], one["nodes"][0]["html"][:160]) for one in violations if one["impact"] in SERIOUS]
    context.close()
    assert not bad, bad


def test_the_keyboard_reaches_tabs_filters_and_export(page: Any, desk: str) -> None:
    open_view(page, desk, "overview")
    reached = set()
    for _ in range(45):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
    assert {"IsoFLOP", "family-ar", "pick-loss", "Export"} <= reached


@pytest.mark.filterwarnings("ignore::Warning:(mlflow|alembic|sqlalchemy|pydantic|google).*")
def test_the_file_has_the_loss_curves_that_the_server_has(page: Any, tmp_path: Path) -> None:
    from benchmarks.generated_store import write_store

    store = write_store(tmp_path / "mlflow.db", 20, 1000)
    view = f"run?run={3:016x}"
    with served(store, tmp_path / "cache") as (address, _):
        open_view(page, address, view)
        measured = drawn(page)[0]
        text = text_of(page)
        (tmp_path / "file.html").write_bytes(fetch(f"{address}export.html"))
    open_view(page, f"file://{tmp_path / 'file.html'}", view)
    carried = drawn(page)[0]
    assert len(carried["x"]) > 100
    assert carried["x"] == pytest.approx(measured["x"], rel=1e-3)
    assert carried["y"] == pytest.approx(measured["y"], rel=3e-4)
    points = f"{len(measured['x'])} of 1,000 points"
    assert points in text
    assert points in text_of(page)
    assert "0.025%" in text_of(page)


@pytest.mark.filterwarnings("ignore::Warning:(mlflow|alembic|sqlalchemy|pydantic|google).*")
def test_a_run_shows_its_held_out_losses_below_the_objective(page: Any, tmp_path: Path) -> None:
    import sqlite3

    from benchmarks.generated_store import write_store

    store = write_store(tmp_path / "mlflow.db", 20, 100)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        place = "FROM metrics WHERE key = 'train_loss' AND timestamp % 1000 IN (9, 49, 99)"
        for name, value in (("held_out_loss", "value + 1"), ("held_out_loss_se", "0.125")):
            database.execute(
                "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) "
                f"SELECT '{name}', {value}, timestamp, run_uuid, step, is_nan {place}"
            )
    view, figures = f"run?run={3:016x}&x=step", []
    with served(store, tmp_path / "cache") as (address, _):
        open_view(page, address, view)
        figures.append(drawn(page))
        titles = page.evaluate(
            "(({xaxis, yaxis, yaxis2}) => [xaxis, yaxis, yaxis2].map(a => a.title.text))"
            "(document.querySelector('.figure[data-drawn] .plot').layout)"
        )
        assert titles == ["Steps", "Training objective (nats per token)", "Held-out bound (nats per token)"]
        (tmp_path / "file.html").write_bytes(fetch(f"{address}export.html"))
    open_view(page, f"file://{tmp_path / 'file.html'}", view)
    figures.append(drawn(page))
    for line, measured, final in figures:
        assert (line.get("yaxis"), measured["yaxis"], final["yaxis"]) == (None, "y2", "y2")
        assert measured["x"] == [line["x"][number] for number in (9, 49, 99)]
        assert measured["y"] == pytest.approx([line["y"][number] + 1 for number in (9, 49, 99)], rel=1e-3)
        assert final["x"] == line["x"][-1:]
    assert [list(traces[1]["text"]) for traces in figures] == [[" ± 0.13"] * 3, [""] * 3]


def test_runs_appear_as_they_arrive(page: Any, tmp_path: Path) -> None:
    frame = made_up()
    store = write_csv(frame.head(3), tmp_path / "live.csv")
    with served(str(store), tmp_path / "cache") as (address, _):
        open_view(page, address, "overview", figure=False)
        wait_for(lambda: "3 runs" in text_of(page))
        write_csv(frame, store)
        wait_for(lambda: "56 runs" in text_of(page))
        assert wait_for(lambda: "times the compute of ar" in text_of(page), seconds=120)


def test_a_lost_store_and_a_lost_server_leave_the_last_state(page: Any, tmp_path: Path) -> None:
    store = write_csv(made_up(), tmp_path / "lost.csv")
    with served(str(store), tmp_path / "cache") as (address, process):
        open_view(page, address, "isoflop")
        store.write_text("not,a,run,table\n1,2,3,4\n")
        wait_for(lambda: "The store does not answer" in text_of(page))
        assert "56 runs" in text_of(page)
        write_csv(made_up(), store)
        wait_for(lambda: "up to date" in text_of(page))
        os.kill(process.pid, signal.SIGKILL)
        wait_for(lambda: "The server does not answer" in text_of(page))
        assert page.locator(".figure").count() == 1


def test_names_of_runs_are_text(page: Any, tmp_path: Path) -> None:
    frame = made_up((EVIL, "masked")).assign(size=EVIL, host=EVIL, corpus=EVIL, objective=EVIL)
    store = write_csv(frame, tmp_path / "evil.csv")
    with served(str(store), tmp_path / "cache") as (address, _):
        for view in VIEWS:
            open_view(page, address, view, figure=False)
            page.wait_for_timeout(400)
        open_view(page, address, f"run?run={frame['key'][0]}", figure=False)
        assert EVIL in text_of(page)
        open_view(page, address, "isoflop")
        page.locator(".scatterlayer .points path.point[d*='A4']").first.hover(force=True)
        page.wait_for_timeout(300)
        assert page.title() == "IsoFLOP · evil"
        assert page.locator("img[src=x]").count() == 0


def test_no_runs_yet_is_said(page: Any, tmp_path: Path) -> None:
    store = write_csv(made_up().head(1), tmp_path / "one.csv")
    with served(str(store), tmp_path / "cache") as (address, _):
        for view in VIEWS:
            open_view(page, address, view, figure=False)
            assert wait_for(lambda: "1 run ·" in text_of(page))  # the age of the data comes after its number
