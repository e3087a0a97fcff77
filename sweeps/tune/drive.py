"""`scaling tune`: generations of trials on the sweep's own driver, then the laws and the rule they give.

Each generation asks for a few trials at every point, notes them, runs them, and lets the next one know their
losses. What is durable is the ledger alone, so the command carries on where it was killed.
"""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from analysis.errors import UserError as AnalysisError
from analysis.text import without_secrets
from sweeps.config.model import MAX_NAME
from sweeps.driver.caps import Caps
from sweeps.driver.sweep import Report, run_sweep
from sweeps.launch import DONE, INCOMPLETE, INTERRUPTED, UNRECORDED
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.rebuild import open_whole
from sweeps.ledger.types import Entry
from sweeps.plan import prepare
from sweeps.plan.plan import DataFacts, plan_of
from sweeps.pools.base import PoolOptions
from sweeps.pools.start import start as start_pool
from sweeps.record.tracking import check_tracking, tracking_uri
from sweeps.show.progress import Progress
from sweeps.show.tables import RowsTable, lasting_console
from sweeps.tune.space import Space
from sweeps.tune.study import optuna_module, proposals, verdicts, write_studies
from sweeps.tune.trials import Verdict, add_trials, check_space, fact_name, read_trials, trial_table

RULE, TRIALS, STUDIES, LAWS = "rule.yaml", "trials.csv", "optuna.db", "tuning.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Options of `scaling tune`."""

    study: str | None = None
    """Name of the study, and its folder under OUT; None: the sweep's with -tune."""
    trials: int | None = None
    """At every point; None: the config's number."""
    store: str | None = None
    address: str | None = None
    pool: str = "ray"
    caps: Caps = field(default_factory=Caps)
    bootstrap: int = 1000


def tune(request: prepare.Request, how: Tuning) -> int:
    """Run the study of a family to its number of trials, fit the laws, write the rule; the exit code.

    As `sweeps.launch.drive`: 0 done, 1 a trial failed or there is no law, 3 the tracking store does not have
    every run, 130 stopped. UserError, with nothing started, for everything that is wrong at the start.
    """
    optuna_module()
    (family,) = request.families
    study = (how.study or f"{request.config.name}-tune")[:MAX_NAME]
    # weights and samples of trials are of no use
    training = request.config.training.model_copy(update={"keep_weights": False, "samples": 0})
    update = {"name": study, "training": training}
    request = replace(request, config=request.config.model_copy(update=update))
    uri = how.store or tracking_uri(request.out)
    check_tracking(uri)
    with ExitStack() as stack:
        terminal = stack.enter_context(lasting_console())
        dataset = prepare.prepare_data(request, terminal)
        facts = DataFacts.of(dataset)
        space = Space.of(request.config, family, facts)
        goal = how.trials or space.rule.trials
        ledger, repaired = open_whole(request.ledger_folder)
        stack.enter_context(ledger)
        if repaired:
            terminal.print(repaired, style="yellow")
        check_space(ledger, space, study)
        folder = request.folder / family

        def entries(trials: Any) -> list[Entry]:
            specs = [
                spec for trial in trials for spec in space.specs(space.point(trial.point), trial.settings)
            ]
            plan = plan_of(space.config, facts, (family,), specs, past=ledger.runs())
            return [plan.entry(run, dataset.folder) for run in plan.runs]

        def next_generation() -> list[Entry]:
            before = read_trials(ledger, space)
            if any(trial.verdict == Verdict.OPEN for trial in before):
                return []  # another driver's runs, say
            if not ledger.hold(fact_name(family)):
                terminal.print(
                    f"another scaling tune of {family} proposes trials; this one leaves it to that"
                )
                return []
            new = []
            for number, point in enumerate(space.points):
                own = [trial for trial in before if trial.point == point.name]
                count = min(space.rule.generation, goal - len(own))
                if count > 0:
                    seed = (space.rule.sampler_seed, number)
                    new += [(point.name, settings) for settings in proposals(point, own, count, seed)]
            if not new:
                return []
            add_trials(ledger, space, new)
            trials = read_trials(ledger, space)
            write_studies(folder / STUDIES, by_point(space, trials))
            return entries(trials[len(before) :])

        past = read_trials(ledger, space)
        terminal.print(
            f"tuning {family} at {len(space.points)} points, {goal} trials each with "
            f"{len(space.rule.every_seed)} seeds; {len(past)} trials are there; "
            f"recorded in {without_secrets(uri)}"
        )
        report = run_generations(request, ledger, how, uri, entries(past), next_generation, terminal)
        terminal.print(report.sentence)
        trials = read_trials(ledger, space)
        write_studies(folder / STUDIES, by_point(space, trials))
        if report.interrupted:
            return INTERRUPTED
        counts = ", ".join(f"{number} {name}" for name, number in verdicts(trials).items())
        terminal.print(f"{len(trials)} trials: {counts}")
        concluded = conclude(space, ledger, folder, how.bootstrap, terminal)
        whole = all(trial.verdict in (Verdict.DONE, Verdict.DIVERGED) for trial in trials)
        if not concluded or not whole:
            return INCOMPLETE
        return UNRECORDED if report.waiting_records else DONE


