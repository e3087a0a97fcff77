"""What one worker does with one job: whatever happens becomes an outcome, on disk and in hand."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest

from scaling.errors import UserError
from scaling.spec import DistillationSettings, RunSpec, distilled
from scaling.training import load_run
from scaling.training.checkpoint import save_checkpoint
from sweeps.attempt import journal
from sweeps.attempt.job import RESULT, Job, Outcome, Trouble, failure, read_outcome, signature_of, write_json
from sweeps.attempt.worker import Stop, run_job
from tests.sweeps.tiny import tiny_data, tiny_job


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("tiny"))


@dataclass
class FakeResult:
    values: dict

    def to_dict(self):
        return dict(self.values)


def fake(*, status: str = "finished", error: BaseException | None = None, act=lambda **arguments: None):
    """A stand-in for train: acts, then raises or returns."""

    def train(spec, dataset, folder, *, log, should_stop, resume_from, fences, device, **options):
        log({"kind": "resumed", "step": 0})
        act(folder=folder, log=log, should_stop=should_stop, resume_from=resume_from, options=options)
        if error is not None:
            raise error
        reason = should_stop()
        if reason:
            return FakeResult({"key": spec.key, "status": "preempted", "sentence": reason})
        return FakeResult({"key": spec.key, "status": status, "sentence": "well done", "bound": 2.5})

    return train


def test_a_real_run_from_start_to_end(tmp_path, data):
    job = tiny_job(data, tmp_path)
    outcome = run_job(job)
    assert outcome.status == "finished", outcome.traceback
    assert outcome.result["key"] == job.key
    assert outcome.result["bound"] > 0
    assert outcome.device.startswith("cpu")
    assert outcome.host
    assert outcome.result["micro_batch"] == 4
    assert outcome.worker_s > outcome.result["train_s"]
    records = journal.read(Path(job.folder) / "journal.jsonl")
    assert (
        records[0].values.items()
        >= {"kind": "start", "key": job.key, "attempt": 1, "host": outcome.host}.items()
    )
    assert {"device", "code_version", "at"} <= set(records[0].values)
    assert [r.kind for r in records][-2:] == ["bound", "end"]
    assert read_outcome(Path(job.folder)) == outcome
    assert json.loads((tmp_path / "spec.json").read_text()) == json.loads(json.dumps(job.spec))


def test_jobs_and_outcomes_travel_as_json(tmp_path, data):
    job = tiny_job(data, tmp_path, stop_files=("a", "b"), options={"micro_batch_size": 2})
    assert Job.from_dict(json.loads(json.dumps(asdict(job)))) == job
    for outcome in (failure(MemoryError("no room")), Outcome(status="finished", sentence="")):
        assert Outcome.from_dict(json.loads(json.dumps(asdict(outcome)))) == outcome


@pytest.mark.parametrize(
    ("error", "trouble", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), Trouble.DISK, "disk full: "),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), Trouble.DISK, "disk full: "),
        (MemoryError("cannot allocate"), Trouble.MEMORY, "out of memory: cannot allocate"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
            Trouble.MEMORY,
            "out of m",
        ),
        (UserError("corpus 'x' is missing"), Trouble.USER, "corpus 'x' is missing"),
        *(
            (RuntimeError(text), Trouble.LOST, f"GPU lost: {text}")
            for text in (
                "CUDA error: uncorrectable ECC error encountered",
                "CUDA error: unspecified launch failure",
                "CUDA driver initialization failed, initialization error",
                "No CUDA GPUs are available",
            )
        ),
        (RuntimeError("CUDA error: device-side assert triggered"), Trouble.ERROR, "RuntimeError: CUDA"),
        (IndexError("list index out of range"), Trouble.ERROR, "IndexError: list index out of range"),
        (KeyError(), Trouble.ERROR, "KeyError"),
    ],
)
def test_what_goes_wrong_is_named(tmp_path, data, error, trouble, sentence):
    outcome = run_job(tiny_job(data, tmp_path), train=fake(error=error))
    assert (outcome.status, outcome.trouble) == ("failed", trouble)
    assert outcome.sentence.startswith(sentence)
    assert type(error).__name__ in outcome.traceback
    assert read_outcome(tmp_path / "attempt-001") == outcome


def test_a_full_disk_under_another_error_is_still_a_full_disk(tmp_path, data):
    error = RuntimeError("the checkpoint could not be written")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert run_job(tiny_job(data, tmp_path), train=fake(error=error)).trouble == Trouble.DISK


def test_equal_failures_have_equal_signatures():
    assert signature_of("index 3 at 0x7f001") == signature_of("index 71 at 0x7f9ab")
    assert signature_of("index 3") != signature_of("key 3")


def test_sigterm_becomes_a_wish_to_stop_and_is_then_as_it_was(tmp_path, data):
    before = signal.getsignal(signal.SIGTERM)
    outcome = run_job(
        tiny_job(data, tmp_path), train=fake(act=lambda **arguments: os.kill(os.getpid(), signal.SIGTERM))
    )
    assert outcome.status == "preempted"
    assert "SIGTERM" in outcome.sentence
    assert signal.getsignal(signal.SIGTERM) == before


def test_ctrl_c_in_the_terminal_does_not_hit_the_worker(tmp_path, data):
    outcome = run_job(
        tiny_job(data, tmp_path), train=fake(act=lambda **arguments: os.kill(os.getpid(), signal.SIGINT))
    )
    assert outcome.status == "finished"


def test_a_stop_file_stops_a_real_run_with_a_checkpoint_from_which_the_next_goes_on(tmp_path, data):
    stop_file = tmp_path / "stop"
    stop_file.write_text("stopped by Ctrl-C")
    outcome = run_job(tiny_job(data, tmp_path / "run", stop_files=(str(stop_file),), steps=120))
    assert outcome.status == "preempted"
    assert "Ctrl-C" in outcome.sentence
    stop_file.unlink()
    again = run_job(tiny_job(data, tmp_path / "run", attempt=2, steps=120, stop_files=(str(stop_file),)))
    assert again.status == "finished"
    records = journal.read(tmp_path / "run" / "attempt-002" / "journal.jsonl")
    assert next(r.step for r in records if r.kind == "resumed") == outcome.result["steps_done"] > 0
    whole = run_job(tiny_job(data, tmp_path / "whole", steps=120))
    assert again.result["bound"] == whole.result["bound"]  # to the last bit


def test_a_later_attempt_makes_an_earlier_one_stop(tmp_path, data):
    def act(folder, **arguments):
        (folder.parent / "attempt-003").mkdir()

    outcome = run_job(tiny_job(data, tmp_path), train=fake(act=act))
    assert outcome.status == "preempted"
    assert "taken over" in outcome.sentence


def test_stop_files_are_looked_at_twice_a_second_at_most(tmp_path, data, monkeypatch):
    job = tiny_job(data, tmp_path, stop_files=(str(tmp_path / "stop"),))
    ticks = iter([0.0, 0.1, 0.4, 0.6])
    monkeypatch.setattr(time, "monotonic", lambda: next(ticks))
    reason = Stop().reason_for(job)
    assert reason() is None
    (tmp_path / "stop").write_text("")
    assert [reason(), reason(), reason()] == [None, None, "asked to stop"]


def test_earlier_attempts_are_offered_newest_first_and_later_ones_are_not(tmp_path, data):
    for number in (1, 2, 5):
        (tmp_path / f"attempt-{number:03d}").mkdir()
    arguments = {}
    run_job(tiny_job(data, tmp_path, attempt=3), train=fake(act=lambda **what: arguments.update(what)))
    assert [path.name for path in arguments["resume_from"]] == ["attempt-002", "attempt-001"]


def test_what_an_earlier_attempt_finished_is_not_trained_again(tmp_path, data):
    first = run_job(tiny_job(data, tmp_path), train=fake())
    again = run_job(tiny_job(data, tmp_path, attempt=2), train=fake(error=AssertionError("trained twice")))
    assert again.status == "finished"
    assert again.result == first.result


@pytest.mark.parametrize("status", ["failed", "preempted", "diverged"])
def test_what_an_earlier_attempt_did_not_finish_is_done_again(tmp_path, data, status):
    job = tiny_job(data, tmp_path, attempt=2)
    earlier = Outcome(status=status, sentence="", result={"key": job.key})
    write_json(tmp_path / "attempt-001" / RESULT, asdict(earlier))
    (tmp_path / "attempt-000").mkdir()
    (tmp_path / "attempt-000" / RESULT).write_text("{not json")
    assert run_job(job, train=fake()).sentence == "well done"


def test_a_result_that_was_changed_on_the_disk_does_not_count(tmp_path, data):
    first = run_job(tiny_job(data, tmp_path), train=fake())
    path = tmp_path / "attempt-001" / RESULT
    path.write_text(path.read_text().replace("2.5", "2.6"))
    assert read_outcome(path.parent) is None
    again = run_job(tiny_job(data, tmp_path, attempt=2), train=fake())
    assert again.result == first.result
    assert read_outcome(tmp_path / "attempt-002") == again


def test_a_result_of_a_version_without_checksums_counts(tmp_path):
    (tmp_path / RESULT).write_text('{"status": "finished", "sentence": "done"}')
    assert read_outcome(tmp_path) == Outcome(status="finished", sentence="done")


def test_data_that_is_away_is_no_fault_of_the_run(tmp_path, data):
    job = tiny_job(data, tmp_path)
    away = data.folder.rename(data.folder.with_name("away"))
    try:
        outcome = run_job(job)
    finally:
        away.rename(data.folder)
    assert (outcome.status, outcome.trouble) == ("failed", Trouble.DATA)
    assert outcome.sentence.startswith(f"prepared data cannot be read: {data.folder}")
    assert run_job(replace(job, attempt=2, folder=str(tmp_path / "attempt-002"))).status == "finished"


def test_a_disk_of_data_that_fails_in_the_middle_is_no_fault_of_the_run(tmp_path, data, monkeypatch):
    def fails(*arguments):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", fails)
    outcome = run_job(tiny_job(data, tmp_path))
    assert (outcome.status, outcome.trouble) == ("failed", Trouble.DATA)


def test_damaged_data_stops_the_run_in_one_sentence(tmp_path):
    data = tiny_data(tmp_path / "data")
    shard = data.folder / "heldout-00000.bin"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    outcome = run_job(tiny_job(data, tmp_path))
    assert (outcome.status, outcome.trouble) == ("failed", Trouble.USER)
    assert "prepared data is damaged" in outcome.sentence
    assert "the next `scaling sweep` makes or fetches it again" in outcome.sentence


def test_options_reach_training(tmp_path, data):
    arguments = {}
    job = tiny_job(data, tmp_path, options={"micro_batch_size": 2, "device": "cpu"})
    run_job(job, train=fake(act=lambda **what: arguments.update(what)))
    assert arguments["options"] == {"micro_batch_size": 2}


@pytest.mark.parametrize("keep", [True, False])
def test_a_finished_run_leaves_one_checkpoint_or_none(tmp_path, data, keep):
    def act(folder, **arguments):
        for step in (10, 20):
            save_checkpoint(folder, step, {"key": "any"})

    def left():
        return sorted(path.name for path in tmp_path.glob("attempt-*/checkpoint-*.pt"))

    first, second = (tiny_job(data, tmp_path, attempt=n, options={"keep_weights": keep}) for n in (1, 2))
    run_job(first, train=fake(act=act, status="preempted"))
    assert len(left()) == 2, "it goes on from these"
    run_job(second, train=fake(act=act))
    assert left() == (["checkpoint-0000000020.pt"] if keep else [])


def test_the_network_of_a_finished_run_can_be_loaded(tmp_path, data):
    job = tiny_job(data, tmp_path)
    assert run_job(job).status == "finished"
    spec, family, model = load_run(tmp_path)
    assert (spec.key, family.name, model.vocab_size) == (job.key, job.family, family.vocab_size)


def test_a_run_is_distilled_from_the_folder_of_another(tmp_path, data):
    parent = tiny_job(data, tmp_path / "parent")
    assert run_job(parent).status == "finished"
    how = DistillationSettings(rounds=2, steps_per_round=3)
    spec = distilled(RunSpec.from_dict(parent.spec), how, batch_size=4)
    job = replace(parent, key=spec.key, spec=spec.to_dict(), folder=str(tmp_path / "child" / "attempt-001"))
    outcome = run_job(replace(job, runs={"parent": str(tmp_path / "parent")}))
    assert outcome.status == "finished", outcome.traceback
    assert outcome.result["steps_done"] == 6
    assert outcome.result["bound_average"] > 0
    nowhere = replace(job, folder=str(tmp_path / "again" / "attempt-001"), runs={"parent": "nowhere"})
    outcome = run_job(nowhere)
    assert (outcome.status, outcome.trouble) == ("failed", Trouble.USER)
    assert (
        f"distils run {parent.key}, which cannot be used: nowhere is no folder of a run" in outcome.sentence
    )


def test_a_result_that_cannot_be_written_still_comes_back(tmp_path, data, monkeypatch):
    def no_room(path, values):
        if path.name == RESULT:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sweeps.attempt.job.write_json", no_room)
    outcome = run_job(tiny_job(data, tmp_path), train=fake())
    assert outcome.status == "finished"
    assert read_outcome(tmp_path / "attempt-001") is None


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]
