"""Numbers, times and names as text: one form on the terminal, in reports, in figures and on the page.

Counts carry a suffix (5.00k, 163M, 1.20B), FLOPs an exponent (1.2e10), other numbers neither of them between
0.001 and 100,000. The ticks of an axis are the same forms without trailing zeros.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

MISSING = "–"
AS_ZERO = 1e-5
"""The end of an interval that is smaller than this share of its value is written as 0."""
_SECRET_OPTION = r"(?i)([?&;][^=&;]*(?:pass|pwd|secret|token|key|auth|cred|sig)[^=&;]*=)[^&;#\s]*"
_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def printable(text: object) -> str:
    r"""`text` with control and other invisible characters escaped (ESC becomes \x1b): safe in a terminal.

    For everything that comes from outside: names in run tables, tags of a tracking server, file names.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def without_secrets(text: object) -> str:
    """`text` with the login of every address in it, and options that hold a password or a token, as ***.

    The whole login goes, for a token may stand as the user's name. It ends at the last @, for a password may
    hold that character or a slash; an @ further back in an address without a login stays.
    """
    return re.sub(r"(\w://)(\S+)", lambda match: match[1] + _without_login(match[2]), str(text))


def _without_login(address: str) -> str:
    host = re.split(r"[/?#]", address, maxsplit=1)[0]
    # bob:p/ss@h: the slash in the password seems to end the host, so a colon before it is enough
    if "@" in host or (":" in host and "@" in address):
        address = "***@" + address.rpartition("@")[2]
    return re.sub(_SECRET_OPTION, r"\1***", address)


def is_missing(value: object) -> bool:
    """None, NaN or pandas.NA."""
    return value is None or type(value).__name__ in ("NAType", "NaTType") or value != value


def number_text(value: float | None, digits: int = 3, like: float | None = None) -> str:
    """A number with that many significant digits: 0.512, 20.0, 1234, 1.20e-7.

    like: write it in the form, plain or with exponent, that this number has, as far as that can be read.
    """
    if value is None or is_missing(value):
        return MISSING
    size, shape = abs(value), abs(value if like is None else like)
    plain = shape == 0 or 1e-3 <= shape < 1e5
    if value == 0 or (plain and 1e-6 <= size < 1e8):
        decimals = digits - 1 - (math.floor(math.log10(size)) if size else digits)
        return f"{value:.{max(decimals, 0)}f}"
    return flops_text(value, digits)


def count_text(count: float | None, digits: int = 3) -> str:
    """A number of parameters or tokens: 163055232 is 163M, 5000 is 5.00k; from 1e15 on with exponent."""
    if count is None or is_missing(count):
        return MISSING
    rounded = float(f"{count:.{digits}g}")
    for size, letter in _UNITS:
        if size <= abs(rounded) < 1e15:
            return number_text(rounded / size, digits) + letter
    return f"{rounded:g}" if abs(rounded) < 1e15 else flops_text(count, digits)


def flops_text(flops: float | None, digits: int = 2) -> str:
    """A number of FLOPs: 3.0e11."""
    if flops is None or is_missing(flops):
        return MISSING
    if math.isinf(flops):
        return "∞" if flops > 0 else "-∞"
    mantissa, exponent = f"{flops:.{digits - 1}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def interval_text(
    value: float,
    low: Any,
    high: Any,
    text: Callable[[float], str] | None = None,
    *,
    digits: int = 3,
    unit: str = "",
) -> str:
    """163M [150M, 178M]: the ends in the form of the value; the number alone without an interval."""
    write = text or partial(number_text, digits=digits, like=value)
    if is_missing(value) or is_missing(low) or is_missing(high):
        return write(value) + unit
    ends = ["0" if abs(end) <= AS_ZERO * abs(value) else write(float(end)) for end in (low, high)]
    return f"{write(value)}{unit} [{ends[0]}, {ends[1]}]"


def value_text(name: str, value: Any, low: Any = None, high: Any = None, *, digits: int = 4) -> str:
    """A cell of a table, with its interval if it has one, in the form of its kind: budgets as FLOPs, params
    and tokens as counts. `name` is the column's, with or without a place: "params at 1.0e20 FLOPs"."""
    if is_missing(value):
        return ""
    if isinstance(value, bool) or not isinstance(value, float | int):
        return str(value)
    if isinstance(value, int) and low is None and name not in ("params", "tokens", "budget", "flops"):
        return str(value)
    forms = {"params": count_text, "tokens": count_text, "budget": flops_text, "flops": flops_text}
    return interval_text(float(value), low, high, forms.get(name.split(" at ")[0]), digits=digits)


def without_zeros(text: str) -> str:
    """The label of a tick: 5.00k is 5k, 1.0e19 is 1e19, 1.50 is 1.5."""
    return re.sub(r"(\.\d*?)0+(?!\d)", lambda match: match[1].rstrip("."), text)


def duration(seconds: float) -> str:
    """42 s, 7.5 min, 3.2 h, 2.1 days."""
    for below, unit_s, unit in ((90 * 60, 60, "min"), (48 * 3600, 3600, "h"), (math.inf, 86400, "days")):
        if seconds < 90:
            return f"{seconds:.0f} s"
        if seconds < below:
            return f"{seconds / unit_s:.1f} {unit}"
    return MISSING


def size_text(num_bytes: float) -> str:
    """380 MB, 1.2 GB."""
    return f"{num_bytes / 1e6:.0f} MB" if num_bytes < 1e9 else f"{num_bytes / 1e9:.1f} GB"


def time_text(time: datetime) -> str:
    """2026-03-01 10:00 UTC, of a time in UTC."""
    return f"{time:%Y-%m-%d %H:%M} UTC"
