"""A browser and a page for the tests of the dashboard."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.analysis.dashboard.dashboard_help import FLAGS, chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that must not say anything to the console, nor ask another host."""
    opened = browser.new_page(viewport={"width": 1440, "height": 900})
    complaints: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: complaints.append(request.url) if not local(request.url) else None)
    yield opened
    opened.close()
    away = [text for text in complaints if "ERR_CONNECTION" not in text and "503" not in text]
    assert not away, away


def local(url: str) -> bool:
    return url.startswith(("http://127.0.0.1", "data:", "blob:", "file:"))
