"""What a machine can do is measured; how it multiplies depends on its kind alone."""

from __future__ import annotations

import pytest
import torch

from scaling.training import machine
from scaling.training.machine import ONEDNN_WIDTH, float32_route, matmul_peak


@pytest.fixture(autouse=True)
def fresh_answers():
    float32_route.cache_clear()
    yield
    float32_route.cache_clear()


@pytest.mark.parametrize(("vendor", "hidden"), [("GenuineIntel", 512), (None, 512), ("AuthenticAMD", 64)])
def test_matrix_products_stay_as_they_are_where_onednn_does_not_pay(monkeypatch, vendor, hidden):
    monkeypatch.setattr(machine, "_cpuinfo", lambda entry: vendor)
    assert float32_route(hidden) == "highest"


def test_the_fast_route_is_taken_only_where_it_is_float32(monkeypatch):
    monkeypatch.setattr(machine, "_cpuinfo", lambda entry: "AuthenticAMD")
    before = torch.get_float32_matmul_precision()
    route = float32_route(ONEDNN_WIDTH)
    assert torch.get_float32_matmul_precision() == before
    left, right = torch.randn(2, 300, 300).unbind()
    torch.set_float32_matmul_precision(route)
    error = (left @ right - left.double() @ right.double()).norm() / (left.double() @ right.double()).norm()
    torch.set_float32_matmul_precision(before)
    assert error < 5e-6
    float32_route.cache_clear()
    monkeypatch.setattr(machine, "ONEDNN_ERROR", 0.0)
    assert float32_route(ONEDNN_WIDTH) == "highest", "a route with any error is refused here"


def test_the_peak_is_that_of_a_machine():
    assert matmul_peak() > 1e8
