"""Errors that a user can cause, each one clear sentence."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """The user's input is wrong: the message names the field, the value and what would be right.

    The command line prints the message alone and exits with code 2.
    """


class DataAwayError(UserError):
    """Prepared data is missing or cannot be read just now: a disk that blinks, or a folder that is gone."""


class DataDamagedError(UserError):
    """Prepared data is not what was written; `scaling.data.prepare` makes it again."""


def nearest(name: object, known: Iterable[str]) -> str:
    """A hint at the known name that is closest, or nothing."""
    near = get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def unknown(what: str, name: object, known: Iterable[str], where: str = "") -> UserError:
    """The error for a name that does not exist: the nearest known one, and all that there are."""
    return UserError(f"unknown {what} {name!r}{where}{nearest(name, known)} (known: {', '.join(known)})")
