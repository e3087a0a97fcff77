"""Several sweeps under one server, and stars and notes on their runs: over HTTP and in real Chromium."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.dashboard import app, security, sources
from analysis.dashboard.state import State
from tests.analysis.dashboard.dashboard_help import (
    EVIL,
    fetch,
    made_up,
    open_view,
    served,
    text_of,
    wait_for,
    write_csv,
)
from tests.analysis.dashboard.test_server import LOCAL, state_of, testclient

ODD = "a/b c%2F"
"""A name that an address has to quote."""
KEY = made_up()["key"][0]


def client_over(first: State, opened: list[str]) -> Any:
    def open_sweep(name: str) -> State:
        opened.append(name)
        other = State({"source": "none", "options": {}}, Path("nowhere"))
        other.runs.facts = {"rows": 0}
        return other

    guarded = security.Guard(app.Sweeps(first, open_sweep, title="store", watch=False))
    return testclient.TestClient(guarded, base_url=LOCAL)


class TestSweeps:
    def test_each_has_a_page_of_its_own_opened_when_it_is_asked_for(self, tmp_path: Path) -> None:
        state, opened = state_of(tmp_path), []
        state.runs.facts |= {"sweeps": ["desk", ODD]}
        client = client_over(state, opened)
        summary = client.get("/api/state").json()
        assert (summary["sweep"], summary["sweeps"], summary["whole"]) == ("", ["desk", ODD], True)
        assert not opened
        for _ in range(2):
            other = client.get("/sweep/a%2Fb%20c%252F/api/state").json()
            assert (other["sweep"], other["sweeps"], other["whole"]) == (ODD, ["desk", ODD], True)
        assert opened == [ODD]
        assert "<title>desk</title>" in client.get("/sweep/desk/").text
        assert "<title>store</title>" in client.get("/").text

    @pytest.mark.parametrize("name", ["nobody", "%2e%2e", "desk%00", "desk/..%2f"])
    def test_another_name_is_not_there(self, tmp_path: Path, name: str) -> None:
        state, opened = state_of(tmp_path), []
        state.runs.facts |= {"sweeps": ["desk"]}
        assert client_over(state, opened).get(f"/sweep/{name}/api/state").status_code == 404
        assert opened in ([], ["desk"])

    def test_the_first_of_a_folder_has_two_addresses(self, tmp_path: Path) -> None:
        state, opened = state_of(tmp_path), []
        state.sweep, state.sweeps = "desk", lambda: ["desk", "evening"]
        client = client_over(state, opened)
        assert client.get("/sweep/desk/api/data").json()["rows"] == 56
        assert not client.get("/sweep/evening/api/state").json()["whole"]
        assert opened == ["evening"]


class TestNotes:
    @pytest.fixture
    def client(self, tmp_path: Path) -> Any:
        state = state_of(tmp_path)
        state.notes = tmp_path / "runs.csv.notes.json"
        return client_over(state, [])

    def test_are_kept_beside_the_table_and_shown_to_all(self, client: Any, tmp_path: Path) -> None:
        before = client.get("/api/state").json()["notes"]
        answer = client.put("/api/notes", params={"key": KEY}, json={"star": True, "note": "odd"})
        assert answer.json() == {"runs": {KEY: {"star": True, "note": "odd"}}, "why": ""}
        assert client.get("/api/notes").json() == answer.json()
        assert json.loads((tmp_path / "runs.csv.notes.json").read_text()) == answer.json()["runs"]
        assert client.get("/api/state").json()["notes"] != before, "by which other pages notice"

    @pytest.mark.parametrize(
        ("key", "content"),
        [("../x", b'{"star": true, "note": ""}'), (KEY, b""), (KEY, b"[]"), (KEY, b'{"star": 1, "note": ""}'),
         (KEY, b'{"star": true}'), (KEY, b'{"star": true, "note": "' + b"x" * 30_000 + b'"}'),
         (KEY, json.dumps({"star": True, "note": "x" * 2001}).encode())],
    )  # fmt: skip
    def test_anything_else_is_refused(self, client: Any, key: str, content: bytes, tmp_path: Path) -> None:
        answer = client.put("/api/notes", params={"key": key}, content=content)
        assert answer.status_code == 422
        assert answer.json()["problem"]
        assert not list(tmp_path.glob("*notes*"))

    @pytest.mark.parametrize(
        "headers", [{"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}, {"origin": "http://evil.example"},
                    {"origin": "null"}, {"host": "evil.example"}]
    )  # fmt: skip
    def test_another_site_may_not_write(self, client: Any, headers: dict[str, str], tmp_path: Path) -> None:
        body = {"star": True, "note": ""}
        assert client.put("/api/notes", params={"key": KEY}, json=body, headers=headers).status_code == 403
        assert not list(tmp_path.glob("*notes*"))
        own = {"origin": LOCAL, "sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}
        assert client.put("/api/notes", params={"key": KEY}, json=body, headers=own).status_code == 200

    def test_a_store_without_a_place_for_them_says_so(self, tmp_path: Path) -> None:
        client = client_over(state_of(tmp_path), [])
        assert "no place" in client.get("/api/notes").json()["why"]
        answer = client.put("/api/notes", params={"key": KEY}, json={"star": True, "note": ""})
        assert (answer.status_code, "no place" in answer.json()["problem"]) == (422, True)

    def test_a_damaged_file_is_a_sentence_and_stays(self, client: Any, tmp_path: Path) -> None:
        path = tmp_path / "runs.csv.notes.json"
        path.write_text("{")
        assert str(path) in client.get("/api/notes").json()["why"]
        assert (
            client.put("/api/notes", params={"key": KEY}, json={"star": True, "note": ""}).status_code == 422
        )
        assert path.read_text() == "{"

    def test_their_file_lies_beside_a_file_and_nowhere_else(self, tmp_path: Path) -> None:
        assert sources.notes_of("published:sahoo2026") is None
        assert sources.notes_of("http://127.0.0.1:5000") is None
        write_csv(made_up(), tmp_path / "runs.csv")
        assert sources.notes_of(str(tmp_path / "runs.csv")) == tmp_path / "runs.csv.notes.json"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A table of two sweeps, one of them with an odd name."""
    folder = tmp_path_factory.mktemp("two")
    other = made_up(("ar",), seed=1).assign(sweep=ODD, key=lambda rows: "f" + rows["key"].str[1:])
    store = write_csv(pd.concat([made_up(), other]), folder / "two.csv")
    with served(str(store), folder / "cache") as (address, _):
        yield address


