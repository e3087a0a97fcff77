"""Stopping a sweep: a first request lets runs write a checkpoint, a second one ends them at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class StopRequest:
    """How often a stop was requested, and why."""

    def __init__(self) -> None:
        self.count = 0
        self.reason = ""
        self.planned = False
        """Whether only a cap requested it."""

    def ask(self, reason: str, *, planned: bool = False) -> None:
        self.planned = planned if not self.count else self.planned and planned
        self.count += 1
        self.reason = self.reason or reason

    @property
    def asked(self) -> bool:
        return self.count > 0


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Ctrl-C, SIGTERM and a lost terminal become requests to stop instead of exceptions anywhere."""
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, _: FrameType | None) -> None:
        # Ray's own handler of SIGTERM has set an alarm that would abort this process three seconds later.
        signal.alarm(0)
        if stop.count > 1:  # the third one leaves, whatever is under way
            raise KeyboardInterrupt
        stop.ask("Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name)

    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    replaced = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)


class StopFiles:
    """Files by which a driver asks its workers to stop; they look for them every half second."""

    def __init__(self, folder: Path, owner: str) -> None:
        self.folder, self._owner = folder, owner
        self._written: set[Path] = set()

    def watched_by(self, key: str, attempt: int) -> tuple[str, ...]:
        """The files that stop this attempt: one for all runs, one for itself."""
        return str(self.folder / self._owner), str(self.folder / f"{key}-{attempt}")

    def ask(self, reason: str, *, only: tuple[str, int] | None = None) -> None:
        """Stop all runs, or only an attempt (key and number). OSError if the file cannot be written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / (f"{only[0]}-{only[1]}" if only else self._owner)
        self._written.add(path)
        path.write_text(reason)

    def remove(self) -> None:
        for path in self._written:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        self._written.clear()
