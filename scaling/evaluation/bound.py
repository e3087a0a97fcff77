"""The reported loss: the true bound on held-out text, the same estimator for every run of a sweep.

Every held-out sequence is scored at K noise levels, one in each of K slices of (0, 1), with noise drawn
from the evaluation seed: two runs of a sweep meet the same text, levels and noise, so their difference is
less noisy than either loss. A sequence's mean over its levels estimates its bound, and the spread of those
means over sequences gives the standard error.

Levels are t = v^2 with v uniform, and each counts dt/dv = 2v times. The integrand is about 1/t with
probability t, so under uniform t the variance is an integral of 1/t, which is infinite: rare large values,
and a standard error that misses them until one comes. Here it is an integral of t^(-1/2). On 256 sequences
of 128 tokens at 8 levels this halves the variance of masked and takes two thirds off that of uniform.

With one level (K = 1) the slices are of the sequences instead: of n sequences each has its own n-th part of
(0, 1), in an order that the seed gives, so that the levels are as even over the text as K slices are over
one sequence. Levels of one sequence are hardly correlated, so n K passes say most as n K sequences at one
level each: 8192 at one cost as much as 1024 at eight. Their standard error is that of neighbours in level,
sum of (x_i - x_i+1)^2 / 2 n^2 for x in the order of the levels: it leaves out what the slices take out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scaling.families.base import Family
from scaling.models import Transformer
from scaling.randomness import generator_for
from scaling.spec import EvaluationSpec

TOKENS_PER_BATCH = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """Nats per token; `se` is the standard error over held-out sequences."""

    value: float
    se: float
    sequences: int
    noise_levels: int
    losses: Tensor | None = field(default=None, compare=False, repr=False)
    """The bound of each held-out sequence, (sequences,) in float64."""

    def bits_per_byte(self, bytes_per_token: float) -> float:
        return self.value / math.log(2) / bytes_per_token


def estimate_bound(
    model: Transformer,
    family: Family,
    x0: Tensor,
    spec: EvaluationSpec,
    *,
    autocast: torch.dtype | None = None,
) -> Bound:
    """Estimate the bound of `model` on held-out ids x0 (n, L), n at least 2; a network that reads labels is
    given the null label, so that it is a bound of text alone.

    An exact likelihood (`family.bound == "exact"`) takes one pass and has no noise.
    """
    means = sequence_bounds(model, family, x0, spec, autocast=autocast)
    return Bound(
        value=float(means.mean()),
        se=_standard_error(means, only_levels(family, spec, x0)),
        sequences=len(means),
        noise_levels=noise_levels(family, spec),
        losses=means,
    )


def _standard_error(means: Tensor, places: Tensor | None) -> float:
    """Of the mean of sequences' bounds (n,); places (n,) of their only levels, if these are slices of n."""
    if places is None:
        return float(means.std()) / math.sqrt(len(means))
    steps = means[places.argsort()].diff()
    return math.sqrt(float(steps.square().mean()) / 2 / len(means))


def only_levels(family: Family, spec: EvaluationSpec, x0: Tensor) -> Tensor | None:
    """The level (n,) in (0, 1] of each sequence of x0 (n, L), if it is scored at one and there are more."""
    return _places(len(x0), 0, spec, x0.device) if _one_level(family, spec) else None


def _one_level(family: Family, spec: EvaluationSpec) -> bool:
    """Whether each sequence has one noise level, which is a slice of its own."""
    return family.bound != "exact" and spec.noise_levels == 1


def noise_levels(family: Family, spec: EvaluationSpec) -> int:
    """How many noise levels each sequence is scored at."""
    return 1 if family.bound == "exact" else spec.noise_levels


@torch.no_grad()
def sequence_bounds(
    model: Transformer,
    family: Family,
    x0: Tensor,
    spec: EvaluationSpec,
    *,
    labels: Tensor | None = None,
    autocast: torch.dtype | None = None,
) -> Tensor:
    """The bound of each held-out sequence of x0 (n, L), (n,) nats per token in float64, given its label
    (n,) if there are some."""
    levels = noise_levels(family, spec)
    device = x0.device
    batch = max(1, TOKENS_PER_BATCH // x0.shape[1])
    totals = torch.zeros(len(x0), dtype=torch.float64, device=device)
    for level in range(levels):
        generator = generator_for(spec.seed, "evaluation", level, device.type)
        place = _places(len(x0), level, spec, device, generator)
        noised = family.evaluation_batch(x0, (level + place) / levels, generator).with_labels(labels)
        for start in range(0, len(x0), batch):
            rows = slice(start, start + batch)
            with torch.autocast(device.type, autocast or torch.bfloat16, enabled=autocast is not None):
                totals[rows] += family.sequence_bound(model, noised.rows(rows))
    return totals / levels


def _places(
    count: int,
    level: int,
    spec: EvaluationSpec,
    device: torch.device,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Where the levels of `count` sequences lie in their slice, in (0, 1]; generator: that of the level, from
    which its noise is drawn next."""
    generator = generator or generator_for(spec.seed, "evaluation", level, device.type)
    place = 1 - torch.rand(count, generator=generator, dtype=torch.float64, device=device)
    if spec.noise_levels > 1:
        return place
    return (torch.randperm(count, generator=generator, device=device) + place) / count
