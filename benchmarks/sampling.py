"""What caches save in sampling, and what samplers take outside the network.

Texts of untrained networks over 256 ids, which cost what texts of trained ones do. Four questions:

1. ar, esoteric and block, with a cache and without, in turn: how many times faster, at the same texts?
2. masked: texts that a step leaves alone are not passed through the network. How many times faster is that
   than passing the whole batch at every step, at the same texts?
3. Which share of the time of a batch of 16 is spent outside the network, by family?
4. The same network calls and tokens as always? They are counted and stored.

    python -m benchmarks.sampling [--shapes sheet,desk] [--contexts 256,512] [--threads 1,2] [--rounds 3]

Ratios are medians over rounds; one thread is timed by the processor's clock, more by the wall's. Everything
goes to build/benchmarks/sampling.json.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, product
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import options, save
from benchmarks.steps import QUIET, Watch
from scaling.families import FAMILIES, get_family
from scaling.families.base import Family
from scaling.ladder import Size
from scaling.models import Transformer
from scaling.sampling import Texts, generate
from scaling.sampling.discrete import start_from_noise
from scaling.sampling.loop import Draft
from scaling.sampling.noise import Purpose, choose
from scaling.sampling.plan import groups_by_time

SHAPES = {
    "sheet": Size(name="sheet", hidden=64, num_layers=4, num_heads=2),
    "desk": Size(name="desk", hidden=96, num_layers=2, num_heads=6, cond_dim=16, time_features=32),
}
"""The network at which the published samplers were timed, and one of a desk sweep."""
VOCAB = 256

CACHE_FLOORS = {"ar": 5.0, "esoteric": 5.0, "block": 3.0}
"""Times faster than without a cache at 512 tokens."""
PUBLISHED = {"ar": "2.7", "esoteric": "3.6", "block": "1.1 (batch 1)"}
"""What the caches of the published code gained over its own uncached samplers at shape `sheet`, 256 tokens,
one thread (block: 0.9 to 1.3 over block sizes and lengths)."""
REUSE_FLOOR, REUSE_STEPS, REUSE_BATCH = 1.5, 512, 16
OUTSIDE_CEILING, OUTSIDE_BATCH = 0.15, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One batch of texts."""

    texts: Texts
    seconds: float
    foreign: float | None
    """Share of the machine that other processes took."""


