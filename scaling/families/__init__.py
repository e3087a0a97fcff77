"""The table of families: one file each, imported when asked for.

Adding a family is one file under this folder and one line here.
"""

from __future__ import annotations

import inspect
from importlib import import_module
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

__all__ = ["FAMILIES", "family_class", "get_family"]


def family_class(name: str) -> type[Family]:
    """The class of family `name`; UserError lists the known names."""
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
