"""The training loop: one spec in, one loss out.

Straight code, top to bottom of `train`. Every draw of a step depends on (seed, purpose, step), and the
global batch is corrupted before it is cut into micro-batches (gradient accumulation), so a run gives the
same losses however often it was interrupted and however its batches were cut (bit for bit on the same
device type when the cuts are the same).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from scaling.errors import UserError
from scaling.evaluation.samples import sample_ids
from scaling.families.base import Noised
from scaling.families.uniform import Uniform
from scaling.models.replicas import stack
from scaling.randomness import generator_for
from scaling.spec import RunSpec
from scaling.training.bounds import end, end_diverged, evaluate, evaluate_during, evaluation_left_s
from scaling.training.checkpoint import newest_checkpoint, save_checkpoint
from scaling.training.clusters import Clustering
from scaling.training.distillation import Distillation, load_parent
from scaling.training.labels import heldout_labels, training_labels
from scaling.training.machine import float32_route, matmul_peak
from scaling.training.optimizer import FlatAdamW, WeightAverage, flatten, learning_rate_at
from scaling.training.result import RunStatus, TrainResult
from scaling.training.run import Log, Progress, Run, TrainingData

CURVE_POINTS = 200
"""Points of the loss curve that a run logs."""
FIRST_SHARE = 0.01
"""Held-out losses during a run are even on a logarithmic scale of steps, as its figure is, from a little
after this share of them to the last step, each at a point of the loss curve."""


def train(
    spec: RunSpec,
    data: TrainingData,
    folder: Path,
    *,
    log: Log,
    should_stop: Callable[[], str | None] = lambda: None,
    resume_from: Iterable[Path] = (),
    fences: Mapping[Path, int] | None = None,
    device: str = "cpu",
    micro_batch_size: int | None = None,
    checkpoint_every_s: float = 15.0,
    keep_weights: bool = True,
    compile_trunk: bool = False,
    samples: int = 0,
    during: int = 0,
    during_sequences: int = 64,
    parent: Path | str | None = None,
) -> TrainResult:
    """Train `spec` on `data`, evaluate its bound, and return how it ended.

    Replicas are trained as one stacked network; curves are means over them. One that diverges counts no more
    while the others go on.

    folder: where this attempt writes its checkpoints. resume_from: folders of earlier attempts; the
    furthest intact checkpoint in any of them (and in `folder`) is continued, those of a folder under
    `fences` up to that step only.
    log: receives records of kind "resumed", "damaged", "train", "held_out", "checkpoint", "sequence_losses",
    "bound" and "samples".
    during: held-out losses along the run, on `during_sequences` sequences; they change nothing else.
    samples: texts to draw from the trained network, for people to read; they change nothing else.
    should_stop: called after every step; a reason makes the run write a checkpoint and end as preempted.
    keep_weights: write a checkpoint after the last step, from which `load_run` reads the network; without, a
    run that took less than `checkpoint_every_s` leaves none.
    micro_batch_size: sequences of one forward and backward pass; below the batch size gradients accumulate.
    parent: folder of the finished run that `spec` distils.

    Raises UserError if the data is too small for the spec or the run that it distils cannot be used, OSError
    if a checkpoint cannot be written (the earlier ones stay whole).
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = _prepare(spec, data, device, micro_batch_size, compile_trunk, during, during_sequences)
    run.earlier = tuple(other for other in resume_from if other != folder)
    state, damaged = newest_checkpoint([*run.earlier, folder], spec.key, fences)
    for sentence in damaged:
        log({"kind": "damaged", "sentence": sentence})
    if state is not None:
        _restore(run, state)
    else:
        _start(run, parent)
    progress, run.resumed = run.progress, run.progress.step
    log({"kind": "resumed", "step": run.resumed})
    every = _curve_interval(spec)
    peak = matmul_peak(device, spec.precision, torch.get_num_threads())
    flops_per_step = spec.replicas * spec.training_flops("exact") / spec.sequences * spec.batch_size
    started = last_saved = last_logged = time.perf_counter()
    earlier_s = progress.train_s + progress.evaluation_s

    while progress.step < spec.steps:
        if run.distillation is not None:
            run.distillation.refresh(progress.step, run.optimizer.flat)
        if run.clustering is not None:
            run.clustering.begin(progress.step)
        losses, norms = _gradient(run)
        for i in progress.trained:
            if not (math.isfinite(losses[i]) and math.isfinite(norms[i])):
                progress.lost[i] = f"the loss or its gradient is not finite at step {progress.step + 1}"
        for i in set(range(spec.replicas)).difference(progress.trained):
            run.optimizer.clear_gradient(i)
            norms[i] = 0.0
        if not progress.trained:
            return end_diverged(run)
        rate = learning_rate_at(progress.step, spec.steps, spec.optimizer)
        run.optimizer.step(rate, norms)
        progress.watch(losses, ignorance=run.family.ignorance, grows=run.distillation is not None)
        progress.step += 1
        if run.average is not None:
            run.average.update(run.optimizer.flat, progress.step)
        now = time.perf_counter()
        progress.train_s = earlier_s + now - started - progress.evaluation_s
        if not progress.trained:
            return end_diverged(run)

        if progress.step % every == 0 or progress.step == spec.steps:
            steps_per_s = progress.interval_steps / (now - last_logged)
            done = min(progress.step * spec.batch_size, spec.sequences)
            # A biased loss has a name of its own, so that no curve and no law takes it for the objective.
            biased = (run.distillation or run.family).biased(
                (progress.step - progress.interval_steps) / spec.steps
            )
            log(
                {
                    "kind": "train",
                    "step": progress.step,
                    ("biased_loss" if biased else "loss"): progress.interval_loss / progress.interval_steps,
                    "learning_rate": rate,
                    "grad_norm": fmean(norms[i] for i in progress.trained),
                    "tokens": done * spec.data.context_length,
                    "flops": spec.training_flops() * done / spec.sequences,
                    "tokens_per_s": steps_per_s * spec.replicas * spec.batch_size * spec.data.context_length,
                    "flops_per_s": steps_per_s * flops_per_step,
                    "mfu": steps_per_s * flops_per_step / peak,
                    "elapsed_s": progress.train_s + progress.evaluation_s,
                    "evaluation_left_s": evaluation_left_s(run),
                }
            )
            progress.interval_loss, progress.interval_steps, last_logged = 0.0, 0, now
        if progress.step in run.evaluated_steps:
            last_logged += evaluate_during(run, log)
        reason = should_stop() if progress.step < spec.steps else None
        if reason or now - last_saved > checkpoint_every_s:
            _save(run, folder, log)
            last_saved = time.perf_counter()
        if reason:
            sentence = f"stopped at step {progress.step} of {spec.steps}: {reason}"
            return end(run, RunStatus.PREEMPTED, sentence)

    if progress.step > run.resumed and (keep_weights or last_saved != started):
        _save(run, folder, log)  # a kill during evaluation costs the evaluation alone
    result = evaluate(run, log)
    if samples and result.status == RunStatus.FINISHED:
        _draw_samples(run, samples, log)
    return result


