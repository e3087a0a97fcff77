"""How sure an answer is: a grade, with one cause.

The grade is "reliable", "with care" or "do not use", for one cause, the first that holds:

* do not use: the budget lies more than `FARTHEST` times beyond the largest one measured in the best family
(or
  that far below the smallest; other families there are left out): further out no published table can tell
  whether intervals hold; or the law of the best family is broken; or a size or text that was asked for lies
  that far outside the tokens per parameter measured.
* with care: a family is left out; more than `FAR` times beyond the budgets of some family; several sweeps in
one; the methods name different families; the best family is best in
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


def in_reach(family: FamilyLaws, flops: float) -> bool:
    """Whether a budget lies so near to those of a family that it can be answered at all."""
    return 1 / (FARTHEST * SAME) <= family.distance(flops) <= FARTHEST * SAME


def grade_of(
    families: Mapping[str, FamilyLaws],
    table: pd.DataFrame,
    methods: pd.DataFrame,
    flops: float,
    *,
    limited: bool,
    left_out: Mapping[str, str] | None = None,
) -> tuple[str, list[str]]:
    """The grade and its causes, the weightiest first. left_out: families that the table lacks, and why."""
    best = families[str(table["family"].iloc[0])]
    ranked = [families[name] for name in table["family"]]
    farthest = max(ranked, key=lambda family: family.distance(flops))
    beyond, largest = farthest.distance(flops), farthest.largest_budget
    whose = "" if len({family.largest_budget for family in ranked}) == 1 else f" for {farthest.family}"
    distance = (
        f"{number_text(beyond, 2)} times beyond the largest budget measured{whose} "
        f"({flops_text(largest)} FLOPs)"
    )
    if not in_reach(best, flops):
        if best.distance(flops) > 1:
            return REFUSED, [distance]
        return REFUSED, [f"far below the smallest budget measured ({flops_text(best.smallest_budget)} FLOPs)"]
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

    causes = [f"{name} is left out: {reason}" for name, reason in (left_out or {}).items()]
    causes += [distance] if beyond > FAR * SAME else []
    nearest = min(ranked, key=lambda family: family.distance(flops))
    if nearest.distance(flops) * FAR * SAME < 1:
        below = f"{number_text(1 / nearest.distance(flops), 2)} times below the smallest budget measured"
        causes.append(f"{below} ({flops_text(nearest.smallest_budget)} FLOPs)")
    sweeps = sorted({sweep for family in ranked for sweep in family.sweeps})
    if len(sweeps) > 1:
        causes.append(f"runs of several sweeps are taken together ({', '.join(sweeps)})")
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
