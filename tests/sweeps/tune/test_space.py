"""Points, ranges, and trials as the runs they stand for."""

from __future__ import annotations

import pytest

from scaling.errors import UserError
from sweeps.config.load import parse_config
from sweeps.plan.diff import snapshot
from sweeps.tune.space import Space
from tests.sweeps.tune.planted import CONFIG, FACTS, space_of


def refused(old: str, new: str) -> str:
    text = CONFIG.format(corpus="stdlib")
    assert old in text
    with pytest.raises(UserError) as error:
        Space.of(parse_config(text.replace(old, new), source="small.yaml"), "ar", FACTS)
    return str(error.value)


def test_a_trial_is_one_run_per_seed_with_its_settings_and_all_else_of_the_sweep():
    space = space_of(text="  weight_decay: [0.01, 1]\n  warmup_fraction: [0.02, 0.5]\n  seeds: [7, 8, 9]\n")
    settings = {"learning_rate": 0.02, "batch_size": 6, "warmup_fraction": 0.25, "weight_decay": 0.3}
    specs = space.specs(space.points[2], settings)
    assert [spec.seed for spec in specs] == [7, 8, 9]
    for spec in specs:
        assert (spec.size.name, spec.budget, spec.batch_size) == ("24x1", 4e9, 6)
        assert (spec.optimizer.learning_rate, spec.optimizer.weight_decay) == (0.02, 0.3)
        assert spec.optimizer.warmup_steps == int(0.25 * spec.steps)
        assert spec.evaluation.sequences == 8
    assert len({spec.tokens for spec in specs}) == 1


def test_replicas_are_part_of_each_run_and_their_seeds_are_counted():
    space = space_of(text="  seeds: [101, 105]\n  replicas: 4\n")
    specs = space.specs(space.points[0], dict(space.points[0].start))
    assert [spec.seeds for spec in specs] == [(101, 102, 103, 104), (105, 106, 107, 108)]
    assert space.rule.every_seed == tuple(range(101, 109))
    assert "with 2 replicas each use one twice" in refused("trials: 12", "replicas: 2")
    assert "tuning.seeds and seeds share 1" in refused("trials: 12", "seeds: 0\n  replicas: 2")


def test_ranges_are_factors_of_what_the_rules_give_at_each_point():
    for point in space_of().points:
        rate, batch = point.start["learning_rate"], point.start["batch_size"]
        low, high = point.ranges["learning_rate"]
        assert (low, high) == (pytest.approx(rate / 4, rel=1e-2), pytest.approx(rate * 4, rel=1e-2))
        assert point.ranges["batch_size"] == (batch / 2, batch * 2)


def test_the_first_trials_key_is_that_of_the_sweeps_own_run_with_another_seed():
    from dataclasses import replace

    from sweeps.plan.plan import plan_specs

    space = space_of()
    own = {(spec.size.name, spec.budget): spec for spec in plan_specs(space.config, FACTS, ("ar",))[0]}
    point = space.points[0]
    (spec, _) = space.specs(point, {"batch_size": point.start["batch_size"]})
    assert spec.key == replace(own["8x1", 1e9], seed=101).key


def test_tuning_is_no_part_of_the_sweep():
    text = CONFIG.format(corpus="stdlib")
    with_it, without = (
        parse_config(part, source="small.yaml") for part in (text, text.partition("tuning:")[0])
    )
    assert snapshot(with_it, "00") == snapshot(without, "00")


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "trials: 12",
            "learning_rate: [4, 0.25]",
            "learning_rate is [4, 0.25]; the second must be above the",
        ),
        (
            "trials: 12",
            "learning_rate: [2, 4]",
            "learning_rate is [2, 4]; the rule's own, 1, must lie inside",
        ),
        ("trials: 12", "warmup_fraction: [0.1, 0.9]", "warmup_fraction ends at 0.9; it must end by 0.5"),
        ("trials: 12", "weight_decay: [0.01, 0.05]", "leaves out the sweep's own, 0.1 for 8x1"),
        ("trials: 12", "batch: [0.99, 1.01]", "tuning.batch is a range of one batch of 8 sequences"),
        ("trials: 12", "seeds: [1, 2]", "tuning.seeds and seeds share 1"),
        ("trials: 12", "trails: 12", "unknown key 'trails' under 'tuning'; did you mean 'trials'?"),
        ("{1e9: [8x1, 16x1], 4e9: [24x1]}", "{}", "points is empty"),
        ("[8x1, 16x1]", "[8x1, 8x1]", "tuning.points names a size twice at one budget"),
        ("[8x1, 16x1]", "[9x1]", "unknown size '9x1'"),
        ("1e9: [8x1, 16x1]", "1e7: [16x1]", "the budget is too small for one optimizer step"),
    ],
)
def test_what_cannot_be_tried_is_one_sentence(old: str, new: str, sentence: str):
    assert sentence in refused(old, new)
