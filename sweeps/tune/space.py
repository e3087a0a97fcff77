"""The space that a study searches: its points, the range of each setting there, and trials as runs.

A point is a size and a budget, so all its trials read the same text, and a larger batch means fewer steps. A
trial is one choice of settings at a point, trained once for each seed: `RunSpec`s like any other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from analysis.text import flops_text
from scaling.errors import UserError
from scaling.spec import RunSpec
from sweeps.config.grid import Grid
from sweeps.config.model import FamilyOverride, SweepConfig
from sweeps.config.rules import BatchRule, LearningRateRule
from sweeps.config.tuning import TuningRule
from sweeps.plan.plan import DataFacts, extent_of, plan_specs

Settings = dict[str, float]
"""learning_rate, batch_size (sequences), and those of warmup_fraction and weight_decay that are tuned."""
DIGITS = 3
"""Of a proposed setting, so that a setting can be written, and the same one can be proposed again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A size and a budget at which trials train."""

    size: str
    budget: float
    start: Mapping[str, float]
    """The settings that the sweep's own rules give here: the first trial."""
    ranges: Mapping[str, tuple[float, float]]
    """Setting -> lowest and highest value tried."""

    @property
    def name(self) -> str:
        return f"{self.size} at {flops_text(self.budget)}"

    def rounded(self, settings: Mapping[str, float]) -> Settings:
        """Settings as they are used: few digits, whole sequences, inside the ranges."""
        out = {}
        for name, (low, high) in self.ranges.items():
            value = float(round(settings[name])) if name == "batch_size" else _round(settings[name])
            out[name] = min(max(value, low), high)
        return out


def _round(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """A study: one family of a config, and where its settings are tried."""

    config: SweepConfig
    family: str
    data: DataFacts
    rule: TuningRule
    points: tuple[Point, ...]

    @classmethod
    def of(cls, config: SweepConfig, family: str, data: DataFacts) -> Space:
        """UserError if the config tunes nothing, or a size, a range or a budget cannot be used."""
        if config.tuning is None:
            raise UserError(
                f"{config.source}: key 'tuning' is missing, which says where settings are tried; "
                "see docs/tuning.md"
            )
        made = [
            _point(config, family, data, config.tuning, size, budget)
            for budget, sizes in sorted(config.tuning.points.items())
            for size in sizes
        ]
        if len({point.name for point in made}) < len(made):
            raise UserError(f"{config.source}: tuning.points names a size twice at one budget")
        space = cls(config=config, family=family, data=data, rule=config.tuning, points=tuple(made))
        for point in made:
            space.specs(point, dict(point.start) | {"batch_size": point.ranges["batch_size"][1]})
        return space

    def point(self, name: str) -> Point:
        return next(point for point in self.points if point.name == name)

    def specs(self, point: Point, settings: Mapping[str, float]) -> tuple[RunSpec, ...]:
        """The runs of a trial, one for each seed, each with the replicas of the config."""
        rule, place = self.rule, (point.size, point.budget)
        specs = _specs(self.config, self.family, self.data, rule.seeds, *place, settings)
        return tuple(replace(spec, replicas=rule.replicas) for spec in specs)

    def facts(self) -> dict[str, Any]:
        """What makes this space another one, as plain data; more trials do not."""
        config, family = self.config, self.family
        specs = [self.specs(point, dict(point.start))[0].to_dict() for point in self.points]
        same = ("family", "family_options", "flop_convention", "data", "evaluation", "precision", "labels")
        whole = {
            "tuning": self.rule.model_dump(mode="json", exclude={"trials"}),
            "run": {name: specs[0].get(name) for name in same},
            "sizes": {spec["size"]["name"]: spec["size"] for spec in specs},
            "optimizer": asdict(config.optimizer_rule(family)),
            "learning_rate": config.rate_rule(family).model_dump(mode="json", exclude={"tried"}),
            "batch": config.batch_rule(family).model_dump(mode="json", exclude={"tried"}),
        }
        plain: dict[str, Any] = json.loads(json.dumps(whole))
        return plain


def _specs(
    config: SweepConfig,
    family: str,
    data: DataFacts,
    seeds: Sequence[int],
    size: str,
    budget: float,
    settings: Mapping[str, float],
) -> tuple[RunSpec, ...]:
    """Runs of one size and budget; settings that are not among `settings` follow the config's rules."""
    own = config.override(family)
    changes: dict[str, Any] = {"seeds": tuple(seeds), "sizes": None, "window": None}
    if "learning_rate" in settings:
        rate = settings["learning_rate"]
        changes["learning_rate"] = LearningRateRule(base=rate, smallest=rate, largest=rate)
    if "batch_size" in settings:
        changes["batch"] = BatchRule(base_tokens=settings["batch_size"] * config.context_length)
    optimizer = dict(own.optimizer or {})
    if "warmup_fraction" in settings:
        optimizer |= {"warmup_fraction": settings["warmup_fraction"], "warmup_steps": 0}
    if "weight_decay" in settings:
        optimizer["weight_decay"] = settings["weight_decay"]
    override: FamilyOverride = own.model_copy(update=changes | {"optimizer": optimizer})
    alone = config.model_copy(
        update={
            "grid": Grid(budgets=(budget,), sizes=(size,)),
            "overrides": {**config.overrides, family: override},
            "distillation": None,
        }
    )
    return plan_specs(alone, data, (family,))[0]


def _point(
    config: SweepConfig, family: str, data: DataFacts, rule: TuningRule, size: str, budget: float
) -> Point:
    (spec,) = _specs(config, family, data, rule.seeds[:1], size, budget, {})
    rate, batch = spec.optimizer.learning_rate, spec.batch_size
    optimizer, extent = config.optimizer_rule(family), extent_of(spec)
    start = {"learning_rate": _round(rate), "batch_size": float(batch)}
    low, high = rule.learning_rate
    ranges: dict[str, tuple[float, float]] = {"learning_rate": (_round(low * rate), _round(high * rate))}
    ranges["batch_size"] = (batch, batch)
    if rule.batch is not None:
        ends = max(1, round(rule.batch[0] * batch)), max(1, round(rule.batch[1] * batch))
        if ends[0] == ends[1]:
            raise UserError(
                f"{config.source}: tuning.batch is a range of one batch of {batch} sequences for {size} at "
                f"{flops_text(budget)} FLOPs; give a wider one, or null"
            )
        ranges["batch_size"] = ends
    if rule.warmup_fraction is not None:
        start["warmup_fraction"] = spec.optimizer.warmup_steps / extent.steps
        ranges["warmup_fraction"] = rule.warmup_fraction
    if rule.weight_decay is not None:
        start["weight_decay"] = optimizer.weight_decay
        ranges["weight_decay"] = rule.weight_decay
    for name in ("warmup_fraction", "weight_decay"):
        if name in ranges and not ranges[name][0] <= start[name] <= ranges[name][1]:
            raise UserError(
                f"{config.source}: tuning.{name} is [{ranges[name][0]:g}, {ranges[name][1]:g}] and leaves "
                f"out the sweep's own, {start[name]:.3g} for {size} at {flops_text(budget)} FLOPs"
            )
    point = Point(size=size, budget=float(budget), start=start, ranges=ranges)
    return Point(size=size, budget=float(budget), start=point.rounded(start), ranges=ranges)
