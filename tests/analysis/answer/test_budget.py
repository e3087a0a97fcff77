"""Budgets and counts as people write them."""

from __future__ import annotations

import pytest

from analysis.answer.budget import budget_text, flops_of, number_of
from analysis.errors import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (1e20, 1e20), ("1e20", 1e20), ("1e20 FLOPs", 1e20), ("1e20flop", 1e20), ("10^20", 1e20),
        ("10**20", 1e20), ("2 x 10^21 FLOPs", 2e21), ("2.5*10^21", 2.5e21), ("100,000,000", 1e8),
        ("1_000", 1e3), ("1.5·10^20", 1.5e20), ("10²⁰", 1e20), ("2 × 10²¹ FLOPs", 2e21),
    ],
)  # fmt: skip
def test_flops_are_read_as_people_write_them(text, value):
    assert flops_of(text) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    "text", ["", "many", "-1e20", "0", "nan", "inf", "10^999", True, "1e20 tokens", "2²", "10²³4"]
)
def test_other_text_is_refused_with_the_value(text):
    with pytest.raises(UserError, match=r'flops = .*such as "1e20", "10.20" or "2 x 10.21", above 0'):
        flops_of(text)


def test_gpus_days_and_utilisation_are_flops():
    assert flops_of(gpus=64, days=14, utilisation=0.5) == pytest.approx(64 * 989e12 * 14 * 86400 * 0.5)
    assert flops_of(gpus="8xA100", days=1) == pytest.approx(8 * 312e12 * 86400 * 0.4)
    assert budget_text(1e22, gpus="64xH100", days=14) == "1.0e22 FLOPs (64 H100 for 14 days)"


@pytest.mark.parametrize(
    ("budget", "sentence"),
    [
        ({}, "the budget is missing: give flops, or gpus and days"),
        ({"gpus": 8}, "the budget is missing: give days"),
        ({"days": 8}, "the budget is missing: give gpus"),
        ({"flops": 1e20, "gpus": 8, "days": 1}, "given twice"),
        ({"flops": 1e20, "utilisation": 0.5}, "utilisation = 0.5 is for GPUs and days"),
        ({"gpus": "8xV100", "days": 1}, "GPUs of kind A100, H100"),
        ({"gpus": "manyxH100", "days": 1}, "gpus = 'many'"),
        ({"gpus": 8, "days": -1}, "days = -1"),
        ({"gpus": 8, "days": 1, "utilisation": 40}, "utilisation = 40: a share of the peak"),
    ],
)
def test_half_a_budget_is_refused(budget, sentence):
    with pytest.raises(UserError, match=sentence):
        flops_of(**budget)


def test_counts_take_suffixes():
    assert [number_of(text, "params") for text in ("1.5B", "300M", "2k", 7, "1e9")] == [
        1.5e9,
        3e8,
        2e3,
        7,
        1e9,
    ]
    with pytest.raises(UserError, match="params = 'big'"):
        number_of("big", "params")
