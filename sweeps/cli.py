"""The `scaling` command: plan, sweep, status, cancel, retry, resume, logs, audit, fit, compare, export.

Only this module prints and only it decides exit codes: 0 done, 1 some runs did not finish, 2 wrong input
(one sentence on standard error), 130 stopped by Ctrl-C. A bug shows its traceback. Imports of anything heavy
stand where they are used, so that `scaling --help` answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
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

Sweep = Annotated[
    str | None, typer.Option(help="A sweep that ships with the package.", metavar="NAME", show_default="desk")
]
Config = Annotated[
    Path | None, typer.Option(help="A sweep of your own, instead of --sweep.", metavar="FILE.yaml")
]
Family = Annotated[
    list[str] | None, typer.Option(help="Only this family; may be given several times.", metavar="NAME")
]
Out = Annotated[Path, typer.Option(help="Folder for data, runs and results.", metavar="FOLDER")]
Tracking = Annotated[
    str | None,
    typer.Option(
        help="Where runs are recorded: sqlite:///, http://, postgresql://.",
        metavar="URI",
        show_default="MLFLOW_TRACKING_URI, else OUT/mlflow.db",
    ),
]
Server = Annotated[
    str | None,
    typer.Option(
        help="Ask this tracking store, from any machine, instead of the ledger under --out.", metavar="URI"
    ),
]
Table = Annotated[
    str | None,
    typer.Option(
        help="Take runs from here: sqlite:///, http://, postgresql://, .parquet, .csv.",
        metavar="URI",
        show_default="the sweep's own ledger",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(help="A Ray cluster.", metavar="RAY", show_default="RAY_ADDRESS, else this machine"),
]
Bootstrap = Annotated[int, typer.Option(help="Resamples behind the intervals.", min=0)]
Keys = Annotated[
    list[str] | None, typer.Argument(help="Keys of runs, or how they begin.", show_default="all")
]
MaxFlops = Annotated[float | None, typer.Option(help="Start no run beyond this many FLOPs in all.", min=0)]
MaxGpuHours = Annotated[
    float | None, typer.Option(help="Stop with checkpoints after this many GPU-hours in all.", min=0)
]
MaxHours = Annotated[float | None, typer.Option(help="Stop with checkpoints after this many hours.", min=0)]
Priority = Annotated[int, typer.Option(help="Of sweeps on one cluster, the higher one goes first.")]
Extend = Annotated[
    bool, typer.Option("--extend", help="Add the runs of a changed config to the sweep of that name.")
]
EventFile = Annotated[
    str | None, typer.Option(help="Write a JSON object per event to this file; - for output.", metavar="FILE")
]
Webhook = Annotated[
    str | None,
    typer.Option(help="POST how it ended to this address.", metavar="URL", envvar="SCALING_WEBHOOK"),
]
StorageUri = Annotated[
    str | None,
    typer.Option(
        "--storage",
        help="Where runs keep their files if workers do not see --out: s3://, gs://, file://, ...",
        metavar="URI",
        envvar="SCALING_STORAGE",
    ),
]
Reference = Annotated[str, typer.Option(help="The family the others are measured by.", metavar="NAME")]
RUNS = Path("runs")


def main() -> None:
    """Run the command line and exit."""
    from scaling.errors import UserError

    try:
        app()
    except ValueError as error:
        if not isinstance(error, UserError) and not _from_analysis(error):
            raise
        print(f"scaling: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def _from_analysis(error: ValueError) -> bool:
    from analysis.errors import UserError

    return isinstance(error, UserError)


@app.command()
def plan(
    family: Family = None,
    sweep: Sweep = None,
    config: Config = None,
    out: Out = RUNS,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="Simulate it on such nodes: 8xH100:4 is four of eight H100; 8xA100:2,16xCPU several kinds.",
            metavar="NODES",
        ),
    ] = None,
    gpu_price: Annotated[
        float | None, typer.Option(help="Of a GPU-hour: tell the cost of that schedule.", min=0)
    ] = None,
    page: Annotated[
        bool, typer.Option("--page", help="Write that schedule to OUT/SWEEP/schedule.html.")
    ] = False,
    max_flops: MaxFlops = None,
    max_gpu_hours: MaxGpuHours = None,
    max_hours: MaxHours = None,
) -> None:
    """Show what a sweep would do: runs, cost, what is done already; on a cluster, when, where and how far."""
    from sweeps.driver.caps import Caps
    from sweeps.plan import prepare
    from sweeps.simulate.dry_run import show_plan

    asked = prepare.request(sweep, config, family or (), out)
    caps = Caps(flops=max_flops, gpu_hours=max_gpu_hours, hours=max_hours)
    show_plan(asked, cluster=cluster, gpu_price=gpu_price, page=page, caps=caps)


@app.command("sweep")
def sweep_command(
    family: Family = None,
    sweep: Sweep = None,
    config: Config = None,
    store: Tracking = None,
    address: Address = None,
    out: Out = RUNS,
    bootstrap: Bootstrap = 1000,
    max_flops: MaxFlops = None,
    max_gpu_hours: MaxGpuHours = None,
    max_hours: MaxHours = None,
    priority: Priority = 0,
    extend: Extend = False,
    events: EventFile = None,
    webhook: Webhook = None,
    storage: StorageUri = None,
) -> None:
    """Run a sweep to its end, then fit a law. Finished runs are skipped, unfinished ones resumed."""
    from sweeps.driver.caps import Caps
    from sweeps.driver.command import Launch, drive

    how = Launch(
        store=store,
        address=address,
        bootstrap=bootstrap,
        caps=Caps(flops=max_flops, gpu_hours=max_gpu_hours, hours=max_hours),
        priority=priority,
        extend=extend,
        events=events,
        webhook=webhook,
        storage=storage,
    )
    sys.exit(drive(sweep, config, family or (), out=out, how=how))


@app.command()
def status(
    family: Family = None,
    sweep: Sweep = None,
    config: Config = None,
    store: Server = None,
    out: Out = RUNS,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep showing it until all is done.")] = False,
    every_row: Annotated[bool, typer.Option("--all", help="Every row of a long table.")] = False,
) -> None:
    """Show what became of a sweep's runs so far."""
    from sweeps.show import status as shown
    from sweeps.show.remote import reach

    with reach(sweep, config, store, out) as reached:
        if watch:
            shown.watch(lambda: shown.of_families(reached.rows(), family or ()), reached.sweep)
            return
        rows = shown.of_families(reached.rows(), family or ())
        shown.show(rows, reached.sweep, whole=every_row)
        if reached.note:
            print(reached.note)