def _prepare(
    spec: RunSpec,
    data: TrainingData,
    device: str,
    micro_batch_size: int | None,
    compile_trunk: bool,
    during: int = 0,
    during_sequences: int = 0,
) -> Run:
    # first of all the text of the bound: a corpus too small costs nothing then
    length = spec.data.context_length
    heldout = torch.from_numpy(data.heldout(spec.evaluation.sequences, length))
    if len(heldout) < 2:
        raise UserError(
            f"corpus {spec.data.corpus!r} holds out {len(heldout)} windows of context_length {length}, "
            "a bound with a standard error needs 2; choose a shorter context or a larger corpus"
        )
    small = torch.from_numpy(data.heldout(during_sequences, length)) if during else heldout[:0]
    labels = None
    if spec.labels is not None and not spec.labels.clustered:
        labels = heldout_labels(spec, data)
    torch.set_float32_matmul_precision(float32_route(spec.size.hidden) if device == "cpu" else "highest")
    family = spec.build_family()
    networks = [
        family.build_model(spec.size, generator_for(seed, "initial weights")).to(device)
        for seed in spec.seeds
    ]
    flat = flatten(*networks)
    model = networks[0] if len(networks) == 1 else stack(networks, flat)
    optimizer = FlatAdamW(model, spec.optimizer, flat)
    distillation = None
    if spec.distillation is not None:
        assert isinstance(family, Uniform), "only this family can be distilled"
        teacher = family.build_model(spec.size, generator_for(spec.seed, "initial weights")).to(device)
        distillation = Distillation(spec, family, teacher)
    if compile_trunk:
        model.trunk = torch.compile(model.trunk)  # type: ignore[method-assign]
    return Run(
        spec=spec,
        family=family,
        model=model,
        alone=[spec.alone(i) for i in range(spec.replicas)],
        networks=networks,
        optimizer=optimizer,
        progress=Progress.of(spec.replicas),
        data=data,
        heldout=heldout.to(device),
        heldout_labels=None if labels is None else labels.to(device),
        small_heldout=small.to(device),
        evaluated_steps=_evaluated_steps(spec, during),
        device=torch.device(device),
        micro_batch_size=micro_batch_size or spec.batch_size,
        distillation=distillation,
        clustering=Clustering.of(spec, family, model, micro_batch_size),
    )


