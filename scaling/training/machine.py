"""What this machine can do: its measured matrix-product peak, the yardstick of every speed we report."""

from __future__ import annotations

import time
from functools import cache

import torch


@cache
def matmul_peak(device: str = "cpu", precision: str = "float32", threads: int | None = None) -> float:
    """Best FLOP/s of a few square matrix products on `device`, with as many threads as torch now uses.

    `threads` only separates cached answers of different thread counts. Takes about 0.1 s.
    """
    del threads
    dtype = getattr(torch, precision)
    width = 8192 if device.startswith("cuda") else 1024
    left = torch.rand(width, width, device=device).to(dtype)
    right = torch.rand(width, width, device=device).to(dtype)
    out = torch.empty_like(left)
    best = 0.0
    for repeat in range(4):
        _wait(device)
        start = time.perf_counter()
        torch.mm(left, right, out=out)
        _wait(device)
        elapsed = time.perf_counter() - start
        if repeat:  # the first one pays for set-up
            best = max(best, 2 * width**3 / elapsed)
    return best


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def device_name(device: str) -> str:
    """A name of the device's kind, to group timings by: the GPU's or the processor's model."""
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    import platform

    return platform.processor() or platform.machine()
