"""Seeds share processes as the config says, as the planner finds quickest, and as the ledger has them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling.errors import UserError
from scaling.spec import RunSpec
from sweeps.ledger.types import State
from sweeps.plan import memory, replicas
from sweeps.plan.plan import make_plan, plan_specs
from sweeps.pools.devices import GPUS
from sweeps.show.tables import console, plan_view
from tests.sweeps.plan.test_plan import BYTES, config_of, past_run, quick_machine

__all__ = ["quick_machine"]

GRID = """
name: try
families: [ar]
grid:
  budgets: [1e9, 3e9, 1e10]
  sizes: [8x1, 12x1, 16x1, 24x1]
{more}
context_length: 32
learning_rate: {{base: 3e-3}}
batch: {{base_tokens: 128}}
"""


def specs_of(more: str, past=(), top: str = "") -> list[RunSpec]:
    config = config_of(GRID.format(more=more) + top)
    return list(plan_specs(config, BYTES, ("ar",), past=past)[0])


def packing(specs, budget: float = 1e9, size: str = "8x1") -> list[tuple[int, ...]]:
    return [spec.seeds for spec in specs if (spec.budget, spec.size.name) == (budget, size)]


def in_ledger(spec: RunSpec, state: str = "finished"):
    run = past_run(spec, state, size=spec.size.name, budget=spec.budget, seed=spec.seed)
    return run._replace(replicas=spec.replicas)


# --- what the config says


def test_seeds_are_those_of_each_budget() -> None:
    specs = specs_of("  seeds: {1e9: [1, 2, 3], 3e9: [5, 6], 1e10: 7}")
    assert packing(specs) == [(1,), (2,), (3,)]
    assert packing(specs, 3e9) == [(5,), (6,)]
    assert packing(specs, 1e10) == [(7,)]


@pytest.mark.parametrize(
    ("more", "first", "second", "larger"),
    [
        ("  replicas: 1", [(1,), (2,), (3,), (4,), (7,)], [(1,), (2,)], None),
        ("  replicas: 2", [(1, 2), (3, 4), (7,)], [(1, 2)], None),
        ("  replicas: 3", [(1, 2, 3), (4,), (7,)], [(1, 2)], None),
        ("  replicas: {1e9: 4, 3e9: 1, 1e10: 1}", [(1, 2, 3, 4), (7,)], [(1,), (2,)], None),
        ("  replicas: {8x1: 4}", [(1, 2, 3, 4), (7,)], [(1, 2)], [(1,), (2,)]),
        ("  replicas: {1e9: {8x1: 4}, 3e9: 2, 1e10: 1}", [(1, 2, 3, 4), (7,)], [(1, 2)], [(1, 2)]),
    ],
)
def test_consecutive_seeds_share_a_process(more, first, second, larger) -> None:
    specs = specs_of("  seeds: {1e9: [1, 2, 3, 4, 7], 3e9: [1, 2], 1e10: [1]}\n" + more)
    assert packing(specs) == first
    assert packing(specs, 3e9) == second
    if larger is not None:
        assert packing(specs, 3e9, "16x1") == larger
    assert packing(specs, 1e10) == [(1,)]


@given(seeds=st.lists(st.integers(0, 12), min_size=1, max_size=8, unique=True), most=st.integers(1, 5))
def test_every_seed_is_trained_once_however_they_are_packed(seeds, most) -> None:
    base = specs_of("")[0]
    runs = replicas.stacked([replace(base, seed=seed) for seed in seeds], most)
    assert sorted(seed for run in runs for seed in run.seeds) == sorted(seeds)
    assert max(run.replicas for run in runs) <= most


def test_without_replicas_the_keys_are_those_of_separate_runs() -> None:
    plain, alone = (specs_of(more, top="seeds: [3, 1, 2]\n") for more in ("", "  replicas: 1"))
    assert [spec.key for spec in plain] == [spec.key for spec in alone]
    assert packing(plain) == [(3,), (1,), (2,)], "in the order of the config"
    together = specs_of("  replicas: 3", top="seeds: [3, 1, 2]\n")
    assert packing(together) == [(1, 2, 3)]
    assert not {spec.key for spec in together} & {spec.key for spec in plain}


@pytest.mark.parametrize(
    ("more", "top", "says"),
    [
        ("  replicas: 0", "", "grid.replicas: 0 is neither a number of networks, 1 or more, nor 'auto'"),
        ("  replicas: {8x1: many}", "", "'many' is neither a number"),
        ("  replicas: {1e9: 2}", "", "replicas by budget must have the same budgets as 'budgets'; 3e\\+09"),
        ("  replicas: {1e9: 2, 8x1: 2}", "", "its keys must be all budgets or all names of sizes"),
        ("  replicas: {9x9: 2}", "", "unknown size '9x9'"),
        ("  seeds: {1e9: [1]}", "", "seeds by budget must have the same budgets"),
        ("  seeds: [1, 2]", "", "it must be a mapping from each budget to its seeds"),
        ("  seeds: {1e9: 1, 3e9: 1, 1e10: 1}", "seeds: 2\n", "seeds and grid.seeds are both given"),
        ("  replicas: 2", "seeds: [1, 2]\nlabels: {of: clusters, classes: 4}\n", "trains one network"),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(more, top, says) -> None:
    with pytest.raises(UserError, match=says):
        specs_of(more, top=top)


# --- what the ledger has


def test_runs_of_the_ledger_keep_their_seeds_and_the_others_are_packed_anew() -> None:
    seeds = "  seeds: {1e9: [1, 2, 3, 4, 5], 3e9: [1], 1e10: [1]}\n"
    done = [spec for spec in specs_of(seeds + "  replicas: 2") if spec.budget == 1e9][:2]
    assert packing(done) == [(1, 2), (3, 4)]
    past = [in_ledger(done[0]), in_ledger(done[1], "planned")]
    assert packing(specs_of(seeds + "  replicas: 5", past)) == [(1, 2), (3, 4), (5,)]
    assert packing(specs_of(seeds, past)) == [(1, 2), (3, 4), (5,)], "and without the key, too"
    other_rate = [replace(run, optimizer=replace(run.optimizer, learning_rate=0.5)) for run in done]
    assert packing(specs_of(seeds + "  replicas: 5", map(in_ledger, other_rate))) == [(1, 2, 3, 4, 5)]


@pytest.mark.parametrize("state", ["failed", "unschedulable"])
def test_seeds_of_a_run_that_failed_are_packed_anew(state) -> None:
    seeds = "  seeds: {1e9: [1, 2, 3, 4], 3e9: [1], 1e10: [1]}\n"
    failed = specs_of(seeds + "  replicas: 4")[0]
    assert packing([failed]) == [(1, 2, 3, 4)]
    assert packing(specs_of(seeds + "  replicas: 2", [in_ledger(failed, state)])) == [(1, 2), (3, 4)]


def test_a_run_with_seeds_beyond_the_config_is_not_part_of_it() -> None:
    four = specs_of("  replicas: 4", top="seeds: [1, 2, 3, 4]\n")[0]
    assert packing(specs_of("  replicas: 2", [in_ledger(four)], top="seeds: [1, 2]\n")) == [(1, 2)]


def test_a_seed_that_the_ledger_has_twice_counts_once_and_finished_runs_first() -> None:
    seeds = "seeds: [1, 2]\n"
    (both, *_), (one, *_) = specs_of("  replicas: 2", top=seeds), specs_of("", top=seeds)
    past = [in_ledger(both, "running"), in_ledger(one)]
    assert packing(specs_of("  replicas: 2", past, top=seeds)) == [(1,), (2,)]


# --- what the planner chooses


def by_seed(alone_s: float, more_s: float):
    """Seconds of a run whose first network takes alone_s and each further one more_s."""
    return lambda runs: [alone_s + more_s * (run.replicas - 1) for run in runs]


def cell(count: int) -> list[RunSpec]:
    base = specs_of("")[0]
    return [replace(base, seed=seed) for seed in range(1, count + 1)]


def choose(counts, seconds, slots: int = 1, memory_bytes: float = 1e12) -> list[int]:
    return replicas.quickest([cell(n) for n in counts], seconds, slots=slots, memory_bytes=memory_bytes)


def test_seeds_share_a_process_where_that_saves_time() -> None:
    assert choose([4], by_seed(1.0, 0.4)) == [4]
    assert choose([4], by_seed(1.0, 1.0)) == [1]
    assert choose([4], by_seed(1.0, 0.98)) == [1], "not worth its memory"
    assert choose([1, 3], by_seed(1.0, 0.4)) == [1, 3]


def test_the_sweep_as_a_whole_ends_soonest() -> None:
    # 4 seeds take 2.2 s together; two slots are done with pairs after 1.4 s
    assert choose([4], by_seed(1.0, 0.4), slots=2) == [2]
    assert choose([4, 4, 4, 4], by_seed(1.0, 0.4), slots=2) == [4, 4, 4, 4]
    assert choose([4], by_seed(1.0, 0.4), slots=100) == [1]


def test_replicas_are_chosen_within_memory() -> None:
    needed = memory.memory_bytes(replace(cell(1)[0], replicas=2))
    assert choose([4], by_seed(1.0, 0.1), memory_bytes=needed) == [2]
    assert choose([4], by_seed(1.0, 0.1), memory_bytes=needed - 1) == [1]


def test_auto_stacks_small_networks_and_stays_as_it_was_in_the_ledger() -> None:
    config = config_of(GRID.format(more="  replicas: auto") + "seeds: [1, 2, 3, 4]\n")
    plan = make_plan(config, BYTES, ("ar",))
    chosen = {run.spec.replicas for run in plan.runs}
    assert max(chosen) == 4
    assert sum(run.spec.replicas for run in plan.runs) == 12 * 4
    past = [in_ledger(run.spec, "planned") for run in plan.runs]
    assert make_plan(config, BYTES, ("ar",), past=past, slots=1000).keys == plan.keys
    wide = make_plan(config, BYTES, ("ar",), slots=1000)
    assert max(run.expected_s for run in wide.runs) < max(run.expected_s for run in plan.runs)


def test_networks_to_be_distilled_or_with_labels_of_clusters_stay_alone() -> None:
    text = GRID.replace("[ar]", "[ar, uniform]").format(more="  replicas: auto")
    config = config_of(text + "seeds: [1, 2]\ndistillation: {}\n")
    plan = make_plan(config, BYTES, ("ar", "uniform"))
    assert {run.spec.replicas for run in plan.of_family("uniform")} == {1}
    assert 2 in {run.spec.replicas for run in plan.of_family("ar")}
    config = config_of(text.replace("auto", "2") + "seeds: [1, 2]\ndistillation: {}\n")
    with pytest.raises(UserError, match=r"try.yaml: distillation: replicas is 2, but a run with a distill"):
        make_plan(config, BYTES, ("uniform",))


# --- what they cost


def test_memory_of_replicas_that_do_not_fit_is_told_with_what_would_fit() -> None:
    config = config_of(GRID.format(more="  replicas: 4") + "seeds: [1, 2, 3, 4]\n")
    largest = replace(specs_of("")[-1], replicas=3)
    room = memory.memory_bytes(largest, 1) * (1 + 1e-9)
    assert largest.size.name == "24x1"
    with pytest.raises(UserError, match=r"grid.replicas: 4 networks of ar 24x1 need \d+ MB .*; 3 would fit"):
        make_plan(config, BYTES, ("ar",), memory_bytes=room)
    with pytest.raises(UserError, match="not even one would fit"):
        make_plan(config, BYTES, ("ar",), memory_bytes=1e6)
    assert make_plan(config, BYTES, ("ar",), memory_bytes=2 * room).runs


def test_memory_on_a_gpu_is_that_of_its_kind_and_share() -> None:
    text = GRID.format(more="  replicas: 2") + "seeds: [1, 2]\nresources: {gpus: %s}\n"
    spec = replace(specs_of("")[-1], replicas=2)
    tiny = replace(GPUS["T4"], memory_bytes=1.5 * memory.memory_bytes(spec, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sweeps.plan.plan.gpu", lambda kind: tiny)
        assert make_plan(config_of(text % 1), BYTES, ("ar",), kind="T4").runs
        with pytest.raises(UserError, match=r"(not even one|1) would fit"):
            make_plan(config_of(text % 0.5), BYTES, ("ar",), kind="T4")


def test_memory_and_flops_count_every_replica() -> None:
    one = specs_of("")[0]
    four = replace(one, replicas=4)
    activations = one.batch_size * memory.sequence_bytes(one)
    assert memory.sequence_bytes(four) == 4 * memory.sequence_bytes(one)
    more = memory.memory_bytes(four) - memory.memory_bytes(one)
    assert more == pytest.approx(3 * (activations + 16 * one.param_count()))
    assert memory.size_key(four) != memory.size_key(one)
    config = config_of(GRID.format(more="  replicas: 4") + "seeds: [1, 2, 3, 4]\n")
    plan = make_plan(config, BYTES, ("ar",))
    alone = make_plan(config_of(GRID.format(more="") + "seeds: [1, 2, 3, 4]\n"), BYTES, ("ar",))

    def flops(plan) -> float:
        return sum(plan.entry(run, ".").flops for run in plan.runs)

    assert flops(plan) == pytest.approx(flops(alone))
    assert sum(run.expected_s for run in plan.runs) < 0.8 * sum(run.expected_s for run in alone.runs)


def test_the_plan_shows_replicas_and_networks(capsys) -> None:
    config = config_of(GRID.format(more="  replicas: 4") + "seeds: [1, 2, 3, 4]\n")
    console().print(plan_view(make_plan(config, BYTES, ("ar",))))
    text = capsys.readouterr().out
    assert "8x1 #1-4" in text
    assert "12 runs of 48 networks, 0 done, 12 to do: 2.2e11 FLOPs" in text
    console().print(plan_view(make_plan(config_of(GRID.format(more="")), BYTES, ("ar",))))
    assert "replicas" not in capsys.readouterr().out


def test_states_of_the_ledger_are_those_of_the_packed_runs() -> None:
    config = config_of(GRID.format(more="  replicas: 2") + "seeds: [1, 2]\n")
    done = plan_specs(config, BYTES, ("ar",))[0][0]
    plan = make_plan(config, BYTES, ("ar",), past=[in_ledger(done)])
    assert [run.state for run in plan.runs].count(State.FINISHED) == 1
    assert len(plan.to_do) == 11
