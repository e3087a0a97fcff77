"""A spec and its key: equal key, same run; every field counts; what cannot run is refused in one sentence."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict, fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.errors import UserError
from scaling.families import PAPERS, family_name, get_family
from scaling.flops import causal, training_flops
from scaling.labels import Labels
from scaling.randomness import generator_for
from scaling.spec import DataSpec, DistillationSpec, EvaluationSpec, OptimizerSpec, RunSpec
from tests.scaling.toys import toy_size, toy_spec

BASE = toy_spec("masked")
BEFORE = {"masked": "ea50e5f8f21e3404", "ar": "556e40eae9ffbd69"}
"""Keys of runs scored at one level, when those levels were independent draws."""

CHANGES: dict[str, Any] = {
    "family": "uniform",
    "family_options": {"objective": "nelbo"},
    "budget": 1.1e9,
    "flop_convention": "2nd",
    "sequences": BASE.sequences + 1,
    "batch_size": 9,
    "precision": "bfloat16",
    "seed": 1,
    "revision": 99,
}
PARTS: dict[str, dict[str, Any]] = {
    "size": {
        "name": "other",
        "hidden": 12,
        "num_layers": 3,
        "num_heads": 1,
        "cond_dim": 5,
        "time_features": 6,
    },
    "data": {
        "corpus": "text:other",
        "tokenizer": "bytes",
        "fingerprint": "ff",
        "num_token_ids": 8,
        "context_length": 7,
    },
    "optimizer": {
        "learning_rate": 1e-4,
        "schedule": "wsd",
        "warmup_steps": 5,
        "final_lr_fraction": 0.2,
        "decay_fraction": 0.5,
        "betas": (0.9, 0.99),
        "eps": 1e-9,
        "weight_decay": 0.0,
        "clip_norm": None,
        "ema_decay": 0.999,
    },
    "evaluation": {"sequences": 17, "noise_levels": 5, "seed": 3},
}


def changed(name: str, value: Any) -> RunSpec:
    """BASE with one field changed; `part.field` reaches into a part."""
    part, _, field = name.partition(".")
    if field:
        value = replace(getattr(BASE, part), **{field: value})
    return replace(BASE, **{part: value})


FIELDS = [
    *CHANGES.items(),
    *((f"{part}.{k}", v) for part, change in PARTS.items() for k, v in change.items()),
]


@pytest.mark.parametrize(("name", "value"), FIELDS, ids=[name for name, _ in FIELDS])
def test_every_field_changes_the_key(name: str, value: Any) -> None:
    assert changed(name, value).key != BASE.key


def test_every_field_is_tried_above() -> None:
    spec = DISTILLED.to_dict()
    assert set(spec) == set(CHANGES) | set(PARTS) | {"distillation"}
    for part, change in PARTS.items():
        assert set(spec[part]) == set(change)
    assert set(spec["distillation"]) == set(DISTILLATIONS)


DISTILLED = toy_spec(
    "uniform",
    sequences=8 * 12,
    optimizer={"ema_decay": 0.9},
    distillation=DistillationSpec(of="0123456789abcdef", rounds=3, steps_per_round=4),
)
DISTILLATIONS: dict[str, dict[str, Any]] = {
    "of": {"of": "fedcba9876543210"},
    "rounds": {"rounds": 2, "steps_per_round": 6},
    "steps_per_round": {"rounds": 6, "steps_per_round": 2},
    "first_step": {"first_step": 0.01},
    "last_step": {"last_step": 0.1},
    "alpha_range": {"alpha_range": (0.99, 0.01)},
    "forward_kl": {"forward_kl": True},
}


@pytest.mark.parametrize("name", DISTILLATIONS)
def test_every_field_of_a_distillation_changes_the_key(name: str) -> None:
    assert DISTILLED.distillation is not None
    other = replace(DISTILLED, distillation=replace(DISTILLED.distillation, **DISTILLATIONS[name]))
    assert other.key != DISTILLED.key
    assert RunSpec.from_dict(json.loads(json.dumps(other.to_dict()))) == other


def test_options_that_are_off_leave_the_keys_of_older_runs() -> None:
    """Keys of stored runs from before there were moving averages and distillation."""
    keys = [toy_spec(family).key for family in ("ar", "masked", "uniform")]
    assert keys == ["7ddd287e52494ab2", "faf0a6a6578122a4", "c586d9e4346c2e78"]


BASE_SIZE = {"parametrization": "completep", "base_hidden": 8, "base_layers": 2}


def test_a_bound_of_one_level_counts_as_another_since_its_levels_are_slices() -> None:
    """Its losses changed; an exact likelihood has no levels, and keeps its key."""
    keys = [toy_spec(family, evaluation={"noise_levels": 1}).key for family in ("masked", "ar")]
    assert keys[0] != BEFORE["masked"]
    assert keys[1] == BEFORE["ar"]


def test_completep_is_part_of_the_key_with_its_base() -> None:
    specs = [toy_spec(optimizer=one) for one in (
        {}, BASE_SIZE, BASE_SIZE | {"base_hidden": 4}, BASE_SIZE | {"base_layers": 1},
        BASE_SIZE | {"base_head_dim": 4},
    )]  # fmt: skip
    assert len({spec.key for spec in specs}) == len(specs)
    assert "parametrization" not in specs[0].to_dict()["optimizer"]
    assert [RunSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) for spec in specs] == specs


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"parametrization": "mup"}, "parametrization is 'mup', it must be one of standard, completep"),
        ({"base_hidden": 64}, "base_hidden is 64, but only parametrization 'completep' has a base size"),
        (
            {"parametrization": "completep", "base_hidden": 64},
            "parametrization 'completep' needs base_layers, of the size at which rates are tuned",
        ),
        (BASE_SIZE | {"base_hidden": 0}, "base_hidden is 0, it must be a positive integer"),
        (BASE_SIZE | {"base_layers": 1.5}, "base_layers is 1.5, it must be a positive integer"),
    ],
)
def test_a_base_size_that_makes_no_sense_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        OptimizerSpec(learning_rate=1e-3, **changes)


def test_a_teacher_costs_a_pass_and_two_copies_of_the_weights_more() -> None:
    plain = replace(DISTILLED, distillation=None)
    assert DISTILLED.training_flops("exact") == pytest.approx(plain.training_flops("exact") * 4 / 3)
    assert DISTILLED.training_flops("2nd") == plain.training_flops("2nd"), "6 N D, whatever the family"
    copies = [toy_spec("uniform").weight_copies, plain.weight_copies, DISTILLED.weight_copies]
    assert copies == [3, 4, 5]
    assert [toy_spec("uniform").final_bounds, plain.final_bounds] == [1, 2]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"family": "masked"}, "family 'masked' cannot be distilled, only 'uniform' can"),
        ({"sequences": 8 * 13}, "sequences is 104, 13 steps of 8; it must give the 12 steps of 3 rounds"),
        ({"labels": Labels(of="clusters")}, "labels are clusters of its own features cannot be distilled"),
        ({"optimizer": toy_spec().optimizer}, "ema_decay is null; a distillation returns the moving average"),
    ],
)
def test_a_distillation_that_cannot_run_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        replace(DISTILLED, **changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"of": ""}, "distillation.of is empty"),
        ({"rounds": 0}, "rounds is 0, it must be at least 1"),
        ({"first_step": 0}, "first_step is 0.0, it must be positive"),
        ({"rounds": 11}, "the time between student and teacher ends at 2, it must stay below 1 and not fall"),
        ({"last_step": 1}, "the time between student and teacher ends at 1, it must stay below 1"),
        ({"last_step": 1e-4}, "ends at 0.0001"),
        ({"alpha_range": (0.1, 0.9)}, r"alpha_range is \(0.1, 0.9\), it must be two falling numbers"),
        ({"alpha_range": (0.1,)}, "it must be two falling numbers"),
    ],
)
def test_distillations_out_of_range_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        DistillationSpec(**({"of": "0123456789abcdef"} | changes))


def test_the_key_is_stable() -> None:
    """Written once; changes only together with RESULT_REVISION, or every stored run is forgotten."""
    key = BASE.key
    assert len(key) == 16
    assert int(key, 16) >= 0
    assert key == toy_spec("masked").key
    code = (
        "import sys; sys.path.insert(0, '.'); from tests.scaling.toys import toy_spec; print(toy_spec().key)"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == key, "another process, another hash seed, the same key"


def test_a_paper_s_name_of_a_family_gives_the_same_run() -> None:
    spec = toy_spec(family="masked")
    named = replace(spec, family="MDLM")
    assert (named.family, named.key) == ("masked", spec.key)
    assert type(get_family("mdlm", vocab_size=11)) is type(get_family("masked", vocab_size=11))
    for paper, ours in PAPERS.items():
        assert {family_name(f(paper)) for f in (str.lower, str.upper, str.title)} == {ours}
        assert family_name(paper.replace("-", "_")) == ours
        assert family_name(paper, present=[paper]) == paper  # a table's own name stays
    with pytest.raises(UserError, match=r"unknown family 'gpt' \(known: ar, masked"):
        get_family("gpt", vocab_size=11)


def test_equal_specs_have_equal_keys_however_written() -> None:
    assert replace(BASE, budget=10**9).key == BASE.key, "1000000000 and 1e9"
    for name, value in [("weight_decay", 1), ("clip_norm", 1), ("learning_rate", 1), ("eps", 1)]:
        one, other = (changed(f"optimizer.{name}", kind(value)) for kind in (int, float))
        assert one == other
        assert one.key == other.key
    lists, tuples = (changed("optimizer.betas", kind((0, 1 / 2))) for kind in (list, tuple))
    assert lists == tuples
    assert lists.key == tuples.key
    orders = [{"objective": "nelbo", "schedule_eps": 0.1}, {"schedule_eps": 0.1, "objective": "nelbo"}]
    assert len({changed("family_options", options).key for options in orders}) == 1


@given(
    family=st.sampled_from(["ar", "masked", "uniform"]),
    budget=st.floats(1e3, 1e25),
    batch=st.integers(1, 64),
    extra=st.integers(0, 10_000),
    rate=st.floats(1e-8, 10),
    clip=st.none() | st.floats(1e-3, 10),
    betas=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
    seed=st.integers(0, 2**40),
)
@settings(max_examples=50)
def test_json_round_trip(family: str, batch: int, extra: int, rate: float, **rest: Any) -> None:
    optimizer = {"learning_rate": rate, "clip_norm": rest.pop("clip"), "betas": rest.pop("betas")}
    spec = toy_spec(family, batch_size=batch, sequences=batch + extra, optimizer=optimizer, **rest)
    again = RunSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    assert again.key == spec.key


def test_what_follows_from_a_spec() -> None:
    spec = toy_spec("ar", sequences=100, batch_size=8)
    assert spec.steps == 13
    assert spec.tokens == 600
    assert spec.vocab_size == 8, "7 tokens and the mask id"
    assert toy_spec("uniform").vocab_size == 7
    assert toy_spec("uniform", family_options={"mask_column": True}).vocab_size == 8
    exact = training_flops(spec.size, 8, 6, 100, "exact", work=causal(6))
    assert spec.training_flops() == exact
    assert spec.training_flops("2nd") == training_flops(spec.size, 8, 6, 100, "2nd")
    assert replace(spec, flop_convention="2nd").training_flops() == spec.training_flops("2nd")
    assert spec.build_family().causal
    assert toy_spec("masked").training_flops() > exact, "full attention costs more than causal"


REFUSED = [
    ("family", "maskd", r"unknown family 'maskd'; did you mean 'masked'\?"),
    ("family_options", {"objectve": "nelbo"}, "no option 'objectve'; did you mean 'objective'"),
    ("family_options", {"schedule": "linear"}, "schedule is 'linear', it must be one of log_linear, cosine"),
    ("family_options", {"schedule_eps": 1.0}, "schedule_eps is 1.0"),
    ("family_options", {"vocab_size": 5}, "family_options has vocab_size, which follows from the data"),
    ("family_options", {"mask_id": 3}, "family_options has mask_id, which follows from the data"),
    ("budget", 0, "budget is 0"),
    ("budget", math.nan, "budget is nan, it must be a finite number"),
    ("budget", "1e12", "budget is '1e12', it must be a finite number"),
    ("flop_convention", "6nd", "flop_convention is '6nd', it must be one of exact, sahoo2026, 2nd"),
    ("batch_size", 0, "batch_size is 0"),
    ("sequences", 3, r"budget 1e\+09 FLOPs pays for 3 sequences of size 'toy', less than one step of 8"),
    ("precision", "fp8", "precision is 'fp8', it must be one of float32, bfloat16"),
    ("data.context_length", 1, "context_length is 1"),
    ("data.num_token_ids", 1, "num_token_ids is 1"),
    ("optimizer.learning_rate", 0, "learning_rate is 0"),
    ("optimizer.learning_rate", math.inf, "learning_rate is inf, it must be a finite number"),
    ("optimizer.schedule", "linear", "schedule is 'linear', it must be one of cosine, constant, wsd"),
    ("optimizer.warmup_steps", -1, "warmup_steps is -1"),
    ("optimizer.final_lr_fraction", 1.5, "final_lr_fraction is 1.5"),
    ("optimizer.decay_fraction", -0.1, "decay_fraction is -0.1"),
    ("optimizer.betas", (0.9,), "betas is"),
    ("optimizer.betas", (0.9, 1.0), "betas is"),
    ("optimizer.weight_decay", -1, "weight_decay is -1"),
    ("optimizer.clip_norm", 0, "clip_norm is 0"),
    ("optimizer.ema_decay", 1, r"ema_decay is 1.0, it must lie in \(0, 1\) or be null"),
    ("evaluation.sequences", 1, "sequences is 1"),
    ("evaluation.noise_levels", 0, "noise_levels is 0"),
]


@pytest.mark.parametrize(("name", "value", "sentence"), REFUSED, ids=[f"{n}={v}" for n, v, _ in REFUSED])
def test_what_cannot_run_is_refused(name: str, value: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        changed(name, value)


def test_specs_cannot_be_changed() -> None:
    for part in (BASE, BASE.data, BASE.optimizer, BASE.evaluation, BASE.size):
        with pytest.raises(FrozenInstanceError):
            setattr(part, fields(part)[0].name, 3)


def test_parts_stand_alone() -> None:
    for part, kind in [
        (BASE.data, DataSpec),
        (BASE.optimizer, OptimizerSpec),
        (BASE.evaluation, EvaluationSpec),
    ]:
        values: dict[str, Any] = asdict(part)  # type: ignore[call-overload]
        assert kind(**values) == part
    assert toy_size() == BASE.size


def test_generators_depend_on_their_arguments_alone() -> None:
    import torch

    def first(*arguments: Any) -> float:
        return float(torch.rand((), generator=generator_for(*arguments), dtype=torch.float64))

    assert first(0, "noise", 3) == first(0, "noise", 3)
    others = [first(1, "noise", 3), first(0, "noise", 4), first(0, "weights", 3), first(0, "noise", 30)]
    assert len({first(0, "noise", 3), *others}) == 5
    # neighbouring steps are as independent as any: no correlation among 2000 first draws
    draws = torch.tensor([first(0, "noise", step) for step in range(2000)])
    centred = draws - draws.mean()
    assert abs(float((centred[1:] * centred[:-1]).mean() / centred.var())) < 4 / 2000**0.5
    assert abs(float(draws.mean()) - 0.5) < 4 * 12**-0.5 / 2000**0.5
