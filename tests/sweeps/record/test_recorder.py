"""The recorder: nothing lost, nothing twice, whatever the store does; and the check before a sweep."""

from __future__ import annotations

import itertools
import math
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.attempt.journal import JOURNAL, Journal, attempt_folder, run_folder
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.types import State
from sweeps.record.recorder import Recorder
from sweeps.record.store import GoneError
from sweeps.record.tracking import MlflowStore, check_tracking, tracking_uri
from tests.sweeps.recording import record
from tests.sweeps.simulation import Clock, entry, other_owner


@pytest.fixture(autouse=True)
def no_synced_writes(monkeypatch):
    """The power does not fail here."""
    monkeypatch.setattr("sweeps.ledger.file.SYNCHRONOUS", "OFF")


class MemoryStore:
    """A store in memory with MLflow's rules; `fails` decides, call by call, whether it is out of order.

    A call that fails may have done its work before: a cut connection does not say.
    """

    def __init__(self, fails=lambda call: False):
        self.fails = fails
        self.calls, self.ids = itertools.count(), itertools.count()
        self.runs: dict[str, dict] = {}
        self.identity = "1@1000"
        self.pinned: dict[str, str] = {}

    def _maybe_fail(self):
        if self.fails(next(self.calls)):
            raise ConnectionError("the tracking server is gone")

    def _run(self, run_id):
        if run_id not in self.runs:
            raise GoneError(run_id)
        return self.runs[run_id]

    def open(self, identity=None):
        self._maybe_fail()
        return self.identity

    def keys(self):
        self._maybe_fail()
        return {run_id: run["key"] for run_id, run in reversed(self.runs.items())}

    def steps(self, run_id, names):
        self._maybe_fail()
        points = self._run(run_id)["points"]
        return {name: {step for n, step, _, _ in points if n == name} for name in names}

    def create(self, key, name, started, tags):
        self._maybe_fail()
        run_id = f"id{next(self.ids)}"
        self.runs[run_id] = {
            "key": key,
            "name": name,
            "started": started,
            "ended": None,
            "status": "RUNNING",
            "points": set(),
            "params": {},
            "tags": dict(tags),
        }
        self._maybe_fail()
        return run_id

    def log(self, run_id, points, params=None, tags=None):
        self._maybe_fail()
        run = self._run(run_id)
        assert all(run["params"].get(name, value) == value for name, value in (params or {}).items())
        run["params"] |= params or {}
        run["tags"] |= tags or {}
        run["points"] |= {(p.name, p.step, p.at, p.value) for p in points}
        self._maybe_fail()

    def set_status(self, run_id, status, ended):
        self._maybe_fail()
        self._run(run_id).update(status=status, ended=ended)

    def tags(self):
        self._maybe_fail()
        return dict(self.pinned)

    def set_tag(self, name, value):
        self._maybe_fail()
        self.pinned[name] = value
        self._maybe_fail()

    def delete_tag(self, name):
        self._maybe_fail()
        self.pinned.pop(name, None)

    def of(self, key):
        [run] = [run for run in self.runs.values() if run["key"] == key]
        return run

    def curve(self, key, name="train_loss"):
        return sorted((step, at, value) for n, step, at, value in self.of(key)["points"] if n == name)


class Sweep:
    """A ledger and journals, written as drivers and workers would."""

    def __init__(self, folder: Path, clock: Clock, *, driver: str = "me"):
        self.clock, self.folder = clock, folder
        self.ledger = Ledger(folder / "ledger", now=clock, uptime=clock, owner=other_owner(driver))
        self.ledger.enlist()

    def attempt(self, key, steps, *, resumed=0, state=State.FINISHED, loss=1.0, measured=(), bounds=()):
        """bounds: of its replicas; None of one that has diverged."""
        planned = entry(key)
        planned = replace(planned, spec=replace(planned.spec, replicas=max(1, len(bounds))))
        self.ledger.register([planned])
        claim = self.ledger.claim(key)
        path = attempt_folder(run_folder(self.folder, "uniform", key), claim.attempt) / JOURNAL
        with Journal(path, now=self._tick) as lines:
            lines.append({"kind": "start", "key": key})
            lines.append({"kind": "resumed", "step": resumed})
            for step in steps:
                numbers = {"step": step, "loss": loss / step, "learning_rate": 1e-3, "tokens": step * 80}
                lines.append({"kind": "train", **numbers})
                if step in measured:
                    values = {"held_out_loss": 2 / step, "held_out_loss_se": 0.25}
                    lines.append({"kind": "held_out", "step": step, **values})
            lines.append({"kind": "end"})
        if state != State.RUNNING:
            result = {"bound": 1.5, "bound_se": 0.1, "steps_done": max(steps, default=0), "train_s": 3.0}
            result["replicas"] = [
                {"status": "diverged" if bound is None else "finished", "bound": bound, "bound_se": 0.2}
                for bound in bounds
            ]
            facts = {"host": "h", "device": "cpu"}
            self.ledger.end(claim, state, sentence="as told", result=result, facts=facts)
        return claim

    def _tick(self):
        self.clock.sleep(0.5)
        return self.clock()


