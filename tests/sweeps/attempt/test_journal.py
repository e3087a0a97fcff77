"""The journal: nothing whole is lost to a kill, and several attempts read as one story."""

from __future__ import annotations

import json
import math
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.attempt import journal
from sweeps.attempt.journal import (
    JOURNAL,
    Follower,
    Journal,
    attempt_folder,
    attempt_folders,
    fences,
    merged,
    run_folder,
)


def write(path, *records):
    with Journal(path, now=lambda: 1e9) as lines:
        for record in records:
            lines.append(record)


def train(step: int, loss: float = 1.0) -> dict:
    return {"kind": "train", "step": step, "loss": loss}


def test_records_come_back_with_their_time(tmp_path):
    ticks = iter([10.0, 11.5])
    with Journal(tmp_path / "j", now=lambda: next(ticks)) as lines:
        lines.append(
            {"kind": "train", "step": np.int64(3), "loss": np.float32(0.5), "ok": True, "none": None}
        )
        lines.append({"kind": "end", "list": [1, 2.5], "nested": {"a": "b"}})
    assert [record.values for record in journal.read(tmp_path / "j")] == [
        {"at": 10.0, "kind": "train", "step": 3, "loss": 0.5, "ok": True, "none": None},
        {"at": 11.5, "kind": "end", "list": [1, 2.5], "nested": {"a": "b"}},
    ]
    first = journal.read(tmp_path / "j")[0]
    assert (first.kind, first.at, first.step, first.loss, first.biased) == ("train", 10.0, 3, 0.5, False)


def test_curves_of_several_attempts_have_each_step_once_and_in_order(tmp_path):
    def held_out(step: int, loss: float) -> dict:
        return {"kind": "held_out", "step": step, "held_out_loss": loss, "held_out_loss_se": 0.1}

    first, second = (attempt_folder(tmp_path, n) / JOURNAL for n in (1, 2))
    write(first, train(1), held_out(1, 3.0), train(2), train(3), held_out(3, 2.5))
    write(second, {"kind": "resumed", "step": 2}, train(3), held_out(3, 2.5), train(4), held_out(4, 2.25))
    story = merged(tmp_path)
    points = [(r.step, r.numbers["held_out_loss"]) for r in story if r.kind == "held_out"]
    assert points == [(1, 3.0), (3, 2.5), (4, 2.25)]
    assert [r.step for r in story if r.kind == "train"] == [1, 2, 3, 4]
    assert not any(r.has_objective for r in story if r.kind == "held_out")


def test_numbers_that_json_has_no_word_for_survive(tmp_path):
    values = [float("nan"), float("inf"), -float("inf"), 0.1 + 0.2]
    write(tmp_path / "j", {"kind": "x", "values": values})
    text = (tmp_path / "j").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    back = [float(value) for value in journal.read(tmp_path / "j")[0].values["values"]]
    assert math.isnan(back[0])
    assert back[1:] == values[1:]


@settings(max_examples=40, deadline=None)
@given(data=st.data(), count=st.integers(1, 6))
def test_a_kill_at_any_byte_costs_the_last_line_at_most(tmp_path_factory, data, count):
    path = tmp_path_factory.mktemp("torn") / "j"
    write(path, *(train(i) for i in range(count)))
    content = path.read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:cut])
    whole = content[:cut].count(b"\n")
    assert [r.step for r in journal.read(path)] == list(range(whole))
    write(path, train(99))  # the next writer starts on a line of its own
    assert [r.step for r in journal.read(path)][-1] == 99
    kept = {r.step for r in journal.read(path)} - {99}
    assert kept >= set(range(whole))


def test_a_follower_reads_each_line_once_and_waits_for_the_end_of_a_line(tmp_path):
    path = tmp_path / "j"
    follower = Follower(path)
    assert follower.read() == []
    write(path, train(1), train(2), train(3))
    assert [r.step for r in follower.read(2)] == [1, 2]
    with path.open("ab") as file:
        file.write(b'{"kind": "train", "st')
    assert [r.step for r in follower.read()] == [3]
    assert follower.read() == []
    with path.open("ab") as file:
        file.write(b'ep": 4, "at": 1.0}\n')
    assert [r.step for r in follower.read()] == [4]
    assert [r.step for r in Follower(path, follower.position).read()] == []


DAMAGE = (
    b"[1]",
    b'{"no": 1}',
    b"\xff\xfe",
    b"\0\0\0",
    b'{"kind": "train", "at": 1.0, "st',
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"kind": "train", "at": 1.0, "loss": 2.0}',
    b'{"kind": "train", "step": 5, "loss": 2.0}',
    b'{"kind": "train", "step": "many", "at": 1.0}',
    b'{"kind": "train", "step": "inf", "at": 1.0}',
    b'{"kind": "train", "step": 5, "at": "nan"}',
    b'{"kind": "train", "step": 5, "at": 1e300}',
    b'{"kind": "train", "step": 5, "at": 1.0, "loss": [2.0]}',
    b'{"kind": "resumed", "at": 1.0}',
    b'"text"',
)


