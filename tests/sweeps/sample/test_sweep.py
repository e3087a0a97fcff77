"""A tiny sweep, really trained and really sampled: the table, a second call, a killed one, and refusals."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

import analysis
from scaling.data import open_dataset, prepare
from scaling.errors import UserError
from sweeps.ledger.status import open_ledger
from sweeps.sample import sweep as sampling
from sweeps.sample.measure import open_judge
from sweeps.sample.points import best_runs
from sweeps.sample.sweep import Sampling, sample_sweep
from tests.sweeps.sample.finished import finish_sweep

CONFIG = """
name: tiny
families: [ar, masked]
grid:
  budgets: [3e7, 6e7]
  sizes: [8x1, 12x1]
context_length: 16
data: {{corpus: "text:{texts}/*.txt"}}
learning_rate: {{base: 3e-3}}
batch: {{base_tokens: 64}}
evaluation: {{sequences: 8, noise_levels: 2}}
"""
QUICK = Sampling(pool="local", batch=8, repeats=2, steps=(2, 8))
POINTS = 2 + 2 * 2  # ar takes its one number of steps, masked both


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUT of a finished sweep `tiny`."""
    return finish_sweep(tmp_path_factory.mktemp("tiny"), CONFIG)


@pytest.fixture
def out(trained: Path, tmp_path: Path) -> Path:
    """A copy of it that the test may write to."""
    shutil.copytree(trained, tmp_path / "runs")
    return tmp_path / "runs"


def sampled(out: Path, how: Sampling = QUICK) -> tuple[int, str]:
    """Exit code and output."""
    terminal = Console(file=io.StringIO(), width=200)
    code = sample_sweep("tiny", out, how, terminal)
    return code, terminal.file.getvalue()  # type: ignore[attr-defined]


def results(out: Path) -> dict[str, int]:
    """Points that were measured, and when."""
    places = (out / "tiny" / "samples").glob("*/result.json")
    return {place.parent.name: place.stat().st_mtime_ns for place in places}


def test_the_table_the_frontier_and_the_files(out: Path) -> None:
    code, text = sampled(out)
    assert code == 0
    table = analysis.load_samples(out / "tiny")
    assert len(table) == POINTS
    assert set(table["family"]) == {"ar", "masked"}
    assert (table["texts"] == 16).all()
    assert (table["length"] == 16).all()
    assert table["judge"].nunique() == 1
    assert table["judge"].iloc[0].startswith("ar ")
    assert not set(table["key"].str[:8]) & {table["judge"].iloc[0][-9:-1]}, "the judge judges itself"
    losses = {
        (family, budget): own["loss"].min() for (family, budget), own in table.groupby(["family", "budget"])
    }
    assert len(losses) == 4
    comparison = analysis.speed_quality(table)
    assert str(comparison.leads_table()) in text
    assert comparison.judge in " ".join(text.split())
    for name in ("speed_quality.html", "speed_quality.png", "speed_quality.json"):
        assert (out / "tiny" / name).stat().st_size > 1000
    stored = json.loads((out / "tiny" / "speed_quality.json").read_text())
    assert len(stored["points"]) == POINTS
    perplexity = comparison.points.set_index(["key", "steps"])["gen_ppl"]
    for row in table.to_dict("records"):
        assert row["gen_ppl"] == pytest.approx(perplexity[row["key"], row["steps"]])


