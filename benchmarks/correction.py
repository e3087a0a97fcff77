"""What self-correction and the adaptive sampler do to texts of `hybrid`, under a judge.

    python -m benchmarks.correction --run runs/desk/hybrid/runs/KEY --judge runs/desk/ar/runs/KEY

At each number of steps: ancestral texts, and for each way to correct them the ratio of its perplexity to
theirs, and to that of ancestral texts of the same entropy, by temperature and by nucleus. Each text has one
seed for all. A run that never saw uniform noise (p_u 0) is the control: it must gain nothing.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import torch

from benchmarks import options, save
from benchmarks.judged import RANGES, Desk, add_options, at_equal_entropy, compare, head, matching, row
from scaling.training import load_run

LADDER = (8, 16, 32)
WAYS: dict[str, dict[str, Any]] = {
    "published": {"sampler": "self_correcting"},
    "patience 4": {"sampler": "self_correcting", "patience": 4},
    "8 edits": {"sampler": "self_correcting", "iterations": 8},
    "8 edits at 1": {"sampler": "self_correcting", "iterations": 8, "edit_temperature": 1.0},
    "adaptive": {"sampler": "adaptive"},
    "adaptive drawn": {"sampler": "adaptive", "draws": True},
}
"""Options of the samplers; published: one edit at a time, at temperature 0.1, at most 128, patience 32."""
FILTERS = ("temperature", "top_p")


def main() -> None:
    parser = options(__doc__, "correction")
    add_options(parser, needed=True)
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--ways", default=",".join(WAYS), help="of: %(default)s")
    parser.add_argument("--steps", default=",".join(map(str, LADDER)))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run, desk = load_run(arguments.run), Desk.of(arguments.judge, arguments.texts)
    numbers: dict[str, Any] = {"spec": run.spec.to_dict(), "judge": desk.judge.name}
    print(f"judge {desk.judge.name}, {desk.texts} texts")
    print(head("ancestral", *FILTERS))
    print(row("held-out text", desk.heldout(run.spec.data.context_length)), flush=True)
    for steps in map(int, arguments.steps.split(",")):
        plain = desk.sample(run, steps=steps)
        print(row(f"ancestral, {steps} steps", plain), flush=True)
        numbers[str(steps)] = {"ancestral": plain.summary()}
        samples = {name: cache(partial(desk.filtered, run, name, steps=steps)) for name in FILTERS}
        for way in arguments.ways.split(","):
            texts = desk.sample(run, steps=steps, **WAYS[way])
            entropy = float(texts.entropy.mean())
            matches = {name: matching(samples[name], entropy, *RANGES[name]) for name in FILTERS}
            print(row(f"{way}, {steps} steps", texts, plain, *matches.values()), flush=True)
            numbers[str(steps)][way] = {
                "texts": texts.summary(), "passes": texts.passes, "to_ancestral": compare(texts, plain),
                "at_equal_entropy": {
                    name: {"value": match.value, "ratio": at_equal_entropy(texts, match)}
                    for name, match in matches.items()
                },
            }  # fmt: skip
    save(arguments.out, numbers)


if __name__ == "__main__":
    main()
