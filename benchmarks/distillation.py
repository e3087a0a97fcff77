"""What discrete consistency distillation does to samples, and what a moving average of the weights costs.

    python -m benchmarks.distillation [--corpus topics]
    python -m benchmarks.distillation --run runs/desk/uniform/runs/KEY --judge runs/desk/ar/runs/KEY

A `uniform` run of a desk size learns a source whose probabilities are known, and is distilled. Texts of
teacher and student, at every number of steps: cross-entropy under the source (nats per token, lower is
likelier text; the source's own is its entropy), entropy of the ids of all texts together (falls if texts grow
alike), and the entropy of the ids of a text. Intervals: 95%, over texts, the same seeds for both.

The average: seconds per optimizer step with and without, in turn, in this process.

With --run a finished run is distilled instead, on its own text: texts of teacher and student under a judge,
and of the teacher at the temperature that gives it the student's entropy. The student stays in --keep.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks import options, save
from benchmarks.judged import RANGES, Desk, add_options, at_equal_entropy, compare, head, matching, row
from scaling.data import open_dataset, prepare
from scaling.data.synthetic import Source, parse_source
from scaling.ladder import Size
from scaling.sampling import generate
from scaling.spec import DataSpec, DistillationSettings, EvaluationSpec, OptimizerSpec, RunSpec, distilled
from scaling.training import load_run, train
from scaling.training.optimizer import FlatAdamW, WeightAverage

CORPORA = {
    "topics": "synthetic:topics?topics=4&vocab=16&sharpness=3",
    "chain": "synthetic:markov?order=1&vocab=64&sharpness=2.5",
}
"""Texts that must agree on a topic throughout, and texts whose tokens depend on the one before."""
SIZE = Size(name="48x1", hidden=48, num_layers=1, num_heads=6, cond_dim=128, time_features=256)
LENGTH, BATCH = 32, 32
LADDER, LADDER_ON_TEXT = (4, 8, 64), (4, 8, 16, 32)
MATCHED = (4, 8)
"""Steps at which the teacher is also read at the student's entropy."""
RESAMPLES = 1000


