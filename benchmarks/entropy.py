"""Two families' samplers at equal entropy: is the lower perplexity of one more than duller text?

    python -m benchmarks.entropy --run runs/desk/uniform/runs/KEY --other runs/desk/masked/runs/KEY \
        --judge runs/desk/ar/runs/KEY

At each number of steps texts of both runs by their usual samplers: the ratio of the perplexity of --run to
that of --other as it is, and at the temperature of --other at which its texts have the entropy of those of
--run. Each text has one seed for all.
"""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import options, save
from benchmarks.judged import RANGES, Desk, add_options, at_equal_entropy, compare, head, matching, row
from scaling.training import load_run


def main() -> None:
    parser = options(__doc__, "entropy")
    add_options(parser, needed=True)
    parser.add_argument(
        "--other", type=Path, required=True, help="folder of a finished run of another family"
    )
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--steps", default="1,2,4,8,16,32")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run, other = load_run(arguments.run), load_run(arguments.other)
    desk = Desk.of(arguments.judge, arguments.texts)
    numbers: dict[str, Any] = {"judge": desk.judge.name}
    print(f"judge {desk.judge.name}, {desk.texts} texts")
    print(head(other.spec.family, "temperature"))
    print(row("held-out text", desk.heldout(run.spec.data.context_length)), flush=True)
    for steps in map(int, arguments.steps.split(",")):
        own, plain = desk.sample(run, steps=steps), desk.sample(other, steps=steps)
        sample = cache(partial(desk.filtered, other, "temperature", steps=steps))
        match = matching(sample, float(own.entropy.mean()), *RANGES["temperature"])
        print(row(f"{other.spec.family}, {steps} steps", plain), flush=True)
        print(row(f"{run.spec.family}, {steps} steps", own, plain, match), flush=True)
        numbers[str(steps)] = {
            run.spec.family: own.summary(), other.spec.family: plain.summary(), "ratio": compare(own, plain),
            "temperature": match.value, "at_equal_entropy": at_equal_entropy(own, match),
        }  # fmt: skip
    save(arguments.out, numbers)


if __name__ == "__main__":
    main()
