"""When not to believe a fit: one row per check, one sentence each, and a verdict in words.

    print(analysis.diagnose(law))           # the table and the verdict
    analysis.diagnose(law).plot("delta")    # the figure behind a check

Checks of any law: windows of tokens per parameter, conventions of counting (columns params_total,
params_body, flops_6nd, ... where the table has them), the approach, and the law's own warnings. Of a surface
also: E against the lowest loss, exponents whose interval touches 0, bounds, starts, condition number,
leverage, leave-one-out influence, outliers, and the threshold delta. Leave-one-out uses the resampling
solver: a few Newton steps a run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.checks.influence import condition_number, influence_table, without_outliers
from analysis.checks.variants import variants
from analysis.estimate import Estimate, shortest
from analysis.frontier import frontier_exponents
from analysis.laws.result import FitStatus, Law
from analysis.laws.surface import FEW_STARTS, TOUCHES_ZERO, SurfaceLaw

if TYPE_CHECKING:
    import plotly.graph_objects as go

STABLE = 0.05
"""Variants of the exponent of N* within this of each other are called stable; 0.05 is a factor 2 in N* over
six decades of compute."""
E_SPREAD = 0.05
"""Variants of E within this of each other (relative) leave it identified."""
ILL_CONDITIONED = 1e3
"""Above this, errors of a thousandth in the losses become errors of order one in some combination."""
FINE, NOTE, CONCERN = "fine", "note", "concern"
MOST_DIAGNOSED = 2000
"""Runs up to which reports diagnose a law by themselves: seconds; 10,000 take half a minute."""
COLUMNS = ("check", "grade", "value", "finding")
FIGURE_OF = {
    **dict.fromkeys(("E", "exponents", "bounds", "starts", "condition"), "draws"),
    **dict.fromkeys(("leverage", "leave one out", "outliers"), "influence"),
}
"""Which figure stands behind a check; the others have that of the variants."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Diagnosis:
    """What the checks of one law found."""

    law: Law
    table: pd.DataFrame
    """check, grade ("fine", "note", "concern"), value (pandas.NA where there is no one number), finding."""
    variants: pd.DataFrame
    """See `analysis.checks.variants.variants`."""
    influence: pd.DataFrame | None
    """See `analysis.checks.influence.influence_table`; None for laws that are no surface."""
    verdict: str

    def summary(self) -> pd.DataFrame:
        return self.table

    def plot(self, check: str | None = None) -> go.Figure:
        """The figure behind one check, or (None) the exponent and E over all variants. UserError names the
        checks there are."""
        from analysis import figures
        from analysis.errors import UserError

        if check is not None and check not in set(self.table["check"]):
            raise UserError(f"check = {check!r} was not made; choose one of {', '.join(self.table['check'])}")
        kind = "variants" if check is None else FIGURE_OF.get(check, "variants")
        return figures.FIGURES[kind].draw(self, *([check] if kind == "variants" else []))

    def __str__(self) -> str:
        width = max(map(len, self.table["check"]))
        lines = [
            f"  {check:<{width}}  {grade:<7}  {finding}"
            for check, grade, finding in self.table[["check", "grade", "finding"]].itertuples(index=False)
        ]
        return "\n".join([*lines, "", f"verdict: {self.verdict}"])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<p><b>{self.verdict}</b></p>{self.table.to_html(index=False)}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; a missing number is None."""
        tables = {}
        for name, table in (("checks", self.table), ("variants", self.variants)):
            plain = table.astype(object)
            tables[name] = plain.where(plain.notna(), None).to_dict(orient="records")
        return {**tables, "verdict": self.verdict}


Finding = tuple[str, float | None, str]
"""Grade, number, sentence."""


def diagnose(law: Law) -> Diagnosis:
    """Check a fitted law (from `fit_law`): refits it some dozen times without intervals, a second or less for
    tables of hundreds of runs."""
    others = variants(law)
    influence = influence_table(law) if isinstance(law, SurfaceLaw) else None
    checks: dict[str, Finding] = {}
    if isinstance(law, SurfaceLaw) and influence is not None:
        for name, check in SURFACE_CHECKS.items():
            checks[name] = check(law)
        checks |= _influence_checks(law, influence)
    else:
        grade = CONCERN if law.warnings else FINE
        checks["fit"] = grade, None, "; ".join((law.sentence, *law.warnings))
    for name in ("delta", "window", "convention", "approach"):
        found = _spread_of(law, others[others["check"] == name], name)
        if found is not None:
            checks[name] = found
    rows = [(name, *finding) for name, finding in checks.items()]
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"value": "Float64"})
    return Diagnosis(
        law=law,
        table=table,
        variants=others,
        influence=influence,
        verdict=_verdict(law, checks, others, influence),
    )


def _floor(law: SurfaceLaw) -> Finding:
    lowest, E = float(law.runs["loss"].min()), float(law.E)
    if law.options["E"] is not None:
        return FINE, E, f"E is held at {E:.4g}, the lowest loss is {lowest:.4g}"
    if lowest <= E:
        return (
            CONCERN,
            E / lowest,
            f"E = {E:.4g} is at or above the lowest loss, {lowest:.4g}: the form is wrong here",
        )
    if law.E.low is not None and law.E.low < 0.05 * lowest:
        return CONCERN, E / lowest, f"E = {law.E} of a lowest loss of {lowest:.4g}: the interval reaches 0"
    return FINE, E / lowest, f"E = {law.E} lies below the lowest loss, {lowest:.4g}"


def _zero(law: SurfaceLaw) -> Finding:
    values: dict[str, Estimate] = {"alpha": law.alpha, "beta": law.beta}
    least = min(float(value) if value.low is None else value.low for value in values.values())
    words = ", ".join(f"{name} = {value}" for name, value in values.items())
    if law.alpha.low is None:
        return NOTE, least, f"{words}; no intervals, fit with bootstrap > 0"
    touching = [name for name, value in values.items() if value.low is not None and value.low < TOUCHES_ZERO]
    if touching:
        return CONCERN, least, f"{words}: the interval of {' and '.join(touching)} touches 0"
    return FINE, least, f"{words}: clear of 0"


def _bounds(law: SurfaceLaw) -> Finding:
    grade = FINE if law.status is FitStatus.CONVERGED else CONCERN
    return grade, None, "no parameter at a bound" if grade == FINE else law.sentence


def _starts(law: SurfaceLaw) -> Finding:
    share = law.share_of_starts
    return (
        (CONCERN if share < FEW_STARTS else FINE),
        share,
        f"{share:.0%} of the cold starts end at the optimum",
    )


def _condition(law: SurfaceLaw) -> Finding:
    number, pair, cosine = condition_number(law)
    words = (
        f"condition number {number:.3g}; {pair[0]} and {pair[1]} most nearly trade off (cosine {cosine:.4f})"
    )
    return (NOTE if number > ILL_CONDITIONED else FINE), number, words


SURFACE_CHECKS: dict[str, Callable[[SurfaceLaw], Finding]] = {
    "E": _floor,
    "exponents": _zero,
    "bounds": _bounds,
    "starts": _starts,
    "condition": _condition,
}


def _influence_checks(law: SurfaceLaw, influence: pd.DataFrame) -> dict[str, Finding]:
    a = law.exponents["params"]
    highest = influence["leverage"].idxmax()
    leverage = float(influence["leverage"].max())
    moved = influence["exponent_change"].abs()
    most, change = moved.idxmax(), float(influence.loc[moved.idxmax(), "exponent_change"])
    half = None if a.low is None else (a.high - a.low) / 2  # type: ignore[operator]
    heavy = abs(change) > max(half or STABLE, 1e-6)
    named = influence.index[influence["outlier"]].tolist()
    found: dict[str, Finding] = {
        "leverage": (
            NOTE if leverage > 0.8 else FINE,
            leverage,
            f"highest leverage {leverage:.2f} (row {highest}); 1 is a run fitted by itself",
        ),
        "leave one out": (
            CONCERN if heavy else FINE,
            abs(change),
            f"without row {most} the exponent of N* moves most, by {change:+.3f}"
            + (f" ({abs(change) / half:.0%} of its half interval)" if half and half > 1e-6 else ""),
        ),
    }
    if not named:
        return found | {"outliers": (FINE, 0.0, "no run further than 4 robust standard deviations")}
    theta = without_outliers(law)
    a_without = float(frontier_exponents(theta, law.cost)["params"])
    shown = ", ".join(map(str, named[:6])) + (f" and {len(named) - 6} more" if len(named) > 6 else "")
    words = (
        f"{len(named)} run{'s' if len(named) > 1 else ''} further than 4 robust standard deviations (row "
        f"{shown}); exponent of N* {float(a):.4f} with, {a_without:.4f} without; E {float(law.E):.4g} with, "
        f"{theta[0]:.4g} without"
    )
    grade = CONCERN if abs(a_without - float(a)) > STABLE else NOTE
    return found | {"outliers": (grade, float(len(named)), words)}


def _spread_of(law: Law, rows: pd.DataFrame, check: str) -> Finding | None:
    """How far the exponent of N* goes over the variants of one check; None where there are none."""
    if rows.empty:
        return None
    known = rows[rows["exponent"].notna()]
    failed = [
        f"{name}: {note}"
        for name, note in rows.loc[rows["note"] != "", ["variant", "note"]].itertuples(index=False)
    ]
    if known.empty:
        return NOTE, None, f"no variant could be fitted ({'; '.join(failed)})"
    exponents = [float(law.exponents["params"]), *known["exponent"].astype(float)]
    low, high = min(exponents), max(exponents)
    words = f"exponent of N* from {low:.3f} to {high:.3f} over {len(known)} variants ({_ends(known)})"
    E = known["E"].dropna().astype(float)
    if check != "approach" and len(E):
        words += f"; E from {E.min():.4g} to {E.max():.4g}"
    if failed:
        words += f"; not fitted: {'; '.join(failed)}"
    return (CONCERN if high - low > STABLE else FINE), high - low, words


def _ends(known: pd.DataFrame) -> str:
    exponent = known["exponent"].astype(float)
    least, most = known.loc[exponent.idxmin()], known.loc[exponent.idxmax()]
    if len(known) == 1:
        return str(least["variant"])
    return f"{least['variant']}: {least['exponent']:.3f}, {most['variant']}: {most['exponent']:.3f}"


def _verdict(
    law: Law, checks: dict[str, Finding], others: pd.DataFrame, influence: pd.DataFrame | None
) -> str:
    """What may be believed, in words."""
    own = law.exponents["params"]
    exponents = [float(own), *others["exponent"].dropna().astype(float)]
    if influence is not None:
        exponents += influence["exponent_without"].tolist()
    low, high = min(exponents), max(exponents)
    inside = own.low is not None and own.high is not None and own.low <= low and high <= own.high
    told = f"({low:.3f} to {high:.3f} over {len(exponents)} fits)"
    trusted = high - low <= STABLE or inside
    if high - low <= STABLE:
        words = [f"the exponent of N* is stable {told}"]
    elif inside:
        words = [f"the exponent of N* is as uncertain as its interval says {told}"]
    else:
        words = [f"the exponent of N* depends on how it is fitted, beyond its interval {told}"]
    if isinstance(law, SurfaceLaw) and law.options["E"] is None:
        words.append(_verdict_on_E(law, checks, others))
    unidentified = checks.get("exponents", (FINE, None, ""))[0] == CONCERN
    if unidentified:
        words.append("alpha or beta may be 0")
    worst = [name for name, (grade, _, _) in checks.items() if grade == CONCERN]
    if worst:
        words.append(f"look at {', '.join(worst)}")
    elif trusted:
        words.append("nothing speaks against it")
    return "; ".join(words)


def _verdict_on_E(law: SurfaceLaw, checks: dict[str, Finding], others: pd.DataFrame) -> str:
    same = others[others["check"].isin(["delta", "window"])]["E"].dropna().astype(float)
    values = np.array([float(law.E), *same])
    spread = float((values.max() - values.min()) / float(law.runs["loss"].min()))
    identified = checks["E"][0] == FINE and spread <= E_SPREAD
    ends = f"{shortest(values.min(), 3)} to {shortest(values.max(), 3)} over {len(values)} fits"
    return f"E is {'identified' if identified else 'not identified'} ({ends})"
