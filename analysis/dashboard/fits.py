"""Laws, comparisons and diagnoses as the page shows them, for one way of counting.

Everything is fitted by the functions of the report (`analysis.fit_law`, `compare`, `diagnose`) with their own
defaults, and handed on as small tables; the page only draws. Runs in a child process, which says after each
family how far it is, so that the page shows what is there already.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analysis.dashboard.columns import plain, records, table
from analysis.dashboard.measures import nominal_budgets
from analysis.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from analysis.laws.result import Law

PARAMS = ("params_total", "params_non_embedding", "params_body")
FLOPS = ("flops_exact", "flops_6nd", "flops_sahoo2026")
OWN = "own"
"""The columns params and flops as the table has them, where it has no other count."""
METHODS = ("isoflop", "surface")
BEFORE, BEHIND, PER_DECADE = 1e-2, 1e10, 4
"""Budgets of the answers to "what would a budget buy", as factors of the law's own, and how densely."""
FEWER_TOKENS = (1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 1e-3, 1e-4)
"""Shares of the best number of tokens for which the answers are worked out too."""
MOST_LEFT_OUT = 300
CURVE_POINTS = 33

Tell = Callable[[str, dict[str, Any]], None]


def counts_of(frame: pd.DataFrame) -> dict[str, list[str]]:
    """Which counts of parameters and FLOPs every finished run of the table has."""
    rows = frame[frame["status"] == "finished"] if "status" in frame else frame
    found = {}
    for kind, names in (("params", PARAMS), ("flops", FLOPS)):
        known = [name for name in names if len(rows) and name in rows and rows[name].notna().all()]
        found[kind] = known or [OWN]
    return found


def default_counts(frame: pd.DataFrame) -> dict[str, str]:
    """The counts of the table's own columns params and flops."""
    known = counts_of(frame)
    params = "params_non_embedding" if "params_non_embedding" in known["params"] else known["params"][0]
    flops = known["flops"][0]
    if "flop_convention" in frame and frame["flop_convention"].notna().any():
        named = "flops_" + str(frame["flop_convention"].dropna().mode().iloc[0])
        flops = named if named in known["flops"] else flops
    return {"params": params, "flops": flops}


