"""Speed of samplers: all that a user waits for, draws and posteriors included, not the network alone.

Warmed up, synchronised with the device, the median of several repeats with its spread, at a batch of one text
(latency) and at a batch as large as fits (tokens per second).
"""

from __future__ import annotations

import gc
import resource
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from scaling.errors import UserError
from scaling.families.base import Denoiser, Family
from scaling.sampling.loop import Texts, generate

MOST = 64
"""Texts of the largest batch that is tried."""
REPEATS = 5
MEMORY_SHARE = 0.8
"""Share of the free memory that a larger batch may be expected to take."""

Draw = Callable[[int, int], Texts]
"""Makes so many texts, from this number on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Numbers of one sampler, with the columns' names of the table of samples."""

    device: str
    batch: int
    """Texts made at once."""
    lowered: str = ""
    """Why the batch is smaller than the wanted one."""
    tokens_per_s: float
    """Tokens of finished text per second, at this batch: the median of the repeats."""
    tokens_per_s_low: float
    """The slowest repeat."""
    tokens_per_s_high: float
    """The fastest one. Of five repeats these two enclose the median of all repeats with 94% confidence."""
    latency_s: float
    """Seconds until a single text is finished, batch 1: the median of the repeats."""
    calls: int
    """Network function evaluations of a batch, the mean over repeats if it depends on the draws."""
    tokens_passed: int
    """Tokens that passed the network's blocks for one batch, of all texts, likewise."""
    peak_memory_bytes: int
    """On a GPU what tensors took at most; else what the process had in memory at most, with its libraries."""
    outside_share: float
    """Share of the time that was spent outside the network, at this batch."""


def text_seeds(seed: int, count: int, first: int = 0) -> list[int]:
    """Seeds of texts first, first + 1, ...: others for every seed."""
    return [(seed << 32) + number for number in range(first, first + count)]


def measure_speed(
    model: Denoiser,
    family: Family,
    length: int,
    *,
    batch: int | None = None,
    repeats: int = REPEATS,
    latency_repeats: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    **options: Any,
) -> tuple[Speed, list[Tensor]]:
    """The speed of a sampler, and the texts that it made on the way, ids (tokens,) each.

    batch: texts at once; by default the largest power of two up to 64 that fits into memory, and any batch is
    lowered if it does not. repeats: timed batches, `repeats` x batch texts in all; latency_repeats: timed
    single texts, as many by default. options: of `generate`, such as sampler, steps, filters. Whatever
    `generate` refuses is refused (UserError).
    """
    device = torch.device(device)

    def draw(count: int, first: int, timed: bool = False) -> Texts:
        texts = generate(
            model, family, text_seeds(seed, count, first), length, device=device, timed=timed, **options
        )
        _synchronise(device)
        return texts

    batch, lowered = _fitting(draw, batch, device)
    if batch > 1:
        draw(1, 0)
    gc.collect()  # not in the middle of a repeat
    latencies = [_seconds(draw, 1, number)[1] for number in range(latency_repeats or repeats)]
    _reset_peak(device)
    made, seconds = [], []
    for number in range(repeats):
        texts, took = _seconds(draw, batch, number * batch)
        made.append(texts)
        seconds.append(took)
    peak = _peak(device)
    # apart from the repeats, for on a GPU it waits for every call
    timed = draw(batch, 0, timed=True)
    speeds = [_tokens(texts) / took for texts, took in zip(made, seconds, strict=True)]
    result = Speed(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        batch=batch,
        lowered=lowered,
        tokens_per_s=statistics.median(speeds),
        tokens_per_s_low=min(speeds),
        tokens_per_s_high=max(speeds),
        latency_s=statistics.median(latencies),
        calls=round(statistics.mean(texts.calls for texts in made)),
        tokens_passed=round(statistics.mean(texts.tokens for texts in made)),
        peak_memory_bytes=peak,
        outside_share=max(0.0, 1 - timed.network_s / timed.seconds),
    )
    return result, [text for texts in made for text in finished(texts)]


def finished(texts: Texts) -> list[Tensor]:
    """Ids of each text up to its end, on the CPU."""
    pairs = zip(texts.ids.cpu(), texts.lengths.tolist(), strict=True)
    return [row[:length] for row, length in pairs]


def _tokens(texts: Texts) -> int:
    return int(texts.lengths.sum())


def _seconds(draw: Draw, count: int, first: int) -> tuple[Texts, float]:
    started = time.perf_counter()
    texts = draw(count, first)
    return texts, time.perf_counter() - started


def _fitting(draw: Draw, batch: int | None, device: torch.device) -> tuple[int, str]:
    """The batch to measure, drawn once (which warms up), and why it is lower than the wanted one.

    A batch is tried after one of half its size, and only if what that took, doubled, leaves room: where the
    system ends a process that takes too much, there is no error to catch.
    """
    goal = batch or MOST
    sizes = [1 << number for number in range((goal - 1).bit_length())] + [goal]
    place, fits, why = max(0, len(sizes) - 2) if batch else 0, 0, ""
    while True:
        taken = _memory_of(draw, sizes[place], device)
        if taken is None:
            why = "there is no memory for more"
            if fits or not place:
                break
            place -= 1
            continue
        fits = sizes[place]
        if why or fits == goal:
            break
        needed, free = taken * sizes[place + 1] / fits, _free(device)
        if needed > MEMORY_SHARE * free:
            why = f"{sizes[place + 1]} would take about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
            break
        place += 1
    if not fits:
        raise UserError(f"not even one text fits into the memory of {device}; choose a shorter length")
    return fits, f"batch {fits} instead of {goal}: {why}" if why else ""


def _memory_of(draw: Draw, count: int, device: torch.device) -> int | None:
    """Bytes that so many texts take; None if there are not as many."""
    _reset_peak(device)
    before = _in_use(device)
    try:
        draw(count, 0)
    except (MemoryError, RuntimeError) as error:
        if not is_short_of_memory(error):
            raise
    else:
        return max(0, _peak(device) - before)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return None


def is_short_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is too little memory, on a GPU or not."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


# -- the device ---------------------------------------------------------------------------------


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # Linux only; elsewhere the peak is that of the process's life
        Path("/proc/self/clear_refs").write_text("5")


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _in_use(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return int(psutil.Process().memory_info().rss)


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    return int(psutil.virtual_memory().available)
