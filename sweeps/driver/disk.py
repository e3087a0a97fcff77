"""Room on the disk: while there is none, no run is started, and what ran out of it waits.

A run that cannot write its checkpoint stops with the earlier ones whole; starting it again at once would
only fail again. So the driver holds back: until there is room, and longer each time a disk that looks free
proves full (a quota, say).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

SPARE_BYTES = 50e6
"""Below this nothing is started: ledger and journals need the rest."""
FIRST_WAIT_S, LONGEST_WAIT_S = 5.0, 1800.0


class Disk:
    """The disk that runs write to."""

    def __init__(self, folder: Path, *, free_bytes: Callable[[Path], float] | None = None) -> None:
        """free_bytes: stands in for the disk in tests."""
        self.folder = folder
        self._free_bytes = free_bytes or (lambda path: float(shutil.disk_usage(path).free))
        self._wait_s = 0.0
        self._until = -float("inf")

    def proved_full(self, uptime: float) -> None:
        """A run could not write."""
        self._wait_s = min(max(2 * self._wait_s, FIRST_WAIT_S), LONGEST_WAIT_S)
        self._until = uptime + self._wait_s

    def proved_free(self) -> None:
        """A run wrote all it had to."""
        self._wait_s, self._until = 0.0, -float("inf")

    def trouble(self, uptime: float) -> str | None:
        """Why nothing should be started now; None if there is room."""
        if uptime < self._until:
            return f"the disk of {self.folder} was full; runs wait {self._until - uptime:.0f} s for room"
        free = self._free_bytes(self.folder)
        if free < SPARE_BYTES:
            return f"{self.folder} has {free / 1e6:.0f} MB free; runs wait until there is more room"
        return None
