"""The rules of a config: batch, learning rate and warm-up of a run from its size, its length and each other.

They apply in one order, so that none is circular: budget and size give the tokens; the batch follows from
budget, params and tokens; the steps are tokens / batch; the learning rate may depend on all of these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Section(BaseModel):
    """A section of the file: no unknown keys, no changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Extent(NamedTuple):
    """The quantities of a run that rules may depend on."""

    params: float
    """Non-embedding parameters."""
    tokens: float
    """Input tokens of training, repeats included."""
    batch: float = float("nan")
    """Tokens per optimizer step; the batch rule, which gives it, does not see it."""
    steps: float = float("nan")
    """Optimizer steps; not seen by the batch rule either."""


class Power(Section):
    """A factor (x / at) ** exponent of a rule."""

    at: Positive
    """Where the factor is 1."""
    exponent: float
    """How the result changes with the quantity; -0.5 halves it at four times as much."""


Tried = dict[str, tuple[Positive, Positive]]


def _check_tried(tried: Tried, names: tuple[str, ...]) -> None:
    for name, (low, high) in tried.items():
        if name not in names:
            raise ValueError(f"tried names {name!r}; it must be one of {', '.join(names)}")
        if low > high:
            raise ValueError(f"tried.{name} is [{low:g}, {high:g}]; the smaller end comes first")


class LearningRateRule(Section):
    """learning_rate = base * (params / at_params) ** exponent, kept within [smallest, largest].

    `params` are non-embedding parameters. exponent 0 (the default) is one rate for all sizes. `steps`,
    `tokens` and `batch` multiply it by further powers.
    """

    base: Positive
    """Peak learning rate at `at_params`, and where the other powers are 1."""
    at_params: Positive = 1.0
    """The size at which `base` holds."""
    exponent: float = 0.0
    """How the rate changes with size; -0.5 halves it at four times the parameters."""
    steps: Power | None = None
    """A power of the optimizer steps: `{at: 1000, exponent: -0.25}`."""
    tokens: Power | None = None
    """A power of the training tokens."""
    batch: Power | None = None
    """A power of the tokens per optimizer step."""
    smallest: Positive = 1e-6
    """Lower limit of the rate."""
    largest: Positive = 0.1
    """Upper limit of the rate."""
    tried: Tried | None = None
    """Where the rule was found, such as `{params: [2e3, 4e4], steps: [200, 2000]}`; a plan names the runs
    outside."""

    @model_validator(mode="after")
    def _ranges(self) -> LearningRateRule:
        if self.smallest > self.largest:
            raise ValueError(f"smallest {self.smallest:g} is above largest {self.largest:g}")
        _check_tried(self.tried or {}, ("params", "tokens", "batch", "steps"))
        return self

    def unclipped(self, run: Extent) -> float:
        rate = float(self.base * (run.params / self.at_params) ** self.exponent)
        for name in ("steps", "tokens", "batch"):
            power: Power | None = getattr(self, name)
            if power is not None:
                rate *= float((getattr(run, name) / power.at) ** power.exponent)
        return rate

    def __call__(self, run: Extent) -> float:
        return min(max(self.unclipped(run), self.smallest), self.largest)


class BatchRule(Section):
    """batch tokens = base_tokens * (budget / at_flops) ** exponent, rounded to sequences, at least 1.

    `tokens` and `params` multiply it by further powers. It cannot depend on the steps or the learning rate,
    which follow from it.
    """

    base_tokens: Positive
    """Tokens per optimizer step at `at_flops`, and where the other powers are 1."""
    at_flops: Positive = 1.0
    """The budget at which `base_tokens` holds."""
    exponent: float = 0.0
    """How the batch grows with compute; 0 is one batch for all budgets."""
    tokens: Power | None = None
    """A power of the training tokens: `{at: 1e6, exponent: 0.8}`."""
    params: Power | None = None
    """A power of the non-embedding parameters."""
    tried: Tried | None = None
    """Where the rule was found, such as `{tokens: [1e5, 2e6]}`; a plan names the runs outside."""

    @model_validator(mode="before")
    @classmethod
    def _no_circle(cls, rule: Any) -> Any:
        for name in ("steps", "batch", "learning_rate"):
            if isinstance(rule, Mapping) and name in rule:
                raise ValueError(
                    f"it cannot depend on {name}, which follows from it; use tokens, params or at_flops"
                )
        return rule

    @model_validator(mode="after")
    def _ranges(self) -> BatchRule:
        _check_tried(self.tried or {}, ("params", "tokens"))
        return self

    def __call__(self, budget: float, context_length: int, run: Extent) -> int:
        """Sequences per optimizer step."""
        tokens = self.base_tokens * (budget / self.at_flops) ** self.exponent
        for name in ("tokens", "params"):
            power: Power | None = getattr(self, name)
            if power is not None:
                tokens *= float((getattr(run, name) / power.at) ** power.exponent)
        return max(1, round(tokens / context_length))


def outside(rule: LearningRateRule | BatchRule, run: Extent) -> Iterator[str]:
    """The quantities of a run that lie beyond where the rule was found."""
    for name, (low, high) in (rule.tried or {}).items():
        if not low * (1 - 1e-6) <= getattr(run, name) <= high * (1 + 1e-6):
            yield name
