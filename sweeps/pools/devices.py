"""Kinds of processor: how drivers, torch and Ray call a GPU, its peak speed and its memory.

Run times are kept by kind: the model of a GPU, in the variants that differ in speed or memory, or a
processor's name as `sweeps.attempt.worker.device_name` gives it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from scaling.errors import unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A kind of GPU. Speed: peak of dense matrix products in bfloat16, or in float16 if it has none."""

    kind: str
    flops_per_s: float
    memory_bytes: float


# Makers' data sheets, dense (half of the figure "with sparsity"): NVIDIA HGX B300 and B200, GB200 NVL72,
# H200, H100 (SXM, PCIe, NVL), GH200, H20, A100, L40S, L40, L4, A40, A30, A10, V100 and T4, RTX PRO 6000, and
# the white papers of GA102 and AD102 for RTX cards (with float32 accumulation); AWS for the A10G of its g5
# instances; AMD Instinct MI325X, MI300X, MI250X (of which programs see each half as a GPU). A name without
# a memory stands for the larger variant: a run too big for the smaller one gets a smaller micro-batch there,
# while one that is refused never runs.
_SHEETS = {
    "B300": (2250e12, 268),
    "GB300": (2500e12, 279),
    "B200": (2250e12, 180),
    "GB200": (2500e12, 186),
    "H200": (989.4e12, 141),
    "H200-NVL": (835.5e12, 141),
    "GH200": (989.4e12, 96),
    "H100": (989.4e12, 80),
    "H100-NVL": (835.5e12, 94),
    "H100-PCIe": (756e12, 80),
    "H800": (989.4e12, 80),
    "H20": (148e12, 96),
    "A100": (312e12, 80),
    "A100-40G": (312e12, 40),
    "A800": (312e12, 80),
    "L40S": (362.05e12, 48),
    "L40": (181.05e12, 48),
    "L4": (121e12, 24),
    "A40": (149.7e12, 48),
    "A30": (165e12, 24),
    "A10": (125e12, 24),
    "A10G": (70e12, 24),
    "RTX-PRO-6000": (503.8e12, 96),
    "RTX-5090": (209.5e12, 32),
    "RTX-4090": (165.2e12, 24),
    "RTX-3090": (71e12, 24),
    "RTX-A6000": (154.8e12, 48),
    "V100": (125e12, 32),
    "V100-16G": (125e12, 16),
    "T4": (65e12, 16),
    "MI325X": (1307.4e12, 256),
    "MI300X": (1307.4e12, 192),
    "MI250X": (191.5e12, 64),
}
GPUS: Mapping[str, Gpu] = {
    kind: Gpu(kind=kind, flops_per_s=peak, memory_bytes=gigabytes * 1e9)
    for kind, (peak, gigabytes) in _SHEETS.items()
}


def gpu(name: str) -> Gpu | None:
    """The kind of GPU behind a name: `NVIDIA A100-SXM4-40GB`, `A100-40G`, `a100`; None if it is unknown.

    None, too, for a slice of a GPU (MIG): its name does not contain its share of the speed.
    """
    words = _words(name)
    if "MIG" in words:
        return None
    fitting = [kind for kind in GPUS if _words(kind) <= words]
    return GPUS[max(fitting, key=lambda kind: len(_words(kind)))] if fitting else None


def known_gpu(name: str) -> Gpu:
    """As `gpu`; UserError, with the nearest name, if it is unknown."""
    kind = gpu(name)
    if kind is None:
        raise unknown("kind of GPU", name, GPUS)
    return kind


def kind_of(device: str) -> str:
    """The kind of `device`: of its GPU, or the name itself if that is a CPU's or unknown."""
    kind = gpu(device) if not is_cpu(device) else None
    return kind.kind if kind else device


def is_cpu(kind: str) -> bool:
    return kind.startswith("cpu")


def _words(name: str) -> frozenset[str]:
    """A100-SXM4-40GB -> A100, SXM4, 40G."""
    words = re.findall(r"[A-Z0-9]+", name.upper())
    return frozenset(re.sub(r"^(\d+)GB$", r"\1G", word) for word in words)
