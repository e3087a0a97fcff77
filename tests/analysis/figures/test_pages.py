"""Pages with figures in Chromium: the reader's theme and width, without a network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis import figures
from analysis.figures import theme
from analysis.laws.isoflop import IsoflopLaw
from analysis.report import write_report
from tests.analysis.dashboard.dashboard_help import FLAGS, chromium, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


def opened(browser: Any, path: Path, *, width: int, scheme: str) -> tuple[Any, list[str]]:
    page = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
    ).new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(path.as_uri())
    wait_for(lambda: page.query_selector("#figure-0 .main-svg"))
    return page, problems


def domains(page: Any) -> list[list[float]]:
    axes = "['xaxis', 'xaxis2', 'xaxis3', 'xaxis4']"
    return page.evaluate(f"{axes}.map(name => document.getElementById('figure-0')._fullLayout[name].domain)")


@pytest.mark.parametrize("width", [390, 1200])
def test_captions_of_a_report_are_whole_and_tables_say_that_they_go_on(
    browser: Any, isoflops: dict[str, IsoflopLaw], tmp_path: Path, width: int
) -> None:
    law = next(iter(isoflops.values()))
    path = write_report(tmp_path / "report.html", law.runs, {str(law.family): {"isoflop": law}})
    page, problems = opened(browser, path, width=width, scheme="light")
    ends = page.evaluate(
        "[...document.querySelectorAll('caption span')].map(s => s.getBoundingClientRect().right)"
    )
    assert ends
    assert max(ends) <= width
    hints = page.evaluate(
        "[...document.querySelectorAll('.scroll')].map(s => getComputedStyle(s).backgroundImage)"
    )
    assert all(hint.count("gradient") == 4 for hint in hints)
    assert problems == []


def test_panels_stack_on_a_phone_and_colours_follow_the_theme(
    browser: Any, isoflops: dict[str, IsoflopLaw], tmp_path: Path
) -> None:
    path = figures.save(figures.isoflop(isoflops), tmp_path / "a.html")
    page, problems = opened(browser, path, width=390, scheme="dark")
    assert domains(page) == [[0, 1]] * 4
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert theme.RAMP["dark"][-1] in page.evaluate("JSON.stringify(document.getElementById('figure-0').data)")
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 1200, "height": 900})
    wait_for(lambda: domains(page)[0][1] < 0.6)
    wait_for(
        lambda: (
            theme.RAMP["light"][-1]
            in page.evaluate("JSON.stringify(document.getElementById('figure-0').data)")
        )
    )
    assert "Dashed: through the minima" in page.inner_text("body")
    assert "data " in page.inner_text("body")
    assert problems == []