@pytest.fixture
def sweep(tmp_path):
    sweep = Sweep(tmp_path / "desk", Clock())
    yield sweep
    sweep.ledger.close()


def test_a_finished_run_is_recorded_with_its_own_times(sweep):
    sweep.attempt("k", [10, 20, 30])
    store = MemoryStore()
    recorder = Recorder(sweep.ledger, "desk", store)
    assert recorder.waiting() == 1
    sweep.clock.sleep(3600)  # an hour without a server changes no time
    recorder.pass_once()
    assert recorder.waiting() == 0
    run = store.of("k")
    assert run["started"] == 1e9 + 0.5
    assert run["ended"] == 1e9 + 3.0
    assert run["status"] == "FINISHED"
    assert store.curve("k") == [(10, 1e9 + 1.5, 0.1), (20, 1e9 + 2.0, 0.05), (30, 1e9 + 2.5, 1 / 30)]
    assert [step for step, _, _ in store.curve("k", "train_learning_rate")] == [10, 20, 30]
    assert ("loss", 30, 1e9 + 3.0, 1.5) in run["points"]
    assert ("loss_se", 30, 1e9 + 3.0, 0.1) in run["points"]
    assert run["params"]["size"] == "4k"
    assert (run["params"]["family"], run["tags"]["state"]) == ("uniform", "finished")
    assert run["params"]["budget"] == "1000000000.0"
    expected = {
        "scaling.key": "k",
        "scaling.sweep": "desk",
        "scaling.status": "finished",
        "scaling.host": "h",
    }
    assert run["tags"].items() >= {k: v for k, v in expected.items() if k != "scaling.key"}.items()
    assert run["name"] == "uniform 4k 1.0e+09"
    assert sweep.ledger.run_ids() == {"k": "id0"}


def test_new_runs_are_recorded_without_looking_for_each_of_them(sweep):
    class CountingStore(MemoryStore):
        looks = 0

        def keys(self):
            self.looks += 1
            return super().keys()

        def steps(self, run_id, names):
            self.looks += 1
            return super().steps(run_id, names)

    for key in "abc":
        sweep.attempt(key, range(1, 251))
    store = CountingStore()
    Recorder(sweep.ledger, "desk", store).pass_once()
    assert [len(store.curve(key)) for key in "abc"] == [250] * 3
    assert store.looks == 1, "the runs that are there are listed once; a run that was just made has no points"


def test_a_running_run_is_followed_and_told_once(sweep):
    sweep.attempt("k", [1, 2], state=State.RUNNING)
    store = MemoryStore()
    recorder = Recorder(sweep.ledger, "desk", store)
    recorder.pass_once()
    recorder.pass_once()
    assert [step for step, _, _ in store.curve("k")] == [1, 2]
    assert store.of("k")["status"] == "RUNNING"
    assert recorder.waiting() == 1  # it goes on


def test_what_a_later_attempt_does_again_is_not_sent_again(sweep):
    sweep.attempt("k", [10, 20, 30], state=State.PREEMPTED)
    store = MemoryStore()
    recorder = Recorder(sweep.ledger, "desk", store)
    recorder.pass_once()
    assert store.of("k")["status"] == "SCHEDULED"
    sweep.attempt("k", [20, 30, 40], resumed=15)
    recorder.pass_once()
    assert [step for step, _, _ in store.curve("k")] == [10, 20, 30, 40]
    assert store.of("k")["status"] == "FINISHED"
    assert store.of("k")["tags"]["scaling.attempt"] == "2"


