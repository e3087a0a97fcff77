"""The driver of points on a pretended pool: room, lost workers, stops, what is skipped, the time left."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.attempt.job import Job, Outcome, Trouble, killed, write_outcome
from sweeps.driver.stopping import StopRequest
from sweeps.ledger.types import Needs, State
from sweeps.pools.rack import Handle, Node, Rack
from sweeps.sample.drive import ATTEMPTS, Progress, drive, earlier
from sweeps.sample.judging import Judge
from sweeps.sample.points import FOLDER, Point, Setting
from tests.sweeps.sample.test_points import run

SETTING = Setting(length=16, judge=Judge(name="j"))
POINTS = [
    Point(run=run("masked", 1e9, 3.0), sampler="ancestral", steps=steps, setting=SETTING)
    for steps in (16, 8, 4, 2, 1)
]


class FakePool:
    """Two slots; a job ends when it is waited for, as `ends` says, and writes what a worker would."""

    def __init__(self, ends: Callable[[Job], Outcome], *, cpus: float = 2.0) -> None:
        self.rack = Rack([Node(name="here", cpus=cpus)])
        self.ends, self.jobs, self.most = ends, {}, 0
        self.submitted: list[str] = []
        self._killed: set[Handle] = set()

    def submit(self, job: Job, needs: Needs, *, avoid_host: str | None = None) -> Handle:
        handle = len(self.submitted)
        self.submitted.append(job.key)
        self.jobs[handle] = job
        self.rack.place(handle, needs)
        self.most = max(self.most, len(self.jobs))
        return handle

    def wait(self, timeout_s: float) -> list[tuple[Handle, Outcome]]:
        handle = next(iter(self.jobs), None)
        if handle is None:
            return []
        job = self.jobs.pop(handle)
        self.rack.remove(handle)
        outcome = killed() if handle in self._killed else self.ends(job)
        if outcome.trouble != Trouble.LOST:
            write_outcome(Path(job.folder), outcome)
        return [(handle, outcome)]

    def kill(self, handle: Handle) -> None:
        self._killed.add(handle)


def good(job: Job) -> Outcome:
    return Outcome(status="finished", sentence="", result={"point": dict(job.options["point"]), "row": {}})


def driven(pool: FakePool, folder: Path, stop: StopRequest | None = None, show=lambda *_: None) -> Progress:
    return drive(
        POINTS, pool, folder, "data", stop=stop or StopRequest(), show=show, clock=iter(range(999)).__next__
    )


def test_every_point_is_measured_once_in_order_and_as_many_at_once_as_fit(tmp_path: Path) -> None:
    pool = FakePool(good)
    progress = driven(pool, tmp_path)
    assert pool.submitted == [point.key for point in POINTS]
    assert pool.most == 2
    assert progress.done.keys() == {point.key for point in POINTS}
    again = FakePool(good)
    assert driven(again, tmp_path).done.keys() == progress.done.keys()
    assert not again.submitted


def test_a_lost_worker_is_tried_again_but_not_forever(tmp_path: Path) -> None:
    losses = {POINTS[0].key: 1, POINTS[1].key: 99}

    def ends(job: Job) -> Outcome:
        losses[job.key] = losses.get(job.key, 0) - 1
        if losses[job.key] >= 0:
            return Outcome(status="failed", sentence="lost", trouble=Trouble.LOST)
        return good(job)

    pool = FakePool(ends)
    progress = driven(pool, tmp_path)
    assert progress.done[POINTS[0].key].status == "finished"
    assert progress.done[POINTS[1].key].sentence == "lost"
    assert pool.submitted.count(POINTS[1].key) == ATTEMPTS


def test_what_was_refused_or_failed_is_tried_in_the_next_call(tmp_path: Path) -> None:
    def ends(job: Job) -> Outcome:
        trouble = {POINTS[0].key: Trouble.USER, POINTS[1].key: Trouble.ERROR}.get(job.key)
        return Outcome(status="failed", sentence="no", trouble=trouble) if trouble else good(job)

    first = FakePool(ends)
    progress = driven(first, tmp_path)
    assert {progress.done[point.key].sentence for point in POINTS[:2]} == {"no"}
    assert len(first.submitted) == len(POINTS), "once a call"
    assert len(earlier(POINTS, tmp_path)) == len(POINTS) - 2
    again = FakePool(good)
    driven(again, tmp_path)
    assert again.submitted == [point.key for point in POINTS[:2]]


@pytest.mark.parametrize("room", [True, False])
def test_a_result_that_its_worker_could_not_write_is_written_here_or_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: bool
) -> None:
    def full(folder: Path, outcome: Outcome) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    class Workers(FakePool):
        def wait(self, timeout_s: float) -> list[tuple[Handle, Outcome]]:
            ended = super().wait(timeout_s)
            for place in (tmp_path / FOLDER).glob("*/result.json"):
                place.unlink()
            return ended

    if not room:
        monkeypatch.setattr("sweeps.sample.drive.write_outcome", full)
    progress = driven(Workers(good), tmp_path)
    last = progress.done[POINTS[-1].key]
    assert last.status == ("finished" if room else "failed")
    assert len(earlier(POINTS[-1:], tmp_path)) == room
    if not room:
        assert last.sentence == f"its result cannot be written below {tmp_path}: No space left on device"


def test_a_stop_loses_the_running_points_alone(tmp_path: Path) -> None:
    stop = StopRequest()

    def show(progress: Progress, ended: Point | None) -> None:
        if len(progress.done) == 2:
            stop.ask("Ctrl-C")

    pool = FakePool(good)
    progress = driven(pool, tmp_path, stop, show)
    assert len(progress.done) == 2
    again = FakePool(good)
    driven(again, tmp_path)
    assert len(again.submitted) == 3


def test_what_fits_no_node_is_named(tmp_path: Path) -> None:
    progress = driven(FakePool(good, cpus=0.5), tmp_path)
    assert all("no node can hold this run" in outcome.sentence for outcome in progress.done.values())


class TestTimeLeft:
    def test_nothing_is_said_before_a_point_has_shown_the_pace(self) -> None:
        assert Progress(points=POINTS).left_s(0.0) is None

    def test_calls_set_the_pace(self) -> None:
        progress = Progress(points=POINTS, done={POINTS[0].key: Outcome(status="finished", sentence="")},
                            seconds={POINTS[0].key: 17.0})  # fmt: skip
        assert progress.left_s(0.0) == pytest.approx(9 + 5 + 3 + 2)  # a second a call, and one to start
        progress.slots = 2
        assert progress.left_s(0.0) == pytest.approx(9.5)
        progress.slots = 50
        assert progress.left_s(0.0) == pytest.approx(9)  # not before the longest point
        progress.running = {POINTS[1].key: 100.0}
        assert progress.left_s(106.0) == pytest.approx(5)

    def test_each_family_has_its_own_pace(self) -> None:
        other = Point(run=run("uniform", 1e9, 3.0), sampler="ancestral", steps=9, setting=SETTING)
        done = {point.key: Outcome(status="finished", sentence="") for point in (POINTS[0], other)}
        progress = Progress(
            points=[*POINTS, other], done=done, seconds={POINTS[0].key: 17.0, other.key: 1000.0}
        )
        assert progress.left_s(0.0) == pytest.approx(19)

    def test_all_done(self) -> None:
        done = {point.key: Outcome(status="finished", sentence="") for point in POINTS}
        assert Progress(points=POINTS, done=done, seconds={POINTS[0].key: 1.0}).left_s(0.0) == 0
        assert State.FINISHED == "finished"
