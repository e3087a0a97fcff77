"""The training loop: interrupted or not, cut how you like, the same losses; and a named end for every run."""

from __future__ import annotations

import errno
import math
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scaling.families import FAMILIES
from scaling.families.base import Family
from scaling.spec import RunSpec
from scaling.training import RunStatus, TrainResult, loop, train
from scaling.training.checkpoint import newest_checkpoint
from scaling.training.run import EXPLODED, WATCH_STEPS, Progress
from tests.scaling.toys import CONTEXT, ToyData, toy_spec

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in sorted(FAMILIES)} | {
    "block": ("block", {"block_size": 3}),
    "block-clipped": ("block", {"block_size": 2, "clip": (0.3, 0.8), "resample": False}),
    "esoteric-half": ("esoteric", {"alpha_0": 0.5}),
    "masked-nelbo": ("masked", {"objective": "nelbo"}),
    "uniform-curriculum": ("uniform", {"curriculum": "top_k"}),
}
"""By label: a family and options. Every family there is, some of them twice."""
ALL = list(VARIANTS)
FEW = ["ar", "masked", "uniform"]


def spec_of(name: str, **changes: Any) -> RunSpec:
    family, options = VARIANTS[name]
    return toy_spec(family, family_options=options, **changes)


class Stopper:
    """Asks to stop after the given numbers of polls, once each."""

    def __init__(self, *after: int) -> None:
        self.after, self.polls = set(after), 0

    def __call__(self) -> str | None:
        self.polls += 1
        return "asked to" if self.polls in self.after else None


def run(spec: RunSpec, folder: Path, **options: Any) -> tuple[TrainResult, list[dict[str, Any]]]:
    records: list[dict[str, Any]] = []
    result = train(spec, options.pop("data", None) or ToyData(), folder, log=records.append, **options)
    return result, records


def curve(records: list[dict[str, Any]]) -> list[tuple[float, ...]]:
    names = ("step", "loss", "grad_norm", "learning_rate", "tokens", "flops")
    records = [{"loss": r.get("biased_loss"), **r} for r in records if r["kind"] == "train"]
    return [tuple(r[n] for n in names) for r in records]


def weights(spec: RunSpec, folder: Path) -> torch.Tensor:
    state, _ = newest_checkpoint([folder], spec.key)
    assert state is not None
    assert state["step"] == spec.steps
    parameters: torch.Tensor = state["parameters"]
    return parameters


