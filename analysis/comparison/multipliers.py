"""Families against each other: how much more compute one needs than another to reach the same loss.

The multiplier at one of a family's budgets C is C / C_ref, where the reference's frontier reaches at C_ref
the loss the family's frontier has at C. It depends on where it is taken and on the law's form, so every row
says both.

The default law is the surface. Equal loss usually means reading the reference far below its budgets, and
there a power law without offset, the form of the published multipliers (method="isoflop"), errs where the
true frontier has a floor: in simulated sweeps of 24 and 30 runs per family with 0.2% and 0.5% noise it was
too high by up to a factor of 2.4 outside the reference's budgets, and its 95% intervals held the truth in at
most half of the sweeps there; the surface was off by 1% on average and its intervals held the truth in 96% or
more. What the other law says is in `checks`, and a warning tells where the two disagree beyond the noise.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from analysis.comparison.equal_loss import exponent_differences, multiplier_curve, savings
from analysis.comparison.joint import fit_shared_E
from analysis.errors import UserError
from analysis.estimate import spread
from analysis.frontier import Curve
from analysis.laws import fit_law
from analysis.laws.result import Law
from analysis.plotted import Plotted
from analysis.text import flops_text, interval_text, number_text

SEARCH_BEYOND = 1e3
"""Crossovers are looked for up to this factor below and above the budgets with data."""
SEARCH_POINTS = 241
BISECTIONS = 50
SHARED_OPTIONS = ("delta", "bootstrap", "level", "resample")
UNLIKELY = 0.01
SAME = 1.01
"""Budgets this close (factor) count as inside the data."""
SHARED_BY_FAMILIES = ("flop_convention", "corpus", "tokenizer", "data_fingerprint", "context_length")
MULTIPLIER_COLUMNS = (
    "family",
    "reference",
    "at_flops",
    "at_loss",
    "reference_flops",
    "multiplier",
    "low",
    "high",
    "extrapolated",
    "law",
)
CROSSOVER_COLUMNS = ("family", "reference", "flops", "low", "high", "loss", "share", "extrapolated")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Comparison(Plotted):
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
    """family, at_flops, multiplier, law: the same numbers from the other kind of law, where it can be fitted.
    """
    exponents: pd.DataFrame
    """Exponents of each family against the reference's, with intervals of the differences and p, see
    `analysis.comparison.equal_loss.exponent_differences`."""
    warnings: tuple[str, ...]

    @property
    def savings(self) -> pd.DataFrame:
        """The multipliers as "x% more FLOPs-efficient" and "x% fewer FLOPs", with intervals, see
        `analysis.comparison.equal_loss.savings`."""
        return savings(self.multipliers)

    @property
    def measured_crossovers(self) -> pd.DataFrame:
        """The crossovers within the budgets of one of the two families at least; of the others no run says
        anything."""
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
        """One row per family: exponents of its frontier, and its multiplier at its smallest and largest
        budget."""
        rows = []
        for name, law in self.laws.items():
            exponents = law.exponents
            row: dict[str, Any] = {"family": name, "runs": len(law.runs), "law": self.method}
            row |= {f"{key}_exponent": str(exponents[key]) for key in ("params", "tokens")}
            loss = "loss" if "loss" in exponents else "reducible_loss"
            row[f"{loss}_exponent"] = str(exponents[loss])
            own = self.multipliers[self.multipliers["family"] == name]
            for where, at in (("smallest", 0), ("largest", -1)):
                row[f"multiplier_at_{where}"] = (
                    _multiplier_text(own.iloc[at]) if len(own) else "1 (reference)"
                )
            rows.append(row)
        return pd.DataFrame(rows)

    def __str__(self) -> str:
        lines = [
            f"compute over {self.reference} at equal loss, from the {self.method} law of each family",
            "",
        ]
        for row in self.multipliers.to_dict(orient="records"):
            lines.append(f"  {row['family']:<12} {_multiplier_text(row)}")
        for row in self.measured_crossovers.to_dict(orient="records"):
            at = interval_text(row["flops"], row["low"], row["high"], flops_text)
            where = ", extrapolated" if row["extrapolated"] else ""
            lines.append(f"  {row['family']} meets {self.reference} at {at} FLOPs{where}")
        lines += [f"  {text}" for text in _differing(self.exponents)]
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)

    __repr__ = __str__

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
    where = ", extrapolated" if row["extrapolated"] else ""
    return (
        f"{interval_text(row['multiplier'], row['low'], row['high'], unit='x')} at loss {row['at_loss']:.3f} "
        f"(its budget {flops_text(row['at_flops'])} FLOPs{where})"
    )


def compare(
    runs: pd.DataFrame,
    reference: str = "ar",
    *,
    method: str = "surface",
    seed: int = 0,
    shared_E: bool = False,
    laws: Mapping[str, Law] | None = None,
    **options: Any,
) -> Comparison:
    """Compute multipliers of every family over `reference` at equal loss, and where their frontiers cross.

    runs has the columns of `fit_law` and family; method and options are those of `fit_law`. Each family is
    resampled on its own (seeds derived from `seed` and its name), and every resample of the family meets one
    of the reference, so the intervals carry the noise of both. shared_E=True fits all surfaces together with
    one E, as the same text has one entropy (options then: delta, bootstrap, level, resample); a warning says
    where the runs speak against it, or where bounds of different tightness make it an assumption. laws: those
    of an earlier comparison of the same runs with the same options, over another reference; they do not
    depend on it. A family that cannot be fitted is left out, with the reason in `warnings`. UserError names
    a reference without runs or without a law, and every reason where no two families are left.
    """
    if not isinstance(runs, pd.DataFrame) or "family" not in runs.columns:
        raise UserError("runs: compare needs a pandas DataFrame with a column family")
    names = [str(name) for name in runs["family"].dropna().unique()]
    if reference not in names:
        raise UserError(
            f"reference = {reference!r} has no runs; the families are {', '.join(names) or 'none'}"
        )
    if len(names) < 2:
        raise UserError(f"runs: only the family {reference} has runs; compare needs at least two families")
    _one_measure(runs)
    ordered = [reference, *(name for name in names if name != reference)]
    seeds = {name: zlib.crc32(f"{seed}/{name}".encode()) for name in ordered}
    parts = {name: runs[runs["family"] == name] for name in ordered}
    told: list[str] = []
    if laws is not None:
        laws = {name: laws[name] for name in ordered if name in laws}
        if reference not in laws or len(laws) < 2:
            raise UserError(f"reference = {reference!r} has no law, or no other family has one")
    elif shared_E:
        laws, told = _shared(parts, method, seeds, options)
    else:
        laws, told = _each(parts, method, seeds, options)
    unnamed = int(runs["family"].isna().sum())
    if unnamed:
        told.append(f"{unnamed} rows without a family are left out")
    base, ordered = laws[reference], list(laws)
    multipliers = pd.DataFrame(
        [row for name in ordered[1:] for row in _multipliers(name, laws[name], reference, base)],
        columns=list(MULTIPLIER_COLUMNS),
    )
    crossovers = pd.DataFrame(
        [row for name in ordered[1:] for row in _crossovers(name, laws[name], reference, base)],
        columns=list(CROSSOVER_COLUMNS),
    )
    checks, unchecked = _other_law(runs, ordered, method)
    return Comparison(
        reference=reference,
        method=method,
        laws=laws,
        multipliers=multipliers,
        crossovers=crossovers,
        checks=checks,
        exponents=exponent_differences(laws, reference),
        warnings=(
            *told,
            *_warnings(runs, laws, multipliers),
            *unchecked,
            *_disagreements(multipliers, checks),
        ),
    )


def _each(
    parts: Mapping[str, pd.DataFrame], method: str, seeds: Mapping[str, int], options: Mapping[str, Any]
) -> tuple[dict[str, Law], list[str]]:
    """The laws of the families, and a sentence for each family that has none; UserError if none is left."""
    laws: dict[str, Law] = {}
    refused = []
    for name, rows in parts.items():
        try:
            laws[name] = fit_law(rows, method, seed=seeds[name], **options)
        except UserError as problem:
            refused.append(f"family {name}: {problem}")
    if next(iter(parts)) not in laws or len(laws) < 2:
        raise UserError("; ".join(refused))
    return laws, [f"not compared: {sentence}" for sentence in refused]


def _shared(
    parts: Mapping[str, pd.DataFrame], method: str, seeds: Mapping[str, int], options: Mapping[str, Any]
) -> tuple[dict[str, Law], list[str]]:
    """Laws with one E, and what is to be said about that."""
    if method != "surface":
        raise UserError(f"shared_E is for method = 'surface', not {method!r}, whose law has no E")
    for name in options:
        if name not in SHARED_OPTIONS:
            raise UserError(f"{name} is no option with shared_E; its options are {', '.join(SHARED_OPTIONS)}")
    shared = fit_shared_E(parts, seeds=seeds, **options)
    found = []
    if shared.p < UNLIKELY:
        found.append(
            f"the runs speak against one E for all families (p = {shared.p:.1g}): the objective is "
            f"{shared.excess:.0%} above that of separate ones"
        )
    kinds: set[str] = set()
    for rows in parts.values():
        kinds |= set(map(str, rows["bound"].dropna().unique())) if "bound" in rows else set()
    if len(kinds) > 1:
        found.append(
            f"one E is an assumption here: the losses are of kinds {', '.join(sorted(kinds))}, and the gap "
            "of a bound need not vanish"
        )
    return dict(shared.laws), found


def _differing(exponents: pd.DataFrame) -> list[str]:
    """One sentence per family on the exponents of its frontier."""
    found = []
    for family, part in exponents.groupby("family", sort=False):
        words = []
        of_frontier = part[part["exponent"].isin(["params", "loss", "reducible_loss"])]
        for row in of_frontier.to_dict(orient="records"):
            words.append(f"{row['exponent']} {row['difference']:+.3f}")
            if not pd.isna(row["p"]):
                words[-1] += f" [{row['low']:+.3f}, {row['high']:+.3f}], p = {row['p']:.2g}"
        found.append(f"exponents of {family} less those of {part['reference'].iloc[0]}: {'; '.join(words)}")
    return found


def _one_measure(runs: pd.DataFrame) -> None:
    for name in SHARED_BY_FAMILIES:
        if name in runs.columns:
            found = sorted(map(str, runs[name].dropna().unique()))
            if len(found) > 1:
                raise UserError(
                    f"{name}: the families' runs hold {len(found)} kinds ({', '.join(found)}), so their "
                    f"losses or FLOPs do not compare; select one, or drop the column {name}"
                )


def _paired(curve: Curve, other: Curve) -> tuple[Curve, Curve]:
    """Both curves cut to the fewer resamples, so that resample i of one meets resample i of the other."""
    size = min(len(curve.E), len(other.E))
    return curve.first(size), other.first(size)


def _ends(draws: np.ndarray, level: float) -> tuple[float | None, float | None]:
    if not len(draws):
        return None, None
    low, high = spread(draws, level)
    return float(low), float(high)


def _multipliers(name: str, law: Law, reference: str, base: Law) -> list[dict[str, Any]]:
    """One row per budget of the family where the reference's frontier reaches the same loss."""
    curve, other = _paired(law.curve, base.curve)
    flops = np.array(law.budget_flops)
    loss = curve.loss(flops)
    reached = other.flops_at(loss)
    smallest, largest = other.flops_range
    rows = []
    for i, at in enumerate(flops.tolist()):
        if not np.isfinite(reached[0, i]):
            continue
        low, high = _ends(at / reached[1:, i], law.level)
        rows.append(
            {
                "family": name,
                "reference": reference,
                "at_flops": at,
                "at_loss": float(loss[0, i]),
                "reference_flops": float(reached[0, i]),
                "multiplier": float(at / reached[0, i]),
                "low": low,
                "high": high,
                "extrapolated": not smallest / SAME <= reached[0, i] <= largest * SAME,
                "law": law.method,
            }
        )
    return rows


