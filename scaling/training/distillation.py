"""Discrete consistency distillation (DCD): a `uniform` network learns to take large steps (Duo, arXiv
2506.10892, section 4.2).

Student and teacher start as the network of a finished run. A token's Gaussian latent at two times, with the
same noise (`scaling.families.duality`), gives two noisy ids: z_s at time s, and z_t at the later t = s + d.
The student reads z_t, the teacher z_s, and the loss is KL(student || teacher) of their clean-token
distributions, a mean over tokens without a weight in t; the teacher has no gradient. At the start of each
round the teacher becomes the student as it is (not its moving average), and d doubles. The moving average of
the student is what the run returns.

The shared noise leaves two candidates per token: the clean id, or the other id with the largest noise. Only
these are drawn, the second as an order statistic, so a step costs no more for a large vocabulary.

The published range of gamma, [-4, -1], belongs to a vocabulary of 50,257 ids: at 256 ids it would end at a
signal level of .13, and the student would never see the noise from which sampling starts. Here the signal
levels are given, and gamma follows from the vocabulary.

B batch, L length, V vocabulary, D hidden size.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from scaling.errors import UserError
from scaling.families.base import Noised, label_view, suppress
from scaling.families.curriculum import distinct_others, gamma_at, largest_normals
from scaling.families.duality import gamma_of, latent_scales, to_discrete
from scaling.families.uniform import LARGEST_SIGMA, Uniform
from scaling.models import Transformer, head_loss
from scaling.spec import DistillationSettings, RunSpec
from scaling.training.finished import load_run
from scaling.training.optimizer import flatten


class Candidates(NamedTuple):
    """The noise of tokens (B, L) as far as it matters for the argmax of a latent, float64."""

    own: Tensor
    """Standard normal of the clean id."""
    largest: Tensor
    """The largest of the standard normals of all other ids."""
    other: Tensor
    """The id that it belongs to."""


class Distillation:
    """The objective of a distilled run, in place of its family's; holds the teacher."""

    def __init__(self, spec: RunSpec, family: Uniform, teacher: Transformer) -> None:
        """teacher: a network of the run's size, whose weights `refresh` or `weights` set."""
        assert spec.distillation is not None, "a spec with a distillation"
        self.how, self.family, self.steps = spec.distillation, family, spec.steps
        self.teacher = teacher.requires_grad_(False)
        self.weights = flatten(teacher)
        """Of the teacher, as one vector."""
        ends = torch.tensor(self.how.alpha_range, dtype=torch.float64)
        first, last = gamma_of(ends, family.vocab_size).tolist()
        self.gamma_range = (first, last)

    def refresh(self, step: int, student: Tensor) -> None:
        """Before training step `step` (from 0): at the start of a round the teacher becomes the student."""
        if step % self.how.steps_per_round == 0:
            self.weights.copy_(student.detach())

    def training_batch(self, x0: Tensor, generator: torch.Generator, progress: float) -> Noised:
        """z_t in `xt` and, in `extra`, `earlier`: z_s, and `signal` (B, 2): alpha at t and at s, float64."""
        size = step_size(self.how, round(progress * self.steps))
        t, s = times(self.family.training_times(len(x0), generator), size)
        gamma_t, gamma_s = (gamma_at(x, self.gamma_range) for x in (t, s))
        vocab = self.family.vocab_size
        noise = draw_candidates(x0, vocab, generator)
        signal = torch.stack([to_discrete(gamma, vocab).alpha for gamma in (gamma_t, gamma_s)], dim=-1)
        extra = {"earlier": noisy_ids(x0, noise, gamma_s), "signal": signal}
        return Noised(x0, noisy_ids(x0, noise, gamma_t), t, extra=extra)

    def training_loss(self, model: Transformer, noised: Noised) -> Tensor:
        """Sum over all positions of the divergence, in nats, with gradient in `model`, the student."""
        family, num_ids = self.family, self.family.predicted_ids
        level_t, level_s = (-torch.log(noised.extra["signal"])).clamp(max=LARGEST_SIGMA).unbind(-1)
        features = model.trunk(noised.xt, level_t, **label_view(noised))
        with torch.no_grad():
            targets = self.teacher.trunk(noised.extra["earlier"], level_s, **label_view(noised))

        def row_loss(logits: Tensor, targets: Tensor) -> Tensor:
            with torch.no_grad():
                teacher_logits = self.teacher.predict(targets, num_ids).to(logits.dtype)
            return divergence(logits, teacher_logits, family.mask_id, forward=self.how.forward_kl)

        return head_loss(model, features, (targets,), row_loss, num_ids=num_ids)

    def biased(self, progress: float) -> bool:
        """Its losses are no bound at any time."""
        return True


