"""Trials from the ledger: how they ended, and the table that laws are fitted to."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeps.ledger.ledger import Ledger
from sweeps.ledger.types import Entry, State
from sweeps.tune.trials import Verdict, add_trials, check_space, read_trials, trial_table
from tests.sweeps.tune.planted import space_of

SPACE = space_of()
POINT = SPACE.points[0]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "s" / "ledger") as opened:
        check_space(opened, SPACE, "s")
        yield opened


def settings(rate: float) -> dict[str, float]:
    return {"learning_rate": rate, "batch_size": 8.0}


def test_replicas_are_networks_of_their_own_and_one_that_diverged_is_the_trials_end(tmp_path: Path) -> None:
    space = space_of(text="  seeds: 101\n  replicas: 2\n")
    with Ledger(tmp_path / "r" / "ledger") as ledger:
        check_space(ledger, space, "r")
        for rate, bounds in ((0.01, [2.0, 2.4]), (0.02, [2.0, None])):
            add_trials(ledger, space, [(POINT.name, settings(rate))])
            (spec,) = space.specs(POINT, settings(rate))
            ledger.register([Entry(spec=spec, dataset="-", predicted_s=1.0)])
            with ledger.driving():
                claim = ledger.claim(spec.key)
                assert claim is not None
                replicas = [
                    {"seed": seed, "bound": bound} for seed, bound in zip((101, 102), bounds, strict=True)
                ]
                result = {"bound": 2.0, "key": spec.key, "replicas": replicas}
                ledger.end(claim, State.FINISHED, sentence="", result=result)
        first, second = read_trials(ledger, space)
        table = trial_table(ledger, space)
    assert (first.verdict, first.value) == (Verdict.DONE, pytest.approx(2.2))
    assert second.verdict == Verdict.DIVERGED
    assert table["seed"].tolist() == [101, 102] * 2
    assert table["loss"].tolist()[:2] == [2.0, 2.4]


def end(ledger: Ledger, rate: float, *ends: tuple[State, float | None]) -> None:
    """The runs of a trial with these states and losses."""
    add_trials(ledger, SPACE, [(POINT.name, settings(rate))])
    for spec, (state, loss) in zip(SPACE.specs(POINT, settings(rate)), ends, strict=True):
        ledger.register([Entry(spec=spec, dataset="-", predicted_s=1.0)])
        if state != State.PLANNED:
            with ledger.driving():
                claim = ledger.claim(spec.key)
                assert claim is not None
                result = {} if loss is None else {"bound": loss, "key": spec.key}
                ledger.end(claim, state, sentence="", result=result)


def test_a_trial_ends_as_its_runs_do(ledger: Ledger) -> None:
    fine, lost = (State.FINISHED, 2.0), (State.FAILED, None)
    end(ledger, 0.01, fine, (State.FINISHED, 3.0))
    end(ledger, 0.02, fine, (State.DIVERGED, None))
    end(ledger, 0.03, fine, lost)
    end(ledger, 0.04, fine, (State.PLANNED, None))
    trials = read_trials(ledger, SPACE)
    assert [trial.verdict for trial in trials] == [
        Verdict.DONE,
        Verdict.DIVERGED,
        Verdict.FAILED,
        Verdict.OPEN,
    ]
    assert trials[0].value == 2.5
    assert trials[1].value == pytest.approx(math.log(257))
    table = trial_table(ledger, SPACE)
    assert table["trial"].tolist() == [0, 0, 1, 1]
    assert table["loss"].tolist()[:2] == [2.0, 3.0]
    assert table["loss"].isna().tolist() == [False, False, True, True]
    assert table["seed"].tolist() == [101, 102, 101, 102]
    assert set(table["batch"]) == {256}


def test_a_repeated_point_takes_the_ledgers_result_and_is_no_new_trial_of_the_law(ledger: Ledger) -> None:
    fine = (State.FINISHED, 2.0)
    end(ledger, 0.01, fine, fine)
    add_trials(ledger, SPACE, [(POINT.name, settings(0.01))])
    assert [trial.verdict for trial in read_trials(ledger, SPACE)] == [Verdict.DONE, Verdict.DONE]
    assert len(trial_table(ledger, SPACE)) == 2
