"""Does the learning rate of a small network hold for larger ones? With CompleteP, and without.

`coordinates` trains networks of growing width and depth for a few steps at one rate and measures how far
activations have moved: the same at all sizes where rates transfer. `rates` trains networks of four widths and
three depths on the same tokens over a grid of learning rates and says where each does best.

    python -m benchmarks.transfer coordinates [--family masked] [--steps 10] [--rate 0.01]
    python -m benchmarks.transfer rates [--family ar] [--steps 300] [--jobs 2] [--seeds 1]

`rates` takes about fifteen minutes on two quiet cores; what it has done it keeps, and goes on from there.
Tables go to the terminal as Markdown, numbers and figure to build/benchmarks.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from analysis.figures import axes, parts, theme
from analysis.figures import save as save_figure
from analysis.text import number_text
from benchmarks import options, save
from scaling.ladder import Size
from scaling.randomness import generator_for
from scaling.spec import DataSpec, EvaluationSpec, OptimizerSpec, RunSpec
from scaling.training.optimizer import FlatAdamW

NAMES = {True: "CompleteP", False: "standard"}
HEAD_DIM = 8
IDS, LENGTH, TEXTS = 32, 32, 4
"""Token ids, length and texts a batch of the coordinate check."""
CHECK_BASE = (32, 2)
CHECK_WIDTHS, CHECK_DEPTHS = (32, 64, 128, 256, 512), (2, 4, 8, 16)
"""Widths at the base's depth, depths at its width."""
CHECKED = ("last block", "its queries, keys and values", "logits")

BASE = (16, 2)
WIDTHS, DEPTHS = (16, 32, 64, 128), (2, 6, 18)
RATES = tuple(2.0**power for power in range(-9, -2))
CONTEXT_LENGTH, BATCH_SIZE = 64, 16


def size_of(hidden: int, layers: int) -> Size:
    return Size(
        name=f"{hidden}x{layers}", hidden=hidden, num_layers=layers, num_heads=hidden // HEAD_DIM,
        cond_dim=16, time_features=32,
    )  # fmt: skip


def optimizer_of(complete: bool, base: tuple[int, int], rate: float, **about: Any) -> OptimizerSpec:
    if complete:
        about |= {"parametrization": "completep", "base_hidden": base[0], "base_layers": base[1]}
    return OptimizerSpec(learning_rate=rate, **about)


def sizes_of(widths: Iterable[int], depths: Iterable[int], base: tuple[int, int]) -> list[tuple[int, int]]:
    """(hidden, layers): every width at the base's depth, then every other depth at its width."""
    wide = [(width, base[1]) for width in widths]
    return wide + [(base[0], depth) for depth in depths if (base[0], depth) not in wide]


# -- coordinates -----------------------------------------------------------------------------------------


def moved(
    family: str, hidden: int, layers: int, *, complete: bool, steps: int = 10, rate: float = 0.01,
    seed: int = 0,
) -> list[float]:  # fmt: skip
    """How far `CHECKED` have moved after `steps` of training at a constant rate, root of the mean square."""
    spec = RunSpec(
        family=family,
        size=size_of(hidden, layers),
        budget=1.0,
        sequences=TEXTS * steps,
        batch_size=TEXTS,
        data=DataSpec(
            corpus="steps", tokenizer="ids", fingerprint="0", num_token_ids=IDS, context_length=LENGTH
        ),
        optimizer=optimizer_of(complete, CHECK_BASE, rate),
    )
    model = spec.build_family().build_model(spec.size, generator_for(seed, "initial weights"))
    optimizer = FlatAdamW(model, spec.optimizer)
    before = _activations(spec, model)
    for step in range(steps):
        loss = _loss(spec, model, f"{seed} {step}")
        optimizer.add_gradient(loss / (TEXTS * LENGTH), first=True)
        optimizer.step(rate, optimizer.gradient_norms())
    after = _activations(spec, model)
    return [float((a - b).square().mean().sqrt()) for a, b in zip(after, before, strict=True)]


def _loss(spec: RunSpec, model: Any, which: str) -> Tensor:
    """That of a batch of walks over the ids, mostly in steps of 1."""
    family, generator = spec.build_family(), generator_for(0, f"batch {which}")
    steps = 1 + 2 * (torch.rand(TEXTS, LENGTH, generator=generator) < 0.25)
    first = torch.randint(IDS, (TEXTS, 1), generator=generator)
    batch = family.training_batch((first + steps.cumsum(1)) % IDS, generator, 0.0)
    return family.training_loss(model, batch)


