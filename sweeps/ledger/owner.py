"""Who holds a claim: one driver process on one machine, and how another can tell that it is gone.

Process numbers are reused and containers share host names, so a process is known by its machine (host
name, boot, process-number namespace), its number and its start time.
"""

from __future__ import annotations

import os
import socket
import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

START_TOLERANCE_S = 1.0
"""psutil derives start times from clock ticks since boot; two readings may differ by a tick."""


@cache
def machine() -> str:
    """This machine as its processes see it: equal strings share process numbers."""
    parts = [socket.gethostname()]
    boot = Path("/proc/sys/kernel/random/boot_id")
    if boot.exists():
        parts.append(boot.read_text().strip())
    namespace = Path("/proc/self/ns/pid")
    if namespace.is_symlink():
        parts.append(os.readlink(namespace))
    return "|".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A driver: its unique id and the process that it is."""

    id: str
    host: str
    machine: str
    pid: int
    process_started: float
    """Seconds since 1970."""

    @classmethod
    def this_process(cls, role: str = "") -> Owner:
        """A new owner for the calling process; each call makes another id, which begins with `role`."""
        host, pid = socket.gethostname(), os.getpid()
        return cls(
            id=f"{role}{host}-{pid}-{uuid.uuid4().hex[:8]}",
            host=host,
            machine=machine(),
            pid=pid,
            process_started=psutil.Process(pid).create_time(),
        )

    def provably_gone(self) -> bool:
        """True only where this machine can say so: the owner lived here and does not any more."""
        if self.machine != machine():
            return False
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return True
            return abs(process.create_time() - self.process_started) > START_TOLERANCE_S
        except psutil.NoSuchProcess:
            return True
        except psutil.AccessDenied:
            return False
