"""A run while it is trained: its parts, and what its loop remembers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from scaling.families.base import Family
from scaling.models import Transformer
from scaling.spec import RunSpec
from scaling.training.clusters import Clustering
from scaling.training.distillation import Distillation
from scaling.training.optimizer import FlatAdamW, WeightAverage

WATCH_STEPS = 50
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


@dataclass(slots=True, kw_only=True)
class Progress:
    """What a checkpoint carries beside the weights: all the loop's own memory."""

    step: int = 0
    averages: list[float]
    """Running mean of the loss of each replica, over about WATCH_STEPS steps."""
    first_averages: list[float]
    lost: list[str | None]
    """Why a replica has diverged; None: it is being trained."""
    interval_loss: float = 0.0
    interval_steps: int = 0
    train_s: float = 0.0
    evaluation_s: float = 0.0
    evaluation_flops: float = 0.0
    evaluations: int = 0

    @classmethod
    def of(cls, replicas: int) -> Progress:
        return cls(averages=[0.0] * replicas, first_averages=[math.inf] * replicas, lost=[None] * replicas)

    @property
    def trained(self) -> list[int]:
        """The replicas that have not diverged."""
        return [i for i, sentence in enumerate(self.lost) if sentence is None]

    def watch(self, losses: list[float], ignorance: float, *, grows: bool = False) -> None:
        """Take in the loss of a step, of each replica; `ignorance` is what a network that knows nothing
        costs.

        grows: a loss that starts near 0 and rises by design is compared with `ignorance` alone.
        """
        weight = 1 / min(self.step + 1, WATCH_STEPS)
        for i in self.trained:
            self.averages[i] += weight * (losses[i] - self.averages[i])
            if self.step + 1 == WATCH_STEPS:
                self.first_averages[i] = ignorance if grows else min(self.averages[i], ignorance)
            if self.averages[i] > EXPLODED * self.first_averages[i]:
                nats = f"{self.averages[i]:.4g} nats"
                self.lost[i] = f"the loss has exploded at step {self.step + 1}: {nats}"
        self.interval_loss += fmean(losses[i] for i in self.trained) if self.trained else math.nan
        self.interval_steps += 1


@dataclass(slots=True, kw_only=True)
class Run:
    """The parts of a run that the loop's helpers share."""

    spec: RunSpec
    family: Family
    model: Transformer
    """All replicas stacked as one."""
    alone: list[RunSpec]
    """The spec of each replica as a run of its own."""
    networks: list[Transformer]
    """Each replica by itself, over the same weights."""
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
    progress: Progress
