"""Discrete consistency distillation: its noise, its teacher, interruptions, and its gain at few steps."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scaling.errors import UserError
from scaling.families.duality import gamma_of, latent_scales
from scaling.families.uniform import Uniform
from scaling.randomness import generator_for
from scaling.spec import DataSpec, DistillationSettings, RunSpec, distilled
from scaling.training import RunStatus, TrainResult, load_run, train
from scaling.training.checkpoint import newest_checkpoint
from scaling.training.distillation import (
    Distillation,
    divergence,
    draw_candidates,
    noisy_ids,
    step_size,
    times,
)
from tests.scaling.enumeration import Planted, all_sequences
from tests.scaling.sampling.laws import together
from tests.scaling.toys import ToyData, toy_size, toy_spec

HOW = DistillationSettings(rounds=3, steps_per_round=6, first_step=1 / 64)


def run(spec: RunSpec, folder: Path, data: Any = None, **options: Any) -> tuple[TrainResult, list[Any]]:
    """As the worker of a sweep leaves it, in one attempt."""
    records: list[dict[str, Any]] = []
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.json").write_text(json.dumps(spec.to_dict()))
    return train(spec, data or ToyData(), folder, log=records.append, **options), records


def distillation_of(parent: RunSpec, **changes: Any) -> RunSpec:
    about = {"batch_size": 8, "learning_rate": 3e-3, "warmup_steps": 2, "ema_decay": 0.9, **changes}
    return distilled(parent, about.pop("how", HOW), **about)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunSpec, Path]:
    spec, folder = toy_spec("uniform"), tmp_path_factory.mktemp("parent")
    run(spec, folder)
    return spec, folder


# -- noise -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocab", [2, 5, 300])
def test_two_candidates_have_the_law_of_the_whole_latents(vocab: int) -> None:
    """P(z_t = x) = alpha + (1 - alpha) / V at both times, a token that stays until t stays until s, and all
    other ids are equally likely."""
    count = 40_000
    x0 = torch.full((count // 4, 4), vocab // 2)
    noise = draw_candidates(x0, vocab, torch.Generator().manual_seed(1))
    alphas = torch.tensor([0.3, 0.7], dtype=torch.float64)
    gammas = gamma_of(alphas, vocab)
    z_t, z_s = (noisy_ids(x0, noise, gamma.expand(len(x0))) for gamma in gammas)
    for z, alpha in zip((z_t, z_s), alphas.tolist(), strict=True):
        stay = alpha + (1 - alpha) / vocab
        assert float((z == x0).double().mean()) == pytest.approx(
            stay, abs=4 * (stay * (1 - stay) / count) ** 0.5
        )
    assert bool((z_s == x0)[z_t == x0].all())
    assert bool((z_t == z_s)[z_s != x0].all()), "the noise is shared"
    others = torch.bincount(noise.other.flatten(), minlength=vocab).double()
    assert others[vocab // 2] == 0
    expected = count / (vocab - 1)
    chi_square = float((others[others > 0] - expected).square().sum() / expected)
    assert chi_square < (vocab - 2) + 5 * (2 * vocab) ** 0.5


def test_a_latent_written_out_has_the_argmax_of_its_two_candidates() -> None:
    vocab, gamma = 7, torch.linspace(-4, 3, 50, dtype=torch.float64)
    generator = torch.Generator().manual_seed(2)
    epsilon = torch.randn((50, 20, vocab), generator=generator, dtype=torch.float64)
    x0 = torch.randint(vocab, (50, 20), generator=generator)
    kept, spread = (scale[:, None, None] for scale in latent_scales(gamma))
    whole = spread * epsilon + kept * torch.nn.functional.one_hot(x0, vocab)
    largest, other = epsilon.scatter(-1, x0[..., None], -torch.inf).max(-1)
    own = epsilon.gather(-1, x0[..., None])[..., 0]
    noise = draw_candidates(x0, vocab, generator)._replace(own=own, largest=largest, other=other)
    assert torch.equal(noisy_ids(x0, noise, gamma), whole.argmax(-1))


@pytest.mark.parametrize(
    ("vocab", "first", "last"), [(256, -3.62, 2.08), (50_257, -4.0, -1.0), (64, -3.49, 3.88)]
)
def test_the_range_of_gamma_fits_the_vocabulary(vocab: int, first: float, last: float) -> None:
    """Against the values at which the published range of signal levels lies for other vocabularies."""
    spec = toy_spec("uniform")
    spec = replace(spec, data=replace(spec.data, num_token_ids=vocab))
    made = distillation_of(spec)
    family = made.build_family()
    assert isinstance(family, Uniform)
    teacher = family.build_model(made.size, generator_for(0, "initial weights"))
    distillation = Distillation(made, family, teacher)
    assert distillation.gamma_range == pytest.approx((first, last), abs=0.012)
    t = torch.zeros(4, dtype=torch.float64)
    batch = distillation.training_batch(torch.ones(4, 6, dtype=torch.long), torch.Generator(), 0.0)
    assert bool((batch.t > t).all())
    assert bool(((batch.extra["signal"] > 0.006) & (batch.extra["signal"] < 0.9988)).all())
    assert bool((batch.extra["signal"][:, 0] < batch.extra["signal"][:, 1]).all()), (
        "the student reads more noise"
    )


def test_steps_double_by_round_and_times_stay_in_range() -> None:
    sizes = [step_size(HOW, step) for step in range(18)]
    assert sizes == [1 / 64] * 6 + [1 / 32] * 6 + [1 / 16] * 6
    linear = replace(HOW, last_step=0.5)
    assert [step_size(linear, step) for step in (0, 9)] == pytest.approx([1 / 64, (1 / 64 + 0.5) / 2])
    t, s = times(torch.tensor([0.0, 0.5, 0.99], dtype=torch.float64), 0.1)
    assert t.tolist() == pytest.approx([0.1, 0.6, 1.0])
    assert s.tolist() == pytest.approx([0.0, 0.5, 0.9])


def test_the_divergence_is_that_of_the_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn((3, 5), generator=generator, dtype=torch.float64) for _ in range(2))
    p, q = student.softmax(-1), teacher.softmax(-1)
    assert torch.allclose(divergence(student, teacher), (p * (p / q).log()).sum(-1))
    assert torch.allclose(divergence(student, teacher, forward=True), (q * (q / p).log()).sum(-1))
    p, q = student[:, :4].softmax(-1), teacher[:, :4].softmax(-1)
    assert torch.allclose(divergence(student, teacher, 4), (p * (p / q).log()).sum(-1))


# -- training ----------------------------------------------------------------------------------------


def test_the_student_starts_from_its_parent(parent: tuple[RunSpec, Path], tmp_path: Path) -> None:
    """The first loss is that of two equal networks that read nearly the same; none counts as a bound."""
    spec, folder = parent
    how = replace(HOW, first_step=1e-9)
    _, records = run(distillation_of(spec, how=how), tmp_path, parent=folder)
    points = [record for record in records if record["kind"] == "train"]
    assert points[0]["biased_loss"] < 1e-9
    assert not any("loss" in record for record in points), "no curve takes them for the bound"


@pytest.mark.parametrize("stop_at", [6, 9])
def test_the_teacher_is_the_raw_student_of_the_start_of_its_round(
    stop_at: int, parent: tuple[RunSpec, Path], tmp_path: Path
) -> None:
    spec, folder = distillation_of(parent[0]), parent[1]

    def stopped_at(step: int) -> dict[str, Any]:
        polls = iter(range(1, 100))
        there = tmp_path / f"{step}"
        run(spec, there, parent=folder, should_stop=lambda: "enough" if next(polls) == step else None)
        state, _ = newest_checkpoint([there], spec.key)
        assert state is not None
        return state

    begun, state = stopped_at(6), stopped_at(stop_at + 1)
    assert torch.equal(state["teacher"], begun["parameters"])
    assert not torch.equal(state["teacher"], begun["average"])
    assert not torch.equal(begun["teacher"], begun["parameters"])


def test_resumed_equals_uninterrupted(parent: tuple[RunSpec, Path], tmp_path: Path) -> None:
    spec, folder = distillation_of(parent[0]), parent[1]
    straight, expected = run(spec, tmp_path / "straight", parent=folder)
    attempts: list[Path] = []
    records: list[dict[str, Any]] = []
    for stop_after in (4, 2, 1, 100):  # in a round, at the end of one, and after the first step of the next
        polls, before = iter(range(1, 200)), list(attempts)
        attempts.insert(0, tmp_path / f"{stop_after}")

        def stop(polls: Any = polls, stop_after: int = stop_after) -> str | None:
            return "enough" if next(polls) == stop_after else None

        # later attempts go on from checkpoints alone
        result, more = run(
            spec, attempts[0], parent=None if before else folder, resume_from=before, should_stop=stop
        )
        records += more
    assert result.status is RunStatus.FINISHED

    def curve(records: list[dict[str, Any]]) -> list[Any]:
        return [(r["step"], r["biased_loss"], r["grad_norm"]) for r in records if r["kind"] == "train"]

    assert curve(records) == curve(expected)
    assert (result.bound_last, result.bound_average) == (straight.bound_last, straight.bound_average)
    states = [newest_checkpoint(folders, spec.key)[0] for folders in (attempts, [tmp_path / "straight"])]
    for name in ("parameters", "average", "teacher"):
        assert torch.equal(states[0][name], states[1][name])  # type: ignore[index]


def test_micro_batches_change_nothing_but_rounding(parent: tuple[RunSpec, Path], tmp_path: Path) -> None:
    spec, folder = distillation_of(parent[0]), parent[1]
    whole, _ = run(spec, tmp_path / "whole", parent=folder)
    parts, _ = run(spec, tmp_path / "parts", parent=folder, micro_batch_size=3)
    assert parts.bound_average == pytest.approx(whole.bound_average, rel=1e-4)


# -- what cannot be distilled ------------------------------------------------------------------------


def test_a_parent_that_cannot_be_used_is_named(parent: tuple[RunSpec, Path], tmp_path: Path) -> None:
    spec, folder = distillation_of(parent[0]), parent[1]
    with pytest.raises(UserError, match="the folder of that run must be given"):
        run(spec, tmp_path / "a")
    with pytest.raises(UserError, match=r"cannot be used: .* is no folder of a run"):
        run(spec, tmp_path / "a", parent=tmp_path / "nowhere")
    other = toy_spec("uniform", seed=5)
    run(other, tmp_path / "other")
    with pytest.raises(UserError, match=f"distils run {parent[0].key}, but .* holds run {other.key}"):
        run(spec, tmp_path / "a", parent=tmp_path / "other")
    polls = iter(range(1, 100))
    run(other, tmp_path / "begun", should_stop=lambda: "enough" if next(polls) == 3 else None)
    with pytest.raises(UserError, match=r"cannot be used: .* has not finished: .* step 3 of 20"):
        run(distillation_of(other), tmp_path / "a", parent=tmp_path / "begun")
    run(other, tmp_path / "gone", keep_weights=False)
    with pytest.raises(UserError, match=r"cannot be used: .* no checkpoint"):
        run(distillation_of(other), tmp_path / "a", parent=tmp_path / "gone")
    wider = replace(spec, size=toy_size(hidden=12))
    with pytest.raises(UserError, match="whose size is another"):
        run(wider, tmp_path / "a", parent=folder)
    with pytest.raises(UserError, match="family 'masked' cannot be distilled"):
        distillation_of(toy_spec("masked"))
    with pytest.raises(UserError, match=f"is itself distilled, from {parent[0].key}"):
        distillation_of(spec)


# -- does it help? -----------------------------------------------------------------------------------


class Copies:
    """Texts of four tokens, nearly always four times the same of three ids."""

    bytes_per_token: float | None = None

    def __init__(self) -> None:
        ids = all_sequences(3, 4)
        alike = torch.stack([(ids == k).sum(1) for k in range(3)], dim=1).amax(1)
        shares = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)[ids[:, 0]]
        weights = torch.where(alike == 4, shares, 2.5e-3 * (alike == 3) + 1e-4)
        self.source = Planted(3, 4, ids, weights / weights.sum())

    def train_batch(self, first_sequence: int, count: int, context_length: int, seed: int) -> np.ndarray:
        draws = np.random.default_rng([seed, first_sequence])
        chosen = draws.choice(len(self.source.ids), size=count, p=self.source.probs.numpy())
        return np.asarray(self.source.ids.numpy()[chosen])

    def heldout(self, count: int, context_length: int) -> np.ndarray:
        return self.train_batch(10**9, count, context_length, 0)

    def decode(self, ids: np.ndarray) -> str:
        return str(ids)


@torch.no_grad()
def law_of(folder: Path, steps: int) -> torch.Tensor:
    """Probability of every text that the run's network makes by ancestral sampling, by enumeration."""
    _, family, model = load_run(folder)
    states = all_sequences(3, 4)
    probs = torch.full((len(states),), 1 / len(states), dtype=torch.float64)
    for t, s in pairwise(torch.linspace(1, 0, steps + 1, dtype=torch.float64)):
        t_N, s_N = t.expand(len(states)), s.expand(len(states))
        x_theta = family.restored(model(states, family.conditioning(t_N)))
        probs = probs @ together(family.posterior(x_theta, states, t_N, s_N), states)
    return probs


def test_a_student_with_two_steps_ends_nearer_to_the_source_than_its_teacher(tmp_path: Path) -> None:
    data = Copies()
    spec = toy_spec(
        "uniform",
        size=toy_size(hidden=32, cond_dim=16),
        sequences=64 * 900,
        batch_size=64,
        data=DataSpec(corpus="copies", tokenizer="ids", fingerprint="0", num_token_ids=3, context_length=4),
        optimizer={"learning_rate": 3e-3, "warmup_steps": 50, "weight_decay": 0.0},
    )
    run(spec, tmp_path / "teacher", data)
    how = DistillationSettings(steps_per_round=80, first_step=1 / 128)
    about: dict[str, Any] = {"batch_size": 64, "learning_rate": 1e-3, "warmup_steps": 20, "ema_decay": 0.99}
    run(distilled(spec, how, **about), tmp_path / "student", data, parent=tmp_path / "teacher")

    def distance(name: str, steps: int) -> float:
        return float((law_of(tmp_path / name, steps) - data.source.probs).abs().sum()) / 2

    assert distance("teacher", 8) < 0.15, "the teacher knows the source"
    assert distance("student", 2) < 0.75 * distance("teacher", 2)
