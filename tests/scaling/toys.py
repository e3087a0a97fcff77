"""A corpus and a spec small enough to train in a blink."""

from __future__ import annotations

from typing import Any

import numpy as np

from scaling.ladder import Size
from scaling.spec import DataSpec, EvaluationSpec, OptimizerSpec, RunSpec

NUM_IDS, CONTEXT = 7, 6


class ToyData:
    """Noisy counting modulo 7; sequence n depends on (seed, n) alone. Remembers what it was asked for."""

    bytes_per_token: float | None = 1.0

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def train_batch(self, first_sequence: int, count: int, context_length: int, seed: int) -> np.ndarray:
        self.asked.append((first_sequence, count))
        numbers = range(first_sequence, first_sequence + count)
        return np.stack([self._sequence(seed, n, context_length) for n in numbers])

    def heldout(self, count: int, context_length: int) -> np.ndarray:
        return np.stack([self._sequence(-1, n, context_length) for n in range(count)])

    def decode(self, ids: np.ndarray) -> str:
        return "".join(map(str, ids.tolist()))

    @staticmethod
    def _sequence(seed: int, number: int, length: int) -> np.ndarray:
        generator = np.random.default_rng([seed + 1, number])
        steps = generator.choice([1, 1, 1, 3], size=length)
        return (generator.integers(NUM_IDS) + np.cumsum(steps)) % NUM_IDS


def toy_size(**changes: Any) -> Size:
    return Size(
        **{
            "name": "toy",
            "hidden": 8,
            "num_layers": 2,
            "num_heads": 2,
            "cond_dim": 4,
            "time_features": 8,
            **changes,
        }
    )


def toy_spec(family: str = "masked", **changes: Any) -> RunSpec:
    """20 steps of 8 sequences of 6 tokens, the last of 5 sequences; changes replace fields."""
    optimizer = {"learning_rate": 3e-3, "warmup_steps": 4, **changes.pop("optimizer", {})}
    evaluation = {"sequences": 16, "noise_levels": 4, **changes.pop("evaluation", {})}
    fields: dict[str, Any] = {
        "family": family,
        "size": toy_size(),
        "budget": 1e9,
        "sequences": 19 * 8 + 5,
        "batch_size": 8,
        "data": DataSpec(
            corpus="toy", tokenizer="ids", fingerprint="00", num_token_ids=NUM_IDS, context_length=CONTEXT
        ),
        "optimizer": OptimizerSpec(**optimizer),
        "evaluation": EvaluationSpec(**evaluation),
    }
    return RunSpec(**(fields | changes))