@app.command()
def cancel(
    run: Keys = None,
    family: Family = None,
    sweep: Sweep = None,
    config: Config = None,
    store: Server = None,
    out: Out = RUNS,
) -> None:
    """Cancel runs that are not finished; a running one stops at its next step and keeps its checkpoint."""
    _wish("cancel", run, family, sweep, config, store, out)


@app.command()
def retry(
    run: Keys = None,
    family: Family = None,
    sweep: Sweep = None,
    config: Config = None,
    store: Server = None,
    out: Out = RUNS,
) -> None:
    """Try again what failed or fitted no node; and a diverged run, where its key is given."""
    _wish("retry", run, family, sweep, config, store, out)


@app.command()
def resume(
    run: Keys = None,
    family: Family = None,
    sweep: Sweep = None,
    config: Config = None,
    store: Server = None,
    out: Out = RUNS,
) -> None:
    """Take up cancelled runs again, from their checkpoints."""
    _wish("resume", run, family, sweep, config, store, out)


def _wish(
    action: str,
    run: list[str] | None,
    family: list[str] | None,
    sweep: str | None,
    config: Path | None,
    store: str | None,
    out: Path,
) -> None:
    from sweeps.show.remote import reach

    with reach(sweep, config, store, out) as reached:
        print(f"sweep {reached.sweep}: {reached.wish(action, family or (), run or ())}")


@app.command()
def logs(
    run: Annotated[str, typer.Argument(help="A run's key, or how it begins.")],
    sweep: Sweep = None,
    config: Config = None,
    store: Server = None,
    out: Out = RUNS,
    lines: Annotated[int, typer.Option(help="Training records per attempt.", min=0)] = 10,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what the run says.")] = False,
) -> None:
    """Tell the story of one run: its attempts, losses, and how it ended, with the traceback."""
    from sweeps.show.remote import reach

    with reach(sweep, config, store, out) as reached:
        reached.log(run, lines=lines, follow=follow)


@app.command()
def audit(
    sweep: Sweep = None,
    config: Config = None,
    store: Server = None,
    out: Out = RUNS,
) -> None:
    """Prove that nothing was trained or recorded twice: ledger, journals and tracking store compared."""
    from sweeps.show.remote import run_audit

    sys.exit(0 if run_audit(sweep, config, store, out) else 1)


@app.command()
def fit(
    family: Family = None,
    sweep: Sweep = None,
    config: Config = None,
    store: Table = None,
    out: Out = RUNS,
    bootstrap: Bootstrap = 1000,
) -> None:
    """Fit a law to the finished runs and write law.json and figures."""
    from sweeps.results import laws as results
    from sweeps.results import terminal as report
    from sweeps.show.tables import console

    table, name = _runs(family, sweep, config, store, out)
    terminal = console()
    # A table without a family column is one law; its results stand beside the families'.
    for one in table.families or (None,):
        fits = results.fit(table, one, bootstrap=bootstrap)
        report.show_fits(fits, table, terminal)
        folder = out / name / one if one else out / name
        losses = results.curves(table.of_family(one), out / name, name) if store is None else None
        report.show_files(results.write_law(fits, table, folder, sweep=name, losses=losses), terminal)


