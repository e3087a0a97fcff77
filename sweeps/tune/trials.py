"""Trials as the ledger has them: settings and keys as a fact, states and losses from their runs.

Nothing else is durable. The proposals of a generation are noted before its runs are registered, so a driver
that is killed in between goes on with the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pandas as pd

from scaling.errors import UserError
from sweeps.config.rules import Extent
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.types import SETTLED, Run, State
from sweeps.plan.diff import MOST_CONFIG, differences
from sweeps.plan.plan import extent_of
from sweeps.tune.space import Settings, Space


class Verdict(StrEnum):
    """How a trial ended."""

    DONE = "done"
    DIVERGED = "diverged"
    """A run of it did."""
    FAILED = "failed"
    """A run of it has no loss for another reason; the next `scaling tune` tries it again."""
    OPEN = "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Settings at a point, trained once for each seed."""

    point: str
    settings: Settings
    keys: tuple[str, ...]
    verdict: Verdict
    losses: list[float]
    """Of its networks that finished, in the order of their seeds, nats per token."""
    value: float
    """The mean; of a diverged trial the loss of a network that knows nothing, ln of the vocabulary."""


def fact_name(family: str) -> str:
    return f"tuning {family}"


def check_space(ledger: Ledger, space: Space, study: str) -> None:
    """Note the space of a new study; UserError if the study searched another one before."""
    noted, now = ledger.fact(fact_name(space.family)), space.facts()
    if noted is None:
        ledger.note_fact(fact_name(space.family), {"space": now, "trials": []})
        return
    changes = [f"{name} {values}" for name, values in differences(noted["space"], now)]
    if changes:
        left = len(changes) - MOST_CONFIG
        raise UserError(
            f"study {study!r} of {space.family} searched another space: {'; '.join(changes[:MOST_CONFIG])}"
            f"{f' and {left} more' if left > 0 else ''}. Give the new one another name with --study"
        )


def add_trials(ledger: Ledger, space: Space, new: Sequence[tuple[str, Settings]]) -> None:
    """Note proposals, (name of the point, settings), behind the trials there are."""
    noted = ledger.fact(fact_name(space.family))
    noted["trials"] += [
        {
            "point": point,
            "settings": settings,
            "keys": [spec.key for spec in space.specs(space.point(point), settings)],
        }
        for point, settings in new
    ]
    ledger.note_fact(fact_name(space.family), noted)


def read_trials(ledger: Ledger, space: Space) -> list[Trial]:
    """All trials in the order of their proposals."""
    noted: list[dict[str, Any]] = ledger.fact(fact_name(space.family))["trials"]
    keys = [key for one in noted for key in one["keys"]]
    runs = {run.key: run for run in ledger.runs(keys)}
    vocabulary = space.specs(space.points[0], dict(space.points[0].start))[0].vocab_size
    return [_trial(one, runs, math.log(vocabulary)) for one in noted]


def _trial(noted: Mapping[str, Any], runs: Mapping[str, Run], ignorance: float) -> Trial:
    states = [runs[key].state if key in runs else State.PLANNED for key in noted["keys"]]
    networks = [loss for key in noted["keys"] if key in runs for loss in _losses(runs[key])]
    losses = [loss for loss in networks if loss is not None]
    if State.DIVERGED in states or len(losses) < len(networks):
        # the other seeds' losses would praise what fails one time in two
        verdict, value = Verdict.DIVERGED, ignorance
    elif any(state not in SETTLED for state in states):
        verdict, value = Verdict.OPEN, math.nan
    elif any(state != State.FINISHED for state in states):
        verdict, value = Verdict.FAILED, math.nan
    else:
        verdict, value = Verdict.DONE, sum(losses) / len(losses)
    return Trial(
        point=noted["point"], settings=dict(noted["settings"]), keys=tuple(noted["keys"]),
        verdict=verdict, losses=losses, value=value,
    )  # fmt: skip


def _losses(run: Run) -> list[float | None]:
    """Of each network of a finished run; None for a replica that diverged."""
    if run.state != State.FINISHED:
        return []
    replicas = run.result.get("replicas")
    return [one["bound"] for one in replicas] if replicas else [run.loss]


def trial_table(ledger: Ledger, space: Space) -> pd.DataFrame:
    """One row per network, for `analysis.laws.response`: point, trial, seed, key, quantities, settings, loss.

    `loss` is missing for runs of diverged trials; open and failed trials are left out.
    """
    rows, numbers = [], dict.fromkeys((point.name for point in space.points), 0)
    unique = {trial.keys: trial for trial in read_trials(ledger, space)}  # a repeated point is no new trial
    for trial in unique.values():
        number = numbers[trial.point]
        numbers[trial.point] += 1
        if trial.verdict not in (Verdict.DONE, Verdict.DIVERGED):
            continue
        specs = space.specs(space.point(trial.point), trial.settings)
        diverged = trial.verdict == Verdict.DIVERGED
        networks = [(spec, seed) for spec in specs for seed in spec.seeds]
        losses = [math.nan] * len(networks) if diverged else trial.losses
        for (spec, seed), loss in zip(networks, losses, strict=True):
            extent: Extent = extent_of(spec)
            settings = {name: value for name, value in trial.settings.items() if name != "batch_size"}
            row: dict[str, Any] = {
                "family": space.family,
                "point": trial.point,
                "trial": number,
                "seed": seed,
                "key": spec.key,
            }
            row |= {"diverged": diverged, **extent._asdict(), **settings, "loss": loss}
            rows.append(row)
    return pd.DataFrame(rows)
