"""The server: what it answers, to whom, and what it refuses."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any, ClassVar

import pytest

from analysis.dashboard import app, columns, page, security, serve, worker
from analysis.dashboard.children import ChildError
from analysis.dashboard.sources import Place
from analysis.dashboard.state import Laws, State
from analysis.errors import UserError
from tests.analysis.dashboard.dashboard_help import EVIL, made_up

testclient = pytest.importorskip("starlette.testclient", reason="needs an HTTP client for starlette")
LOCAL = "http://127.0.0.1:8050"


class NoReader:
    """In place of the reading process: there is none, or it hands out what it was given."""

    def __init__(self, answer: dict[str, Any] | None = None) -> None:
        self.answer = answer
        self.job: dict[str, Any] = {}

    async def last(self, **job: Any) -> dict[str, Any]:
        self.job = job
        if self.answer is None:
            raise ChildError("the store is away")
        return dict(self.answer)


def state_of(tmp_path: Path, **changes: Any) -> State:
    """A state with runs and laws, without processes behind it."""
    from analysis.dashboard.columns import to_columns
    from analysis.dashboard.fits import counts_of, default_counts

    state = State({"source": "none", "options": {}}, tmp_path)
    state.reader = NoReader()  # type: ignore[assignment]
    frame = worker.with_keys(made_up().assign(**changes))
    facts = {"rows": len(frame), "hash": "h", "counts": counts_of(frame), "default": default_counts(frame)}
    content = worker.pack({**facts, "columns": to_columns(frame)})
    state.runs.content, state.runs.etag, state.runs.facts = content, "tag", facts
    state.laws[("params_total", "flops_6nd")] = Laws(content=worker.pack({"done": True}), etag="law")
    return state


def client_of(state: State, *, title: str = "desk", **guard: Any) -> Any:
    built = security.Guard(app.build(state, title=title, watch=False), **guard)
    return testclient.TestClient(built, base_url=LOCAL, follow_redirects=False)


@pytest.fixture
def client(tmp_path: Path) -> Any:
    return client_of(state_of(tmp_path))


def test_page_script_style_and_library_come_from_here(client: Any) -> None:
    answers = {path: client.get(path) for path in ("/", "/app.js", "/style.css", "/plotly.js")}
    assert {path: answer.status_code for path, answer in answers.items()} == dict.fromkeys(answers, 200)
    assert not re.search(r"(?:src|href)=.?https?://", answers["/"].text), "nothing from another host"
    assert "plotly.js v" in answers["/plotly.js"].text[:200]


def test_data_is_sent_once_and_then_by_its_tag(client: Any) -> None:
    first = client.get("/api/data")
    assert first.json()["rows"] == 56
    again = client.get("/api/data", headers={"if-none-match": first.headers["etag"]})
    assert again.status_code == 304
    assert not again.content


def test_before_the_first_read_the_page_is_told_to_wait(tmp_path: Path) -> None:
    state = State({"source": "none", "options": {}}, tmp_path)
    state.runs.problem = "the store is away"
    answer = client_of(state).get("/api/data")
    assert (answer.status_code, answer.json()) == (503, {"waiting": "the store is away"})


def test_laws_are_given_for_known_counts_only(client: Any) -> None:
    ok = client.get("/api/laws", params={"params": "params_total", "flops": "flops_6nd"})
    assert ok.json() == {"done": True}
    waiting = client.get("/api/laws", params={"params": "params_body", "flops": "flops_6nd"})
    assert waiting.status_code == 503
    for name in ("../../../etc/passwd", "flops_exact; DROP TABLE runs", "__class__"):
        assert client.get("/api/laws", params={"params": name, "flops": name}).status_code == 404


def drawer_of(figure: dict[str, Any]) -> NoReader:
    """In place of the drawing process: every figure is that one."""
    return NoReader({"content": base64.b64encode(worker.pack(figure)).decode(), "end": True})


class TestFigure:
    ASKED: ClassVar = {"params": "params_total", "flops": "flops_6nd", "name": "residuals"}

    def test_is_made_once_for_the_same_laws(self, tmp_path: Path) -> None:
        state = state_of(tmp_path)
        laws = state.laws[("params_total", "flops_6nd")]
        laws.file = "laws"
        state.drawer = drawer_of({"data": [1]})  # type: ignore[assignment]
        client = client_of(state)
        assert client.get("/api/figure", params=self.ASKED).json() == {"data": [1]}
        state.drawer = drawer_of({"data": [2]})  # type: ignore[assignment]
        assert client.get("/api/figure", params=self.ASKED).json() == {"data": [1]}
        (tmp_path / "newer.json.gz").write_bytes(worker.pack({"done": True}))
        state._take(laws, tmp_path / "newer.json.gz", done=True)
        assert client.get("/api/figure", params=self.ASKED).json() == {"data": [2]}

    @pytest.mark.parametrize(("change", "code"), [({"params": "../../etc"}, 404), ({}, 503)])
    def test_is_refused_where_there_is_none(self, client: Any, change: dict[str, str], code: int) -> None:
        assert client.get("/api/figure", params=self.ASKED | change).status_code == code


def test_a_run_that_cannot_be_read_says_why(client: Any) -> None:
    answer = client.get("/api/run", params={"key": "0123"})
    assert (answer.status_code, answer.json()) == (503, {"problem": "the store is away"})


def test_the_runs_and_laws_of_an_earlier_server_are_shown_at_once(tmp_path: Path) -> None:
    content, counts = worker.pack({"rows": 7}), {"params": ["params", "params_total"], "flops": ["flops_6nd"]}
    etag = hashlib.sha256(content).hexdigest()[:24]
    (tmp_path / "page.json.gz").write_bytes(content)
    (tmp_path / "facts.json").write_text(json.dumps({"etag": etag, "hash": "h", "counts": counts}))
    (tmp_path / "laws-h-params_total-flops_6nd.json.gz").write_bytes(worker.pack({"done": True}))
    state = State({"source": "none", "options": {}}, tmp_path)
    state.take_up(tmp_path)
    client = client_of(state)
    assert client.get("/api/data").json() == {"rows": 7}
    assert client.get("/api/laws?params=params_total&flops=flops_6nd").json() == {"done": True}
    (laws,) = client.get("/api/state").json()["laws"].values()
    assert laws["done"]
    assert laws["fresh"]


class TestPicture:
    ASKED: ClassVar = {"params": "params_total", "flops": "flops_6nd", "name": "isoflop", "format": "png"}

    def test_is_saved_with_the_filters_of_the_page(self, tmp_path: Path) -> None:
        state = state_of(tmp_path)
        state.laws[("params_total", "flops_6nd")].file = "laws"
        drawer = NoReader({"content": base64.b64encode(b"a picture").decode(), "end": True})
        state.drawer = drawer  # type: ignore[assignment]
        more = {"families": "ar,masked", "budgets": "1e18,4e18", "theme": "dark"}
        answer = client_of(state).get("/api/figure", params=self.ASKED | more)
        assert (answer.content, answer.headers["content-type"]) == (b"a picture", "image/png")
        expected = {"families": ["ar", "masked"], "budgets": [1e18, 4e18], "theme": "dark", "format": "png"}
        assert expected.items() <= drawer.job.items()

    @pytest.mark.parametrize(
        ("change", "code"),
        [({"params": "../../etc"}, 404), ({"format": "exe"}, 422), ({"budgets": "many"}, 422),
         ({"theme": "url(evil)"}, 422), ({}, 503)],
    )  # fmt: skip
    def test_is_refused_for_anything_else(self, client: Any, change: dict[str, str], code: int) -> None:
        assert client.get("/api/figure", params=self.ASKED | change).status_code == code


class TestAnswer:
    COUNT: ClassVar = {"params": "params_total", "flops": "flops_6nd"}

    def drawer(self, state: State, content: dict[str, Any] | None) -> NoReader:
        state.laws[("params_total", "flops_6nd")].file = "laws"
        drawer = NoReader(content)
        state.drawer = drawer  # type: ignore[assignment]
        return drawer

    def test_is_that_to_the_fields_of_a_question_alone(self, tmp_path: Path) -> None:
        state = state_of(tmp_path)
        drawer = self.drawer(state, {"sentences": ["Train ar."], "end": True})
        more = {"budget": "1e20", "epochs": "4" * 999, "laws": "/etc/passwd"}
        answer = client_of(state).get("/api/answer", params=self.COUNT | more)
        assert (answer.status_code, answer.json()["sentences"]) == (200, ["Train ar."])
        assert drawer.job == {
            "job": "answer",
            "laws": "laws",
            "question": {"budget": "1e20", "epochs": "4" * 100},
        }

    def test_to_a_bad_question_is_its_sentence(self, tmp_path: Path) -> None:
        state = state_of(tmp_path)
        self.drawer(state, {"problem": "flops = 'x': give a number", "end": True})
        answer = client_of(state).get("/api/answer", params=self.COUNT | {"budget": "x"})
        assert (answer.status_code, answer.json()["problem"]) == (200, "flops = 'x': give a number")

    def test_waits_for_laws_and_knows_no_other_counts(self, client: Any) -> None:
        answer = client.get("/api/answer", params=self.COUNT)
        assert (answer.status_code, answer.json()) == (503, {"waiting": "the laws are still being fitted"})
        assert client.get("/api/answer", params={"params": "x", "flops": "y"}).status_code == 404

    def test_its_figure_is_made_for_each_that_asks(self, tmp_path: Path) -> None:
        state = state_of(tmp_path)
        drawer = self.drawer(state, {"content": base64.b64encode(worker.pack({"data": []})).decode()})
        client = client_of(state)
        for name in ("answer?budget=1e20", "isoflop"):
            assert client.get("/api/figure", params=self.COUNT | {"name": name}).json() == {"data": []}
            assert drawer.job["name"] == name
        assert list(state.laws[("params_total", "flops_6nd")].figures) == ["isoflop"]


class TestWhoMayAsk:
    @pytest.mark.parametrize(
        "host", ["evil.example", "evil.example:8050", "127.0.0.1.evil.example", "localhost.evil.example", "",
                 "[::1", "127.0.0.1:80:80", "2130706433", "0x7f.1"]
    )  # fmt: skip
    def test_a_rebound_name_is_refused(self, client: Any, host: str) -> None:
        for path in ("/", "/api/data", "/export.html"):
            assert client.get(path, headers={"host": host}).status_code == 403

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "LOCALHOST:8050", "[::1]:8050"])
    def test_names_of_this_machine_are_known(self, client: Any, host: str) -> None:
        assert client.get("/", headers={"host": host}).status_code == 200

    def test_on_all_addresses_any_address_is_known_and_a_foreign_name_is_not(self, tmp_path: Path) -> None:
        client = client_of(state_of(tmp_path), host="0.0.0.0", token="a-long-token", names=["my.host"])
        auth = {"authorization": "Bearer a-long-token"}
        assert client.get("/", headers={"host": "10.1.2.3:8050", **auth}).status_code == 200
        assert client.get("/", headers={"host": "my.host", **auth}).status_code == 200
        assert client.get("/", headers={"host": "evil.example", **auth}).status_code == 403

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
    def test_only_questions_are_answered(self, client: Any, method: str) -> None:
        assert client.request(method, "/api/data").status_code == 405

    def test_another_site_may_not_read(self, client: Any) -> None:
        headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
        assert client.get("/api/data", headers=headers).status_code == 403
        link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
        assert client.get("/", headers=link).status_code == 200


class TestToken:
    @pytest.fixture
    def client(self, tmp_path: Path) -> Any:
        return client_of(state_of(tmp_path), host="0.0.0.0", token="right-token")

    @pytest.mark.parametrize("path", ["/", "/app.js", "/api/data", "/api/state", "/export.html", "/nothing"])
    def test_without_it_nothing_is_told(self, client: Any, path: str) -> None:
        wrong = ("Bearer wrong", "Bearer ", "Basic right-token")
        cookies = (
            "scaling_token_8050=wrong",
            "scaling_token_8050=",
            "scaling_token_8051=right-token",
            "\x00;=",
        )
        tried = [{"authorization": text} for text in wrong] + [{"cookie": text} for text in cookies]
        for headers in ({}, *tried):
            answer = client.get(path, headers=headers)
            assert answer.status_code == 401
            assert "right-token" not in answer.text + str(answer.headers)

    def test_a_visit_with_it_sets_a_cookie_and_cleans_the_address(self, client: Any) -> None:
        answer = client.get("/?token=right-token")
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        assert cookie.startswith("scaling_token_8050="), "each port of a host has its own"
        assert client.get("/api/data").status_code == 200

    @pytest.mark.parametrize("token", ["wrong", "", "right-toke", "right-token2", "ünïcödé"])
    def test_a_wrong_one_is_no_visit(self, client: Any, token: str) -> None:
        assert client.get("/", params={"token": token}).status_code == 401

    def test_it_works_at_the_front_door_only(self, client: Any) -> None:
        assert client.get("/api/data?token=right-token").status_code == 401


def test_every_answer_carries_the_policy(tmp_path: Path) -> None:
    open_client = client_of(state_of(tmp_path))
    closed = client_of(state_of(tmp_path), host="0.0.0.0", token="right-token")
    answers = [open_client.get(path) for path in ("/", "/app.js", "/api/data", "/api/state", "/nothing")]
    answers += [open_client.get("/", headers={"host": "evil.example"}), closed.get("/")]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        script = next(part for part in policy.split(";") if part.strip().startswith("script-src"))
        assert script.strip() == "script-src 'self'"
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "path",
    ["/../../etc/passwd", "/static/../../pyproject.toml", "/%2e%2e/%2e%2e/etc/passwd", "/js/main.js",
     "/..%2fpyproject.toml", "//etc/passwd", "/app.js/../../../pyproject.toml", "/docs", "/openapi.json"],
)  # fmt: skip
def test_no_path_reaches_a_file(client: Any, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert "root:" not in answer.text


class TestExport:
    def test_carries_the_data_and_allows_its_own_scripts_by_hash(self, client: Any) -> None:
        answer = client.get("/export.html", params={"start": "#/isoflop?family=ar"})
        text = answer.text
        assert answer.headers["content-disposition"] == "attachment; filename=desk-dashboard.html"
        opening = json.loads(part_of(text, "opening"))
        assert opening["start"] == "#/isoflop?family=ar"
        assert json.loads(part_of(text, "runs"))["rows"] == 56
        assert json.loads(part_of(text, "laws-params_total|flops_6nd")) == {"done": True, "figures": {}}
        script = text[text.rindex("<script>") + 8 : text.rindex("</script>")]
        for content in (script.encode(), part_of(text, "library")):
            digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
            assert f"'sha256-{digest}'" in text
        assert "unsafe-inline" not in re.search(r"script-src[^;]*", text)[0]

    def test_without_the_store_it_says_why_there_are_no_curves(self, client: Any) -> None:
        curves = json.loads(part_of(client.get("/export.html").text, "curves"))
        assert curves["problem"].endswith("the store is away")

    def test_its_curves_are_those_of_the_runs_it_carries(self, tmp_path: Path) -> None:
        state = state_of(tmp_path)
        paths = {name: tmp_path / name for name in ("file", "curves")}
        paths["file"].write_bytes(worker.pack({"rows": 7}))
        paths["curves"].write_bytes(columns.nothing("none"))
        answer = {name: str(path) for name, path in paths.items()} | {"etag": "newer", "end": True}
        state.reader = NoReader(answer)  # type: ignore[assignment]
        text = client_of(state).get("/export.html").text
        assert json.loads(part_of(text, "runs")) == {"rows": 7}
        assert json.loads(part_of(text, "curves")) == {"problem": "none"}

    def test_curves_get_the_room_that_all_else_leaves(self, tmp_path: Path) -> None:
        state = state_of(tmp_path)
        laws = page.carried_laws(state, ("", ""), {})
        text = page.exported(state, os.urandom(page.room_for_curves(state, laws)), laws, title="desk")
        assert page.LARGEST_FILE - 40_000 < len(text) <= page.LARGEST_FILE

    def test_carries_figures_for_the_counts_of_its_address_alone(self, tmp_path: Path) -> None:
        state = state_of(tmp_path)
        laws = {"done": True, "figures": {"best": {"data": []}, "residuals": None}, "families": {}}
        for params in ("params_total", "params_body"):
            content = worker.pack(laws)
            state.laws[(params, "flops_6nd")] = Laws(content=content, etag=params, file="laws")
        state.drawer = drawer_of({"data": ["residuals"]})  # type: ignore[assignment]
        start = "#/isoflop?params=params_body&flops=flops_6nd"
        text = client_of(state).get("/export.html", params={"start": start}).text
        figures = {"best": {"data": []}, "residuals": {"data": ["residuals"]}}
        assert json.loads(part_of(text, "laws-params_body|flops_6nd")) == laws | {"figures": figures}
        assert json.loads(part_of(text, "laws-params_total|flops_6nd")) == laws | {"figures": {}}

    def test_no_name_of_a_run_can_end_an_element(self, tmp_path: Path) -> None:
        text = (
            client_of(state_of(tmp_path, family=EVIL, size=EVIL, host=EVIL), title=EVIL)
            .get("/export.html")
            .text
        )
        assert "onerror=document.title" not in text.replace("&lt;img src=x onerror=document.title", "")
        assert text.count("<script>") == 1

    @pytest.mark.parametrize(
        "start", ["</script><script>alert(1)</script>", "https://evil.example", "#/x?<", "#" * 999]
    )
    def test_a_start_that_is_no_address_is_dropped(self, client: Any, start: str) -> None:
        text = client.get("/export.html", params={"start": start}).text
        assert json.loads(part_of(text, "opening"))["start"] == ""

    def test_the_file_is_called_by_letters_only(self) -> None:
        assert page.file_name("../../etc/pass\r\nwd") == "etc-pass-wd-dashboard.html"


def part_of(text: str, name: str) -> bytes:
    match = re.search(rf'data-part="{re.escape(name)}">([^<]*)<', text)
    assert match, name
    return gzip.decompress(base64.b64decode(match[1]))


def test_a_title_is_text(tmp_path: Path) -> None:
    text = client_of(state_of(tmp_path), title=EVIL).get("/").text
    assert "<img" not in text


def test_scripts_never_write_html() -> None:
    text = page.script()
    assert not re.search(
        r"innerHTML|outerHTML\s*=|insertAdjacentHTML|document\.write|\beval\(|new Function", text
    )
    assert "</script" not in text.lower(), "it would end the element that the exported file has it in"


@pytest.mark.parametrize(
    "token", ["short", "semi;colon", "and&more", "plus+plus", "söme-töken", "a space here"]
)
def test_a_token_that_would_not_open_the_page_is_refused(token: str) -> None:
    with pytest.raises(UserError, match="at least 8 letters, digits"):
        serve.serve(Place(spec={"source": "x"}), title="x", token=token)


def test_another_version_of_the_code_and_other_resamples_start_from_an_empty_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "runs_from_elsewhere").mkdir()
    module = tmp_path / "runs_from_elsewhere" / "__init__.py"
    module.write_text("COLUMNS = 1")
    spec = {"source": "runs_from_elsewhere:Source", "options": {"store": "a"}}
    before = serve.cache_folder(spec)
    assert serve.cache_folder(spec) == before
    assert serve.cache_folder(spec, 50) != before
    assert serve.cache_folder({**spec, "options": {"store": "b"}}) != before
    module.write_text("COLUMNS = 2")
    assert serve.cache_folder(spec) != before


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to somebody else")
def test_a_cache_in_a_folder_of_somebody_else_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    spec = {"source": "analysis.dashboard.sources:StoreSource", "options": {"store": "a"}}
    assert serve.cache_folder(spec).is_relative_to(tmp_path)
    os.chown(tmp_path / "cache", 12345, -1)
    assert not serve.cache_folder(spec).is_relative_to(tmp_path)


def test_a_taken_port_is_refused(tmp_path: Path) -> None:
    taken = serve.listen("127.0.0.1", 0)
    try:
        with pytest.raises(UserError, match="cannot be used"):
            serve.listen("127.0.0.1", taken.getsockname()[1], tries=1)
        with pytest.raises(UserError, match="no address"):
            serve.listen("no-such-host.invalid", 0)
    finally:
        taken.close()


def test_the_server_process_loads_nothing_heavy() -> None:
    import subprocess
    import sys

    code = (
        "import sys, analysis.dashboard.app, analysis.dashboard.serve, analysis.dashboard.page as page; "
        "page.script(); page.style(); page.library(); "
        "heavy = ('pandas', 'numpy', 'plotly', 'mlflow', 'sqlalchemy', 'torch', 'scipy'); "
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
