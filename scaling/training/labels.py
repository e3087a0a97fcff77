"""The label of each training text, as the network reads it: a function of (seed, step) alone."""

from __future__ import annotations

from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from scaling.evaluation.leak import measure_leak
from scaling.families.base import Family
from scaling.labels import Labels
from scaling.models import Transformer
from scaling.randomness import generator_for
from scaling.spec import RunSpec


class LabelledData(Protocol):
    """What labels need of a dataset."""

    def train_labels(
        self, first_sequence: int, count: int, context_length: int, seed: int, labels: Labels
    ) -> np.ndarray: ...

    def heldout_labels(self, count: int, context_length: int, labels: Labels) -> np.ndarray: ...


def training_labels(spec: RunSpec, data: Any, step: int, count: int) -> Tensor:
    """The label (count,) of each text of a step's global batch, some replaced by the null label."""
    assert spec.labels is not None, "a run with labels"
    first, length, labelled = step * spec.batch_size, spec.data.context_length, cast(LabelledData, data)
    labels = labelled.train_labels(first, count, length, spec.seed, spec.labels)
    return with_null(torch.from_numpy(labels), spec, step)


def heldout_labels(spec: RunSpec, data: Any) -> Tensor:
    """The label (n,) of each text of the bound."""
    assert spec.labels is not None, "a run with labels"
    labelled = cast(LabelledData, data)
    return torch.from_numpy(
        labelled.heldout_labels(spec.evaluation.sequences, spec.data.context_length, spec.labels)
    )


def label_numbers(
    spec: RunSpec, family: Family, model: Transformer, x0: Tensor, labels: Tensor
) -> dict[str, float]:
    """What the labels (n,) of held-out text x0 (n, L) tell about it, as fields of `TrainResult`."""
    autocast = torch.bfloat16 if spec.precision == "bfloat16" else None
    leak = measure_leak(model, family, x0, labels, spec.evaluation, autocast=autocast)
    return {
        "loss_with_label": leak.with_label,
        "label_leak": leak.difference,
        "label_leak_se": leak.se,
        "label_cost": leak.label_cost,
    }


def with_null(labels: Tensor, spec: RunSpec, step: int) -> Tensor:
    """Labels (B,) of a step, a share `drop` of them replaced by the null label."""
    assert spec.labels is not None, "a run with labels"
    generator = generator_for(spec.seed, "dropped labels", step)
    dropped = torch.rand(len(labels), generator=generator, dtype=torch.float64) < spec.labels.drop
    return torch.where(dropped, spec.labels.classes, labels)
