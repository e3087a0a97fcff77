"""The page over an MLflow server and over PostgreSQL: read, kept up, linked, and left as it was when lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.dashboard import sources, worker
from analysis.table.columns import TRAIN_LOSS, to_mlflow
from analysis.table.runs import load_runs
from tests.analysis.dashboard.dashboard_help import FLAGS, chromium, made_up, served, wait_for
from tests.servers import mlflow_server, postgres_server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::Warning:(mlflow|alembic|sqlalchemy|pydantic|google).*"),
]
SWEEP = "made up"


class Recorder:
    """Writes runs as the recorder of a sweep does, next to the server that hands them out."""

    def __init__(self, store: str, folder: Path) -> None:
        from mlflow import MlflowClient

        self.client = MlflowClient(store)
        self.experiment = self.client.create_experiment(SWEEP, artifact_location=str(folder))

    def start(self, row: Mapping[str, Any]) -> str:
        run_id = str(self.client.create_run(self.experiment).info.run_id)
        self._log(run_id, {**row, "status": "running", "loss": None, "bits_per_byte": None})
        return run_id

    def end(self, run_id: str, row: Mapping[str, Any]) -> None:
        self._log(run_id, {name: row[name] for name in ("status", "loss", "loss_se", "bits_per_byte")})
        self.client.set_terminated(run_id)

    def whole(self, row: Mapping[str, Any]) -> str:
        run_id = self.start(row)
        self.end(run_id, row)
        return run_id

    def _log(self, run_id: str, row: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        params, tags, metrics = to_mlflow(row)
        self.client.log_batch(
            run_id,
            [Metric(name, value, 1, 0) for name, value in metrics.items()],
            [Param(name, text) for name, text in params.items()],
            [RunTag(name, text) for name, text in tags.items()],
        )

    def curve(self, run_id: str, losses: list[float]) -> None:
        for step, loss in enumerate(losses, 1):
            self.client.log_metric(run_id, TRAIN_LOSS, loss, step=step)


def rows() -> list[dict[str, Any]]:
    """A run table of one family, with what tokens per step are counted from."""
    frame = made_up(("ar",)).assign(batch_size=8, context_length=128)
    return [dict(row) for row in frame.to_dict(orient="records")]


@pytest.fixture
def browser_page() -> Iterator[Any]:
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser.new_page(viewport={"width": 1440, "height": 900})
        browser.close()


def says(page: Any, words: str) -> None:
    wait_for(lambda: words in page.inner_text("body"), seconds=90)


def test_a_server_is_read_whole_once_and_then_for_what_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    recorder, runs = Recorder(store, tmp_path), rows()
    for row in runs[:-2]:
        recorder.whole(row)
    with mlflow_server(store, tmp_path) as server:
        address = server.address
        reader = worker.Reader(worker.build(sources.spec_of(address, SWEEP)), tmp_path)
        assert next(reader.read({}))["rows"] == 26
        never = lambda *_: pytest.fail("read whole again")  # noqa: E731
        monkeypatch.setattr(sources, "load_runs", never)
        list(reader.read({"have": True}))  # those that ended just now may be told once more
        assert next(reader.read({"have": True})) == {"same": True, "end": True}
        run_id = recorder.start(runs[-2])
        assert next(reader.read({"have": True}))["open"] == 1
        recorder.end(run_id, runs[-2])
        recorder.whole(runs[-1])
        answer = next(reader.read({"have": True}))
        assert (answer["rows"], answer["open"]) == (28, 0)
        again = worker.Reader(worker.build(sources.spec_of(address, SWEEP)), tmp_path)
        assert next(again.read({}))["rows"] == 28, "the snapshot was taken up"
        monkeypatch.undo()
        assert reader.frame is not None
        whole = load_runs(address, SWEEP).set_index("key").sort_index()
        frame = reader.frame.set_index("key").sort_index()
        pd.testing.assert_frame_equal(frame, whole, check_dtype=False)


def test_the_page_over_a_server(tmp_path: Path, browser_page: Any) -> None:
    page = browser_page
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    recorder, runs = Recorder(store, tmp_path), rows()
    first = recorder.whole(runs[0])
    recorder.curve(first, [5.0, 4.0, 3.5])
    with mlflow_server(store, tmp_path) as server, served(server.address, tmp_path / "cache") as (address, _):
        page.goto(f"{address}#/run?run={runs[0]['key']}")
        link = page.wait_for_selector("text=Open in MLflow").get_attribute("href")
        assert link == f"{server.address}/#/experiments/{recorder.experiment}/runs/{first}"
        page.wait_for_selector(".figure[data-drawn]")
        for row in runs[1:]:
            recorder.whole(row)
        says(page, "28 runs")
        page.goto(link)
        page.wait_for_selector(f"text={runs[0]['key']}", timeout=60000)
        page.goto(f"{address}#/overview")
        says(page, "28 runs")
        server.stop()
        says(page, "The store does not answer")
        says(page, "The page shows the last state, as of")
        assert "28 runs" in page.inner_text("body")
        server.start()
        says(page, "up to date")


def test_the_page_over_postgresql(tmp_path: Path, browser_page: Any) -> None:
    page, runs = browser_page, rows()
    with postgres_server() as database:
        recorder = Recorder(database.uri, tmp_path)
        first = recorder.whole(runs[0])
        recorder.curve(first, [5.0, 4.0, 3.5])
        with served(database.uri, tmp_path / "cache") as (address, _):
            page.goto(f"{address}#/run?run={runs[0]['key']}")
            page.wait_for_selector(".figure[data-drawn]")
            assert "Copy the MLflow run id" in page.inner_text("body")
            for row in runs[1:]:
                recorder.whole(row)
            says(page, "28 runs")
            database.kill()
            says(page, "The store does not answer")
            assert "28 runs" in page.inner_text("body")
            database.start()
            says(page, "up to date")
