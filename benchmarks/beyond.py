"""Do 95% intervals hold beyond the fitted budgets? Published runs, fitted below a cut and asked above it.

    python -m benchmarks.beyond                 # under a minute

Every table (families apart) is cut at 1/3, 1/10, 1/30 and 1/100 of its largest budget; the surface is fitted
below the cut, and each run above it is asked for with the interval of one new run, as the form gives it and
with the allowance. A cell is a table, a cut and a range of distances (FLOPs over the largest fitted budget);
shares are means over cells, so that long tables do not outvote short ones. The reach and the typical size of
the deviation were chosen by their log score on the tables of `CHOSEN_ON`; the other tables test them.
`docs/coverage.md` has the results. All numbers go to build/benchmarks/beyond.json.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from datetime import date
from itertools import pairwise, product
from typing import Any

import numpy as np
import pandas as pd

from analysis import fit_law, published
from analysis.answer.methods import best_run, fit_families
from analysis.checks.heldout import measured_minima
from analysis.errors import UserError
from analysis.estimate import spread
from analysis.laws.solver import deviation
from analysis.laws.surface import SurfaceLaw
from analysis.table.fit_table import prepare
from benchmarks import options, save

TABLES = ("sahoo2026", "porian2024", "muennighoff2023", "hoffmann2022", "chao2026")
CHOSEN_ON = ("sahoo2026", "porian2024", "muennighoff2023")
CUTS = (3, 10, 30, 100)
EDGES = np.array([1, 3.1, 10.5, 31, 105, 1050])
"""Ranges of distances; a little above round numbers, for budgets are rounded."""
REACHES, MEDIANS = (1.5, 1.9, 2.3, 2.8, 3.5, 5.0), (3.0, 6.0, 10.0)


def tables() -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Name, family and runs of every published table whose losses may be fitted; text read once."""
    for name in TABLES:
        runs = published.runs(name)
        if "excluded" in runs:
            runs = runs[runs["excluded"] == ""]
        if "unique_tokens" in runs:
            runs = runs[runs["unique_tokens"] >= runs["tokens"]]
        for family, part in runs.groupby("family", sort=False):
            yield name, str(family), part


def windows(bootstrap: int) -> Iterator[tuple[str, str, int, SurfaceLaw, pd.DataFrame]]:
    """Table, family, cut, the law of the runs below the cut, and the runs above it (with column distance)."""
    for name, family, runs in tables():
        for cut in CUTS:
            edge = runs["flops"].max() / cut * 1.02
            below, above = runs[runs["flops"] <= edge], runs[runs["flops"] > edge]
            try:
                law = fit_law(below, bootstrap=bootstrap)
            except UserError:
                continue
            assert isinstance(law, SurfaceLaw), "the default method"
            yield name, family, cut, law, above.assign(distance=above["flops"] / law.flops_range[1])


def held(law: SurfaceLaw, runs: pd.DataFrame) -> pd.DataFrame:
    """Per run: distance, whether its interval holds its loss, its width and the error (both of log loss)."""
    predicted = law.predict(runs["params"], runs["tokens"], kind="run")
    assert isinstance(predicted, pd.DataFrame), "arrays give a table"
    loss = runs["loss"].to_numpy()
    return pd.DataFrame(
        {
            "distance": runs["distance"].to_numpy(),
            "held": (predicted["loss_low"] <= loss) & (loss <= predicted["loss_high"]),
            "width": np.log(predicted["loss_high"] / predicted["loss_low"]),
            "error": np.log(predicted["loss"] / loss),
        }
    )


def cells(bootstrap: int) -> pd.DataFrame:
    """One row per cell and kind of interval."""
    rows: list[dict[str, Any]] = []
    kinds = {"form": lambda law: law, "allowance": lambda law: law.allowance}
    for (name, family, cut, law, above), kind in product(windows(bootstrap), kinds):
        runs = held(kinds[kind](law), above)
        for high, inside in runs.groupby(EDGES[np.searchsorted(EDGES, runs["distance"])]):
            row = {"table": name, "family": family, "cut": cut, "fitted": len(law.runs), "interval": kind}
            row |= {"to": float(high), "runs": len(inside), "held": inside["held"].mean()}
            row |= {"width": inside["width"].median(), "error": np.sqrt(np.mean(inside["error"] ** 2))}
            rows.append(row)
    return pd.DataFrame(rows)


