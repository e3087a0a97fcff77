"""Which samples to make: the best run of each family and budget, samplers, a ladder of steps."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scaling.errors import UserError, nearest
from scaling.families import family_class
from scaling.families.base import Family
from scaling.spec import RunSpec
from sweeps.attempt.job import read_outcome
from sweeps.ledger.types import Needs, Run, State
from sweeps.sample.judging import Judge, is_plain

FOLDER = "samples"
"""Below the sweep's: a folder for each point, with its result."""
BATCH, REPEATS = 64, 5
EVERY = "all"
"""In place of a sampler's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What all samples of a comparison share; a change of it makes other samples."""

    length: int
    batch: int = BATCH
    repeats: int = REPEATS
    """Timed batches; all their texts are judged."""
    seed: int = 0
    judge: Judge
    rule: str = "attention_mask"

    @property
    def texts(self) -> int:
        return self.batch * self.repeats


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One run, sampler and number of steps."""

    run: Run
    sampler: str
    steps: int
    setting: Setting

    @property
    def identity(self) -> dict[str, Any]:
        """What determines its numbers, apart from the machine."""
        return {"run": self.run.key, "sampler": self.sampler, "steps": self.steps, "options": {},
                **asdict(self.setting)}  # fmt: skip

    @property
    def key(self) -> str:
        """A name for its folder. Where the judge's files lie does not matter."""
        values = self.identity
        values["judge"] = self.setting.judge.name
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def calls(self) -> int:
        """About how often the network is called for a text: the unit of its expected time."""
        family = RunSpec.from_dict(self.run.spec).build_family()
        return math.ceil(self.setting.length / family.step_unit(self.setting.length)) * self.steps

    @property
    def needs(self) -> Needs:
        """Whole GPUs, for the speed is measured."""
        return Needs(cpus=max(1.0, self.run.needs.cpus), gpus=float(math.ceil(self.run.needs.gpus)),
                     resources=self.run.needs.resources)  # fmt: skip

    def folder(self, sweep_folder: Path) -> Path:
        return sweep_folder / FOLDER / self.key

    def row(self, sweep_folder: Path) -> dict[str, Any] | None:
        """Its row of the table of samples, if it was measured."""
        outcome = read_outcome(self.folder(sweep_folder))
        return dict(outcome.result["row"]) if outcome is not None and "row" in outcome.result else None

    def __str__(self) -> str:
        return f"{self.run.family} {self.run.size} {self.sampler} {self.steps}"


def best_runs(runs: Iterable[Run]) -> list[Run]:
    """The finished run with the lowest loss of each family and budget, by family and budget.

    Labelled and distilled runs are no such runs, for their losses are others.
    """
    best: dict[tuple[str, float], Run] = {}
    for run in runs:
        finished = run.state == State.FINISHED and run.loss is not None and math.isfinite(run.loss)
        if finished and is_plain(run):
            place = (run.family, run.budget)
            if place not in best or (run.loss or 0.0) < (best[place].loss or 0.0):
                best[place] = run
    return sorted(best.values(), key=lambda run: (run.family, run.budget))


def choose_samplers(names: Sequence[str], runs: Iterable[Run]) -> dict[str, tuple[str, ...]]:
    """The samplers of each family: its usual one if none is named, else those of the named ones that it has.

    UserError for a name that no family has, and if a family has none of them.
    """
    families = {run.family: family_class(run.family).samplers for run in runs}
    there = dict.fromkeys(name for own in families.values() for name in own)
    for name in names:
        if name != EVERY and name not in there:
            raise UserError(
                f"--sampler {name}: no sampled family has it{nearest(name, there)} (they have: "
                f"{', '.join(there)}, or all)"
            )
    chosen = {}
    for family, own in families.items():
        usual = next(iter(own))
        chosen[family] = tuple(name for name in own if name in names or EVERY in names) or (usual,)
    return chosen


def ladder(family: Family, length: int, steps: Sequence[int]) -> tuple[int, ...]:
    """Numbers of steps: the given ones, else those that the family is compared by."""
    return (
        tuple(sorted(set(steps)))
        if steps and len(family.step_ladder(length)) > 1
        else family.step_ladder(length)
    )


def plan_points(
    runs: Sequence[Run], samplers: Mapping[str, Sequence[str]], steps: Sequence[int], setting: Setting
) -> list[Point]:
    """All points, the longest first."""
    points = []
    for run in runs:
        family = RunSpec.from_dict(run.spec).build_family()
        points += [
            Point(run=run, sampler=sampler, steps=count, setting=setting)
            for sampler in samplers[run.family]
            for count in ladder(family, setting.length, steps)
        ]
    return sorted(points, key=lambda point: -point.calls * (point.run.params or 1.0))
