"""Which samples to make: the best run of each family and budget, samplers, a ladder of steps, one judge."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from analysis.text import flops_text
from scaling.errors import UserError, nearest
from scaling.families import family_class
from scaling.families.ar import Autoregressive
from scaling.families.base import Family
from scaling.spec import RunSpec
from sweeps.attempt.job import read_outcome
from sweeps.attempt.journal import run_folder
from sweeps.ledger.types import Needs, Run, State
from sweeps.plan.rows import replica_numbers

FOLDER = "samples"
"""Below the sweep's: a folder for each point, with its result."""
BATCH, REPEATS = 64, 5
EVERY = "all"
"""In place of a sampler's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Who judges the texts: a run of the sweep, or a Hugging Face model."""

    name: str
    folder: str = ""
    """Of the run; "" for a model of the hub."""
    replica: int = 0
    """Of the run."""


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
    """The finished run with the lowest loss of each family and budget, by family and budget."""
    best: dict[tuple[str, float], Run] = {}
    for run in runs:
        if run.state == State.FINISHED and run.loss is not None and math.isfinite(run.loss):
            place = (run.family, run.budget)
            if place not in best or run.loss < (best[place].loss or math.inf):
                best[place] = run
    return sorted(best.values(), key=lambda run: (run.family, run.budget))


def choose_judge(name: str | None, runs: Iterable[Run], sampled: Sequence[Run], folder: Path) -> Judge:
    """The judge of all samples of a sweep.

    name: the start of a run's key, or a Hugging Face model; None: of the finished ar runs that are not
    sampled themselves the one with the largest budget, and of those with the lowest loss. UserError if there
    is none, or if the named run is sampled or of another family.
    """
    finished = [run for run in runs if run.state == State.FINISHED and run.loss is not None]
    able = [run for run in finished if issubclass(family_class(run.family), Autoregressive)]
    keys = {run.key for run in sampled}
    if name is not None:
        called = [run for run in finished if len(name) >= 4 and run.key.startswith(name)]
        if not called:
            return Judge(name=name)
        if called[0].key in keys:
            raise UserError(f"--judge {name} is a run whose texts are judged; choose another one")
        if called[0] not in able:
            raise UserError(f"--judge {name} is a run of {called[0].family}; a judge must be one of ar")
        return _run_judge(called[0], folder)
    others = [run for run in able if run.key not in keys]
    if not others:
        raise UserError(
            "there is no judge: the sweep has no finished run of ar beside the sampled ones; sweep ar, or "
            "give a Hugging Face model, --judge NAME"
        )
    return _run_judge(min(others, key=lambda run: (-run.budget, run.loss)), folder)


def _run_judge(run: Run, folder: Path) -> Judge:
    return Judge(
        name=f"{run.family} {run.size} at {flops_text(run.budget)} FLOPs ({run.key[:8]})",
        folder=str(run_folder(folder, run.family, run.key).absolute()),
        replica=sampled_replica(run)[0],
    )


def sampled_replica(run: Run) -> tuple[int, float | None]:
    """The first replica of a finished run that has not diverged, and its loss; 0 of a run of one network."""
    numbers = replica_numbers(run)
    if not numbers:
        return 0, run.loss
    first = min(numbers)
    return first, numbers[first]["loss"]


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
