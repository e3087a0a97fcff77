"""Families against each other: how much more compute one needs than another to reach the same loss.

The multiplier at one of a family's budgets C is C / C_ref: at C_ref the reference's frontier reaches the loss
that the family's frontier has at C. It depends on the budget and on the law's form, so every row names both.

The default law is the surface. Equal loss usually means reading the reference far below its budgets, and
there a power law without offset, the form of the published multipliers (method="isoflop"), errs if the true
frontier has a floor: in simulated sweeps of 24 and 30 runs per family with 0.2% and 0.5% noise it was
too high by up to a factor of 2.4 outside the reference's budgets, and its 95% intervals held the truth in at
most half of the sweeps there; the surface was off by 1% on average and its intervals held the truth in 96% or
more. The multipliers of the other law are in `checks`, with a warning if the two disagree beyond the noise.
"""

from __future__ import annotations

import html
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from analysis.comparison.equal_loss import (
    COLUMNS,
    SAME,
    exponent_differences,
    multiplier_curve,
    multipliers_at,
    paired,
    savings,
)
from analysis.comparison.joint import fit_shared_E
from analysis.errors import UserError
from analysis.estimate import spread
from analysis.frontier import number_column
from analysis.laws import check_options, fit_law, method_called
from analysis.laws.result import Law
from analysis.plotted import Plotted
from analysis.printed import Printed, TextTable, notes_html
from analysis.table.inputs import Columns, as_table
from analysis.text import flops_text, interval_text, number_text

