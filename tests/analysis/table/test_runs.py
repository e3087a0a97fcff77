"""Run tables: what the recorder writes is what the reader gives back; a bad store gets one sentence."""

from __future__ import annotations

import http.server
import importlib.util
import math
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.errors import UserError
from analysis.table import mlflow as mlflow_tables
from analysis.table.columns import RUN_COLUMNS, STATUSES, TRAIN_LOSS, parse_text, to_mlflow, typed
from analysis.table.runs import CURVE_COLUMNS, load_runs, loss_curves
from tests.servers import mlflow_server

# MLflow's own imports and its database set-up warn; that is not ours to fix
pytestmark = pytest.mark.filterwarnings("ignore::Warning:(mlflow|alembic|sqlalchemy|pydantic|google).*")

OF_DESK = (
    "run_uuid IN (SELECT run_uuid FROM runs JOIN experiments USING (experiment_id) "
    "WHERE experiments.name = 'desk')"
)
BY_NAME = {column.name: column for column in RUN_COLUMNS}


def row(key: str, sweep: str = "desk", family: str = "ar", **changes: Any) -> dict[str, Any]:
    params, tokens = 1.1e4 * (1 + len(key)), 3.3e7
    return {
        "sweep": sweep, "family": family, "size": "6M", "key": key, "seed": 2**40 + 1, "status": "finished",
        "budget": 3e11, "flop_convention": "exact", "flops": 3.0123e11, "flops_6nd": 6 * params * tokens,
        "params": params, "params_non_embedding": params, "tokens": tokens, "unique_tokens": None,
        "loss": 1.2345678901234567, "loss_se": 1e-3 / 3, "bits_per_byte": float("nan"), "bound": "exact",
        "context_length": 128, "batch_size": 8, "steps": 100, "learning_rate": np.float64(0.1) / 3,
        "corpus": "text:it's *.txt", "wall_s": 12.5, "tokens_per_s": 1e5, "device": "cpu", "host": "a",
    } | changes  # fmt: skip


def record(
    client: Any, experiment: str, values: dict[str, Any], curve: Sequence[tuple[int, int, float]] = ()
) -> str:
    """One run, written as the recorder writes it; curve is (step, time in ms, loss)."""
    from mlflow.entities import Metric, Param, RunTag

    run_id = client.create_run(experiment, start_time=1_700_000_000_000).info.run_id
    params, tags, metrics = to_mlflow(values)
    points = [Metric(name, value, 5, 0) for name, value in metrics.items()]
    points += [Metric(TRAIN_LOSS, loss, at_ms, step) for step, at_ms, loss in curve]
    client.log_batch(
        run_id, points, [Param(*pair) for pair in params.items()], [RunTag(*pair) for pair in tags.items()]
    )
    client.set_terminated(run_id, end_time=1_700_000_060_000)
    return str(run_id)


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with two sweeps, a run of somebody else's, a deleted and a doubled run."""
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("mlflow")
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    desk = client.create_experiment("desk", artifact_location=str(folder / "artifacts"))
    other = client.create_experiment("evening", artifact_location=str(folder / "artifacts"))
    # step 10 was repeated by a second attempt, later and with another value
    curve = [(10, 1000, 5.0), (20, 2000, 4.0), (10, 3000, 4.5), (100, 4000, 3.0)]
    record(client, desk, row("aaaa"), curve)
    record(client, desk, row("bb", family="uniform", bound="upper", loss=math.inf, status="diverged"))
    record(client, desk, row("ccc", family="uniform", bound="upper", loss=math.nan, status="running"))
    record(client, other, row("1234e567", sweep="evening"))
    record(client, desk, row("twice", status="finished", loss=2.0))
    record(client, desk, row("twice", status="preempted", loss=None))
    client.log_metric(client.create_run(desk).info.run_id, "loss", 1.0)
    client.delete_run(record(client, desk, row("gone")))
    return folder / "mlflow.db"


