"""Processes that train on request, so that two programs can be timed in turn under different conditions.

A `Stepper` is a child process with its own environment (allocator, threads) that holds one network per
program and family; `Stepper.window` asks it for a few optimizer steps and gets their times back. Between
windows it sleeps. Samples say how busy the rest of the machine was, so that noisy ones can be told apart.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.textbook import LOSSES, Textbook
from scaling import flops
from scaling.families import family_class
from scaling.ladder import Size
from scaling.spec import DataSpec, OptimizerSpec, RunSpec
from scaling.training import loop
from scaling.training.machine import matmul_peak
from sweeps.pools.base import WORKER_ENVIRONMENT

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "uniform, curriculum": ("uniform", {"curriculum": "top_k", "curriculum_share": 1.0}),
    "esoteric, alpha_0 1/2": ("esoteric", {"alpha_0": 0.5}),
}
"""Labels that are timed beside the plain families: a family and its options."""

QUIET = 0.08
"""A sample counts as quiet when other processes took at most this share of the machine meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Network and batch of a step."""

    name: str
    size: Size
    context_length: int
    vocab_size: int
    batch_size: int

    @property
    def tokens(self) -> int:
        return self.batch_size * self.context_length


def _shape(name: str, hidden: int, layers: int, heads: int, length: int, vocab: int, batch: int) -> Shape:
    size = Size(name=name, hidden=hidden, num_layers=layers, num_heads=heads)
    return Shape(name=name, size=size, context_length=length, vocab_size=vocab, batch_size=batch)


SHAPES = {
    "A": _shape("A", 64, 4, 2, 128, 256, 32),
    "B": _shape("B", 256, 6, 4, 256, 4096, 8),
    "C": _shape("C", 256, 6, 4, 512, 32001, 2),
}
"""A: a large desk run on bytes. B: a BPE vocabulary. C: the published study's smallest network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One window of steps."""

    seconds_per_step: float
    cpu_s_per_step: float
    """Of all threads. With one thread it is the step's time without the waiting for a busy processor."""
    foreign: float | None
    """Share of the machine that other processes took; None if the system does not report it."""

    @property
    def quiet(self) -> bool:
        return self.foreign is None or self.foreign <= QUIET


