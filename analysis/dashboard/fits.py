"""Laws, comparisons, diagnoses and figures as the page shows them, for one way of counting.

Everything is fitted by the functions of the report (`analysis.fit_law`, `compare`, `diagnose`) with their own
defaults and drawn by `analysis.figures`; the page gets small tables and Plotly figures. Every registered law
is fitted. Runs in a child process, which reports after each family, so that the page shows results as they
come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from analysis.dashboard import drawings
from analysis.dashboard.columns import plain, records, table
from analysis.dashboard.measures import nominal_budgets
from analysis.errors import UserError
from analysis.laws import METHODS, standard_methods
from analysis.table.counts import FLOPS, PARAMS
from analysis.table.counts import counted as count_runs

if TYPE_CHECKING:
    import pandas as pd

    from analysis.laws.result import Law

OWN = "own"
"""The columns params and flops as the table has them, where it has no other count."""
MOST_LEFT_OUT, MOST_OUTLIERS = 300, 100

Report = Callable[[str, dict[str, Any]], None]
"""Called after each step with its name and what is new."""


def counts_of(frame: pd.DataFrame) -> dict[str, list[str]]:
    """Which counts of parameters and FLOPs every finished run of the table has."""
    rows = frame[frame["status"] == "finished"] if "status" in frame else frame
    counts = {}
    for kind, names in (("params", PARAMS), ("flops", FLOPS)):
        complete = [name for name in names if len(rows) and name in rows and rows[name].notna().all()]
        counts[kind] = complete or [OWN]
    return counts


def default_counts(frame: pd.DataFrame) -> dict[str, str]:
    """The counts of the table's own columns params and flops."""
    counts = counts_of(frame)
    params = "params_non_embedding" if "params_non_embedding" in counts["params"] else counts["params"][0]
    flops = counts["flops"][0]
    if "flop_convention" in frame and frame["flop_convention"].notna().any():
        named = "flops_" + str(frame["flop_convention"].dropna().mode().iloc[0])
        flops = named if named in counts["flops"] else flops
    return {"params": params, "flops": flops}


def counted(frame: pd.DataFrame, params: str, flops: str) -> pd.DataFrame:
    """The runs with params and flops counted that way; column nominal keeps the budget they were given."""
    if "flops" not in frame and not ("budget" in frame and frame["budget"].notna().any()):
        frame = frame.assign(flops=6.0 * frame["params"] * frame["tokens"])
    counts = {kind: count for kind, count in (("params", params), ("flops", flops)) if count != OWN}
    return count_runs(frame.assign(nominal=nominal_budgets(frame)), **counts)


def fit_everything(frame: pd.DataFrame, bootstrap: int, report: Report, *, paint: bool = True) -> None:
    """Fit and draw everything from runs as `counted` gives them; `report` is called after each step.

    paint: with the first paint of the figures that a view opens with.

    Reported are dictionaries that add to those before: {"methods": {method: label}}, {"families":
    {family: ...}}, {"figures": {name: ...}}, {"compare": {reference: ...}}, {"health": {family: ...}},
    {"published": [...]}.
    """
    import analysis
    from analysis import figures
    from analysis.checks.diagnostics import MOST_DIAGNOSED, diagnose
    from analysis.figures.theme import family_order

    nominal: dict[float, float] = {}
    methods = sorted(standard_methods(), key=list(METHODS).index)  # the first one is the usual one

    def as_json(figure: Any, *, first: bool = False) -> dict[str, Any]:
        content = drawings.plain(figure, nominal)
        return content | {"svg": drawings.first_paint(content)} if first and paint else content

    names = family_order(frame["family"].dropna().unique()) if "family" in frame else [""]
    pictures = {"best": figures.best_losses(frame), "measured": figures.measured(frame)}
    report("figures of the runs", {
        "methods": {name: METHODS[name].label for name in methods},
        "figures": {name: as_json(figure, first=True) for name, figure in pictures.items()},
    })  # fmt: skip

    laws: dict[str, dict[str, Any]] = {method: {} for method in methods}
    for name in names:
        own, summary = fit_family(frame[frame["family"] == name] if name else frame, bootstrap)
        for method, law in own.items():
            laws[method][name] = law
            for row in summary["laws"][method].get("minima", ()):
                nominal[row["flops"]] = row["nominal"]
        report(f"laws of {name or 'all runs'}", {"families": {name: summary}})
    pictures = {
        f"frontier/{method}": figures.frontier(of_method) for method, of_method in laws.items() if of_method
    }
    if laws.get("isoflop"):
        pictures["isoflop"] = figures.isoflop(laws["isoflop"])
    if laws.get("surface"):
        pictures["residuals"] = figures.surface_residuals(laws["surface"])
    opening = ("isoflop", "residuals", f"frontier/{methods[0]}")  # what a view opens with
    report("figures of the laws", {
        "figures": {name: as_json(figure, first=name in opening) for name, figure in pictures.items()},
    })  # fmt: skip

    fitted = [law for of_method in laws.values() for law in of_method.values()]
    if fitted:
        report("published laws", {"published": published_lines(fitted)})

    comparable = [name for name in names if name in laws.get("surface", ())]
    again: Mapping[str, Law] | None = None
    for reference in comparable if len(comparable) > 1 else ():
        try:
            comparison = analysis.compare(
                frame[frame["family"].isin(comparable)], reference, bootstrap=bootstrap, laws=again
            )
            again = comparison.laws
            summary, picture = summary_of_comparison(comparison), figures.compare(comparison)
        except UserError as error:
            report(f"comparison over {reference}", {"compare": {reference: {"refused": str(error)}}})
            continue
        first = reference == comparable[0]
        report(f"comparison over {reference}", {
            "compare": {reference: summary},
            "figures": {f"compare/{reference}": as_json(picture, first=first)},
        })  # fmt: skip

    for name in names:
        checked: dict[str, Any] = {}
        for method, of_method in laws.items():
            if name not in of_method:
                continue
            if len(of_method[name].runs) > MOST_DIAGNOSED:
                note = f"{len(of_method[name].runs)} runs are too many to check here"
                checked[method] = {"verdict": "", "note": note}
                continue
            diagnosis = diagnose(of_method[name])
            checked[method] = {
                "verdict": diagnosis.verdict,
                "checks": records(diagnosis.table, 4),
                "variants": records(diagnosis.variants, 5),
                "figure": as_json(diagnosis.plot()),
            }
        if checked:
            report(f"checks of {name or 'all runs'}", {"health": {name: checked}})