SEARCH_BEYOND = 1e3
"""Crossovers are looked for up to this factor below and above the budgets with data."""
SEARCH_POINTS = 241
ENDS = {"": "multiplier", "_low": "low", "_high": "high"}
BISECTIONS = 50
SHARED_OPTIONS = ("delta", "bootstrap", "level", "resample")
UNLIKELY = 0.01
SHARED_BY_FAMILIES = ("flop_convention", "corpus", "tokenizer", "data_fingerprint", "context_length")
CROSSOVER_COLUMNS = ("family", "reference", "flops", "low", "high", "loss", "share", "extrapolated")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Comparison(Plotted, Printed):
    """Compute multipliers and crossovers of families against a reference, from one law per family."""

    figure: ClassVar[str] = "compare"
    reference: str
    method: str
    laws: Mapping[str, Law]
    multipliers: pd.DataFrame
    """family, reference, at_flops (the family's budget), at_loss (its frontier loss there, nats per token),
    reference_flops (compute of the reference at that loss), multiplier, low, high, extrapolated (whether the
    reference is read outside its budgets), law."""
    crossovers: pd.DataFrame
    """family, reference, flops, low, high, loss, share (of the resamples that cross at all), extrapolated.
    One row per crossing of the estimated frontiers; an interval end of 0 or infinity is open."""
    checks: pd.DataFrame
    """family, at_flops, multiplier, law: the same numbers from the other kind of law, if it can be fitted."""
    exponents: pd.DataFrame
    """Exponents of each family against the reference's, with intervals of the differences and p, see
    `analysis.comparison.equal_loss.exponent_differences`."""
    warnings: tuple[str, ...]
    checking: Mapping[str, Law] = field(default_factory=dict)
    """The laws behind `checks`."""

    @property
    def savings(self) -> pd.DataFrame:
        """The multipliers as "x% more FLOPs-efficient" and "x% fewer FLOPs", with intervals, see
        `analysis.comparison.equal_loss.savings`."""
        return savings(self.multipliers)

    @property
    def measured_crossovers(self) -> pd.DataFrame:
        """The crossovers within the budgets of at least one of the two families; others are far from runs."""
        ranges = {name: law.flops_range for name, law in self.laws.items()}
        inside = [
            min(ranges[a][0], ranges[b][0]) / SAME <= flops <= max(ranges[a][1], ranges[b][1]) * SAME
            for a, b, flops in self.crossovers[["family", "reference", "flops"]].itertuples(index=False)
        ]
        return self.crossovers[inside].reset_index(drop=True)

    def curve(self, family: str, points: int = 60) -> pd.DataFrame:
        """The multiplier of one family over the loss, with its band (`comparison.equal_loss`). UserError
        names the families there are."""
        others = [name for name in self.laws if name != self.reference]
        if family not in others:
            raise UserError(f"family = {family!r} is not compared; choose one of {', '.join(others)}")
        return multiplier_curve(family, self.laws[family], self.reference, self.laws[self.reference], points)

    def summary(self) -> pd.DataFrame:
        """One row per family, numbers as numbers: family, runs, law, the exponents of its frontier, then its
        multiplier at its smallest and its largest budget. Columns params_exponent, tokens_exponent,
        loss_exponent (or reducible_loss_exponent), multiplier_at_smallest, multiplier_at_largest, each with
        _low and _high, and smallest_budget, loss_at_smallest, extrapolated_at_smallest (and largest). The
        reference has a multiplier of 1; pandas.NA where there is no number."""
        rows = []
        for name, law in self.laws.items():
            row: dict[str, Any] = {"family": name, "runs": len(law.runs), "law": self.method}
            own = self.multipliers[self.multipliers["family"] == name]
            for key, value in law.exponents.items():
                if key != "tokens_per_param":
                    ends = {f"{key}_exponent_low": value.low, f"{key}_exponent_high": value.high}
                    row |= {f"{key}_exponent": float(value), **ends}
            for place, at in (("smallest", 0), ("largest", -1)):
                flops = law.flops_range[at]
                row[f"{place}_budget"] = flops
                if name == self.reference:
                    row[f"loss_at_{place}"] = float(law.curve.loss(np.array([flops]))[0, 0])
                    values = {"multiplier": 1.0, "low": None, "high": None}
                    row |= {f"multiplier_at_{place}{end}": values[kind] for end, kind in ENDS.items()}
                    row[f"extrapolated_at_{place}"] = False
                elif len(own):
                    of = own.iloc[at]
                    row |= {f"{place}_budget": of["at_flops"], f"loss_at_{place}": of["at_loss"]}
                    row |= {f"multiplier_at_{place}{end}": of[kind] for end, kind in ENDS.items()}
                    row[f"extrapolated_at_{place}"] = bool(of["extrapolated"])
            rows.append(row)
        names = dict.fromkeys(name for row in rows for name in row)
        frame = pd.DataFrame({name: [row.get(name) for row in rows] for name in names})
        for name in frame.columns[3:]:
            if not name.startswith("extrapolated"):
                frame[name] = number_column([None if pd.isna(v) else float(v) for v in frame[name]])
        return frame

    def optimal(self, flops: object) -> pd.DataFrame:
        """The best run of every family at each budget, the lowest loss first: columns family and those of
        `law.frontier`. Of losses that lie as close as their intervals the order is not certain, see
        `analysis.recommend`."""
        tables = [law.frontier(flops).assign(family=name) for name, law in self.laws.items()]
        table = pd.concat(tables, ignore_index=True).sort_values(["flops", "loss"], ignore_index=True)
        return table[["family", *(name for name in table.columns if name != "family")]]

    def text_table(self) -> TextTable:
        """The multipliers as they are printed, one row per family and budget."""
        rows = [
            (
                row["family"],
                flops_text(row["at_flops"]),
                f"{row['at_loss']:.3f}",
                interval_text(row["multiplier"], row["low"], row["high"], unit="x"),
                "extrapolated" if row["extrapolated"] else "",
            )
            for row in self.multipliers.to_dict(orient="records")
        ]
        heads = ("family", "its budget (FLOPs)", "loss", f"compute over {self.reference}", "")
        return TextTable(columns=heads, rows=tuple(rows))

    def _repr_html_(self) -> str:
        head = f"<p>{html.escape(self._head)}</p>{self.text_table().to_html()}"
        return head + notes_html([*self._facts, *(f"warning: {warning}" for warning in self.warnings)])

    def __str__(self) -> str:
        lines = [self._head, ""]
        for row in self.multipliers.to_dict(orient="records"):
            lines.append(f"  {row['family']:<12} {_multiplier_text(row)}")
        lines += [f"  {fact}" for fact in self._facts]
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])

    @property
    def _head(self) -> str:
        allowing = any(law.options.get("interval") == "allowance" for law in self.laws.values())
        head = f"compute over {self.reference} at equal loss, from the {self.method} law of each family"
        return head + (", allowing for a deviation from its form" if allowing else "")

    @property
    def _facts(self) -> list[str]:
        """Crossovers and differences of exponents as sentences."""
        lines = []
        for row in self.measured_crossovers.to_dict(orient="records"):
            at = interval_text(row["flops"], row["low"], row["high"], flops_text)
            beyond = ", extrapolated" if row["extrapolated"] else ""
            lines.append(f"{row['family']} meets {self.reference} at {at} FLOPs{beyond}")
        of_frontier = self.exponents["exponent"].isin(["params", "loss", "reducible_loss"])
        for family, part in self.exponents[of_frontier].groupby("family", sort=False):
            words = [
                f"{row['exponent']} {row['difference']:+.3f}"
                + (
                    ""
                    if pd.isna(row["p"])
                    else f" [{row['low']:+.3f}, {row['high']:+.3f}], p = {row['p']:.2g}"
                )
                for row in part.to_dict(orient="records")
            ]
            lines.append(f"exponents of {family} less those of {self.reference}: {'; '.join(words)}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types at full precision; open interval ends are None."""
        tables = {}
        for name in ("multipliers", "crossovers", "checks", "exponents"):
            table = getattr(self, name).astype(object)
            table = table.where(table.notna() & (table != np.inf), None)
            tables[name] = table.to_dict(orient="records")
        return {
            "reference": self.reference,
            "method": self.method,
            **tables,
            "warnings": list(self.warnings),
            "laws": {name: law.to_dict() for name, law in self.laws.items()},
        }


def _multiplier_text(row: Any) -> str:
    beyond = ", extrapolated" if row["extrapolated"] else ""
    return (
        f"{interval_text(row['multiplier'], row['low'], row['high'], unit='x')} at loss {row['at_loss']:.3f} "
        f"(its budget {flops_text(row['at_flops'])} FLOPs{beyond})"
    )


def compare(
    runs: pd.DataFrame | Mapping[str, Any],
    reference: str = "ar",
    *,
    method: str | int = "surface",
    seed: int = 0,
    shared_E: bool = False,
    laws: Mapping[str, Law] | Comparison | None = None,
    columns: Columns | None = None,
    **options: Any,
) -> Comparison:
    """Compute multipliers of every family over `reference` at equal loss, and the crossings of their
    frontiers.

    runs has the columns of `fit_law` and family; method, columns and options are those of `fit_law`. Each
    family is resampled on its own (seeds derived from `seed` and its name), and every resample of the family
    meets one of the reference, so the intervals carry the noise of both. shared_E=True fits all surfaces
    together with one E, as the same text has one entropy (options then: delta, bootstrap, level, resample);
    warnings say if the runs speak against it, and if bounds of different tightness make it an assumption.
    laws: an earlier comparison of the same runs with the same options over another reference, or its laws;
    they do not depend on it. A family that cannot be fitted is left out, with the reason in `warnings`.
    UserError names a reference without runs or without a law, and every reason if fewer than two families
    are left.
    """
    method, runs = method_called(method), as_table(runs, columns)
    if "family" not in runs.columns:
        has = ", ".join(map(str, runs.columns)) or "none"
        raise UserError(f"runs: compare needs a column family (columns: {has})")
    names = [str(name) for name in runs["family"].dropna().unique()]
    if reference not in names:
        raise UserError(
            f"reference = {reference!r} has no runs; the families are {', '.join(names) or 'none'}"
        )
    if len(names) < 2:
        raise UserError(f"runs: only the family {reference} has runs; compare needs at least two families")
    for name in SHARED_BY_FAMILIES:
        kinds = sorted(map(str, runs[name].dropna().unique())) if name in runs.columns else []
        if len(kinds) > 1:
            raise UserError(
                f"{name}: the families' runs hold {len(kinds)} kinds ({', '.join(kinds)}), so their losses "
                f"or FLOPs do not compare; select one, or drop the column {name}"
            )

    # one law per family, the reference first
    names = [reference, *(name for name in names if name != reference)]
    seeds = {name: zlib.crc32(f"{seed}/{name}".encode()) for name in names}
    parts = {name: runs[runs["family"] == name] for name in names}
    warnings: list[str] = []
    earlier = laws.checking if isinstance(laws, Comparison) else {}
    laws = laws.laws if isinstance(laws, Comparison) else laws
    if laws is not None:
        laws = {name: laws[name] for name in names if name in laws}
        if reference not in laws or len(laws) < 2:
            raise UserError(f"reference = {reference!r} has no law, or no other family has one")
    elif shared_E:
        laws, warnings = _shared(parts, method, seeds, options)
    else:
        check_options(method, options)
        laws, refused = _each(parts, method, seeds, options)
        warnings = [f"not compared: {sentence}" for sentence in refused]
    unnamed = int(runs["family"].isna().sum())
    if unnamed:
        warnings.append(f"{unnamed} rows without a family are left out")
    base, others = laws[reference], {name: law for name, law in laws.items() if name != reference}
    by_family = [(name, warning) for name, law in laws.items() for warning in law.warnings]

    # the multipliers at every family's own budgets
    rows = []
    for name, law in others.items():
        own = multipliers_at(name, law, reference, base, np.array(law.budget_flops))
        rows += own
        missing = len(law.budget_flops) - len(own)
        if missing:
            sentence = (
                f"no multiplier at {missing} budgets: the frontier loss there lies at or below the floor E "
                f"of {reference}"
            )
            by_family.append((name, sentence))
        outside = sum(row["extrapolated"] for row in own)
        if outside:
            number = (
                "every multiplier reads"
                if outside == len(own)
                else f"{outside} of {len(own)} multipliers read"
            )
            sentence = f"{number} the law of {reference} outside its budgets (extrapolated)"
            by_family.append((name, sentence))
    multipliers = pd.DataFrame(rows, columns=list(COLUMNS))
    first: list[str] = []
    if "bound" in runs.columns and runs["bound"].dropna().nunique() > 1:
        bounds = [name for name in laws if (parts[name]["bound"] == "upper").any()]
        first.append(
            f"the loss of {', '.join(bounds)} is an upper bound on its likelihood, not the likelihood "
            "itself: its multipliers are upper bounds in that sense"
        )

    # the same from the other kind of law, and whether it lies outside the interval
    other = "isoflop" if method == "surface" else "surface"
    rows = []
    try:
        checking, refused = {name: earlier[name] for name in laws if name in earlier}, []
        if len(checking) < len(laws):
            checking, refused = _each({name: parts[name] for name in laws}, other, seeds, {"bootstrap": 0})
    except UserError as problem:
        checking, refused = {}, [str(problem)]
    for name, law in checking.items():
        if name != reference:
            budgets = np.array(law.budget_flops)
            rows += multipliers_at(name, law, reference, checking[reference], budgets)
    checks = pd.DataFrame(rows, columns=["family", "at_flops", "multiplier", "law"])
    warnings += [
        f"not checked against another law: the {other} law has no fit: {sentence}" for sentence in refused
    ]
    both = multipliers.merge(checks, on=["family", "at_flops"], suffixes=("", "_other"))
    if len(both) and both["low"].notna().all():
        low, high, second = both["low"], both["high"], both["multiplier_other"]
        apart = []
        for name, part in both[(second < low) | (second > high)].groupby("family", sort=False):
            distance = np.log(part["multiplier_other"] / part["multiplier"]).abs()
            row = part.loc[distance.idxmax()]
            pair = f"{number_text(row['multiplier_other'])}x, not {number_text(row['multiplier'])}x"
            apart.append(f"{name} {pair} at {flops_text(row['at_flops'])} FLOPs")
        if apart:
            first.insert(
                0,
                f"the form of the law matters more than the noise; from the {other} law instead of the "
                f"{method} law: {'; '.join(apart)}",
            )
    crossovers = [row for name, law in others.items() for row in _crossovers(name, law, reference, base)]
    return Comparison(
        reference=reference,
        method=method,
        laws=laws,
        multipliers=multipliers,
        crossovers=pd.DataFrame(crossovers, columns=list(CROSSOVER_COLUMNS)),
        checks=checks,
        checking=checking,
        exponents=exponent_differences(laws, reference),
        # what changes the reading of every row comes first
        warnings=(*first, *warnings, *together(by_family)),
    )


def together(warnings: Iterable[tuple[str, str]]) -> list[str]:
    """Warnings of families, one line for those that are alike or differ in one number.

    (masked, "9 of 99 failed") and (block, "8 of 99 failed") become "9 (masked), 8 (block) of 99 failed".
    """
    groups: dict[tuple[str, ...], list[tuple[str, str, list[str]]]] = defaultdict(list)
    for name, sentence in warnings:
        parts = re.split(r"(\d+(?:\.\d+)?(?:e-?\d+)?)", sentence)
        groups[tuple(parts[::2])].append((name, sentence, parts))
    lines = []
    for group in groups.values():
        names, sentences, split = zip(*group, strict=True)
        differing = [i for i, values in enumerate(zip(*split, strict=True)) if len(set(values)) > 1]
        if not differing:
            lines.append(f"{', '.join(names)}: {sentences[0]}")
        elif len(differing) == 1:
            (place,) = differing
            each = ", ".join(f"{parts[place]} ({name})" for name, parts in zip(names, split, strict=True))
            lines.append("".join([*split[0][:place], each, *split[0][place + 1 :]]))
        else:
            families: dict[str, list[str]] = defaultdict(list)
            for name, sentence in zip(names, sentences, strict=True):
                families[sentence].append(name)
            lines += [f"{', '.join(alike)}: {sentence}" for sentence, alike in families.items()]
    return lines


def _each(
    parts: Mapping[str, pd.DataFrame], method: str, seeds: Mapping[str, int], options: Mapping[str, Any]
) -> tuple[dict[str, Law], list[str]]:
    """The laws of the families, and a sentence for each family that has none; UserError unless the first
    family and one other have a law."""
    laws: dict[str, Law] = {}
    refused = []
    for name, rows in parts.items():
        try:
            laws[name] = fit_law(rows, method, seed=seeds[name], **options)
        except UserError as problem:
            refused.append(f"family {name}: {problem}")
    if next(iter(parts)) not in laws or len(laws) < 2:
        raise UserError("; ".join(refused))
    return laws, refused


def _shared(
    parts: Mapping[str, pd.DataFrame], method: str, seeds: Mapping[str, int], options: Mapping[str, Any]
) -> tuple[dict[str, Law], list[str]]:
    """Laws with one E, and warnings about that."""
    if method != "surface":
        raise UserError(f"shared_E is for method = 'surface', not {method!r}, whose law has no E")
    for name in options:
        if name not in SHARED_OPTIONS:
            raise UserError(f"{name} is no option with shared_E; its options are {', '.join(SHARED_OPTIONS)}")
    shared = fit_shared_E(parts, seeds=seeds, **options)
    warnings = []
    if shared.p < UNLIKELY:
        warnings.append(
            f"the runs speak against one E for all families (p = {shared.p:.1g}): the objective is "
            f"{shared.excess:.0%} above that of separate ones"
        )
    kinds: set[str] = set()
    for rows in parts.values():
        kinds |= set(map(str, rows["bound"].dropna().unique())) if "bound" in rows else set()
    if len(kinds) > 1:
        warnings.append(
            f"one E is an assumption here: the losses are of kinds {', '.join(sorted(kinds))}, and the gap "
            "of a bound need not vanish"
        )
    return dict(shared.laws), warnings


def _crossovers(name: str, law: Law, reference: str, base: Law) -> list[dict[str, Any]]:
    """Where the two frontiers meet, within SEARCH_BEYOND of the budgets with data.

    Each resample counts with its crossing nearest to the estimate's; a resample without a crossing of this
    direction has it at 0 (the later order holds throughout) or at infinity.
    """
    curve, other = paired(law.curve, base.curve)
    (own_low, own_high), (low_flops, high_flops) = curve.flops_range, other.flops_range
    grid = np.geomspace(
        min(own_low, low_flops) / SEARCH_BEYOND, max(own_high, high_flops) * SEARCH_BEYOND, SEARCH_POINTS
    )
    gap = curve.loss(grid) - other.loss(grid)
    rows = []
    for piece in np.flatnonzero(np.sign(gap[0, :-1]) * np.sign(gap[0, 1:]) < 0).tolist():
        before = np.sign(gap[0, piece])
        crosses = (np.sign(gap[:, :-1]) == before) & (np.sign(gap[:, 1:]) == -before)
        distance = np.where(crosses, np.abs(np.arange(crosses.shape[1]) - piece), crosses.shape[1])
        nearest = np.argmin(distance, axis=1)
        low, high = np.log(grid[nearest]), np.log(grid[nearest + 1])
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            still = np.sign(curve.loss_each(np.exp(middle)) - other.loss_each(np.exp(middle))) == before
            low, high = np.where(still, middle, low), np.where(still, high, middle)
        absent = np.where(np.sign(gap[:, piece]) == before, np.inf, 0.0)
        at = np.where(crosses.any(axis=1), np.exp((low + high) / 2), absent)
        ends = spread(at[1:], law.level) if len(at) > 1 else (None, None)
        rows.append(
            {
                "family": name,
                "reference": reference,
                "flops": float(at[0]),
                "low": None if ends[0] is None else float(ends[0]),
                "high": None if ends[1] is None else float(ends[1]),
                "loss": float(curve.loss(at[:1])[0, 0]),
                "share": float((np.isfinite(at[1:]) & (at[1:] > 0)).mean()) if len(at) > 1 else None,
                "extrapolated": not max(own_low, low_flops) / SAME
                <= at[0]
                <= min(own_high, high_flops) * SAME,
            }
        )
    return rows