@pytest.fixture
def store(database: Path, tmp_path: Path) -> str:
    shutil.copy(database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


class TestDatabase:
    def test_gives_back_what_was_recorded(self, store: str) -> None:
        frame = load_runs(store, "desk").set_index("key")
        assert sorted(frame.index) == ["aaaa", "bb", "ccc", "twice"]
        expected = row("aaaa")
        for name in expected.keys() - {"key", "unique_tokens", "bits_per_byte"}:
            assert frame.loc["aaaa", name] == expected[name], name  # to the last bit: parameters are reprs
        assert math.isnan(frame.loc["aaaa", "unique_tokens"])
        assert math.isnan(frame.loc["ccc", "loss"])
        assert frame.loc["bb", "loss"] == math.inf  # MLflow keeps the largest float in its place
        assert frame.loc["aaaa", "started"] == pd.Timestamp(1_700_000_000_000, unit="ms", tz="UTC")
        assert frame.loc["aaaa", "ended"] - frame.loc["aaaa", "started"] == pd.Timedelta(60, "s")

    def test_types(self, store: str) -> None:
        frame = load_runs(store)
        assert list(frame.columns) == [column.name for column in RUN_COLUMNS]
        for column in RUN_COLUMNS:
            expected = {"time": "datetime64[ms, UTC]"}.get(column.dtype, column.dtype)
            assert str(frame[column.name].dtype) == expected, column.name

    def test_of_two_runs_with_one_key_the_finished_one_is_kept(
        self, store: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        frame = load_runs(store, "desk").set_index("key")
        assert (frame.loc["twice", "status"], frame.loc["twice", "loss"]) == ("finished", 2.0)
        assert "recorded twice" in caplog.text

    def test_picks_sweeps_and_families(self, store: str) -> None:
        assert len(load_runs(store)) == 5
        assert load_runs(store, "evening")["key"].tolist() == ["1234e567"]
        assert set(load_runs(store, ["desk"], ["uniform"])["key"]) == {"bb", "ccc"}
        with pytest.raises(UserError, match=r"sweep 'dusk' is not in .*which has: desk, evening"):
            load_runs(store, "dusk")
        with pytest.raises(UserError, match=r"family 'foo' is not in .*which has: ar, uniform"):
            load_runs(store, "desk", "foo")

    def test_reading_changes_nothing(self, store: str) -> None:
        path = Path(store.removeprefix("sqlite:///"))
        before = path.read_bytes()
        load_runs(store)
        loss_curves(store)
        assert path.read_bytes() == before
        assert [file.name for file in path.parent.iterdir()] == ["mlflow.db"]

    def test_while_a_writer_holds_the_file(self, store: str) -> None:
        writer = sqlite3.connect(store.removeprefix("sqlite:///"))
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE tags SET value = 'x' WHERE key = 'scaling.host'")
        try:
            assert set(load_runs(store, "desk")["host"]) == {"a"}
        finally:
            writer.rollback()
            writer.close()

    def test_loads_without_importing_mlflow(self, store: str) -> None:
        code = f"import sys, analysis; analysis.load_runs({store!r}); assert 'mlflow' not in sys.modules"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


class TestCurves:
    def test_later_attempt_wins_and_compute_is_counted_to_the_step(self, store: str) -> None:
        curve = loss_curves(store, "desk")
        assert tuple(curve.columns) == CURVE_COLUMNS
        assert set(curve["key"]) == {"aaaa"}
        assert curve["held_out_loss"].isna().all()
        assert curve[["step", "loss"]].to_numpy().tolist() == [[10, 4.5], [20, 4.0], [100, 3.0]]
        run = row("aaaa")
        np.testing.assert_allclose(curve["tokens"], curve["step"] * 128 * 8, rtol=0)
        # rounding of one division and one product
        np.testing.assert_allclose(curve["flops"], curve["tokens"] * run["flops"] / run["tokens"], rtol=1e-15)

    def test_files(self, store: str, tmp_path: Path) -> None:
        curve = loss_curves(store)
        curve.to_parquet(tmp_path / "curves.parquet")
        pd.testing.assert_frame_equal(
            loss_curves(tmp_path / "curves.parquet"), curve, check_column_type=False
        )
        curve.assign(labels="3 kind", distilled_from=None).to_csv(tmp_path / "labelled.csv", index=False)
        labelled = loss_curves(tmp_path / "labelled.csv")
        assert tuple(labelled.columns) == (*CURVE_COLUMNS, "labels"), "what an envelope does not read"
        pd.DataFrame([row("a")]).to_csv(tmp_path / "runs.csv")
        with pytest.raises(UserError, match=r"runs\.csv has no loss curves"):
            loss_curves(tmp_path / "runs.csv")


class TestFiles:
    @pytest.mark.parametrize("suffix", ["csv", "parquet"])
    def test_round_trip(self, store: str, tmp_path: Path, suffix: str) -> None:
        frame = load_runs(store)
        path = tmp_path / f"runs.{suffix}"
        frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path, index=False)
        pd.testing.assert_frame_equal(load_runs(path), frame)
        assert load_runs(str(path), sweep="evening")["key"].tolist() == ["1234e567"]  # a key, not a number

    def test_three_columns_are_enough_and_integers_become_floats(self, tmp_path: Path) -> None:
        (tmp_path / "runs.csv").write_text("loss,note,tokens,params\n3.5,a,320000000000,6800000000\n")
        frame = load_runs(tmp_path / "runs.csv")
        assert list(frame.columns) == ["params", "tokens", "loss", "note"]
        # as int64 this product wraps around to 6.4e18
        assert float((6 * frame["params"] * frame["tokens"]).iloc[0]) == 6 * 6.8e9 * 3.2e11

    def test_params_from_params_non_embedding(self, tmp_path: Path) -> None:
        (tmp_path / "runs.csv").write_text("params_non_embedding,tokens,loss\n10,20,3\n")
        assert load_runs(tmp_path / "runs.csv")["params"].tolist() == [10.0]

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("params,tokens,los\n1,2,3\n", "has no column loss: .* it has params, tokens, los"),
            ("a\n1\n", "has no column params, tokens or loss: a run table needs"),
            (
                "params,tokens,loss\n1,2,3\n1,many,3\n",
                "column tokens, row 2 holds 'many', which is not a number",
            ),
            ("params,tokens,loss\n", "holds no runs yet"),
            ("", "is empty: a run table needs params, tokens and loss"),
        ],
    )
    def test_bad_csv(self, tmp_path: Path, text: str, sentence: str) -> None:
        (tmp_path / "runs.csv").write_text(text)
        with pytest.raises(UserError, match=sentence):
            load_runs(tmp_path / "runs.csv")

    def test_no_such_column_to_pick_from(self, tmp_path: Path) -> None:
        (tmp_path / "runs.csv").write_text("params,tokens,loss\n1,2,3\n")
        with pytest.raises(UserError, match="has no column family"):
            load_runs(tmp_path / "runs.csv", family="ar")

    def test_not_parquet(self, tmp_path: Path) -> None:
        (tmp_path / "runs.parquet").write_text("params,tokens,loss\n")
        with pytest.raises(UserError, match="cannot be read as a parquet table"):
            load_runs(tmp_path / "runs.parquet")

    @pytest.mark.parametrize("suffix", ["csv", "parquet"])
    @pytest.mark.parametrize(
        "seeds",
        [[2**60 + 1, None, 3], [17982163893102248868, 1, 2], [10**40, -(2**70), 0], ["17-b", "1", None]],
    )
    def test_seeds_of_any_size_survive_file_and_export(
        self, tmp_path: Path, suffix: str, seeds: list[Any]
    ) -> None:
        frame = pd.DataFrame(
            {"params": 1.0, "tokens": 2.0, "loss": 3.0, "seed": pd.Series(seeds, dtype=object)}
        )
        path = tmp_path / f"runs.{suffix}"
        frame = typed(frame, "here")
        frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path, index=False)
        back = load_runs(path)["seed"]
        assert [None if pd.isna(seed) else str(seed) for seed in back] == [
            None if seed is None else str(seed) for seed in seeds
        ]

    def test_a_bad_value_of_another_sweep_does_not_matter(self, tmp_path: Path) -> None:
        path = tmp_path / "runs.csv"
        path.write_text("sweep,params,tokens,loss\na,1,2,3\nb,1,many,3\n")
        assert load_runs(path, "a")["tokens"].tolist() == [2.0]
        with pytest.raises(UserError, match="column tokens, row 2 holds 'many', which is not a number"):
            load_runs(path, "b")

    def test_times_of_any_form_are_read_or_missing(self, tmp_path: Path) -> None:
        path = tmp_path / "runs.csv"
        path.write_text(
            "params,tokens,loss,started\n1,2,3,2026-03-01 10:00:00.125+00:00\n1,2,4,2026-03-01 10:00:00\n"
            "1,2,5,yesterday\n1,2,6,\n1,2,7,2026-03-01T11:00:00+01:00\n"
        )
        started = load_runs(path)["started"]
        ten = pd.Timestamp("2026-03-01 10:00", tz="UTC")
        assert started.isna().tolist() == [False, False, True, True, False]
        assert started.dropna().tolist() == [ten + pd.Timedelta(125, "ms"), ten, ten]

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("params,tokens,loss\n1,2,3,\n", "line 2 has 4 fields and the heading 3"),
            ('params,tokens,loss\n1,2,"3\n"\n1,2,3\n1,2,3,40,5\n', "line 5 has 5 fields and the heading 3"),
            ("params,tokens,loss,loss\n1,2,3,4\n", "more than one column is called loss"),
            ("\ufeffparams,tokens,loss,params\n1,2,3,4\n", "more than one column is called params"),
        ],
    )
    def test_a_table_out_of_step_is_refused(self, tmp_path: Path, text: str, sentence: str) -> None:
        (tmp_path / "runs.csv").write_text(text)
        with pytest.raises(UserError, match=sentence) as caught:
            load_runs(tmp_path / "runs.csv")
        assert "\n" not in str(caught.value)

    def test_levels_of_a_parquet_index_are_columns(self, tmp_path: Path) -> None:
        frame = pd.DataFrame({"family": ["ar"], "params": [1.0], "tokens": [2.0], "loss": [3.0], "x": [7]})
        frame.set_index(["family", "params"]).to_parquet(tmp_path / "named.parquet")
        assert load_runs(tmp_path / "named.parquet", family="ar")["params"].tolist() == [1.0]
        frame.set_index("x", drop=False).to_parquet(tmp_path / "twice.parquet")
        with pytest.raises(UserError, match="more than one column is called x"):
            load_runs(tmp_path / "twice.parquet")

    def test_names_from_outside_cannot_move_a_cursor(self, tmp_path: Path) -> None:
        path = tmp_path / "runs.csv"
        path.write_text("params,tokens,loss,family\n1,2,3,a\x1b[2Jr\n")
        assert load_runs(path, family=r"a\x1b[2Jr")["family"].tolist() == [r"a\x1b[2Jr"]
        with pytest.raises(UserError, match=r"which has: a\\x1b\[2Jr$"):
            load_runs(path, family="b")


