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


ONEDNN_WIDTH = 128
ONEDNN_ERROR = 2e-6


@cache
def float32_route(hidden: int) -> str:
    """The setting of `torch.set_float32_matmul_precision` that is fastest here and still float32: by width.

    MKL takes a slow path on AMD processors; "medium" leads to oneDNN instead, which was 1.5 to 1.7 times as
    fast for a step of width 256 and slower at width 64 (EPYC, Zen 5). It may round to bfloat16 where the
    processor has units for that, so a product is compared with float64 first. Nothing is timed: the answer
    depends on the kind of processor alone, for runs must repeat bit for bit.
    """
    if hidden < ONEDNN_WIDTH or _cpuinfo("vendor_id") != "AuthenticAMD":
        return "highest"
    left, right = (torch.sin(torch.arange(65536.0) * k).view(256, 256) for k in (0.7, 1.3))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    product = left @ right
    torch.set_float32_matmul_precision(before)
    exact = left.double() @ right.double()
    error = float((product - exact).norm() / exact.norm())
    return "medium" if error < ONEDNN_ERROR else "highest"


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _cpuinfo(entry: str) -> str | None:
    """An entry of Linux's /proc/cpuinfo, of its first processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name.strip() == entry:
                    return value.strip()
    except OSError:
        pass
    return None
