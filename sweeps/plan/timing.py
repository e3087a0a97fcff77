"""How long a run will take on a kind of device: learned from finished runs, else guessed from a roofline.

The guess: matrix products at a share of the device's speed (measured here for processors, the maker's peak
for GPUs), plus a fixed cost per network operation, which dominates on small models. Finished runs correct it
by the ratio of their time to the guess for their device. Nearer sizes count more; runs on another kind of
device count only if the kind's own runs are far off in size. A guess is always labelled as one.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np

from scaling.spec import RunSpec
from sweeps.attempt.worker import device_name
from sweeps.ledger.types import Run
from sweeps.plan.rows import spec_columns
from sweeps.pools.devices import GPUS, gpu, is_cpu, kind_of

MATMUL_SHARE = 0.5
"""Share of matmul speed that a training step reaches (0.3-0.7 measured for such models on CPU cores)."""
OPERATION_S = {"cpu": 20e-6, "gpu": 20e-6}
"""Cost of one network operation, forward and backward, beyond its matrix products: 1.9 to 3.3 ms for a
step of 512 tokens on desk sizes 4x1 to 16x1, on one core of an AMD EPYC (November 2026)."""
OWN_SHARE = {"cpu": (0.1, 200e3), "gpu": (0.0, 1e7)}
"""The part of that cost which every replica of a stacked network pays for itself, the rest is paid once: a
share, and one more for so many values (tokens x width); at most all of it. Four replicas so take 1.5 times
the time of one at size 4x1, 1.9 at 16x1 and 2.8 at 48x1, where `benchmarks.replicas` measured 1.6 to 1.9,
1.9 to 2.0 and 2.7 to 2.8 on that core. Of a GPU it is a guess."""
OPERATIONS = (60, 45)
"""Operations of a step: outside the blocks (optimizer and loss included), and per block."""
START_S = 0.5
"""From a free worker to the first step: opening the data, building the network."""
GPU_MATMUL_SHARE = 0.35
"""Share of a GPU's peak, likewise."""
ASSUMED_GPU = "A100"
"""The kind of GPU of a plan if neither this machine nor a finished run has a GPU."""
NEARNESS = 0.7
"""Runs whose sizes differ by this (natural logarithm) weigh 1/e; another family counts as as far again."""
FAR_WEIGHT = 1e-3
"""The least weight of a run, at any distance."""
OTHER_KIND = 1e-3
"""Factor on the weight of a run on another kind of device."""

_MATMUL = """
import sys, time, numpy
for shape in sys.argv[2:]:
    rows, width = map(int, shape.split("x"))
    a = numpy.ones((rows, width), dtype=numpy.float32)
    b = numpy.ones((width, 4 * width), dtype=numpy.float32)
    a @ b
    best, end = 9e9, time.perf_counter() + float(sys.argv[1])
    while time.perf_counter() < end:
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    print(shape, 8 * rows * width * width / best)
"""

Shape = tuple[int, int]
"""Rows (tokens of a batch) and width (hidden units) of a matrix product."""


@cache
def matmul_flops_per_s(shapes: frozenset[Shape], threads: int, seconds: float = 0.03) -> dict[Shape, float]:
    """Measured float32 speed of (rows, width) x (width, 4 width) on this machine, the best of `seconds`.

    In a process of its own, because the number of threads is fixed when the library loads.
    """
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    env = {**os.environ, **dict.fromkeys(names, str(threads))}
    texts = [f"{rows}x{width}" for rows, width in shapes]
    command = [sys.executable, "-P", "-c", _MATMUL, str(seconds), *texts]
    out = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    speeds = {}
    for line in out.stdout.splitlines():
        shape, speed = line.split()
        rows, width = shape.split("x")
        speeds[int(rows), int(width)] = float(speed)
    return speeds