@app.command()
def compare(
    family: Family = None,
    reference: Reference = "ar",
    sweep: Sweep = None,
    config: Config = None,
    store: Table = None,
    out: Out = RUNS,
    bootstrap: Bootstrap = 1000,
) -> None:
    """Compute that each family needs, over a reference family's, to reach the same loss."""
    from sweeps.results import laws as results
    from sweeps.results import terminal as report
    from sweeps.show.tables import console

    families = [*family, reference] if family else None
    table, name = _runs(families, sweep, config, store, out)
    terminal = console()
    comparison = results.compare(table, reference, bootstrap=bootstrap)
    report.show_comparison(comparison, terminal)
    report.show_files(results.write_comparison(comparison, out / name), terminal)


@app.command("report")
def report_command(
    family: Family = None,
    reference: Reference = "ar",
    sweep: Sweep = None,
    config: Config = None,
    store: Table = None,
    out: Out = RUNS,
    bootstrap: Bootstrap = 1000,
) -> None:
    """Write one HTML file with the laws, figures and comparison of all families; it needs no network."""
    from sweeps.results import laws as results
    from sweeps.results import terminal as report
    from sweeps.show.tables import console

    table, name = _runs(family, sweep, config, store, out)
    losses = results.curves(table.frame, out / name, name) if store is None else None
    path = results.write_report(
        table, out / name, name, reference=reference, bootstrap=bootstrap, losses=losses
    )
    report.show_files([path], console())


@app.command()
def dashboard(
    family: Family = None,
    sweep: Sweep = None,
    config: Config = None,
    store: Annotated[
        str | None,
        typer.Option(
            help="As for fit; or published:NAME, a table that comes with the package.",
            metavar="URI",
            show_default="the sweep's own ledger",
        ),
    ] = None,
    out: Out = RUNS,
    host: Annotated[
        str, typer.Option(help="Address to listen at; beyond this machine a token is needed.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The next free one from here on.", min=0, max=65535)] = 8050,
    token: Annotated[
        str | None,
        typer.Option(
            help="What visitors must show.",
            envvar="SCALING_DASHBOARD_TOKEN",
            show_default="made where one is needed",
        ),
    ] = None,
    name: Annotated[
        list[str] | None, typer.Option(help="A further name of this machine in addresses.", metavar="HOST")
    ] = None,
    bootstrap: Bootstrap = 1000,
) -> None:
    """Serve a page with all families' laws, which keeps itself up to date while runs arrive."""
    from sweeps.results.dashboard import show

    show(sweep, config, family or (), store, out, host=host, port=port, token=token, names=name or (),
         bootstrap=bootstrap)  # fmt: skip


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="Where to write the run table: FILE.parquet or FILE.csv.")],
    family: Family = None,
    sweep: Sweep = None,
    config: Config = None,
    store: Table = None,
    out: Out = RUNS,
) -> None:
    """Write the run table, one row per run, whatever their state."""
    from sweeps.results import laws as results

    results.check_table_path(file)
    table, _ = _runs(family, sweep, config, store, out, all_runs=True)
    results.save_table(table.frame, file)
    print(f"{len(table.frame)} runs written to {file}")


def _runs(
    families: list[str] | None,
    sweep: str | None,
    config: Path | None,
    store: str | None,
    out: Path,
    *,
    all_runs: bool = False,
) -> tuple[RunTable, str]:
    """The runs to work on and the name of the folder for results.

    From --store: all it has, of --sweep where that is given. Else from the sweep's ledger: the runs of the
    config as it stands (all_runs: and the older ones).
    """
    from sweeps.config.load import find_config
    from sweeps.plan import prepare
    from sweeps.results import laws as results

    if store is not None:
        name = find_config(sweep, config).name if sweep or config else None
        in_file = Path(store).suffix in (".parquet", ".csv") and "://" not in store
        table = results.store_table(store, name, families or ())
        return table, name or (Path(store).stem if in_file else "all")
    asked = prepare.request(sweep, config, families or (), out)
    name = asked.config.name
    keys = None if all_runs else _planned_keys(asked)
    return results.ledger_table(asked.folder, name, keys, families or ()), name


def _planned_keys(asked: Request) -> frozenset[str]:
    from scaling.families import FAMILIES
    from sweeps.plan import prepare
    from sweeps.plan.plan import plan_specs
    from sweeps.show.tables import console

    if not asked.ledger_folder.exists():
        return frozenset()
    facts = prepare.facts_for_plan(asked, console(stderr=True))
    # Every family, because one that the config does not list may have been swept with its own defaults.
    specs, _ = plan_specs(asked.config, facts, tuple(FAMILIES))
    return frozenset(spec.key for spec in specs)


if __name__ == "__main__":
    main()