def _crossovers(name: str, law: Law, reference: str, base: Law) -> list[dict[str, Any]]:
    """Where the two frontiers meet, within SEARCH_BEYOND of the budgets with data."""
    curve, other = _paired(law.curve, base.curve)
    (own_low, own_high), (low_flops, high_flops) = curve.flops_range, other.flops_range
    first, last = min(own_low, low_flops) / SEARCH_BEYOND, max(own_high, high_flops) * SEARCH_BEYOND
    grid = np.geomspace(first, last, SEARCH_POINTS)
    gap = curve.loss(grid) - other.loss(grid)
    rows = []
    for piece in np.flatnonzero(np.sign(gap[0, :-1]) * np.sign(gap[0, 1:]) < 0).tolist():
        at = _root(curve, other, grid, gap, piece)
        found = np.isfinite(at[1:]) & (at[1:] > 0)
        low, high = _ends(at[1:], law.level)
        rows.append(
            {
                "family": name,
                "reference": reference,
                "flops": float(at[0]),
                "low": low,
                "high": high,
                "loss": float(curve.loss(at[:1])[0, 0]),
                "share": float(found.mean()) if len(found) else None,
                "extrapolated": not max(own_low, low_flops) / SAME
                <= at[0]
                <= min(own_high, high_flops) * SAME,
            }
        )
    return rows


