"""How far above the truth does each family end? Sources of known entropy, the same small network for all.

Every family trains on texts from a random source whose entropy is known exactly: a Markov chain of order 2
over 16 tokens, and a hidden Markov model of 4 states. The bound minus the entropy is the gap: what is not
learned yet, plus what the bound leaves above the likelihood. It may fall below 0 by the chance of held-out
text alone, so by 3 standard errors at most.

    python -m benchmarks.gaps [--steps 2500] [--families a,b] [--jobs 2]

The table goes to the terminal as Markdown, all numbers to build/benchmarks/gaps.json.
"""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import options, save, train_once
from scaling.data import prepare
from scaling.ladder import Size
from scaling.spec import EvaluationSpec, OptimizerSpec

SOURCES = {
    "Markov, order 2": "synthetic:markov?order=2&vocab=16&seed=1",
    "hidden Markov": "synthetic:hmm?states=4&vocab=16&seed=1",
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "ar": ("ar", {}),
    "block, 1 token": ("block", {"block_size": 1}),
    "block, 4 tokens": ("block", {"block_size": 4}),
    "block, 16 tokens": ("block", {"block_size": 16}),
    "esoteric, alpha_0 1/2": ("esoteric", {"alpha_0": 0.5}),
    "esoteric": ("esoteric", {}),
    "masked": ("masked", {}),
    "hybrid, p_u 0.1": ("hybrid", {}),
    "hybrid, balanced": ("hybrid", {"noise": "balanced"}),
    "uniform": ("uniform", {}),
    "uniform, curriculum": ("uniform", {"curriculum": "top_k"}),
    "gaussian": ("gaussian", {}),
}
"""Labels, families and options."""
CONTEXT_LENGTH = 32
BATCH_SIZE = 32
SIZE = Size(name="small", hidden=48, num_layers=2, num_heads=4, cond_dim=8, time_features=16)


def gap(label: str, source: str, steps: int) -> dict[str, Any]:
    """Train one family on one source; entropy, bound and its standard error in nats per token."""
    family, options = VARIANTS[label]
    with tempfile.TemporaryDirectory() as scratch:
        data = prepare(SOURCES[source], "ids", Path(scratch))
        result = train_once(
            data,
            CONTEXT_LENGTH,
            family=family,
            family_options=options,
            size=SIZE,
            budget=1e12,
            sequences=BATCH_SIZE * steps,
            batch_size=BATCH_SIZE,
            optimizer=OptimizerSpec(learning_rate=4e-3, warmup_steps=50, weight_decay=0.0),
            evaluation=EvaluationSpec(sequences=1024, noise_levels=8),
        )
    entropy = data.entropy_per_token(CONTEXT_LENGTH)
    assert entropy is not None, "a synthetic source knows its entropy"
    assert result.bound is not None, "or an error was raised"
    return {
        "label": label,
        "source": source,
        "entropy": entropy,
        "bound": result.bound,
        "se": result.bound_se,
        "gap": result.bound - entropy,
        "train_s": result.train_s,
    }


def main() -> None:
    parser = options(__doc__, "gaps")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--families", default=None, help="labels, split by semicolons")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    labels = list(VARIANTS) if arguments.families is None else arguments.families.split(";")
    pairs = [(label, source) for label in labels for source in SOURCES]
    with ProcessPoolExecutor(arguments.jobs) as pool:
        waiting = [pool.submit(gap, label, source, arguments.steps) for label, source in pairs]
        results: list[dict[str, Any]] = []
        for number, future in enumerate(waiting, 1):
            results.append(last := future.result())
            print(
                f"{number} of {len(waiting)}: {last['label']} on {last['source']}: "
                f"bound {last['bound']:.4f}, entropy {last['entropy']:.4f}, {last['train_s']:.0f} s",
                flush=True,
            )
    save(arguments.out, results)
    entropies = {one["source"]: one["entropy"] for one in results}
    # one row per family, one column per source: gap and its standard error in nats per token
    heads = [f"{source} (entropy {entropy:.3f})" for source, entropy in entropies.items()]
    print("| family | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|", sep="\n")
    for label in labels:
        cells = [f"{one['gap']:+.3f} ± {one['se']:.3f}" for one in results if one["label"] == label]
        print(f"| {label} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