@cache
def gpu_names() -> tuple[str, ...]:
    """This machine's GPUs as nvidia-smi calls them."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        out = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in out.stdout.splitlines() if line.strip())


def usual_kind(gpus: float, done: Iterable[str] = ()) -> str:
    """The kind of device of a plan that names none.

    Processors: this machine's. GPUs: this machine's, else the kind of most finished runs (`done`: their
    devices), else ASSUMED_GPU.
    """
    if gpus <= 0:
        return device_name("cpu")
    here = [kind_of(name) for name in gpu_names()[:1]]
    if here and here[0] in GPUS:
        return here[0]
    kinds = Counter(kind for kind in map(kind_of, done) if kind in GPUS)
    return max(kinds, key=lambda kind: kinds[kind], default=ASSUMED_GPU)


def guesses_s(
    specs: Sequence[RunSpec], *, kind: str, cpus: float, gpus: float, during_sequences: int = 0
) -> list[float]:
    """Guessed seconds of each run on a kind of device: start of its process, training, evaluation.

    during_sequences: held-out sequences that are scored during a run, at all its points together.
    An unknown kind of GPU counts as ASSUMED_GPU, any processor as this machine's.
    """
    if not is_cpu(kind):
        rate = (gpus or 1.0) * (gpu(kind) or GPUS[ASSUMED_GPU]).flops_per_s * GPU_MATMUL_SHARE
        return [roofline_s(spec, rate, "gpu", during_sequences) for spec in specs]

    # Shapes are rounded to powers of two, so that a plan of 24 runs measures a handful of them.
    def rounded(value: float, low: int, high: int) -> int:
        return int(min(max(2 ** round(math.log2(value)), low), high))

    shapes = [
        (rounded(spec.batch_size * spec.data.context_length, 64, 4096), rounded(spec.size.hidden, 8, 1024))
        for spec in specs
    ]
    speeds = matmul_flops_per_s(frozenset(shapes), max(1, int(cpus)))
    rates = [speeds[shape] * MATMUL_SHARE for shape in shapes]
    return [roofline_s(spec, rate, "cpu", during_sequences) for spec, rate in zip(specs, rates, strict=True)]


def roofline_s(spec: RunSpec, flops_per_s: float, kind: str = "cpu", during_sequences: int = 0) -> float:
    """Seconds of a run whose matrix products run at `flops_per_s`; kind: "cpu" or "gpu"."""
    outside, per_block = OPERATIONS
    operations = outside + per_block * spec.size.num_layers
    share, values = OWN_SHARE[kind]
    own = min(1.0, share + spec.batch_size * spec.data.context_length * spec.size.hidden / values)
    operations_s = operations * OPERATION_S[kind] * (1 + own * (spec.replicas - 1))
    training = spec.replicas * spec.training_flops("exact") / flops_per_s + spec.steps * operations_s
    evaluated = spec.final_bounds * spec.evaluation.sequences + during_sequences
    evaluation = spec.replicas * spec.evaluation_flops(evaluated) / flops_per_s
    return START_S + training + evaluation


class Experience:
    """Finished runs, which predict the times of others."""

    def __init__(self, done: Iterable[tuple[Run, float]] = ()) -> None:
        """done: each run with its guessed seconds on its kind of device."""
        runs = tuple(done)
        kinds = [kind_of(str(run.device)) for run, _ in runs]
        self.kinds = Counter(kinds)
        self._kinds = np.array(kinds)
        self._families = np.array([run.family for run, _ in runs])
        columns = [run.columns or spec_columns(RunSpec.from_dict(run.spec)) for run, _ in runs]
        self._sizes = np.log([float(row["params"]) for row in columns])
        self._ratios = np.log([run.worked_s / max(guess_s - START_S, 1e-3) for run, guess_s in runs])

    def seconds(self, guess_s: float, family: str, params: float, kind: str) -> float:
        """The guess, its part after the start multiplied by the ratio of time to guess of similar runs."""
        if not any(is_cpu(other) == is_cpu(kind) for other in self.kinds):
            return guess_s  # a processor tells nothing about a GPU
        distance = np.abs(math.log(params) - self._sizes) + NEARNESS * (self._families != family)
        weights = np.exp(-((distance / NEARNESS) ** 2)) + FAR_WEIGHT
        weights *= np.where(self._kinds == kind, 1.0, OTHER_KIND)
        weights *= np.char.startswith(self._kinds, "cpu") == is_cpu(kind)
        ratio = math.exp(float(weights @ self._ratios) / float(weights.sum()))
        return START_S + (guess_s - START_S) * ratio
