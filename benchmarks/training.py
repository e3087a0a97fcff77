"""How fast is a training step, beside the same network and loss as a textbook writes them?

Both programs run in turn, window by window, in processes of their own: the project under the allocator
setting that a sweep gives its workers, the textbook under the same setting and once more under the system's
default, which is what a plain user gets. Reported per family and shape: tokens/s, FLOP/s (exact matrix
products of the network, training = 3 x forward) and their share of the matrix-product peak measured in the
same minutes, and the ratio of step times, median over rounds. With --threads 1, as in a sweep with one run
per core, a step's time is the processor time it takes, which other programs disturb less.

    python -m benchmarks.training [--shapes A,B,C] [--rounds 7] [--device cuda] [--precision bfloat16]

Then every family's step beside that of `masked` at the same shape: tokens/s, and FLOP/s by what each
family's training really costs, as a share of `masked`.

The tables go to the terminal, all samples to build/benchmarks/training.json.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import options, save
from benchmarks.steps import QUIET, SHAPES, VARIANTS, Sample, Shape, Stepper, wait_for_quiet
from scaling import flops
from scaling.families import get_family

FAMILIES = ("ar", "masked", "uniform")
PROGRAMS = {"project": True, "textbook tuned": True, "textbook default": False}
"""Which program, and whether under the tuned allocator."""
TARGETS = {
    ("ar", "A"): (1.0, 1.0), ("ar", "B"): (1.3, 1.6), ("ar", "C"): (1.5, 2.3),
    ("masked", "A"): (1.0, 1.0), ("masked", "B"): (1.6, 1.9), ("masked", "C"): (2.2, 2.7),
    ("uniform", "A"): (1.0, 1.0), ("uniform", "B"): (1.5, 2.5), ("uniform", "C"): (1.7, 4.0),
}  # fmt: skip
"""Floors of the two ratios in float32, set before the project was written, from prototypes on another CPU."""

SHARES = {
    "masked": None,
    "ar": None,
    "uniform": None,
    "uniform, curriculum": 0.70,
    "hybrid": 0.85,
    "esoteric": 0.85,
    "esoteric, alpha_0 1/2": None,
    "block": 0.75,
    "gaussian": 0.70,
}
"""Every family, and the floor of its FLOP/s as a share of those of `masked`, if one was set."""

Samples = dict[str, list[Sample]]
"""By program."""
Columns = dict[str, Callable[[dict[str, Any]], str]]


def measure(
    shape: Shape,
    labels: Iterable[str],
    programs: dict[str, bool],
    arguments: argparse.Namespace,
    *,
    quiet_s: float = 5.0,
) -> tuple[dict[str, Samples], float]:
    """Samples by label and program, taken in turn, so that a round's ratios hang together; and the machine's
    matrix-product peak in FLOP/s. quiet_s: longest wait for a quiet machine before each sample."""
    samples: dict[str, Samples] = {label: defaultdict(list) for label in labels}
    machine = {name: getattr(arguments, name) for name in ("threads", "device", "precision")}
    peaks = []
    with ExitStack() as stack:
        steppers = {
            name: stack.enter_context(Stepper(name.split()[0], shape, tuned=tuned, **machine))
            for name, tuned in programs.items()
        }
        for _ in range(arguments.rounds):
            wait_for_quiet(quiet_s)
            peaks.append(steppers["project"].peak())
            for label, by_program in samples.items():
                for name, stepper in steppers.items():
                    wait_for_quiet(quiet_s)
                    by_program[name].append(stepper.window(label, arguments.seconds))
    return samples, max(peaks)


def seconds(sample: Sample, one_thread: bool) -> float:
    """A step's time: of the processor if one thread does it all, of the clock otherwise."""
    return sample.cpu_s_per_step if one_thread else sample.seconds_per_step


def speed(shape: Shape, family: str, step_s: float, step_flops: float) -> dict[str, Any]:
    return {
        "shape": shape.name,
        "family": family,
        "tokens_per_s": shape.tokens / step_s,
        "flops_per_s": step_flops / step_s,
    }


def ratio_row(shape: Shape, family: str, samples: Samples, peak: float, one_thread: bool) -> dict[str, Any]:
    """Speed of the project, and the time of the textbook's steps as a multiple of its own."""

    def chosen(*programs: str) -> list[tuple[float, ...]]:
        """Times of the rounds that were quiet for all of them, if there are three, else of all rounds."""
        rounds = list(zip(*(samples[program] for program in programs), strict=True))
        quiet = [taken for taken in rounds if all(sample.quiet for sample in taken)]
        used = quiet if len(quiet) >= 3 else rounds
        return [tuple(seconds(sample, one_thread) for sample in taken) for taken in used]

    step_s = median(own_s for (own_s,) in chosen("project"))
    counted, _ = step_flops(family, shape)
    rounds = zip(*samples.values(), strict=True)
    return {
        **speed(shape, family, step_s, counted),
        "mfu": counted / step_s / peak,
        "ratio_same_allocator": median(b / a for a, b in chosen("project", "textbook tuned")),
        "ratio_plain_user": median(b / a for a, b in chosen("project", "textbook default")),
        "target": TARGETS[family, shape.name],
        "quiet_rounds": sum(all(sample.quiet for sample in taken) for taken in rounds),
    }