def _activations(spec: RunSpec, model: Any) -> list[Tensor]:
    """`CHECKED`, on one batch for all networks and at all times."""
    kept: dict[str, Tensor] = {}
    trunk, last = model.trunk, model.blocks[-1]

    def keep_features(*args: Any, **view: Any) -> Tensor:
        kept["features"] = trunk(*args, **view)
        return kept["features"]

    hooks = [
        module.register_forward_hook(lambda _module, _inputs, out, name=name: kept.update({name: out}))
        for name, module in (("block", last), ("qkv", last.qkv))
    ]
    model.trunk = keep_features
    with torch.no_grad():
        _loss(spec, model, "probe")
        logits = model.predict(kept["features"], model.vocab_size)
    del model.trunk
    for hook in hooks:
        hook.remove()
    return [kept["block"], kept["qkv"], logits]


def coordinates(arguments: argparse.Namespace) -> None:
    rows = []
    for complete in NAMES:
        for hidden, layers in sizes_of(CHECK_WIDTHS, CHECK_DEPTHS, CHECK_BASE):
            about = {"complete": complete, "steps": arguments.steps, "rate": arguments.rate}
            change = moved(arguments.family, hidden, layers, **about)
            rows.append(about | {"family": arguments.family, "hidden": hidden, "layers": layers}
                        | dict(zip(CHECKED, change, strict=True)))  # fmt: skip
    path = arguments.out or Path("build/benchmarks/coordinates.json")
    save(path, rows)
    print(
        "| network | " + " | ".join(f"{what}, {name}" for name in NAMES.values() for what in CHECKED) + " |"
    )
    print("|---" * (1 + len(NAMES) * len(CHECKED)) + "|")
    for hidden, layers in sizes_of(CHECK_WIDTHS, CHECK_DEPTHS, CHECK_BASE):
        own = [row for row in rows if (row["hidden"], row["layers"]) == (hidden, layers)]
        cells = [f"{row[what]:.3f}" for row in own for what in CHECKED]
        print(f"| {hidden}x{layers} | " + " | ".join(cells) + " |")
    print(save_figure(coordinates_figure(rows), path.with_suffix(".png")))


def coordinates_figure(rows: Sequence[dict[str, Any]]) -> Any:
    """Movement over width and over depth, with CompleteP and without."""
    first = rows[0]
    titles = [("Width, at 2 blocks", ""), ("Depth, at width 32", "")]
    figure = parts.panels(2, 2, row_px=340, titles=titles, apart=0.1)
    _legend(figure)
    values = [row[what] for row in rows for what in CHECKED[::2]]
    y_axis = axes.log_axis("Movement of activations (root mean square)", values, number_text, room=8)
    for panel, (field, fixed, name) in enumerate(
        (("hidden", "layers", "Width"), ("layers", "hidden", "Transformer blocks")), 1
    ):
        own = [row for row in rows if row[fixed] == CHECK_BASE[fixed == "layers"]]
        places = [row[field] for row in own]
        lines = []
        for complete in NAMES:
            part = sorted((row for row in own if row["complete"] == complete), key=lambda row: row[field])
            for what, dash in zip(CHECKED[::2], ("solid", "dot"), strict=True):
                x, y = [row[field] for row in part], [row[what] for row in part]
                line = {"color": STYLES[complete].colour, "width": 2, "dash": dash}
                texts = [f"{what}, {NAMES[complete]}: {value:.3g}" for value in y]
                mark = (STYLES[complete].colour, STYLES[complete].symbol, 8)
                group = NAMES[complete]
                lines.append(parts.scatter("line", x, y, line=line, group=group))
                lines.append(parts.scatter("points", x, y, mark=mark, text=texts, group=group))
        x_axis = axes.log_axis(name, places, number_text, room=6) | {
            "tickvals": sorted(set(places)), "ticktext": [str(place) for place in sorted(set(places))]
        }  # fmt: skip
        parts.add(figure, lines, panel, x=x_axis, y=y_axis)
    caption = (
        f"Family {first['family']}, {first['steps']} steps at rate {first['rate']:g}. Solid: output of the "
        "last block. Dotted: logits. Flat: a step means the same at every size."
    )
    title = "How far activations move in the first steps"
    return parts.finish(figure, "coordinates", title, caption, f"{len(rows)} networks")


STYLES = {
    True: theme.Style(colour=theme.FAMILY_STYLES["ar"].colour, symbol="circle"),
    False: theme.Style(colour=theme.FAMILY_STYLES["masked"].colour, symbol="square"),
}


def _legend(figure: Any) -> None:
    for complete, style in STYLES.items():
        parts.legend_entry(figure, style, dash="solid", group=NAMES[complete])


