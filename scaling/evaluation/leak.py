"""What a label tells about its text: the bound with the label beside the bound without.

-log p(x | y) is no bound of text alone: a label that is read off the text has leaked some of it. As
-log p(x) <= -log p(x | y) - log p(y) for any y, the bound with the label and the label's own cost make one,
as the bound with the null label does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scaling.evaluation.bound import sequence_bounds
from scaling.families.base import Family
from scaling.models import Transformer
from scaling.spec import EvaluationSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """Nats per token; `se` is over held-out sequences, of the difference of the same ones."""

    with_label: float
    difference: float
    """Bound with the null label minus bound with the label."""
    se: float
    label_cost: float
    """Entropy of the labels of the held-out text, spread over the tokens of a sequence."""


def measure_leak(
    model: Transformer,
    family: Family,
    x0: Tensor,
    labels: Tensor,
    spec: EvaluationSpec,
    *,
    autocast: torch.dtype | None = None,
) -> Leak:
    """The leak of labels (n,) of held-out ids x0 (n, L), n at least 2; both bounds meet the same noise."""
    with_label = sequence_bounds(model, family, x0, spec, labels=labels, autocast=autocast)
    difference = sequence_bounds(model, family, x0, spec, autocast=autocast) - with_label
    shares = torch.bincount(labels).double() / len(labels)
    return Leak(
        with_label=float(with_label.mean()),
        difference=float(difference.mean()),
        se=float(difference.std()) / math.sqrt(len(difference)),
        label_cost=float(torch.special.entr(shares).sum()) / x0.shape[1],
    )
