"""Optuna: proposals for the next trials of a point, and the studies as a file for its dashboard.

A study is rebuilt from the ledger's trials each time, and a proposal depends on those and on a seed alone, so
a kill loses nothing and the same losses give the same proposals on every machine.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy.pool import NullPool

from scaling.errors import UserError
from sweeps.tune.space import Point, Settings
from sweeps.tune.trials import Trial, Verdict

RANDOM_TRIALS = 8
"""Trials of a point before the sampler uses their losses."""


def optuna_module() -> Any:
    """The package, which is optional; UserError with the line that installs it."""
    try:
        import optuna
    except ImportError:
        raise UserError(
            "scaling tune needs the package 'optuna'; install it with: pip install -e '.[tune]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def proposals(point: Point, trials: Sequence[Trial], count: int, seed: Sequence[int]) -> list[Settings]:
    """The settings of the next `count` trials of a point; the first of all are those of the sweep's rules.

    trials: those of the point so far. seed: numbers that name the study and the point.
    """
    import numpy as np

    optuna = optuna_module()
    state = np.random.SeedSequence([*seed, len(trials)]).generate_state(1)
    sampler = optuna.samplers.TPESampler(
        seed=int(state[0]), n_startup_trials=RANDOM_TRIALS, multivariate=True, constant_liar=True
    )
    study = optuna.create_study(sampler=sampler)
    study.add_trials([_frozen(optuna, point, trial) for trial in trials])
    first = [] if trials else [point.rounded(point.start)]
    distributions = _distributions(optuna, point)
    fixed = {name: low for name, (low, high) in point.ranges.items() if low == high}
    rest = [study.ask(distributions).params for _ in range(count - len(first))]
    return [*first, *(point.rounded({**fixed, **settings}) for settings in rest)]


def write_studies(path: Path, studies: Mapping[str, tuple[Point, Sequence[Trial]]]) -> None:
    """Every study, by name, as an SQLite file that optuna-dashboard opens; the file is whole or not there."""
    optuna = optuna_module()
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(temporary)
        connection.execute("PRAGMA synchronous = OFF")  # the ledger is durable, this is made from it
        connection.execute("PRAGMA journal_mode = OFF")
        return connection

    options = {"creator": connect, "poolclass": NullPool}
    storage = optuna.storages.RDBStorage(f"sqlite:///{temporary}", engine_kwargs=options)
    try:
        for name, (point, trials) in studies.items():
            study = optuna.create_study(storage=storage, study_name=name)
            study.add_trials([_frozen(optuna, point, trial) for trial in trials])
    finally:
        storage.remove_session()
        storage.engine.dispose()
    os.replace(temporary, path)


def _distributions(optuna: Any, point: Point) -> dict[str, Any]:
    kinds = optuna.distributions
    return {
        name: kinds.IntDistribution(int(low), int(high), log=True)
        if name == "batch_size"
        else kinds.FloatDistribution(low, high, log=True)
        for name, (low, high) in point.ranges.items()
        if low < high
    }


def _frozen(optuna: Any, point: Point, trial: Trial) -> Any:
    """A trial as Optuna keeps it.

    A diverged one is complete, with the loss of a network that knows nothing: told as failed, it would teach
    the sampler nothing, and the sampler would go there again.
    """
    states = optuna.trial.TrialState
    state = {
        Verdict.DONE: states.COMPLETE,
        Verdict.DIVERGED: states.COMPLETE,
        Verdict.FAILED: states.FAIL,
        Verdict.OPEN: states.RUNNING,
    }[trial.verdict]
    distributions = _distributions(optuna, point)
    params: dict[str, float | int] = {name: trial.settings[name] for name in distributions}
    if "batch_size" in params:
        params["batch_size"] = int(params["batch_size"])
    return optuna.trial.create_trial(
        state=state, value=trial.value if state == states.COMPLETE else None, params=params,
        distributions=distributions, user_attrs=_attributes(trial),
    )  # fmt: skip


def _attributes(trial: Trial) -> dict[str, Any]:
    return {"runs": list(trial.keys), "diverged": trial.verdict == Verdict.DIVERGED, "losses": trial.losses}


def verdicts(trials: Iterable[Trial]) -> dict[str, int]:
    """Trials by verdict, in words."""
    listed = [str(trial.verdict) for trial in trials]
    return {name: listed.count(name) for name in Verdict if name in listed}
