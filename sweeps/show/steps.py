"""Progress of work in steps: "fitting ar (1,000 resamples) ... 3 of 7, about 12 s left"."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from analysis.text import duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

PATIENCE_S = 2.0
"""A command that answers within this time says nothing before."""


class Steps:
    """A line per step. On a terminal it counts the seconds and goes away at the end; elsewhere it stays."""

    def __init__(self, console: Console, weights: Sequence[float]) -> None:
        """weights: how long each step takes, in any unit, for the time that is left."""
        self.console, self.weights = console, list(weights)
        self._text, self._done = "", -1
        self._began = self._step_began = 0.0
        self._live: Live | None = None

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, text: str) -> None:
        """The step before is done, and this one begins."""
        self._text, self._done = text, self._done + 1
        self._step_began = time.monotonic()
        if not self._done:
            self._began = self._step_began
        if not self.console.is_terminal:
            self.console.print(self.line())
            return
        if self._live is None:
            from rich.live import Live

            self._live = Live(
                console=self.console, transient=True, refresh_per_second=2, get_renderable=self._row
            )
            self._live.start()
        self._live.refresh()

    def line(self) -> str:
        """The step, its number, and the time left once a step has shown the pace."""
        done, now = self._done, time.monotonic()
        parts = [f"{done + 1} of {len(self.weights)}"] if len(self.weights) > 1 else []
        if done and (weight := sum(self.weights[:done])):
            pace = (self._step_began - self._began) / weight
            left = pace * sum(self.weights[done:]) - (now - self._step_began)
            parts += [f"about {duration(left)} left"] if left >= 1 else []
        elif (taken := now - self._step_began) >= 1:
            parts.append(duration(taken))
        return f"{self._text} ... {', '.join(parts)}".rstrip()

    def _row(self) -> Text:
        return Text(self.line(), no_wrap=True, overflow="ellipsis")


class Waiting:
    """What a short command does just now. On a terminal a line that goes away at the end; elsewhere a line
    per step on standard error, if the whole takes longer than `PATIENCE_S`: the output holds the answer."""

    def __init__(self, out: Console, text: str) -> None:
        self._text, self._lock = text, threading.Lock()
        self._status = out.status(text) if out.is_terminal else None
        self._timer = threading.Timer(PATIENCE_S, self._tell)
        self._timer.daemon = True
        self._late = False
        """Whether the time is over: the step of that moment was told, and each is from then on."""

    def __enter__(self) -> Waiting:
        if self._status is not None:
            self._status.start()
        else:
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()
        self._timer.cancel()

    def __call__(self, text: str) -> None:
        """The next step begins."""
        if self._status is not None:
            self._status.update(text)
            return
        with self._lock:
            self._text = text
            late = self._late
        if late:
            self._tell()

    def _tell(self) -> None:
        with self._lock:
            self._late = True
            print(self._text, file=sys.stderr, flush=True)
