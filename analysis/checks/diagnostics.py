"""Whether a fit can be trusted: one row per check, one sentence each, and a verdict in words.

    print(analysis.diagnose(law))           # the table and the verdict
    analysis.diagnose(law).plot("delta")    # the figure behind a check

Checks of any law: lack of fit by repeated runs (`solver.lack_of_fit`), windows of tokens per parameter,
conventions of counting (columns params_total, params_body, flops_6nd, ... if the table has them), the
approach, and the law's own warnings. Of a surface also: E against the lowest loss, exponents whose interval
touches 0, bounds, starts, condition number, leverage, leave-one-out influence, outliers, and the threshold
delta. Leave-one-out uses the resampling solver: a few Newton steps a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from analysis.checks.influence import OUTLIER, condition_number, influence_table, without_outliers
from analysis.checks.variants import variants
from analysis.errors import UserError
from analysis.estimate import Estimate
from analysis.frontier import frontier_exponents
from analysis.laws.predicting import FEW_STARTS
from analysis.laws.result import FitStatus, Law
from analysis.laws.solver.lack_of_fit import LackOfFit
from analysis.laws.surface import TOUCHES_ZERO, SurfaceLaw
from analysis.plotted import Plotted
from analysis.table.fit_table import prepare
from analysis.text import number_text

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

DIFFERENCES = {
    "approach": "between methods",
    "window": "between ranges of tokens per parameter",
    "convention": "between ways of counting",
    "delta": "between thresholds delta",
    "leave one out": "with one run left out",
}
"""Checks whose value is a difference in the exponent of N*, and between which fits."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Diagnosis(Plotted):
    """The checks of one law and their result."""

    figure: ClassVar[str] = "variants"
    law: Law
    table: pd.DataFrame
    """check, grade ("fine", "note", "concern"), value (pandas.NA if there is no one number), finding."""
    variants: pd.DataFrame
    """See `analysis.checks.variants.variants`."""
    influence: pd.DataFrame | None
    """See `analysis.checks.influence.influence_table`; None for laws that are no surface."""
    verdict: str

    def summary(self) -> pd.DataFrame:
        return self.table

    @property
    def advice(self) -> str:
        """The checks in a line: "reliable", or "use with care: ..." or "do not use: ..." with the reasons."""
        concerns = self.table[self.table["grade"] == CONCERN].set_index("check")
        broken = [check for check in concerns.index if check in ("bounds", "exponents")]
        if "E" in concerns.index and concerns["value"]["E"] >= 1:
            broken.append("E")
        texts = {
            "E": "E lies at or above the lowest loss" if "E" in broken else "E may be 0",
            "exponents": "alpha or beta may be 0",
            "fit": "its warnings say why",
            "lack of fit": "its curve does not describe the means of repeated runs",
            "outliers": "outliers move the exponent of N*",
        }
        reasons, differences = [], []
        for check, value, finding in concerns[["value", "finding"]].itertuples():
            if broken and check not in broken:
                continue
            if check in DIFFERENCES:
                named = f" ({self._farthest(check)})" if check == "approach" else ""
                differences.append(f"by {value:.2g} {DIFFERENCES[check]}{named}")
            else:
                reasons.append(texts.get(check, finding))
        if differences:
            reasons.append(f"the exponent of N* differs {', '.join(differences)}")
        if not reasons:
            return "reliable"
        return f"{'do not use' if broken else 'use with care'}: {', '.join(reasons)}"

    def _farthest(self, check: str) -> str:
        """The variant whose exponent of N* is farthest from the law's own, with that exponent."""
        rows = self.variants[(self.variants["check"] == check) & self.variants["exponent"].notna()]
        exponents = rows["exponent"].astype(float)
        at = (exponents - float(self.law.exponents["params"])).abs().idxmax()
        return f"{rows['variant'][at]}: {exponents[at]:.2f}"

    def plot(self, check: str | None = None, *, ax: Any = None) -> Any:  # type: ignore[override]
        """The figure behind one check, or (None) the exponent and E over all variants; with `ax` on axes of
        matplotlib. UserError names the checks there are."""
        if check is not None and check not in set(self.table["check"]):
            raise UserError(f"check = {check!r} was not made; choose one of {', '.join(self.table['check'])}")
        kind = "variants" if check is None else FIGURE_OF.get(check, "variants")
        return self._drawn(kind, ax, **({"check": check} if kind == "variants" else {}))

    def __str__(self) -> str:
        width = max(map(len, self.table["check"]))
        lines = [
            f"  {check:<{width}}  {grade:<7}  {finding}"
            for check, grade, finding in self.table[["check", "grade", "finding"]].itertuples(index=False)
        ]
        return "\n".join([*lines, "", f"verdict: {self.verdict}"])

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
    if isinstance(law, SurfaceLaw) and influence is not None:
        checks = _surface_checks(law, influence)
    else:
        note = "; ".join((law.sentence, *law.warnings))
        checks = {"fit": (CONCERN if law.warnings else FINE, None, note)}
    if hasattr(law, "lack_of_fit"):
        checks["lack of fit"] = _lack_of_fit(law)
    own = law.exponents.get("params")
    for check in ("delta", "window", "convention", "approach"):
        rows = others[others["check"] == check]
        fitted = rows[rows["exponent"].notna()]
        notes = rows.loc[rows["note"] != "", ["variant", "note"]].itertuples(index=False)
        failed = "; ".join(f"{name}: {note}" for name, note in notes)
        if rows.empty or own is None:
            continue
        if fitted.empty:
            checks[check] = NOTE, None, f"no variant could be fitted ({failed})"
            continue
        exponent = fitted["exponent"].astype(float)
        low, high = min(float(own), exponent.min()), max(float(own), exponent.max())
        least, most = fitted.loc[exponent.idxmin()], fitted.loc[exponent.idxmax()]
        ends = f"{least['variant']}: {least['exponent']:.3f}, {most['variant']}: {most['exponent']:.3f}"
        words = (
            f"exponent of N* from {low:.3f} to {high:.3f} over {len(fitted)} variants "
            f"({ends if len(fitted) > 1 else least['variant']})"
        )
        E = fitted["E"].dropna().astype(float)
        if check != "approach" and len(E):
            words += f"; E from {E.min():.4g} to {E.max():.4g}"
        if failed:
            words += f"; not fitted: {failed}"
        checks[check] = (CONCERN if high - low > STABLE else FINE), high - low, words
    rows = [(name, *finding) for name, finding in checks.items()]
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"value": "Float64"})
    verdict = _verdict(law, checks, others, influence)
    return Diagnosis(law=law, table=table, variants=others, influence=influence, verdict=verdict)


