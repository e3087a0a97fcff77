"""Plans: budgets met to one sequence, the published study's step counts, warnings, meaningful keys."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.errors import UserError
from scaling.flops import forward_flops
from scaling.spec import RunSpec
from sweeps.attempt.worker import device_name
from sweeps.config.load import SHIPPED, load_config, parse_config, shipped_names
from sweeps.config.sizes import available_sizes, rule_sizes, size_params, window_sizes
from sweeps.ledger.types import Needs, Run, State
from sweeps.plan import timing
from sweeps.plan.plan import DataFacts, choose_families, make_plan, plan_specs
from sweeps.show.tables import console, plan_view

BYTES = DataFacts(
    corpus="stdlib",
    tokenizer="bytes",
    fingerprint="0123456789abcdef",
    num_token_ids=256,
    train_tokens=30_000_000,
    heldout_tokens=1_000_000,
)
CONFIG = """
name: try
families: [ar, masked: {objective: low_variance}, uniform]
grid:
  budgets: [1e9, 3e9, 1e10]
  sizes: [8x1, 12x1, 16x1, 24x1]
context_length: 32
learning_rate: {base: 3e-3, at_params: 1e4, exponent: -0.5}
batch: {base_tokens: 128, at_flops: 1e9, exponent: 0.3}
"""


@pytest.fixture(autouse=True)
def quick_machine(monkeypatch):
    """A machine that does 10 GFLOP/s at every shape: no measuring in tests."""
    speeds = lambda shapes, threads: dict.fromkeys(shapes, 1e10)  # noqa: E731
    monkeypatch.setattr(timing, "matmul_flops_per_s", speeds)
    monkeypatch.setattr(timing, "gpu_names", lambda: ())


def config_of(text: str = CONFIG):
    return parse_config(text, source="try.yaml")


def facts_for(config) -> DataFacts:
    """Data facts that stand in for the config's corpus."""
    ids = config.data.num_token_ids or {"bytes": 256, "bpe:4096": 4096}[config.data.tokenizer]
    return replace(BYTES, corpus=config.data.corpus, tokenizer=config.data.tokenizer, num_token_ids=ids)


def past_run(spec: RunSpec, state: str = "finished", **values) -> Run:
    """What the ledger has of a run that took 2 s on this machine's processor."""
    columns = dict.fromkeys(("owner", "traceback", "started", "ended", "host", "device"))
    columns |= {"worked_s": 2.0, "device": device_name("cpu"), **values}
    return Run(
        key=spec.key,
        family=spec.family,
        spec=spec.to_dict(),
        columns={},
        predicted_s=1.0,
        needs=columns.pop("needs", Needs()),
        state=State(state),
        attempt=1,
        sentence="",
        changed=0.0,
        **columns,
    )


def plan_of(text: str = CONFIG, data: DataFacts = BYTES, families=("uniform",), **more):
    return make_plan(config_of(text), data, families, **more)


# --- every shipped config


@pytest.mark.parametrize("name", ["desk", "evening", "smoke", "gpu", "cluster", "sahoo2026"])
def test_every_shipped_config_plans(name):
    assert name in shipped_names()
    config = load_config(SHIPPED / f"{name}.yaml")
    plan = make_plan(config, facts_for(config), choose_families(config))
    assert len(plan.runs) == len(plan.keys)
    for family in plan.families:
        budgets = {run.spec.budget for run in plan.of_family(family)}
        assert len(budgets) >= 3
        for budget in budgets:
            sizes = [r.spec.size.name for r in plan.of_family(family) if r.spec.budget == budget]
            assert len(set(sizes)) == len(sizes) >= 4
    for run in plan.runs:
        short_by = run.spec.budget - run.spec.training_flops()
        assert 0 <= short_by < run.spec.training_flops() / run.spec.sequences
        assert run.spec == RunSpec.from_dict(run.spec.to_dict())
        assert run.expected_s > 0
        assert run.memory_bytes > 0


def test_desk_spans_thirty_in_compute_with_six_sizes():
    for name in ("desk", "evening"):
        config = load_config(SHIPPED / f"{name}.yaml")
        assert len(config.grid.budgets) >= 4
        assert max(config.grid.budgets) / min(config.grid.budgets) >= 30
        assert 20 <= len(make_plan(config, facts_for(config), ("ar",)).runs) <= 24


