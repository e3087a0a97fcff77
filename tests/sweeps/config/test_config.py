"""Configs: numbers as people write them, one sentence for what they mistype."""

from __future__ import annotations

from pathlib import Path

import pytest

from scaling.errors import UserError
from sweeps.config.load import SHIPPED, find_config, load_config, parse_config, shipped_names

GOOD = """
name: try
families: [ar, masked: {objective: low_variance}]
grid:
  budgets: [1e9, 3e9]
  sizes: [8x1, 16x1]
context_length: 32
learning_rate: {base: 3e-3, at_params: 1e4, exponent: -0.5}
batch: {base_tokens: 256, at_flops: 1e9, exponent: 0.5}
"""


def parse(text: str):
    return parse_config(text, source="try.yaml")


def refused(text: str) -> str:
    with pytest.raises(UserError) as caught:
        parse(text)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("try.yaml: ")
    return message


def test_reads_scientific_notation_as_numbers():
    config = parse(GOOD)
    assert config.grid.budgets == (1e9, 3e9)
    assert config.learning_rate.base == 3e-3


def test_names_of_papers_are_families():
    config = parse(GOOD.replace("masked:", "MDLM:") + "overrides: {mdlm: {sizes: [8x1]}}\n")
    assert config.families == parse(GOOD).families
    assert config.override("masked").sizes == ("8x1",)
    assert "name one twice" in refused(GOOD.replace("[ar,", "[masked, mdlm,"))
    sentence = refused(GOOD + "overrides: {mdlm: {sizes: [8x1]}, masked: {sizes: [8x1]}}\n")
    assert "overrides: mdlm, masked name a family twice" in sentence


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e11", 1e11), ("1E+3", 1e3), ("2.5e-1", 0.25), (".5e2", 50.0), ("1_000e3", 1e6), ("7", 7.0)],
)
def test_every_spelling_of_a_number(text, value):
    assert parse(GOOD.replace("budgets: [1e9, 3e9]", f"budgets: [{text}]")).grid.budgets == (value,)


def test_words_that_look_like_numbers_stay_words():
    config = parse(GOOD.replace("sizes: [8x1, 16x1]", "sizes: [6M, 19M, 1e, 8x1]"))
    assert config.grid.sizes == ("6M", "19M", "1e", "8x1")


def test_families_carry_options():
    config = parse(GOOD)
    assert [family.name for family in config.families] == ["ar", "masked"]
    assert config.family("masked").options == {"objective": "low_variance"}
    assert config.family("uniform").options == {}


def test_sizes_by_budget():
    config = parse(GOOD.replace("sizes: [8x1, 16x1]", "sizes: {1e9: [8x1], 3e9: [16x1]}"))
    assert config.grid.sizes == {1e9: ("8x1",), 3e9: ("16x1",)}


def test_quotas_are_amounts_by_name():
    config = parse(GOOD + "resources: {cpus: 2, custom: {ada: 1, licences: 0.5}}\n")
    assert config.resources.custom == {"ada": 1.0, "licences": 0.5}
    assert "custom" in refused(GOOD + "resources: {custom: {ada: 0}}\n")


def test_merge_keys_take_what_is_not_said_beside_them():
    config = parse(
        GOOD.replace("learning_rate:", "learning_rate: &rate")
        + "overrides:\n  ar: {learning_rate: {<<: *rate, base: 4e-3}}\n"
        + "  masked: {learning_rate: {<<: [{base: 1e-3}, *rate]}}\n"
    )
    assert config.override("ar").learning_rate == config.learning_rate.model_copy(update={"base": 4e-3})
    assert config.override("masked").learning_rate == config.learning_rate.model_copy(update={"base": 1e-3})


def test_the_largest_seed_that_a_run_table_holds():
    assert parse(GOOD + f"seeds: [0, {2**63 - 1}]\n").seeds == (0, 2**63 - 1)


