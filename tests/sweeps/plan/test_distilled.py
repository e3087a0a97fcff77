"""Distilled runs in a plan: beside those that they distil, which stay as they are."""

from __future__ import annotations

import pytest

from scaling.errors import UserError
from sweeps.plan import timing
from sweeps.plan.diff import snapshot
from sweeps.plan.plan import make_plan, plan_specs
from sweeps.plan.rows import spec_columns
from tests.sweeps.plan.test_plan import BYTES, CONFIG, config_of


@pytest.fixture(autouse=True)
def quick_machine(monkeypatch):
    """A machine that does 10 GFLOP/s at every shape: no measuring in tests."""
    speeds = lambda shapes, threads: dict.fromkeys(shapes, 1e10)  # noqa: E731
    monkeypatch.setattr(timing, "matmul_flops_per_s", speeds)
    monkeypatch.setattr(timing, "gpu_names", lambda: ())


DISTILLED = CONFIG + "distillation: {rounds: 2, steps_per_round: 30, batch_size: 4, sizes: [8x1, 24x1]}\n"


def test_distilled_runs_come_beside_those_that_they_distil() -> None:
    plain, _ = plan_specs(config_of(), BYTES, ["ar", "uniform"])
    specs, _ = plan_specs(config_of(DISTILLED), BYTES, ["ar", "uniform"])
    assert specs[: len(plain)] == plain, "the others stay as they are"
    distilled = specs[len(plain) :]
    parents = {spec.key: spec for spec in plain}
    assert len(distilled) == 2 * 3
    for spec in distilled:
        assert spec.distillation is not None
        parent = parents[spec.distillation.of]
        assert (parent.family, parent.size, parent.data) == ("uniform", spec.size, spec.data)
        assert spec.size.name in ("8x1", "24x1")
        assert (spec.steps, spec.optimizer.schedule, spec.optimizer.learning_rate) == (60, "constant", 6e-5)
        assert spec.budget == spec.training_flops()
    one = DISTILLED.replace("sizes: [8x1, 24x1]", "budgets: [3e9], last_step: 0.1")
    assert len(plan_specs(config_of(one), BYTES, ["uniform"])[0]) == 12 + 4
    assert plan_specs(config_of(DISTILLED), BYTES, ["ar"])[0] == plain[:12]


def test_their_columns_name_the_run_that_they_distil() -> None:
    plan = make_plan(config_of(DISTILLED), BYTES, ["uniform"])
    rows = [spec_columns(run.spec) for run in plan.runs]
    assert [row.get("distilled_from") for row in rows[:12]] == [None] * 12
    assert {row["distilled_from"] for row in rows[12:]} <= {row["key"] for row in rows[:12]}
    assert not any("learning-rate rule" in warning for warning in plan.warnings), (
        "they have a rate of their own"
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            DISTILLED.replace("24x1]}", "13x1]}").replace("8x1, 13x1", "13x1"),
            "distillation has no run to distil",
        ),
        (DISTILLED.replace(", uniform]", "]"), "distillation has no run to distil: it needs runs of family"),
        (DISTILLED.replace("rounds: 2", "rounds: 20"), "the time between student and teacher ends at 1024"),
        (DISTILLED + "training: {keep_weights: false}", "keep_weights is false, and 'distillation' needs"),
        (DISTILLED.replace("rounds: 2", "round: 2"), "round"),
    ],
)
def test_a_distillation_that_cannot_be_planned_is_refused(text: str, sentence: str) -> None:
    def planned() -> None:
        config = config_of(text)
        plan_specs(config, BYTES, [choice.name for choice in config.families])

    with pytest.raises(UserError, match=sentence):
        planned()


def test_a_finished_sweep_may_get_distilled_runs() -> None:
    assert snapshot(config_of(DISTILLED), "f") == snapshot(config_of(), "f")