def _lack_of_fit(law: Any) -> Finding:
    """Whether the means of repeated runs lie on the curve, of a law with that field."""
    lack: LackOfFit | None = law.lack_of_fit
    if lack is None and prepare(law.runs).repeats is None:
        return NOTE, None, "not testable: no run is repeated with another seed"
    if lack is None:
        return NOTE, None, "not testable: repeats alike, no size to spare, or a curve that is no plain fit"
    means = f"means of repeats lie {lack.pooled.lack:.2%} off the curve, repeats scatter by "
    means += f"{lack.pooled.error:.2%} ({lack.sentence})"
    if not lack.fails:
        return FINE, lack.p, f"{means}: as far as noise explains"
    return CONCERN, lack.p, f"{means}: the curve misses them"


def _surface_checks(law: SurfaceLaw, influence: pd.DataFrame) -> dict[str, Finding]:
    """Checks that read the fit itself, and checks that leave runs out."""
    checks: dict[str, Finding] = {}
    lowest, E = float(law.runs["loss"].min()), float(law.E)
    if law.options["E"] is not None:
        checks["E"] = FINE, E, f"E is held at {E:.4g}, the lowest loss is {lowest:.4g}"
    elif lowest <= E:
        note = f"E = {E:.4g} is at or above the lowest loss, {lowest:.4g}: the form is wrong here"
        checks["E"] = CONCERN, E / lowest, note
    elif law.E.low is not None and law.E.low < 0.05 * lowest:
        note = f"E = {law.E} of a lowest loss of {lowest:.4g}: the interval reaches 0"
        checks["E"] = CONCERN, E / lowest, note
    else:
        checks["E"] = FINE, E / lowest, f"E = {law.E} lies below the lowest loss, {lowest:.4g}"

    values: dict[str, Estimate] = {"alpha": law.alpha, "beta": law.beta}
    least = min(float(value) if value.low is None else value.low for value in values.values())
    words = ", ".join(f"{name} = {value}" for name, value in values.items())
    touching = [name for name, value in values.items() if value.low is not None and value.low < TOUCHES_ZERO]
    if law.alpha.low is None:
        checks["exponents"] = NOTE, least, f"{words}; no intervals, fit with bootstrap > 0"
    elif touching:
        note = f"{words}: the interval of {' and '.join(touching)} touches 0"
        checks["exponents"] = CONCERN, least, note
    else:
        checks["exponents"] = FINE, least, f"{words}: clear of 0"

    if law.status is FitStatus.CONVERGED:
        checks["bounds"] = FINE, None, "no parameter at a bound"
    else:
        checks["bounds"] = CONCERN, None, law.sentence
    share = law.share_of_starts
    grade = CONCERN if share < FEW_STARTS else FINE
    checks["starts"] = grade, share, f"{share:.0%} of the cold starts end at the optimum"
    number, (one, other), cosine = condition_number(law)
    note = f"{one} and {other} most nearly trade off (cosine {cosine:.4f})"
    note = f"condition number {number_text(number)}; {note}"
    checks["condition"] = (NOTE if number > ILL_CONDITIONED else FINE), number, note

    a = law.exponents["params"]
    # of a run and its repeats together
    shares = influence.groupby("cell")["leverage"].transform("sum").to_numpy()
    highest, leverage = influence.index[int(shares.argmax())], float(shares.max())
    note = f"highest leverage {leverage:.2f} (row {highest}); 1 is a run fitted by itself"
    checks["leverage"] = (NOTE if leverage > 0.8 else FINE, leverage, note)

    place = int(influence["exponent_change"].abs().to_numpy().argmax())
    most, change = influence.index[place], float(influence["exponent_change"].iloc[place])
    repeats = int((influence["cell"] == influence["cell"].iloc[place]).sum()) - 1
    half = None if a.low is None or a.high is None else (a.high - a.low) / 2
    also = f" and its {repeats} repeat{'s' * (repeats > 1)}" if repeats else ""
    note = f"without row {most}{also} the exponent of N* moves most, by {change:+.3f}"
    if half and half > 1e-6:
        note += f" ({abs(change) / half:.0%} of its half interval)"
    heavy = abs(change) > max(half or STABLE, 1e-6)
    checks["leave one out"] = (CONCERN if heavy else FINE), abs(change), note

    named = influence.index[influence["outlier"]].tolist()
    if not named:
        checks["outliers"] = FINE, 0.0, f"no run further than {OUTLIER:g} robust standard deviations"
        return checks
    theta = without_outliers(law)
    a_without = float(frontier_exponents(theta, law.cost)["params"])
    row_names = ", ".join(map(str, named[:6])) + (f" and {len(named) - 6} more" if len(named) > 6 else "")
    note = (
        f"{len(named)} run{'s' if len(named) > 1 else ''} further than {OUTLIER:g} robust standard "
        f"deviations (row {row_names}); exponent of N* {float(a):.4f} with, {a_without:.4f} without; "
        f"E {float(law.E):.4g} with, {theta[0]:.4g} without"
    )
    grade = CONCERN if abs(a_without - float(a)) > STABLE else NOTE
    checks["outliers"] = grade, float(len(named)), note
    return checks


