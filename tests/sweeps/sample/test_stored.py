"""A tiny sweep whose files are in a storage: distilled and sampled, its runs' folders here removed."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

import analysis
from scaling.errors import UserError
from scaling.spec import RunSpec
from scaling.training import load_run
from sweeps.attempt.job import Job, Outcome
from sweeps.driver.stopping import StopRequest
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.types import Needs, Run, State
from sweeps.pools.entry import run as run_job
from sweeps.pools.rack import Handle, Node, Rack
from sweeps.pools.storage.files import StorageError, open_storage
from sweeps.pools.storage.pool import StoragePool
from sweeps.sample import sweep as sampling
from sweeps.sample.drive import drive
from sweeps.sample.judging import choose_judge, finished_runs
from sweeps.sample.points import Point, Setting, best_runs, plan_points
from sweeps.sample.run import TextOptions, sample_run
from sweeps.sample.stored import fetch_samples, folder_with_weights, storage_uri
from sweeps.sample.sweep import Sampling, sample_sweep
from tests.sweeps.sample.finished import finish_sweep

CONFIG = """
name: tiny
families: [ar, uniform]
grid:
  budgets: [3e7]
  sizes: [8x1, 12x1]
context_length: 16
data: {{corpus: "text:{texts}/*.txt"}}
learning_rate: {{base: 3e-3}}
batch: {{base_tokens: 64}}
optimizer: {{ema_decay: 0.9}}
evaluation: {{sequences: 8, noise_levels: 2}}
distillation: {{rounds: 2, steps_per_round: 3, batch_size: 4, sizes: [8x1]}}
"""
QUICK = Sampling(pool="local", batch=8, repeats=2, steps=(2, 8))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with OUT of a finished sweep `tiny`, and the storage `stored` that has its weights."""
    folder = tmp_path_factory.mktemp("tiny")
    finish_sweep(folder, CONFIG, "--storage", str(folder / "stored"))
    return folder