def step_size(how: DistillationSettings, step: int) -> float:
    """Time between student and teacher at training step `step` (from 0): it doubles round by round, or grows
    linearly to `last_step`."""
    if how.last_step is None:
        return how.first_step * 2.0 ** (step // how.steps_per_round)
    share = step / (how.rounds * how.steps_per_round)
    return how.first_step + share * (how.last_step - how.first_step)


def times(earlier: Tensor, size: float) -> tuple[Tensor, Tensor]:
    """Times t of the student and s of the teacher, `size` apart and at most 1, from uniform ones (B,)."""
    t = (earlier + size).clamp(0, 1)
    return t, t - size


def draw_candidates(x0: Tensor, vocab_size: int, generator: torch.Generator) -> Candidates:
    """Noise for the clean ids x0 (B, L)."""
    uniforms = torch.rand((*x0.shape, 1), generator=generator, dtype=torch.float64, device=x0.device)
    return Candidates(
        own=torch.randn(x0.shape, generator=generator, dtype=torch.float64, device=x0.device),
        largest=largest_normals(uniforms, vocab_size - 1)[..., 0],
        other=distinct_others(x0, 1, vocab_size, generator)[..., 0],
    )


def noisy_ids(x0: Tensor, noise: Candidates, gamma: Tensor) -> Tensor:
    """The argmax (B, L) of the latents of x0 at gamma (B,)."""
    kept, spread = (x[:, None] for x in latent_scales(gamma.double()))
    return torch.where(kept + spread * noise.own >= spread * noise.largest, x0, noise.other)


def divergence(
    student: Tensor, teacher: Tensor, mask_id: int | None = None, *, forward: bool = False
) -> Tensor:
    """KL(student || teacher) of two networks' logits (B, L, V), (B, L) nats; forward: KL(teacher || student).

    No mass is on the mask id, if there is one.
    """
    first, second = (suppress(logits, mask_id).log_softmax(-1) for logits in (student, teacher))
    if forward:
        first, second = second, first
    return (first.exp() * (first - second)).sum(-1)


def load_parent(spec: RunSpec, folder: Path | None) -> Transformer:
    """The network that `spec` distils, from the folder of its run.

    UserError if the folder is not given, holds another run, or its run has not finished or left no
    checkpoint.
    """
    assert spec.distillation is not None, "a spec with a distillation"
    of = spec.distillation.of
    if folder is None:
        raise UserError(f"run {spec.key} distils run {of}: the folder of that run must be given")
    try:
        parent, _, model = load_run(folder)
    except UserError as error:
        raise UserError(f"run {spec.key} distils run {of}, which cannot be used: {error}") from None
    if parent.key != of:
        raise UserError(f"run {spec.key} distils run {of}, but {folder} holds run {parent.key}")
    for name in ("family", "family_options", "size", "data", "labels"):
        ours, theirs = getattr(spec, name), getattr(parent, name)
        if ours != theirs:
            raise UserError(f"run {spec.key} distils run {of}, whose {name} is another: {theirs}, not {ours}")
    return model