def _verdict(
    law: Law, checks: dict[str, Finding], others: pd.DataFrame, influence: pd.DataFrame | None
) -> str:
    """What may be believed, in words."""
    words, trusted = ["the law has no exponent of N*"], False
    own = law.exponents.get("params")
    if own is not None:
        exponents = [float(own), *others["exponent"].dropna().astype(float)]
        if influence is not None:
            exponents += influence["exponent_without"].tolist()
        low, high = min(exponents), max(exponents)
        inside = own.low is not None and own.high is not None and own.low <= low and high <= own.high
        trusted = high - low <= STABLE or inside
        spread = f"({low:.3f} to {high:.3f} over {len(exponents)} fits)"
        if high - low <= STABLE:
            words = [f"the exponent of N* is stable {spread}"]
        elif inside:
            words = [f"the exponent of N* is uncertain, but other fits stay within its interval {spread}"]
        else:
            words = [f"the exponent of N* depends on the fit: other fits leave its interval {spread}"]
    if isinstance(law, SurfaceLaw) and law.options["E"] is None:
        same = others[others["check"].isin(["delta", "window"])]["E"].dropna().astype(float)
        values = np.array([float(law.E), *same])
        width = float((values.max() - values.min()) / float(law.runs["loss"].min()))
        identified = checks["E"][0] == FINE and width <= E_SPREAD
        ends = f"{number_text(values.min())} to {number_text(values.max())} over {len(values)} fits"
        words.append(f"E is {'identified' if identified else 'not identified'} ({ends})")
    if checks.get("exponents", (FINE, None, ""))[0] == CONCERN:
        words.append("alpha or beta may be 0")
    worst = [name for name, (grade, _, _) in checks.items() if grade == CONCERN]
    if worst:
        words.append(f"look at {', '.join(worst)}")
    elif trusted:
        words.append("no check speaks against it")
    return "; ".join(words)
