"""The `scaling` command: plan and run sweeps, look after their runs, fit and compare laws.

Only this module, and for `sample` its own, decides exit codes: 0 done, 1 something is missing (a run did not
finish, a family has no law, an audit found something), 2 wrong input (one sentence on standard error), 3 all
runs and laws are there but the tracking store does not have every run, 130 stopped by Ctrl-C. A bug shows its
traceback. Imports of anything heavy stand where they are used, so that `scaling --help` answers at once.
"""

from __future__ import annotations

import codecs
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from analysis.errors import UserError as AnalysisError
from analysis.text import printable
from scaling.errors import UserError
from sweeps.options import (
    ASK,
    CAPS,
    CHECK,
    READ,
    RECORD,
    RUNS,
    STORAGE,
    USUAL_STORE,
    WHICH,
    Bootstrap,
    Chosen,
    Keys,
    Methods,
    Number,
    Reference,
    Text,
    app,
    command,
    option,
)  # fmt: skip
from sweeps.sample.command import sample

if TYPE_CHECKING:
    from rich.console import Console

UsageError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
"""What Typer says of a wrong command line; Click is inside or beside it, depending on its version."""
ASCII = {**dict(zip("○◐◑●✗–·×", "o>~*x-.x", strict=True)), "±": "+-", "∞": "inf", "░": "_"}
"""Our signs, for a terminal or a file with a smaller encoding."""


def main() -> None:
    """Run the command line and exit."""
    codecs.register_error("scaling", _spell)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="scaling")
    try:
        try:
            code = app(prog_name="scaling", standalone_mode=False)
        finally:
            sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # it is the help
            error.show()
            sys.exit(error.exit_code)
        _refuse(_usage(error))
    except (UserError, AnalysisError) as error:
        _refuse(str(error))
    except OSError as error:
        try:
            print(flush=True)
        except OSError:
            # Python would try once more at its end, and complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            print(f"scaling: standard output cannot be written ({error.strerror})", file=sys.stderr)
            sys.exit(2)
        raise


def _refuse(text: str) -> NoReturn:
    """One sentence on standard error, and the end."""
    sentence = f"scaling: {printable(' '.join(text.split()))}"
    print(_wrapped(sentence) if sys.stderr.isatty() else sentence, file=sys.stderr)
    sys.exit(2)


def _usage(error: Any) -> str:
    """What is wrong with the command line: Typer's words as a sentence, without the box around them."""
    name = getattr(error, "option_name", "")
    below = [word for word in sys.argv if re.match(r"-[0-9.]", word) and word.startswith(name)]
    if name and below:
        return f"{below[0]!r}: give a number above 0, such as 1e20"
    options = getattr(getattr(error, "param", None), "opts", ())
    for word, after in zip(sys.argv, [*sys.argv[1:], ""], strict=True):
        option, equals, value = word.partition("=")
        if option in options and hasattr(error, "message"):
            rule = str(error.message).partition(", unable")[0].replace("Input should", "it should")
            return f"{option} is {value if equals else after!r}: {rule}"
    message = str(error.format_message()).rstrip(".")
    context = f"; see `{error.ctx.command_path} --help`" if error.ctx else ""
    return f"{message[:1].lower()}{message[1:]}{context}"


def _wrapped(sentence: str) -> str:
    """Broken at words, as `sweeps.show.tables` does it for everything else."""
    import shutil
    import textwrap

    width = shutil.get_terminal_size().columns
    return textwrap.fill(sentence, width, break_long_words=False, break_on_hyphens=False)


