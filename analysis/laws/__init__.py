"""Scaling laws: a law is one file here and one entry in `METHODS`, which everything that lists laws reads.

A law of your own is registered from outside, see examples/own_law.py:

    analysis.laws.register(LawEntry(name="kaplan", label="Kaplan", fit=fit_kaplan))

`fit_power_law` (powers of any columns) and `fit_tuning_law` (learning rate, batch size) answer other
questions about other tables, so they are functions of their own and not in the registry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from analysis.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from analysis.laws.result import Law
    from analysis.table.fit_table import RunTable

Options = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class LawEntry:
    """A law, before it is fitted: its name, the function that fits it, and the answers it gives."""

    name: str
    """The method of `fit_law`; `Law.method` of the result."""
    label: str
    """For people: in a menu, a heading, a legend."""
    fit: str | Callable[..., Law]
    """Takes runs and keyword options; as "module:function" it is imported on first use."""
    check: str | Callable[[RunTable], object] = ""
    """Takes a table; UserError if it cannot have this law, whatever its losses are. Named as `fit` is."""
    formula: str = ""
    symbols: tuple[str, ...] = ()
    """Parameters of the formula, attributes of the law; none for power laws of the frontier alone."""
    predicts: bool = False
    """`law.predict` gives the loss of any run; else a law answers along its frontier only."""
    needs: tuple[str, ...] = ()
    """Columns needed beside params, tokens, loss."""
    standard: bool = False
    """Sweeps, reports and the dashboard fit it by default."""
    approaches: Mapping[str, Options] = field(default_factory=lambda: {"": {}})
    """Options by suffix of the name: the other ways to fit the same runs that `diagnose` tries."""
    candidates: Mapping[str, Options] = field(default_factory=lambda: {"": {}})
    """Likewise: the forms that `select` compares."""

    def load(self) -> Callable[..., Law]:
        """The function that fits it."""
        return _loaded(self.fit)

    def check_design(self, table: RunTable) -> None:
        """UserError if a table with these sizes, tokens and budgets cannot have this law."""
        if self.check:
            _loaded(self.check)(table)


def _loaded(function: Any) -> Callable[..., Any]:
    """A function, or the one that "module:function" names."""
    if not isinstance(function, str):
        return function
    module, name = function.split(":")
    return getattr(import_module(module), name)


METHODS: dict[str, LawEntry] = {}


def register(entry: LawEntry) -> None:
    """Make a law known to `fit_law` and to everything that lists laws. UserError if the name is taken."""
    if entry.name in METHODS:
        raise UserError(f"a law called {entry.name!r} is registered already; choose another name")
    METHODS[entry.name] = entry


SURFACE = ("E", "A", "B", "alpha", "beta")
for _entry in (
    LawEntry(
        name="surface",
        label="surface",
        fit="analysis.laws.surface:fit_surface",
        check="analysis.laws.surface:check_identified",
        formula="L = E + A/N^alpha + B/D^beta",
        symbols=SURFACE,
        predicts=True,
        standard=True,
        candidates={"": {}, "alpha = beta": {"tied": True}, "no E": {"E": "none"}},
    ),
    LawEntry(
        name="interaction",
        label="surface with interaction",
        fit="analysis.laws.interaction:fit_interaction",
        formula="L = E + A/N^alpha + B (N/N0)^c / D^(beta + kappa log(N/N0))",
        symbols=(*SURFACE, "c", "kappa"),
        predicts=True,
        approaches={},
    ),
    LawEntry(
        name="isoflop",
        label="IsoFLOP",
        fit="analysis.laws.isoflop:fit_isoflop",
        check="analysis.laws.isoflop:check_budgets",
        standard=True,
        approaches={"": {}, "bias corrected": {"correct_bias": True}, "akima": {"shape": "akima"}},
        candidates={"": {}, "bias corrected": {"correct_bias": True}},
    ),
    LawEntry(name="envelope", label="envelope", fit="analysis.laws.envelope:fit_envelope"),
    LawEntry(
        name="constrained",
        label="data-constrained",
        fit="analysis.laws.constrained:fit_constrained",
        formula="L = E + A/N'^alpha + B/D'^beta",
        symbols=SURFACE,
        predicts=True,
        needs=("unique_tokens",),
        approaches={},
        candidates={},
    ),
):
    register(_entry)


def standard_methods() -> tuple[str, ...]:
    """The methods that sweeps, reports and the dashboard fit."""
    return tuple(sorted(name for name, entry in METHODS.items() if entry.standard))


def variants_of(kind: str) -> dict[str, dict[str, Any]]:
    """ "approaches" or "candidates" of all laws: display name -> options of `fit_law`, with the method."""
    return {
        f"{name}, {suffix}" if suffix else name: {"method": name, **options}
        for name, entry in METHODS.items()
        for suffix, options in getattr(entry, kind).items()
    }


def fit_law(runs: pd.DataFrame, method: str = "surface", **options: Any) -> Law:
    """Fit a scaling law to runs with columns params, tokens, loss (flops, budget, loss_se, status optional).

    method "surface": E + A/N^alpha + B/D^beta by a robust fit of log loss (approach 3 of Hoffmann et al.
    2022); "interaction": a surface whose data exponent depends on the size; "isoflop": one parabola per
    budget, then power laws of the minima (approach 2); "envelope": power laws along the runs that no other
    run beats (approach 1); "constrained": text that is read more than once (column unique_tokens). Options of
    all: bootstrap=1000 resamples (0: no intervals), seed=0, level=0.95; each method's own options are the
    keyword arguments of its function, e.g. `help(analysis.laws.surface.fit_surface)`. FLOPs are the column
    flops, else 6 params tokens; loss is in nats per token. UserError (a ValueError) names the fault of the
    table or the options in one sentence.
    """
    if method not in METHODS:
        raise UserError(f"method = {method!r} is unknown; choose one of {', '.join(METHODS)}")
    fit = METHODS[method].load()
    allowed = fit.__kwdefaults__ or {}
    for name in options:
        if name not in allowed:
            raise UserError(f"{name} is no option of method {method!r}; its options are {', '.join(allowed)}")
    return fit(runs, **options)
