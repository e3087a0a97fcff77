"""Kinds of GPU: the names that tools give them lead to one kind each."""

from __future__ import annotations

import pytest

from scaling.errors import UserError
from sweeps.attempt.worker import device_name
from sweeps.pools.devices import GPUS, gpu, is_cpu, kind_of, known_gpu


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("NVIDIA H200", "H200"),
        ("NVIDIA H20", "H20"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA H100 NVL", "H100-NVL"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100-PCIE-40GB", "A100-40G"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L40", "L40"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA A10G", "A10G"),
        ("Tesla V100-SXM2-16GB", "V100-16G"),
        ("Tesla V100-SXM2-32GB", "V100"),
        ("Tesla T4", "T4"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
        ("NVIDIA RTX A6000", "RTX-A6000"),
        # As Ray names them.
        ("A100-80G", "A100"),
        ("A100-40G", "A100-40G"),
        ("AMD-Instinct-MI300X-OAM", "MI300X"),
        ("RTX-PRO-6000", "RTX-PRO-6000"),
        # As people write them.
        ("h100", "H100"),
    ],
)
def test_names_of_tools_lead_to_a_kind(name, kind):
    assert gpu(name) == GPUS[kind]
    assert kind_of(name) == kind


@pytest.mark.parametrize("kind", GPUS)
def test_a_kind_is_its_own_name_and_possible(kind):
    assert gpu(kind) == GPUS[kind]
    assert 60e12 < GPUS[kind].flops_per_s < 3e15
    assert 16e9 <= GPUS[kind].memory_bytes < 300e9


def test_what_is_not_known_stays_its_own_kind():
    assert gpu("NVIDIA Quadro P400") is None
    assert kind_of("NVIDIA Quadro P400") == "NVIDIA Quadro P400"
    assert gpu("NVIDIA H100 80GB HBM3 MIG 3g.40gb") is None, "a slice is not a whole GPU"
    with pytest.raises(UserError, match=r"unknown kind of GPU 'H10O'; did you mean 'H100'"):
        known_gpu("H10O")


def test_a_processor_is_a_kind_of_its_own():
    name = device_name("cpu")
    assert is_cpu(name)
    assert kind_of(name) == name
    assert kind_of("cpu: A10 of some maker") == "cpu: A10 of some maker"
