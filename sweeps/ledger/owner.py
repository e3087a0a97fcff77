"""The owner of a claim: one driver process on one machine; other processes can tell whether it is gone.

Process numbers are reused and containers share host names, so a process is identified by its machine (host
name, boot, process-number namespace), its number and its start. No clock is used: a clock that is set forward
or back must not make a process look like another one.
"""

from __future__ import annotations

import os
import socket
import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
START_TOLERANCE_S = 1.0
"""Two readings of a start by psutil may differ by a tick."""


@cache
def machine() -> str:
    """This machine as its processes see it: equal strings share process numbers."""
    parts = [socket.gethostname()]
    if BOOT_ID.exists():
        parts.append(f"{BOOT_ID.read_text().strip()}, starts in ticks")
    namespace = Path("/proc/self/ns/pid")
    if namespace.is_symlink():
        parts.append(os.readlink(namespace))
    return "|".join(parts)


def process_start(pid: int) -> float | None:
    """When process `pid` started: ticks since boot, which belong to it alone as long as the machine runs.

    On other systems than Linux seconds since 1970. None if there is no such process (any more).
    """
    try:
        if not BOOT_ID.exists():
            process = psutil.Process(pid)
            return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
        state, *values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else float(values[18])
    except (FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess):
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A driver or a recorder: a unique id and its process."""

    id: str
    role: str = "driver"
    host: str
    machine: str
    pid: int
    process_started: float
    """See `process_start`."""

    @classmethod
    def this_process(cls, role: str = "driver") -> Owner:
        """A new owner for the calling process; each call makes another id."""
        host, pid = socket.gethostname(), os.getpid()
        return cls(
            id=f"{host}-{pid}-{uuid.uuid4().hex[:8]}",
            role=role,
            host=host,
            machine=machine(),
            pid=pid,
            process_started=process_start(pid) or 0.0,
        )

    def provably_gone(self) -> bool:
        """True only if the owner lived on this machine and does not any more."""
        if self.machine != machine():
            return False
        try:
            started = process_start(self.pid)
            if started is None and BOOT_ID.exists():
                os.kill(self.pid, 0)  # some systems hide other users' processes
                return Path(f"/proc/{self.pid}").exists()
        except ProcessLookupError:
            return True
        except (OSError, psutil.AccessDenied):
            return False
        return started is None or abs(started - self.process_started) > START_TOLERANCE_S
