"""A sweep's YAML file: families, sizes, budgets, data, seeds, and the rules of training.

`config.load` reads a config and `plan.plan` turns it into runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError, model_validator

from scaling.errors import unknown
from scaling.families import family_class, family_name
from scaling.flops import Convention
from scaling.labels import Labels
from scaling.ladder import Size
from scaling.spec import (
    DistillationSettings,
    EvaluationSpec,
    OptimizerSettings,
    OptimizerSpec,
    Precision,
    RunSpec,
    distilled,
)
from sweeps.config.grid import Grid, Seeds, SizesByBudget, Window, check_budgets, check_sizes
from sweeps.config.rules import BatchRule, LearningRateRule, Positive, Section
from sweeps.config.tuning import TuningRule, listed

Count = Annotated[int, Field(ge=1)]
_Listed = BeforeValidator(listed)
MAX_NAME = 100
"""Letters of the name of a sweep."""


class FamilyChoice(Section):
    """A family and the options it is built with, e.g. `masked: {objective: low_variance}`."""

    name: Annotated[str, AfterValidator(family_name)]
    """A family of the table in docs/families.md, also by its name in papers."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The family's own options, named in that table; its defaults by default."""


class SizeRule(Section):
    """Architectures by rule: one per hidden size, depth and heads in proportion to it.

    num_layers = round(hidden / hidden_per_layer), at least 1; num_heads = the divisor of hidden nearest to
    hidden / head_dim that leaves an even head dimension. Named `h<hidden>x<num_layers>`.
    """

    hidden: Annotated[tuple[Count, ...], Field(min_length=1)]
    """Hidden sizes, each an even number."""
    hidden_per_layer: Positive
    """Hidden units per block: the ratio of width to depth."""
    head_dim: Count
    """Dimension of an attention head to aim for."""
    cond_dim: Count = 128
    """As in `sizes`."""
    time_features: Count = 256
    """As in `sizes`."""