class TestBadStores:
    def test_missing_database_is_not_created(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="does not exist"):
            load_runs(f"sqlite:///{tmp_path}/mlflow.db")
        with pytest.raises(UserError, match="does not exist"):
            load_runs(tmp_path / "runs.csv")
        assert not list(tmp_path.iterdir())

    def test_newer_schema(self, store: str) -> None:
        with sqlite3.connect(store.removeprefix("sqlite:///")) as connection:
            connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        with pytest.raises(UserError, match=r"revision ffffffffffff, which .* MLflow .* does not know"):
            load_runs(store)

    def test_older_schema(self, store: str) -> None:
        with sqlite3.connect(store.removeprefix("sqlite:///")) as connection:
            connection.execute("ALTER TABLE latest_metrics RENAME COLUMN is_nan TO was_nan")
        with pytest.raises(UserError, match=r"older MLflow .table latest_metrics lacks is_nan"):
            load_runs(store)

    def test_another_database(self, tmp_path: Path) -> None:
        with sqlite3.connect(tmp_path / "ledger.db") as connection:
            connection.execute("CREATE TABLE claims (key TEXT)")
        with pytest.raises(UserError, match="is not an MLflow database"):
            load_runs(tmp_path / "ledger.db")

    def test_no_database_at_all(self, tmp_path: Path) -> None:
        (tmp_path / "mlflow.db").write_text("hello " * 100)
        with pytest.raises(UserError, match="file is not a database"):
            load_runs(tmp_path / "mlflow.db")

    def test_no_runs_yet(self, store: str) -> None:
        with sqlite3.connect(store.removeprefix("sqlite:///")) as connection:
            connection.execute("DELETE FROM tags")
        with pytest.raises(UserError, match="holds no runs yet"):
            load_runs(store)
        with pytest.raises(UserError, match="holds no runs yet"):
            load_runs(store, sweep="desk")

    @pytest.mark.parametrize("address", ["runs.xlsx", "mysql://me:secret@host/db", "runs"])
    def test_unknown_kind(self, address: str) -> None:
        with pytest.raises(UserError, match=r"store is .* which is not one of") as caught:
            load_runs(address)
        assert "secret" not in str(caught.value)

    def test_a_folder_and_files_that_are_no_table_are_called_what_they_are(self, tmp_path: Path) -> None:
        (tmp_path / "folder.csv").mkdir()
        (tmp_path / "empty.csv").touch()
        (tmp_path / "picture.csv").write_bytes(b"\x89PNG\r\n\x1a\n")
        for name, says in (
            ("folder.csv", "is a folder: give the path"),
            ("empty.csv", "is empty: a run table needs params, tokens and loss"),
            ("picture.csv", "is not UTF-8 text at byte 0: save it as CSV in UTF-8"),
        ):
            with pytest.raises(UserError, match=says):
                load_runs(tmp_path / name)

    def test_unreadable_number(self, store: str) -> None:
        with sqlite3.connect(store.removeprefix("sqlite:///")) as connection:
            connection.execute(f"UPDATE params SET value = 'many' WHERE key = 'tokens' AND {OF_DESK}")
        with pytest.raises(UserError, match=r"column tokens, run [0-9a-f]{32} holds 'many', which is no"):
            load_runs(store, "desk")

    def test_a_bad_value_hides_no_other_sweep(self, store: str, caplog: pytest.LogCaptureFixture) -> None:
        with sqlite3.connect(store.removeprefix("sqlite:///")) as connection:
            connection.execute(f"UPDATE params SET value = 'many' WHERE key = 'tokens' AND {OF_DESK}")
            connection.execute(f"UPDATE params SET value = '\"it' WHERE key = 'size' AND {OF_DESK}")
        assert load_runs(store, "evening")["tokens"].tolist() == [row("1234e567")["tokens"]]
        assert not [record for record in caplog.records if "many" in record.message]
        together = load_runs(store).set_index("sweep")
        assert together["tokens"].notna().tolist() == [name == "evening" for name in together.index]
        assert "holds 'many', which is not a number; it counts as missing (4 such values" in caplog.text

    def test_a_seed_of_any_size_is_read_and_no_obstacle(self, store: str) -> None:
        with sqlite3.connect(store.removeprefix("sqlite:///")) as connection:
            connection.execute(
                f"UPDATE params SET value = '17982163893102248868' WHERE key = 'seed' AND {OF_DESK}"
            )
        assert set(load_runs(store, "desk")["seed"]) == {"17982163893102248868"}
        assert load_runs(store, "evening")["seed"].tolist() == [2**40 + 1]
        assert set(load_runs(store)["seed"]) == {"17982163893102248868", str(2**40 + 1)}