@pytest.mark.parametrize("damage", DAMAGE, ids=[line[:40].decode(errors="replace") for line in DAMAGE])
def test_a_line_that_is_no_record_is_skipped_and_counted(tmp_path, damage):
    path = attempt_folder(tmp_path, 1) / JOURNAL
    write(path, train(1), {"kind": "end"})
    first, last = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([first, damage, b"", last, b""]))
    reader = Follower(path)
    assert [record.kind for record in reader.read()] == ["train", "end"]
    assert reader.skipped == 1
    assert [record.kind for record in merged(tmp_path)] == ["train", "end"]
    assert fences(tmp_path) == {}


def test_a_biased_loss_is_told_from_the_objective(tmp_path):
    write(tmp_path / "j", {"kind": "train", "step": 1, "biased_loss": 2.5, "tokens": 8, "elapsed_s": "inf"})
    [record] = journal.read(tmp_path / "j")
    assert (record.loss, record.biased) == (2.5, True)
    assert record.numbers == {"tokens": 8.0, "elapsed_s": math.inf}


def test_the_last_record_is_found_without_reading_all(tmp_path):
    path = tmp_path / "j"
    assert journal.last(path) is None
    write(path, *(train(i) for i in range(2000)))
    assert path.stat().st_size > 3 * journal.TAIL_BYTES
    assert journal.last(path).step == 1999


def test_a_full_disk_is_an_error_and_the_next_line_is_whole(tmp_path, monkeypatch):
    lines = Journal(tmp_path / "j")
    lines.append(train(1))
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
        with pytest.raises(OSError, match="No space left"):
            lines.append(train(2))
    lines.append(train(3))
    lines.sync()
    lines.close()
    lines.close()
    assert [r.step for r in journal.read(tmp_path / "j")] == [1, 3]


def test_folders_of_a_run(tmp_path):
    run = run_folder(tmp_path, "uniform", "abc")
    assert run == tmp_path / "uniform" / "runs" / "abc"
    assert attempt_folders(run) == {}
    for number in (10, 2, 1000):
        attempt_folder(run, number).mkdir(parents=True)
    (run / "spec.json").write_text("{}")
    assert list(attempt_folders(run)) == [2, 10, 1000]


def test_what_a_later_attempt_did_again_replaces_what_was_done_before(tmp_path):
    write(
        attempt_folder(tmp_path, 1) / JOURNAL,
        {"kind": "start"},
        train(10, 5.0),
        train(20, 4.0),
        train(30, 3.0),
    )
    write(
        attempt_folder(tmp_path, 2) / JOURNAL,
        {"kind": "start"},
        {"kind": "resumed", "step": 15},
        train(20, 4.5),
        train(30, 3.5),
    )
    write(attempt_folder(tmp_path, 3) / JOURNAL, {"kind": "start"})  # died before it said anything
    story = [(r.attempt, r.step, r.loss) for r in merged(tmp_path) if r.kind == "train"]
    assert story == [(1, 10, 5.0), (2, 20, 4.5), (2, 30, 3.5)]
    assert {r.attempt for r in merged(tmp_path) if r.kind == "start"} == {1, 2, 3}


@settings(max_examples=60, deadline=None)
@given(
    attempts=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30)), min_size=0, max_size=5),
    late=st.integers(0, 3),
)
def test_however_often_interrupted_the_story_has_each_step_once_and_in_order(
    tmp_path_factory, attempts, late
):
    """An attempt resumes from a step that an earlier one has saved; a dead one may go on writing a while."""
    run = tmp_path_factory.mktemp("run")
    total, reached = 30, 0
    for number, (expected, length) in enumerate([*attempts, (total, total)], start=1):
        start = min(expected, reached)
        stop = min(total, start + length)
        steps = range(start + 1, min(total, stop + late) + 1)
        write(
            attempt_folder(run, number) / JOURNAL,
            {"kind": "resumed", "step": start},
            *(train(step, loss=step / 7) for step in steps),
        )
        reached = max(reached, stop)
    steps = [r.step for r in merged(run) if r.kind == "train"]
    assert steps == list(range(1, total + 1))
    assert all(r.loss == r.step / 7 for r in merged(run) if r.kind == "train")


def test_what_an_attempt_wrote_after_it_was_replaced_is_fenced_off(tmp_path):
    def attempt(number: int, *records: dict) -> None:
        with Journal(attempt_folder(tmp_path, number) / JOURNAL) as journal:
            for record in records:
                journal.append(record)

    attempt(1, {"kind": "resumed", "step": 0}, {"kind": "train", "step": 90})
    assert fences(tmp_path) == {}
    attempt(2, {"kind": "start"})
    assert fences(tmp_path) == {}, "it has not said yet where it goes on from"
    attempt(3, {"kind": "resumed", "step": 50})
    attempt(4, {"kind": "resumed", "step": 70})
    attempt(5, {"kind": "resumed", "step": 60})
    assert fences(tmp_path) == {4: 60, 3: 60, 2: 50, 1: 50}