def _spell(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that the encoding of the output does not have."""
    assert isinstance(error, UnicodeEncodeError), "it is registered for output only"
    letters = error.object[error.start : error.end]
    return "".join(ASCII.get(c) or ascii(c)[1:-1] for c in letters), error.end


def _console(*, stderr: bool = False) -> Console:
    from sweeps.show.tables import console

    return console(stderr=stderr)


# -- names --------------------------------------------------------------------------------------


def _print_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        print(f"scaling {version('scaling')}")
        raise typer.Exit


@app.callback()
def top(
    _: Annotated[
        bool, option("Show the version and exit.", "--version", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Scaling laws of diffusion language models: sweep, fit, compare."""


@app.command()
def families() -> None:
    """List the families, with their names in papers, which every command understands too."""
    from sweeps.results.lists import families_table

    _console().print(families_table())


@command(
    "store",
    "columns",
    "out",
    store="List those recorded here: sqlite:///, http://, postgresql://.",
    otherwise="",
)
def sweeps(chosen: Chosen) -> None:
    """List the sweeps of the package and of --out, or those of a store."""
    from sweeps.results.lists import show_sweeps

    show_sweeps(chosen.out, chosen.store, _console(), columns=chosen.renamed)


# -- sweeps -------------------------------------------------------------------------------------

CLUSTER = "Simulate it on these nodes: 8xH100:4 is four nodes of eight H100; 8xA100:2,16xCPU two kinds."


@command("family", "sweep", "config", "data", "out", *CAPS, "order")
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

    good = run_audit(chosen.sweep, chosen.config, chosen.store, chosen.out, chosen.data)
    sys.exit(0 if good else 1)


command("family", "sweep", "config", "data", "out")(sample)


@command(*WHICH, *CAPS, store=RECORD, otherwise=USUAL_STORE)
def tune(
    chosen: Chosen,
    family: Annotated[str, typer.Argument(help="The family to tune.", metavar="FAMILY")],
    trials: Annotated[
        int | None, option("Trials at every point.", min=1, show_default="as in the config")
    ] = None,
    study: Annotated[
        Text, option("Another study, for another search space.", metavar="NAME", show_default="SWEEP-tune")
    ] = None,
    address: Annotated[
        Text, option("A Ray cluster.", metavar="RAY", show_default="RAY_ADDRESS, else this machine")
    ] = None,
    pool: Annotated[
        str, option("Where trials run: ray, or local for plain processes.", metavar="NAME")
    ] = "ray",
    bootstrap: Bootstrap = 1000,
) -> None:
    """Try learning rates, batches and more at small sizes by Optuna, and write rules for sweeps to use.

    Where, which and how often says the config, under tuning. Again: carries on, adds trials, fits anew.
    """
    from dataclasses import replace

    from sweeps.tune.drive import Tuning
    from sweeps.tune.drive import tune as run_study

    how = Tuning(study=study, trials=trials, store=chosen.store, address=address, pool=pool,
                 caps=chosen.caps, bootstrap=bootstrap)  # fmt: skip
    sys.exit(run_study(replace(chosen, family=[family]).request(), how))


# -- laws ---------------------------------------------------------------------------------------


@command(*RUNS, store=READ)
def fit(chosen: Chosen, method: Methods = None, bootstrap: Bootstrap = 1000) -> None:
    """Fit a law to the finished runs and write law.json and figures.

    A family without a law is named with the reason, and the exit code is then 1.
    """
    from analysis.laws import method_called
    from sweeps.results import terminal as report

    methods = [method_called(one) for one in method or ()]
    table, name = chosen.runs()
    folder, terminal, journals = chosen.out / name, _console(), chosen.store is None
    refused = report.fit_all(
        table, folder, methods=methods, bootstrap=bootstrap, journals=journals, out=terminal
    )
    if len(refused) == len(table.families or (None,)):
        raise UserError("; ".join(refused.values()))
    report.show_refused(refused, terminal)
    sys.exit(1 if refused else 0)


@command(*RUNS, store=READ)
def compare(chosen: Chosen, reference: Reference = "ar", bootstrap: Bootstrap = 1000) -> None:
    """Compute that each family needs, over a reference family's, to reach the same loss.

    A family without a law is left out and named with the reason, and the exit code is then 1.
    """
    from sweeps.results import terminal as report
    from sweeps.results.answer import show_answer

    table, name = chosen.runs(also=reference)
    terminal = _console()
    refused = report.compare_all(table, chosen.out / name, reference, bootstrap=bootstrap, out=terminal)
    report.show_refused(refused, terminal)
    show_answer(table, terminal, reference=reference)
    sys.exit(1 if refused else 0)


BUDGET = 'A budget: 1e20, "1e20 FLOPs", 10^20.'


@command(*RUNS, store=READ)
def ask(
    chosen: Chosen,
    budget: Annotated[Text, typer.Argument(help=BUDGET, show_default="10 times the largest")] = None,
    gpus: Annotated[Text, option("Instead of FLOPs: 64, 64xH100 (with --days).", metavar="GPUS")] = None,
    days: Annotated[Number, option("How many days the GPUs run.")] = None,
    utilisation: Annotated[Number, option("MFU, a share of the peak.", show_default="0.4")] = None,
    params: Annotated[Text, option("The run must have this size: 1e9, 1B.", metavar="N")] = None,
    tokens: Annotated[Text, option("The run must read this many tokens: 50B.", metavar="D")] = None,
    unique_tokens: Annotated[Text, option("All the text there is, in tokens: 5B.", metavar="U")] = None,
    epochs: Annotated[Number, option("Read the unique tokens at most this many times.")] = None,
    loss: Annotated[Number, option("Ask what reaching this loss costs (nats per token).")] = None,
    tokens_per_s: Annotated[Number, option("Ask who samples best at this speed of many texts.")] = None,
    latency_s: Annotated[Number, option("Ask who samples best within so many seconds a text.")] = None,
    reference: Reference = "ar",
    as_json: Annotated[bool, option("Print the answer as JSON.", "--json")] = False,
) -> None:
    """Which family should get a budget, at which size, and how sure that is.

    The exit code is 1 if the runs cannot answer, or a family has no law.
    """
    from sweeps.results.answer import show_answer

    limits = {"gpus": gpus, "days": days, "utilisation": utilisation, "params": params, "tokens": tokens,
              "unique_tokens": unique_tokens, "epochs": epochs}  # fmt: skip
    speed = {"tokens_per_s": tokens_per_s, "latency_s": latency_s}
    table, name = chosen.runs()
    samples = chosen.out / name / "samples.parquet"
    usable = show_answer(
        table, _console(), reference=reference, flops=budget, loss=loss, as_json=as_json,
        samples=samples if samples.is_file() else None,
        speed={name: value for name, value in speed.items() if value is not None},
        **{name: value for name, value in limits.items() if value is not None},
    )  # fmt: skip
    sys.exit(0 if usable else 1)


@command(*RUNS, store=READ, name="report")
def report_command(chosen: Chosen, reference: Reference = "ar", bootstrap: Bootstrap = 1000) -> None:
    """Write one HTML file with the laws, figures and comparison of all families; it needs no network.

    A family without a law is named with the reason, and the exit code is then 1.
    """
    from sweeps.results import terminal as report

    table, name = chosen.runs()
    terminal, journals = _console(), chosen.store is None
    refused = report.report_all(
        table, chosen.out / name, reference, bootstrap=bootstrap, journals=journals, out=terminal
    )
    report.show_refused(refused, terminal)
    sys.exit(1 if refused else 0)


@command(*RUNS, store=READ)
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

    show(chosen.sweep, chosen.config, chosen.family, chosen.store, chosen.out, chosen.data, chosen.renamed,
         host=host, port=port, token=token, names=name or (), bootstrap=bootstrap)  # fmt: skip


@command(*RUNS, store=READ)
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