def main() -> None:
    parser = options(__doc__, "distillation")
    add_options(parser, needed=False)
    parser.add_argument("--keep", type=Path, help="with --run: folder for the student, made or trained on")
    parser.add_argument("--corpus", choices=CORPORA, default="topics")
    parser.add_argument("--steps", type=int, default=3000, help="optimizer steps of the teacher")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps-per-round", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=BATCH, help="of the student")
    parser.add_argument("--first-step", type=float, default=1 / 512)
    parser.add_argument("--learning-rate", type=float, default=3e-4, help="of the student")
    parser.add_argument("--ema-decay", type=float, default=0.99, help="of the student")
    parser.add_argument("--forward-kl", action="store_true", help="the other divergence")
    parser.add_argument("--texts", type=int, default=1000)
    arguments = parser.parse_args()
    if (arguments.run is None) != (arguments.judge is None):
        parser.error("--run and --judge go together")
    torch.set_num_threads(1)
    how = DistillationSettings(
        rounds=arguments.rounds,
        steps_per_round=arguments.steps_per_round,
        first_step=arguments.first_step,
        forward_kl=arguments.forward_kl,
    )
    about: dict[str, Any] = {
        "batch_size": arguments.batch_size, "warmup_steps": 100, "ema_decay": arguments.ema_decay,
        "learning_rate": arguments.learning_rate,
    }  # fmt: skip
    if arguments.run is not None:
        with TemporaryDirectory() as place:
            desk = Desk.of(arguments.judge, arguments.texts)
            save(arguments.out, on_text(arguments.run, desk, how, about, arguments.keep or Path(place)))
        return
    corpus = CORPORA[arguments.corpus]
    source = parse_source(corpus)
    numbers: dict[str, Any] = {"entropy": source.entropy_per_token(LENGTH), "average": cost_of_average()}
    print(json.dumps(numbers, indent=1), flush=True)
    with TemporaryDirectory() as place:
        folder = Path(place)
        data = open_dataset(prepare(corpus, "ids", folder / "data").folder)
        spec = RunSpec(
            family="uniform",
            size=SIZE,
            budget=1e10,
            sequences=arguments.steps * BATCH,
            batch_size=BATCH,
            data=DataSpec.of(data, LENGTH),
            optimizer=OptimizerSpec(learning_rate=5e-3, warmup_steps=arguments.steps // 20, ema_decay=0.999),
            evaluation=EvaluationSpec(sequences=1024, noise_levels=8),
        )
        student = distilled(spec, how, **about)
        for name, run in (("teacher", spec), ("student", student)):
            started = time.perf_counter()
            there = folder / name
            there.mkdir()
            (there / "spec.json").write_text(json.dumps(run.to_dict()))
            result = train(run, data, there, log=lambda _: None, parent=folder / "teacher")
            numbers[name] = {
                "seconds": time.perf_counter() - started,
                "bound": result.bound,
                "bound_last": result.bound_last,
                "bound_average": result.bound_average,
                "texts": {steps: quality(there, steps, arguments.texts, source) for steps in LADDER},
            }
            print(name, json.dumps(numbers[name], indent=1), flush=True)
    save(arguments.out, numbers)


def on_text(
    folder: Path, desk: Desk, how: DistillationSettings, about: dict[str, Any], keep: Path
) -> dict[str, Any]:
    """Distil the finished run in `folder` into `keep`, print what it does to texts, and return it."""
    teacher = load_run(folder)
    spec = distilled(teacher.spec, how, **about)
    keep.mkdir(parents=True, exist_ok=True)
    (keep / "spec.json").write_text(json.dumps(spec.to_dict()))
    result = train(spec, desk.data, keep, log=lambda _: None, parent=folder)
    student = load_run(keep)
    numbers: dict[str, Any] = {"spec": spec.to_dict(), "bound": result.bound, "judge": desk.judge.name}
    heldout = desk.heldout(spec.data.context_length)
    print(f"judge {desk.judge.name}, {desk.texts} texts, bound of the student {result.bound:.3f}")
    print(head("teacher", "temperature"))
    print(row("held-out text", heldout), flush=True)
    for steps in LADDER_ON_TEXT:
        before, after = (desk.sample(run, steps=steps) for run in (teacher, student))
        print(row(f"teacher, {steps} steps", before), flush=True)
        numbers[str(steps)] = {"teacher": before.summary(), "student": after.summary()}
        numbers[str(steps)]["to_teacher"] = compare(after, before)
        matches = []
        if steps in MATCHED:
            sample = partial(desk.filtered, teacher, "temperature", steps=steps)
            matches.append(matching(sample, float(after.entropy.mean()), *RANGES["temperature"]))
            equal = at_equal_entropy(after, matches[0])
            numbers[str(steps)] |= {"temperature": matches[0].value, "at_equal_entropy": equal}
        print(row(f"student, {steps} steps", after, before, *matches), flush=True)
    return numbers


def quality(run: Path, steps: int, texts: int, source: Source) -> dict[str, tuple[float, float, float]]:
    """Value and 95% interval of each measure of the run's texts."""
    _, family, model = load_run(run)
    ids = generate(model, family, range(texts), LENGTH, steps=steps).ids.numpy()
    surprise = -source.log_prob(ids) / LENGTH
    counts = np.stack([np.bincount(text, minlength=source.num_token_ids) for text in ids])
    within = entropy(counts)
    draws = np.random.default_rng(0).integers(texts, size=(RESAMPLES, texts))
    together = [float(entropy(counts[rows].sum(0))) for rows in draws]
    low, high = np.quantile(together, [0.025, 0.975])
    return {
        "cross_entropy": interval(surprise),
        "entropy": (float(entropy(counts.sum(0))), float(low), float(high)),
        "entropy_of_a_text": interval(within),
    }


def entropy(counts: np.ndarray) -> np.ndarray:
    """Entropy (...,) of the shares of counts (..., V), nats."""
    shares = counts / counts.sum(-1, keepdims=True)
    return np.asarray(-(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(-1))


def interval(values: np.ndarray) -> tuple[float, float, float]:
    mean, error = float(values.mean()), 1.96 * float(values.std()) / math.sqrt(len(values))
    return mean, mean - error, mean + error


def cost_of_average() -> dict[str, dict[str, float]]:
    """What the average adds to a step, for a small and a larger network."""
    larger = replace(SIZE, name="256x4", hidden=256, num_layers=4, num_heads=8)
    return {
        "48x1, 64 ids": time_of_average(SIZE, 64, 16),
        "256x4, 4096 ids": time_of_average(larger, 4096, 4),
    }


def time_of_average(size: Size, vocab: int, batch: int, pairs: int = 40, steps: int = 5) -> dict[str, float]:
    """Median milliseconds of an optimizer step and of the update of an average, and the median ratio of steps
    with to steps without in turn."""
    spec = RunSpec(
        family="uniform",
        size=size,
        budget=1e10,
        sequences=1000,
        batch_size=batch,
        data=DataSpec(
            corpus="none", tokenizer="ids", fingerprint="0", num_token_ids=vocab, context_length=64
        ),
        optimizer=OptimizerSpec(learning_rate=1e-3),
    )
    family, generator = spec.build_family(), torch.Generator().manual_seed(0)
    model = family.build_model(size, generator)
    optimizer = FlatAdamW(model, spec.optimizer)
    average = WeightAverage(optimizer.flat, 0.999)
    x0 = torch.randint(vocab, (batch, 64), generator=generator)

    def seconds(averaged: bool) -> float:
        started = time.perf_counter()
        for step in range(steps):
            loss = family.training_loss(model, family.training_batch(x0, generator, 0.5))
            optimizer.add_gradient(loss / x0.numel(), first=True)
            optimizer.step(1e-3, optimizer.gradient_norms())
            if averaged:
                average.update(optimizer.flat, step + 1)
        return (time.perf_counter() - started) / steps

    seconds(averaged=True)  # the first steps pay for set-up
    without, with_average = zip(*((seconds(False), seconds(True)) for _ in range(pairs)), strict=True)
    updates = []
    for step in range(200):
        started = time.perf_counter()
        average.update(optimizer.flat, step + 1)
        updates.append(time.perf_counter() - started)
    return {
        "parameters": optimizer.flat.numel(),
        "step_ms": 1e3 * float(np.median(without)),
        "update_ms": 1e3 * float(np.median(updates)),
        "ratio": float(np.median([one / other for one, other in zip(with_average, without, strict=True)])),
        "bytes_of_average": average.values.numel() * average.values.element_size(),
    }


if __name__ == "__main__":
    main()