def test_config_cannot_be_changed():
    config = parse(GOOD)
    with pytest.raises(Exception, match="frozen"):
        config.name = "other"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("budgets:", "budgts:", "unknown key 'budgts' under 'grid'; did you mean 'budgets'?"),
        ("context_length:", "contxt_length:", "under the top level; did you mean 'context_length'?"),
        ("base: 3e-3", "bse: 3e-3", "unknown key 'bse' under 'learning_rate'; did you mean 'base'?"),
        ("context_length: 32", "zzz: 32", "unknown key 'zzz' under the top level (known: name, families,"),
        ("context_length: 32\n", "", "key 'context_length' is missing under the top level"),
        ("base: 3e-3, ", "", "key 'base' is missing under 'learning_rate'"),
        (
            "context_length: 32",
            "context_length: many",
            "context_length is 'many': input should be a valid integer",
        ),
        (
            "context_length: 32",
            "context_length: 0",
            "context_length is 0: input should be greater than or equal to 1",
        ),
        ("[1e9, 3e9]", "[1e9, -3e9]", "grid.budgets[1] is -3000000000.0: input should be greater than 0"),
        ("[1e9, 3e9]", "[1e9, .inf]", "grid.budgets[1] is inf: input should be a finite number"),
        ("[1e9, 3e9]", "[1e9, 1e9]", "grid: budgets [1000000000.0, 1000000000.0] name one twice"),
        ("[1e9, 3e9]", "[]", "grid.budgets is []"),
        ("sizes: [8x1, 16x1]", "sizes: []", "grid: sizes is an empty list"),
        ("sizes: [8x1, 16x1]", "sizes: {1e9: [8x1]}", "3e+09 is in one of the two only"),
        ("sizes: [8x1, 16x1]\n", "\n", "grid: neither sizes nor window is given"),
        (
            "sizes: [8x1, 16x1]",
            "sizes: [8x1]\n  window: {params: 1, at_flops: 1}",
            "sizes and window are both given",
        ),
        (
            "sizes: [8x1, 16x1]",
            "window: {params: 1, at_flops: 1, spn: 2}",
            "unknown key 'spn' under 'grid.window'",
        ),
        ("name: try", "name: ../up", "name is '../up': string should match pattern"),
        ("families: [ar, masked", "families: [ar, ar, masked", "name one twice"),
        ("families: [ar, masked: {objective: low_variance}]", "families: []", "families is []"),
        (
            "context_length: 32",
            "optimizer: {betas: [0.9, 1.5]}\ncontext_length: 32",
            "optimizer: betas is (0.9, 1.5), it must be two numbers in [0, 1)",
        ),
        (
            "context_length: 32",
            "overrides: {uniform: {}}\ncontext_length: 32",
            "not under 'families' (ar, masked)",
        ),
        (
            "context_length: 32",
            "overrides: {ar: {batch: {base: 1}}}\ncontext_length: 32",
            "unknown key 'base' under 'overrides.ar.batch'; did you mean 'base_tokens'?",
        ),
        ("context_length: 32", "context_length: 32\nname: again", "key 'name' is given twice"),
        ("sizes: [8x1, 16x1]", "sizes: [8x1, 16x1", "not valid YAML at line"),
        (GOOD, "", "it holds nothing"),
        ("name: try", "name: data", "name: 'data' is taken in the folder of results"),
        ("name: try", "name: mlflow.db", "name: 'mlflow.db' is taken in the folder of results"),
        ("name: try", f"name: {'x' * 300}", "string should have at most 100 characters"),
        (
            "name: try",
            "name: try\nseeds: 2024-02-30",
            "seeds is '2024-02-30': input should be a valid integer",
        ),
        (
            "name: try",
            "name: try\nseeds: !!timestamp 2024-02-30",
            "a value cannot be read (day is out of range",
        ),
        ("name: try", "name: try\nprecision: !!bool x", "a value cannot be read"),
        ("name: try", f"name: try\nseeds: {'9' * 5000}", "a value cannot be read (Exceeds the limit"),
        ("name: try", f"name: try\nseeds: 0x{'f' * 5000}", "a value cannot be read (Exceeds the limit"),
        ("[1e9, 3e9]", f"[{'1' * 400}]", "grid.budgets[0] is 1111"),
        ("name: try", f"name: try\ndata: {'[' * 3000}{']' * 3000}", "nested too deeply"),
        ("name: try", "name: try\ndata: " + "{a: " * 2500 + "1" + "}" * 2500, "nested too deeply"),
        ("name: try", "name: try\n~: 3", "a key is None: keys should be strings"),
        ("name: try", "name: try\nbatch: 3\nbatch: 4", "key 'batch' is given twice"),
        ("name: try", "name: try\ndata: {<<: {corpus: a}, <<: {corpus: b}}", "key '<<' is given twice"),
        ("name: try", "name: try\nseeds: 17982163893102248868", "less than 9223372036854775808"),
        (
            "name: try",
            "name: try\nseeds: [1, -1]",
            "seeds[1] is -1: input should be greater than or equal to 0",
        ),
        (
            "name: try",
            "name: try\nresources: {custom: {CPU: 5}}",
            "'CPU' is no custom resource; write cpus beside",
        ),
        ("name: try", "name: try\nresources: {custom: {memory: 5}}", "'memory' is no custom resource"),
        (
            "name: try",
            "name: try\nevaluation: 3",
            "evaluation is 3: it must be a mapping with keys such as sequences",
        ),
        (
            "name: try",
            "name: try\noptimizer: {lr: 1}",
            "unknown key 'lr' under 'optimizer' (known: schedule,",
        ),
        (
            "name: try",
            "name: try\nsizes: [{name: a, hiden: 8, num_layers: 1, num_heads: 1}]",
            "unknown key 'hiden' under 'sizes[0]'; did you mean 'hidden'?",
        ),
        (
            "name: try",
            "name: try\nsizes: [{name: a, num_layers: 1, num_heads: 1}]",
            "key 'hidden' is missing under 'sizes[0]'",
        ),
        (GOOD, "[1, 2]", "it holds a list"),
    ],
)
def test_one_sentence_for_each_mistake(old, new, says):
    assert old in GOOD
    assert says in refused(GOOD.replace(old, new, 1))


def test_file_problems(tmp_path: Path):
    with pytest.raises(UserError, match="no such config file"):
        load_config(tmp_path / "none.yaml")
    binary = tmp_path / "b.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"b\.yaml: not UTF-8 text at byte 0; give a YAML file"):
        load_config(binary)
    with pytest.raises(UserError, match="is a folder; give the path of a YAML file"):
        load_config(tmp_path)


def test_finds_shipped_configs_by_name():
    assert set(shipped_names()) == {"desk", "evening", "smoke", "gpu", "cluster", "sahoo2026"}
    assert find_config("smoke", None).name == "smoke"
    assert find_config(None, None).name == "desk"
    with pytest.raises(UserError, match="unknown sweep 'dek'; did you mean 'desk'"):
        find_config("dek", None)
    with pytest.raises(UserError, match="give one of them"):
        find_config("desk", Path("x.yaml"))


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_are_named_after_their_file(path):
    assert load_config(path).name == path.stem
