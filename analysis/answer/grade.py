"""How sure an answer is: a grade, with one cause.

The grade is "reliable", "with care" or "do not use", for one cause, the first that holds:

* do not use: the budget lies more than `FARTHEST` times beyond the largest one measured (or that far below
  the smallest): further out no published table can tell whether intervals hold; or the law of the best family
  is broken; or a size or text that was asked for lies that far outside the tokens per parameter measured.
* with care: more than `FAR` times beyond; the methods name different families; the best family is best in
  less than `SURE` of the draws; the best family's loss is a likelihood, and one within `LOOSE` of it reports
  an upper bound, which its likelihood may be below; the methods' best sizes differ by a factor `UNLIKE`, or a
  size or text that was asked for lies that far outside the tokens per parameter; or `diagnose` asks for care
  with the law of the best family, and the budget lies beyond those measured.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from analysis.answer.methods import FamilyLaws
from analysis.answer.shown import percent_text, range_text
from analysis.text import flops_text, number_text

FARTHEST, FAR = 100.0, 10.0
SURE, EVEN = 0.95, 0.9
LOOSE = 0.02
UNLIKE = 3.0
SAME = 1.05
"""Budgets up to this factor beyond the largest one count as measured."""
RELIABLE, CARE, REFUSED = "reliable", "with care", "do not use"


def grade_of(
    families: Mapping[str, FamilyLaws],
    table: pd.DataFrame,
    methods: pd.DataFrame,
    flops: float,
    *,
    limited: bool,
) -> tuple[str, list[str]]:
    """The grade and its causes, the weightiest first."""
    best = families[str(table["family"].iloc[0])]
    largest = max(families[name].largest_budget for name in table["family"])
    smallest = min(families[name].smallest_budget for name in table["family"])
    beyond = flops / largest
    distance = (
        f"{number_text(beyond, 2)} times beyond the largest budget measured ({flops_text(largest)} FLOPs)"
    )
    if beyond > FARTHEST * SAME:
        return REFUSED, [distance]
    if flops * FARTHEST * SAME < smallest:
        return REFUSED, [f"far below the smallest budget measured ({flops_text(smallest)} FLOPs)"]
    of_best = f" of {best.family}" if best.family else ""
    advice, _, why = best.advice.partition(": ")
    if best.fault or advice == REFUSED:
        return REFUSED, [best.fault or f"checks of the law{of_best}: {why}"]

    runs = next(iter(best.laws.values())).runs
    ratios = runs["tokens"] / runs["params"]
    ratio = table["tokens"].iloc[0] / table["params"].iloc[0]
    outside = max(ratios.min() / ratio, ratio / ratios.max())
    lopsided = (
        f"{number_text(ratio)} tokens per parameter are far outside the {number_text(ratios.min())} to "
        f"{number_text(ratios.max())} measured"
    )
    if limited and outside > FARTHEST:
        return REFUSED, [lopsided]

    causes = [distance] if beyond > FAR else []
    leaders = {
        m: part.loc[part["loss"].idxmin(), ["family", "best_share"]] for m, part in methods.groupby("method")
    }
    if len({leader["family"] for leader in leaders.values()}) > 1:
        causes.append("the methods disagree on the best family")
    share = float(table["best_share"].iloc[0])
    if len(table) > 1 and share < SURE:
        causes.append(f"only {percent_text(share)} of resamples put {best.family} first")
    rivals = table[(table["difference"] <= LOOSE * table["loss"].iloc[0]) & (table["bound"] == "upper")]
    if best.bound == "exact" and len(rivals):
        causes.append(
            f"the loss of {', '.join(rivals['family'])} is an upper bound, so its likelihood may be better "
            f"than that of {best.family}"
        )
    combined = (methods["family"] == best.family) & methods["method"].isin(best.combined)
    sizes = methods.loc[combined, "params"]
    if sizes.max() > UNLIKE * sizes.min():
        ends = range_text(sizes.min(), sizes.max())
        causes.append(f"the methods put the best size of {best.family} at {ends} parameters")
    if limited and outside > UNLIKE:
        causes.append(lopsided)
    if why and beyond > SAME:
        causes.append(f"checks of the law{of_best}: {why}")
    if causes:
        return CARE, causes
    where = "within the budgets measured" if beyond <= SAME else distance
    agree = ", and the methods agree on the family" if len(table) > 1 and len(leaders) > 1 else ""
    return RELIABLE, [f"the budget is {where}{agree}"]
