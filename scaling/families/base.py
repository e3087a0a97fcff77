"""A family: the corruption of text, the training objective, and the reported bound.

A family must give `name`, `tightness`, `corrupt` and `token_bound`, and to be sampled from `posterior` or
`samplers`. Everything else has a default
that suits a discrete diffusion without extras, and may be overridden: another objective (`objectives`,
`token_loss`), another network or view of the text (`causal`, `build_model`, `view`, `conditioning`), another
way to draw a batch (`training_batch`, `evaluation_batch`), and what that costs (`work`, `param_count`).
tests/scaling/families/test_conformance.py checks every family of the table against sums over all states.

Shape letters: B batch, L length, V vocabulary. Losses are nats per token. Noise time t runs from 0
(clean) to 1 (noise); the signal level alpha falls from 1 to 0 along it. Every draw comes from the
generator that is passed in, so a run repeats exactly.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, TypedDict

import torch
from torch import Tensor

from scaling import flops
from scaling.errors import UserError
from scaling.families.schedules import SHAPES, Schedule
from scaling.labels import Labels
from scaling.ladder import Base, Size
from scaling.models import Transformer, build_model, head_loss
from scaling.models.parametrization import Parametrization

Denoiser = Callable[..., Tensor]
"""(ids (B, L), conditioning (B,), the family's view by name) -> logits (B, L, V)."""

READABLE_STEPS = 64
"""At most so many calls of the network for a text that is drawn to be read."""

EARLIEST = 1e-3
"""Smallest noise time that is trained on, as in the published code: below it next to nothing is corrupted."""

LABELS = "labels"
"""The entry of `Noised.extra` with the label of each row."""

SUPPRESSED = -1e6
"""Added to a logit that must never win; finite, so that its gradient is 0 and not nan."""


@dataclass(frozen=True, slots=True)
class Noised:
    """A corrupted batch. Every tensor has the batch as its first dimension, so that it can be cut."""

    x0: Tensor
    """(B, L) clean ids, in the order in which the network reads them."""
    xt: Tensor
    """(B, L) noisy ids."""
    t: Tensor
    """(B,) noise times, or (B, L) if positions differ."""
    weight: Tensor | None = None
    """(B,) or (B, L): weight of a token's loss, 1 on average over the draws. None: 1."""
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    """Further draws of the family."""

    def __len__(self) -> int:
        return len(self.x0)

    def with_labels(self, labels: Tensor | None) -> Noised:
        """The same batch, each row with its label (B,); None: as it is."""
        return self if labels is None else replace(self, extra={**self.extra, LABELS: labels})

    def rows(self, part: slice | Tensor) -> Noised:
        return self._each(lambda x: x[part])

    def split(self, count: int) -> list[Noised]:
        """The batch in so many parts of neighbouring rows."""
        size = len(self) // count
        return [self.rows(slice(i * size, (i + 1) * size)) for i in range(count)]

    @classmethod
    def join(cls, parts: Sequence[Noised]) -> Noised:
        """Batches of one shape, one behind the other."""
        if len(parts) == 1:
            return parts[0]
        weights = [part.weight for part in parts if part.weight is not None]
        return cls(
            torch.cat([part.x0 for part in parts]),
            torch.cat([part.xt for part in parts]),
            torch.cat([part.t for part in parts]),
            torch.cat(weights) if weights else None,
            {name: torch.cat([part.extra[name] for part in parts]) for name in parts[0].extra},
        )

    def to(self, device: str) -> Noised:
        return self._each(lambda x: x.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Noised:
        weight = None if self.weight is None else change(self.weight)
        extra = {name: change(x) for name, x in self.extra.items()}
        return Noised(change(self.x0), change(self.xt), change(self.t), weight, extra)


class Common(TypedDict, total=False):
    """The options of `Family`, which a family with a time schedule passes on."""

    mask_id: int | None
    objective: str | None
    schedule_eps: float
    schedule: Schedule


class Family(ABC):
    """A way to corrupt and restore text.

    A family holds no parameters and no random state. `token_bound` and `token_loss` take any leading
    shape (B, L) with one noise time per row, so callers may hand over single positions as rows.
    """

    name: ClassVar[str]
    causal: ClassVar[bool] = False
    """Whether the network may look at earlier positions only."""
    bound: Literal["exact", "upper"] = "upper"
    """Whether the reported loss is the exact negative log-likelihood or an upper bound on it."""
    masked: ClassVar[bool] = True
    """Whether the last id is the mask unless `mask_id` says otherwise; False: there is none by default."""
    objectives: ClassVar[tuple[str, ...]] = ("nelbo",)
    """Training objectives, the default first; the reported bound is the same for all of them."""
    base: Base | None = None
    """The size from which the network's scales go on by CompleteP; None: the standard ones."""
    muon: bool = False
    """Whether Muon trains the blocks' matrices."""
    labels: Labels | None = None
    """What label the network reads beside a text; set by `RunSpec.build_family`."""
    distillable: ClassVar[bool] = False
    """Whether `scaling.training.distillation` can distil its runs."""
    clusterable: ClassVar[bool] = True
    """Whether `text_features` are there, for labels of clusters."""
    tightness: ClassVar[str]
    """How far the reported loss lies above the likelihood, in a phrase."""

    def __init__(
        self,
        vocab_size: int,
        *,
        mask_id: int | None = None,
        objective: str | None = None,
        schedule_eps: float = 0.0,
        schedule: Schedule = "log_linear",
    ) -> None:
        self.require(vocab_size >= 2, f"vocab_size is {vocab_size}, it must be at least 2")
        if mask_id is None and self.masked:
            mask_id = vocab_size - 1
        objective = self.objectives[0] if objective is None else objective
        inside = mask_id is None or 0 <= mask_id < vocab_size
        self.require(inside, f"mask_id is {mask_id}, it must lie in [0, {vocab_size})")
        if objective not in self.objectives:
            raise UserError(
                f"family {self.name!r} has no objective {objective!r} (it has: {', '.join(self.objectives)})"
            )
        self.require(0 <= schedule_eps < 1, f"schedule_eps is {schedule_eps}, it must lie in [0, 1)")
        self.require(schedule in SHAPES, f"schedule is {schedule!r}, it must be one of {', '.join(SHAPES)}")
        self.vocab_size, self.mask_id, self.objective = vocab_size, mask_id, objective
        self.schedule_eps, self.schedule_name = schedule_eps, schedule

    def require(self, holds: bool, sentence: str) -> None:
        """UserError with the family's name and the sentence unless the condition holds."""
        if not holds:
            raise UserError(f"family {self.name!r}: {sentence}")

    @classmethod
    def vocab_size_for(cls, num_token_ids: int, **options: Any) -> int:
        """Vocabulary of a model over `num_token_ids` tokens: one id more if the family needs a mask."""
        return num_token_ids + 1

    @property
    def statement(self) -> str:
        """Training objective, reported bound and its tightness in one sentence."""
        reported = "the exact likelihood" if self.bound == "exact" else "an upper bound"
        return f"{self.name} trains on {self.objective} and reports {reported}: {self.tightness}"

    def check_context(self, context_length: int) -> None:
        """Refuse a context length that the family cannot cut up as its options say (UserError)."""
        del context_length

    # -- the noise process ----------------------------------------------------------------------

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Signal level alpha(t) and its derivative, each of t's shape.

        With u = (1 - eps) t: log-linear alpha = 1 - u, cosine alpha = 1 - sin(pi u / 2), the published
        code's two schedules (the code leaves 1 - eps out of the cosine's derivative); for the others see
        `scaling.families.schedules`. The bound does not depend on which is chosen, its variance does. eps
        is 0 unless `schedule_eps` says otherwise: then alpha reaches 0 and the bound is whole. The published
        runs use eps = 1e-3 (MDLM, Duo), which leaves a thousandth of it out.
        """
        slope = 1 - self.schedule_eps
        if self.schedule_name == "cosine":
            angle = math.pi / 2 * slope * t
            return 2 * torch.sin((math.pi / 2 - angle) / 2) ** 2, -math.pi / 2 * slope * torch.cos(angle)
        share, derivative = SHAPES[self.schedule_name]
        return 1 - share(slope * t), -slope * derivative(slope * t)

    def noise_share(self, t: Tensor) -> Tensor:
        """1 - alpha(t), without the cancellation of subtracting from 1 when t is small."""
        return SHAPES[self.schedule_name][0]((1 - self.schedule_eps) * t)

    def training_times(self, count: int, generator: torch.Generator) -> Tensor:
        """Noise times (count,) of one global batch in [EARLIEST, 1], one per equal slice of it."""
        offsets = torch.rand(count, generator=generator, dtype=torch.float64, device=generator.device)
        return noise_times(one_per_slice(offsets))

    def conditioning(self, t: Tensor) -> Tensor:
        """The noise level as the network gets it, (B,); zeros for a network without time conditioning."""
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
        """(B, L) True if the loss depends on the logits there; None if it does everywhere."""
        return None

    def targets(self, x0: Tensor) -> Tensor:
        """The ids that the logits predict, position by position: x0 unless the family shifts it."""
        return x0

    @property
    def predicted_ids(self) -> int:
        """How many leading vocabulary ids the loss needs logits for: all but a mask id that comes last."""
        return self.vocab_size - (self.mask_id == self.vocab_size - 1)

    @property
    def ignorance(self) -> float:
        """Loss of an untrained network, nats per token; a run far above it counts as exploded."""
        return math.log(self.vocab_size)

    # -- the network -----------------------------------------------------------------------------

    def build_model(self, size: Size, generator: torch.Generator) -> Transformer:
        """A network with fresh weights drawn from `generator` (a CPU generator)."""
        return build_model(
            size, self.vocab_size, causal=self.causal, generator=generator, classes=self.classes,
            clustered=self.labels is not None and self.labels.clustered,
            parametrization=self.parametrization(size),
        )  # fmt: skip

    def parametrization(self, size: Size) -> Parametrization:
        """How the network's scales go with its size."""
        return Parametrization.of(size, self.base, muon=self.muon)

    @property
    def classes(self) -> int:
        """How many labels the network reads; 0: none."""
        return 0 if self.labels is None else self.labels.classes

    def work(self, context_length: int) -> flops.Work:
        """The cost of one training sequence relative to one plain pass through the network."""
        return flops.causal(context_length) if self.causal else flops.PLAIN

    def training_work(self, context_length: int) -> flops.Work:
        """The same with what labels cost: nothing unless they are clusters of features."""
        work = self.work(context_length)
        if self.labels is None or not self.labels.clustered:
            return work
        return replace(work, clusters=self.labels.classes, cluster_share=self.labels.warm_share)

    def evaluation_work(self, context_length: int) -> list[flops.Work]:
        """The passes that score one held-out sequence at one noise level, each as in `work`."""
        return [self.work(context_length)]

    def param_count(self, size: Size, kind: flops.ParamKind = "total") -> int:
        """Parameters of `build_model(size)`; kinds as in `scaling.flops.param_count`. Labels are embeddings:
        they count in the total alone, and cost no product."""
        extra = 0
        if self.labels is not None and kind == "total":
            extra = (self.classes + 1) * size.cond_dim
            if self.labels.clustered:
                extra += 2 * size.hidden * (size.hidden + 1) + self.classes * size.hidden
        return flops.param_count(size, self.vocab_size, kind) + extra

    def view(self, noised: Noised) -> tuple[Tensor, dict[str, Any]]:
        """The network's input for a corrupted batch: ids, and keyword arguments of `Transformer.trunk`."""
        return noised.xt, {}

    # -- features for clusters ---------------------------------------------------------------------

    def noised_at_share(self, x0: Tensor, share: float, generator: torch.Generator) -> Noised:
        """x0 (B, L) where the noise share is nearest to `share`."""
        grid = torch.linspace(EARLIEST, 1, 1000, dtype=torch.float64, device=x0.device)
        nearest = (self.noise_share(grid) - share).abs().argmin()
        return self.noised(x0, grid[nearest].expand(len(x0)), generator)

    def noised(self, x0: Tensor, t: Tensor, generator: torch.Generator) -> Noised:
        """x0 (B, L) at times t (B,), as the network reads it."""
        return Noised(x0, self.corrupt(x0, t, generator), t)

    def text_features(self, model: Transformer, noised: Noised) -> Tensor:
        """(B, D) what the middle block makes of each text, averaged over its tokens, with the null label."""
        ids, view = self.view(noised)
        middle = max(1, model.size.num_layers // 2)
        features = model.trunk(ids, self.conditioning(noised.t), num_blocks=middle, **view)
        return features[:, : noised.xt.shape[1]].mean(dim=1)

    # -- one training step -----------------------------------------------------------------------

    def training_batch(self, x0: Tensor, generator: torch.Generator, progress: float) -> Noised:
        """All draws of a step, for the whole global batch x0 (B, L). progress: share of the steps done."""
        t = self.training_times(len(x0), generator)
        return Noised(x0, self.corrupt(x0, t, generator), t)

    def training_loss(self, model: Transformer, noised: Noised) -> Tensor:
        """Sum over all positions of the training objective, a scalar in nats, with gradient."""

        def row_loss(logits: Tensor, x0: Tensor, xt: Tensor, t: Tensor, *weight: Tensor) -> Tensor:
            nats = self.token_loss(logits, x0, xt, t)
            return nats * per_token(weight[0]).to(nats.dtype) if weight else nats

        ids, view = self.view(noised)
        features = model.trunk(ids, self.conditioning(noised.t), **view, **label_view(noised))
        weight = () if noised.weight is None else (noised.weight,)
        about = (self.targets(noised.x0), noised.xt, noised.t, *weight)
        scored = self.scored(noised.xt)
        return head_loss(model, features, about, row_loss, num_ids=self.predicted_ids, scored=scored)

    def biased(self, progress: float) -> bool:
        """Whether a training step at this share of the steps estimates something other than the objective."""
        return False

    # -- the reported loss -----------------------------------------------------------------------

    def evaluation_batch(self, x0: Tensor, place: Tensor, generator: torch.Generator) -> Noised:
        """Corrupt held-out x0 (B, L) at one noise level a row; place (B,) in (0, 1] is uniform.

        Levels are t = place^2, each counting dt/dplace = 2 place times; see `scaling.evaluation.bound`.
        """
        t = place * place
        return Noised(x0, self.corrupt(x0, t, generator), t, 2 * place)

    def sequence_bound(self, model: Denoiser, noised: Noised) -> Tensor:
        """The bound of each sequence at its noise level, (B,) nats per token, weight included."""
        ids, view = self.view(noised)
        logits = model(ids, self.conditioning(noised.t), **view, **label_view(noised)).float()
        nats = self.token_bound(logits, self.targets(noised.x0), noised.xt, noised.t).double()
        return (nats if noised.weight is None else nats * per_token(noised.weight)).mean(-1)

    # -- generation ------------------------------------------------------------------------------

    samplers: ClassVar[Mapping[str, str]] = {"ancestral": "scaling.sampling.discrete:ancestral"}
    """The ways to generate text, "module:function" by name, the usual one first; see `scaling.sampling`."""

    time_conditioned: bool = True
    """Whether the network is told the noise level; if not, it reads a text again only if that has changed."""

    @property
    def masks_only(self) -> bool:
        """Whether noise turns tokens into the mask and does nothing else."""
        return False

    @property
    def mixes_posteriors(self) -> bool:
        """Whether guidance mixes posteriors, not predictions; see `scaling.sampling.guidance`."""
        return not self.masks_only

    def sample(
        self, model: Denoiser, shape: tuple[int, int], steps: int, generator: torch.Generator, **options: Any
    ) -> Tensor:
        """Generate ids (B, L) in `steps` steps of the usual sampler, or of the one that option `sampler`
        names; further options are its own and those of `scaling.sampling.Filters`. The generator gives each
        text a seed, on which alone the text depends."""
        from scaling.sampling.loop import generate_for

        return generate_for(self, model, shape, steps, generator, **options)

    def posterior(self, probs: Tensor, xt: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """q(x_s | x_t, x_theta) for s < t, (B, L, V), if the family has one; probs: x_theta (B, L, V)."""
        raise UserError(f"family {self.name!r} has no posterior over discrete ids")

    def posterior_parts(self, at_present: Tensor, xt: Tensor, t: Tensor, s: Tensor) -> Tensor | None:
        """The posterior as a mixture: weights (n, 3) of the present id xt (n,), of x_theta, and of fresh
        noise (`noise_ids` at s). at_present: x_theta of the present ids (n,); t, s: one time each. None:
        unknown."""
        return None

    def noise_ids(self, uniforms: Tensor, t: Tensor) -> Tensor:
        """Ids (n,) of the noise at time t, from uniforms (n,) in (0, 1)."""
        if self.masks_only and self.mask_id is not None:
            return torch.full(uniforms.shape, self.mask_id, device=uniforms.device)
        return (uniforms * self.vocab_size).long().clamp(max=self.vocab_size - 1)

    def restored(self, logits: Tensor) -> Tensor:
        """The network's distribution over clean tokens, float64, no mass on the mask id."""
        logits = logits.to(torch.float64, copy=True)
        if self.mask_id is not None and self.mask_id < logits.shape[-1]:
            logits[..., self.mask_id] = SUPPRESSED
        return logits.softmax(-1)

    def sampling_steps(self, length: int) -> int:
        """Steps with which a text of `length` tokens is worth reading."""
        return min(length, READABLE_STEPS)

    def step_unit(self, length: int) -> int:
        """Tokens that `steps` steps of a sampler fill: the whole text, unless a family goes by blocks."""
        return length

    def step_ladder(self, length: int) -> tuple[int, ...]:
        """Numbers of steps by which samplers are compared: powers of two up to a step a token."""
        most = self.step_unit(length)
        return tuple(sorted({*(1 << power for power in range(most.bit_length())), most}))


def label_view(noised: Noised) -> dict[str, Any]:
    """The keyword arguments of `Transformer.trunk` for the labels of a batch, if it has some."""
    return {"labels": noised.extra[LABELS]} if LABELS in noised.extra else {}


def per_token(row: Tensor) -> Tensor:
    """Numbers per row (B,) as (B, 1); numbers per position (B, L) as they are."""
    return row[:, None] if row.ndim == 1 else row


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
