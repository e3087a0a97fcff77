"""The events of a sweep for other programs: a JSON object per line, and a message to a web address.

Every event has `at` (seconds since 1970), `event` and `sweep`:

    started   run, family, size, budget, attempt
    ended     the same, with state, sentence, seconds
    sweep     planned, finished, running, otherwise, left_s (null while it waits); whenever a run started or
              ended, and every minute
    done      counts by state, sentence, wall_s; the last one
"""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path
from typing import Any

from scaling.errors import UserError
from sweeps.driver.sweep import Report
from sweeps.driver.view import View
from sweeps.ledger.types import SETTLED, Entry, State
from sweeps.show.progress import LINE_S, Forecast

WEBHOOK_S = 10.0
WEBHOOK_TRIES = 3


class Events:
    """Writes events to a file, or "-" for standard output. Watches a sweep; `done` comes at its very end."""

    def __init__(self, target: str, sweep: str) -> None:
        """UserError if the file cannot be written. New events are appended to an existing file."""
        self.sweep = sweep
        self._forecast = Forecast()
        self._flying: dict[str, int] = {}
        self._sent_at = -float("inf")
        self._path = None if target == "-" else Path(target)
        if self._path is not None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._path.open("a").close()
            except OSError as error:
                message = f"--events {self._path} cannot be written: {error.strerror or error}"
                raise UserError(message) from error

    def show(self, view: View) -> None:
        self._forecast.update(view)
        flying = {flight.entry.key: flight.claim.attempt for flight in view.flights}
        entries = {flight.entry.key: flight.entry for flight in view.flights}
        begun = [key for key, attempt in flying.items() if self._flying.get(key) != attempt]
        for ended in view.ended:
            assert ended.verdict is not None, "it has ended"
            self._send(
                "ended",
                **_run(ended.entry),
                state=str(ended.verdict.state),
                sentence=ended.verdict.sentence,
                seconds=round(ended.seconds, 3),
            )
        for key in begun:
            self._send("started", **_run(entries[key]), attempt=flying[key])
        self._flying = flying
        if begun or view.ended or view.now - self._sent_at >= LINE_S:
            self._sent_at = view.now
            states = [run.state for run in view.states.values()]
            left_s = self._forecast.left(view)
            finished = states.count(State.FINISHED)
            self._send(
                "sweep",
                planned=len(view.entries),
                finished=finished,
                running=states.count(State.RUNNING),
                otherwise=sum(state in SETTLED for state in states) - finished,
                left_s=None if left_s is None else round(left_s, 1),
                note=view.note,
            )

    def done(self, report: Report) -> None:
        self._send("done", **summary(report))

    def close(self) -> None:
        """No file is held open; `done` may still come."""

    def _send(self, event: str, **values: Any) -> None:
        line = json.dumps({"at": round(time.time(), 3), "event": event, "sweep": self.sweep, **values})
        try:
            if self._path is None:
                print(line, flush=True)
                return
            with self._path.open("a") as file:
                file.write(f"{line}\n")
        except OSError:  # the reader is gone, or the disk is full: the sweep goes on
            return


def _run(entry: Entry) -> dict[str, Any]:
    return {
        "run": entry.key,
        "family": entry.family,
        "size": entry.spec.size.name,
        "budget": entry.spec.budget,
    }


def summary(report: Report) -> dict[str, Any]:
    """How a sweep ended, as plain data."""
    return {"counts": report.counts, "sentence": report.sentence, "wall_s": round(report.wall_s, 1)}


# -- webhook ------------------------------------------------------------------------------------


def check_webhook(url: str) -> None:
    """UserError unless `url` is a web address."""
    if not url.startswith(("http://", "https://")):
        raise UserError(f"--webhook is {url!r}, it must begin with http:// or https://")


def call_webhook(url: str, sweep: str, report: Report) -> str | None:
    """POST the outcome as JSON; returns the problem if that failed. `text` suits chat programs."""
    body = {"text": f"sweep {sweep}: {report.sentence}", "sweep": sweep, **summary(report)}
    headers = {"Content-Type": "application/json", "User-Agent": "scaling"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    problem = ""
    for attempt in range(WEBHOOK_TRIES):
        if attempt:
            time.sleep(2.0**attempt)
        try:
            with urllib.request.urlopen(request, timeout=WEBHOOK_S):
                return None
        except (OSError, ValueError) as error:
            problem = f"the webhook could not be reached: {error}"
    return problem