def run_generations(
    request: prepare.Request,
    ledger: Ledger,
    how: Tuning,
    uri: str,
    entries: list[Entry],
    following: Any,
    terminal: Console,
) -> Report:
    """The trials there are, and then generation after generation on one pool."""
    name = request.config.name
    options = PoolOptions(address=how.address, logs=request.folder, shared=request.out.absolute(), sweep=name)
    with closing(start_pool(how.pool, options)) as pool:
        return run_sweep(
            entries, ledger, pool, sweep=name, tracking=uri, watchers=[Progress(terminal, name)],
            caps=how.caps, following=following,
        )  # fmt: skip


def by_point(space: Space, trials: Any) -> dict[str, Any]:
    """The study of each point, by its name in the file for optuna-dashboard."""
    return {
        f"{space.family} {point.name}": (point, [trial for trial in trials if trial.point == point.name])
        for point in space.points
    }


def conclude(space: Space, ledger: Ledger, folder: Path, bootstrap: int, out: Console) -> bool:
    """Fit the laws, write rule, table and figures, print them; whether there is a law."""
    # not before: the fits load pandas and scipy, which a driver does without for hours
    from analysis import figures
    from analysis.files import write_whole
    from analysis.laws.response import fit_response
    from sweeps.results.laws import save_figures, save_table
    from sweeps.tune.rule import own_exponents, rule_text, summary_rows

    table = trial_table(ledger, space)
    if table.empty:
        out.print("no trial is done", style="red")
        return False
    save_table(table, folder / TRIALS)
    try:
        response = fit_response(table, exponents=own_exponents(space), bootstrap=bootstrap)
    except AnalysisError as error:
        out.print(f"no law: {error}", style="red")
        return False
    title = f"{space.family}: best learning rate at each point, with 95% intervals"
    out.print(RowsTable(title=title, rows=summary_rows(response)))
    for law in response.laws.values():
        out.print(str(law))
    for knob, reason in response.refused.items():
        out.print(f"no law of {knob}: {reason}", style="yellow")
    for warning in response.warnings:
        out.print(f"warning: {warning}", style="yellow")
    text = rule_text(space, response, table)
    write_whole(folder / RULE, text.encode())
    write_whole(folder / LAWS, (json.dumps(response.to_dict(), indent=2) + "\n").encode())
    drawings = figures.drawn(tuning=response)
    written = save_figures(drawings, folder)
    out.print(
        f"wrote {', '.join(str(path) for path in (folder / RULE, folder / LAWS, folder / TRIALS, *written))}"
    )
    out.print("overrides:" + text.partition("overrides:")[2].rstrip())
    out.print(f"to use it, add to a config: include: [{(folder / RULE).absolute()}]")
    out.print(f"to look at the trials: optuna-dashboard sqlite:///{folder / STUDIES}")
    return True
