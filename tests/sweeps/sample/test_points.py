"""Which runs, samplers, steps and judge: the choice, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scaling.errors import UserError
from scaling.families import FAMILIES, family_class
from sweeps.ledger.types import Needs, Run, State
from sweeps.sample.judging import Judge
from sweeps.sample.points import Point, Setting, best_runs, choose_samplers, ladder, plan_points
from tests.sweeps.simulation import SPEC

SETTING = Setting(length=8, judge=Judge(name="j"))


def run(family: str, budget: float, loss: float, *, state: State = State.FINISHED, **values: object) -> Run:
    spec = replace(SPEC, family=family).to_dict()
    key = f"{family[:2]}{budget:.0e}{loss}0123456789abcdef"[:16]
    numbers = {"size": "4k", "params": 1e3, "seed": 0}
    return Run(key=key, family=family, state=state, attempt=1, changed=0, budget=budget, loss=loss, spec=spec,
               **(numbers | values))  # fmt: skip


RUNS = [
    run("ar", 1e9, 3.0), run("ar", 1e9, 2.9), run("ar", 2e9, 2.5), run("ar", 2e9, 2.6), run("ar", 2e9, 2.7),
    run("masked", 1e9, 3.3), run("masked", 2e9, float("nan")), run("masked", 2e9, 3.1),
    run("masked", 2e9, 3.0, state=State.RUNNING),
]  # fmt: skip


def test_labelled_and_distilled_runs_are_never_the_best() -> None:
    other = run("masked", 1e9, 0.1)
    others = [other._replace(spec=other.spec | {"labels": {"of": "kind"}}),
              other._replace(spec=other.spec | {"distillation": {"of": "1"}})]  # fmt: skip
    assert best_runs([*others, *RUNS]) == best_runs(RUNS)


def test_of_each_family_and_budget_the_lowest_loss_of_a_finished_run() -> None:
    best = [(each.family, each.budget, each.loss) for each in best_runs(RUNS)]
    assert best == [("ar", 1e9, 2.9), ("ar", 2e9, 2.5), ("masked", 1e9, 3.3), ("masked", 2e9, 3.1)]


class TestSamplers:
    def test_the_usual_one_unless_some_are_named(self) -> None:
        usual = {family: next(iter(family_class(family).samplers)) for family in ("ar", "masked")}
        assert choose_samplers((), RUNS) == {family: (name,) for family, name in usual.items()}
        named = choose_samplers(["first_hitting", "ancestral"], RUNS)
        assert named == {"ar": (usual["ar"],), "masked": ("ancestral", "first_hitting")}
        assert choose_samplers(["all"], RUNS)["masked"] == tuple(family_class("masked").samplers)

    def test_a_name_that_no_family_has(self) -> None:
        with pytest.raises(
            UserError, match=r"--sampler first_hiting: no sampled family has it.*first_hitting"
        ):
            choose_samplers(["first_hiting"], RUNS)


class TestLadder:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_every_family_can_use_its_own(self, family: str) -> None:
        own = family_class(family)(vocab_size=11, **({"block_size": 4} if family == "block" else {}))
        steps = ladder(own, 12, ())
        assert steps == own.step_ladder(12)
        assert steps[-1] == own.step_unit(12)
        assert list(steps) == sorted(set(steps))

    def test_powers_of_two_up_to_a_step_a_token(self) -> None:
        assert family_class("masked")(vocab_size=11).step_ladder(12) == (1, 2, 4, 8, 12)
        assert family_class("masked")(vocab_size=11).step_ladder(16) == (1, 2, 4, 8, 16)
        assert family_class("block")(vocab_size=11, block_size=4).step_ladder(12) == (1, 2, 4)
        assert family_class("ar")(vocab_size=11).step_ladder(12) == (12,)

    def test_named_steps_replace_it_where_there_is_a_choice(self) -> None:
        assert ladder(family_class("masked")(vocab_size=11), 12, (5, 3, 5)) == (3, 5)
        assert ladder(family_class("ar")(vocab_size=11), 12, (5, 3)) == (12,)


class TestPoints:
    def test_every_run_sampler_and_step_once_the_longest_first(self) -> None:
        best = best_runs(RUNS)
        points = plan_points(best, choose_samplers(["all"], best), (2, 4), SETTING)
        masked = len(family_class("masked").samplers)
        assert len(points) == len({point.key for point in points}) == 2 + 2 * 2 * masked
        assert [point.calls for point in points] == sorted((p.calls for p in points), reverse=True)

    def test_its_key_is_what_determines_its_numbers(self) -> None:
        point = Point(run=RUNS[5], sampler="ancestral", steps=4, setting=SETTING)
        moved = replace(SETTING, judge=Judge(name="j", folder="/elsewhere"))
        assert point.key == replace(point, setting=moved).key
        others = [
            replace(point, steps=5), replace(point, sampler="first_hitting"), replace(point, run=RUNS[6]),
            replace(point, setting=replace(SETTING, seed=1)),
            replace(point, setting=replace(SETTING, judge=Judge(name="k"))),
            replace(point, setting=replace(SETTING, rule="first_eos")),
        ]  # fmt: skip
        assert len({point.key, *(other.key for other in others)}) == 7

    def test_calls_of_a_text(self) -> None:
        block = run("block", 1e9, 3.0)
        block = block._replace(spec=block.spec | {"family_options": {"block_size": 4}})
        assert Point(run=RUNS[5], sampler="ancestral", steps=4, setting=SETTING).calls == 4
        assert Point(run=block, sampler="semi_autoregressive", steps=3, setting=SETTING).calls == 6

    def test_a_shared_gpu_is_taken_whole(self) -> None:
        shared = run("masked", 1e9, 3.0, needs=Needs(cpus=2.0, gpus=0.25))
        needs = Point(run=shared, sampler="ancestral", steps=4, setting=SETTING).needs
        assert (needs.cpus, needs.gpus) == (2.0, 1.0)