@cache
def network(name: str, shape: str) -> tuple[Family, Transformer]:
    """A family and a network with weights that no kernel can skip, far from uniform predictions."""
    family = get_family(name, vocab_size=VOCAB)
    generator = torch.Generator().manual_seed(0)
    model = family.build_model(SHAPES[shape], generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return family, model.eval()


def usual(name: str, context: int, few: int = 64) -> dict[str, Any]:
    """Steps and options: a token a call where a family has a cache, `few` calls elsewhere."""
    if name == "block":
        return {"steps": network(name, "sheet")[0].sampling_steps(context), "first_hitting": True}
    return {"steps": context if name in CACHE_FLOORS else few}


def run(name: str, shape: str, context: int, batch: int, threads: int, **about: Any) -> Run:
    family, model = network(name, shape)
    watch, cpu, started = Watch(), time.process_time(), time.perf_counter()
    texts = generate(model, family, range(batch), context, **about)
    cpu, seconds = time.process_time() - cpu, time.perf_counter() - started
    return Run(texts=texts, seconds=cpu if threads == 1 else seconds, foreign=watch.foreign(cpu))


def every_step(draft: Draft) -> Iterator[None]:
    """`ancestral` of masks without its economy: the whole batch passes the network at every step."""
    start_from_noise(draft)
    yield
    uniforms = draft.noise.everywhere(0, Purpose.ORDER, draft.ids.shape[1])
    step = groups_by_time(uniforms, draft.free, draft.family.noise_share(draft.times))[1]
    for number, (t, _) in enumerate(pairwise(draft.times)):
        here = step == number
        probs = draft.reader(draft.ids, t, here)
        draft.ids[here] = choose(probs, draft.noise.at(0, Purpose.CLEAN, here))
        yield


def compare(name: str, shape: str, context: int, batch: int, threads: int, rounds: int) -> dict[str, Any]:
    """The saving run and the plain one in turn; for masked the plain one is `every_step`."""
    masked = name == "masked"
    about = {"steps": REUSE_STEPS} if masked else usual(name, context)
    if masked:
        assert next(iter(network(name, shape)[0].samplers)) == "ancestral", "what is compared"
    run(name, shape, 32, batch, threads, **(about | usual(name, 32)))  # to warm up
    saving, plain = [], []
    for _ in range(1 if masked else rounds):  # hundreds of calls of a large batch need no repetition
        saving.append(run(name, shape, context, batch, threads, **about))
        if masked:
            with patch("scaling.sampling.loop.sampler_of", lambda *_: every_step):
                plain.append(run(name, shape, context, batch, threads, **about))
        else:
            plain.append(run(name, shape, context, batch, threads, cache=False, **about))
    one, other = saving[-1].texts, plain[-1].texts
    kind = {"floor": REUSE_FLOOR, "published": ""} if masked else {
        "floor": CACHE_FLOORS[name], "published": PUBLISHED[name] if context == 256 else ""
    }  # fmt: skip
    return {
        **kind,
        "what": "reuse" if masked else "cache",
        "ratio": median(b.seconds / a.seconds for a, b in zip(saving, plain, strict=True)),
        "saving_s": median(a.seconds for a in saving),
        "plain_s": median(b.seconds for b in plain),
        "same_texts": int((one.ids == other.ids).all(dim=1).sum()),
        "calls": [one.calls, other.calls],
        "tokens": [one.tokens, other.tokens],
        "quiet": sum((x.foreign or 0.0) <= QUIET for x in saving + plain),
        "runs": len(saving + plain),
    }


def outside(name: str, shape: str, context: int, threads: int, rounds: int) -> dict[str, Any]:
    """The share of the time outside the network."""
    about = usual(name, context)
    run(name, shape, 32, OUTSIDE_BATCH, threads, **usual(name, 32))
    runs = [run(name, shape, context, OUTSIDE_BATCH, threads, timed=True, **about) for _ in range(rounds)]
    return {
        "what": "outside",
        "share": median(1 - x.texts.network_s / x.texts.seconds for x in runs),
        "calls": runs[0].texts.calls,
        "tokens": runs[0].texts.tokens,
        "quiet": sum((x.foreign or 0.0) <= QUIET for x in runs),
        "runs": rounds,
    }


def measure(
    name: str, shape: str, context: int, threads: int, batch: int, rounds: int
) -> list[dict[str, Any]]:
    """The rows of one family."""
    about = {"shape": shape, "threads": threads, "context": context, "family": name}
    rows = []
    if name in (*CACHE_FLOORS, "masked"):
        batch = REUSE_BATCH if name == "masked" else batch
        rows.append({**about, "batch": batch, **compare(name, shape, context, batch, threads, rounds)})
    rows.append({**about, "batch": OUTSIDE_BATCH, **outside(name, shape, context, threads, rounds)})
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    table = Table(
        "shape", "threads", "context", "batch", "family", "x faster", "of them", "published", "same"
    )
    for row in rows:
        if row["what"] != "outside":
            floor = f"{row['ratio']:.1f}" + (f" (floor {row['floor']:g})" if row["context"] == 512 else "")
            times = f"{row['plain_s']:.2f} / {row['saving_s']:.2f} s"
            same = f"{row['same_texts']} of {row['batch']}"
            table.add_row(*_about(row), floor, times, row["published"], same)
    Console(width=120).print(table)
    table = Table("shape", "threads", "context", "batch", "family", "outside the network", "calls")
    for row in rows:
        if row["what"] == "outside":
            share = f"{row['share']:.1%} (at most {OUTSIDE_CEILING:.0%})"
            table.add_row(*_about(row), share, str(row["calls"]))
    Console(width=120).print(table)


def _about(row: dict[str, Any]) -> list[str]:
    return [str(row[name]) for name in ("shape", "threads", "context", "batch", "family")]


def missed(rows: list[dict[str, Any]]) -> list[str]:
    """What lies on the wrong side of its bound, in words."""
    out = []
    for row in rows:
        where = f"{row['family']} at shape {row['shape']}, {row['context']} tokens, {row['threads']} threads"
        if row["what"] == "outside":
            if row["share"] > OUTSIDE_CEILING:
                out.append(f"{where}: {row['share']:.1%} of the time outside the network")
        elif row["context"] == 512 and row["ratio"] < row["floor"]:
            out.append(f"{where}: {row['ratio']:.2f} x, the floor is {row['floor']:g}")
    return out


def main() -> None:
    parser = options(__doc__, "sampling")
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--contexts", default="256,512")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--batch", type=int, default=4, help="of the comparison of caches")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--families", default=",".join(FAMILIES))
    arguments = parser.parse_args()
    threads, contexts = (
        [int(x) for x in text.split(",")] for text in (arguments.threads, arguments.contexts)
    )
    rows: list[dict[str, Any]] = []
    for shape, number, context in product(arguments.shapes.split(","), threads, contexts):
        torch.set_num_threads(number)
        for name in arguments.families.split(","):
            rows += measure(name, shape, context, number, arguments.batch, arguments.rounds)
            print(f"{shape}, {number} threads, {context} tokens, {name}: done", flush=True)
    show(rows)
    print("\n".join(missed(rows)) or "every floor is reached")
    save(arguments.out, rows)


if __name__ == "__main__":
    main()
