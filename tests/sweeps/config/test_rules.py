"""Rules of batch, learning rate and warm-up, their order, and overrides of a family."""

from __future__ import annotations

from pathlib import Path

import pytest

from scaling.errors import UserError
from sweeps.config.load import load_config, parse_config
from sweeps.config.model import SweepConfig
from sweeps.config.rules import Extent, outside
from sweeps.plan.diff import snapshot
from sweeps.plan.plan import DataFacts, extent_of, make_plan, plan_specs

GOOD = """
name: small
families: [ar, masked]
grid: {budgets: [1e9, 4e9], sizes: [8x1, 12x1]}
context_length: 32
learning_rate: {base: 3e-3, at_params: 1e4, exponent: -0.5}
batch: {base_tokens: 256, at_flops: 1e9, exponent: 0.5}
"""
FACTS = DataFacts(corpus="stdlib", tokenizer="bytes", fingerprint="00", num_token_ids=256)
RATE = "exponent: -0.5}\nbatch"
BATCH = "exponent: 0.5}\n"


def parse(text: str) -> SweepConfig:
    return parse_config(text, source="small.yaml")


def refused(text: str) -> str:
    with pytest.raises(UserError) as error:
        parse(text)
    return str(error.value)


def test_a_rate_of_params_alone_and_a_batch_of_flops_alone_need_nothing_else():
    config = parse(GOOD)
    assert config.learning_rate(Extent(1e4, 1e6)) == pytest.approx(3e-3)
    assert config.learning_rate(Extent(4e4, 1e6)) == pytest.approx(1.5e-3)
    assert config.learning_rate(Extent(1.0, 1e6)) == 0.1  # clipped
    assert [config.batch(budget, 32, Extent(1e4, 1e6)) for budget in (1e9, 4e9, 1.0)] == [8, 16, 1]
    warmup = {steps: config.optimizer.spec(1e-3, steps).warmup_steps for steps in (100_000, 2000, 10)}
    assert warmup == {100_000: 1000, 2000: 100, 10: 5}


def test_a_rate_multiplies_the_powers_of_size_steps_tokens_and_batch():
    powers = (
        "steps: {at: 1000, exponent: -0.25}, tokens: {at: 1e6, exponent: 0.5}, batch: {at: 256, exponent: 1}"
    )
    rule = parse(GOOD.replace(RATE, f"exponent: -0.5, {powers}}}\nbatch")).learning_rate
    run = Extent(4e4, 4e6, batch=512, steps=16_000)
    assert rule(run) == pytest.approx(3e-3 * 4**-0.5 * 16**-0.25 * 4**0.5 * 2)


def test_a_batch_multiplies_the_powers_of_budget_tokens_and_size():
    powers = "tokens: {at: 1e6, exponent: 0.5}, params: {at: 1e4, exponent: -1}"
    rule = parse(GOOD.replace(BATCH, f"exponent: 0.5, {powers}}}\n")).batch
    assert rule(4e9, 32, Extent(2e4, 4e6)) == round(256 * 2 * 2 / 2 / 32)


def test_every_run_follows_the_rules_from_tokens_to_batch_to_steps_to_rate():
    text = GOOD.replace(RATE, "exponent: -0.5, steps: {at: 100, exponent: -0.3}}\nbatch")
    config = parse(text.replace(BATCH, "exponent: 0, tokens: {at: 3e5, exponent: 0.6}}\n"))
    specs, _ = plan_specs(config, FACTS, ("ar", "masked"))
    for spec in specs:
        extent = extent_of(spec)
        assert spec.batch_size == max(1, round(256 * (spec.tokens / 3e5) ** 0.6 / 32))
        assert spec.steps == -(-spec.sequences // spec.batch_size)
        rate = 3e-3 * (extent.params / 1e4) ** -0.5 * (spec.steps / 100) ** -0.3
        assert spec.optimizer.learning_rate == pytest.approx(rate, rel=1e-5)


@pytest.mark.parametrize("name", ["steps", "batch", "learning_rate"])
def test_a_batch_that_depends_on_what_follows_from_it_is_refused(name: str):
    sentence = refused(GOOD.replace(BATCH, f"exponent: 0.5, {name}: {{at: 100, exponent: 1}}}}\n"))
    reason = f"it cannot depend on {name}, which follows from it; use tokens, params or at_flops"
    assert sentence == f"small.yaml: batch: {reason}"
    override = f"overrides: {{ar: {{batch: {{base_tokens: 9, {name}: {{at: 1, exponent: 1}}}}}}}}\n"
    assert f"overrides.ar.batch: it cannot depend on {name}" in refused(GOOD + override)


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        ("{at: 100}", "key 'exponent' is missing under 'learning_rate.steps'"),
        ("{at: 0, exponent: 1}", "learning_rate.steps.at is 0: input should be greater than 0"),
        (
            "{at: 1, exponnt: 1}",
            "unknown key 'exponnt' under 'learning_rate.steps'; did you mean 'exponent'?",
        ),
        ("3", "learning_rate.steps is 3: it must be a mapping with keys such as at, exponent"),
    ],
)
def test_a_power_that_cannot_be_read_is_one_sentence(steps: str, sentence: str):
    assert sentence in refused(GOOD.replace(RATE, f"exponent: -0.5, steps: {steps}}}\nbatch"))