@pytest.mark.slow
def test_a_sweep_is_chosen_on_the_page_and_the_address_holds_it(page: Any, two: str) -> None:
    open_view(page, two, "overview", figure=False)
    page.wait_for_selector("#pick-sweep")
    assert "Each law here is of the runs of 2 sweeps together. The list beside" in text_of(page)
    assert page.title() == "Overview · two"
    assert page.locator("#pick-sweep option").all_inner_texts() == ["all 2 sweeps together", ODD, "made up"]
    page.select_option("#pick-sweep", ODD)
    wait_for(lambda: "28 runs" in text_of(page))
    assert page.title() == f"Overview · {ODD}"
    assert page.inner_text("#title") == ODD
    assert "sweeps together." not in text_of(page)
    assert page.url.startswith(f"{two}sweep/a%2Fb%20c%252F/#/overview")
    assert page.locator("nav >> text=Compare").count() == 0, "of one family there is nothing to compare"
    page.reload()
    wait_for(lambda: "28 runs" in text_of(page))
    wait_for(lambda: page.locator("#pick-sweep").count() == 1)
    page.select_option("#pick-sweep", "")
    wait_for(lambda: "84 runs" in text_of(page))


@pytest.mark.slow
def test_stars_and_notes_are_given_found_and_exported(page: Any, two: str, tmp_path: Path) -> None:
    open_view(page, two, f"run?run={KEY}", figure=False)
    page.wait_for_selector("#note")
    assert page.title().startswith("ar s0 at 1.0e17 FLOPs")
    page.fill("#note", EVIL)
    page.click("#keep-note")
    wait_for(lambda: "Kept." in text_of(page))
    page.click(f"#star-{KEY}")
    page.wait_for_selector(f"#star-{KEY}[aria-pressed=true]")
    open_view(page, two, "run?find=starred", figure=False)
    wait_for(lambda: "1 run\n" in text_of(page))
    page.fill("#find", "note~onerror")
    wait_for(lambda: "1 run\n" in text_of(page))
    (tmp_path / "file.html").write_bytes(fetch(f"{two}export.html"))
    open_view(page, f"file://{tmp_path / 'file.html'}", f"run?run={KEY}", figure=False)
    assert EVIL in text_of(page)
    assert page.locator("[aria-label=starred]").count() == 1
    assert page.locator("#note, #keep-note, #pick-sweep").count() == 0


@pytest.mark.slow
def test_a_published_table_takes_no_notes_and_says_so(page: Any, tmp_path: Path) -> None:
    with served("published:chao2026", tmp_path / "cache") as (address, _):
        open_view(page, address, "run?run=chao2026-0000", figure=False)
        wait_for(lambda: "here they have no place" in text_of(page))
        assert page.locator("#note, .star").count() == 0
