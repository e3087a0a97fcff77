"""Laws, comparisons, diagnoses and figures as the page shows them, for one way of counting.

Everything is fitted by the functions of the report (`analysis.fit_law`, `compare`, `diagnose`) with their own
defaults and drawn by `analysis.figures`; the page gets small tables, and each figure when it asks for it
(`Material`). Every registered law is fitted. Runs in a child process, which reports after each family, so
that the page shows results as they come.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from analysis.dashboard import drawings
from analysis.dashboard.answers import Answers, answers_of
from analysis.dashboard.columns import plain, records, table
from analysis.dashboard.measures import nominal_budgets
from analysis.errors import UserError
from analysis.laws import METHODS, standard_methods
from analysis.table.counts import FLOPS, PARAMS
from analysis.table.counts import counted as count_runs
from analysis.text import is_missing

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from analysis.checks.diagnostics import Diagnosis
    from analysis.comparison.multipliers import Comparison
    from analysis.laws.result import Law
    from analysis.speed.comparison import SpeedQuality

OWN = "own"
"""The columns params and flops as the table has them, where it has no other count."""
MOST_LEFT_OUT, MOST_OUTLIERS = 300, 100
OPENING = ("best", "isoflop")  # figures of the views that a page opens with

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


@dataclass(slots=True)
class Material:
    """What the figures of one way of counting are made from: runs as `counted` gives them, laws by method and
    family, and so on."""

    frame: pd.DataFrame
    laws: dict[str, dict[str, Any]] = field(default_factory=dict)
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    diagnoses: dict[str, Diagnosis] = field(default_factory=dict)
    nominal: dict[float, float] = field(default_factory=dict)
    answers: Answers | None = None
    samples: Path | None = None
    """Where a table of samples may be."""
    speed: SpeedQuality | None = None

    def figures(self) -> dict[str, Callable[[], go.Figure]]:
        """What makes each figure that there can be now, by its name."""
        from analysis import figures

        isoflop, surface = self.laws.get("isoflop"), self.laws.get("surface")
        return {
            "best": partial(figures.best_losses, self.frame),
            "measured": partial(figures.measured, self.frame),
            **{f"frontier/{method}": partial(figures.frontier, of) for method, of in self.laws.items() if of},
            **({"isoflop": partial(figures.isoflop, isoflop)} if isoflop else {}),
            **({"residuals": partial(figures.surface_residuals, surface)} if surface else {}),
            **{f"compare/{name}": partial(figures.compare, of) for name, of in self.comparisons.items()},
            **{f"checks/{name}": of.plot for name, of in self.diagnoses.items()},
            **({"speed": self.speed.plot} if self.speed else {}),
        }

    def content(self, name: str, *, paint: bool = False) -> dict[str, Any]:
        """A figure as the page gets it, with its first paint if `paint`."""
        kind, _, question = name.partition("?")
        if kind == "answer" and self.answers is not None:
            figure: dict[str, Any] | None = self.answers.answer(dict(parse_qsl(question))).get("figure")
            if figure is not None:
                return figure
        makers = self.figures()
        if name not in makers:
            raise UserError(f"there is no figure {name[:100]!r} yet")
        content = drawings.plain(makers[name](), self.nominal)
        return content | {"svg": drawings.first_paint(content)} if paint else content


def fit_everything(material: Material, bootstrap: int, report: Report, *, paint: bool = True) -> None:
    """Fit everything from the runs of `material`, which keeps what figures need; `report` is called after
    each step.

    paint: with the figures that a page opens with and their first paint.

    Reported are dictionaries that add to those before: {"methods": {method: label}}, {"families":
    {family: ...}}, {"figures": {name: ...}} (None: made when a page asks for it), {"compare":
    {reference: ...}}, {"health": {family: ...}}, {"published": [...]}, {"answers": {question: ...}},
    {"ready": the questions that have an answer here} or {"no_answer": why}, {"speed": ...} where there are
    samples.
    """
    import analysis
    from analysis.checks.diagnostics import MOST_DIAGNOSED, diagnose
    from analysis.figures import compare_table
    from analysis.figures.theme import family_order

    frame, figures = material.frame, {}

    def new_figures() -> dict[str, Any]:
        names = [name for name in material.figures() if name not in figures]
        new = {n: material.content(n, paint=True) if paint and n in OPENING else None for n in names}
        figures.update(new)
        return new

    methods = sorted(standard_methods(), key=list(METHODS).index)  # the first one is the usual one
    names = family_order(frame["family"].dropna().unique()) if "family" in frame else [""]
    labels = {name: METHODS[name].label for name in methods}
    report("figures of the runs", {"methods": labels, "figures": new_figures()})
    answers = material.answers = answers_of(frame)
    if answers.problem:
        report("the answer", {"no_answer": answers.problem})
    else:
        first = {"": answers.answer({}, paint=paint)}
        report("the answer", {"ready": answers.ready(), "answers": first})

    if speed := speed_of(material):
        report("speed against quality", {"speed": speed, "figures": new_figures()})

    laws: dict[str, dict[str, Law]] = {method: {} for method in methods}
    for name in names:
        own, summary = fit_family(frame[frame["family"] == name] if name else frame, bootstrap)
        for method, law in own.items():
            laws[method][name] = law
            for row in summary["laws"][method].get("minima", ()):
                material.nominal[row["flops"]] = row["nominal"]
        report(f"laws of {name or 'all runs'}", {"families": {name: summary}})
    material.laws = laws
    report("figures of the laws", {"figures": new_figures()})

    fitted = [law for of_method in laws.values() for law in of_method.values()]
    if fitted:
        report("published laws", {"published": published_lines(fitted)})

    comparable = [name for name in names if name in laws.get("surface", ())]
    again: Comparison | None = None
    for reference in comparable if len(comparable) > 1 else ():
        try:
            comparison = again = analysis.compare(
                frame[frame["family"].isin(comparable)], reference, bootstrap=bootstrap, laws=again
            )
            if not len(comparison.multipliers) and not len(compare_table(comparison)):
                raise UserError(f"no multiplier over {reference}: {'; '.join(comparison.warnings)}")
        except UserError as error:
            report(f"comparison over {reference}", {"compare": {reference: {"refused": str(error)}}})
            continue
        material.comparisons[reference] = comparison
        report(f"comparison over {reference}", {"compare": {reference: summary_of_comparison(comparison)}})

    for name in names:
        checked: dict[str, Any] = {}
        for method, of_method in laws.items():
            if name not in of_method:
                continue
            if len(of_method[name].runs) > MOST_DIAGNOSED:
                note = f"{len(of_method[name].runs)} runs are too many to check here"
                checked[method] = {"verdict": "", "note": note}
                continue
            diagnosis = material.diagnoses[f"{method}/{name}"] = diagnose(of_method[name])
            checked[method] = {
                "verdict": diagnosis.verdict,
                "checks": records(diagnosis.table, 4),
                "variants": records(diagnosis.variants, 5),
            }
        if checked:
            report(f"checks of {name or 'all runs'}", {"health": {name: checked}})
    report("figures of comparisons and checks", {"figures": new_figures()})
    # an exported file has nobody to ask
    questions = [question for question, _, _ in answers.ready() if question]
    report("answers", {"answers": {name: answers.answer(dict(parse_qsl(name))) for name in questions}})


def fit_family(runs: pd.DataFrame, bootstrap: int) -> tuple[dict[str, Law], dict[str, Any]]:
    """The laws of one family by method, and what the page shows of them; for those without a fit, why."""
    import analysis

    laws: dict[str, Law] = {}
    summary: dict[str, Any] = {"laws": {}, "refused": {}, "runs": len(runs)}
    # rows called by the key of their run, so that a law names the runs it left out
    keyed = runs
    if "key" in runs:
        replicas = runs["replica"] if "replica" in runs else [None] * len(runs)
        names = [
            str(key) if is_missing(number) else f"{key}, replica {number}"
            for key, number in zip(runs["key"], replicas, strict=True)
        ]
        keyed = runs.set_axis(names, axis=0)
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


def speed_of(material: Material) -> dict[str, Any] | None:
    """Speed against quality as the page shows it; None where there are no samples."""
    from analysis.speed.comparison import MANY, ONE, speed_quality
    from analysis.speed.samples import load_samples

    if material.samples is None or not material.samples.is_file():
        return None
    try:
        samples = load_samples(material.samples)
        if "family" in material.frame:
            samples = samples[samples["family"].isin(material.frame["family"])]
        speed = material.speed = speed_quality(samples)
    except UserError as error:
        return {"refused": str(error)}
    columns = ("family", "key", "budget", "sampler", "steps", "options", "tokens_per_s", "latency_s",
               "gen_ppl", "gen_ppl_low", "gen_ppl_high", "entropy", "front_many", "front_one")  # fmt: skip
    return {
        "head": speed.head, "sentence": speed.sentence, "notes": speed.notes,
        "leads": [(at, asdict(speed.leads_table(at))) for at in (MANY, ONE)],
        "fronts": asdict(speed.text_table()), "points": records(speed.points[list(columns)], 5),
    }  # fmt: skip


def summary_of_comparison(comparison: Any) -> dict[str, Any]:
    return {
        "method": comparison.method,
        "multipliers": records(comparison.multipliers.sort_values("at_flops"), 5),
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
    from analysis.figures.frontiers import DASHES, PANELS
    from analysis.published.beside import published_frontier

    low = min(law.flops_range[0] for law in laws)
    high = max(law.flops_range[1] for law in laws) * 10
    grid = np.geomspace(low, high, 24)
    lines: list[dict[str, Any]] = []
    for row in published.laws().to_dict(orient="records"):
        own = published_frontier(row, grid)
        if own is None:
            continue
        line = {"color": theme.NEUTRAL, "width": 1.8, "dash": DASHES[len(lines) % len(DASHES)]}
        traces = []
        for number, panel in enumerate(PANELS):
            points = table(own.loc[own[panel].notna(), ["flops", panel]], 5)
            if points[panel]:
                axes = {f"{name}axis": f"{name}{number + 1}" if number else name for name in "xy"}
                label = [*[""] * (len(points[panel]) - 1), row["name"]]
                traces.append({
                    **axes, "x": points["flops"], "y": points[panel], "type": "scatter", "line": line,
                    "mode": "lines+text", "text": label, "textposition": "top left", "name": row["name"],
                    "hovertemplate": row["name"] + ": %{y:.4s}<extra></extra>", "showlegend": False,
                    "cliponaxis": False, "meta": {"role": "reference"},
                })  # fmt: skip
        facts = {name: plain(row[name]) for name in ("name", "paper", "family", "status", "note")}
        counts = {name: plain(row[name]) for name in ("params_counted", "flops_counted", "corpus")}
        lines.append(facts | counts | {"traces": traces})
    return lines