def share_rows(shape: Shape, samples: dict[str, Samples], one_thread: bool) -> list[dict[str, Any]]:
    """Speeds by label; shares are medians over rounds of FLOP/s over those of masked in the same round."""
    times = {label: [seconds(s, one_thread) for s in taken["project"]] for label, taken in samples.items()}
    counted_masked, done_masked = step_flops("masked", shape)
    rows = []
    for label, own_s in times.items():
        counted, done = step_flops(label, shape)
        faster = median(m / t for t, m in zip(own_s, times["masked"], strict=True))
        rows.append(
            {
                **speed(shape, label, median(own_s), counted),
                "share": faster * counted / counted_masked,
                "share_done": faster * done / done_masked,
                "floor": SHARES.get(label),
            }
        )
    return rows


def step_flops(label: str, shape: Shape) -> tuple[float, float]:
    """FLOPs of a step as budgets count them, and as they are done: the head meets scored positions only."""
    name, options = VARIANTS.get(label, (label, {}))
    family = get_family(name, vocab_size=shape.vocab_size, **options)
    work = family.work(shape.context_length)
    arguments = (shape.size, shape.vocab_size, shape.context_length)
    counted = flops.training_flops(*arguments, shape.batch_size, work=work)
    x0 = torch.zeros(512, shape.context_length, dtype=torch.long)
    scored = family.scored(family.training_batch(x0, torch.Generator().manual_seed(0), 0.0).xt)
    share = 1.0 if scored is None else float(scored.double().mean())
    head = flops.TRAINING_PASSES * shape.batch_size * flops.flops_by_part(*arguments, work).head
    return counted, counted - (1 - share) * head


def show(title: str, rows: list[dict[str, Any]], columns: Columns) -> None:
    """Print rows of speeds as a table. columns: further cells of a row, by heading."""
    table = Table("shape", "family", "tokens/s", "GFLOP/s", *columns, title=title)
    for row in rows:
        speeds = f"{row['tokens_per_s']:,.0f}", f"{row['flops_per_s'] / 1e9:.1f}"
        table.add_row(row["shape"], row["family"], *speeds, *(cell(row) for cell in columns.values()))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def main() -> None:
    parser = options(__doc__, "training")
    parser.add_argument("--shapes", default=",".join(SHAPES), help="some of A,B,C")
    parser.add_argument("--families", default=",".join(FAMILIES), help="to time beside the textbook")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one window")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    arguments = parser.parse_args()
    families = arguments.families.split(",")
    one_thread = arguments.threads == 1 and arguments.device == "cpu"
    rows, shares, samples = [], [], {}
    for shape in [SHAPES[name] for name in arguments.shapes.split(",")]:
        by_family, peak = measure(shape, families, PROGRAMS, arguments)
        rows += [ratio_row(shape, family, by_family[family], peak, one_thread) for family in families]
        samples[shape.name] = {
            family: {program: [asdict(s) for s in taken] for program, taken in programs.items()}
            for family, programs in by_family.items()
        }
        print(f"shape {shape.name}: matrix-product peak {peak / 1e9:.0f} GFLOP/s", flush=True)
        by_label, _ = measure(shape, SHARES, {"project": True}, arguments, quiet_s=1.0)
        shares += share_rows(shape, by_label, one_thread)
    title = f"training step, {arguments.precision} on {arguments.device}, {arguments.threads} threads"
    show(
        f"every family, {title}",
        shares,
        {
            "of masked, as counted": lambda row: f"{row['share']:.0%}",
            "of masked, as done": lambda row: f"{row['share_done']:.0%}",
            "floor": lambda row: "" if row["floor"] is None else f"{row['floor']:.0%}",
        },
    )
    has_targets = (arguments.device, arguments.precision) == ("cpu", "float32")
    floor = " (floor {:.1f})" if has_targets else ""
    show(
        title,
        rows,
        {
            "of peak": lambda row: f"{row['mfu']:.0%}",
            "x textbook, same allocator": lambda row: (
                f"{row['ratio_same_allocator']:.2f}{floor.format(row['target'][0])}"
            ),
            "x textbook, plain user": lambda row: (
                f"{row['ratio_plain_user']:.2f}{floor.format(row['target'][1])}"
            ),
            "quiet rounds": lambda row: f"{row['quiet_rounds']} of {arguments.rounds}",
        },
    )
    if any(row["quiet_rounds"] < 3 for row in rows):
        print(
            f"If fewer than 3 rounds were quiet (others took over {QUIET:.0%} of the machine), "
            "all rounds count: trust those ratios less, and the absolute speeds not at all."
        )
    machine = {name: getattr(arguments, name) for name in ("threads", "device", "precision")}
    save(arguments.out, {**machine, "rows": rows, "shares": shares, "samples": samples})


if __name__ == "__main__":
    main()
