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
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from scaling.errors import UserError
from scaling.evaluation import Bound, estimate_bound
from scaling.evaluation.samples import sample_ids
from scaling.evaluation.sequence_losses import sequence_record
from scaling.families.base import Family
from scaling.families.uniform import Uniform
from scaling.models import Transformer
from scaling.randomness import generator_for
from scaling.spec import RunSpec
from scaling.training.checkpoint import newest_checkpoint, save_checkpoint
from scaling.training.clusters import Clustering
from scaling.training.distillation import Distillation, load_parent
from scaling.training.labels import heldout_labels, label_numbers, training_labels
from scaling.training.machine import float32_route, matmul_peak
from scaling.training.optimizer import FlatAdamW, WeightAverage, flatten, learning_rate_at
from scaling.training.result import RunStatus, TrainResult

CURVE_POINTS = 200
"""Points of the loss curve that a run logs."""
WATCH_STEPS = 50
FIRST_SHARE = 0.01
"""Held-out losses during a run are even on a logarithmic scale of steps, as its figure is, from a little
after this share of them to the last step, each at a point of the loss curve."""
EXPLODED = 3.0
"""A loss averaged over about WATCH_STEPS steps that exceeds this multiple of its first value has exploded.

The first value counts as at most `Family.ignorance`, ln V as a rule: a run may explode before it is taken.
"""

Log = Callable[[dict[str, Any]], None]


class TrainingData(Protocol):
    """What training needs of a dataset."""

    @property
    def bytes_per_token(self) -> float | None: ...

    def train_batch(self, first_sequence: int, count: int, context_length: int, seed: int) -> np.ndarray: ...

    def heldout(self, count: int, context_length: int) -> np.ndarray: ...

    def decode(self, ids: np.ndarray) -> str: ...


@dataclass(slots=True)
class _LoopState:
    """What a checkpoint carries beside the weights: all the loop's own memory."""

    step: int = 0
    average: float = 0.0
    """Running mean of the loss, over about WATCH_STEPS steps."""
    first_average: float = math.inf
    interval_loss: float = 0.0
    interval_steps: int = 0
    train_s: float = 0.0
    evaluation_s: float = 0.0
    evaluation_flops: float = 0.0
    evaluations: int = 0

    def watch(self, loss: float, ignorance: float, *, grows: bool = False) -> None:
        """Take in the loss of a step; `ignorance` is what a network that knows nothing costs.

        grows: a loss that starts near 0 and rises by design is compared with `ignorance` alone.
        """
        weight = 1 / min(self.step + 1, WATCH_STEPS)
        self.average += weight * (loss - self.average)
        if self.step + 1 == WATCH_STEPS:
            self.first_average = ignorance if grows else min(self.average, ignorance)
        self.interval_loss += loss
        self.interval_steps += 1

    @property
    def exploded(self) -> bool:
        return self.average > EXPLODED * self.first_average