# -- interruptions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_resumed_equals_uninterrupted(name: str, tmp_path: Path) -> None:
    """Stopped at random steps, several times, each attempt in its own folder: the same run to the bit."""
    spec = spec_of(name, optimizer={"schedule": "wsd"})
    straight, records = run(spec, tmp_path / "straight", checkpoint_every_s=0)
    draws = random.Random(name)
    for trial in range(2):
        folders: list[Path] = []
        appended: list[dict[str, Any]] = []
        done = 0
        while True:
            folders.insert(0, tmp_path / f"{trial}" / f"attempt-{len(folders) + 1:03d}")
            stop = (
                Stopper(draws.randint(1, max(1, (spec.steps - done) // 2))) if len(folders) < 4 else Stopper()
            )
            result, new = run(
                spec, folders[0], resume_from=folders[1:], should_stop=stop, checkpoint_every_s=0
            )
            appended += new
            assert new[0] == {"kind": "resumed", "step": done}
            done = result.steps_done
            if result.status is RunStatus.FINISHED:
                break
            assert result.status is RunStatus.PREEMPTED
            assert result.sentence == f"stopped at step {done} of 20: asked to"
            assert result.bound is None
        assert len(folders) == 4
        assert (result.bound, result.bound_se) == (straight.bound, straight.bound_se)
        assert curve(appended) == curve(records)
        assert torch.equal(weights(spec, folders[0]), weights(spec, tmp_path / "straight"))


@pytest.mark.parametrize("name", ALL)
def test_killed_without_warning(name: str, tmp_path: Path) -> None:
    """An exception out of nowhere, right before or after a checkpoint: the next attempt goes on from it."""
    spec = spec_of(name)
    straight, _ = run(spec, tmp_path / "straight")

    class Killed(Exception):
        pass

    for kill_at in (1, 7, 20):
        folder = tmp_path / f"{kill_at}"

        def dying_log(record: dict[str, Any], kill_at: int = kill_at) -> None:
            if record["kind"] == "train" and record["step"] == kill_at:
                raise Killed

        with pytest.raises(Killed):
            train(spec, ToyData(), folder, log=dying_log, checkpoint_every_s=0)
        result, records = run(spec, tmp_path / f"{kill_at}-again", resume_from=[folder])
        assert records[0] == {"kind": "resumed", "step": kill_at - 1}
        assert result.bound == straight.bound


def test_a_finished_run_is_only_evaluated_again(tmp_path: Path) -> None:
    spec, data = toy_spec(), ToyData()
    first, _ = run(spec, tmp_path / "a", checkpoint_every_s=0)
    second, records = run(spec, tmp_path / "b", resume_from=[tmp_path / "a"], data=data)
    assert (second.bound, second.steps_done) == (first.bound, 20)
    assert data.asked == []
    assert curve(records) == []
    assert second.train_s == pytest.approx(first.train_s, rel=0.5)


def test_the_folder_itself_among_earlier_attempts_costs_no_checkpoint(tmp_path: Path) -> None:
    run(toy_spec(), tmp_path, resume_from=[tmp_path], checkpoint_every_s=0)
    assert len(list(tmp_path.glob("checkpoint-*.pt"))) == 2


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied"])
def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(damage: str, tmp_path: Path) -> None:
    spec = toy_spec()
    straight, _ = run(spec, tmp_path / "straight")
    run(spec, tmp_path / "a", should_stop=Stopper(9), checkpoint_every_s=0)
    newest = tmp_path / "a" / "checkpoint-0000000009.pt"
    content = bytearray(newest.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 4
    newest.write_bytes(
        {"truncated": bytes(content[:-100]), "flipped": bytes(content), "emptied": b""}[damage]
    )
    result, records = run(spec, tmp_path / "b", resume_from=[tmp_path / "a"])
    assert records[0]["kind"] == "damaged"
    assert str(newest) in records[0]["sentence"]
    assert records[1] == {"kind": "resumed", "step": 8}
    assert result.bound == straight.bound


def test_a_checkpoint_beyond_the_fence_does_not_count(tmp_path: Path) -> None:
    """A node that was declared dead wrote steps 8 and 9 after somebody else had gone on from step 7."""
    spec, late = toy_spec(), tmp_path / "late"
    run(spec, late, should_stop=Stopper(9), checkpoint_every_s=0)
    for wrong in late.glob("checkpoint-*9.pt"):
        wrong.write_bytes(b"not what the newer attempt would have")
    result, records = run(spec, tmp_path / "b", resume_from=[late], fences={late: 8})
    assert records[0] == {"kind": "resumed", "step": 8}, "and nothing is said of the other one"
    assert result.bound == run(spec, tmp_path / "straight")[0].bound
    _, records = run(spec, tmp_path / "c", resume_from=[late], fences={late: 3})
    assert records[0] == {"kind": "resumed", "step": 0}


def test_another_specs_checkpoint_is_ignored(tmp_path: Path) -> None:
    run(toy_spec(seed=1), tmp_path / "a", should_stop=Stopper(9))
    result, records = run(toy_spec(seed=2), tmp_path / "b", resume_from=[tmp_path / "a"])
    assert records[0] == {"kind": "resumed", "step": 0}
    assert result.bound == run(toy_spec(seed=2), tmp_path / "c")[0].bound


def test_a_full_disk_ends_the_attempt_and_costs_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = toy_spec()
    straight, _ = run(spec, tmp_path / "straight")
    real, calls = os.fsync, 0

    def full_at_the_sixth(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls >= 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full_at_the_sixth)
    with pytest.raises(OSError, match="No space left"):
        run(spec, tmp_path / "a", checkpoint_every_s=0)
    monkeypatch.setattr(os, "fsync", real)
    result, records = run(spec, tmp_path / "b", resume_from=[tmp_path / "a"])
    assert records[0] == {"kind": "resumed", "step": 5}
    assert result.bound == straight.bound


# -- what a loss depends on ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_micro_batches_change_nothing_but_rounding(name: str, tmp_path: Path) -> None:
    """Gradient of the whole batch to 1e-6 however it is cut, a remainder included."""
    spec = spec_of(name, batch_size=8)
    gradients: dict[int, torch.Tensor] = {}
    for size in (8, 3, 1, 100):
        parts = loop._prepare(spec, ToyData(), "cpu", size, False)
        loop._gradient(parts)
        assert parts.optimizer.flat.grad is not None
        gradients[size] = parts.optimizer.flat.grad
    for size, gradient in gradients.items():
        error = float((gradient - gradients[8]).norm() / gradients[8].norm())
        assert error < 1e-6, f"micro-batches of {size}"
    whole, cut = (run(spec, tmp_path / f"{size}", micro_batch_size=size)[0].bound for size in (8, 3))
    assert cut == pytest.approx(whole, rel=1e-4)  # rounding, amplified by 20 steps of Adam


def test_the_last_step_takes_what_is_left(tmp_path: Path) -> None:
    """Its loss is the mean over its own 5 sequences, and every planned sequence is seen once."""
    spec, data = toy_spec("ar", optimizer={"schedule": "constant"}), ToyData()
    _, records = run(spec, tmp_path, data=data)
    assert data.asked == [(8 * i, 8) for i in range(19)] + [(152, 5)]
    last = curve(records)[-1]
    assert last[0] == 20
    assert last[4] == 157 * CONTEXT
    assert last[5] == pytest.approx(spec.training_flops())

    parts = loop._prepare(spec, data, "cpu", None, False)
    parts.progress.step = 19
    (loss,), _ = loop._gradient(parts)
    assert loss == pytest.approx(math.log(7), rel=1e-6), "zero logits: ln of the 7 tokens, not 5/8 of it"


def test_data_order_depends_on_the_step_alone(tmp_path: Path) -> None:
    spec = toy_spec()
    whole, cut, resumed = ToyData(), ToyData(), ToyData()
    run(spec, tmp_path / "a", data=whole)
    run(spec, tmp_path / "b", data=cut, micro_batch_size=2)
    run(spec, tmp_path / "c", data=resumed, should_stop=Stopper(5))
    run(spec, tmp_path / "d", data=resumed, resume_from=[tmp_path / "c"])
    assert whole.asked == cut.asked == resumed.asked


@pytest.mark.parametrize("name", FEW)
def test_the_loss_does_not_depend_on_what_ran_before(name: str, tmp_path: Path) -> None:
    spec = spec_of(name)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    first, _ = run(spec, tmp_path / "a")
    torch.manual_seed(2)
    torch.rand(3)
    run(spec_of("uniform", seed=5), tmp_path / "b")
    again, _ = run(spec, tmp_path / "c")
    assert first.bound is not None
    assert again.bound == first.bound


def test_another_process_finds_the_same_loss(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "from pathlib import Path\n"
        "from tests.scaling.toys import ToyData, toy_spec\n"
        "from scaling.training import train\n"
        "print(train(toy_spec('uniform'), ToyData(), Path(sys.argv[1]), log=lambda r: None).bound.hex())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    other = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a")],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    here = run(toy_spec("uniform"), tmp_path / "b")[0].bound
    assert here is not None
    assert other.stdout.strip() == here.hex()


@pytest.mark.parametrize("name", FEW)
def test_seeds_give_different_runs(name: str, tmp_path: Path) -> None:
    bounds = {run(spec_of(name, seed=seed), tmp_path / f"{seed}")[0].bound for seed in range(3)}
    assert len(bounds) == 3


# -- how runs end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_a_run_that_finishes(name: str, tmp_path: Path) -> None:
    spec = spec_of(name, sequences=400, optimizer={"learning_rate": 1e-2})
    result, records = run(spec, tmp_path)
    assert result.status is RunStatus.FINISHED
    assert result.key == spec.key
    assert result.steps_done == spec.steps == 50
    assert result.bound is not None
    assert result.bound_se is not None
    assert 0 < result.bound < math.log(7) + 4 * result.bound_se + 0.1, "no worse than knowing nothing"
    assert result.bits_per_byte == pytest.approx(result.bound / math.log(2))
    assert result.tokens_per_s == pytest.approx(spec.tokens / result.train_s)
    assert result.to_dict()["status"] == "finished"
    points = curve(records)
    assert [p[0] for p in points] == list(range(1, 51))
    rates = [p[3] for p in points]
    assert rates[:4] == pytest.approx([2.5e-3, 5e-3, 7.5e-3, 1e-2])
    assert all(
        set(r) >= {"tokens_per_s", "flops_per_s", "mfu", "elapsed_s"} for r in records if r["kind"] == "train"
    )
    bound = records[-1]
    assert (bound["kind"], bound["step"], bound["bound"]) == ("bound", 50, result.bound)


@pytest.mark.parametrize("name", ALL)
def test_samples_are_texts_of_the_corpus_and_change_nothing(name: str, tmp_path: Path) -> None:
    spec = spec_of(name)
    plain, _ = run(spec, tmp_path / "plain")
    result, records = run(spec, tmp_path / "sampled", samples=3)
    assert result.bound == plain.bound
    record = records[-1]
    assert (record["kind"], record.get("problem")) == ("samples", None)
    assert [len(text) for text in record["texts"]] == [CONTEXT] * 3
    assert set("".join(record["texts"])) <= set("0123456"), "no id that stands for noise"
    _, records = run(spec, tmp_path / "again", samples=3)
    assert records[-1]["texts"] == record["texts"]


def test_a_sample_that_cannot_be_drawn_costs_no_run(tmp_path: Path) -> None:
    result, records = run(toy_spec("ar", family_options={"start": "none"}), tmp_path, samples=1)
    assert result.status is RunStatus.FINISHED
    assert "no first token to sample from" in records[-1]["problem"]


def test_a_long_curve_is_thinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many points as asked, the last step always among them, each the mean of its interval."""
    spec = toy_spec("ar")
    _, every_step = run(spec, tmp_path / "a")
    monkeypatch.setattr(loop, "CURVE_POINTS", 6)
    _, thinned = run(spec, tmp_path / "b")
    assert [p[0] for p in curve(thinned)] == [3, 6, 9, 12, 15, 18, 20]
    losses = [p[1] for p in curve(every_step)]
    means = [*np.mean(np.reshape(losses[:18], (6, 3)), axis=1), np.mean(losses[18:])]
    assert [p[1] for p in curve(thinned)] == pytest.approx(means)


def test_a_loss_that_is_not_finite_ends_the_run_before_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = Family.training_loss, 0

    def broken_at_the_sixth(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return real(*arguments) * (math.nan if calls == 6 else 1.0)

    monkeypatch.setattr(Family, "training_loss", broken_at_the_sixth)
    result, records = run(toy_spec(), tmp_path, checkpoint_every_s=0)
    assert result.status is RunStatus.DIVERGED
    assert result.sentence == "diverged: the loss or its gradient is not finite at step 6"
    assert (result.steps_done, result.bound) == (5, None)
    assert curve(records)[-1][0] == 5
    state, _ = newest_checkpoint([tmp_path], toy_spec().key)
    assert state is not None
    assert state["step"] == 5
    assert torch.isfinite(state["parameters"]).all(), "the last good step is what is kept"


def test_a_gradient_that_is_not_finite_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop.FlatAdamW, "gradient_norms", lambda self: [math.inf])
    result, _ = run(toy_spec(), tmp_path)
    assert (result.status, result.steps_done) == (RunStatus.DIVERGED, 0)


@pytest.mark.parametrize("name", FEW)
def test_an_absurd_learning_rate_diverges(name: str, tmp_path: Path) -> None:
    spec = spec_of(
        name, sequences=8 * 120, optimizer={"learning_rate": 100.0, "clip_norm": None, "weight_decay": 0.0}
    )
    result, _ = run(spec, tmp_path)
    assert result.status is RunStatus.DIVERGED
    assert result.sentence.startswith("diverged: the loss")
    assert result.steps_done < 120


@pytest.mark.parametrize("start", [2.0, 50.0])
def test_exploding_is_three_times_the_first_average(start: float) -> None:
    """Or three times ln V, 6 here, where the run was above it from the start."""
    progress = Progress.of(1)

    def watch(loss: float, times: int) -> bool:
        for _ in range(times):
            progress.watch([loss], ignorance=6.0)
            progress.step += 1
        return not progress.trained

    assert watch(start, WATCH_STEPS) == (start > 3 * 6.0)
    progress.lost, progress.averages = [None], [min(start, 6.0)]
    reference = min(start, 6.0)
    assert progress.first_averages == [pytest.approx(reference)]
    assert not watch(reference * EXPLODED * 0.99, 400)
    assert watch(reference * EXPLODED * 1.01, 400)


def test_bfloat16_runs_and_is_close(tmp_path: Path) -> None:
    changes = {"sequences": 480, "optimizer": {"learning_rate": 1e-2}}
    bounds = {}
    for precision in ("float32", "bfloat16"):
        result, _ = run(toy_spec("uniform", precision=precision, **changes), tmp_path / precision)
        assert result.status is RunStatus.FINISHED
        bounds[precision] = result.bound
    assert bounds["bfloat16"] == pytest.approx(bounds["float32"], rel=0.03)


def test_a_source_without_text_has_no_bits_per_byte(tmp_path: Path) -> None:
    data = ToyData()
    data.bytes_per_token = None
    result, records = run(toy_spec(), tmp_path, data=data)
    assert result.status is RunStatus.FINISHED
    assert result.bits_per_byte is None
    assert records[-1]["bits_per_byte"] is None


def test_too_little_heldout_text_is_said_before_training(tmp_path: Path) -> None:
    class Short(ToyData):
        def heldout(self, count: int, context_length: int) -> np.ndarray:
            return super().heldout(1, context_length)

    data = Short()
    with pytest.raises(ValueError, match="corpus 'toy' holds out 1 windows of context_length 6"):
        run(toy_spec(), tmp_path, data=data)
    assert data.asked == []
