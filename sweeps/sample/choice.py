"""What `scaling sample` was called for: a sweep, or a run; options of the other one are refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from scaling.errors import UserError
from sweeps.config.load import shipped_names, swept_names


def sweep_called(target: str, out: Path) -> str | None:
    """The sweep of that name: one with runs below `out`, or one of the package; None if there is none."""
    return target if target in {*swept_names(out), *shipped_names()} else None


def refuse_others(options: Mapping[str, object], purpose: str) -> None:
    """UserError for an option that is given, for it is for `purpose`."""
    for name, value in options.items():
        if value is not None:
            raise UserError(f"--{name.replace('_', '-')} is for {purpose}; leave it out")
