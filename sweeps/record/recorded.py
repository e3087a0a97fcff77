"""Reads a sweep's runs from a tracking store, metric by metric: for audits and `scaling logs`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from analysis.table.columns import BIASED_LOSS, HELD_OUT_LOSS, KEY_TAG, TRAIN_LOSS
from analysis.table.replicas import numbers_of
from sweeps.record.tracking import all_runs, client, experiment_of

LOSSES = (TRAIN_LOSS, BIASED_LOSS, HELD_OUT_LOSS)
FINAL = "loss"


@dataclass(slots=True, kw_only=True)
class RecordedRun:
    """A run as the store has it."""

    run_id: str
    sweep: str
    key: str
    tags: dict[str, str] = field(default_factory=dict)
    points: int = 0
    """Values of all metrics together."""
    repeated: list[tuple[str, int, int]] = field(default_factory=list)
    """Metric, step and how often it is there, of those that are there more than once."""
    curves: dict[str, dict[int, float]] = field(default_factory=dict)
    """Metric -> step -> value, of the losses along the run."""
    loss: float | None = None
    """The final bound, of replicas the mean."""
    replica_losses: dict[int, float] = field(default_factory=dict)
    """Replica, from 0 -> its final bound, of a run that trained several."""


def recorded_runs(uri: str, sweep: str | None = None) -> list[RecordedRun]:
    """Every run with a key in the store at `uri`; of `sweep` alone, if there is one.

    UserError (of `analysis`) for a database that cannot be read.
    """
    if uri.startswith(("sqlite:", "postgresql")):
        return _from_database(uri, sweep)
    api = client(uri)
    names = {e.experiment_id: e.name for e in api.search_experiments() if sweep in (None, e.name)}
    runs = [run for run in all_runs(api, [*names]) if KEY_TAG in run.data.tags]
    return [_with_history(api, run, names[run.info.experiment_id]) for run in runs]


def experiment_name(uri: str, sweep: str, identity: str | None) -> str:
    """The current name of the experiment of `sweep`: people rename them, and recording goes by the id."""
    experiment = experiment_of(client(uri), identity)
    return experiment.name if experiment is not None else sweep


def recorded_run(uri: str, sweep: str, key: str) -> RecordedRun | None:
    """One run with its curves, by MLflow's client; None if it has not been recorded."""
    api = client(uri)
    experiment = api.get_experiment_by_name(sweep)
    if experiment is None:
        return None
    runs = api.search_runs([experiment.experiment_id], f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
    return _with_history(api, runs[0], sweep) if runs else None


def _from_database(uri: str, sweep: str | None) -> list[RecordedRun]:
    from analysis.table.mlflow import open_database

    with open_database(uri) as database:
        runs = {
            row.run_id: RecordedRun(run_id=row.run_id, sweep=row.sweep, key=row.key)
            for row in database.keys().itertuples()
            if sweep is None or row.sweep == sweep
        }
        for row in database.point_counts().itertuples():
            if row.run_id in runs:
                runs[row.run_id].points += int(row.points)
        for row in database.repeated_points().itertuples():
            if row.run_id in runs:
                runs[row.run_id].repeated.append((row.key, int(row.step), int(row.points)))
        for row in database.points([*LOSSES, FINAL]).itertuples():
            if row.run_id not in runs:
                continue
            if row.key == FINAL:
                runs[row.run_id].loss = float(row.value)
            else:
                runs[row.run_id].curves.setdefault(row.key, {})[int(row.step)] = float(row.value)
        for row in database.replica_losses().itertuples():
            if row.run_id in runs:
                runs[row.run_id].replica_losses |= _losses({row.key: row.value})
    return list(runs.values())


def _with_history(api: Any, run: Any, sweep: str) -> RecordedRun:
    tags = dict(run.data.tags)
    recorded = RecordedRun(run_id=run.info.run_id, sweep=sweep, key=tags[KEY_TAG], tags=tags)
    for name in run.data.metrics:
        history = api.get_metric_history(run.info.run_id, name)
        recorded.points += len(history)
        counts = Counter(point.step for point in history)
        recorded.repeated += [(name, step, count) for step, count in sorted(counts.items()) if count > 1]
        if name in LOSSES:
            recorded.curves[name] = {point.step: point.value for point in history}
    recorded.loss = run.data.metrics.get(FINAL)
    recorded.replica_losses = _losses(run.data.metrics)
    return recorded


def _losses(metrics: Mapping[str, float]) -> dict[int, float]:
    """The final losses of replicas among metrics."""
    return {replica: own[FINAL] for replica, own in numbers_of(metrics).items() if FINAL in own}