def fit_family(runs: pd.DataFrame, bootstrap: int) -> tuple[dict[str, Law], dict[str, Any]]:
    """The laws of one family by method, and what the page shows of them; for those without a fit, why."""
    import analysis

    laws: dict[str, Law] = {}
    summary: dict[str, Any] = {"laws": {}, "refused": {}, "runs": len(runs)}
    # rows called by the key of their run, so that a law names the runs it left out
    keyed = runs.set_axis(runs["key"].tolist(), axis=0) if "key" in runs else runs
    for method in standard_methods():
        try:
            law = analysis.fit_law(keyed, method, bootstrap=bootstrap)
        except UserError as error:
            summary["refused"][method] = str(error)
            continue
        laws[method] = law
        summary["laws"][method] = summary_of_law(law)
    return laws, summary


def summary_of_law(law: Any) -> dict[str, Any]:
    """A law as small tables of plain JSON values, by what it can do; losses in nats per token."""
    import numpy as np

    from analysis import figures

    summary: dict[str, Any] = {
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
    if hasattr(law, "minima"):
        runs, minima = law.runs, records(law.minima, 6)
        spent = runs["budget" if "budget" in runs and runs["budget"].notna().all() else "flops"].to_numpy(
            float
        )
        for row, flops in zip(minima, law.minima["flops"].tolist(), strict=True):
            nearest = np.abs(np.log(spent / flops)).argmin()
            row["nominal"] = plain(float(runs["nominal"].iloc[nearest])) if "nominal" in runs else None
            row["nominal"] = row["nominal"] or row["flops"]  # the budget as the sweep gave it, if it did
        summary["minima"] = minima
    if hasattr(law, "E"):
        residuals = figures.surface_residuals_table(law)
        outliers = residuals[residuals["outlier"]].head(MOST_OUTLIERS)
        names = ("key", "loss", "predicted", "residual_percent")
        summary["outliers"] = records(outliers[[name for name in names if name in outliers]], 6)
    return summary


def summary_of_comparison(comparison: Any) -> dict[str, Any]:
    from analysis import figures

    rows = figures.compare_table(comparison)
    return {
        "method": comparison.method,
        "multipliers": records(rows[rows["kind"] == "budget"].drop(columns="kind"), 5),
        "crossovers": records(comparison.measured_crossovers, 5),
        "exponents": records(comparison.exponents, 4),
        "warnings": list(comparison.warnings),
        "level": next(iter(comparison.laws.values())).level,
    }


def published_lines(laws: list[Law]) -> list[dict[str, Any]]:
    """Frontiers of published laws over the budgets of `laws`, where a law says one, as traces for the figure
    of frontiers."""
    import numpy as np

    from analysis import published
    from analysis.figures import theme
    from analysis.figures.frontiers import PANELS
    from analysis.figures.published_laws import DASHES

    low = min(law.flops_range[0] for law in laws)
    high = max(law.flops_range[1] for law in laws) * 10
    grid = np.geomspace(low, high, 24)
    lines: list[dict[str, Any]] = []
    for row in published.laws().to_dict(orient="records"):
        try:
            beside = laws[0].against(row["name"], flops=grid, withdrawn=True)
        except UserError:
            continue
        own = beside.table[beside.table["law"] == row["name"]]
        if not len(own):
            continue
        line = {"color": theme.NEUTRAL, "width": 1.8, "dash": DASHES[len(lines) % len(DASHES)]}
        traces = []
        for number, panel in enumerate(PANELS):
            points_of_law = own[own[panel].notna()]
            if len(points_of_law):
                axes = {f"{name}axis": f"{name}{number + 1}" if number else name for name in "xy"}
                points = {
                    "x": table(points_of_law[["flops"]], 5)["flops"],
                    "y": table(points_of_law[[panel]], 5)[panel],
                }
                label = [*[""] * (len(points_of_law) - 1), row["name"]]
                traces.append({
                    **axes, **points, "type": "scatter", "mode": "lines+text", "line": line, "text": label,
                    "textposition": "top left", "name": row["name"], "showlegend": False, "cliponaxis": False,
                    "hovertemplate": row["name"] + ": %{y:.4s}<extra></extra>", "meta": {"role": "reference"},
                })  # fmt: skip
        facts = {name: plain(row[name]) for name in ("name", "paper", "family", "status", "note")}
        counts = {name: plain(row[name]) for name in ("params_counted", "flops_counted", "corpus")}
        lines.append(facts | counts | {"traces": traces})
    return lines
