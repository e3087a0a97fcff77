"""The audit: silent on a sweep that is right, and it finds each thing that could be wrong."""

from __future__ import annotations

import json
import sqlite3

import pytest

from sweeps.attempt.journal import JOURNAL, Journal, attempt_folder, run_folder
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.types import State
from sweeps.record.recorded import recorded_run, recorded_runs
from sweeps.show.audit import audit
from sweeps.show.remote import run_audit
from tests.sweeps.recording import record
from tests.sweeps.simulation import entry
from tests.sweeps.tiny import tiny_data, tiny_entry

STEPS = 40


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep of three runs, one of them in two attempts, recorded in SQLite."""
    out = tmp_path_factory.mktemp("out")
    with Ledger(out / "s" / "ledger") as ledger:
        ledger.register(entry(key) for key in "abc")
        for key in "ab":
            train(ledger, out, key, range(1, STEPS + 1))
        train(ledger, out, "c", range(1, 25), state=State.WAITING)
        train(ledger, out, "c", range(21, STEPS + 1), resumed=20)
    assert record("s", out, f"sqlite:///{out / 'mlflow.db'}") == 0
    return out


def train(ledger, out, key, steps, *, resumed=0, state=State.FINISHED):
    claim = ledger.claim(key)
    folder = attempt_folder(run_folder(out / "s", "uniform", key), claim.attempt)
    with Journal(folder / JOURNAL) as journal:
        journal.append({"kind": "resumed", "step": resumed})
        for step in steps:
            journal.append({"kind": "train", "step": step, "loss": 1.0 + 1.0 / step, "tokens": step})
            if step % 11 == 0:  # step 22 in both attempts of c
                measured = {"held_out_loss": 2.0 + 1.0 / step, "held_out_loss_se": 0.1}
                journal.append({"kind": "held_out", "step": step, **measured})
    ledger.end(
        claim, state, sentence="", result={"key": key, "bound": 1.5, "steps_done": steps[-1], "train_s": 1.0}
    )


@pytest.fixture
def copy(swept, tmp_path):
    """A copy of the sweep to spoil."""
    import shutil

    shutil.copytree(swept, tmp_path / "out")
    return tmp_path / "out"


def problems(out) -> str:
    recorded = recorded_runs(f"sqlite:///{out / 'mlflow.db'}", "s")
    return "; ".join(problem for check in audit(out / "s", "s", recorded) for problem in check.problems)


def sql(path, *statements) -> None:
    db = sqlite3.connect(path)
    for statement in statements:
        db.execute(statement)
    db.commit()
    db.close()


def test_a_sweep_that_is_right_passes_and_says_what_faults_cost(swept, capsys, monkeypatch, tmp_path):
    assert problems(swept) == ""
    config = tmp_path / "s.yaml"
    config.write_text(
        "name: s\nfamilies: [uniform]\nladder: desk\ngrid: {budgets: [1e9], sizes: [4x1]}\n"
        "context_length: 8\nlearning_rate: {base: 1e-3}\nbatch: {base_tokens: 64}\n"
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{swept / 'mlflow.db'}")
    assert run_audit(None, config, None, swept)
    text = capsys.readouterr().out
    assert "4 attempts of 3 runs" in text
    assert "120 points of 3 finished runs, 4 more were done again after faults" in text
    assert "NO" not in text


def test_a_store_alone_is_audited_too(swept, tmp_path, capsys):
    assert run_audit(None, None, f"sqlite:///{swept / 'mlflow.db'}", tmp_path)
    assert "3 recorded runs" in capsys.readouterr().out


def test_a_run_recorded_twice_is_found(copy):
    sql(copy / "mlflow.db", "UPDATE tags SET value = 'a' WHERE key = 'scaling.key' AND value = 'b'")
    assert "run a of s is there 2 times" in problems(copy)


def test_a_step_recorded_twice_or_not_at_all_is_found(copy):
    sql(
        copy / "mlflow.db",
        "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) SELECT key, value + 1, "
        "timestamp + 5, run_uuid, step, is_nan FROM metrics WHERE key = 'train_loss' AND step = 7",
    )
    assert "train_loss has step 7 2 times" in problems(copy)
    sql(copy / "mlflow.db", "DELETE FROM metrics WHERE key = 'train_loss' AND step IN (7, 8)")
    assert "2 points are not in the store" in problems(copy)


def test_a_loss_that_differs_is_found(copy):
    sql(copy / "mlflow.db", "UPDATE metrics SET value = 9 WHERE key = 'train_loss' AND step = 3")
    assert "1 points differ, step 3 is 1.33" in problems(copy)
    sql(copy / "s" / "ledger" / "ledger.db", "UPDATE runs SET result = json_set(result, '$.bound', 7.5)")
    sql(copy / "mlflow.db", "UPDATE metrics SET value = 9 WHERE key = 'held_out_loss' AND step = 22")
    assert "2 points differ, held-out step 22 is 2.04" in problems(copy)
    sql(copy / "mlflow.db", "DELETE FROM metrics WHERE key = 'held_out_loss' AND step = 33")
    assert "1 points are not in the store" in problems(copy)
    assert "its loss is 7.5 and the store has 1.5" in problems(copy)


def test_replicas_that_are_missing_or_differ_are_found(copy):
    ledger, losses = copy / "s" / "ledger" / "ledger.db", {0: 1.25, 1: 1.75}
    replicas = [{"seed": seed, "status": "finished", "bound": loss} for seed, loss in losses.items()]
    sql(
        ledger,
        "UPDATE runs SET spec = json_set(spec, '$.replicas', 2), "
        f"result = json_set(result, '$.replicas', json('{json.dumps(replicas)}')) WHERE key = 'a'",
    )
    assert f"run a: the losses of its replicas are {losses} and the store has {{}}" in problems(copy)
    sql(
        copy / "mlflow.db",
        *(
            f"INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) SELECT "
            f"'replica_{number}/loss', {loss}, timestamp, step, is_nan, run_uuid FROM latest_metrics "
            "WHERE key = 'loss' AND run_uuid IN "
            "(SELECT run_uuid FROM tags WHERE key = 'scaling.key' AND value = 'a')"
            for number, loss in losses.items()
        ),
    )
    assert problems(copy) == ""
    sql(ledger, "UPDATE runs SET result = json_set(result, '$.replicas[1].seed', 7) WHERE key = 'a'")
    assert "run a: its result has replicas of seeds [0, 7] of 2" in problems(copy)


def test_a_run_that_ended_twice_or_lost_an_attempt_is_found(copy):
    ledger = copy / "s" / "ledger" / "ledger.db"
    sql(ledger, "UPDATE attempts SET state = 'finished' WHERE key = 'c'")
    assert "run c: finished by attempts [1, 2] of 2" in problems(copy)
    sql(ledger, "DELETE FROM attempts WHERE key = 'c' AND attempt = 1")
    assert "run c: attempts [2], the run says 2" in problems(copy)


def test_a_curve_that_stops_short_is_found(copy):
    journal = attempt_folder(run_folder(copy / "s", "uniform", "a"), 1) / JOURNAL
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:-3]))
    assert f"run a: its curve ends at step {STEPS - 3} of {STEPS}" in problems(copy)


def test_damaged_lines_of_a_journal_are_counted_and_do_not_end_the_audit(copy):
    journal = attempt_folder(run_folder(copy / "s", "uniform", "a"), 1) / JOURNAL
    with journal.open("a") as file:
        file.write("[" * 100_000 + '\n{"kind": "train", "loss": 1.0}\n')
    assert problems(copy) == ""
    assert "2 damaged lines left out" in audit(copy / "s", "s", None)[2].examined


def test_a_run_is_found_in_the_store_by_its_key(swept):
    uri = f"sqlite:///{swept / 'mlflow.db'}"
    recorded = recorded_run(uri, "s", "c")
    assert recorded.curves["train_loss"][1] == 2.0
    assert len(recorded.curves["train_loss"]) == STEPS
    assert recorded_run(uri, "s", "zz") is None
    assert recorded_run(uri, "other", "c") is None


def test_a_changed_byte_of_the_data_is_told(tmp_path):
    data = tiny_data(tmp_path)
    with Ledger(tmp_path / "s" / "ledger") as ledger:
        ledger.register([tiny_entry(data)])
    [check] = [check for check in audit(tmp_path / "s", "s", None) if "prepared data" in check.question]
    tokens = data.num_tokens("train") + data.num_tokens("heldout")
    assert (check.examined, check.problems) == (f"{tokens} tokens", [])
    shard = data.folder / "heldout-00000.bin"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    [check] = [check for check in audit(tmp_path / "s", "s", None) if "prepared data" in check.question]
    assert f"the heldout tokens in {data.folder} do not match" in check.problems[0]