def test_runs_beyond_where_a_rule_was_found_or_beyond_its_limits_are_said():
    rule = "exponent: -0.5, largest: 4e-3, tried: {steps: [100, 200]}}\nbatch"
    text = GOOD.replace(RATE, rule).replace(BATCH, "exponent: 0.5, tried: {params: [1, 1e9]}}\n")
    plan = make_plan(parse(text), FACTS, ("ar",))
    outside_of = [run for run in plan.runs if not 100 <= run.spec.steps <= 200]
    assert 0 < len(outside_of) < len(plan.runs)
    extrapolated = [warning for warning in plan.warnings if "extrapolated" in warning]
    assert len(extrapolated) == 1
    assert f"steps from 100 to 200 and is extrapolated for {len(outside_of)} of 4 runs" in extrapolated[0]
    assert any("leaves its range (and is held at its end)" in warning for warning in plan.warnings)


def test_where_a_rule_was_found_must_be_a_range_of_something_the_rule_may_see():
    assert "tried.steps is [9, 1]; the smaller end comes first" in refused(
        GOOD.replace(RATE, "exponent: -0.5, tried: {steps: [9, 1]}}\nbatch")
    )
    assert "tried names 'steps'; it must be one of params, tokens" in refused(
        GOOD.replace(BATCH, "exponent: 0.5, tried: {steps: [1, 9]}}\n")
    )
    rule = parse(GOOD.replace(BATCH, "exponent: 0.5, tried: {tokens: [1, 9]}}\n")).batch
    assert list(outside(rule, Extent(1.0, 5.0))) == []
    assert list(outside(rule, Extent(1.0, 10.0))) == ["tokens"]


def test_where_a_rule_was_found_is_no_part_of_the_sweep():
    plain, more = parse(GOOD), parse(GOOD.replace(BATCH, "exponent: 0.5, tried: {tokens: [1, 9]}}\n"))
    assert snapshot(plain, "00") == snapshot(more, "00")
    assert (
        "tried"
        not in snapshot(parse(GOOD + "overrides: {ar: {batch: {base_tokens: 9}}}\n"), "00")["overrides"][
            "ar"
        ]["batch"]
    )


def test_a_family_changes_single_settings_of_the_optimizer_and_its_seeds():
    own = (
        "overrides: {ar: {optimizer: {weight_decay: 0, betas: [0.8, 0.9], clip_norm: null}, seeds: [3, 4]}}\n"
    )
    config = parse(GOOD + own)
    specs, _ = plan_specs(config, FACTS, ("ar", "masked"))
    ar, masked = ([spec for spec in specs if spec.family == name] for name in ("ar", "masked"))
    assert {spec.seed for spec in ar} == {3, 4}
    assert {spec.seed for spec in masked} == {1}
    assert {(s.optimizer.weight_decay, s.optimizer.betas, s.optimizer.clip_norm) for s in ar} == {
        (0.0, (0.8, 0.9), None)
    }
    plain, _ = plan_specs(parse(GOOD), FACTS, ("masked",))
    assert [spec.key for spec in masked] == [spec.key for spec in plain]