class TestServers:
    def test_nobody_listens(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # bound, not listening: nobody else can listen there either
            port = taken.getsockname()[1]
            with pytest.raises(UserError, match="does not answer"):
                load_runs(f"http://127.0.0.1:{port}")
            driver = importlib.util.find_spec("psycopg")
            expected = "cannot be opened" if driver else "needs a PostgreSQL driver"
            with pytest.raises(UserError, match=expected) as caught:
                load_runs(f"postgresql://me:secret@127.0.0.1:{port}/mlflow")
        assert "secret" not in str(caught.value)

    def test_a_silent_server(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mlflow_tables, "CONNECT_TIMEOUT_S", 0.2)
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            began = time.monotonic()
            with pytest.raises(UserError, match=r"does not answer .*timed out"):
                load_runs(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - began < 3

    def test_a_failing_server_and_no_mlflow_server(self) -> None:
        for code, sentence in ((503, "is failing .HTTP 503"), (404, "refused")):
            with _answering(code) as address, pytest.raises(UserError, match=sentence):
                load_runs(address)

    @pytest.mark.slow
    def test_a_real_server_gives_the_same_table(self, store: str, tmp_path: Path) -> None:
        with mlflow_server(store, tmp_path) as server:
            address = server.address
            pd.testing.assert_frame_equal(
                load_runs(address).set_index("mlflow_run_id").sort_index(),
                load_runs(store).set_index("mlflow_run_id").sort_index(),
            )
            pd.testing.assert_frame_equal(loss_curves(address), loss_curves(store))
            with pytest.raises(UserError, match="which has: desk, evening"):
                load_runs(address, "dusk")


class _answering:
    """An HTTP server that answers everything with one status."""

    def __init__(self, code: int) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(code)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> str:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


class TestColumns:
    def test_every_column_says_what_it_is(self) -> None:
        assert len(BY_NAME) == len(RUN_COLUMNS)
        for column in RUN_COLUMNS:
            assert column.meaning
            assert column.dtype in ("str", "float64", "Int64", "time")
            assert column.home in ("param", "tag", "metric", "run")
        assert all(status in BY_NAME["status"].meaning for status in STATUSES)

    def test_unknown_column_is_refused_when_writing(self) -> None:
        with pytest.raises(ValueError, match="'los' is not a column"):
            to_mlflow({"los": 1.0})

    def test_missing_values_are_not_written(self) -> None:
        assert to_mlflow({"loss": math.nan, "size": None, "seed": pd.NA, "host": None}) == ({}, {}, {})

    @given(st.text(max_size=50), st.floats(allow_nan=False), st.integers(-(2**62), 2**62))
    def test_parameters_survive_the_trip(self, text: str, number: float, seed: int) -> None:
        params, _, _ = to_mlflow({"corpus": text, "tokens": number, "seed": seed})
        assert parse_text(BY_NAME["corpus"], params["corpus"]) == text
        assert parse_text(BY_NAME["tokens"], params["tokens"]) == number
        assert parse_text(BY_NAME["seed"], params["seed"]) == seed

    def test_plain_text_and_missing_text_are_understood(self) -> None:
        assert parse_text(BY_NAME["size"], "6M") == "6M"
        assert parse_text(BY_NAME["tokens"], "None") is None

    @pytest.mark.parametrize(
        ("word", "status"),
        [
            ("FINISHED", "finished"),
            ("completed", "finished"),
            (" Success ", "finished"),
            ("done", "finished"),
            ("OK", "finished"),
            ("crashed", "failed"),
            ("FAILED", "failed"),
            ("killed", "cancelled"),
            ("RUNNING", "running"),
            ("diverged", "diverged"),
            ("Pruned\n", "Pruned\\n"),
        ],
    )
    def test_states_of_other_tools_are_understood(self, word: str, status: str) -> None:
        assert typed(pd.DataFrame({"status": [word, None]}), "here")["status"].tolist()[0] == status

    def test_typed_keeps_missing_text_missing(self) -> None:
        frame = typed(pd.DataFrame({"family": ["ar", None], "loss": ["1.5", None]}), "here")
        assert frame["family"].isna().tolist() == [False, True]
        assert frame["loss"].isna().tolist() == [False, True]
