"""RunSpec: everything that determines the outcome of one run, and its key.

Equal key, same run. Settings that only change a run's speed (micro-batch, threads, device, compilation)
are not in the spec.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from scaling import flops
from scaling.errors import UserError
from scaling.families import family_class, family_name, get_family
from scaling.labels import Labels
from scaling.ladder import Base, Size

if TYPE_CHECKING:
    from scaling.families.base import Family

RESULT_REVISION = 1
"""Raised when a change of the code changes losses, so that older results count as other runs."""

Schedule = Literal["cosine", "constant", "wsd"]
Precision = Literal["float32", "bfloat16"]
ParametrizationName = Literal["standard", "completep"]
Method = Literal["adamw", "muon"]


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise UserError(sentence)


def _as_floats(spec: Any, *names: str) -> None:
    """Fields as floats, so that 1 and 1.0 give the same key. Refuses nan, inf and anything but a number."""
    for name in names:
        value = getattr(spec, name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        _require(is_number and math.isfinite(value), f"{name} is {value!r}, it must be a finite number")
        object.__setattr__(spec, name, float(value))


def _require_at_least(least: int, spec: Any, *names: str) -> None:
    for name in names:
        value = getattr(spec, name)
        _require(value >= least, f"{name} is {value}, it must be at least {least}")


def _require_one_of(choices: Sequence[str], spec: Any, name: str) -> None:
    value = getattr(spec, name)
    _require(value in choices, f"{name} is {value!r}, it must be one of {', '.join(choices)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpec:
    """The text a run learns from; `fingerprint` identifies its content, `corpus` names its source."""

    corpus: str
    tokenizer: str
    fingerprint: str
    num_token_ids: int
    context_length: int

    def __post_init__(self) -> None:
        _require_at_least(2, self, "context_length", "num_token_ids")

    @classmethod
    def of(cls, data: Any, context_length: int) -> DataSpec:
        """Windows of `data`: a prepared dataset, or anything with its four facts."""
        names = ("corpus", "tokenizer", "fingerprint", "num_token_ids")
        return cls(context_length=context_length, **{name: getattr(data, name) for name in names})


BASE_FIELDS = ("base_hidden", "base_layers", "base_head_dim")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSettings:
    """AdamW and the shape of its schedule, common to the runs of a sweep."""

    schedule: Schedule = "cosine"
    """Shape of the learning rate after warm-up; `wsd` is warm-up, stable, decay."""
    final_lr_fraction: float = 0.1
    """Learning rate at the end, as a share of the peak (cosine and wsd)."""
    decay_fraction: float = 0.2
    """Share of the steps in which wsd (warm-up, stable, decay) decays, linearly."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of AdamW's first and second moments."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.1
    """Applied to every parameter, as in the published study."""
    clip_norm: float | None = 1.0
    """Largest norm of the whole gradient; null: no clipping."""
    ema_decay: float | None = None
    """Decay of a moving average of the weights, min(decay, (1 + n) / (10 + n)) after n steps, from which
    samples are drawn; the lower of both bounds is reported. Null: none."""
    method: Method = "adamw"
    """AdamW for all parameters, or Muon for the matrices of blocks and AdamW for the rest, at one rate."""
    parametrization: ParametrizationName = "standard"
    """How initial values, rates and outputs go with a network's size: as in the published study, or by
    CompleteP, with which the learning rate is that of the base size and holds for all. Weight decay then
    leaves vectors and embeddings alone."""
    base_hidden: int | None = None
    """Width of the base size (completep)."""
    base_layers: int | None = None
    """Transformer blocks of the base size (completep)."""
    base_head_dim: int | None = None
    """Dimensions of an attention head of the base size (completep); null: those of each size."""

    def __post_init__(self) -> None:
        _as_floats(self, "final_lr_fraction", "decay_fraction", "eps", "weight_decay")
        if self.clip_norm is not None:
            _as_floats(self, "clip_norm")
        _require_one_of(get_args(Schedule), self, "schedule")
        for name in ("final_lr_fraction", "decay_fraction"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"{name} is {value}, it must lie in [0, 1]")
        object.__setattr__(self, "betas", tuple(float(b) for b in self.betas))
        in_range = len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas)
        _require(in_range, f"betas is {self.betas}, it must be two numbers in [0, 1)")
        _require(self.eps > 0, f"eps is {self.eps}, it must be positive")
        _require(self.decay_fraction > 0, "decay_fraction is 0, it must be positive")
        _require(self.weight_decay >= 0, f"weight_decay is {self.weight_decay}, it must not be negative")
        positive = self.clip_norm is None or self.clip_norm > 0
        _require(positive, f"clip_norm is {self.clip_norm}, it must be positive or null")
        if self.ema_decay is not None:
            _as_floats(self, "ema_decay")
            fine = 0 < self.ema_decay < 1
            _require(fine, f"ema_decay is {self.ema_decay}, it must lie in (0, 1) or be null")
        _require_one_of(get_args(Method), self, "method")
        _require_one_of(get_args(ParametrizationName), self, "parametrization")
        for name in BASE_FIELDS:
            self._check_base(name, getattr(self, name))

    def _check_base(self, name: str, value: Any) -> None:
        if self.parametrization == "standard":
            only = f"{name} is {value!r}, but only parametrization 'completep' has a base size"
            _require(value is None, only)
        elif value is None:
            missing = f"parametrization 'completep' needs {name}, of the size at which rates are tuned"
            _require(name == "base_head_dim", missing)
        else:
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            _require(whole, f"{name} is {value!r}, it must be a positive integer")

    @property
    def base(self) -> Base | None:
        """The size from which CompleteP goes on; None with the standard parametrization."""
        if self.base_hidden is None or self.base_layers is None:
            return None
        return Base(self.base_hidden, self.base_layers, self.base_head_dim)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSpec(OptimizerSettings):
    """The optimizer of one run."""

    learning_rate: float
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        OptimizerSettings.__post_init__(self)
        _as_floats(self, "learning_rate")
        _require(self.learning_rate > 0, f"learning_rate is {self.learning_rate}, it must be positive")
        _require(self.warmup_steps >= 0, f"warmup_steps is {self.warmup_steps}, it must not be negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSpec:
    """How the bound is estimated: the same text, noise levels and noise for every run of a sweep."""

    sequences: int = 512
    """Held-out sequences, the same for every run."""
    noise_levels: int = 16
    """Stratified noise levels per sequence; a family with an exact likelihood needs one pass only."""
    seed: int = 0
    """Seed of noise levels and noise, the same for every run."""

    def __post_init__(self) -> None:
        _require_at_least(2, self, "sequences")
        _require_at_least(1, self, "noise_levels")


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationSettings:
    """Discrete consistency distillation of a `uniform` run (Duo): see `scaling.training.distillation`."""

    rounds: int = 5
    """Rounds; each begins with the student of the one before as its teacher."""
    steps_per_round: int = 10_000
    """Optimizer steps of a round."""
    first_step: float = 1 / 512
    """Time between student and teacher in the first round; every round doubles it."""
    last_step: float | None = None
    """Where that time ends if it grows linearly over all steps instead of doubling; null: it doubles."""
    alpha_range: tuple[float, float] = (0.9987, 0.0062)
    """Signal level at the earliest and at the latest time, whatever the vocabulary: that of the published
    range of gamma, [-4, -1], for 50,257 ids."""
    forward_kl: bool = False
    """The divergence of the student from the teacher, averaged over the teacher, instead of the published
    one, averaged over the student."""

    def __post_init__(self) -> None:
        _require_at_least(1, self, "rounds", "steps_per_round")
        _as_floats(self, "first_step")
        largest = self.first_step * 2.0 ** (self.rounds - 1)
        if self.last_step is not None:
            _as_floats(self, "last_step")
            largest = self.last_step
        _require(self.first_step > 0, f"first_step is {self.first_step}, it must be positive")
        _require(
            self.first_step <= largest < 1,
            f"the time between student and teacher ends at {largest:g}, it must stay below 1 and not fall",
        )
        object.__setattr__(self, "alpha_range", tuple(float(alpha) for alpha in self.alpha_range))
        fine = len(self.alpha_range) == 2 and 1 > self.alpha_range[0] > self.alpha_range[1] > 0
        _require(fine, f"alpha_range is {self.alpha_range}, it must be two falling numbers in (0, 1)")


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationSpec(DistillationSettings):
    """The distillation of one run."""

    of: str
    """Key of the finished run whose network is the first teacher, and where the student starts."""

    def __post_init__(self) -> None:
        DistillationSettings.__post_init__(self)
        _require(bool(self.of), "distillation.of is empty, it must be the key of a finished run")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """One run: a family, a size, a budget, and everything else its loss depends on."""

    family: str
    family_options: Mapping[str, Any] = field(default_factory=dict)
    size: Size
    budget: float
    """Training FLOPs the run was planned for, in `flop_convention`."""
    flop_convention: flops.Convention = "exact"
    sequences: int
    """Training sequences in all; the last step takes the rest, so the budget is met to one sequence."""
    batch_size: int
    """Sequences per optimizer step."""
    data: DataSpec
    optimizer: OptimizerSpec
    evaluation: EvaluationSpec = field(default_factory=EvaluationSpec)
    precision: Precision = "float32"
    seed: int = 0
    labels: Labels | None = None
    """The label that the network reads beside a text; None: none, and no part of the key."""
    revision: int = RESULT_REVISION
    distillation: DistillationSpec | None = None
    """Distillation of another run instead of training on text from fresh weights."""
    replicas: int = 1
    """Networks trained side by side as one stacked network, with seeds `seed`, `seed` + 1, ...; budget,
    sequences, batch size and FLOPs are those of each."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "family", family_name(self.family))  # a paper's name gives the same key
        _as_floats(self, "budget")
        _require(self.budget > 0, f"budget is {self.budget}, it must be positive")
        _require_one_of(flops.CONVENTIONS, self, "flop_convention")
        _require_one_of(get_args(Precision), self, "precision")
        _require_at_least(1, self, "batch_size", "replicas")
        _require(
            self.sequences >= self.batch_size,
            f"budget {self.budget:.3g} FLOPs pays for {self.sequences} sequences of size {self.size.name!r}, "
            f"less than one step of {self.batch_size}",
        )
        for name in ("vocab_size", "mask_id"):
            present = name in self.family_options
            _require(not present, f"family_options has {name}, which follows from the data")
        self.build_family().check_context(self.data.context_length)  # refuses families and options by name
        if self.distillation is not None:
            self._check_distillation(self.distillation)
        clustered = self.labels is not None and self.labels.clustered
        for hinders, what in (
            (self.distillation is not None, "a distillation"),
            (clustered, "labels of clusters"),
        ):
            only = f"replicas is {self.replicas}, but a run with {what} trains one network"
            _require(self.replicas == 1 or not hinders, only)

    def _check_distillation(self, how: DistillationSpec) -> None:
        only = f"family {self.family!r} cannot be distilled, only 'uniform' can"
        _require(family_class(self.family).distillable, only)
        _require(
            self.labels is None or not self.labels.clustered,
            "a run whose labels are clusters of its own features cannot be distilled: a student forms others",
        )
        steps = how.rounds * how.steps_per_round
        _require(
            self.steps == steps,
            f"sequences is {self.sequences}, {self.steps} steps of {self.batch_size}; it must give the "
            f"{steps} steps of {how.rounds} rounds of {how.steps_per_round}",
        )
        _require(
            self.optimizer.ema_decay is not None,
            "ema_decay is null; a distillation returns the moving average of its student and needs one",
        )

    def build_family(self) -> Family:
        family = get_family(self.family, vocab_size=self.vocab_size, **self.family_options)
        family.labels, family.base = self.labels, self.optimizer.base
        family.muon = self.optimizer.method == "muon"
        if self.labels is not None and self.labels.clustered:
            family.require(family.clusterable, "it reads latents and has no labels of clusters")
        return family

    @property
    def vocab_size(self) -> int:
        return family_class(self.family).vocab_size_for(self.data.num_token_ids, **self.family_options)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of each replica."""
        return tuple(range(self.seed, self.seed + self.replicas))

    def alone(self, replica: int) -> RunSpec:
        """The spec of one of the replicas, 0, 1, ..., as a run of its own."""
        return replace(self, seed=self.seeds[replica], replicas=1)

    @property
    def steps(self) -> int:
        return -(-self.sequences // self.batch_size)

    @property
    def tokens(self) -> int:
        """All input tokens of training, repeats included."""
        return self.sequences * self.data.context_length

    def training_flops(self, convention: flops.Convention | None = None) -> float:
        """FLOPs actually spent, in `convention` (default: the one the budget means)."""
        return flops.training_flops(
            self.size,
            self.vocab_size,
            self.data.context_length,
            self.sequences,
            convention or self.flop_convention,
            work=self.work,
        )

    @property
    def work(self) -> flops.Work:
        """The cost of one training sequence relative to one plain pass: a teacher is a pass more."""
        work = self.build_family().training_work(self.data.context_length)
        if self.distillation is None:
            return work
        return replace(work, heads=0.0, passes_without_gradient=work.passes_without_gradient + 1)

    @property
    def weight_copies(self) -> int:
        """Vectors of the size of the weights that training keeps and saves, the gradient aside: weights, two
        moments, their moving average, a teacher."""
        clustered = self.labels is not None and self.labels.clustered
        return 3 + (self.optimizer.ema_decay is not None) + (self.distillation is not None) + clustered

    @property
    def final_bounds(self) -> int:
        """Estimates of the bound when training has ended: of the last weights, and of their average; with and
        without the label."""
        return 1 + (self.optimizer.ema_decay is not None) + 2 * (self.labels is not None)

    def evaluation_flops(self, sequences: int) -> float:
        """Exact FLOPs of one estimate of the bound on so many held-out sequences."""
        family, length = self.build_family(), self.data.context_length
        levels = 1 if family.bound == "exact" else self.evaluation.noise_levels
        passes = [
            flops.forward_flops(self.size, self.vocab_size, length, work=work)
            for work in family.evaluation_work(length)
        ]
        return sequences * levels * sum(passes)

    def param_count(self, kind: flops.ParamKind = "total") -> int:
        """Parameters of the run's network; kinds as in `scaling.flops.param_count`."""
        return self.build_family().param_count(self.size, kind)

    @property
    def key(self) -> str:
        """16 hex digits of the SHA-256 over the spec's canonical JSON, and over how the bound is estimated
        where that has changed since."""
        values = self.to_dict()
        if self.evaluation.noise_levels == 1 and self.build_family().bound == "upper":
            values["evaluation"]["levels"] = "a slice for each sequence"  # they were independent before
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        out = {f.name: getattr(self, f.name) for f in fields(self)}
        if self.labels is None:
            del out["labels"]
        for name in ("size", "data", "optimizer", "evaluation", "labels"):
            if name in out:
                out[name] = asdict(out[name])
        out["optimizer"]["betas"] = list(self.optimizer.betas)
        out["family_options"] = dict(self.family_options)
        # options that came later are left out where they are off, so that the keys of older runs stay
        if self.optimizer.ema_decay is None:
            del out["optimizer"]["ema_decay"]
        if self.optimizer.method == "adamw":
            del out["optimizer"]["method"]
        if self.optimizer.base is None:
            for name in ("parametrization", *BASE_FIELDS):
                del out["optimizer"][name]
        if self.replicas == 1:
            del out["replicas"]
        del out["distillation"]
        if self.distillation is not None:
            out["distillation"] = asdict(self.distillation)
            out["distillation"]["alpha_range"] = list(self.distillation.alpha_range)
        return out

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunSpec:
        parts: dict[str, Any] = {"size": Size, "data": DataSpec, "optimizer": OptimizerSpec}
        parts |= {"evaluation": EvaluationSpec, "labels": Labels, "distillation": DistillationSpec}
        return cls(**{n: parts[n](**v) if n in parts and v is not None else v for n, v in values.items()})


def distilled(
    parent: RunSpec,
    how: DistillationSettings | None = None,
    *,
    batch_size: int = 128,
    learning_rate: float = 6e-5,
    warmup_steps: int = 500,
    ema_decay: float = 0.999,
    seed: int | None = None,
) -> RunSpec:
    """The spec of a run that distils `parent`, with the published settings (Duo, section 5.3) by default.

    The learning rate is constant after warm-up; the budget is what the run costs. seed: the parent's if None.
    UserError if the parent is of another family, or itself distilled.
    """
    if parent.distillation is not None:
        raise UserError(f"run {parent.key} is itself distilled, from {parent.distillation.of}")
    how = how or DistillationSettings()
    optimizer = replace(
        parent.optimizer, schedule="constant", learning_rate=learning_rate, warmup_steps=warmup_steps,
        ema_decay=ema_decay,
    )  # fmt: skip
    spec = replace(
        parent,
        budget=1.0,
        sequences=how.rounds * how.steps_per_round * batch_size,
        batch_size=batch_size,
        optimizer=optimizer,
        seed=parent.seed if seed is None else seed,
        distillation=DistillationSpec(of=parent.key, **asdict(how)),
    )
    return replace(spec, budget=spec.training_flops())
