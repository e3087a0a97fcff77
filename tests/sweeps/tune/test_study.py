"""Proposals of Optuna: a function of the trials and a seed, inside the ranges."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from sweeps.tune.study import proposals, write_studies
from sweeps.tune.trials import Trial, Verdict
from tests.sweeps.tune.planted import space_of

optuna = pytest.importorskip("optuna")
MORE = "  weight_decay: [0.01, 1]\n  warmup_fraction: [0.02, 0.9e0]\n".replace("0.9e0", "0.5")


def trial(settings: dict[str, float], value: float, verdict: Verdict = Verdict.DONE) -> Trial:
    done = verdict == Verdict.DONE
    return Trial(
        point="8x1 at 1.0e9",
        settings=settings,
        keys=("a",),
        verdict=verdict,
        losses=[value] * done,
        value=value,
    )


def generations(count: int, seed: tuple[int, ...] = (0, 0)) -> list[Trial]:
    """Trials whose best rate is 0.01."""
    point, trials = space_of(text=MORE).points[0], list[Trial]()
    for _ in range(count):
        new = proposals(point, trials, 4, seed)
        trials += [trial(one, 2 + math.log(one["learning_rate"] / 0.01) ** 2) for one in new]
    return trials


def test_the_first_trial_has_the_settings_of_the_sweeps_own_rules():
    (first,) = proposals(space_of().points[0], [], 1, (0,))
    assert first == {"learning_rate": pytest.approx(1e-2 * (4057 / 1e4) ** -0.5, rel=1e-2), "batch_size": 8}


def test_the_same_losses_and_seed_give_the_same_proposals_and_another_seed_gives_others():
    assert generations(4) == generations(4)
    assert [one.settings for one in generations(2)] != [one.settings for one in generations(2, (0, 1))]


def test_proposals_are_whole_short_numbers_inside_their_ranges():
    point = space_of(text=MORE).points[0]
    for one in generations(4):
        assert one.settings.keys() == point.ranges.keys()
        for name, (low, high) in point.ranges.items():
            assert low <= one.settings[name] <= high
            assert one.settings[name] == float(f"{one.settings[name]:.3g}")
        assert one.settings["batch_size"] == int(one.settings["batch_size"])


def test_later_proposals_come_nearer_to_the_best_than_random_ones():
    distances = [abs(math.log(one.settings["learning_rate"] / 0.01)) for one in generations(10)]
    assert sum(distances[-16:]) / 16 < 0.7 * sum(distances[1:8]) / 7


def test_a_diverged_trial_is_told_the_loss_of_a_network_that_knows_nothing_and_a_failed_one_none(
    tmp_path: Path,
):
    point = space_of().points[0]
    settings = point.rounded(point.start)
    ignorance = math.log(257)
    trials = [
        trial(settings, 2.5),
        trial(settings, ignorance, Verdict.DIVERGED),
        trial(settings, math.nan, Verdict.FAILED),
        trial(settings, math.nan, Verdict.OPEN),
    ]
    path = tmp_path / "ar" / "optuna.db"
    for _ in range(2):  # made anew each time
        write_studies(path, {"ar 8x1": (point, trials)})
    study = optuna.load_study(study_name="ar 8x1", storage=f"sqlite:///{path}")
    assert [one.value for one in study.trials] == [2.5, ignorance, None, None]
    assert [one.state.name for one in study.trials] == ["COMPLETE", "COMPLETE", "FAIL", "RUNNING"]
    assert [one.user_attrs["diverged"] for one in study.trials] == [False, True, False, False]
    assert study.best_trial.number == 0
    assert [file.name for file in path.parent.iterdir()] == ["optuna.db"]
    assert len(proposals(point, trials, 3, (0,))) == 3
