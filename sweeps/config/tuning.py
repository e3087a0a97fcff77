"""The `tuning` section of a sweep's file: where `scaling tune` tries which settings, and how often."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from sweeps.config.rules import Positive, Section

Range = tuple[Positive, Positive]


def listed(value: object) -> object:
    return [value] if isinstance(value, str | int | float) else value


class TuningRule(Section):
    """Where settings are tried: sizes and budgets, ranges, and seeds that the sweep itself does not use.

    Every knob with a range is tuned; rate and batch as factors of what the sweep's rules give at the point.
    """

    points: dict[Positive, Annotated[tuple[str, ...], Field(min_length=1)]]
    """Two to four sizes at small budgets, as in `grid.sizes`: `{1.2e10: [8x1, 24x1], 4e10: [16x1, 32x1]}`."""
    learning_rate: Range = (0.25, 4.0)
    """Lowest and highest rate tried, as factors of the rule's."""
    batch: Range | None = (0.5, 2.0)
    """Smallest and largest batch tried, as factors of the rule's; null: the rule's own."""
    warmup_fraction: Range | None = None
    """Least and most warm-up tried, as shares of the steps; null: the optimizer's own."""
    weight_decay: Range | None = None
    """Least and most weight decay tried, above 0; null: the optimizer's own."""
    seeds: Annotated[tuple[int, ...], BeforeValidator(listed), Field(min_length=1)] = (101, 102)
    """Every trial trains once per seed, and its loss is the mean; the sweep must not use them."""
    replicas: Annotated[int, Field(ge=1)] = 1
    """Networks that each run trains stacked as one, of seeds s, s + 1, ...: cheaper than as many runs."""
    trials: Annotated[int, Field(ge=1)] = 16
    """Trials at every point; more may be added later."""
    generation: Annotated[int, Field(ge=1)] = 4
    """Trials of a point that are proposed together; the next ones know the losses of these."""
    sampler_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the proposals."""

    @model_validator(mode="after")
    def _sound(self) -> TuningRule:
        if len(set(self.every_seed)) < len(self.every_seed):
            raise ValueError(
                f"seeds {list(self.seeds)} with {self.replicas} replicas each use one twice; "
                "set them further apart"
            )
        if not self.points:
            raise ValueError("points is empty; name sizes at one budget at least")
        for name, ends in self.ranges.items():
            if not ends[0] < ends[1]:
                raise ValueError(f"{name} is [{ends[0]:g}, {ends[1]:g}]; the second must be above the first")
        for name in ("learning_rate", "batch"):
            if name in self.ranges and not self.ranges[name][0] <= 1 <= self.ranges[name][1]:
                low, high = self.ranges[name]
                raise ValueError(f"{name} is [{low:g}, {high:g}]; the rule's own, 1, must lie inside")
        if self.warmup_fraction is not None and self.warmup_fraction[1] > 0.5:
            raise ValueError(f"warmup_fraction ends at {self.warmup_fraction[1]:g}; it must end by 0.5")
        return self

    @property
    def every_seed(self) -> tuple[int, ...]:
        """The seeds of a trial's networks."""
        return tuple(seed + replica for seed in self.seeds for replica in range(self.replicas))

    @property
    def ranges(self) -> dict[str, Range]:
        """The knobs that are tuned, with their ranges."""
        names = ("learning_rate", "batch", "warmup_fraction", "weight_decay")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}