def test_a_family_may_have_budgets_of_its_own():
    own = "budgets: [1e8, 1e9], sizes: {1e8: [8x1], 1e9: [8x1, 12x1]}, seeds: {1e8: [1, 2], 1e9: 3}"
    config = parse(GOOD + f"overrides: {{ar: {{{own}}}}}\n")
    specs, _ = plan_specs(config, FACTS, ["ar", "masked"])
    runs = {(spec.family, spec.budget, spec.size.name, spec.seed) for spec in specs}
    others = {("masked", budget, size, 1) for budget in (1e9, 4e9) for size in ("8x1", "12x1")}
    assert runs == others | {
        ("ar", 1e8, "8x1", 1), ("ar", 1e8, "8x1", 2), ("ar", 1e9, "8x1", 3), ("ar", 1e9, "12x1", 3)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("own", "sentence"),
    [
        ("{budgets: [1e8, 1e8]}", "budgets [100000000.0, 100000000.0] name one twice"),
        ("{budgets: [1e8], sizes: {1e9: [8x1]}}", "sizes by budget must have the same budgets as 'budgets'"),
        ("{budgets: [1e8], seeds: {1e9: 1}}", "seeds by budget must have the same budgets as 'budgets'"),
        ("{budgets: [1e8]}", "overrides.ar.budgets needs seeds of its own: grid.seeds has other budgets"),
    ],
)
def test_budgets_of_a_family_that_do_not_fit_are_one_sentence(own: str, sentence: str):
    text = GOOD.replace("12x1]}", "12x1], seeds: {1e9: 1, 4e9: 1}}") if "of its own" in sentence else GOOD
    assert sentence in refused(text + f"overrides: {{ar: {own}}}\n")


@pytest.mark.parametrize(
    ("own", "sentence"),
    [
        (
            "{weight_decy: 0}",
            "overrides.ar.optimizer: unknown key 'weight_decy'; did you mean 'weight_decay'?",
        ),
        ("{weight_decay: -1}", "overrides.ar.optimizer: weight_decay is -1.0, it must not be negative"),
        ("{warmup_fraction: 2}", "overrides.ar.optimizer: warmup_fraction: Input should be less than 1"),
        ("[1]", "overrides.ar.optimizer is [1]: input should be a valid dictionary"),
    ],
)
def test_optimizer_settings_of_a_family_that_are_wrong_are_one_sentence(own: str, sentence: str):
    assert sentence in refused(GOOD + f"overrides: {{ar: {{optimizer: {own}}}}}\n")


def test_overrides_may_stand_in_files_of_their_own(tmp_path: Path):
    (tmp_path / "rule.yaml").write_text("overrides: {MDLM: {learning_rate: {base: 1e-2}}}\n")
    (tmp_path / "other.yaml").write_text("overrides: {masked: {batch: {base_tokens: 64}}}\n")
    config = tmp_path / "small.yaml"
    config.write_text(GOOD + "include: [rule.yaml, other.yaml]\noverrides: {ar: {seeds: 5}}\n")
    loaded = load_config(config)
    inline = "overrides: {ar: {seeds: 5}, masked: {learning_rate: {base: 1e-2}, batch: {base_tokens: 64}}}\n"
    assert loaded.overrides == parse(GOOD + inline).overrides
    assert snapshot(loaded, "00") == snapshot(parse(GOOD + inline), "00")


@pytest.mark.parametrize(
    ("include", "rule", "sentence"),
    [
        (
            "rule.yaml",
            "overrides: {ar: {seeds: 2}}",
            "overrides.ar.seeds stands in rule.yaml and in the config",
        ),
        ("rule.yaml", "name: x", "include 'rule.yaml': that file must have the key 'overrides' alone"),
        ("rule.yaml", "overrides: {ar: 3}", "rule.yaml: overrides must be a mapping of families"),
        ("3", "", "include is 3: it must be the name of a file, or a list of them"),
        ("none.yaml", "", "none.yaml: no such config file"),
    ],
)
def test_an_include_that_cannot_be_used_is_one_sentence(
    include: str, rule: str, sentence: str, tmp_path: Path
):
    (tmp_path / "rule.yaml").write_text(rule)
    config = tmp_path / "small.yaml"
    config.write_text(GOOD + f"include: {include}\noverrides: {{ar: {{seeds: 5}}}}\n")
    with pytest.raises(UserError) as error:
        load_config(config)
    assert sentence in str(error.value)