def test_held_out_losses_are_sent_once_with_their_errors(sweep, tmp_path):
    sweep.attempt("k", [10, 20, 30], state=State.PREEMPTED, measured=(10, 30))
    store = MemoryStore()
    Recorder(sweep.ledger, "desk", store).pass_once()
    sweep.attempt("k", [20, 30, 40], resumed=15, measured=(30, 40))
    Recorder(sweep.ledger, "desk", store).pass_once()
    sent = [(step, value) for step, _, value in store.curve("k", "held_out_loss")]
    assert sent == [(10, 0.2), (30, 2 / 30), (40, 0.05)]
    assert [step for step, _, _ in store.curve("k", "held_out_loss_se")] == [10, 30, 40]
    assert [step for step, _, _ in store.curve("k")] == [10, 20, 30, 40]
    again = Sweep(tmp_path / "again" / "desk", Clock())  # the ledger is lost, the store kept
    again.attempt("k", [10, 20, 30, 40], measured=(10, 30, 40))
    Recorder(again.ledger, "desk", store).pass_once()
    assert len(store.curve("k", "held_out_loss")) == 3
    again.ledger.close()


@pytest.mark.parametrize(
    ("state", "status"), [(State.DIVERGED, "FAILED"), (State.FAILED, "FAILED"), (State.CANCELLED, "KILLED")]
)
def test_ends_that_are_not_finished(sweep, state, status):
    sweep.attempt("k", [1, 2, 3], state=state)
    store = MemoryStore()
    Recorder(sweep.ledger, "desk", store).pass_once()
    run = store.of("k")
    assert (run["status"], run["tags"]["scaling.status"]) == (status, str(state))
    assert run["tags"]["scaling.sentence"] == "as told"
    assert "loss" not in {name for name, *_ in run["points"]}
    assert run["tags"].get("scaling.last_good_step") == ("3" if state == State.DIVERGED else None)


def test_numbers_no_store_can_keep_are_left_out(sweep):
    sweep.attempt("k", [1, 2], loss=math.inf)
    store = MemoryStore()
    Recorder(sweep.ledger, "desk", store).pass_once()
    assert store.curve("k") == []
    assert len(store.curve("k", "train_tokens")) == 2


@settings(max_examples=15)
@given(failing=st.sets(st.integers(0, 40)))
def test_a_store_that_fails_at_any_calls_ends_with_each_record_once(tmp_path_factory, failing):
    """Any call may fail, before or after it did its work; a new recorder each time, as after a kill."""
    sweep = Sweep(tmp_path_factory.mktemp("sweep") / "desk", Clock())
    sweep.attempt("a", range(1, 8), state=State.PREEMPTED, measured=(2, 6))
    sweep.attempt("a", range(5, 12), resumed=4, measured=(6, 11))
    sweep.attempt("b", range(1, 130), bounds=(1.25, None, 1.75))
    perfect, store = MemoryStore(), MemoryStore(lambda call: call in failing)
    for _ in range(len(failing) + 1):
        try:
            Recorder(sweep.ledger, "desk", store).pass_once()
        except ConnectionError:
            continue
    sweep.ledger.close()
    again = Sweep(tmp_path_factory.mktemp("other") / "desk", Clock())
    again.attempt("a", range(1, 8), state=State.PREEMPTED, measured=(2, 6))
    again.attempt("a", range(5, 12), resumed=4, measured=(6, 11))
    again.attempt("b", range(1, 130), bounds=(1.25, None, 1.75))
    Recorder(again.ledger, "desk", perfect).pass_once()
    again.ledger.close()
    for key in "ab":
        assert store.of(key) == perfect.of(key)
    assert store.of("b")["params"]["replicas"] == "3"
    finals = {name: value for name, _, _, value in store.of("b")["points"] if name.startswith("replica_")}
    assert {name: value for name, value in finals.items() if name.endswith("/loss")} == {
        "replica_0/loss": 1.25,
        "replica_2/loss": 1.75,
    }
    for key in "ab":
        assert [step for step, _, _ in store.curve(key)] == list(range(1, 12 if key == "a" else 130))