def counted(frame: pd.DataFrame, params: str, flops: str) -> pd.DataFrame:
    """The runs with params and flops counted that way; column nominal keeps the budget they were given.

    Budgets go on grouping the runs. Counted otherwise a budget is worth what its runs spent on (geometric)
    average, for the runs of one budget then differ.
    """
    import numpy as np

    own = "budget" if "budget" in frame and frame["budget"].notna().any() else "flops"
    if own not in frame:
        frame = frame.assign(flops=6.0 * frame["params"] * frame["tokens"])
    frame = frame.assign(nominal=nominal_budgets(frame))
    if params != OWN:
        frame = frame.assign(params=frame[params].astype(float))
    if flops == OWN:
        return frame
    frame = frame.assign(flops=frame[flops].astype(float))
    convention = frame.get("flop_convention")
    if own == "budget" and (convention is None or (f"flops_{convention.iloc[0]}" != flops)):
        done = frame["status"] == "finished" if "status" in frame else True
        spent = np.log(frame["flops"].where(done))
        means = spent.groupby([frame["family"], frame["budget"]]).transform("mean")
        frame = frame.assign(budget=np.exp(means).fillna(frame["budget"]))
    return frame


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be fitted."""

    frame: pd.DataFrame
    """As `counted` gives it."""
    bootstrap: int = 1000


def work_out(asked: Asked, tell: Tell) -> None:
    """Fit everything; `tell(stage, parts)` is called with what is new after each step.

    parts: {"families": {name: ...}}, {"compare": {reference: ...}}, {"health": {name: ...}},
    {"published": ...}, each a dictionary that adds to what was told before.
    """
    from analysis.figures.theme import family_order

    frame = asked.frame
    names = family_order(frame["family"].dropna().unique()) if "family" in frame else [""]
    laws: dict[str, dict[str, Law]] = {}
    for name in names:
        own = frame[frame["family"] == name] if name else frame
        laws[name], told = fit_family(own, asked.bootstrap)
        tell(f"laws of {name or 'all runs'}", {"families": {name: told}})
    fitted = [law for of_family in laws.values() for law in of_family.values()]
    if fitted:
        tell("published laws", {"published": published_lines(fitted)})
    for reference, told in compared(frame, [n for n in names if "surface" in laws[n]], asked.bootstrap):
        tell(f"comparison over {reference}", {"compare": {reference: told}})
    for name in names:
        if laws[name]:
            tell(f"checks of {name or 'all runs'}", {"health": {name: checked(laws[name])}})


def fit_family(runs: pd.DataFrame, bootstrap: int) -> tuple[dict[str, Law], dict[str, Any]]:
    """The laws of one family and what the page shows of them; for those that have no fit, why."""
    import analysis

    laws: dict[str, Law] = {}
    told: dict[str, Any] = {"laws": {}, "refused": {}, "runs": len(runs)}
    usable = runs.drop(columns=[name for name in ("label",) if name in runs])
    for method in METHODS:
        try:
            law = analysis.fit_law(_labelled(usable), method, bootstrap=bootstrap)
            told["laws"][method] = law_told(law)
        except UserError as error:
            told["refused"][method] = str(error)
            continue
        laws[method] = law
    return laws, told


def _labelled(runs: pd.DataFrame) -> pd.DataFrame:
    """Rows called by the key of their run, so that a law names whom it left out."""
    return runs.set_axis(runs["key"].tolist(), axis=0) if "key" in runs else runs


def law_told(law: Law) -> dict[str, Any]:
    """A law as small tables of plain JSON values; losses in nats per token."""
    from analysis import figures

    told: dict[str, Any] = {
        "status": str(law.status),
        "sentence": law.sentence,
        "warnings": list(law.warnings),
        "left_out": [[str(run.row), run.reason] for run in law.excluded[:MOST_LEFT_OUT]],
        "num_left_out": len(law.excluded),
        "num_runs": len(law.runs),
        "range": [plain(end) for end in law.flops_range],
        "level": law.level,
        "cost": str(law.cost),
        "sha256": law.sha256,
        "options": {name: plain(value) for name, value in law.options.items()},
        "exponents": {name: [plain(v) for v in (e, e.low, e.high)] for name, e in law.exponents.items()},
        "numbers": records(law.summary(), 6),
        "frontier": table(figures.frontier_table(law, points=48), 5),
    }
    return told | (isoflop_told(law) if law.method == "isoflop" else surface_told(law))


def isoflop_told(law: Any) -> dict[str, Any]:
    """Minima and curves, budget by budget; nominal is the budget as the sweep gave it."""
    import numpy as np

    minima = law.minima
    runs = law.runs
    spent = runs["budget" if "budget" in runs and runs["budget"].notna().all() else "flops"].to_numpy(float)
    rows = records(minima, 6)
    curves = []
    for row, flops in zip(rows, minima["flops"].tolist(), strict=True):
        nearest = np.abs(np.log(spent / flops)).argmin()
        row["nominal"] = plain(float(runs["nominal"].iloc[nearest])) if "nominal" in runs else row["flops"]
        curve = law.curves(flops)
        chosen = np.unique(np.linspace(0, len(curve) - 1, CURVE_POINTS).round().astype(int))
        curves.append(table(curve.iloc[chosen][["params", "loss"]], 6) if len(curve) else None)
    return {"minima": rows, "curves": curves, "residual_sd": plain(law.residual_sd)}


def surface_told(law: Any) -> dict[str, Any]:
    """The parameters, and the answers to what a budget would buy."""
    names = ("E", "A", "B", "alpha", "beta")
    return {"theta": {name: plain(float(getattr(law, name)), 12) for name in names}, "ask": answers(law)}


def answers(law: Any) -> dict[str, Any]:
    """What a budget would buy: best size, tokens and loss with intervals over a wide grid of budgets, and the
    loss where there are fewer tokens than the best number (the budget then goes into a larger network)."""
    import numpy as np

    low, high = law.flops_range
    count = round(np.log10(high * BEHIND / (low * BEFORE)) * PER_DECADE) + 1
    flops = np.geomspace(low * BEFORE, high * BEHIND, count)
    best = law.frontier(flops)
    fewer = []
    for share in FEWER_TOKENS[1:]:
        tokens = best["tokens"].to_numpy(float) * share
        params = (flops / (law.cost.k * tokens)) ** (1 / law.cost.q)
        loss = law.predict(params, tokens)
        fewer.append({"share": share} | table(loss.drop(columns="tokens"), 5))
    return {"frontier": table(best, 5), "fewer": fewer}


def compared(frame: pd.DataFrame, names: list[str], bootstrap: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every family over every other as reference, from one surface law per family."""
    import analysis

    if len(names) < 2:
        return
    runs = frame[frame["family"].isin(names)]
    laws: Mapping[str, Law] | None = None
    for reference in names:
        try:
            found = analysis.compare(runs, reference, bootstrap=bootstrap, laws=laws)
        except UserError as error:
            yield reference, {"refused": str(error)}
            continue
        laws = found.laws
        yield reference, comparison_told(found)


