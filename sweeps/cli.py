"""The `scaling` command: plan, sweep, status, cancel, retry, resume, logs, audit, fit, compare, export.

Only this module decides exit codes: 0 done, 1 something is missing (a run did not finish, a family has no
law, an audit found something), 2 wrong input (one sentence on standard error), 3 all runs and laws are there
but the tracking store does not have every run, 130 stopped by Ctrl-C. A bug shows its traceback. Imports of
anything heavy stand where they are used, so that `scaling --help` answers at once.
"""

from __future__ import annotations

import codecs
import inspect
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analysis.errors import UserError as AnalysisError
from analysis.text import printable
from scaling.errors import UserError
from scaling.families import FAMILIES

if TYPE_CHECKING:
    from rich.console import Console

    from sweeps.driver.caps import Caps
    from sweeps.plan.prepare import Request
    from sweeps.results.laws import RunTable

app = typer.Typer(
    name="scaling",
    help="Scaling laws of diffusion language models: sweep, fit, compare.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ASCII = {**dict(zip("○◐◑●✗–·×", "o>~*x-.x", strict=True)), "±": "+-", "∞": "inf"}
"""Our signs, for a terminal or a file with a smaller encoding."""


def main() -> None:
    """Run the command line and exit."""
    codecs.register_error("scaling", _spell)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="scaling")
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except (UserError, AnalysisError) as error:
        print(f"scaling: {printable(' '.join(str(error).split()))}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        try:
            print(flush=True)
        except OSError:
            # Python would try once more at its end, and complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            print(f"scaling: standard output cannot be written ({error.strerror})", file=sys.stderr)
            sys.exit(2)
        raise


def _spell(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that the encoding of the output does not have."""
    assert isinstance(error, UnicodeEncodeError), "it is registered for output only"
    letters = error.object[error.start : error.end]
    return "".join(ASCII.get(c) or ascii(c)[1:-1] for c in letters), error.end


# -- options that several commands have ---------------------------------------------------------


Text = str | None
Number = float | None
RECORD = "Record runs here: sqlite:///, http://, postgresql://."
USUAL_STORE = "MLFLOW_TRACKING_URI, else OUT/mlflow.db"
ASK = "Ask this tracking store, from any machine, instead of the ledger under --out."
READ = "Read runs from here: sqlite:///, http://, postgresql://, .parquet, .csv, published:NAME."
CHECK = "Compare the ledger with this tracking store; without a ledger, check the store alone."
OWN_LEDGER = "the sweep's own ledger"
WHICH = ("sweep", "config", "store", "out")
CAPS = ("max_flops", "max_gpu_hours", "max_hours")
ORDER = "Which runs start first: cheapest (budgets, across families) or longest."


def option(text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, **more)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The options that several commands have; `command` gives them to those that name them."""

    family: Annotated[
        list[str], option(f"Only this family ({', '.join(FAMILIES)}); again for more.", metavar="NAME")
    ]
    sweep: Annotated[
        Text, option("A sweep that ships with the package.", metavar="NAME", show_default="desk")
    ] = None
    config: Annotated[
        Path | None, option("A sweep of your own, instead of --sweep.", metavar="FILE.yaml")
    ] = None
    store: Annotated[Text, option("", metavar="URI")] = None
    out: Annotated[Path, option("Folder for data, runs and results.", metavar="FOLDER")] = Path("runs")
    max_flops: Annotated[Number, option("Start no run beyond this many FLOPs in all.")] = None
    max_gpu_hours: Annotated[Number, option("Start no run beyond this many GPU-hours in all.")] = None
    max_hours: Annotated[Number, option("Stop with checkpoints after this many hours.")] = None
    order: Annotated[Text, option(ORDER, metavar="NAME", show_default="cheapest under a cap")] = None

    @property
    def caps(self) -> Caps:
        from sweeps.driver.caps import Caps

        values = {name: getattr(self, name) for name in CAPS}
        for name, value in values.items():
            if value is not None and not 0 < value < math.inf:
                raise UserError(
                    f"--{name.replace('_', '-')} is {value:g}; it must be a number above 0, or be left out"
                )
        return Caps(**{name.removeprefix("max_"): value for name, value in values.items()})

    @property
    def named(self) -> str | None:
        """The name of the sweep if one is given, else None: all sweeps of a store."""
        from sweeps.config.load import find_config

        return find_config(self.sweep, self.config).name if self.sweep or self.config else None

    def request(self) -> Request:
        from sweeps.plan import prepare

        return prepare.request(self.sweep, self.config, self.family, self.out)

    def reach(self) -> Any:
        from sweeps.show.remote import reach

        return reach(self.sweep, self.config, self.store, self.out)

    def runs(self, *, all_runs: bool = False, also: str | None = None) -> tuple[RunTable, str]:
        """The runs to work on and the name of the folder for results.

        They are those of --store (of --sweep if it is given), else those of the sweep's ledger that belong to
        the present config (all_runs: to earlier ones, too). also: a family beside those of --family.
        """
        from sweeps.plan import prepare
        from sweeps.plan.plan import plan_specs
        from sweeps.results import laws as results

        families = [*self.family, also] if self.family and also else self.family
        if self.store is not None:
            table = results.store_table(self.store, self.named, families)
            in_file = Path(self.store).suffix in (".parquet", ".csv") and "://" not in self.store
            stem = Path(self.store).stem if in_file else self.store.removeprefix("published:")
            return table, self.named or results.folder_name("all" if "://" in self.store else stem)
        request, keys = self.request(), None
        if not all_runs and request.ledger_folder.exists():
            facts = prepare.facts_for_plan(request, _console(stderr=True))
            # every family: one that the config does not list may have been swept with its own defaults
            keys = [spec.key for spec in plan_specs(request.config, facts, tuple(FAMILIES))[0]]
        return results.ledger_table(request.folder, request.config.name, keys, families), request.config.name


COMMON = inspect.signature(Chosen, eval_str=True).parameters


def _console(*, stderr: bool = False) -> Console:
    from sweeps.show.tables import console

    return console(stderr=stderr)


def command(
    *options: str, store: str = "", otherwise: str = OWN_LEDGER, name: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command with these common options; they are its first parameter, its own ones follow.

    store: the purpose of --store in this command; otherwise: what is used without it.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        def run(**values: Any) -> None:
            common = {name: values.pop(name) for name in options}
            function(Chosen(**{**common, "family": common.get("family") or []}), **values)

        # Typer makes its options from a function's signature
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        about_store = Annotated[Text, option(store, metavar="URI", show_default=otherwise or False)]
        parameters = [
            COMMON[name].replace(
                annotation=about_store if name == "store" else COMMON[name].annotation,
                default=None if name == "family" else COMMON[name].default,
            )
            for name in options
        ]
        parameters += [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {}
        app.command(name or function.__name__, help=inspect.getdoc(function))(run)
        return function

    return register


Bootstrap = Annotated[int, option("Resamples behind the intervals.", min=0)]
Keys = Annotated[
    list[str] | None, typer.Argument(help="Keys of runs, or their first characters.", show_default="all")
]
Reference = Annotated[str, option("The family that the others are compared with.", metavar="NAME")]


# -- sweeps -------------------------------------------------------------------------------------

CLUSTER = "Simulate it on these nodes: 8xH100:4 is four nodes of eight H100; 8xA100:2,16xCPU two kinds."
STORAGE = "Where runs keep their files if workers cannot see --out: s3://, gs://, file://, ..."


@command("family", "sweep", "config", "out", *CAPS, "order")
def plan(
    chosen: Chosen,
    cluster: Annotated[Text, option(CLUSTER, metavar="NODES")] = None,
    gpu_price: Annotated[Number, option("Price per GPU-hour, for the cost of it.", min=0)] = None,
    page: Annotated[bool, option("Write the schedule to OUT/SWEEP/schedule.html.", "--page")] = False,
) -> None:
    """Show the runs of a sweep, their cost and state; with --cluster also a schedule."""
    from sweeps.simulate.dry_run import show_plan

    show_plan(chosen.request(), cluster=cluster, gpu_price=gpu_price, page=page, caps=chosen.caps,
              order=chosen.order)  # fmt: skip


@command("family", *WHICH, *CAPS, "order", store=RECORD, otherwise=USUAL_STORE)
def sweep(
    chosen: Chosen,
    address: Annotated[
        Text, option("A Ray cluster.", metavar="RAY", show_default="RAY_ADDRESS, else this machine")
    ] = None,
    pool: Annotated[
        str, option("Where runs run: ray, or local for plain processes.", metavar="NAME")
    ] = "ray",
    bootstrap: Bootstrap = 1000,
    priority: Annotated[int, option("Of several sweeps on one cluster, the highest goes first.")] = 0,
    extend: Annotated[
        bool, option("Add the runs of a changed config to the sweep of that name.", "--extend")
    ] = False,
    events: Annotated[
        Text, option("Write a JSON object per event to this file; - for output.", metavar="FILE")
    ] = None,
    webhook: Annotated[
        Text, option("POST the outcome to this address.", metavar="URL", envvar="SCALING_WEBHOOK")
    ] = None,
    storage: Annotated[Text, option(STORAGE, metavar="URI", envvar="SCALING_STORAGE")] = None,
) -> None:
    """Run a sweep to its end, then fit a law. Finished runs are skipped, unfinished ones resumed."""
    from sweeps.launch import Launch, drive

    how = Launch(store=chosen.store, caps=chosen.caps, order=chosen.order, address=address, pool=pool,
                 bootstrap=bootstrap, priority=priority, extend=extend, events=events, webhook=webhook,
                 storage=storage)  # fmt: skip
    sys.exit(drive(chosen.request(), how))


@command("family", *WHICH, store=ASK, otherwise="")
def status(
    chosen: Chosen,
    watch: Annotated[bool, option("Keep it up to date until all is done.", "--watch", "-w")] = False,
    every_row: Annotated[bool, option("Every row of a long table.", "--all")] = False,
) -> None:
    """Show the state of a sweep's runs."""
    from sweeps.ledger.status import of_families
    from sweeps.show import status as shown

    with chosen.reach() as reached:
        if watch:
            shown.watch(lambda: of_families(reached.runs(), chosen.family), reached.sweep)
            return
        runs = of_families(reached.runs(), chosen.family)
        shown.show(runs, reached.sweep, whole=every_row)
        if reached.note:
            _console().print(reached.note)


def _request(action: str, chosen: Chosen, run: list[str] | None) -> None:
    with chosen.reach() as sweep:
        _console().print(f"sweep {sweep.sweep}: {sweep.request(action, chosen.family, run or ())}")


@command("family", *WHICH, store=ASK, otherwise="")
def cancel(chosen: Chosen, run: Keys = None) -> None:
    """Cancel unfinished runs; a running one stops at its next step and keeps its checkpoint."""
    _request("cancel", chosen, run)


@command("family", *WHICH, store=ASK, otherwise="")
def retry(chosen: Chosen, run: Keys = None) -> None:
    """Retry failed and unschedulable runs; a diverged run only if you name its key."""
    _request("retry", chosen, run)


@command("family", *WHICH, store=ASK, otherwise="")
def resume(chosen: Chosen, run: Keys = None) -> None:
    """Resume cancelled runs from their checkpoints."""
    _request("resume", chosen, run)


@command(*WHICH, store=ASK, otherwise="")
def logs(
    chosen: Chosen,
    run: Annotated[str, typer.Argument(help="The key of a run, or its first characters.")],
    lines: Annotated[int, option("Training records per attempt.", min=0)] = 10,
    follow: Annotated[bool, option("Follow new output.", "--follow", "-f")] = False,
) -> None:
    """Show the log of one run: attempts, losses, how it ended, traceback."""
    with chosen.reach() as reached:
        reached.log(run, lines=lines, follow=follow)


@command(*WHICH, store=CHECK, otherwise=USUAL_STORE)
def audit(chosen: Chosen) -> None:
    """Prove that nothing was trained or recorded twice: ledger, journals and tracking store compared."""
    from sweeps.show.remote import run_audit

    sys.exit(0 if run_audit(chosen.sweep, chosen.config, chosen.store, chosen.out) else 1)


# -- laws ---------------------------------------------------------------------------------------


@command("family", *WHICH, store=READ)
def fit(chosen: Chosen, bootstrap: Bootstrap = 1000) -> None:
    """Fit a law to the finished runs and write law.json and figures.

    A family without a law is named with the reason, and the exit code is then 1.
    """
    from sweeps.results import terminal as report

    table, name = chosen.runs()
    folder, terminal, journals = chosen.out / name, _console(), chosen.store is None
    refused = report.fit_all(table, folder, bootstrap=bootstrap, journals=journals, out=terminal)
    if len(refused) == len(table.families or (None,)):
        raise UserError("; ".join(refused.values()))
    report.show_refused(refused, terminal)
    sys.exit(1 if refused else 0)


@command("family", *WHICH, store=READ)
def compare(chosen: Chosen, reference: Reference = "ar", bootstrap: Bootstrap = 1000) -> None:
    """Compute that each family needs, over a reference family's, to reach the same loss.

    A family without a law is left out and named with the reason, and the exit code is then 1.
    """
    from sweeps.results import laws as results
    from sweeps.results import terminal as report

    table, name = chosen.runs(also=reference)
    terminal = _console()
    comparison, refused = results.compare(table, reference, bootstrap=bootstrap, report=terminal.print)
    report.show_comparison(comparison, terminal)
    report.show_files(results.write_comparison(comparison, chosen.out / name), terminal)
    report.show_refused(refused, terminal)
    sys.exit(1 if refused else 0)


@command("family", *WHICH, store=READ, name="report")
def report_command(chosen: Chosen, reference: Reference = "ar", bootstrap: Bootstrap = 1000) -> None:
    """Write one HTML file with the laws, figures and comparison of all families; it needs no network.

    A family without a law is named with the reason, and the exit code is then 1.
    """
    from sweeps.results import laws as results
    from sweeps.results import terminal as report

    table, name = chosen.runs()
    folder, terminal = chosen.out / name, _console()
    losses = results.curves(table.frame, folder, name) if chosen.store is None else None
    path, refused = results.write_report(
        table, folder, name, reference=reference, bootstrap=bootstrap, losses=losses, report=terminal.print
    )
    report.show_files([path], terminal)
    report.show_refused(refused, terminal)
    sys.exit(1 if refused else 0)


@command("family", *WHICH, store=READ)
def dashboard(
    chosen: Chosen,
    host: Annotated[str, option("Address to listen at; other machines need a token.")] = "127.0.0.1",
    port: Annotated[int, option("First port to try.", min=0, max=65535)] = 8050,
    token: Annotated[
        Text, option("Access token.", envvar="SCALING_DASHBOARD_TOKEN", show_default="made if needed")
    ] = None,
    name: Annotated[list[str] | None, option("Another host name of this machine.", metavar="HOST")] = None,
    bootstrap: Bootstrap = 1000,
) -> None:
    """Serve a page with the laws of all families that keeps itself up to date."""
    from sweeps.results.dashboard import show

    show(chosen.sweep, chosen.config, chosen.family, chosen.store, chosen.out, host=host, port=port,
         token=token, names=name or (), bootstrap=bootstrap)  # fmt: skip


@command("family", *WHICH, store=READ)
def export(
    chosen: Chosen,
    file: Annotated[Path, typer.Argument(help="Where to write the run table: FILE.parquet or FILE.csv.")],
) -> None:
    """Write the run table, one row per run, whatever their state."""
    from sweeps.results import laws as results

    results.check_table_path(file)
    table, _ = chosen.runs(all_runs=True)
    results.save_table(table.frame, file)
    _console().print(f"{len(table.frame)} runs written to {file}")


if __name__ == "__main__":
    main()
