"""Labels from nowhere: clusters of the network's own features (arXiv 2312.08825, transferred to text).

While clusters form, for a share `warm_share` of the steps, the network reads the null label, and the features
of its middle block, averaged over each text at a low noise level, train a head and prototypes
(`scaling.models.clusters`). Then the network as it is becomes the teacher: the label of a text is the
likeliest prototype of the teacher's features, from noise that depends on (seed, step) alone. The published
teacher goes on as a moving average with decay 0.9999, and its condition is the prototype itself; here it
stays, and each cluster has a label of its own, so that clusters are sampled as any other labels are.

B texts, L length, K clusters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scaling.families.base import Family
from scaling.models import Transformer
from scaling.models.clusters import cluster_loss
from scaling.randomness import generator_for
from scaling.spec import RunSpec
from scaling.training.labels import with_null


class Clustering:
    """What a run with `labels: {of: clusters}` adds to its steps."""

    def __init__(self, spec: RunSpec, family: Family, model: Transformer, micro_batch_size: int) -> None:
        assert spec.labels is not None, "a run with labels"
        self.spec, self.family, self.model, self.labels_of_spec = spec, family, model, spec.labels
        self.micro_batch_size = micro_batch_size
        self.start = min(max(1, round(spec.labels.warm_share * spec.steps)), spec.steps)
        """The step from which labels are read."""
        self.teacher: Transformer | None = None

    @classmethod
    def of(
        cls, spec: RunSpec, family: Family, model: Transformer, micro_batch_size: int | None
    ) -> Clustering | None:
        """That of a run, if its labels are clusters."""
        if spec.labels is None or not spec.labels.clustered:
            return None
        return cls(spec, family, model, micro_batch_size or spec.batch_size)

    def begin(self, step: int) -> None:
        """Before a step: at the first one with labels the network becomes the teacher."""
        if step == self.start:
            self._set_teacher(self.model.state_dict())

    def training_labels(self, x0: Tensor, step: int) -> Tensor | None:
        """(B,) labels of the texts x0 (B, L) of a step, some null; None while clusters form."""
        if step < self.start:
            return None
        labels = self.labels(x0, self.spec.seed, step)
        return with_null(labels.cpu(), self.spec, step).to(x0.device)

    def loss(self, x0: Tensor, step: int) -> Tensor | None:
        """The loss of the head and the prototypes alone, a scalar; None once they are formed."""
        if step >= self.start:
            return None
        head = self.model.clusters
        assert head is not None, "a network with clusters"
        return cluster_loss(head(self._features(self.model, x0, self.spec.seed, step)))

    @torch.no_grad()
    def labels(self, x0: Tensor, seed: int, step: int = 0) -> Tensor:
        """(B,) the teacher's label of texts x0 (B, L), with noise of (seed, step)."""
        teacher = self.teacher or self.model
        assert teacher.clusters is not None, "a network with clusters"
        return teacher.clusters(self._features(teacher, x0, seed, step)).argmax(-1)

    def state(self) -> dict[str, Any]:
        """The teacher, for a checkpoint."""
        return {} if self.teacher is None else {"clusters": self.teacher.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        if "clusters" in state:
            self._set_teacher(state["clusters"])

    def _set_teacher(self, weights: dict[str, Any]) -> None:
        device = next(self.model.parameters()).device
        teacher = self.family.build_model(self.spec.size, generator_for(0, "teacher")).to(device)
        teacher.load_state_dict(weights)
        self.teacher = teacher.requires_grad_(requires_grad=False)

    @torch.no_grad()
    def _features(self, model: Transformer, x0: Tensor, seed: int, step: int) -> Tensor:
        """(B, D), the same however the batch is cut."""
        generator = generator_for(seed, "features", step, x0.device.type)
        noised = self.family.noised_at_share(x0, self.labels_of_spec.feature_noise, generator)
        parts = [
            self.family.text_features(model, noised.rows(slice(first, first + self.micro_batch_size)))
            for first in range(0, len(x0), self.micro_batch_size)
        ]
        return torch.cat(parts)