def _busy_s() -> float | None:
    """CPU seconds that all processes (and, on a shared host, other machines) have taken since boot."""
    try:
        with open("/proc/stat", encoding="utf-8") as file:
            user, nice, system, _idle, _wait, irq, softirq, steal = map(int, file.readline().split()[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


class Watch:
    """How much of the machine others took between `start` and `foreign`."""

    def __init__(self) -> None:
        self._busy, self._wall = _busy_s(), time.perf_counter()

    def foreign(self, own_cpu_s: float) -> float | None:
        busy = _busy_s()
        if busy is None or self._busy is None:
            return None
        wall = time.perf_counter() - self._wall
        return max(0.0, busy - self._busy - own_cpu_s) / (wall * (os.cpu_count() or 1))


def wait_for_quiet(limit_s: float = 5.0) -> None:
    """Return once the machine has been quiet for a fifth of a second, or after `limit_s`."""
    deadline = time.perf_counter() + limit_s
    while time.perf_counter() < deadline:
        watch = Watch()
        time.sleep(0.2)
        foreign = watch.foreign(0.0)
        if foreign is None or foreign <= QUIET:
            return


class Stepper(contextlib.AbstractContextManager["Stepper"]):
    """A child process that trains `program` ("project" or "textbook") at one shape."""

    def __init__(
        self,
        program: str,
        shape: Shape,
        *,
        threads: int,
        tuned: bool = True,
        device: str = "cpu",
        precision: str = "float32",
    ) -> None:
        environment = {k: v for k, v in os.environ.items() if k not in WORKER_ENVIRONMENT}
        environment |= {"OMP_NUM_THREADS": str(threads), **(WORKER_ENVIRONMENT if tuned else {})}
        request = {"program": program, "shape": shape.name, "device": device, "precision": precision}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.steps", json.dumps(request)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self._read()  # it is ready

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]

    def window(self, family: str, seconds: float) -> Sample:
        """Train `family` for about `seconds`, at least two steps."""
        self.start(family, seconds)
        return self.finish()

    def start(self, family: str, seconds: float) -> None:
        assert self._process.stdin is not None, "opened as a pipe"
        self._process.stdin.write(json.dumps({"family": family, "seconds": seconds}) + "\n")
        self._process.stdin.flush()

    def finish(self) -> Sample:
        return Sample(**self._read())

    def peak(self) -> float:
        """Best FLOP/s of a large matrix product in this process, now."""
        self.start("peak", 0.0)
        return float(self._read()["flops_per_s"])

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None, "opened as a pipe"
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a benchmark process ended with code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


# -- the child ---------------------------------------------------------------------------------------


class _RandomText:
    """Random ids that are there already: the benchmark is of the step, not of a disk."""

    bytes_per_token = None

    def __init__(self, shape: Shape, num_ids: int) -> None:
        rng = np.random.default_rng(0)
        self._ids = rng.integers(0, num_ids, size=(64, shape.context_length))

    def train_batch(self, first_sequence: int, count: int, context_length: int, seed: int) -> Any:
        return self._ids[np.arange(first_sequence, first_sequence + count) % len(self._ids)]

    def heldout(self, count: int, context_length: int) -> Any:
        return self._ids[:count]

    def decode(self, ids: Any) -> str:
        return str(ids)


def project_step(family: str, shape: Shape, device: str, precision: str) -> Callable[[], float]:
    """One optimizer step as `scaling.training.train` takes it: batch, noise, gradient, clipping, update."""
    family, options = VARIANTS.get(family, (family, {}))
    num_ids = predicted_ids(family, shape)
    assert family_class(family).vocab_size_for(num_ids) == shape.vocab_size, "the shapes count a mask id in"
    data = DataSpec(
        corpus="random", tokenizer="none", fingerprint="none", num_token_ids=num_ids,
        context_length=shape.context_length,
    )  # fmt: skip
    sequences = shape.batch_size * 10**6
    spec = RunSpec(
        family=family,
        family_options=options,
        size=shape.size,
        budget=flops.training_flops(shape.size, shape.vocab_size, shape.context_length, sequences),
        sequences=sequences,
        batch_size=shape.batch_size,
        data=data,
        optimizer=OptimizerSpec(learning_rate=1e-4, schedule="constant"),
        precision=precision,  # type: ignore[arg-type]
    )
    # The loop's own parts, so that the timed step is the real one.
    run = loop._prepare(spec, _RandomText(shape, num_ids), device, None, False)
    with torch.no_grad():  # no kernel shall see the zeros that gates and head start with
        for parameter in run.model.parameters():
            parameter.normal_(std=0.02)

    def step() -> float:
        losses, norms = loop._gradient(run)
        run.optimizer.step(spec.optimizer.learning_rate, norms)
        run.progress.step += 1
        return losses[0]

    return step


def textbook_step(family: str, shape: Shape, device: str, precision: str) -> Callable[[], float]:
    """One step of the textbook: loss, backward, AdamW with torch's defaults, no clipping."""
    num_ids = predicted_ids(family, shape)
    causal = family_class(family).causal
    model = Textbook(shape.size, shape.vocab_size, num_ids, shape.context_length, causal=causal).to(device)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.02)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    data = _RandomText(shape, num_ids)
    done = 0

    def step() -> float:
        nonlocal done
        ids = data.train_batch(done * shape.batch_size, shape.batch_size, shape.context_length, 0)
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = LOSSES[family](model, torch.from_numpy(ids).to(device), shape.vocab_size)
        loss.backward()
        optimizer.step()
        done += 1
        return float(loss.detach())

    return step


def predicted_ids(family: str, shape: Shape) -> int:
    """Ids of text: the vocabulary without the mask id, if the family has one."""
    return shape.vocab_size - (family_class(family).vocab_size_for(shape.vocab_size) - shape.vocab_size)


def _serve(program: str, shape: Shape, device: str, precision: str) -> None:
    threads = int(os.environ["OMP_NUM_THREADS"])
    torch.set_num_threads(threads)
    build = {"project": project_step, "textbook": textbook_step}[program]
    steps: dict[str, Callable[[], float]] = {}
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request["family"] == "peak":
            matmul_peak.cache_clear()
            alone = threads == 1 and device == "cpu"
            peak = _peak_by_cpu_time(precision) if alone else matmul_peak(device, precision, threads)
            print(json.dumps({"flops_per_s": peak}), flush=True)
            continue
        if request["family"] not in steps:
            steps[request["family"]] = build(request["family"], shape, device, precision)
            for _ in range(3):
                steps[request["family"]]()
        step, seconds = steps[request["family"]], request["seconds"]
        watch, cpu, start = Watch(), time.process_time(), time.perf_counter()
        count, now = 0, start
        while count < 2 or now - start < seconds:
            step()
            count, now = count + 1, time.perf_counter()
        cpu_s = time.process_time() - cpu
        times = {"seconds_per_step": (now - start) / count, "cpu_s_per_step": cpu_s / count}
        print(json.dumps({**times, "foreign": watch.foreign(cpu_s)}), flush=True)


def _peak_by_cpu_time(precision: str) -> float:
    """The matrix-product peak of one thread in the same clock as a one-thread step: the processor's."""
    left, right = (torch.rand(1024, 1024).to(getattr(torch, precision)) for _ in range(2))
    out, best = torch.empty_like(left), math.inf
    for _ in range(5):
        start = time.process_time()
        for _ in range(5):
            torch.mm(left, right, out=out)
        best = min(best, time.process_time() - start)
    return 5 * 2 * 1024**3 / best


if __name__ == "__main__":
    _request = json.loads(sys.argv[1])
    _serve(**{**_request, "shape": SHAPES[_request["shape"]]})
