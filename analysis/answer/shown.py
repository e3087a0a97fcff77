"""An answer as tables of texts: the same cells on the terminal, on the page and in the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.printed import TextTable
from analysis.text import count_text, flops_text, interval_text, number_text

if TYPE_CHECKING:
    from analysis.answer.methods import FamilyLaws
    from analysis.answer.recommendation import Recommendation

NAMES = {
    "surface": "the surface", "allowance": "the surface allowing a deviation", "isoflop": "IsoFLOP"
}  # fmt: skip
"""Methods in a sentence."""


def ranking_table(answer: Recommendation, *, ranges: bool = False) -> TextTable:
    """Families from the best down, in at most 80 columns; with ranges also the sizes and tokens that are as
    good as the best ones, which come last then."""
    rows = []
    for _, row in answer.table.iterrows():
        run = [count_text(row[name]) for name in ("params", "tokens")]
        if ranges and row["params_low"] != row["params_high"]:
            ends = [range_text(row[f"{name}_low"], row[f"{name}_high"]) for name in ("params", "tokens")]
            run = [f"{best} ({between})" for best, between in zip(run, ends, strict=True)]
        loss = interval_text(row["loss"], row["loss_low"], row["loss_high"], digits=4)
        above = "" if row["family"] == answer.best else difference_text(row)
        losses = [loss, above, percent_text(row["best_share"])]
        rows.append((str(row["family"]), *(losses + run if ranges else run + losses)))
    runs, losses = ["params", "tokens"], ["loss", "above the best", "best in"]
    heads = ("family", *(losses + runs if ranges else runs + losses))
    return TextTable(columns=heads, rows=tuple(rows))


def ranking_caption(answer: Recommendation) -> str:
    """What the columns of the ranking are."""
    return (
        f"Families at {answer.budget}; losses in nats per token with {answer.level:.0%} intervals; "
        "in brackets sizes within 0.5% of the best loss; best in: share of resamples"
        f"{'; ' * bool(difference_note(answer))}{difference_note(answer)}"
    )


def difference_note(answer: Recommendation) -> str:
    """Why the column of differences is not that of the losses shown; "" where it is, to 0.01 nats."""
    losses = answer.table["loss"] - answer.table["loss"].iloc[0]
    if (losses - answer.table["difference"]).abs().max() <= 0.01:
        return ""
    return "above the best: averaged over methods, so not the difference of these losses"


def methods_table(answer: Recommendation) -> TextTable:
    """The answer of each method alone, families in the order of the ranking."""
    order = {name: place for place, name in enumerate(answer.table["family"])}
    methods = answer.methods.sort_values("family", key=lambda names: names.map(order), kind="stable")
    rows = [
        (
            str(row["family"]), NAMES[row["method"]].removeprefix("the "), count_text(row["params"]),
            count_text(row["tokens"]), number_text(row["loss"], 4),
            f"{row['difference']:.3f}" if row["difference"] else "", percent_text(row["best_share"]),
        )
        for _, row in methods.iterrows()
    ]  # fmt: skip
    heads = ("family", "method", "params", "tokens", "loss", "above its best", "best in")
    return TextTable(columns=heads, rows=tuple(rows))


def costs_table(costs: pd.DataFrame, families: Mapping[str, FamilyLaws], farthest: float) -> TextTable:
    """What a loss costs, as `budget_for` gives it; without numbers where the budget is more than `farthest`
    times beyond those of the family or as far below."""
    rows = []
    for _, row in costs.iterrows():
        family = families[str(row["family"])]
        low, high = family.smallest_budget / farthest, family.largest_budget * farthest
        if low <= row["flops"] <= high:
            rows.append((
                str(row["family"]), interval_text(row["flops"], row["low"], row["high"]),
                count_text(row["params"]), count_text(row["tokens"]),
                "" if pd.isna(row["reached"]) else percent_text(row["reached"]),
                "extrapolated" if row["extrapolated"] else "",
            ))  # fmt: skip
        else:
            side, limit = ("more", high) if row["flops"] > high else ("less", low)
            far = f"{side} than {flops_text(limit)}, too far from its budgets to say"
            rows.append((str(row["family"]), far, "", "", "", ""))
    heads = ("family", "FLOPs", "params", "tokens", "reached in", "")
    return TextTable(columns=heads, rows=tuple(rows))


def range_text(low: float, high: float) -> str:
    """ "380M to 394M", or one count where both are the same."""
    first, last = count_text(low), count_text(high)
    return first if first == last else f"{first} to {last}"


def difference_text(row: Mapping[str, Any] | pd.Series) -> str:
    """The difference to the best loss, with its interval."""
    if row["difference_low"] is None or pd.isna(row["difference_low"]):
        return f"{row['difference']:.3f}"
    return f"{row['difference']:.3f} [{row['difference_low']:.3f}, {row['difference_high']:.3f}]"


def percent_text(share: float) -> str:
    """A share of resamples; all and none only where it is so."""
    if 0.005 <= share <= 0.995 or share in (0, 1):
        return f"{share:.0%}"
    return "over 99%" if share > 0.5 else "under 1%"
