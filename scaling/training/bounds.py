"""Held-out losses of a run: along the way, and of every replica when it has ended; and how it ended."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from scaling.evaluation import Bound, estimate_bound
from scaling.evaluation.bound import only_levels
from scaling.evaluation.sequence_losses import sequence_record
from scaling.training.labels import label_numbers
from scaling.training.result import Replica, RunStatus, TrainResult
from scaling.training.run import Log, Run


def end_diverged(run: Run) -> TrainResult:
    """Every replica has diverged: the result has the first one's cause."""
    result = end(run, RunStatus.DIVERGED, f"diverged: {run.progress.lost[0]}")
    return replace(result, replicas=_replicas(run, {}))


def _replicas(run: Run, numbers: Mapping[int, Mapping[str, Any]]) -> tuple[Replica, ...]:
    """How each replica ended, with the numbers of those that finished; none where there is but one."""
    if run.spec.replicas == 1:
        return ()
    return tuple(
        Replica(
            seed=seed, status=RunStatus.FINISHED if i in numbers else RunStatus.DIVERGED, **numbers.get(i, {})
        )
        for i, seed in enumerate(run.spec.seeds)
    )


def end(run: Run, status: RunStatus, sentence: str) -> TrainResult:
    spec, progress = run.spec, run.progress
    share = spec.replicas * min(1.0, progress.step * spec.batch_size / spec.sequences)
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


def _bound(run: Run, replica: int, heldout: Tensor) -> tuple[Bound, float]:
    """The bound of a replica on `heldout`, and the seconds that it took; its costs are added to the run's."""
    started = time.perf_counter()
    autocast = torch.bfloat16 if run.spec.precision == "bfloat16" else None
    bound = estimate_bound(run.networks[replica], run.family, heldout, run.spec.evaluation, autocast=autocast)
    seconds = time.perf_counter() - started
    run.progress.evaluation_s += seconds
    run.progress.evaluation_flops += run.spec.evaluation_flops(len(heldout))
    return bound, seconds


def evaluate_during(run: Run, log: Log) -> float:
    """Log the held-out loss on the small text, the same text and noise at every step; the seconds it took.

    The network reads it uncompiled: another shape could change how the training steps after it are compiled.
    """
    progress, done = run.progress, min(run.progress.step * run.spec.batch_size, run.spec.sequences)
    compiled = vars(run.model).pop("trunk", None)
    bounds, times = zip(*(_bound(run, i, run.small_heldout) for i in progress.trained), strict=True)
    if compiled is not None:
        run.model.trunk = compiled  # type: ignore[method-assign]
    progress.evaluations += 1
    log(
        {
            "kind": "held_out",
            "step": progress.step,
            "held_out_loss": fmean(bound.value for bound in bounds),
            "held_out_loss_se": fmean(bound.se for bound in bounds),  # of the text, which they share
            "tokens": done * run.spec.data.context_length,
            "flops": run.spec.training_flops() * done / run.spec.sequences,
            "evaluation_s": progress.evaluation_s,
            "evaluation_flops": progress.evaluation_flops,
        }
    )
    return sum(times)


def evaluation_left_s(run: Run) -> float:
    """Expected seconds of the held-out losses still to come during training."""
    left = sum(step > run.progress.step for step in run.evaluated_steps)
    return left * run.progress.evaluation_s / max(1, run.progress.evaluations)


def evaluate(run: Run, log: Log) -> TrainResult:
    """Evaluate every replica that is left; a bound that is not finite is a divergence."""
    numbers, losses = _final_numbers(run)
    for i in list(numbers):
        if not math.isfinite(numbers[i]["bound"]):
            run.progress.lost[i] = "the bound on held-out text is not finite"
            del numbers[i]
    if not numbers:
        return end_diverged(run)
    mean = _mean_numbers(list(numbers.values()))
    costs = {"evaluation_s": run.progress.evaluation_s, "evaluation_flops": run.progress.evaluation_flops}
    replicas = _replicas(run, numbers)
    each = {"replicas": [asdict(one) for one in replicas]} if replicas else {}
    unknown = torch.full_like(run.heldout[:, 0], math.nan, dtype=torch.float64)
    sequences = [losses[i] if i in numbers else unknown for i in range(run.spec.replicas)]
    levels = only_levels(run.family, run.spec.evaluation, run.heldout)
    log(sequence_record(torch.stack(sequences) if replicas else sequences[0], levels))
    log({"kind": "bound", "step": run.progress.step, **mean, **costs, **each})
    kind = "exact likelihood" if run.family.bound == "exact" else "upper bound"
    if run.average is not None:
        kind += f", {'moving average of the' if mean['weights'] == 'average' else 'last'} weights"
    if replicas:
        kind += f", mean of {len(numbers)} replicas"
        kind += f", {len(replicas) - len(numbers)} diverged" if len(numbers) < len(replicas) else ""
    sentence = f"loss {mean['bound']:.4f} ± {mean['bound_se']:.4f} nats per token ({kind})"
    return replace(end(run, RunStatus.FINISHED, sentence), **mean, replicas=replicas)


def _final_numbers(run: Run) -> tuple[dict[int, dict[str, Any]], dict[int, Tensor]]:
    """Of each replica that is left: the numbers of `TrainResult`, the bounds (n,) of held-out sequences."""
    numbers: dict[int, dict[str, Any]] = {}
    losses: dict[int, Tensor] = {}
    bytes_per_token, labels = run.data.bytes_per_token, run.heldout_labels
    last = {i: _bound(run, i, run.heldout)[0] for i in run.progress.trained}
    averaged: dict[int, Bound] = {}
    if run.average is not None:
        with run.average.in_place_of(run.optimizer.flat):
            averaged = {i: _bound(run, i, run.heldout)[0] for i in last}
    for i, bound in last.items():
        both: dict[str, Any] = {}
        if i in averaged:
            both = {"weights": "last", "bound_last": bound.value, "bound_average": averaged[i].value}
            if averaged[i].value < bound.value or not math.isfinite(bound.value):
                bound, both["weights"] = averaged[i], "average"
        assert bound.losses is not None, "a bound that was just estimated has its sequences'"
        losses[i] = bound.losses
        bits = None if bytes_per_token is None else bound.bits_per_byte(bytes_per_token)
        numbers[i] = {"bound": bound.value, "bound_se": bound.se, "bits_per_byte": bits, **both}
    if run.clustering is not None:
        labels = run.clustering.labels(run.heldout, run.spec.evaluation.seed)
    for i in numbers if labels is not None else ():
        assert labels is not None, "a run with labels"
        started = time.perf_counter()
        reported: AbstractContextManager[None] = nullcontext()
        if run.average is not None and numbers[i]["weights"] == "average":
            reported = run.average.in_place_of(run.optimizer.flat)
        with reported:
            numbers[i] |= label_numbers(run.spec, run.family, run.networks[i], run.heldout, labels)
        run.progress.evaluation_s += time.perf_counter() - started
        run.progress.evaluation_flops += 2 * run.spec.evaluation_flops(len(run.heldout))
    return numbers, losses


def _mean_numbers(numbers: list[dict[str, Any]]) -> dict[str, Any]:
    """Each number's mean over the replicas; `weights` is what most of them have."""
    mean: dict[str, Any] = {}
    for name, first in numbers[0].items():
        values = [own[name] for own in numbers]
        if isinstance(first, float):
            mean[name] = first if len(values) == 1 else fmean(values)
        else:
            mean[name] = max(values, key=values.count)
    return mean