# Full steps of 256 sequences at 6e18 and 1e20: arXiv 2602.15014's code, flops_to_max_steps on its 28 files.
PUBLISHED_STEPS = {
    "6M": (147333, 2455556),
    "19M": (71938, 1198971),
    "34M": (45802, 763371),
    "48M": (35073, 584557),
    "66M": (27334, 455579),
    "85M": (22554, 375909),
    "75M": (19203, 320062),
    "113M": (17383, 289731),
    "142M": (14559, 242656),
    "170M": (12524, 208741),
    "180M": (11642, 194039),
    "206M": (10414, 173581),
    "231M": (9421, 157026),
    "268M": (8134, 135581),
    "302M": (7345, 122422),
    "336M": (6695, 111584),
    "472M": (4826, 80440),
    "551M": (4199, 69985),
    "571M": (4027, 67117),
    "629M": (3716, 61936),
    "666M": (3499, 58321),
    "761M": (3093, 51563),
    "831M": (2836, 47271),
    "944M": (2517, 41966),
    "1233M": (1940, 32345),
    "1476M": (1625, 27089),
    "1678M": (1439, 23999),
    "2121M": (1147, 19133),
}


@pytest.mark.parametrize("family", ["ar", "masked", "uniform"])
def test_published_study_has_the_published_number_of_steps(family):
    config = load_config(SHIPPED / "sahoo2026.yaml")
    grid = config.grid.model_copy(update={"budgets": (6e18, 1e20), "sizes": tuple(PUBLISHED_STEPS)})
    config = config.model_copy(update={"grid": grid, "overrides": {}})
    specs, _ = plan_specs(config, facts_for(config), (family,))
    assert len(specs) == 56
    for spec in specs:
        assert spec.batch_size == 256
        expected = PUBLISHED_STEPS[spec.size.name][spec.budget == 1e20]
        # The published FLOP counts are rounded to 3e-5; the count of full steps is cut off to a whole number.
        assert abs(spec.sequences // 256 - expected) <= 1 + 3.1e-5 * expected, spec.size.name
    smallest = specs[0]
    assert (smallest.size.name, smallest.sequences // 256) == ("6M", 147333)


def test_published_optimizer():
    config = load_config(SHIPPED / "sahoo2026.yaml")
    plan = make_plan(config, facts_for(config), ("uniform",))
    for run in plan.runs:
        assert run.spec.optimizer.learning_rate == 2e-4
        assert run.spec.optimizer.warmup_steps == max(run.spec.steps // 100, 100)


# --- specs


@settings(max_examples=30, deadline=None)
@given(budget=st.floats(2e8, 1e13), family=st.sampled_from(["ar", "masked", "uniform"]))
def test_budget_is_met_to_within_one_sequence(budget, family):
    text = CONFIG.replace("[1e9, 3e9, 1e10]", f"[{budget!r}]").replace("base_tokens: 128", "base_tokens: 32")
    for run in plan_of(text, families=(family,)).runs:
        spec = run.spec
        per_sequence = 3 * forward_flops(
            spec.size, spec.vocab_size, 32, "exact", work=spec.build_family().work(32)
        )
        assert 0 <= budget - spec.training_flops() <= per_sequence * (1 + 1e-9)


def test_keys_do_not_depend_on_what_does_not_change_a_run():
    keys = plan_of().keys
    assert plan_of(CONFIG.replace("name: try", "name: other")).keys == keys
    assert plan_of(CONFIG + "resources: {cpus: 2}\n").keys == keys
    assert plan_of(CONFIG + "evaluation: {during: 8, during_sequences: 16}\n").keys == keys
    assert not plan_of(CONFIG + "evaluation: {sequences: 16}\n").keys & keys
    assert plan_of(CONFIG.replace("budgets: [1e9, 3e9, 1e10]", "budgets: [1e10, 3e9, 1e9]")).keys == keys
    more = plan_of(CONFIG.replace("1e10]", "1e10, 3e10]")).keys
    assert more > keys
    assert not plan_of(CONFIG.replace("base: 3e-3", "base: 2e-3")).keys & keys
    assert not plan_of(data=replace(BYTES, fingerprint="f" * 16)).keys & keys


def test_held_out_losses_along_a_run_are_asked_for_and_planned_for():
    plain, measured = plan_of(), plan_of(CONFIG + "evaluation: {during: 8, during_sequences: 4096}\n")
    for before, after in zip(plain.runs, measured.runs, strict=True):
        assert "during" not in plain.entry(before, "data").options
        options = measured.entry(after, "data").options
        assert (options["during"], options["during_sequences"]) == (8, 4096)
        assert after.expected_s > before.expected_s
    with pytest.raises(
        UserError, match=r"evaluation\.during is -1: input should be greater than or equal to"
    ):
        config_of(CONFIG + "evaluation: {during: -1}\n")
    with pytest.raises(UserError, match=r"evaluation\.during_sequences is 1: "):
        config_of(CONFIG + "evaluation: {during: 8, during_sequences: 1}\n")


def test_seeds_multiply_the_grid():
    plan = plan_of(CONFIG + "seeds: [1, 2, 3]\n")
    assert len(plan.runs) == 3 * len(plan_of().runs) == len(plan.keys)


def test_overrides_change_one_family_only():
    text = (
        CONFIG
        + "overrides: {ar: {sizes: [8x1, 12x1], learning_rate: {base: 1e-3}, batch: {base_tokens: 64}}}\n"
    )
    plan = plan_of(text, families=("ar", "uniform"))
    assert {run.spec.size.name for run in plan.of_family("ar")} == {"8x1", "12x1"}
    assert {run.spec.optimizer.learning_rate for run in plan.of_family("ar")} == {1e-3}
    assert {run.spec.batch_size for run in plan.of_family("ar")} == {2}
    assert plan.of_family("uniform") == plan_of().runs


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "1e9, 3e9",
            "1e3, 3e9",
            "run uniform 8x1 at 1.0e3 FLOPs: the budget is too small for one optimizer step",
        ),
        ("8x1, 12x1", "8x1, 13x1", "unknown size '13x1'; did you mean '"),
        (
            "context_length: 32",
            "context_length: 32\nladder: dsk",
            "unknown ladder 'dsk'; did you mean 'desk'?",
        ),
        ("uniform]", "unifrm]", "unknown family 'unifrm'; did you mean 'uniform'?"),
        ("low_variance", "low_var", "family 'masked' has no objective 'low_var'"),
        ("objective:", "objctive:", "family 'masked' has no option 'objctive'; did you mean 'objective'?"),
        (
            "context_length: 32",
            "context_length: 2000000",
            "context_length is 2000000 and the held-out text of",
        ),
    ],
)
def test_wrong_configs_end_in_a_sentence(old, new, says):
    config = config_of(CONFIG.replace(old, new))
    with pytest.raises(UserError) as caught:
        make_plan(config, BYTES, choose_families(config)[::-1])
    assert str(caught.value).startswith("try.yaml: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_family_on_the_command_line_lists_the_known_ones():
    with pytest.raises(UserError, match=r"unknown family 'foo' \(known: ar, masked, uniform"):
        choose_families(config_of(), ["foo"])


def test_known_family_that_the_config_does_not_list_runs_with_its_defaults():
    config = config_of(CONFIG.replace("families: [ar, ", "families: ["))
    assert choose_families(config, ["ar"]) == ("ar",)
    assert len(make_plan(config, BYTES, ("ar",)).runs) == 12


# --- warnings


@pytest.mark.parametrize(
    ("old", "new", "data", "says"),
    [
        ("base_tokens: 128", "base_tokens: 4096", BYTES, "fewer than 200 optimizer steps"),
        ("", "", replace(BYTES, train_tokens=10_000), "more tokens than the corpus has (10,000), up to"),
        ("", "", replace(BYTES, heldout_tokens=3200), "512 held-out sequences and the data has 100"),
        ("base: 3e-3", "base: 1", BYTES, "the learning-rate rule leaves its range"),
        ("8x1, 12x1, 16x1, 24x1", "8x1, 12x1", BYTES, "fewer than 4 sizes at 1.0e9, 3.0e9, 1.0e10 FLOPs"),
        ("1e9, 3e9, 1e10", "1e9, 3e9", BYTES, "only 2 budgets"),
        (
            "sizes: [8x1, 12x1, 16x1, 24x1]",
            "window: {params: 1e4, at_flops: 1e9, span: 20}",
            BYTES,
            "at 1.0e9 FLOPs the window starts at 500 params, the ladder at",
        ),
    ],
)
def test_warnings(old, new, data, says):
    plan = plan_of(CONFIG.replace(old, new, 1) if old else CONFIG, data)
    assert [sentence for sentence in plan.warnings if says in sentence]


def test_a_good_plan_has_no_warnings():
    text = CONFIG.replace("base_tokens: 128", "base_tokens: 64").replace(
        "[1e9, 3e9, 1e10]", "[3e9, 1e10, 3e10]"
    )
    assert plan_of(text).warnings == ()


def test_endless_data_is_never_too_short():
    plan = plan_of(data=replace(BYTES, train_tokens=None, heldout_tokens=None))
    assert not [sentence for sentence in plan.warnings if "corpus" in sentence or "held-out" in sentence]


# --- sizes


def test_window_takes_different_sizes_around_its_centre():
    config = config_of(
        CONFIG.replace(
            "sizes: [8x1, 12x1, 16x1, 24x1]", "window: {params: 3e4, at_flops: 1e9, span: 4, count: 6}"
        )
    )
    available = list(available_sizes(config).values())
    sizes, note = window_sizes(config.grid.window, 1e9, available, 256)
    params = [size_params(size, 256) for size in sizes]
    assert len(sizes) == 6
    assert params == sorted(set(params))
    assert params[0] < 3e4 / 2
    assert params[-1] > 3e4 * 2
    assert note == ""


@settings(max_examples=50, deadline=None)
@given(centre=st.floats(1e3, 1e8), span=st.floats(1.5, 30), count=st.integers(2, 20))
def test_window_always_gives_different_sizes(centre, span, count):
    config = config_of(
        CONFIG.replace(
            "sizes: [8x1, 12x1, 16x1, 24x1]",
            f"window: {{params: {centre}, at_flops: 1e9, span: {span}, count: {count}}}",
        )
    )
    available = list(available_sizes(config).values())
    sizes, note = window_sizes(config.grid.window, 1e9, available, 256)
    assert len({size.name for size in sizes}) == min(count, len(available))
    assert note or count <= len(available)


def test_size_rule_builds_even_heads():
    text = CONFIG.replace("8x1, 12x1, 16x1, 24x1", "h24x1, h96x3") + (
        "size_rule: {hidden: [24, 96], hidden_per_layer: 32, head_dim: 32, cond_dim: 8, time_features: 32}\n"
    )
    small, large = rule_sizes(config_of(text).size_rule)
    assert (small.num_layers, small.num_heads) == (1, 1)
    assert (large.num_layers, large.num_heads, large.head_dim) == (3, 3, 32)
    assert {run.spec.size for run in plan_of(text).runs} == {small, large}


def test_sizes_written_out():
    text = CONFIG.replace("8x1, 12x1, 16x1, 24x1", "mine") + (
        "sizes: [{name: mine, hidden: 16, num_layers: 1, num_heads: 2, cond_dim: 8, time_features: 16}]\n"
    )
    assert {run.spec.size.name for run in plan_of(text).runs} == {"mine"}
    with pytest.raises(UserError, match=r"^try.yaml: sizes\[0\]: size 'mine': hidden 16 .* 3 heads"):
        plan_of(text.replace("num_heads: 2", "num_heads: 3"))


# --- states and times


def test_states_come_from_the_ledger():
    specs = [run.spec for run in plan_of().runs]
    past = [
        past_run(spec, state)
        for spec, state in zip(specs, ("finished", "preempted", "diverged"), strict=False)
    ]
    plan = plan_of(past=past)
    assert [run.state for run in plan.runs[:4]] == ["finished", "preempted", "diverged", "planned"]
    assert len(plan.to_do) == len(plan.runs) - 2


def took(plan, number: int, times: float, **values) -> Run:
    """A run of the plan that took `times` what the plan expects, the start left out."""
    seconds = times * (plan.runs[number].expected_s - timing.START_S)
    return past_run(plan.runs[number].spec, worked_s=seconds, **values)


def without_start(plan) -> list[float]:
    return [run.expected_s - timing.START_S for run in plan.runs]


def test_expected_times_learn_from_finished_runs_on_the_same_kind_of_device_wherever():
    first = plan_of()
    assert not first.experience.kinds
    second = plan_of(past=[took(first, 0, 2.0, host="elsewhere")])
    assert second.experience.kinds == {device_name("cpu"): 1}
    assert without_start(second) == pytest.approx([2 * seconds for seconds in without_start(first)])
    for other in ({"state": "failed"}, {"device": None}, {"device": "NVIDIA H100 80GB HBM3"}):
        assert plan_of(past=[took(first, 0, 2.0, **other)]).runs[1:] == first.runs[1:], other


def test_runs_of_an_earlier_config_teach_as_well():
    first = plan_of()
    before = plan_of(CONFIG.replace("base: 3e-3", "base: 2e-3"))
    after = plan_of(past=[took(before, 0, 3.0)])
    assert without_start(after) == pytest.approx([3 * seconds for seconds in without_start(first)])
    assert {run.state for run in after.runs} == {"planned"}


GPU_CONFIG = CONFIG + "resources: {cpus: 4, gpus: 1}\n"


def test_another_kind_of_gpu_helps_by_the_ratio_of_the_guesses_until_there_is_better():
    on_a100, on_h100 = (plan_of(GPU_CONFIG, kind=kind) for kind in ("A100", "H100"))
    assert on_a100.kind == "A100"
    slow = took(on_a100, 0, 3.0, device="NVIDIA A100-SXM4-40GB", needs=Needs(cpus=4, gpus=1))
    foretold = plan_of(GPU_CONFIG, kind="H100", past=[slow])
    assert without_start(foretold) == pytest.approx([3 * s for s in without_start(on_h100)], rel=1e-3)
    quick = took(on_h100, 1, 0.5, device="NVIDIA H100 80GB HBM3", needs=Needs(cpus=4, gpus=1))
    both = plan_of(GPU_CONFIG, kind="H100", past=[slow, quick])
    assert without_start(both)[1] == pytest.approx(0.5 * without_start(on_h100)[1], rel=0.01)
    assert both.seconds_on("H100")[both.runs[1].key] == both.runs[1].expected_s
    on_t4 = on_h100.seconds_on("T4")
    assert all(on_t4[run.key] > run.expected_s for run in on_h100.runs)


@pytest.mark.parametrize(
    ("device", "here", "kind"),
    [
        (None, (), "A100"),
        (None, ("NVIDIA H200",), "H200"),
        ("Tesla T4", (), "T4"),
        ("Tesla T4", ("NVIDIA H200",), "H200"),
        (None, ("NVIDIA Quadro P400",), "A100"),
    ],
)
def test_gpu_plans_are_for_the_gpu_that_is_here_or_was_used(monkeypatch, device, here, kind):
    monkeypatch.setattr(timing, "gpu_names", lambda: here)
    past = [took(plan_of(GPU_CONFIG), 0, 1.0, device=device)] if device else []
    plan = plan_of(GPU_CONFIG, past=past)
    assert plan.kind == kind
    assert "data sheet of one" in render(plan) or device == "Tesla T4"


def test_a_plan_says_what_each_run_needs():
    for run in plan_of().runs:
        assert run.needs == Needs(cpus=1, memory_bytes=run.memory_bytes)
    for share, whole in ((0.25, 4), (2, 1)):
        for run in plan_of(CONFIG + f"resources: {{cpus: 4, gpus: {share}}}\n").runs:
            memory = run.memory_bytes * whole
            assert run.needs == Needs(cpus=4, gpus=share, gpu_memory_bytes=memory), "those that share a GPU"
    quota = plan_of(CONFIG + "resources: {custom: {ada: 1}}\n").runs[0].needs
    assert quota.resources == (("ada", 1.0),)


def test_time_grows_with_work():
    runs = plan_of().runs
    by_budget = [
        [r.expected_s for r in runs if r.spec.size.name == "8x1" and r.spec.budget == b] for b in (1e9, 1e10)
    ]
    assert by_budget[0] < by_budget[1]


# --- pictures


def render(plan) -> str:
    out = console()
    with out.capture() as captured:
        out.print(plan_view(plan, slots=2))
    return captured.get()


def test_plan_is_shown_with_totals_states_and_picture():
    specs = [run.spec for run in plan_of().runs]
    text = render(plan_of(past=[past_run(specs[0], device=None), past_run(specs[1], "preempted")]))
    assert "sweep try; data stdlib, bytes (256 ids, 30.0M training tokens)" in text
    assert "12 runs, 1 done, 11 to do" in text
    assert "2 at a time (a guess from a quick measurement of this machine)" in text
    for mark in "●◑○":
        assert text.count(mark) == {"●": 1, "◑": 1, "○": 10}[mark] + 1  # and the legend
    assert "◑ preempted" in text, "the word of docs/scheduler.md"
    assert "1.0e9   3.0e9   1.0e10" in " ".join(text.split()).replace(" ", "   ")


def test_narrow_terminals_get_fewer_columns():
    out = console()
    plan = plan_of()
    for width, has in ((140, True), (80, False), (60, False)):
        with out.capture() as captured:
            out.print(plan_view(plan), width=width)
        text = captured.get()
        assert ("memory" in text) == has
        assert "…" not in text
