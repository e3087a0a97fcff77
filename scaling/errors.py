"""Errors that a user can cause, each one clear sentence."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """The user's input is wrong: the message names the field, the value and the rule.

    The command line prints the message alone and exits with code 2.
    """


class DataAwayError(UserError):
    """Prepared data is missing or cannot be read just now: a disk with a fault, or a folder that is gone."""


class DataDamagedError(UserError):
    """Prepared data changed since it was written; `scaling.data.prepare` makes it again."""


def nearest(name: object, names: Iterable[str]) -> str:
    """A hint at the closest of `names`, or nothing."""
    near = get_close_matches(str(name), list(names), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def unknown(kind: str, name: object, names: Iterable[str], place: str = "") -> UserError:
    """The error for a name that does not exist, with the closest of `names`, and all of them."""
    return UserError(f"unknown {kind} {name!r}{place}{nearest(name, names)} (known: {', '.join(names)})")
