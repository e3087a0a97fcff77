"""Stopping a sweep: a first wish lets runs write a checkpoint, a second one ends them at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class StopRequest:
    """How often the user has asked, and how."""

    def __init__(self) -> None:
        self.count = 0
        self.reason = ""
        self.planned = False
        """Whether it was a cap that asked, nobody else."""

    def ask(self, reason: str, *, planned: bool = False) -> None:
        self.planned = planned if not self.count else self.planned and planned
        self.count += 1
        self.reason = self.reason or reason

    @property
    def asked(self) -> bool:
        return self.count > 0


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Ctrl-C, SIGTERM and a lost terminal become wishes to stop instead of exceptions anywhere."""
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, _: FrameType | None) -> None:
        # Ray's own handler of SIGTERM has set an alarm that would abort this process three seconds later.
        signal.alarm(0)
        if stop.count > 1:  # whatever holds it up: the third one leaves
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
    """Files by which a driver asks its workers, wherever they run, to stop; they look every half second."""

    def __init__(self, folder: Path, owner: str) -> None:
        self.folder, self._owner = folder, owner
        self._written: set[Path] = set()

    def watched_by(self, key: str, attempt: int) -> tuple[str, ...]:
        """What the worker of this attempt has to look at."""
        return str(self._of_all), str(self._of_one(key, attempt))

    @property
    def _of_all(self) -> Path:
        return self.folder / self._owner

    def _of_one(self, key: str, attempt: int) -> Path:
        return self.folder / f"{key}-{attempt}"

    def ask_all(self, reason: str) -> None:
        """OSError where the file cannot be written."""
        self._write(self._of_all, reason)

    def ask_one(self, key: str, attempt: int, reason: str) -> None:
        self._write(self._of_one(key, attempt), reason)

    def _write(self, path: Path, reason: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._written.add(path)
        path.write_text(reason)

    def remove(self) -> None:
        for path in self._written:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        self._written.clear()
