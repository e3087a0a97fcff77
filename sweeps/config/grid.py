"""The grid of a sweep's YAML file: budgets, and at each the sizes, seeds and replicas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from sweeps.config.rules import Positive, Section
from sweeps.config.tuning import listed

Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""The whole numbers that run tables and tracking stores can hold."""
Seeds = Annotated[tuple[Seed, ...], BeforeValidator(listed), Field(min_length=1)]
Replicas = int | Literal["auto"]


class Window(Section):
    """The sizes of the ladder for a budget: `count` of them around a guessed optimum.

    centre(C) = params * (C / at_flops) ** exponent, in non-embedding parameters; the sizes nearest to
    `count` log-spaced points from centre / span to centre * span.
    """

    params: Positive
    """Guessed compute-optimal size at `at_flops`, in non-embedding parameters."""
    at_flops: Positive
    """The budget at which the guess is made."""
    exponent: float = 0.5
    """How the guess grows with compute."""
    span: Annotated[float, Field(gt=1)] = 4.0
    """The window reaches from a `span`-th of the guess to `span` times the guess."""
    count: Annotated[int, Field(ge=2)] = 6
    """Sizes per budget."""


SizesByBudget = dict[float, tuple[str, ...]]


def _check_replicas(value: Any) -> Any:
    """Numbers from 1, or `auto`, anywhere in it."""
    if isinstance(value, Mapping) and len({isinstance(key, str) for key in value}) > 1:
        raise ValueError("its keys must be all budgets or all names of sizes")
    for inside in value.values() if isinstance(value, Mapping) else ():
        _check_replicas(inside)
    number = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if not (value is None or value == "auto" or number or isinstance(value, Mapping)):
        raise ValueError(f"{value!r} is neither a number of networks, 1 or more, nor 'auto'")
    return value


def _by_budget(value: Any) -> Any:
    if value is not None and not isinstance(value, Mapping):
        raise ValueError("it must be a mapping from each budget to its seeds; 'seeds' at the top is for all")
    return value


class Grid(Section):
    """Budgets, and at each the sizes: a list for all, a list per budget, or a window."""

    budgets: Annotated[tuple[Positive, ...], Field(min_length=1)]
    """Training FLOPs of a run; every budget is one IsoFLOP curve."""
    sizes: tuple[str, ...] | SizesByBudget | None = None
    """Names of sizes: one list for every budget, or a mapping from each budget to its list."""
    window: Window | None = None
    """Choose the sizes of each budget by rule, instead of `sizes`."""
    seeds: Annotated[dict[float, Seeds] | None, BeforeValidator(_by_budget)] = None
    """The seeds of each budget, instead of one list in `seeds`: a mapping from each budget to its list."""
    replicas: Annotated[
        Replicas | dict[str, Replicas] | dict[float, Replicas | dict[str, Replicas]] | None,
        BeforeValidator(_check_replicas),
    ] = None
    """How many consecutive seeds share a process, as one stacked network: a number, `auto`, or a mapping from
    each budget, from sizes, or from each budget to such a mapping of sizes. Null, and sizes not named: 1."""

    @model_validator(mode="after")
    def _one_way_to_choose(self) -> Grid:
        if len(set(self.budgets)) != len(self.budgets):
            raise ValueError(f"budgets {list(self.budgets)} name one twice; each must appear once")
        check_sizes(self.sizes, self.window, self.budgets, needed=True)
        for name, mapping in (("seeds", self.seeds), ("replicas", self.replicas)):
            if isinstance(mapping, dict) and not any(isinstance(key, str) for key in mapping):
                check_budgets(name, mapping, self.budgets)
        return self

    def replicas_of(self, budget: float, size: str) -> Replicas:
        """How many networks of that size share a process."""
        chosen: Any = self.replicas
        if isinstance(chosen, dict) and budget in chosen:
            chosen = chosen[budget]
        if isinstance(chosen, dict):
            chosen = chosen.get(size)
        return 1 if chosen is None else chosen

    @property
    def sizes_with_replicas(self) -> tuple[str, ...]:
        """Names of sizes in `replicas`."""
        names = (key for key, _ in _leaves(self.replicas) if isinstance(key, str))
        return tuple(dict.fromkeys(names))

    @property
    def chooses_replicas(self) -> bool:
        """Whether any of `replicas` is `auto`."""
        return any(number == "auto" for _, number in _leaves(self.replicas))


def _leaves(replicas: Any, key: float | str | None = None) -> Iterator[tuple[float | str | None, Any]]:
    """Each number of `replicas` with the innermost key over it."""
    if not isinstance(replicas, dict):
        yield key, replicas
        return
    for inner, value in replicas.items():
        yield from _leaves(value, inner)


def check_budgets(name: str, mapping: Mapping[Any, Any], budgets: tuple[float, ...]) -> None:
    wrong = sorted(set(mapping) ^ set(budgets))
    if wrong:
        raise ValueError(
            f"{name} by budget must have the same budgets as 'budgets'; "
            f"{', '.join(f'{b:g}' for b in wrong)} is in one of the two only"
        )


def check_sizes(
    sizes: tuple[str, ...] | SizesByBudget | None,
    window: Window | None,
    budgets: tuple[float, ...],
    *,
    needed: bool,
) -> None:
    if sizes is not None and window is not None:
        raise ValueError("sizes and window are both given; give one of them")
    if needed and sizes is None and window is None:
        raise ValueError(
            "neither sizes nor window is given; one of them must choose the sizes of each budget"
        )
    if isinstance(sizes, dict):
        check_budgets("sizes", sizes, budgets)
    lists = sizes.values() if isinstance(sizes, dict) else [sizes] if sizes is not None else []
    if any(len(names) == 0 for names in lists):
        raise ValueError("sizes is an empty list; name at least one size per budget")