def _root(curve: Curve, other: Curve, grid: np.ndarray, gap: np.ndarray, piece: int) -> np.ndarray:
    """Crossing of the estimate in that piece of the grid, and of each resample the one nearest to it, (1 +
    R,).

    A resample without a crossing of this direction has it at 0 (the later order holds throughout) or at
    infinity.
    """
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
    return np.where(crosses.any(axis=1), np.exp((low + high) / 2), absent)


def _other_law(runs: pd.DataFrame, names: list[str], method: str) -> tuple[pd.DataFrame, list[str]]:
    """Multipliers from the kind of law that was not asked for, and a sentence for each family without."""
    other = "isoflop" if method == "surface" else "surface"
    columns = ["family", "at_flops", "multiplier", "law"]
    try:
        laws, refused = _each(
            {name: runs[runs["family"] == name] for name in names},
            other,
            dict.fromkeys(names, 0),
            {"bootstrap": 0},
        )
    except UserError as problem:
        laws, refused = {}, [f"the {other} law has no fit: {problem}"]
    told = [sentence.replace("not compared", f"the {other} law has no fit") for sentence in refused]
    rows = [
        row for name in list(laws)[1:] for row in _multipliers(name, laws[name], names[0], laws[names[0]])
    ]
    checks = pd.DataFrame([{key: row[key] for key in columns} for row in rows], columns=columns)
    return checks, [f"not checked against another law: {sentence}" for sentence in told]


