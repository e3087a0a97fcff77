"""Several seeds as one stacked network: how much longer does a step of R replicas take than one of one?

Real training steps of desk runs (512 tokens of 256 ids, a thread), one network and R stacked ones in
turn, so that a busy machine slows both alike; seconds are those of the processor. On a GPU they are those of
the clock, at sizes up to 3 million parameters.

    python -m benchmarks.replicas [--device cuda] [--family ar uniform] [--size 8x1 24x1] [--steps 60]

Prints for each family and size the time of R replicas over that of one, and how many times as many runs an
hour that makes. All numbers go to build/benchmarks/replicas.json.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from benchmarks import options, save
from scaling.families import FAMILIES
from scaling.ladder import LADDERS
from scaling.spec import DataSpec, OptimizerSpec, RunSpec
from scaling.training import loop
from sweeps.pools.base import WORKER_ENVIRONMENT

REPLICAS = (2, 4, 8)
CONTEXT_LENGTH, NUM_IDS = 32, 256
DESK_SIZES = ["4x1", "8x1", "16x1", "24x1"]
GPU_SIZES = ["48x1", "96x2", "192x5"]
"""Up to 2.4 million parameters."""
OPTIONS = {"block": {"block_size": 4}, "gaussian": {"embed_dim": 8}}
"""As in the desk sweep."""
TARGET = 1.5
"""Of four replicas at sizes up to 24x1, set before stacking was written."""


class _RandomText:
    """Uniform ids, so that nothing is prepared; sequence n depends on (seed, n) alone."""

    bytes_per_token = None

    def train_batch(self, first_sequence: int, count: int, context_length: int, seed: int) -> np.ndarray:
        return np.random.default_rng([seed, first_sequence]).integers(NUM_IDS, size=(count, context_length))

    def heldout(self, count: int, context_length: int) -> np.ndarray:
        return np.random.default_rng(0).integers(NUM_IDS, size=(count, context_length))

    def decode(self, ids: np.ndarray) -> str:
        return str(ids.tolist())


def spec_of(family: str, size: str, batch_size: int) -> RunSpec:
    """A desk run without its data and budget, which change no step's time."""
    return RunSpec(
        family=family,
        family_options=OPTIONS.get(family, {}),
        size=LADDERS["desk"][size],
        budget=1e12,
        sequences=batch_size * 100_000,
        batch_size=batch_size,
        data=DataSpec(
            corpus="random", tokenizer="bytes", fingerprint="0", num_token_ids=NUM_IDS,
            context_length=CONTEXT_LENGTH,
        ),
        optimizer=OptimizerSpec(learning_rate=1e-3),
    )  # fmt: skip


def stepper(spec: RunSpec, device: str) -> Callable[[], float]:
    """A function that makes one training step and returns its seconds."""
    run = loop._prepare(spec, _RandomText(), device, None, False)
    clock = time.perf_counter if device == "cuda" else time.process_time

    def step() -> float:
        started = clock()
        _, norms = loop._gradient(run)  # the losses are read: on a GPU that waits for them
        run.optimizer.step(spec.optimizer.learning_rate, norms)
        if device == "cuda":
            torch.cuda.synchronize()
        run.progress.step += 1
        return clock() - started

    for _ in range(5):
        step()
    return step


def measure(spec: RunSpec, device: str, steps: int) -> dict[int, float]:
    """Seconds of a step by number of replicas: the lower quartile, since disturbances make steps longer."""
    steppers = {count: stepper(replace(spec, replicas=count), device) for count in (1, *REPLICAS)}
    seconds: dict[int, list[float]] = {count: [] for count in steppers}
    for _ in range(steps):
        for count, step in steppers.items():
            seconds[count].append(step())
    return {count: float(np.quantile(values, 0.25)) for count, values in seconds.items()}


def main() -> None:
    parser = options(__doc__, "replicas")
    parser.add_argument("--family", nargs="*", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument("--size", nargs="*", choices=list(LADDERS["desk"]))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=16)
    arguments = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in WORKER_ENVIRONMENT.items()):
        # the allocator reads its settings when a process starts
        words = [sys.executable, "-m", "benchmarks.replicas", *sys.argv[1:]]
        sys.exit(subprocess.run(words, env={**os.environ, **WORKER_ENVIRONMENT}).returncode)
    torch.set_num_threads(1)
    sizes = arguments.size or (GPU_SIZES if arguments.device == "cuda" else DESK_SIZES)
    rows = []
    print(
        "| family | size | ms a step | " + " | ".join(f"R = {count}" for count in REPLICAS) + " | runs/hour |"
    )
    print("|---" * (4 + len(REPLICAS)) + "|")
    for family in arguments.family:
        for size in sizes:
            seconds = measure(spec_of(family, size, arguments.batch_size), arguments.device, arguments.steps)
            ratios = {count: seconds[count] / seconds[1] for count in REPLICAS}
            best = max(count / ratio for count, ratio in ratios.items())
            rows.append({"family": family, "size": size, "seconds": seconds, "more_runs": best})
            cells = " | ".join(f"{ratio:.2f}" for ratio in ratios.values())
            print(f"| `{family}` | {size} | {seconds[1] * 1e3:.2f} | {cells} | x {best:.1f} |", flush=True)
    print(f"R = n: seconds of a step of n replicas over those of one (target at R = 4: {TARGET})")
    save(arguments.out, rows)


if __name__ == "__main__":
    main()
