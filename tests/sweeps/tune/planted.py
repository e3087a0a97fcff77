"""A study whose runs do not train: a simulated pool gives each the loss that a planted law has for it."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scaling.spec import RunSpec
from sweeps.attempt.job import Job, Outcome
from sweeps.config.load import parse_config
from sweeps.config.model import SweepConfig
from sweeps.plan.plan import DataFacts, extent_of
from sweeps.tune.space import Space
from tests.sweeps.simulation import Clock, SimulatedPool

CONFIG = """
name: small
families: [ar, uniform]
ladder: desk
grid: {{budgets: [1e9, 4e9], sizes: [8x1, 12x1, 16x1]}}
context_length: 32
data: {{corpus: "{corpus}"}}
learning_rate: {{base: 1e-2, at_params: 1e4, exponent: -0.5}}
batch: {{base_tokens: 256}}
evaluation: {{sequences: 8, noise_levels: 2}}
tuning:
  points: {{1e9: [8x1, 16x1], 4e9: [24x1]}}
  trials: 12
  generation: 6
"""
FACTS = DataFacts(corpus="stdlib", tokenizer="bytes", fingerprint="00", num_token_ids=256)
BASE, PARAMS, STEPS, BATCH = 1.2e-2, -0.4, -0.25, 280.0
"""The best rate at 1e4 params and 200 steps, its exponents, and the best batch in tokens."""


def config_of(corpus: str = "stdlib", **changes: str) -> SweepConfig:
    text = CONFIG.format(corpus=corpus)
    for old, new in changes.items():
        assert old in text
        text = text.replace(f"{old}:", new)
    return parse_config(text, source="small.yaml")


def space_of(family: str = "ar", text: str = "") -> Space:
    return Space.of(parse_config(CONFIG.format(corpus="stdlib") + text, source="small.yaml"), family, FACTS)


def planted_loss(spec: RunSpec, noise: float = 0.003) -> float:
    """A paraboloid about the planted laws, with noise that is the run's own."""
    extent = extent_of(spec)
    best = BASE * (extent.params / 1e4) ** PARAMS * (extent.steps / 200) ** STEPS
    # not of the key, which knows the place of the text
    place = f"{spec.size.name} {spec.budget} {spec.optimizer.learning_rate} {spec.batch_size} {spec.seed}"
    own = np.random.default_rng(zlib.crc32(place.encode())).standard_normal()
    rate = math.log(spec.optimizer.learning_rate / best)
    return 2.5 + 0.05 * rate**2 + 0.1 * math.log(extent.batch / BATCH) ** 2 + noise * float(own)


def finish(job: Job) -> tuple[float, Outcome]:
    result = {"key": job.key, "bound": planted_loss(RunSpec.from_dict(job.spec)), "steps_done": 10}
    return 1.0, Outcome(status="finished", sentence="done", result=result)


def simulate(
    monkeypatch: pytest.MonkeyPatch, behaviour: Callable[[Job], tuple[float, Outcome]] = finish
) -> list[str]:
    """Let `scaling tune` run on a simulated pool; the list then fills with the keys of runs that start."""
    started: list[str] = []

    def pool(*_: object) -> SimulatedPool:
        def begin(job: Job) -> tuple[float, Outcome]:
            started.append(job.key)
            return behaviour(job)

        return SimulatedPool(Clock(), begin, slots=8)

    monkeypatch.setattr("sweeps.tune.drive.start_pool", pool)
    return started


def write_config(folder: Path, corpus: str) -> Path:
    path = folder / "small.yaml"
    path.write_text(CONFIG.format(corpus=corpus))
    return path