def test_a_second_call_measures_nothing_and_more_steps_add_their_points(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled(out)
    before = results(out)
    with monkeypatch.context() as patch:
        patch.setattr(sampling, "start_pool", lambda *_: pytest.fail("there is nothing to do"))
        code, text = sampled(out)
    assert code == 0
    assert f"{POINTS} points, {POINTS} of them done before" in text
    more = Sampling(pool="local", batch=8, repeats=2, steps=(4,), families=("masked",))
    sampled(out, more)
    assert len(results(out)) == POINTS + 2
    assert results(out).items() >= before.items()
    assert len(analysis.load_samples(out / "tiny")) == POINTS + 2, "earlier samples stay in the table"


def test_what_is_refused_is_named_once(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "find_spec", lambda name: name)  # this machine has what workers lack
    code, text = sampled(out, replace(QUICK, judge=str(tmp_path / "no judge"), families=("masked",)))
    assert code == 1
    (line,) = (line for line in text.splitlines() if line.startswith("no samples of masked"))
    assert "and 3 more: judge" in line
    assert not (out / "tiny" / "samples.parquet").exists()


def test_a_judge_never_reads_its_own_texts(out: Path) -> None:
    with open_ledger(out / "tiny", "tiny") as ledger:
        largest = best_runs(ledger.runs())[1]
    assert (largest.family, largest.budget) == ("ar", 6e7)
    code, text = sampled(out, replace(QUICK, judge=largest.key, steps=(2,)))
    assert code == 0
    assert f"({largest.key[:8]}) is not sampled, for no run judges its own texts" in text
    table = analysis.load_samples(out / "tiny")
    assert sorted(table["family"]) == ["ar", "masked", "masked"]
    assert largest.key not in set(table["key"])


def test_a_judge_of_another_corpus_reads_with_its_own_vocabulary(out: Path, tmp_path: Path) -> None:
    (folder,) = (out / "data").iterdir()
    other = prepare("synthetic:markov?vocab=8", "ids", tmp_path)
    run = next((out / "tiny" / "ar" / "runs").iterdir())
    judge = {"name": "j", "folder": str(run), "data": "", "key": run.name}
    assert open_judge(judge, open_dataset(folder), "cpu").identity == "bytes"
    assert "markov" in open_judge(judge | {"data": str(other.folder)}, open_dataset(folder), "cpu").identity


def test_a_sampler_that_repeats_itself_gives_samples_but_no_front(out: Path) -> None:
    greedy = replace(QUICK, steps=(4,), samplers=("confidence",), families=("masked",))
    code, text = sampled(out, greedy)
    assert code == 1
    assert "no front: samples have at most" in text
    assert set(analysis.load_samples(out / "tiny")["sampler"]) == {"confidence"}


def test_a_killed_call_loses_the_points_under_way_alone(out: Path) -> None:
    program = (
        "from pathlib import Path\nfrom sweeps.sample.sweep import Sampling, sample_sweep\n"
        f"sample_sweep('tiny', Path({str(out)!r}), Sampling(pool='local', batch=8, repeats=2, steps=(2, 8)))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL,
                               env=os.environ, start_new_session=True)  # fmt: skip
    deadline = time.monotonic() + 120
    while not results(out) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = results(out)
    assert before
    code, _ = sampled(out)
    assert code == 0
    assert len(results(out)) == POINTS
    assert results(out).items() >= before.items(), "a finished point was measured again"


def test_ctrl_c_stops_and_the_next_call_goes_on(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = sampling.drive

    def stopping(*arguments: object, stop: object, show: object, **more: object) -> object:
        def show_and_stop(progress: object, ended: object) -> None:
            if ended is not None:
                stop.ask("Ctrl-C")  # type: ignore[attr-defined]

        return real(*arguments, stop=stop, show=show_and_stop, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(sampling, "drive", stopping)
        code, text = sampled(out)
    assert code == 130
    assert "the same command goes on" in text
    assert 1 <= len(results(out)) < POINTS
    assert sampled(out)[0] == 0


@pytest.mark.parametrize(("how", "sentence"), [
    (Sampling(length=1), "--length is 1; it must be at least 2"),
    (Sampling(batch=0), "--batch is 0; it must be at least 1"),
    (Sampling(steps=(4, 0)), "--steps is 0; it must be at least 1"),
    (Sampling(rule="attention"), "unknown rule 'attention'"),
    (Sampling(samplers=("x",)), "--sampler x: no sampled family has it"),
    (Sampling(judge="gpt2"), "--judge gpt2 is no run, and Hugging Face models need the package transformers"),
    (Sampling(judge="deadbeef"), "--judge deadbeef: no finished run's key begins with it"),
    (Sampling(families=("block",)), "'block' has no runs in this sweep"),
])  # fmt: skip
def test_bad_input_starts_nothing(
    trained: Path, monkeypatch: pytest.MonkeyPatch, how: Sampling, sentence: str
) -> None:
    monkeypatch.setattr(sampling, "start_pool", lambda *_: pytest.fail("nothing may start"))
    monkeypatch.setattr(sampling, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=sentence):
        sample_sweep("tiny", trained, how)
    with pytest.raises(UserError, match="sweep 'none' has no runs"):
        sample_sweep("none", trained, Sampling())
    assert not (trained / "tiny" / "samples").exists()


def test_a_sweep_of_labelled_runs_alone_is_told_from_an_unfinished_one(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "best_runs", lambda runs: [])
    with pytest.raises(UserError, match="no finished run without labels to sample"):
        sample_sweep("tiny", trained, QUICK)


def test_a_folder_that_cannot_be_written_is_one_sentence(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sampling, "drive", full)
    with pytest.raises(UserError, match=r"results cannot be written below .*tiny: No space left on device"):
        sampled(out)