def test_a_run_that_somebody_deleted_is_told_again(sweep):
    sweep.attempt("k", [1, 2], state=State.PREEMPTED)
    store = MemoryStore()
    recorder = Recorder(sweep.ledger, "desk", store)
    recorder.pass_once()
    store.runs.clear()
    sweep.attempt("k", [3], resumed=2)
    recorder.pass_once()
    assert [step for step, _, _ in store.curve("k")] == [1, 2, 3]


def test_a_run_that_somebody_deleted_after_its_end_is_recorded_by_the_next_sweep(sweep):
    sweep.attempt("k", [1, 2, 3])
    sweep.attempt("l", [1, 2])
    store = MemoryStore()
    Recorder(sweep.ledger, "desk", store).pass_once()
    whole = store.of("k")
    del store.runs["id0"]
    recorder = Recorder(sweep.ledger, "desk", store)
    assert recorder.waiting() == 2  # until it knows the store
    recorder.pass_once()
    assert recorder.waiting() == 0
    assert store.of("k") == whole
    assert len(store.curve("l")) == 2


def test_a_new_ledger_goes_on_with_what_the_store_has(tmp_path, sweep):
    """The sweep's folder was removed, the store kept: the same run again has other times."""
    sweep.attempt("k", [1, 2, 3])
    store = MemoryStore()
    Recorder(sweep.ledger, "desk", store).pass_once()
    whole = {**store.of("k")}
    again = Sweep(tmp_path / "again" / "desk", Clock())
    again.clock.sleep(1000)
    for steps, state in (([1, 2], State.RUNNING), ([1, 2, 3], State.FINISHED)):
        again.ledger._gone = lambda owner: True  # the first attempt's driver dies
        again.attempt("k", steps, state=state)
        Recorder(again.ledger, "desk", store).pass_once()
    assert store.of("k")["points"] == whole["points"]
    again.attempt("m", [1])
    Recorder(again.ledger, "desk", store).pass_once()
    assert len(store.runs) == 2
    again.ledger.close()


def test_a_new_ledger_sends_what_the_store_lacks(tmp_path, sweep):
    sweep.attempt("k", [1, 2], state=State.PREEMPTED)
    store = MemoryStore()
    Recorder(sweep.ledger, "desk", store).pass_once()
    again = Sweep(tmp_path / "again" / "desk", Clock())
    again.attempt("k", [1, 2, 3, 4])
    Recorder(again.ledger, "desk", store).pass_once()
    assert [step for step, _, _ in store.curve("k")] == [1, 2, 3, 4]
    assert ("loss", 4, 1e9 + 3.5, 1.5) in store.of("k")["points"]
    again.ledger.close()


def test_another_store_gets_the_whole_story(sweep):
    sweep.attempt("k", [1, 2])
    Recorder(sweep.ledger, "desk", MemoryStore()).pass_once()
    fresh = MemoryStore()
    fresh.identity = "1@2000"  # the same place, but somebody deleted the file
    recorder = Recorder(sweep.ledger, "desk", fresh)
    recorder.pass_once()
    assert len(fresh.curve("k")) == 2


def test_of_two_recorders_one_records(tmp_path, sweep):
    sweep.attempt("k", [1, 2])
    other = Sweep(tmp_path / "desk", sweep.clock, driver="other")
    stores = [MemoryStore(), MemoryStore()]
    assert other.ledger.hold("recorder")
    mine = Recorder(sweep.ledger, "desk", stores[0], every_s=0.01)
    mine.start()
    time.sleep(0.1)
    assert stores[0].runs == {}
    other.ledger.release("recorder")
    assert mine.close(5.0) == 0
    assert len(stores[0].curve("k")) == 2
    other.ledger.close()


def test_a_store_that_comes_back_gets_everything_before_the_end(sweep):
    sweep.attempt("k", [1, 2, 3])
    store = MemoryStore(lambda call: call < 3)
    recorder = Recorder(sweep.ledger, "desk", store, every_s=0.01)
    recorder.start()
    assert recorder.close(5.0) == 0
    assert recorder.trouble is None
    assert len(store.curve("k")) == 3


