"""What every family answers: how text is corrupted, what is trained, and which bound is reported.

Shape letters: B batch, L length, V vocabulary. Losses are nats per token. Noise time t runs from 0
(clean) to 1 (noise); the signal level alpha falls from 1 to 0 along it. Every draw comes from the
generator that is passed in, so a run repeats exactly.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from scaling.errors import UserError

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(ids (B, L), conditioning (B,)) -> logits (B, L, V)."""

Schedule = Literal["log_linear", "cosine"]

EARLIEST = 1e-3
"""Smallest noise time that is trained on, as in the published code: below it next to nothing is corrupted."""

SUPPRESSED = -1e6
"""Added to a logit that must never win; finite, so that its gradient is 0 and not nan."""


class Family(ABC):
    """A way to corrupt and restore text.

    A family holds no parameters and no random state. `token_bound` and `token_loss` take any leading
    shape (B, L) with one noise time per row, so callers may hand over single positions as rows.
    """

    name: ClassVar[str]
    causal: ClassVar[bool] = False
    """Whether the network may look at earlier positions only."""
    bound: ClassVar[Literal["exact", "upper"]] = "upper"
    """What the reported loss is: the exact negative log-likelihood or an upper bound on it."""
    objectives: ClassVar[tuple[str, ...]] = ("nelbo",)

    def __init__(
        self,
        vocab_size: int,
        *,
        mask_id: int | None,
        objective: str,
        schedule_eps: float = 0.0,
        schedule: Schedule = "log_linear",
    ) -> None:
        if vocab_size < 2:
            raise UserError(f"family {self.name!r}: vocab_size is {vocab_size}, it must be at least 2")
        if mask_id is not None and not 0 <= mask_id < vocab_size:
            raise UserError(f"family {self.name!r}: mask_id is {mask_id}, it must lie in [0, {vocab_size})")
        if objective not in self.objectives:
            raise UserError(
                f"family {self.name!r} has no objective {objective!r} (it has: {', '.join(self.objectives)})"
            )
        if not 0 <= schedule_eps < 1:
            raise UserError(f"family {self.name!r}: schedule_eps is {schedule_eps}, it must lie in [0, 1)")
        if schedule not in get_args(Schedule):
            raise UserError(
                f"family {self.name!r}: schedule is {schedule!r}, it must be one of "
                + ", ".join(get_args(Schedule))
            )
        self.vocab_size = vocab_size
        self.mask_id = mask_id
        self.objective = objective
        self.schedule_eps = schedule_eps
        self.schedule_name = schedule

    @classmethod
    def vocab_size_for(cls, num_token_ids: int, **options: Any) -> int:
        """Vocabulary of a model over `num_token_ids` tokens: one id more where the family needs a mask."""
        del options
        return num_token_ids + 1

    # -- the noise process ----------------------------------------------------------------------

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Signal level alpha(t) and its derivative, each of t's shape.

        With u = (1 - eps) t: log-linear alpha = 1 - u, cosine alpha = 1 - sin(pi u / 2), the published
        code's two schedules (the code leaves 1 - eps out of the cosine's derivative). The bound does not
        depend on which is chosen, its variance does. eps is 0 unless `schedule_eps` says otherwise: then
        alpha reaches 0 and the bound is whole. The published runs use eps = 1e-3 (MDLM, Duo), which
        leaves a thousandth of it out.
        """
        slope = 1 - self.schedule_eps
        if self.schedule_name == "cosine":
            angle = math.pi / 2 * slope * t
            return 2 * torch.sin((math.pi / 2 - angle) / 2) ** 2, -math.pi / 2 * slope * torch.cos(angle)
        return 1 - slope * t, torch.full_like(t, -slope)

    def noise_share(self, t: Tensor) -> Tensor:
        """1 - alpha(t), without the cancellation of subtracting from 1 when t is small."""
        share = (1 - self.schedule_eps) * t
        return torch.sin(math.pi / 2 * share) if self.schedule_name == "cosine" else share

    def training_times(self, count: int, generator: torch.Generator) -> Tensor:
        """Noise times (count,) of one global batch in [EARLIEST, 1], one per equal slice of it."""
        return noise_times(stratified(count, generator))

    def conditioning(self, t: Tensor) -> Tensor:
        """What the network is told about the noise level, (B,); zeros where it is told nothing."""
        return torch.zeros_like(t)

    @abstractmethod
    def corrupt(self, x0: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        """Draw x_t (B, L) from q(x_t | x_0) at times t (B,)."""

    # -- losses ----------------------------------------------------------------------------------

    @abstractmethod
    def token_bound(self, logits: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        """The NELBO's integrand at time t, (B, L) nats: its mean over t in (0, 1) bounds -log p(x_0)."""

    def token_loss(self, logits: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        """The training objective, (B, L) nats; the bound itself unless the family trains on another."""
        return self.token_bound(logits, x0, xt, t)

    def scored(self, xt: Tensor) -> Tensor | None:
        """(B, L) True where the loss depends on the logits; None when it does everywhere."""
        del xt
        return None

    def targets(self, x0: Tensor) -> Tensor:
        """What the logits predict, position by position: x0 unless the family shifts it."""
        return x0

    @property
    def predicted_ids(self) -> int:
        """How many leading vocabulary ids the loss needs logits for: all but a mask id that comes last."""
        return self.vocab_size - (self.mask_id == self.vocab_size - 1)

    # -- generation ------------------------------------------------------------------------------

    @abstractmethod
    def sample(
        self, model: Denoiser, shape: tuple[int, int], steps: int, generator: torch.Generator, **options: Any
    ) -> Tensor:
        """Generate ids of the given (B, L) shape with `steps` calls of the model (one more where noted)."""


def stratified(count: int, generator: torch.Generator) -> Tensor:
    """(count,) uniforms in [0, 1), one in each of `count` equal slices, in order."""
    return one_per_slice(torch.rand(count, generator=generator, dtype=torch.float64, device=generator.device))


def one_per_slice(offsets: Tensor) -> Tensor:
    """(i + offset_i) / n for n offsets in [0, 1): the published code's stratified times."""
    return (offsets + torch.arange(len(offsets), device=offsets.device)) / len(offsets)


def noise_times(uniforms: Tensor, earliest: float = EARLIEST) -> Tensor:
    """Uniforms in [0, 1) as noise times in [earliest, 1)."""
    return earliest + (1 - earliest) * uniforms


def suppress(logits: Tensor, token_id: int | None) -> Tensor:
    """Logits with the column of `token_id` pushed to probability zero.

    Logits that end before that column (`Family.predicted_ids`) have no such column and stay as they are.
    """
    if token_id is None or token_id == logits.shape[-1]:
        return logits
    column = torch.zeros(logits.shape[-1], dtype=logits.dtype, device=logits.device)
    column[token_id] = SUPPRESSED
    return logits + column


def draw(probs: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one id per row of (..., V) probabilities, in float64.

    Lower precision truncates the tail of the noise, lowers the entropy of samples and flatters them
    (arXiv 2409.02908), so probabilities are cast up first.
    """
    flat = probs.double().reshape(-1, probs.shape[-1])
    ids = torch.multinomial(flat, 1, generator=generator)
    return ids.reshape(probs.shape[:-1])


def sampling_times(steps: int) -> Tensor:
    """(steps + 1,) float64 times from 1 down to 0."""
    if steps < 1:
        raise UserError(f"sampling steps is {steps}, it must be at least 1")
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)
