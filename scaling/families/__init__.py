"""The table of families: one file each, imported when asked for.

Adding a family is one file under this folder and one line here.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from scaling.errors import UserError, nearest, unknown

if TYPE_CHECKING:
    from scaling.families.base import Family

FAMILIES: dict[str, str] = {
    "ar": "scaling.families.ar:Autoregressive",
    "masked": "scaling.families.masked:Masked",
    "uniform": "scaling.families.uniform:Uniform",
    "esoteric": "scaling.families.esoteric:Esoteric",
    "block": "scaling.families.block:Block",
    "hybrid": "scaling.families.hybrid:Hybrid",
    "gaussian": "scaling.families.gaussian:Gaussian",
}

PAPERS: dict[str, str] = {
    "MDLM": "masked",
    "Duo": "uniform",
    "Eso-LM": "esoteric",
    "BD3-LM": "block",
    "GIDD": "hybrid",
    "Plaid": "gaussian",
}
"""The names of families in papers, understood wherever a family is named, in any case, with or without
dashes."""

__all__ = ["FAMILIES", "PAPERS", "describe", "family_class", "family_name", "get_family"]


def family_name(name: str, present: Iterable[str] = ()) -> str:
    """The family that `name` means: ours or a paper's, in any spelling. Any other name is returned as it is,
    and so is one of `present`, the names in a table from elsewhere."""
    if name in FAMILIES or name in present:
        return name
    names = PAPERS | {own: own for own in FAMILIES}
    spellings = {_letters(other): ours for other, ours in names.items()}
    return spellings.get(_letters(name), name)


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, str(name))).lower()


def describe(name: str) -> str:
    """The first sentence of the family's module, which is not imported."""
    place = find_spec(FAMILIES[name].partition(":")[0])
    if place is None or not place.origin or not place.origin.endswith(".py"):
        return ""
    with open(place.origin, encoding="utf-8") as file:
        return (ast.get_docstring(ast.parse(file.read())) or "").partition("\n")[0]


def family_class(name: str) -> type[Family]:
    """The class of family `name`, also by its name in papers; UserError lists the known names."""
    name = family_name(name)
    if name not in FAMILIES:
        raise unknown("family", name, FAMILIES)
    module, _, attribute = FAMILIES[name].partition(":")
    return getattr(import_module(module), attribute)


def get_family(name: str, *, vocab_size: int, **options: Any) -> Family:
    """Build family `name` over `vocab_size` ids, the mask id included if the family has one.

    Raises UserError for an unknown family, an option the family does not have, or a value it refuses.
    """
    cls = family_class(name)
    from scaling.families.base import Common

    names = [p for p in inspect.signature(cls).parameters if p not in ("vocab_size", "common")]
    if "common" in inspect.signature(cls).parameters:
        names += Common.__annotations__
    for option in options:
        if option not in names:
            hint = nearest(option, names)
            raise UserError(f"family {name!r} has no option {option!r}{hint} (it has: {', '.join(names)})")
    return cls(vocab_size, **options)
