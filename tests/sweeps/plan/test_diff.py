"""A config changed under the same name is refused with what differs; why runs count as new."""

from __future__ import annotations

import copy

import pytest

from scaling.errors import UserError
from sweeps.config.load import parse_config
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.types import Needs, Run, State
from sweeps.plan.diff import check_unchanged, differences, remember, snapshot, why_new

TEXT = """
name: small
families: [{families}]
ladder: desk
grid: {{budgets: [1e9, 3e9], sizes: [4x1, 8x1]}}
context_length: 32
learning_rate: {{base: {rate}}}
batch: {{base_tokens: 512}}
resources: {{cpus: {cpus}}}
"""

MEASURED = "evaluation: {during: 4, during_sequences: 8}\n"


def config(families: str = "ar", rate: float = 8e-3, cpus: int = 1):
    return parse_config(TEXT.format(families=families, rate=rate, cpus=cpus), source="small.yaml")


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path) as ledger:
        remember(ledger, snapshot(config(), "f1"))
        yield ledger


def test_what_changes_no_run_is_no_change(ledger):
    check_unchanged(ledger, snapshot(config(), "f1"))
    check_unchanged(ledger, snapshot(config(cpus=4), "f1"))
    check_unchanged(ledger, snapshot(config(families="ar, uniform"), "f1"))
    check_unchanged(ledger, snapshot(config(families="uniform"), "f1"))
    measured = parse_config(TEXT.format(families="ar", rate=8e-3, cpus=1) + MEASURED, source="small.yaml")
    assert measured.evaluation.during == 4
    check_unchanged(ledger, snapshot(measured, "f1"))


def test_a_change_is_told_with_old_and_new_value_and_the_way_out(ledger):
    with pytest.raises(UserError, match=r"'small'.*learning_rate.base 0.008 -> 0.004.*--extend"):
        check_unchanged(ledger, snapshot(config(rate=4e-3), "f1"))
    with pytest.raises(UserError, match=r"data.fingerprint f1 -> f2"):
        check_unchanged(ledger, snapshot(config(), "f2"))
    with pytest.raises(UserError, match=r"options.ar.start none -> one_token"):
        check_unchanged(ledger, snapshot(config(families="ar: {start: one_token}"), "f1"))


def test_families_swept_before_are_remembered(ledger):
    remember(ledger, snapshot(config(families="masked: {objective: nelbo}"), "f1"))
    check_unchanged(ledger, snapshot(config(), "f1"))
    with pytest.raises(UserError, match=r"options.masked.objective nelbo -> low_variance"):
        check_unchanged(ledger, snapshot(config(families="masked: {objective: low_variance}"), "f1"))


def test_a_ledger_that_knows_no_config_takes_any(tmp_path):
    with Ledger(tmp_path / "old") as ledger:
        check_unchanged(ledger, snapshot(config(), "f1"))


def test_differences_are_named_by_their_path():
    before = {"a": {"b": 1.0, "c": [1, 2]}, "d": None}
    assert list(differences(before, {"a": {"b": 2.0, "c": [1, 2]}, "d": "x", "e": 1e-7})) == [
        ("a.b", "1 -> 2"),
        ("d", "none -> x"),
        ("e", "none -> 1e-07"),
    ]
    assert list(differences(before, before)) == []


# --- runs that count as new

SPEC = {
    "family": "uniform",
    "size": {"name": "8x1", "hidden": 8},
    "budget": 1e9,
    "seed": 1,
    "optimizer": {"learning_rate": 8e-3, "betas": [0.9, 0.95]},
    "batch_size": 4,
}


def spec(**changes):
    changed = copy.deepcopy(SPEC)
    for path, value in changes.items():
        place = changed
        *parents, last = path.split("__")
        for name in parents:
            place = place[name]
        place[last] = value
    return changed


def past(key: str, values) -> Run:
    columns = dict.fromkeys(("owner", "traceback", "started", "ended", "host", "device"))
    return Run(
        key=key,
        family="uniform",
        spec=values,
        columns={},
        predicted_s=1,
        needs=Needs(),
        state=State.FINISHED,
        attempt=1,
        sentence="",
        result={},
        changed=0,
        **columns,
    )


def test_runs_that_differ_alike_share_a_sentence():
    planned = [spec(budget=b, optimizer__learning_rate=4e-3) for b in (1e9, 2e9, 3e9)]
    ledger = [past(f"old{b}", spec(budget=b)) for b in (1e9, 2e9, 3e9)]
    assert why_new(planned, ["a", "b", "c"], ledger) == [
        "3 runs count as new: optimizer.learning_rate 0.008 -> 0.004"
    ]


def test_values_that_differ_by_run_are_shown_by_example():
    planned = [spec(budget=b, optimizer__learning_rate=b * 1e-12) for b in (1e9, 2e9, 3e9)]
    ledger = [past(f"old{b}", spec(budget=b)) for b in (1e9, 2e9, 3e9)]
    [sentence] = why_new(planned, ["a", "b", "c"], ledger)
    assert sentence.endswith("optimizer.learning_rate 0.008 -> 0.001, 0.008 -> 0.002, ...")


def test_different_differences_get_a_sentence_each():
    planned = [spec(batch_size=8), spec(seed=2, optimizer__betas=[0.9, 0.99], batch_size=8)]
    ledger = [past("x", spec()), past("y", spec(seed=2))]
    assert why_new(planned, ["a", "b"], ledger) == [
        "1 run counts as new: batch_size 4 -> 8",
        "1 run counts as new: optimizer.betas [0.9, 0.95] -> [0.9, 0.99]; batch_size 4 -> 8",
    ]


def test_the_nearest_earlier_run_is_the_one_to_compare_with():
    ledger = [past("far", spec(batch_size=2, optimizer__learning_rate=1.0)), past("near", spec(batch_size=2))]
    assert why_new([spec()], ["a"], ledger) == ["1 run counts as new: batch_size 2 -> 4"]


def test_what_the_ledger_has_and_what_is_like_nothing_in_it_is_no_news():
    ledger = [past("a", spec()), past("b", spec(batch_size=2))]
    assert why_new([spec()], ["a"], ledger) == []
    assert why_new([spec(seed=7)], ["new"], ledger) == []
    assert why_new([spec()], ["new"], [past("planned", spec(batch_size=2))][:0]) == []
    assert why_new([spec(), spec(batch_size=2)], ["new", "b"], [past("b", spec(batch_size=2))]) == []
