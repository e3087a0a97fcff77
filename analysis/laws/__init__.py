"""Scaling laws: a law is one file here and one entry in `METHODS`, which everything that lists laws reads.

A law of your own is registered from outside, see examples/own_law.py:

    analysis.laws.register(LawEntry(name="kaplan", label="Kaplan", fit=fit_kaplan))

`fit_power_law` (powers of any columns) and `fit_tuning_law` (learning rate, batch size) answer other
questions about other tables, so they are functions of their own and not in the registry.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

from analysis.errors import UserError
from analysis.table.inputs import Columns, as_table

if TYPE_CHECKING:
    import pandas as pd

    from analysis.laws.result import Law
    from analysis.laws.surface import SurfaceLaw
    from analysis.table.fit_table import RunTable

__all__ = ["METHODS", "LawEntry", "fit_law", "register", "standard_methods"]

Options = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class LawEntry:
    """A law, before it is fitted: its name, the function that fits it, and the answers it gives."""

    name: str
    """The method of `fit_law`; `Law.method` of the result."""
    label: str
    """For people: in a menu, a heading, a legend."""
    aliases: tuple[str, ...] = ()
    """Other names of the method, in lower case without spaces, dashes and underscores."""
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
    if any(entry.name in (other.name, *other.aliases) for other in METHODS.values()):
        raise UserError(f"a law called {entry.name!r} is registered already; choose another name")
    METHODS[entry.name] = entry


SURFACE = ("E", "A", "B", "alpha", "beta")
for _entry in (
    LawEntry(
        name="surface",
        label="surface",
        aliases=("approach3", "3", "chinchilla", "parametric"),
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
        aliases=("approach2", "2", "isoflops", "parabola"),
        fit="analysis.laws.isoflop:fit_isoflop",
        check="analysis.laws.isoflop:check_budgets",
        standard=True,
        approaches={"": {}, "bias corrected": {"correct_bias": True}, "akima": {"shape": "akima"}},
        candidates={"": {}, "bias corrected": {"correct_bias": True}},
    ),
    LawEntry(
        name="envelope",
        label="envelope",
        aliases=("approach1", "1", "minimum"),
        fit="analysis.laws.envelope:fit_envelope",
    ),
    LawEntry(
        name="constrained",
        label="data-constrained",
        aliases=("dataconstrained", "repeats"),
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


class _MethodsOwn:
    """The default of an option that only some methods have: what the method's own function says."""

    def __repr__(self) -> str:
        return "<as the method says>"


OWN: Any = _MethodsOwn()
COMMON = {"bootstrap": 1000, "seed": 0, "level": 0.95}
OTHER_NAMES = {
    "bootstrap": "n_boot nboot n_bootstrap num_bootstrap bootstraps bootstrap_samples n_resamples resamples",
    "seed": "random_state rng random_seed",
    "level": "confidence confidence_level ci conf_level",
    "delta": "huber_delta huber",
    "cluster": "groups group clusters",
    "E": "floor irreducible",
}
"""What other programs call these options."""


def fit_law(
    runs: pd.DataFrame | Mapping[str, Any],
    method: str | int = "surface",
    *,
    family: str | None = None,
    columns: Columns | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    interval: str = OWN,
    resample: str | None = OWN,
    cluster: str | None = OWN,
    delta: float | str = OWN,
    residual: str = OWN,
    tied: bool = OWN,
    E: float | str | None = OWN,
    shape: str = OWN,
    noise: float | None = OWN,
    correct_bias: bool = OWN,
    form: str = OWN,
    base: SurfaceLaw | tuple[float, ...] | None = OWN,
    one_parameter: bool = OWN,
    **others: Any,
) -> Law:
    """Fit a scaling law to runs with columns params, tokens, loss (nats per token), a DataFrame or a dict of
    arrays; flops, budget, loss_se, status, family and others are used if they are there.

    method, with its other names and its options beside those of all methods:
        "surface"      (3, "approach 3", "chinchilla") E + A/N^alpha + B/D^beta by a robust fit of log loss:
                       interval, resample, cluster, delta, residual, tied, E
        "interaction"  a surface whose data exponent depends on the size: cluster, delta, residual, E
        "isoflop"      (2, "approach 2") one parabola per budget, then power laws of the minima:
                       interval, resample, cluster, shape, noise, correct_bias
        "envelope"     (1, "approach 1") power laws along the runs that no other run beats
        "constrained"  text that is read more than once (column unique_tokens): cluster, delta, form, base,
                       tied, one_parameter

    family: the rows of that family only. columns: names of the table and those here, e.g. {"N": "params"}.
    bootstrap: number of resamples, 0 for no intervals. seed: of their random draws. level: of the intervals.
    The other options are explained by the functions themselves: `help(analysis.laws.surface.fit_surface)`,
    `isoflop.fit_isoflop`, `constrained.fit_constrained`, ...; others: those of a law registered from outside.

    FLOPs are the column flops, else 6 params tokens. UserError (a ValueError) names the fault of the table or
    the options in one sentence.
    """
    arguments = dict(locals())
    values = {
        name: value for name, value in arguments.items() if name not in _NO_OPTIONS and value is not OWN
    }
    values |= others
    name = method_called(method)
    fit = METHODS[name].load()
    allowed = fit.__kwdefaults__ or {}
    options = {
        option: value
        for option, value in values.items()
        if option in allowed or option not in COMMON or value != COMMON[option]
    }
    check_options(name, options)
    return fit(as_table(runs, columns, family), **options)


_NO_OPTIONS = ("runs", "method", "family", "columns", "others")


def method_called(name: object) -> str:
    """The method with that name, or with that other name: 3, "approach 3" and "chinchilla" are "surface"."""
    plain = re.sub(r"[\s_-]", "", str(name).lower())
    for entry in METHODS.values():
        if plain in (entry.name.lower(), *entry.aliases) or name == entry.name:
            return entry.name
    raise UserError(f"method = {name!r} is unknown; choose one of {', '.join(METHODS)}")


def check_options(method: str, options: Iterable[str]) -> None:
    """UserError for an option that the method does not have."""
    allowed = METHODS[method].load().__kwdefaults__ or {}
    for option in options:
        if option not in allowed:
            raise UserError(_no_option(option, method, allowed))


def _no_option(option: str, method: str, allowed: Mapping[str, Any]) -> str:
    """That a method has no such option, and which one is probably meant."""
    sentence = f"{option} is no option of method {method!r}"
    if option == "by":
        return f"{sentence}: analysis.fit_laws(runs, by=...) fits one law for each group"
    usual = [
        name for name, words in OTHER_NAMES.items() if option.lower() in words.split() and name in allowed
    ]
    meant = usual or get_close_matches(option, allowed, 1, 0.75)
    others = [name for name, entry in METHODS.items() if option in (entry.load().__kwdefaults__ or {})]
    if meant:
        sentence += f", did you mean {meant[0]}?"
    elif others:
        sentence += f" but of {' and '.join(map(repr, others))}"
    return f"{sentence}; its options are {', '.join(allowed)}"


def __dir__() -> list[str]:
    return __all__
