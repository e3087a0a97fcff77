"""Two runs side by side on one thread each, or one run on two threads? How a sweep should fill a machine.

Both ways train `masked` at shape A, in turn; reported is how many times the tokens per second of one process
with all threads as many processes with one thread each give together.

    python -m benchmarks.packing [--rounds 7] [--processes 2]

All samples go to build/benchmarks/packing.json.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from statistics import median

from benchmarks import options, save
from benchmarks.steps import QUIET, SHAPES, Stepper, wait_for_quiet

FLOOR = 1.25
"""Set before the project was written."""


def main() -> None:
    parser = options(__doc__, "packing")
    parser.add_argument("--shape", default="A", choices=SHAPES)
    parser.add_argument("--family", default="masked")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0)
    arguments = parser.parse_args()
    shape = SHAPES[arguments.shape]
    # each of the processes side by side counts the others as foreign
    siblings = (arguments.processes - 1) / (os.cpu_count() or 1)
    rows = []
    with ExitStack() as stack:
        enter = stack.enter_context
        whole = enter(Stepper("project", shape, threads=arguments.processes))
        single = [enter(Stepper("project", shape, threads=1)) for _ in range(arguments.processes)]
        for round_number in range(arguments.rounds + 1):
            wait_for_quiet()
            one = whole.window(arguments.family, arguments.seconds)
            wait_for_quiet()
            for stepper in single:
                stepper.start(arguments.family, arguments.seconds)
            side_by_side = [stepper.finish() for stepper in single]
            if round_number:  # the first one builds the networks
                together = sum(1 / sample.seconds_per_step for sample in side_by_side)
                rows.append(
                    {
                        "ratio": together * one.seconds_per_step,
                        "one_tokens_per_s": shape.tokens / one.seconds_per_step,
                        "together_tokens_per_s": shape.tokens * together,
                        "quiet": one.quiet
                        and all((sample.foreign or 0.0) <= siblings + QUIET for sample in side_by_side),
                    }
                )
    quiet = [row for row in rows if row["quiet"]]
    used = quiet if len(quiet) >= 3 else rows
    names = ("ratio", "one_tokens_per_s", "together_tokens_per_s")
    times, one_speed, speed = (median(row[name] for row in used) for name in names)
    print(
        f"{arguments.family} at shape {shape.name}: {arguments.processes} processes of one thread give "
        f"{times:.2f} x the work of one with {arguments.processes} threads (floor {FLOOR}; "
        f"{speed:,.0f} against {one_speed:,.0f} tokens/s; {len(quiet)} of {len(rows)} rounds quiet)"
    )
    save(arguments.out, rows)


if __name__ == "__main__":
    main()