def test_a_store_that_stays_away_is_waited_for_no_longer_than_the_grace(sweep):
    sweep.attempt("k", [1, 2, 3])
    recorder = Recorder(sweep.ledger, "desk", MemoryStore(lambda call: True), every_s=0.01)
    recorder.start()
    start = time.monotonic()
    assert recorder.close(0.5) == 1
    assert time.monotonic() - start < 3
    assert "the tracking server is gone" in recorder.trouble


# -- MLflow itself ------------------------------------------------------------------------------


def test_mlflow_on_sqlite_end_to_end(tmp_path, sweep, monkeypatch):
    import analysis

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = tracking_uri(tmp_path)
    assert uri == f"sqlite:///{tmp_path}/mlflow.db"
    check_tracking(uri)  # creates nothing
    assert not (tmp_path / "mlflow.db").exists()
    sweep.attempt("a", [1, 2, 3], state=State.PREEMPTED)
    sweep.attempt("b", [1], state=State.DIVERGED)
    assert record("desk", tmp_path, uri) == 0
    sweep.attempt("a", [3, 4], resumed=2)
    assert record("desk", tmp_path, uri) == 0
    assert record("desk", tmp_path, uri) == 0
    check_tracking(uri)
    db = sqlite3.connect(tmp_path / "mlflow.db")
    points = db.execute(
        "SELECT m.step, m.timestamp, m.value FROM metrics m JOIN tags t ON t.run_uuid = m.run_uuid "
        "WHERE t.key = 'scaling.key' AND t.value = 'a' AND m.key = 'train_loss' ORDER BY step"
    ).fetchall()
    assert [(step, value) for step, _, value in points] == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25)]
    assert points[0][1] == 1_000_000_001_500
    runs = db.execute("SELECT name, status, start_time FROM runs ORDER BY start_time").fetchall()
    db.close()
    assert runs[0] == ("uniform 4k 1.0e+09", "FINISHED", 1_000_000_000_500)
    assert [status for _, status, _ in runs] == ["FINISHED", "FAILED"]
    table = analysis.load_runs(uri, sweep="desk").set_index("key")
    assert table.loc["a", "loss"] == 1.5
    assert table.loc["a", "budget"] == 1e9
    assert table.loc["a", "wall_s"] == 3.0
    assert table.loc["a", "status"] == "finished"
    assert table.loc["b", "status"] == "diverged"

    store = MlflowStore(uri, "desk")
    store.open()
    ids = {key: run_id for run_id, key in store.keys().items()}
    assert set(ids) == {"a", "b"}
    run_id = ids["a"]
    store._client.delete_run(run_id)
    with pytest.raises(GoneError):
        store.log(run_id, [], tags={"x": "y"})


def test_parameters_of_an_earlier_version_stay_as_they_are(tmp_path, sweep):
    import analysis

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    store = MlflowStore(uri, "desk")
    store.open()
    run_id = store.create("k", "k", 1e9, {"scaling.sweep": "desk"})
    store.log(run_id, [], params={"size": "'4k'", "corpus": "'text:x'"})
    sweep.attempt("k", [1])
    assert record("desk", tmp_path, uri) == 0
    assert store._client.get_run(run_id).data.params["size"] == "'4k'"
    row = analysis.load_runs(uri, sweep="desk").set_index("key").loc["k"]
    assert (row["size"], row["budget"]) == ("4k", 1e9)


def test_a_renamed_experiment_is_recorded_to_and_audited(tmp_path, sweep):
    from sweeps.record.recorded import experiment_name, recorded_runs
    from sweeps.record.recorder import read_note

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    sweep.attempt("a", [1, 2])
    recorder = Recorder(sweep.ledger, "desk", uri, every_s=0.01)
    recorder.start()
    assert recorder.close(30.0) == 0
    store = MlflowStore(uri, "desk")
    identity = store.open()
    store._client.rename_experiment(identity.partition("@")[0], "our best")
    sweep.attempt("b", [1])
    again = Recorder(sweep.ledger, "desk", uri, every_s=0.01)
    again.start()
    assert again.close(30.0) == 0
    there = experiment_name(uri, "desk", read_note(sweep.ledger, uri)["identity"])
    assert there == "our best"
    assert sorted(run.key for run in recorded_runs(uri, there)) == ["a", "b"]
    assert recorded_runs(uri, "desk") == []
    assert experiment_name(uri, "desk", "7@7") == "desk"