def minima(bootstrap: int) -> pd.DataFrame:
    """The best loss and size measured at later budgets (a parabola's minimum) against the answers of each
    method and the combined one: table, family, cut, interval, quantity, to, held, width (of logs)."""
    rows: list[dict[str, Any]] = []
    for (name, family, runs), cut in product(tables(), CUTS):
        measured = measured_minima(prepare(runs))
        below = runs[runs["flops"] <= runs["flops"].max() / cut * 1.02]
        try:
            laws = fit_families(below.assign(family=family), draws=bootstrap)[0][family]
        except UserError:
            continue
        for at in measured[measured["flops"] > laws.largest_budget * 1.05].to_dict("records"):
            reached = best_run(laws, at["flops"], bootstrap)
            high = EDGES[np.searchsorted(EDGES, at["flops"] / laws.largest_budget)]
            place = {"table": name, "family": family, "cut": cut, "to": float(high)}
            loss = reached.loss_interval(0.95)
            ends = {kind: np.log(spread(drawn, 0.95)) for kind, drawn in reached.losses.items()}
            ends["combined"] = np.log(np.array([loss.low, loss.high], dtype=np.float64))
            rows += [place | compared("loss", kind, pair, np.log(at["loss"]))
                     for kind, pair in ends.items()]  # fmt: skip
            size = np.array(spread(reached.log_params[1:], 0.95))
            rows.append(place | compared("size", "combined", size, np.log(at["params"])))
    return pd.DataFrame(rows)


def compared(quantity: str, kind: str, ends: np.ndarray, measured: float) -> dict[str, Any]:
    low, high = ends
    held = bool(low <= measured <= high)
    return {"quantity": quantity, "interval": kind, "held": held, "width": float(high - low)}


def scores(laws: list[tuple[str, SurfaceLaw, pd.DataFrame]]) -> list[dict[str, Any]]:
    """Mean log score (nats a run, cells counted alike) of each reach and median, chosen tables and others."""
    rows = []
    shipped = deviation.REACH, deviation.MEDIAN
    for reach in REACHES:
        for median in MEDIANS:
            deviation.REACH, deviation.MEDIAN = reach, median
            by_side: dict[bool, list[float]] = {True: [], False: []}
            for name, law, above in laws:
                near = above[above["distance"] <= EDGES[2]]
                columns = [law.runs[column].to_numpy(float) for column in ("params", "tokens", "loss")]
                fitted = deviation.fit_deviation(law.thetas[0], *columns, draws=2000)
                logs = [np.log(near[column].to_numpy(float)) for column in ("params", "tokens", "loss")]
                form = np.log(law.predict(near["params"], near["tokens"])["loss"].to_numpy())  # type: ignore[index]
                off = (logs[2] - form) - fitted.at(*logs[:2])[1:]
                sd = fitted.noise[1:, None]
                density = np.mean(np.exp(-0.5 * (off / sd) ** 2) / sd, axis=0)
                by_side[name in CHOSEN_ON].append(float(np.mean(np.log(np.maximum(density, 1e-12)))))
            rows.append({"reach": reach, "median": median} | {
                "chosen" if side else "tested": float(np.mean(of)) for side, of in by_side.items()
            })  # fmt: skip
    deviation.REACH, deviation.MEDIAN = shipped
    return rows


def main() -> None:
    parser = options(__doc__, "beyond")
    parser.add_argument("--bootstrap", type=int, default=1000, help="resamples of each law")
    arguments = parser.parse_args()
    table = cells(arguments.bootstrap)
    columns = (*("held: form", "allowance"), *("width: form", "allowance"), *("error: form", "allowance"))
    print(f"\n{'tables':12} {'distance':>9} {'cells':>5}", *(f"{name:>11}" for name in columns))
    sides = {"chosen on": table["table"].isin(CHOSEN_ON), "tested on": ~table["table"].isin(CHOSEN_ON)}
    for side, rows in (*sides.items(), ("all", table["runs"] > 0)):
        for low, high in pairwise(EDGES):
            both = [table[rows & (table["to"] == high) & (table["interval"] == kind)]
                    for kind in ("form", "allowance")]  # fmt: skip
            if len(both[0]):
                shares = [of["held"].mean() for of in both]
                sizes = [of[name].median() for name in ("width", "error") for of in both]
                head = f"{side:12} {low:>4.0f}-{high:<4.0f} {len(both[0]):>5}"
                print(head, *(f"{share:>11.0%}" for share in shares), end=" ")
                print(*(f"{size:>11.1%}" for size in sizes))
    best = minima(arguments.bootstrap)
    of_cell = best.groupby(["quantity", "to", "interval", "table", "family", "cut"], as_index=False)
    by_cell = of_cell.agg(held=("held", "mean"), width=("width", "median"))
    print("\nbest losses and sizes measured at later budgets, that the intervals hold (share of cells)")
    print(
        by_cell.pivot_table("held", ["quantity", "to"], "interval").map("{:.0%}".format, na_action="ignore")
    )
    print(by_cell.pivot_table("width", ["quantity", "to"], "interval", "median").round(3))
    laws = [(name, law, above) for name, _, cut, law, above in windows(0) if cut <= 10]
    scored = scores(laws)
    print(
        "\nmean log score (nats a run, to 10 times beyond): reach, median tau / sigma, chosen on, tested on"
    )
    for row in scored:
        print(f"  {row['reach']:.1f} {row['median']:>4.0f}  {row['chosen']:.3f}  {row['tested']:.3f}")
    save(arguments.out, {
        "date": date.today().isoformat(), "machine": platform.processor() or platform.machine(),
        "cells": table.to_dict(orient="records"), "minima": by_cell.to_dict(orient="records"),
        "scores": scored,
    })  # fmt: skip


if __name__ == "__main__":
    main()