def _disagreements(multipliers: pd.DataFrame, checks: pd.DataFrame) -> list[str]:
    """Says where the other law's multiplier lies outside the interval."""
    found: list[str] = []
    both = multipliers.merge(checks, on=["family", "at_flops"], suffixes=("", "_other"))
    if both.empty or both["low"].isna().any():
        return found
    outside = (both["multiplier_other"] < both["low"]) | (both["multiplier_other"] > both["high"])
    for name, rows in both[outside].groupby("family", sort=False):
        row = rows.loc[rows["multiplier_other"].div(rows["multiplier"]).map(np.log).abs().idxmax()]
        found.append(
            f"{name}: the form of the law matters more than the noise at {len(rows)} budgets; at "
            f"{flops_text(row['at_flops'])} "
            f"FLOPs the {row['law_other']} law gives {number_text(row['multiplier_other'])}x, the "
            f"{row['law']} law {number_text(row['multiplier'])}x"
        )
    return found


def _warnings(runs: pd.DataFrame, laws: Mapping[str, Law], multipliers: pd.DataFrame) -> list[str]:
    found = [f"{name}: {warning}" for name, law in laws.items() for warning in law.warnings]
    reference = next(iter(laws))
    for name, law in list(laws.items())[1:]:
        rows = multipliers[multipliers["family"] == name]
        missing = len(law.budget_flops) - len(rows)
        if missing:
            found.append(
                f"{name}: no multiplier at {missing} of its budgets, where its frontier loss lies at or "
                f"below the floor E of {reference}"
            )
        outside = int(rows["extrapolated"].sum())
        if outside:
            found.append(
                f"{name}: {outside} of {len(rows)} multipliers read the law of {reference} outside its "
                "budgets (extrapolated)"
            )
    if "bound" in runs.columns and runs["bound"].dropna().nunique() > 1:
        bounds = [n for n in laws if (runs.loc[runs["family"] == n, "bound"] == "upper").any()]
        found.append(
            f"the loss of {', '.join(bounds)} is an upper bound on its likelihood, not the likelihood "
            "itself: its multipliers are upper bounds in that sense"
        )
    return found
