"""Budgets as people write them: "1e20 FLOPs", "10^20", or GPUs for days at a utilisation."""

from __future__ import annotations

import re

from analysis.errors import UserError
from analysis.text import flops_text

PEAKS = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "B200": 2250e12, "L40S": 362e12, "4090": 165e12}
"""Dense bfloat16 FLOP/s of one GPU without sparsity, from its vendor's data sheet."""
UTILISATION = 0.4
"""MFU that a well-tuned transformer run reaches."""
DAY_S = 86_400.0
DAYS = "a number of days"
FLOPS = 'a number of FLOPs such as "1e20", "10^20" or "2 x 10^21"'
_POWER = re.compile(r"^(?:([0-9.]+)\s*(?:x|\*|[×·⋅])?\s*)?10\s*(?:\^|\*\*)\s*([0-9.]+)$")
_RAISED = re.compile("(?<=10)[⁰¹²³⁴⁵⁶⁷⁸⁹]+$")
_LOWERED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")


def flops_of(
    flops: float | str | None = None,
    *,
    gpus: float | str | None = None,
    days: float | str | None = None,
    utilisation: float | str | None = None,
) -> float:
    """Training FLOPs of a budget: a number or text ("1e20 FLOPs", "10^20", "2 x 10^21", "1.5·10²⁰"), or GPUs
    (64, "64xH100"; a bare number means H100) for days at a utilisation (MFU, a share; default 0.4).

    UserError for neither, both, or anything that is no positive number.
    """
    if flops is not None and (gpus is not None or days is not None):
        raise UserError("the budget is given twice, as FLOPs and as GPUs; give one of the two")
    if flops is not None:
        if utilisation is not None:
            raise UserError(f"utilisation = {utilisation!r} is for GPUs and days; a budget in FLOPs has none")
        return _positive(flops, "flops", FLOPS)
    if gpus is None or days is None:
        missing = "flops, or gpus and days" if gpus is None and days is None else "days" if gpus else "gpus"
        raise UserError(f"the budget is missing: give {missing}")
    count, kind = _gpus(gpus)
    share = (
        UTILISATION if utilisation is None else _positive(utilisation, "utilisation", "a share such as 0.4")
    )
    if share > 1:
        raise UserError(
            f"utilisation = {utilisation!r}: a share of the peak, above 0 and at most 1, e.g. 0.4"
        )
    return count * PEAKS[kind] * share * _positive(days, "days", DAYS) * DAY_S


def budget_text(flops: float, *, gpus: float | str | None = None, days: float | str | None = None) -> str:
    """The budget in words: "1.0e20 FLOPs", or "1.0e20 FLOPs (64 H100 for 14 days)"."""
    text = f"{flops_text(flops)} FLOPs"
    if gpus is None or days is None:
        return text
    count, kind = _gpus(gpus)
    number = _positive(days, "days", DAYS)
    return f"{text} ({count:g} {kind} for {number:g} day{'s' * (number != 1)})"


def number_of(value: float | str, name: str) -> float:
    """A count as people write it: 1e9, "1.5B", "300M"; UserError unless it is above 0."""
    units = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
    text = str(value).strip()
    if isinstance(value, str) and text[-1:].lower() in units and text[:-1]:
        return units[text[-1].lower()] * _positive(text[:-1], name, 'a number such as 1e9 or "1B"')
    return _positive(value, name, 'a number such as 1e9 or "1B"')


def _gpus(gpus: float | str) -> tuple[float, str]:
    count, _, kind = str(gpus).lower().partition("x")
    name = (kind.strip() or "H100").upper()
    if name not in PEAKS:
        raise UserError(f"gpus = {gpus!r}: GPUs of kind {', '.join(PEAKS)} are known; write e.g. 64xH100")
    return _positive(count, "gpus", "a number of GPUs such as 64 or 64xH100"), name


def _positive(value: float | str, name: str, right: str) -> float:
    text = re.sub(r"(?i)\s*flops?\s*$", "", str(value).strip()).replace(",", "").replace("_", "")
    text = _RAISED.sub(lambda match: "^" + match[0].translate(_LOWERED), text)
    power = _POWER.match(text)
    try:
        number = float(power[1] or 1) * 10.0 ** float(power[2]) if power else float(text)
    except (ValueError, OverflowError):
        number = float("nan")
    if isinstance(value, bool) or not 0 < number < float("inf"):
        raise UserError(f"{name} = {value!r}: give {right}, above 0")
    return number