def comparison_told(found: Any) -> dict[str, Any]:
    from analysis import figures

    shown = figures.compare_table(found)
    return {
        "method": found.method,
        "multipliers": records(shown[shown["kind"] == "budget"].drop(columns="kind"), 5),
        "curves": table(shown[shown["kind"] == "curve"].drop(columns="kind"), 5),
        "crossovers": records(found.measured_crossovers, 5),
        "checks": records(found.checks, 5),
        "exponents": records(found.exponents, 4),
        "warnings": list(found.warnings),
        "level": next(iter(found.laws.values())).level,
    }


def checked(laws: Mapping[str, Law]) -> dict[str, Any]:
    """Whether to believe each law: verdict, checks, and the figure of its variants."""
    from analysis.checks.diagnostics import MOST_DIAGNOSED, diagnose

    told: dict[str, Any] = {}
    for method, law in laws.items():
        if len(law.runs) > MOST_DIAGNOSED:
            told[method] = {"verdict": "", "note": f"{len(law.runs)} runs are too many to check here"}
            continue
        found = diagnose(law)
        told[method] = {
            "verdict": found.verdict,
            "checks": records(found.table, 4),
            "variants": records(found.variants, 5),
            "figure": figure_told(found.plot()),
        }
    return told


def figure_told(figure: Any) -> Any:
    """A Plotly figure without its template, which the page puts in, light or dark."""
    from plotly.utils import PlotlyJSONEncoder

    content = figure.to_plotly_json()
    layout = {name: value for name, value in content["layout"].items() if name not in ("template", "width")}
    plain_figure = {"data": content["data"], "layout": layout | {"autosize": True}}
    return json.loads(json.dumps(plain_figure, cls=PlotlyJSONEncoder))


def published_lines(laws: list[Law]) -> list[dict[str, Any]]:
    """Frontiers of published laws over the budgets of `laws`, where a law says one."""
    import numpy as np

    from analysis import published

    low = min(law.flops_range[0] for law in laws)
    high = max(law.flops_range[1] for law in laws) * 10
    grid = np.geomspace(low, high, 24)
    lines = []
    for row in published.laws().to_dict(orient="records"):
        try:
            beside = laws[0].against(row["name"], flops=grid, withdrawn=True)
        except UserError:
            continue
        own = beside.table[beside.table["law"] == row["name"]]
        wanted = ["flops", "params", "tokens", "tokens_per_param", "loss"]
        if len(own):
            facts = {name: plain(row[name]) for name in ("name", "paper", "family", "status", "note")}
            counts = {name: plain(row[name]) for name in ("params_counted", "flops_counted", "corpus")}
            lines.append(facts | counts | {"line": table(own[wanted], 5)})
    return lines
