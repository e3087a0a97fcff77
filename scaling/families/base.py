"""What every family answers: how text is corrupted, what is trained, and which bound is reported.

Shape letters: B batch, L length, V vocabulary. Losses are nats per token. Noise time t runs from 0
(clean) to 1 (noise); the signal level alpha falls from 1 to 0 along it. Every draw comes from the
generator that is passed in, so a run repeats exactly.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from scaling.errors import UserError

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(ids (B, L), conditioning (B,)) -> logits (B, L, V)."""

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

    def __init__(self, vocab_size: int, *, mask_id: int | None, objective: str, schedule_eps: float) -> None:
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
        self.vocab_size = vocab_size
        self.mask_id = mask_id
        self.objective = objective
        self.schedule_eps = schedule_eps

    @classmethod
    def vocab_size_for(cls, num_token_ids: int, **options: Any) -> int:
        """Vocabulary of a model over `num_token_ids` tokens: one id more where the family needs a mask."""
        del options
        return num_token_ids + 1

    # -- the noise process ----------------------------------------------------------------------

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Log-linear schedule alpha(t) = 1 - (1 - eps) t and its derivative, each of t's shape.

        eps is 0 unless `schedule_eps` says otherwise: then alpha reaches 0 and the bound is whole.
        The published code uses eps = 1e-3 (MDLM, Duo), which leaves a thousandth of it out.
        """
        slope = 1 - self.schedule_eps
        return 1 - slope * t, torch.full_like(t, -slope)

    def noise_share(self, t: Tensor) -> Tensor:
        """1 - alpha(t), without the cancellation of subtracting from 1 when t is small."""
        return (1 - self.schedule_eps) * t

    def training_times(self, count: int, generator: torch.Generator) -> Tensor:
        """Noise times (count,) of one global batch in [1e-3, 1], one per equal slice of it.

        Stratified as in the published code: u_i = (r_i + i) / count with r_i uniform.
        """
        return 1e-3 + (1 - 1e-3) * stratified(count, generator)

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
    offsets = torch.rand(count, generator=generator, dtype=torch.float64, device=generator.device)
    return (offsets + torch.arange(count, device=generator.device)) / count


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