class DataConfig(Section):
    """The training text of all runs, and its tokenizer; see docs/own-data.md."""

    corpus: str = "stdlib"
    """The source of the text: `stdlib`, `text:`, `jsonl:`, `parquet:`, `hf:` or `synthetic:`."""
    tokenizer: str = "bytes"
    """`bytes`, `bpe:N` (trained on the corpus, N ids) or `hf:NAME_OR_FILE`."""
    num_token_ids: Count | None = None
    """Token ids to plan with before the data is prepared; afterwards the prepared data's own count holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerRule(OptimizerSettings):
    """The optimizer of all runs; warm-up depends on a run's length, the learning rate on its size."""

    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Share of the steps in which the learning rate rises from 0 to its peak."""
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    """Warm-up takes at least this many steps, but never more than half of the run."""

    def spec(self, learning_rate: float, steps: int) -> OptimizerSpec:
        """The optimizer of a run of so many steps."""
        settings = asdict(self)
        fraction = settings.pop("warmup_fraction")
        settings["warmup_steps"] = min(max(int(fraction * steps), self.warmup_steps), steps // 2)
        return OptimizerSpec(learning_rate=learning_rate, **settings)


def _optimizer_changes(changes: Any) -> Any:
    """Some settings of `OptimizerRule`, each as that reads it."""
    if not isinstance(changes, Mapping):
        return changes  # pydantic says what is wrong
    names = [field.name for field in fields(OptimizerRule)]
    for name in changes:
        if name not in names:
            raise unknown("key", name, names)
    try:
        read = TypeAdapter(OptimizerRule).validate_python(dict(changes))
    except ValidationError as error:
        problem = error.errors()[0]
        message = problem["msg"].removeprefix("Value error, ")
        place = ".".join(map(str, problem["loc"]))
        raise ValueError(f"{place}: {message}" if place else message) from None
    return {name: getattr(read, name) for name in changes}


class FamilyOverride(Section):
    """Exceptions of one family: its own budgets, sizes or window, rules, optimizer settings or seeds."""

    budgets: Annotated[tuple[Positive, ...], Field(min_length=1)] | None = None
    """As `grid.budgets`; what goes by budget for this family then names these."""
    sizes: tuple[str, ...] | SizesByBudget | None = None
    """As `grid.sizes`."""
    window: Window | None = None
    """As `grid.window`."""
    learning_rate: LearningRateRule | None = None
    """As `learning_rate`."""
    batch: BatchRule | None = None
    """As `batch`."""
    optimizer: Annotated[dict[str, Any], BeforeValidator(_optimizer_changes)] | None = None
    """The settings of `optimizer` that differ: `{weight_decay: 0.01, warmup_fraction: 0.2}`."""
    seeds: dict[float, Seeds] | Seeds | None = None
    """As `seeds`, at every budget, or as `grid.seeds`, by budget."""

    def check(self, family: str, grid: Grid) -> None:
        """ValueError if it does not go together with the sweep's grid."""
        budgets = self.budgets or grid.budgets
        if len(set(budgets)) != len(budgets):
            raise ValueError(f"budgets {list(budgets)} name one twice; each must appear once")
        check_sizes(self.sizes, self.window, budgets, needed=False)
        if isinstance(self.seeds, dict):
            check_budgets("seeds", self.seeds, budgets)
        own_sizes = self.sizes is not None or self.window is not None
        for name, by_budget, own in (
            ("sizes", isinstance(grid.sizes, dict), own_sizes),
            ("seeds", grid.seeds is not None, self.seeds is not None),
        ):
            if by_budget and not own and set(budgets) - set(grid.budgets):
                raise ValueError(
                    f"overrides.{family}.budgets needs {name} of its own: grid.{name} has other budgets"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRule(EvaluationSpec):
    """How the bound is estimated: the same text, noise levels and noise for every run of a sweep.

    `during` and `during_sequences` change no result and are not part of a run's key.
    """

    during: Annotated[int, Field(ge=0, le=200)] = 0
    """Held-out losses along each run, for its curve, evenly on a logarithmic scale; 0: at the end only."""
    during_sequences: Annotated[int, Field(ge=2)] = 64
    """Held-out sequences of each of those, the same ones at every point and for every run."""

    @property
    def spec(self) -> EvaluationSpec:
        """The part that determines a run's loss."""
        return EvaluationSpec(**{f.name: getattr(self, f.name) for f in fields(EvaluationSpec)})


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationRule(DistillationSettings):
    """A distilled run for every `uniform` run of the sweep, or for those of some sizes and budgets.

    It starts when the run that it distils has finished. Its budget is what it costs; no law has it.
    """

    sizes: tuple[str, ...] | None = None
    """Sizes whose runs are distilled; null: all."""
    budgets: tuple[float, ...] | None = None
    """Budgets whose runs are distilled, as in `grid`; null: all."""
    batch_size: Count = 128
    """Sequences per optimizer step."""
    learning_rate: Positive = 6e-5
    """Constant after warm-up."""
    warmup_steps: Annotated[int, Field(ge=0)] = 500
    """Steps in which the learning rate rises from 0."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """Decay of the moving average of the student's weights, which the run returns."""

    def specs(self, runs: Sequence[RunSpec]) -> list[RunSpec]:
        """The runs that distil some of `runs`."""
        settings = {f.name: getattr(self, f.name) for f in fields(DistillationSettings)}
        names = ("batch_size", "learning_rate", "warmup_steps", "ema_decay")
        return [
            distilled(run, DistillationSettings(**settings), **{name: getattr(self, name) for name in names})
            for run in runs
            if family_class(run.family).distillable
            and (self.sizes is None or run.size.name in self.sizes)
            and (self.budgets is None or run.budget in self.budgets)
        ]


class TrainingConfig(Section):
    """How a run is carried out. Nothing here changes a loss beyond rounding; nothing is part of its key."""

    micro_batch_size: Count | None = None
    """Sequences per forward pass; a larger batch uses gradient accumulation. Null: the whole batch."""
    compile: bool = False
    """Compile the network (torch.compile): pays on GPUs and on runs of many minutes."""
    checkpoint_every_s: Positive = 15.0
    """Seconds between checkpoints; a killed worker loses at most these."""
    keep_weights: bool = True
    """Keep the last checkpoint of a finished run (12 bytes a parameter), for sampling and distillation."""
    samples: Annotated[int, Field(ge=0, le=100)] = 2
    """Text samples that each finished network generates, shown in the dashboard."""


def _check_custom(custom: dict[str, float]) -> dict[str, float]:
    """Ray would add these to its own count, and no node would ever have room for the run."""
    for name in custom:
        if name.lower() in ("cpu", "gpu", "memory", "object_store_memory"):
            remedy = f"write {name.lower()}s beside it" if name.lower() in ("cpu", "gpu") else "leave it out"
            raise ValueError(f"{name!r} is no custom resource; {remedy}")
    return custom


class Resources(Section):
    """The resources of the cluster that one run occupies."""

    cpus: Positive = 1.0
    """CPU cores, and threads, of a run."""
    gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs of a run; 0.5 puts two runs on one GPU."""
    custom: Annotated[dict[str, Positive], AfterValidator(_check_custom)] = Field(default_factory=dict)
    """Custom Ray resources by name, such as a quota per user."""


def _family_choices(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    choices = []
    for entry in value:
        if isinstance(entry, Mapping) and len(entry) == 1 and set(entry) != {"name"}:
            (name, options), *_ = entry.items()
            choices.append({"name": name, "options": options or {}})
        elif isinstance(entry, str):
            choices.append({"name": entry})
        else:
            choices.append(entry)
    return choices


def _by_family(overrides: Any) -> Any:
    """The keys as names of families, whatever the file calls them."""
    if not isinstance(overrides, Mapping) or not all(isinstance(name, str) for name in overrides):
        return overrides
    named = {family_name(name): override for name, override in overrides.items()}
    if len(named) < len(overrides):
        raise ValueError(f"{', '.join(overrides)} name a family twice; each must appear once")
    return named


def _check_name(name: str) -> str:
    """A sweep's folder under OUT has its name; the data and the tracking store are beside it."""
    if name == "data" or name.startswith("mlflow.db"):
        raise ValueError(f"{name!r} is taken in the folder of results; choose another name for the sweep")
    return name


class SweepConfig(Section):
    """A whole sweep."""

    name: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=MAX_NAME), AfterValidator(_check_name)
    ]
    """The sweep's name and its folder under `--out`."""
    families: Annotated[tuple[FamilyChoice, ...], BeforeValidator(_family_choices), Field(min_length=1)]
    """Families to train: a name, or `name: {option: value}`."""
    ladder: str = "desk"
    """A set of named sizes that ships with the package: `desk` or `sahoo2026`."""
    sizes: tuple[Size, ...] | None = None
    """Architectures written out, used instead of the ladder."""
    size_rule: SizeRule | None = None
    """Architectures by rule, used instead of the ladder."""
    grid: Grid
    """The budgets, and the sizes at each."""
    flop_convention: Convention = "exact"
    """The FLOPs that budgets count: every matrix product (`exact`), all but attention scores as in the
    published study (`sahoo2026`), or 6 N D (`2nd`)."""
    context_length: Count
    """Tokens per sequence, in training and evaluation."""
    data: DataConfig = DataConfig()
    """The text and the tokenizer."""
    optimizer: OptimizerRule = OptimizerRule()
    """AdamW and its schedule."""
    learning_rate: LearningRateRule
    """Peak learning rate as a function of size, and of length and batch if it says so."""
    batch: BatchRule
    """Batch size as a function of budget, and of tokens and size if it says so."""
    overrides: Annotated[dict[str, FamilyOverride], BeforeValidator(_by_family)] = Field(default_factory=dict)
    """Exceptions by family name; a family needs no entry."""
    include: Annotated[tuple[str, ...], _Listed] = Field(default=(), exclude=True)
    """Files with further overrides, such as the rules of `scaling tune`; paths start at this file."""
    evaluation: EvaluationRule = EvaluationRule()
    """How the held-out loss is estimated."""
    distillation: DistillationRule | None = None
    """Distilled runs beside those of the grid: `{}` for one of each `uniform` run; null: none."""
    tuning: TuningRule | None = None
    """Where `scaling tune` tries settings, see docs/tuning.md; no part of the sweep itself."""
    seeds: Seeds = (1,)
    """One number or a list; every size is trained once per seed at every budget. `grid.seeds`: by budget."""
    labels: Labels | None = None
    """The label that networks read beside a text, for guided sampling: `{of: kind}`."""
    precision: Precision = "float32"
    """Number format of the matrix products; weights and optimizer state stay float32."""
    training: TrainingConfig = TrainingConfig()
    """How a run is carried out."""
    resources: Resources = Resources()
    """The resources of one run."""
    source: str = Field(default="", exclude=True)
    """The file it came from, for messages; not a key of the file."""

    @model_validator(mode="after")
    def _whole(self) -> SweepConfig:
        names = [family.name for family in self.families]
        if len(set(names)) != len(names):
            raise ValueError(f"families {names} name one twice; each must appear once")
        if self.sizes is not None and self.size_rule is not None:
            raise ValueError("sizes and size_rule are both given; give one of them, or a ladder alone")
        labels = [size.name for size in self.sizes or ()]
        if len(set(labels)) != len(labels):
            raise ValueError(f"sizes {labels} name one twice; names must differ")
        if self.grid.seeds is not None and "seeds" in self.model_fields_set:
            raise ValueError("seeds and grid.seeds are both given; give one of them")
        if self.distillation is not None and not self.training.keep_weights:
            raise ValueError(
                "training.keep_weights is false, and 'distillation' needs the weights; leave it out"
            )
        for family, override in self.overrides.items():
            if family not in names:
                listed = ", ".join(names)
                raise ValueError(
                    f"overrides name family {family!r}, which is not under 'families' ({listed})"
                )
            override.check(family, self.grid)
        if self.tuning is not None:
            places = [(name, budget) for name in names for budget in self.budgets_of(name)]
            used = {seed for place in places for seed in self.seeds_of(*place)}
            if shared := sorted(used & set(self.tuning.every_seed)):
                raise ValueError(
                    f"tuning.seeds and seeds share {shared[0]}; tune on seeds that the sweep does not use"
                )
        return self

    def family(self, name: str) -> FamilyChoice:
        """The family as in the config, or with its defaults if the config does not list it."""
        return next((choice for choice in self.families if choice.name == name), FamilyChoice(name=name))

    def override(self, family: str) -> FamilyOverride:
        return self.overrides.get(family, FamilyOverride())

    def budgets_of(self, family: str) -> tuple[float, ...]:
        """The family's own budgets, else the sweep's."""
        return self.override(family).budgets or self.grid.budgets

    def rate_rule(self, family: str) -> LearningRateRule:
        """The family's own rule, else the sweep's; so are the next three."""
        return self.override(family).learning_rate or self.learning_rate

    def batch_rule(self, family: str) -> BatchRule:
        return self.override(family).batch or self.batch

    def optimizer_rule(self, family: str) -> OptimizerRule:
        return replace(self.optimizer, **self.override(family).optimizer or {})

    def seeds_of(self, family: str, budget: float) -> tuple[int, ...]:
        own = self.override(family).seeds
        if own is None:
            own = self.seeds if self.grid.seeds is None else self.grid.seeds
        return own[budget] if isinstance(own, dict) else own