# -- rates -----------------------------------------------------------------------------------------------


def trained(
    family: str, hidden: int, layers: int, complete: bool, rate: float, steps: int, seed: int
) -> dict[str, Any]:
    """The bound of one network after so many steps, None if it diverged."""
    import tempfile

    from scaling.data import prepare
    from scaling.training import train

    torch.set_num_threads(1)
    data = prepare("stdlib", "bytes", Path("build/benchmarks/data"))
    spec = RunSpec(
        family=family,
        size=size_of(hidden, layers),
        budget=1.0,
        sequences=BATCH_SIZE * steps,
        batch_size=BATCH_SIZE,
        data=DataSpec.of(data, CONTEXT_LENGTH),
        optimizer=optimizer_of(complete, BASE, rate, warmup_steps=steps // 10),
        evaluation=EvaluationSpec(sequences=1024, noise_levels=1),
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        result = train(spec, data, Path(folder), log=lambda _: None, keep_weights=False)
    return {
        "family": family, "hidden": hidden, "layers": layers, "complete": complete, "rate": rate,
        "steps": steps, "seed": seed, "bound": result.bound, "train_s": result.train_s,
    }  # fmt: skip


CELL = ("family", "hidden", "layers", "complete", "rate", "steps", "seed")


def rates(arguments: argparse.Namespace) -> None:
    path = arguments.out or Path("build/benchmarks/rates.json")
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    done = {tuple(row[name] for name in CELL) for row in rows}
    cells = [
        (arguments.family, *size, complete, rate, arguments.steps, seed)
        for seed in range(arguments.seeds)
        for size in sizes_of(WIDTHS, DEPTHS, BASE)
        for complete in NAMES
        for rate in RATES
    ]
    with ProcessPoolExecutor(arguments.jobs) as pool:
        waiting = [pool.submit(trained, *cell) for cell in cells if cell not in done]
        for number, future in enumerate(as_completed(waiting), 1):
            rows.append(row := future.result())
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
            print(
                f"{number} of {len(waiting)}: {row['hidden']}x{row['layers']}, {NAMES[row['complete']]}, "
                f"rate {row['rate']:.4g}: {row['bound']}, {row['train_s']:.0f} s",
                flush=True,
            )
    rows = [row for row in rows if tuple(row[name] for name in CELL) in set(cells)]
    print_rates(rows)
    print(save_figure(rates_figure(rows), path.with_suffix(".png")))


def mean_bounds(
    rows: Iterable[dict[str, Any]], hidden: int, layers: int, complete: bool
) -> dict[float, float]:
    """Rate -> mean over seeds, infinite where one diverged, of one network."""
    bounds: dict[float, list[float]] = {}
    for row in rows:
        if (row["hidden"], row["layers"], row["complete"]) == (hidden, layers, complete):
            bound = math.inf if row["bound"] is None else row["bound"]
            bounds.setdefault(row["rate"], []).append(bound)
    return {rate: sum(values) / len(values) for rate, values in sorted(bounds.items())}


def optimum(bounds: dict[float, float]) -> tuple[float, float]:
    """The rate of the lowest bound on the grid, and the vertex of the parabola in log rate through it and its
    neighbours; at an end of the grid that rate itself."""
    grid, values = list(bounds), list(bounds.values())
    at = min(range(len(grid)), key=values.__getitem__)
    if not 0 < at < len(grid) - 1 or not all(math.isfinite(value) for value in values[at - 1 : at + 2]):
        return grid[at], grid[at]
    left, low, right = values[at - 1 : at + 2]
    curvature = left - 2 * low + right
    shift = 0.5 * (left - right) / curvature if curvature > 0 else 0.0
    return grid[at], grid[at] * (grid[at + 1] / grid[at]) ** shift


def spread(rows: Sequence[dict[str, Any]], complete: bool) -> float:
    """Doublings, which are steps of the grid, between the lowest and the highest optimum of all sizes."""
    best = [optimum(mean_bounds(rows, *size, complete))[0] for size in sizes_of(WIDTHS, DEPTHS, BASE)]
    return math.log2(max(best) / min(best))


def regret(bounds: dict[float, float], rate: float) -> float:
    """Nats lost with this rate instead of the best one of the grid; nan if it was not tried."""
    return bounds.get(rate, math.nan) - min(bounds.values())


def print_rates(rows: Sequence[dict[str, Any]]) -> None:
    heads = " | ".join(f"{rate:.4f}" for rate in RATES)
    print(f"| network | parametrization | {heads} | best rate | lost at the base's |")
    print("|---" * (4 + len(RATES)) + "|")
    for size in sizes_of(WIDTHS, DEPTHS, BASE):
        for complete, name in NAMES.items():
            bounds = mean_bounds(rows, *size, complete)
            least = min(bounds.values())
            cells = [
                "" if bound is None else f"**{bound:.3f}**" if bound == least else f"{bound:.3f}"
                for bound in map(bounds.get, RATES)
            ]
            best = f"{optimum(bounds)[1]:.4f}"
            lost = regret(bounds, optimum(mean_bounds(rows, *BASE, complete))[0])
            print(f"| {size[0]}x{size[1]} | {name} | " + " | ".join(cells) + f" | {best} | {lost:.3f} |")
    for complete, name in NAMES.items():
        print(f"{name}: optima of all sizes within {spread(rows, complete):.0f} steps of the grid")


def rates_figure(rows: Sequence[dict[str, Any]]) -> Any:
    """Bound over rate: width and depth in columns, CompleteP above the standard parametrization."""
    first = rows[0]
    wide = sizes_of(WIDTHS, (), BASE)
    deep = [(BASE[0], depth) for depth in DEPTHS]
    panels = [(complete, sizes) for complete in NAMES for sizes in (wide, deep)]
    titles = [
        (f"{NAMES[complete]}: {'width' if sizes is wide else 'depth'}", "") for complete, sizes in panels
    ]
    figure = parts.panels(4, 2, row_px=300, titles=titles, apart=0.1)
    colours = dict(zip([*wide, *deep[1:]], theme.budget_colours(len(wide)) + list(DEEPER), strict=True))
    symbols = dict(
        zip(colours, ("circle", "square", "triangle-up", "diamond", "pentagon", "star"), strict=True)
    )
    for size, colour in colours.items():
        style = theme.Style(colour=colour, symbol=symbols[size])
        parts.legend_entry(figure, style, dash="solid", group=f"{size[0]}x{size[1]}")
    trained_sizes = {(row["hidden"], row["layers"], row["complete"]) for row in rows}
    bounds = {(size[:2], size[2]): mean_bounds(rows, *size) for size in trained_sizes}
    least = min(min(one.values()) for one in bounds.values())
    ceiling = max(min(one.values()) for one in bounds.values()) + 0.3
    for panel, (complete, sizes) in enumerate(panels, 1):
        lines = []
        for size in sizes:
            if (size, complete) not in bounds:
                continue
            points = [(rate, bound) for rate, bound in bounds[size, complete].items() if bound <= ceiling]
            x, y = zip(*points, strict=True)
            group, mark = f"{size[0]}x{size[1]}", (colours[size], symbols[size], 7)
            lines.append(parts.scatter("line", x, y, line={"color": colours[size], "width": 2}, group=group))
            texts = [f"{group} at {rate:.4g}: {bound:.3f}" for rate, bound in points]
            lines.append(parts.scatter("points", x, y, mark=mark, text=texts, group=group))
            best = optimum(bounds[size, complete])[0]
            ring = (colours[size], "circle-open", 16)
            lines.append(parts.scatter("minimum", [best], [min(y)], mark=ring, group=group))
        x_axis = axes.log_axis("Learning rate", RATES, number_text, room=6) | {
            "tickvals": RATES, "ticktext": [f"{rate:.3f}" for rate in RATES]
        }  # fmt: skip
        parts.add(figure, lines, panel, x=x_axis, y=axes.loss_axis(axes.LOSS, [least, ceiling]))
    caption = (
        f"Family {first['family']}, all networks on the same "
        f"{first['steps'] * BATCH_SIZE * CONTEXT_LENGTH:,} bytes, "
        f"base {BASE[0]}x{BASE[1]}. Rings: the best rate of each network on the grid."
    )
    return parts.finish(figure, "rates", "Bound over learning rate, by size", caption, f"{len(rows)} runs")


DEEPER = ("#dd700a", "#cc1c2e")


def main() -> None:
    parser = options(__doc__, "transfer")
    parser.set_defaults(out=None)
    kinds = parser.add_subparsers(required=True)
    one = kinds.add_parser("coordinates", help="movement of activations in the first steps")
    one.set_defaults(call=coordinates, family="masked")
    one.add_argument("--family")
    one.add_argument("--steps", type=int, default=10)
    one.add_argument("--rate", type=float, default=0.01)
    other = kinds.add_parser("rates", help="bound over learning rate at several sizes")
    other.set_defaults(call=rates, family="ar")
    other.add_argument("--family")
    other.add_argument("--steps", type=int, default=300)
    other.add_argument("--seeds", type=int, default=1)
    other.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    arguments.call(arguments)


if __name__ == "__main__":
    main()
