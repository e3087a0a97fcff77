"""Run tables with a known law, for tests that ask whether a fit finds it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

CHINCHILLA = (1.69, 406.4, 410.7, 0.34, 0.28)
BUDGETS = (1e17, 1e18, 1e19, 1e20, 1e21)


def loss_of(theta: Sequence[float], params: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    E, A, B, alpha, beta = theta
    return E + A / params**alpha + B / tokens**beta


def best_params(theta: Sequence[float], flops: float) -> float:
    """Compute-optimal size at C = 6ND, from the first-order condition alpha A N^-alpha = beta B D^-beta."""
    _, A, B, alpha, beta = theta
    return float(((alpha * A) / (beta * B) * (flops / 6) ** beta) ** (1 / (alpha + beta)))


def isoflop_table(
    theta: Sequence[float] = CHINCHILLA,
    *,
    budgets: Sequence[float] = BUDGETS,
    sizes: int = 15,
    span: float = 16.0,
    off_centre: float = 1.0,
    noise: float = 0.0,
    seed: int = 0,
    family: str | None = None,
) -> pd.DataFrame:
    """`sizes` runs per budget within a factor `span` of `off_centre` times the optimum; C = 6ND."""
    generator = np.random.default_rng(seed)
    rows = []
    for flops in budgets:
        params = best_params(theta, flops) * off_centre * np.geomspace(1 / span, span, sizes)
        tokens = flops / 6 / params
        loss = loss_of(theta, params, tokens) * np.exp(noise * generator.standard_normal(sizes))
        rows.append(pd.DataFrame({"budget": flops, "params": params, "tokens": tokens, "loss": loss}))
    table = pd.concat(rows, ignore_index=True)
    return table if family is None else table.assign(family=family)


def repeated_isoflops(
    repeats: int | Sequence[int] = 3,
    *,
    noise: float = 0.005,
    misfit: float = 0.0,
    cubic: float = 0.0,
    sizes: int = 6,
    seed: int = 0,
) -> pd.DataFrame:
    """Four budgets whose losses are parabolas, with a cubic part, in the log of size over 0.12 C^0.46.

    repeats: of every size, or of each of the sizes, as replicas of one run; misfit: standard deviation of
    what all repeats of a size have in common.
    """
    generator, rows = np.random.default_rng(seed), []
    counts = [repeats] * sizes if isinstance(repeats, int) else repeats
    for flops in BUDGETS[:4]:
        for u, count in zip(np.linspace(-1.2, 1.2, len(counts)).tolist(), counts, strict=True):
            params = 0.12 * flops**0.46 * np.exp(u)
            loss = 3 * (flops / 1e17) ** -0.05 * (1 + 0.03 * u**2 + cubic * u**3)
            loss *= np.exp(misfit * generator.standard_normal())
            rows += [
                {
                    "budget": flops, "params": params, "tokens": flops / 6 / params, "replica": replica,
                    "key": f"{flops:.0e} {u:.1f}", "seed": replica,
                    "loss": loss * np.exp(noise * generator.standard_normal()),
                }
                for replica in range(count)
            ]  # fmt: skip
    return pd.DataFrame(rows)


def samples_table(
    families: dict[str, tuple[float, float, float]],
    *,
    texts: int = 24,
    steps: Sequence[int] = (2, 4, 8, 16, 32, 64),
    noise: float = 0.1,
    seed: int = 0,
    length: int = 128,
) -> pd.DataFrame:
    """A table of samples: perplexity is floor + slope / steps, tokens per second are speed / steps, by family
    (floor, slope, speed); the texts' nats per token scatter by `noise`."""
    rng = np.random.default_rng(seed)
    rows = []
    for name, (floor, slope, speed) in families.items():
        for count in steps:
            nats = np.log(floor + slope / count) + rng.normal(0, noise, texts)
            rows.append({
                "family": name, "key": f"{name}0123456789abcdef"[:16], "params": 1e5, "budget": 3e10,
                "sampler": "ancestral", "steps": count, "options": "{}", "length": length, "texts": texts,
                "seed": 0, "batch": 16, "tokens_per_s": speed / count,
                "tokens_per_s_low": 0.98 * speed / count, "tokens_per_s_high": 1.02 * speed / count,
                "latency_s": 40 * length * count / speed, "calls": count, "judge": "ar 8x2 (89abcdef)",
                "judge_rule": "every token", "gen_ppl": np.exp(nats.mean()), "entropy": 4.0,
                "device": "cpu: x",
                "text_nats": list((length - 1) * nats), "text_tokens": [length - 1] * texts,
                "text_entropy": list(4 + rng.normal(0, 0.02, texts)),
            })  # fmt: skip
    return pd.DataFrame(rows)


TUNING_POINTS = {"a": (2e3, 1.2e6), "b": (1.2e4, 3e5), "c": (6e3, 2e6), "d": (2.4e4, 5e5)}


def best_rate(params, steps):
    return 0.02 * (params / 8000) ** -0.4 * (steps / 1500) ** -0.25


def best_batch(tokens):
    return 512 * (tokens / 8e5) ** 0.3


def tuning_trials(seed=0, per=16, seeds=2, noise=0.02, points=TUNING_POINTS, **changes):
    """Trials of a paraboloid; the first at each point has settings of a rule that is off."""
    generator = np.random.default_rng(seed)
    rows = []
    for point, (params, tokens) in points.items():
        even = np.linspace(-1, 1, per - 1)  # a Latin hypercube
        draws = np.stack([generator.permutation(even) for _ in range(3)], axis=1)
        for trial in range(per):
            wide = np.exp(draws[trial - 1]) if trial else np.ones(3)
            batch = changes.get("batch", 512 * wide[0] ** 0.7)
            rate = 0.014 * (params / 8000) ** -0.5 * wide[1] ** 1.4
            decay = 0.1 * wide[2] ** 2
            steps = tokens / batch
            loss = 2.5 + 1e-5 * params + 0.05 * math.log(rate / best_rate(params, steps)) ** 2
            loss += 0.06 * math.log(batch / best_batch(tokens)) ** 2 + changes.get("decay", 0.0) * math.log(
                decay
            )
            for own in range(seeds):
                rows.append(
                    {"point": point, "trial": trial, "seed": own, "params": params, "tokens": tokens,
                     "steps": steps, "learning_rate": rate, "batch": batch, "weight_decay": decay,
                     "loss": loss + noise * generator.standard_normal()}
                )  # fmt: skip
    return pd.DataFrame(rows)