@dataclass(slots=True, kw_only=True)
class _Training:
    """The parts of a run that the loop's helpers share."""

    spec: RunSpec
    family: Family
    model: Transformer
    optimizer: FlatAdamW
    data: TrainingData
    heldout: Tensor
    heldout_labels: Tensor | None
    """(n,) of a run with labels."""
    small_heldout: Tensor
    """The text of held-out losses during training."""
    evaluated_steps: tuple[int, ...]
    """Steps after which they are measured."""
    device: torch.device
    micro_batch_size: int
    average: WeightAverage | None = None
    distillation: Distillation | None = None
    clustering: Clustering | None = None
    earlier: tuple[Path, ...] = ()
    """Folders of earlier attempts."""
    resumed: int = 0
    """Step from which the last of them was continued."""
    progress: _LoopState = field(default_factory=_LoopState)


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
    flops_per_step = spec.training_flops("exact") / spec.sequences * spec.batch_size
    started = last_saved = last_logged = time.perf_counter()
    earlier_s = progress.train_s + progress.evaluation_s

    while progress.step < spec.steps:
        if run.distillation is not None:
            run.distillation.refresh(progress.step, run.optimizer.flat)
        if run.clustering is not None:
            run.clustering.begin(progress.step)
        loss, norm = _gradient(run)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return _diverged(run, f"the loss or its gradient is not finite at step {progress.step + 1}")
        rate = learning_rate_at(progress.step, spec.steps, spec.optimizer)
        run.optimizer.step(rate, norm)
        progress.watch(loss, ignorance=run.family.ignorance, grows=run.distillation is not None)
        progress.step += 1
        if run.average is not None:
            run.average.update(run.optimizer.flat, progress.step)
        now = time.perf_counter()
        progress.train_s = earlier_s + now - started - progress.evaluation_s
        if progress.exploded:
            return _diverged(
                run, f"the loss has exploded at step {progress.step}: {progress.average:.4g} nats"
            )

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
                    "grad_norm": norm,
                    "tokens": done * spec.data.context_length,
                    "flops": spec.training_flops() * done / spec.sequences,
                    "tokens_per_s": steps_per_s * spec.batch_size * spec.data.context_length,
                    "flops_per_s": steps_per_s * flops_per_step,
                    "mfu": steps_per_s * flops_per_step / peak,
                    "elapsed_s": progress.train_s + progress.evaluation_s,
                    "evaluation_left_s": _evaluation_left_s(run),
                }
            )
            progress.interval_loss, progress.interval_steps, last_logged = 0.0, 0, now
        if progress.step in run.evaluated_steps:
            last_logged += _evaluate_during(run, log)
        reason = should_stop() if progress.step < spec.steps else None
        if reason or now - last_saved > checkpoint_every_s:
            _save(run, folder, log)
            last_saved = time.perf_counter()
        if reason:
            sentence = f"stopped at step {progress.step} of {spec.steps}: {reason}"
            return _result(run, RunStatus.PREEMPTED, sentence)

    if progress.step > run.resumed and (keep_weights or last_saved != started):
        _save(run, folder, log)  # a kill during evaluation costs the evaluation alone
    result = _evaluate(run, log)
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
) -> _Training:
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
    model = family.build_model(spec.size, generator_for(spec.seed, "initial weights")).to(device)
    optimizer = FlatAdamW(model, spec.optimizer)
    distillation = None
    if spec.distillation is not None:
        assert isinstance(family, Uniform), "only this family can be distilled"
        teacher = family.build_model(spec.size, generator_for(spec.seed, "initial weights")).to(device)
        distillation = Distillation(spec, family, teacher)
    if compile_trunk:
        model.trunk = torch.compile(model.trunk)  # type: ignore[method-assign]
    return _Training(
        spec=spec,
        family=family,
        model=model,
        optimizer=optimizer,
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


def _start(run: _Training, parent: Path | str | None) -> None:
    """A run without a checkpoint begins: one that distils another with that one's weights."""
    flat, decay = run.optimizer.flat, run.spec.optimizer.ema_decay
    if run.distillation is not None:
        with torch.no_grad():
            flat.copy_(flatten(load_parent(run.spec, None if parent is None else Path(parent))))
    run.average = None if decay is None else WeightAverage(flat, decay)


def _restore(run: _Training, state: Mapping[str, Any]) -> None:
    run.optimizer.restore(state)
    run.progress = _LoopState(**state["progress"])
    if run.spec.optimizer.ema_decay is not None:
        average = state["average"].to(run.device, copy=True)
        run.average = WeightAverage(average, run.spec.optimizer.ema_decay)
    if run.distillation is not None:
        run.distillation.weights.copy_(state["teacher"])
    if run.clustering is not None:
        run.clustering.restore(state)


def _save(run: _Training, folder: Path, log: Log) -> None:
    state = {"key": run.spec.key, "progress": asdict(run.progress), **run.optimizer.state()}
    if run.average is not None:
        state["average"] = run.average.values.cpu()
    if run.distillation is not None:
        state["teacher"] = run.distillation.weights.cpu()
    if run.clustering is not None:
        state |= run.clustering.state()
    save_checkpoint(folder, run.progress.step, state, resumed=run.resumed, earlier=run.earlier)
    log({"kind": "checkpoint", "step": run.progress.step})


def _gradient(run: _Training) -> tuple[float, float]:
    """Mean loss per token of the step's global batch and the norm of its gradient (in the optimizer)."""
    spec, step = run.spec, run.progress.step
    first = step * spec.batch_size
    count = min(spec.batch_size, spec.sequences - first)
    ids = run.data.train_batch(first, count, spec.data.context_length, spec.seed)
    x0 = torch.from_numpy(ids).to(run.device)
    generator = generator_for(spec.seed, "noise", step, run.device.type)
    objective = run.distillation or run.family
    batch = objective.training_batch(x0, generator, step / spec.steps)
    if run.clustering is not None:
        batch = batch.with_labels(run.clustering.training_labels(x0, step))
    elif spec.labels is not None:
        batch = batch.with_labels(training_labels(spec, run.data, step, count).to(run.device))
    total = 0.0
    for start in range(0, len(batch), run.micro_batch_size):
        part = batch.rows(slice(start, start + run.micro_batch_size))
        with torch.autocast(run.device.type, torch.bfloat16, enabled=spec.precision == "bfloat16"):
            loss = objective.training_loss(run.model, part)
        mean = loss * (len(part) / (len(batch) * run.family.targets(part.x0).numel()))
        run.optimizer.add_gradient(mean, first=start == 0)
        total += float(mean.detach())
    if run.clustering is not None and (loss_of_head := run.clustering.loss(x0, step)) is not None:
        run.optimizer.add_gradient(loss_of_head, first=False)
    return total, run.optimizer.gradient_norm()


def _diverged(run: _Training, sentence: str) -> TrainResult:
    return _result(run, RunStatus.DIVERGED, f"diverged: {sentence}")


def _result(run: _Training, status: RunStatus, sentence: str) -> TrainResult:
    spec, progress = run.spec, run.progress
    share = min(1.0, progress.step * spec.batch_size / spec.sequences)
    seconds = max(progress.train_s, 1e-9)
    return TrainResult(
        key=spec.key,
        status=status,
        sentence=sentence,
        steps_done=progress.step,
        train_s=progress.train_s,
        tokens_per_s=share * spec.tokens / seconds,
        flops_per_s=share * spec.training_flops("exact") / seconds,
        evaluation_s=progress.evaluation_s,
        evaluation_flops=progress.evaluation_flops,
    )


def _bound(run: _Training, heldout: Tensor) -> tuple[Bound, float]:
    """The bound on `heldout`, and the seconds that it took; its costs are added to those of the run."""
    started = time.perf_counter()
    autocast = torch.bfloat16 if run.spec.precision == "bfloat16" else None
    bound = estimate_bound(run.model, run.family, heldout, run.spec.evaluation, autocast=autocast)
    seconds = time.perf_counter() - started
    run.progress.evaluation_s += seconds
    run.progress.evaluation_flops += run.spec.evaluation_flops(len(heldout))
    return bound, seconds


def _evaluate_during(run: _Training, log: Log) -> float:
    """Log the held-out loss on the small text, the same text and noise at every step; the seconds it took.

    The network reads it uncompiled: another shape could change how the training steps after it are compiled.
    """
    progress, done = run.progress, min(run.progress.step * run.spec.batch_size, run.spec.sequences)
    compiled = vars(run.model).pop("trunk", None)
    bound, seconds = _bound(run, run.small_heldout)
    if compiled is not None:
        run.model.trunk = compiled  # type: ignore[method-assign]
    progress.evaluations += 1
    log(
        {
            "kind": "held_out",
            "step": progress.step,
            "held_out_loss": bound.value,
            "held_out_loss_se": bound.se,
            "tokens": done * run.spec.data.context_length,
            "flops": run.spec.training_flops() * done / run.spec.sequences,
            "evaluation_s": progress.evaluation_s,
            "evaluation_flops": progress.evaluation_flops,
        }
    )
    return seconds


def _evaluation_left_s(run: _Training) -> float:
    """Expected seconds of the held-out losses still to come during training."""
    left = sum(step > run.progress.step for step in run.evaluated_steps)
    return left * run.progress.evaluation_s / max(1, run.progress.evaluations)


def _evaluate(run: _Training, log: Log) -> TrainResult:
    bound, _ = _bound(run, run.heldout)
    both: dict[str, Any] = {}
    reported: AbstractContextManager[None] = nullcontext()
    if run.average is not None:
        with run.average.in_place_of(run.optimizer.flat):
            averaged, _ = _bound(run, run.heldout)
        both = {"weights": "last", "bound_last": bound.value, "bound_average": averaged.value}
        if averaged.value < bound.value or not math.isfinite(bound.value):
            bound, both["weights"] = averaged, "average"
            reported = run.average.in_place_of(run.optimizer.flat)
    if not math.isfinite(bound.value):
        return _diverged(run, "the bound on held-out text is not finite")
    bytes_per_token = run.data.bytes_per_token
    bits = None if bytes_per_token is None else bound.bits_per_byte(bytes_per_token)
    numbers: dict[str, Any] = {"bound": bound.value, "bound_se": bound.se, "bits_per_byte": bits, **both}
    if run.clustering is not None:
        run.heldout_labels = run.clustering.labels(run.heldout, run.spec.evaluation.seed)
    if run.heldout_labels is not None:
        started = time.perf_counter()
        with reported:
            numbers |= label_numbers(run.spec, run.family, run.model, run.heldout, run.heldout_labels)
        run.progress.evaluation_s += time.perf_counter() - started
        run.progress.evaluation_flops += 2 * run.spec.evaluation_flops(len(run.heldout))
    costs = {"evaluation_s": run.progress.evaluation_s, "evaluation_flops": run.progress.evaluation_flops}
    if bound.losses is not None:
        log(sequence_record(bound.losses))
    log({"kind": "bound", "step": run.progress.step, **numbers, **costs})
    kind = "exact likelihood" if run.family.bound == "exact" else "upper bound"
    if both:
        kind += f", {'moving average of the' if both['weights'] == 'average' else 'last'} weights"
    sentence = f"loss {bound.value:.4f} ± {bound.se:.4f} nats per token ({kind})"
    return replace(_result(run, RunStatus.FINISHED, sentence), **numbers)


def _draw_samples(run: _Training, count: int, log: Log) -> None:
    generator = generator_for(run.spec.seed, "samples", 0, run.device.type)
    # as it was before it was compiled, which would be done again for every length that is read on the way
    vars(run.model).pop("trunk", None)
    started = time.perf_counter()
    record: dict[str, Any] = {"texts": []}
    try:
        if run.average is not None:
            with torch.no_grad():
                run.optimizer.flat.copy_(run.average.values)  # nothing is trained any more
        ids = sample_ids(run.model, run.family, count, run.spec.data.context_length, generator)
        record["texts"] = [run.data.decode(row) for row in ids.cpu().numpy()]
    except Exception as error:  # whatever it is, the run has its loss
        record["problem"] = f"{type(error).__name__}: {error}".splitlines()[0]
    log({"kind": "samples", **record, "seconds": time.perf_counter() - started})
