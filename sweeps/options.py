"""Options that several commands of `scaling` have, and how a command gets them.

Imports of anything heavy stand where they are used, so that `scaling --help` answers at once.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling.errors import UserError
from scaling.families import FAMILIES, PAPERS

if TYPE_CHECKING:
    from sweeps.driver.caps import Caps
    from sweeps.plan.prepare import Request
    from sweeps.results.laws import RunTable

app = typer.Typer(
    name="scaling",
    help="Scaling laws of diffusion language models: sweep, fit, compare.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Text = str | None
Number = float | None
RECORD = "Record runs here: sqlite:///, http://, postgresql://."
USUAL_STORE = "MLFLOW_TRACKING_URI, else OUT/mlflow.db"
ASK = "Ask this tracking store, from any machine, instead of the ledger under --out."
READ = "Read runs from here: sqlite:///, http://, postgresql://, .parquet, .csv, published:NAME."
CHECK = "Compare the ledger with this tracking store; without a ledger, check the store alone."
OWN_LEDGER = "the sweep's own ledger"
WHICH = ("sweep", "config", "data", "store", "out")
RUNS = ("family", "sweep", "config", "data", "store", "columns", "out")
"""Of the commands that read runs."""
SHIPPED = Path(__file__).parent / "configs"
CAPS = ("max_flops", "max_gpu_hours", "max_hours")
ORDER = "Which runs start first: cheapest (budgets, across families) or longest."
STORAGE = "Where runs keep their files if workers cannot see --out: s3://, gs://, file://, ..."
OWN_TEXT = "Text of your own instead of the sweep's: a .txt, .jsonl or .parquet file, or a folder of them."


def option(text: str, *names: str, complete: Callable[[], Iterable[str]] | None = None, **more: Any) -> Any:
    """complete: the names that a shell offers after the Tab key."""
    if complete is not None:
        more["autocompletion"] = lambda incomplete: [n for n in complete() if n.startswith(incomplete)]
    return typer.Option(*names, help=text, **more)


def _sweeps() -> list[str]:
    """The sweeps of the package, and those under the usual folder of results."""
    swept = {path.parts[-3] for path in Path("runs").glob("*/ledger/ledger.db")}
    return sorted(swept | {path.stem for path in SHIPPED.glob("*.yaml")})


def _methods() -> Iterable[str]:
    from analysis.laws import METHODS

    return METHODS


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The options that several commands have; `command` gives them to those that name them."""

    family: Annotated[
        list[str],
        option(f"Only this family ({', '.join(FAMILIES)}); again for more.", metavar="NAME",
               complete=lambda: [*FAMILIES, *map(str.lower, PAPERS)]),
    ]  # fmt: skip
    sweep: Annotated[
        Text, option("A sweep, see `scaling sweeps`.", metavar="NAME", show_default="desk", complete=_sweeps)
    ] = None
    config: Annotated[
        Path | None, option("A sweep of your own, instead of --sweep.", metavar="FILE.yaml")
    ] = None
    data: Annotated[Text, option(OWN_TEXT, metavar="PATH")] = None
    store: Annotated[Text, option("", metavar="URI")] = None
    out: Annotated[Path, option("Folder for data, runs and results.", metavar="FOLDER")] = Path("runs")
    columns: Annotated[
        Text,
        option("Columns of a .csv or .parquet --store with other names: N=params,val_loss=loss.",
               metavar="NAME=OURS,..."),
    ] = None  # fmt: skip
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
    def renamed(self) -> dict[str, str] | None:
        """Names of columns in --store -> ours; UserError for anything but such pairs."""
        if self.columns is None:
            return None
        if self.store is None:
            raise UserError("--columns names the columns of a file; give the file with --store")
        pairs = [part.rpartition("=") for part in self.columns.split(",")]
        if not all(name.strip() and target.strip() for name, _, target in pairs):
            raise UserError(
                f"--columns is {self.columns!r}: give the file's names and ours, e.g. N=params,val_loss=loss"
            )
        return {name.strip(): target.strip() for name, _, target in pairs}

    @property
    def named(self) -> str | None:
        """The name of the sweep if one is given, else None: all sweeps of a store."""
        from sweeps.config.load import find_name

        if not (self.sweep or self.config or self.data):
            return None
        return find_name(self.sweep, self.config, self.data, self.out, store=self.store)

    def request(self) -> Request:
        from sweeps.plan import prepare

        return prepare.request(self.sweep, self.config, self.family, self.out, self.data)

    def reach(self) -> Any:
        from sweeps.show.remote import reach

        return reach(self.sweep, self.config, self.store, self.out, self.data)

    def runs(self, *, all_runs: bool = False, also: str | None = None) -> tuple[RunTable, str]:
        """The runs to work on and the name of the folder for results.

        They are those of --store (of --sweep if it is given), else those of the sweep's ledger that belong to
        the present config (all_runs: to earlier ones, too). also: a family beside those of --family.
        """
        from sweeps.config.load import shipped_names, swept_names
        from sweeps.ledger.ledger import Ledger
        from sweeps.plan import prepare
        from sweeps.plan.plan import plan_specs
        from sweeps.results import laws as results
        from sweeps.show.tables import console

        families = [*self.family, also] if self.family and also else self.family
        columns = self.renamed
        if self.store is not None:
            table = results.store_table(self.store, self.named, families, columns)
            in_file = Path(self.store).suffix in (".parquet", ".csv") and "://" not in self.store
            stem = Path(self.store).stem if in_file else self.store.removeprefix("published:")
            stem = "all" if "://" in self.store else stem
            return table, results.folder_name(self.named or stem)
        only_ledger = set() if self.config or self.data else {*swept_names(self.out)} - {*shipped_names()}
        if self.sweep in only_ledger:  # its config is not known, so all of its runs count
            return results.ledger_table(self.out / self.sweep, self.sweep, None, families), self.sweep
        request, keys = self.request(), None
        if not all_runs and Ledger.exists(request.ledger_folder):
            facts = prepare.facts_for_plan(request, console(stderr=True))
            with Ledger(request.ledger_folder) as ledger:  # which knows how seeds share processes
                past = ledger.runs(whole=False)
            # every family: one that the config does not list may have been swept with its own defaults
            keys = [spec.key for spec in plan_specs(request.config, facts, tuple(FAMILIES), past=past)[0]]
        return results.ledger_table(request.folder, request.config.name, keys, families), request.config.name


COMMON = inspect.signature(Chosen, eval_str=True).parameters


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
Reference = Annotated[
    str, option("The family that the others are compared with.", metavar="NAME", complete=lambda: [*FAMILIES])
]
Methods = Annotated[
    list[str] | None,
    option("A law to fit: surface, isoflop, envelope, ...; again for more.", metavar="NAME",
           show_default="isoflop, surface", complete=_methods),
]  # fmt: skip
