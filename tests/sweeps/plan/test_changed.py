"""A config changed under the same name is refused with what differs; families may be added freely."""

from __future__ import annotations

import pytest

from scaling.errors import UserError
from sweeps.config.load import parse_config
from sweeps.ledger.ledger import Ledger
from sweeps.plan.changed import check_unchanged, differences, note, snapshot

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


def config(families: str = "ar", rate: float = 8e-3, cpus: int = 1):
    return parse_config(TEXT.format(families=families, rate=rate, cpus=cpus), source="small.yaml")


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path) as ledger:
        note(ledger, snapshot(config(), "f1"))
        yield ledger


def test_what_changes_no_run_is_no_change(ledger):
    check_unchanged(ledger, snapshot(config(), "f1"))
    check_unchanged(ledger, snapshot(config(cpus=4), "f1"))
    check_unchanged(ledger, snapshot(config(families="ar, uniform"), "f1"))
    check_unchanged(ledger, snapshot(config(families="uniform"), "f1"))


def test_a_change_is_told_with_old_and_new_value_and_the_way_out(ledger):
    with pytest.raises(UserError, match=r"'small'.*learning_rate.base 0.008 -> 0.004.*--extend"):
        check_unchanged(ledger, snapshot(config(rate=4e-3), "f1"))
    with pytest.raises(UserError, match=r"data.fingerprint f1 -> f2"):
        check_unchanged(ledger, snapshot(config(), "f2"))
    with pytest.raises(UserError, match=r"options.ar.start none -> one_token"):
        check_unchanged(ledger, snapshot(config(families="ar: {start: one_token}"), "f1"))


def test_families_swept_before_are_remembered(ledger):
    note(ledger, snapshot(config(families="masked: {objective: nelbo}"), "f1"))
    check_unchanged(ledger, snapshot(config(), "f1"))
    with pytest.raises(UserError, match=r"options.masked.objective nelbo -> low_variance"):
        check_unchanged(ledger, snapshot(config(families="masked: {objective: low_variance}"), "f1"))


def test_a_ledger_that_knows_no_config_takes_any(tmp_path):
    with Ledger(tmp_path / "old") as ledger:
        check_unchanged(ledger, snapshot(config(), "f1"))


def test_differences_are_named_by_their_path():
    before = {"a": {"b": 1.0, "c": [1, 2]}, "d": None}
    assert list(differences(before, {"a": {"b": 2.0, "c": [1, 2]}, "d": "x", "e": 1e-7})) == [
        "a.b 1 -> 2",
        "d none -> x",
        "e none -> 1e-07",
    ]
    assert list(differences(before, before)) == []
