"""Room on the disk: without it no run starts, and runs that could not write wait.

A run that cannot write its checkpoint stops, and its earlier checkpoints stay whole; started again at once,
it would only fail again. If the disk looks free but runs cannot write (a quota, say), each wait is longer.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

SPARE_BYTES = 50e6
"""Below this nothing is started: ledger and journals need the rest."""
LOOK_S = 5.0
"""How often room is looked for by reserving some."""


class Pause:
    """A wait that doubles each time the trouble comes back after it."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s, self._longest_s = first_s, longest_s
        self._wait_s, self._until = 0.0, -float("inf")

    def extend(self, uptime: float) -> None:
        if uptime >= self._until:  # several runs that fail together prove it once
            self._wait_s = min(max(2 * self._wait_s, self._first_s), self._longest_s)
            self._until = uptime + self._wait_s

    def end(self) -> None:
        self._wait_s, self._until = 0.0, -float("inf")

    def lasts(self, uptime: float) -> bool:
        return uptime < self._until


class Disk:
    """The disk that runs write to."""

    def __init__(
        self,
        folder: Path,
        *,
        free_bytes: Callable[[Path], float] = lambda path: float(shutil.disk_usage(path).free),
        reserve: Callable[[Path], None] | None = None,
    ) -> None:
        """free_bytes, reserve: stand in for the disk in tests."""
        self.folder = folder
        self._free_bytes, self._reserve = free_bytes, reserve or reserve_room
        self._pause = Pause(5.0, 1800.0)
        self._full = False
        """Whether it was full when last looked at, after a run could not write."""
        self._looked = -float("inf")

    def proved_full(self, uptime: float) -> None:
        """A run could not write."""
        self._look(uptime)
        if not self._full:  # only a run notices, by trying
            self._pause.extend(uptime)

    def proved_free(self) -> None:
        """A run finished, so all its writes succeeded."""
        self._pause.end()

    def _look(self, uptime: float) -> None:
        self._looked = uptime
        try:
            self._reserve(self.folder)
            self._full = self._free_bytes(self.folder) < SPARE_BYTES
        except OSError:
            self._full = True

    def trouble(self, uptime: float) -> str | None:
        """Why nothing should be started now; None if there is room."""
        if self._full and uptime - self._looked >= LOOK_S:
            self._look(uptime)
        if self._full or self._pause.lasts(uptime):
            return f"the disk of {self.folder} is full; runs wait until there is room"
        try:
            free = self._free_bytes(self.folder)
        except OSError as error:
            return f"{self.folder} cannot be used ({error}); runs wait"
        if free < SPARE_BYTES:
            return f"{self.folder} has {free / 1e6:.0f} MB free; runs wait until there is more room"
        return None


def reserve_room(folder: Path) -> None:
    """OSError if `folder` has no room for a file of SPARE_BYTES, by quota, blocks or inodes."""
    path = folder / f".room-{os.getpid()}"
    try:
        with path.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, int(SPARE_BYTES))
    finally:
        path.unlink(missing_ok=True)