def _curve_interval(spec: RunSpec) -> int:
    """Steps from one point of the loss curve to the next."""
    return max(1, spec.steps // CURVE_POINTS)


def _evaluated_steps(spec: RunSpec, count: int) -> tuple[int, ...]:
    every = _curve_interval(spec)
    shares = [FIRST_SHARE ** (1 - number / count) for number in range(1, count)]
    points = {max(1, round(share * spec.steps / every)) * every for share in shares}
    return tuple(sorted(points | ({spec.steps} if count else set())))


def _start(run: Run, parent: Path | str | None) -> None:
    """A run without a checkpoint begins: one that distils another with that one's weights."""
    flat, decay = run.optimizer.flat, run.spec.optimizer.ema_decay
    if run.distillation is not None:
        with torch.no_grad():
            flat.copy_(flatten(load_parent(run.spec, None if parent is None else Path(parent))))
    run.average = None if decay is None else WeightAverage(flat, decay)


def _restore(run: Run, state: Mapping[str, Any]) -> None:
    run.optimizer.restore(state)
    run.progress = Progress(**state["progress"])
    if run.spec.optimizer.ema_decay is not None:
        average = state["average"].to(run.device, copy=True)
        run.average = WeightAverage(average, run.spec.optimizer.ema_decay)
    if run.distillation is not None:
        run.distillation.weights.copy_(state["teacher"])
    if run.clustering is not None:
        run.clustering.restore(state)


def _save(run: Run, folder: Path, log: Log) -> None:
    state = {"key": run.spec.key, "progress": asdict(run.progress), **run.optimizer.state()}
    if run.average is not None:
        state["average"] = run.average.values.cpu()
    if run.distillation is not None:
        state["teacher"] = run.distillation.weights.cpu()
    if run.clustering is not None:
        state |= run.clustering.state()
    save_checkpoint(folder, run.progress.step, state, resumed=run.resumed, earlier=run.earlier)
    log({"kind": "checkpoint", "step": run.progress.step})


def _gradient(run: Run) -> tuple[list[float], list[float]]:
    """Of each replica the mean loss per token of the step's global batch, and the norm of its gradient (in
    the optimizer)."""
    spec, step = run.spec, run.progress.step
    batches = [_batch(run, alone, step) for alone in run.alone]
    objective = run.distillation or run.family
    size, totals = len(batches[0]), [0.0] * spec.replicas
    for start in range(0, size, run.micro_batch_size):
        part = Noised.join([batch.rows(slice(start, start + run.micro_batch_size)) for batch in batches])
        with torch.autocast(run.device.type, torch.bfloat16, enabled=spec.precision == "bfloat16"):
            loss = objective.training_loss(run.model, part)
        mean = loss * (len(part) / (size * run.family.targets(part.x0).numel()))
        run.optimizer.add_gradient(mean.sum(), first=start == 0)
        totals = [total + own for total, own in zip(totals, mean.detach().reshape(-1).tolist(), strict=True)]
    if run.clustering is not None:
        x0 = batches[0].x0
        if (loss_of_head := run.clustering.loss(x0, step)) is not None:
            run.optimizer.add_gradient(loss_of_head, first=False)
    return totals, run.optimizer.gradient_norms()


def _batch(run: Run, spec: RunSpec, step: int) -> Noised:
    """All draws of a step, for one replica, whose `spec` it is."""
    first = step * spec.batch_size
    count = min(spec.batch_size, spec.sequences - first)
    ids = run.data.train_batch(first, count, spec.data.context_length, spec.seed)
    x0 = torch.from_numpy(ids).to(run.device)
    generator = generator_for(spec.seed, "noise", step, run.device.type)
    batch = (run.distillation or run.family).training_batch(x0, generator, step / spec.steps)
    if run.clustering is not None:
        return batch.with_labels(run.clustering.training_labels(x0, step))
    if spec.labels is None:
        return batch
    return batch.with_labels(training_labels(spec, run.data, step, count).to(run.device))


def _draw_samples(run: Run, count: int, log: Log) -> None:
    generator = generator_for(run.spec.seed, "samples", 0, run.device.type)
    # as it was before it was compiled, which would be done again for every length that is read on the way
    vars(run.model).pop("trunk", None)
    started = time.perf_counter()
    record: dict[str, Any] = {"texts": []}
    try:
        if run.average is not None:
            with torch.no_grad():
                run.optimizer.flat.copy_(run.average.values)  # nothing is trained any more
        ids = sample_ids(
            run.networks[run.progress.trained[0]], run.family, count, run.spec.data.context_length, generator
        )
        record["texts"] = [run.data.decode(row) for row in ids.cpu().numpy()]
    except Exception as error:  # whatever it is, the run has its loss
        record["problem"] = f"{type(error).__name__}: {error}".splitlines()[0]
    log({"kind": "samples", **record, "seconds": time.perf_counter() - started})
