"""Points in bulk: to the row what `log_batch` stores, whoever else writes and whatever is deleted."""

from __future__ import annotations

import itertools
import sqlite3
import threading
import time
from collections.abc import Iterator

import pytest
import sqlalchemy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sweeps.record import bulk
from sweeps.record.bulk import BulkPoints
from sweeps.record.store import GoneError, Point
from sweeps.record.tracking import MlflowStore
from tests.servers import postgres_server

NAMES = ("train_loss", "train_tokens", "loss")
POINTS = st.builds(
    Point,
    name=st.sampled_from(NAMES),
    value=st.floats(allow_nan=False, allow_infinity=False),
    at=st.integers(0, 3).map(lambda ms: 1e9 + ms / 1000),
    step=st.integers(0, 3),
)
BATCHES = st.lists(st.lists(POINTS, max_size=12), min_size=1, max_size=4)
numbers = itertools.count()


@pytest.fixture(scope="module")
def sqlite_store(tmp_path_factory) -> MlflowStore:
    return opened(f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}")


@pytest.fixture(scope="module")
def postgresql_store() -> Iterator[MlflowStore]:
    with postgres_server() as server:
        store = opened(server.uri)
        yield store
        store._bulk.close()
        store._client._tracking_client.store.engine.dispose()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def store(request) -> MlflowStore:
    return request.getfixturevalue(f"{request.param}_store")


def opened(uri: str) -> MlflowStore:
    store = MlflowStore(uri, "desk")
    store.open()
    return store


def new_run(store: MlflowStore) -> str:
    return store.create(f"key{next(numbers)}", "a run", 1e9, {})


def rows(store: MlflowStore, run_id: str, table: str) -> list[tuple]:
    query = f"SELECT key, step, timestamp, value, is_nan FROM {table} WHERE run_uuid = '{run_id}'"
    engine = sqlalchemy.create_engine(store.uri)
    with engine.connect() as connection:
        found = sorted(map(tuple, connection.execute(sqlalchemy.text(query))))
    engine.dispose()
    return found


def curve(name: str, steps, value: float = 1.0) -> list[Point]:
    return [Point(name=name, value=value / (1 + step), at=1e9 + step, step=step) for step in steps]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=BATCHES)
def test_the_tables_are_those_that_log_batch_leaves(store, batches):
    """Repeats within and between batches, earlier steps after later ones, one step with several values."""
    by_bulk, by_client = new_run(store), new_run(store)
    for batch in batches:
        store._bulk.add(by_bulk, batch)
        store._log_batch(by_client, batch, {}, {})
    for table in ("metrics", "latest_metrics"):
        assert rows(store, by_bulk, table) == rows(store, by_client, table)


def test_points_parameters_and_tags_of_one_call_are_all_there(store):
    run_id = new_run(store)
    store.log(run_id, curve("loss", [3]), {"size": "6M"}, {"scaling.status": "finished"})
    run = store._client.get_run(run_id)
    assert run.data.metrics == {"loss": 0.25}
    assert run.data.params == {"size": "6M"}
    assert run.data.tags["scaling.status"] == "finished"
    [point] = store._client.get_metric_history(run_id, "loss")
    assert (point.step, point.timestamp, point.value) == (3, 1_000_000_003_000, 0.25)


def test_a_run_that_was_deleted_or_never_was_takes_nothing(store):
    run_id = new_run(store)
    store.log(run_id, curve("loss", [1]))
    store._client.delete_run(run_id)
    for gone in (run_id, "0" * 32):
        with pytest.raises(GoneError, match=gone):
            store.log(gone, curve("loss", [2]))
        assert [step for _, step, *_ in rows(store, gone, "metrics")] == ([1] if gone == run_id else [])


def test_a_run_that_goes_while_it_is_written_to_leaves_no_points_behind(store, monkeypatch):
    monkeypatch.setattr(BulkPoints, "_check_active", lambda *_: None)
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        store._bulk.add("0" * 32, curve("loss", [1]))
    assert rows(store, "0" * 32, "metrics") == []


def test_a_batch_that_fails_leaves_none_of_its_points(store):
    run_id = new_run(store)
    bad = Point(name="loss", value=None, at=1e9, step=9)
    with pytest.raises(sqlalchemy.exc.SQLAlchemyError):
        store._bulk.add(run_id, [*curve("loss", range(5)), bad])
    assert rows(store, run_id, "metrics") == rows(store, run_id, "latest_metrics") == []


def test_writers_at_the_same_time_lose_nothing(store):
    run_id = new_run(store)
    writers, steps = 4, 200

    def write(offset: int) -> None:
        own = BulkPoints.at(store.uri)
        for start in range(0, steps, 20):
            mine = range(start * writers + offset, (start + 20) * writers + offset, writers)
            own.add(run_id, curve("train_loss", mine) + curve("train_tokens", mine))
        own.close()

    threads = [threading.Thread(target=write, args=(offset,)) for offset in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [(key, step) for key, step, *_ in rows(store, run_id, "metrics")]
    assert found == [(key, step) for key in ("train_loss", "train_tokens") for step in range(writers * steps)]
    assert [step for _, step, *_ in rows(store, run_id, "latest_metrics")] == [writers * steps - 1] * 2


def test_a_writer_that_holds_the_database_is_waited_for(sqlite_store):
    run_id = new_run(sqlite_store)
    other = sqlite3.connect(sqlite_store.uri.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    writer = threading.Thread(target=sqlite_store.log, args=(run_id, curve("loss", [1])))
    writer.start()
    time.sleep(0.3)
    assert writer.is_alive()
    other.execute("COMMIT")
    other.close()
    writer.join(timeout=30)
    assert len(rows(sqlite_store, run_id, "metrics")) == 1


def test_other_tables_and_other_stores_are_left_to_the_client(tmp_path, monkeypatch):
    assert BulkPoints.at("http://127.0.0.1:5000") is None
    assert BulkPoints.at("mysql://me@127.0.0.1/db") is None
    monkeypatch.setattr(bulk, "KNOWN_COLUMNS", bulk.KNOWN_COLUMNS | {"unit"})
    store = opened(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert store._bulk is None
    run_id = new_run(store)
    store.log(run_id, curve("loss", range(3)))
    assert [step for _, step, *_ in rows(store, run_id, "metrics")] == [0, 1, 2]
    store._client.delete_run(run_id)
    with pytest.raises(GoneError):
        store.log(run_id, curve("loss", [3]))