@pytest.fixture
def out(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of OUT without the folders of its runs, for a node that has fetched nothing yet."""
    shutil.copytree(trained / "runs", tmp_path / "runs")
    for family in ("ar", "uniform"):
        shutil.rmtree(tmp_path / "runs" / "tiny" / family / "runs")
    monkeypatch.setenv("SCALING_SCRATCH", str(tmp_path / "node"))
    return tmp_path / "runs"


def runs_of(out: Path) -> list[Run]:
    with Ledger(out / "tiny" / "ledger") as ledger:
        return ledger.runs()


def plain_run(out: Path, family: str) -> Run:
    return next(run for run in runs_of(out) if run.family == family and not run.spec.get("distillation"))


def text_of(out: Path, target: str, **options: object) -> str:
    screen = Console(file=io.StringIO(), width=60)
    sample_run(target, out, None, TextOptions(**options), screen)  # type: ignore[arg-type]
    return screen.file.getvalue()  # type: ignore[attr-defined]


def sampled(out: Path, how: Sampling = QUICK) -> tuple[int, str]:
    """Exit code and output."""
    terminal = Console(file=io.StringIO(), width=200)
    code = sample_sweep("tiny", out, how, terminal)
    return code, terminal.file.getvalue()  # type: ignore[attr-defined]


def test_runs_of_the_sweep_are_distilled_from_weights_in_the_storage(trained: Path) -> None:
    runs = runs_of(trained / "runs")
    assert [run.state for run in runs] == [State.FINISHED] * 5, [run.sentence for run in runs]
    assert sum(bool(run.spec.get("distillation")) for run in runs) == 1
    assert not list((trained / "runs").rglob("checkpoint-*.pt"))
    assert len(list((trained / "node" / "weights").glob("*/checkpoint-*.pt"))) == 1, "the parent's"


def test_texts_of_a_run_are_those_of_the_weights_in_the_storage(trained: Path, out: Path) -> None:
    run = plain_run(out, "uniform")
    text = text_of(out, run.key[:8], steps=4)
    fetched = list((out.parent / "node" / "weights").iterdir())
    assert [folder.name.partition("-")[0] for folder in fetched] == [run.key]
    stored = trained / "stored" / "tiny" / "uniform" / "runs" / run.key
    assert text == text_of(out, str(stored), steps=4)
    assert load_run(fetched[0]).spec == load_run(stored).spec
    folder = trained / "runs" / "tiny" / "uniform" / "runs" / run.key
    for named in (folder, folder / "attempt-001"):
        assert text == text_of(out, str(named), steps=4), "by its folder here, which has no weights"


def test_a_sweep_is_sampled_and_its_points_are_here_and_in_the_storage(trained: Path, out: Path) -> None:
    stored = trained / "stored" / "tiny" / "samples"
    code, text = sampled(out)
    assert code == 0, text
    assert "weights and results of points pass through" in text
    table = analysis.load_samples(out / "tiny")
    assert len(table) == 1 + 2, "ar takes its one number of steps; the distilled run is none of the best"
    points = {path.name for path in (out / "tiny" / "samples").iterdir()}
    assert points == {path.name for path in stored.iterdir()}
    for point in points:
        assert [path.name for path in (out / "tiny" / "samples" / point).iterdir()] == ["result.json"]
    for name in ("samples.parquet", "speed_quality.html", "speed_quality.json"):
        assert (out / "tiny" / name).exists()
    # another machine, or a driver that had gone before its points came
    shutil.rmtree(out / "tiny" / "samples")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "start_pool", lambda *_: pytest.fail("all is measured"))
        code, text = sampled(out)
    assert code == 0
    assert "3 points, 3 of them done before" in text
    assert analysis.load_samples(out / "tiny").equals(table)


class Elsewhere:
    """A machine that has nothing at the paths of the driver; jobs run when they are waited for."""

    def __init__(self, away: str, end: Outcome | None = None) -> None:
        self.rack, self.jobs, self.away, self.end = Rack([Node(name="there", cpus=1.0)]), {}, away, end
        self.count = 0

    def ready(self) -> None:
        return

    def close(self) -> None:
        return

    def submit(self, job: Job, needs: Needs, *, avoid_host: str | None = None) -> Handle:
        def moved(path: str) -> str:
            return path.replace(self.away, "/nowhere")

        self.count += 1
        runs = {name: moved(path) for name, path in job.runs.items()}
        job = replace(job, folder=moved(job.folder), dataset=moved(job.dataset), runs=runs)
        self.jobs[self.count] = job
        self.rack.place(self.count, needs)
        return self.count

    def wait(self, timeout_s: float) -> list[tuple[Handle, Outcome]]:
        if not self.jobs:
            return []
        handle, job = self.jobs.popitem()
        self.rack.remove(handle)
        return [(handle, self.end or run_job(job))]


def points_of(out: Path) -> list[Point]:
    best = best_runs(runs_of(out))
    judge = choose_judge(
        None,
        finished_runs(out, "tiny"),
        [run.key for run in best],
        RunSpec.from_dict(best[0].spec).data,
        [out / "data"],
    )
    setting = Setting(length=16, batch=8, repeats=2, judge=judge)
    return plan_points(best, {"ar": ["left_to_right"], "uniform": ["ancestral"]}, (2,), setting)


def test_a_machine_without_a_shared_disk_gives_its_points_to_the_driver(trained: Path, out: Path) -> None:
    (data,) = (folder.parent for folder in (out / "data").glob("*/meta.json"))
    shutil.copytree(trained / "stored", out.parent / "bucket", ignore=shutil.ignore_patterns("samples"))
    storage = open_storage(str(out.parent / "bucket"))
    pool = StoragePool(Elsewhere(str(out)), storage, [data])  # type: ignore[arg-type]
    pool.ready()
    points = points_of(out)
    progress = drive(points, pool, out / "tiny", str(data), stop=StopRequest(), show=lambda *_: None)
    pool.close()
    assert [progress.done[point.key].status for point in points] == ["finished"] * 2
    assert all((point.row(out / "tiny") or {})["gen_ppl"] > 1 for point in points)
    assert not Path("/nowhere").exists()


def test_a_storage_that_goes_away_meanwhile_is_the_reason_of_a_point(out: Path) -> None:
    reason = Outcome(status="preempted", sentence="the storage did not answer: no route")
    pool = Elsewhere(str(out), reason)
    points = points_of(out)[:1]
    progress = drive(points, pool, out / "tiny", "data", stop=StopRequest(), show=lambda *_: None)  # type: ignore[arg-type]
    assert progress.done[points[0].key] == reason
    assert pool.count == 3


def test_weights_that_are_gone_are_one_sentence(trained: Path, out: Path, tmp_path: Path) -> None:
    run = plain_run(out, "uniform")
    shutil.copytree(trained / "stored", tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved" / "tiny" / "samples", ignore_errors=True)
    for path in (tmp_path / "moved" / "tiny" / "uniform").rglob("*.pt"):
        path.unlink()
    with pytest.raises(UserError, match=rf"moved has no weights of run {run.key} in tiny/uniform/runs/"):
        text_of(out, run.key, storage=str(tmp_path / "moved"))
    code, text = sampled(out, replace(QUICK, storage=str(tmp_path / "moved"), families=("uniform",)))
    assert code == 1
    for key in {point.run.key for point in points_of(out) if point.run.family == "uniform"}:
        assert f"has no weights of run {key}" in text


def test_a_storage_that_cannot_be_reached_is_one_sentence(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(uri: str) -> None:
        raise StorageError("cannot open it: no route to host")

    monkeypatch.setattr("sweeps.sample.stored.open_storage", unreachable)
    monkeypatch.setattr("sweeps.pools.storage.files.open_storage", unreachable)
    run = plain_run(out, "ar")
    with pytest.raises(
        UserError, match=rf"weights of run {run.key} are in storage '.*stored', which cannot "
    ):
        text_of(out, run.key)
    with pytest.raises(UserError, match=r"storage '.*stored' cannot be used; .*no route to host"):
        sampled(out)
    assert not (out / "tiny" / "samples").exists()


def test_samples_that_cannot_be_read_are_one_sentence(out: Path) -> None:
    class Away:
        def sizes(self, place: str) -> dict[str, int]:
            raise StorageError("no route to host")

        def __str__(self) -> str:
            return "s3://lab"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sweeps.sample.stored.CHECK_S", 0.0)
        with pytest.raises(UserError, match="earlier samples cannot be fetched from s3://lab: no route"):
            fetch_samples(Away(), points_of(out), out / "tiny")  # type: ignore[arg-type]


def test_the_storage_is_the_given_one_or_that_of_the_ledger_which_knows_no_passwords() -> None:
    assert storage_uri(None, None) is None
    assert storage_uri(None, "s3://lab/x") == "s3://lab/x"
    assert storage_uri("s3://me:secret@lab/x", "s3://***@lab/x") == "s3://me:secret@lab/x"
    with pytest.raises(UserError, match=r"are in s3://\*\*\*@lab/x, whose password is not recorded; give"):
        storage_uri(None, "s3://***@lab/x")


def test_a_folder_without_a_sweep_is_left_to_loading(tmp_path: Path) -> None:
    assert folder_with_weights(tmp_path / "x") == tmp_path / "x"
    assert folder_with_weights(Path("/x")) == Path("/x")
    with pytest.raises(UserError, match="no folder of a run"):
        load_run(folder_with_weights(tmp_path))


def test_the_command_line_samples_a_stored_run(out: Path) -> None:
    environment = {**os.environ, "SCALING_SCRATCH": str(out.parent / "node")}
    command = [sys.executable, "-m", "sweeps.cli", "sample", plain_run(out, "ar").key, "--out", str(out)]
    process = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip()
