"""The tracking store: the check before a sweep, and how a database comes to be."""

from __future__ import annotations

import http.server
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from analysis import load_runs
from analysis.errors import UserError as AnalysisError
from analysis.table.mlflow import known_revisions
from scaling.errors import UserError
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.types import State
from sweeps.record.tracking import MlflowStore, check_tracking, tracking_uri
from tests.sweeps.recording import record
from tests.sweeps.simulation import entry


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_server_that_does_not_answer_is_refused_within_seconds():
    start = time.monotonic()
    with pytest.raises(UserError, match="does not answer"):
        check_tracking(f"http://127.0.0.1:{unused_port()}")
    assert time.monotonic() - start < 5


def test_a_database_that_another_program_locks_is_refused_to_readers_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("sweeps.record.tracking.CONNECT_S", 0.1)
    monkeypatch.setattr("analysis.table.mlflow.LOCK_TIMEOUT_S", 0.1)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    other = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    other.execute("CREATE TABLE alembic_version (version_num TEXT)")
    other.execute("BEGIN EXCLUSIVE")
    try:
        for read in (lambda: check_tracking(uri, to_write=False), lambda: load_runs(uri)):
            with pytest.raises((UserError, AnalysisError), match=r"mlflow\.db is locked by another program"):
                read()
        check_tracking(uri)  # a sweep starts all the same: its recorder waits for its turn
    finally:
        other.close()


def test_a_server_that_hangs_is_refused_within_seconds(monkeypatch):
    monkeypatch.setattr("sweeps.record.tracking.CONNECT_S", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(UserError, match="does not answer"):
            check_tracking(f"http://127.0.0.1:{silent.getsockname()[1]}")


@pytest.mark.parametrize(("code", "fine"), [(200, True), (401, True), (404, False), (503, False)])
def test_what_a_server_answers_counts(code, fine):
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(code if self.path == "/health" else 500)
            self.end_headers()

        def log_message(self, *_):
            return

    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    uri = f"http://user:secret@127.0.0.1:{server.server_port}/"
    try:
        if fine:
            check_tracking(uri)
        else:
            with pytest.raises(UserError, match=rf"//\*\*\*@.*{code}"):
                check_tracking(uri)
    finally:
        server.shutdown()
        server.server_close()


def test_a_database_of_a_newer_schema_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "mlflow.db"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE alembic_version (version_num TEXT)")
    db.execute("INSERT INTO alembic_version VALUES ('ffff00001111')")
    db.commit()
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"ffff00001111.*newer"):
        check_tracking(f"sqlite:///{path}")
    assert path.read_bytes() == before
    db.execute("UPDATE alembic_version SET version_num = ?", (min(known_revisions()),))
    db.commit()
    check_tracking(f"sqlite:///{path}")
    db.close()


def half_written(path: Path) -> None:
    """An MLflow-like database whose writer was killed in the middle of a transaction."""
    writer = f"""
import os, signal, sqlite3
db = sqlite3.connect({str(path)!r}, isolation_level=None)
db.execute("CREATE TABLE alembic_version (version_num TEXT)")
db.execute("INSERT INTO alembic_version VALUES ({min(known_revisions())!r})")
db.execute("CREATE TABLE t (x)")
db.execute("PRAGMA cache_size = 1")
db.execute("BEGIN")
db.executemany("INSERT INTO t VALUES (?)", [("x" * 1000,)] * 1000)
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", writer], check=False)
    assert path.with_name(path.name + "-journal").stat().st_size > 0


def test_a_database_whose_writer_was_killed_is_fine(tmp_path):
    path = tmp_path / "mlflow.db"
    half_written(path)
    check_tracking(f"sqlite:///{path}")
    assert sqlite3.connect(path).execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_a_database_that_somebody_writes_just_now_is_fine(tmp_path, monkeypatch):
    monkeypatch.setattr("sweeps.record.tracking.CONNECT_S", 0.1)
    path = tmp_path / "mlflow.db"
    half_written(path)
    check_tracking(f"sqlite:///{path}")
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    check_tracking(f"sqlite:///{path}")


def test_stores_that_cannot_be(tmp_path):
    (tmp_path / "diary").write_text("dear diary, " * 1000)
    (tmp_path / "empty.db").touch()
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE t (x)").connection.close()
    check_tracking(f"sqlite:///{tmp_path}/empty.db")
    check_tracking(f"sqlite:///{tmp_path}/other.db")
    for uri, sentence in {
        f"sqlite:///{tmp_path}/diary": "is no database",
        f"sqlite:///{tmp_path}": "is a folder",
        f"sqlite:///{tmp_path}/diary/mlflow.db": "cannot be",
        "./mlruns": "is not one of",
        "http://bob:p/ss@127.0.0.1:1": r"//\*\*\*@127.*write them as %2F",
        "http://bob:p@ss@127.0.0.1:1": r"//\*\*\*@127.*write them as %2F",
        "http://bob@h:port": r"//\*\*\*@h:port does not answer",
        "file:///tmp/mlruns": "is not one of",
        f"postgresql://someone:secret@127.0.0.1:{unused_port()}/db": r"//\*\*\*@",
    }.items():
        with pytest.raises(UserError, match=sentence):
            check_tracking(uri)
    assert (tmp_path / "diary").read_text().startswith("dear diary")


def test_the_installed_mlflow_knows_its_own_schema():
    assert len(known_revisions()) > 20


def test_a_kill_while_the_database_is_made_does_not_spoil_it(tmp_path):
    """MLflow refuses a database whose making was interrupted, so a half-made one never has its name."""
    path = tmp_path / "mlflow.db"
    half_made = tmp_path / ".mlflow.db.new"
    db = sqlite3.connect(half_made)
    db.execute("CREATE TABLE datasets (x)")
    db.close()
    store = MlflowStore(f"sqlite:///{path}", "desk")
    identity = store.open()
    assert store.open() == identity
    assert not half_made.exists()
    check_tracking(f"sqlite:///{path}")


def test_a_folder_of_any_name_holds_its_store(tmp_path: Path) -> None:
    out = tmp_path / "per%20cent what?now #1 [b]"
    out.mkdir()
    with Ledger(out / "s" / "ledger") as ledger:
        ledger.register([entry("a")])
        ledger.end(ledger.claim("a"), State.FINISHED, sentence="", result={"bound": 1.5})
    uri = tracking_uri(out)
    assert record("s", out, uri) == 0
    assert list(load_runs(uri, sweep="s")["status"]) == ["finished"]
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
