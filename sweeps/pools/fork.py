"""A process of its own for every job, in a moment: forked from a server that has loaded what runs need.

A process keeps the GPU it first used, and whatever memory of it a run left; so a job on a GPU gets a fresh
one. Loading takes seconds, so a server does that once (`python -m sweeps.pools.fork`) and never touches a
GPU itself. Jobs go in as JSON lines, each with the environment it wants, and outcomes come out.

Should whoever started the server die, its input ends: the job is asked to stop, with a checkpoint, and killed
should it not. Should the server die, the kernel asks the job to stop.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from sweeps.attempt.worker import Job, Outcome, run_job
from sweeps.pools.base import lost

POLL_S = 0.05
STOP_S = 20.0
"""How long a job may take to stop once its input has ended."""
_PR_SET_PDEATHSIG = 1


def message(job: Job, environment: Mapping[str, str]) -> dict[str, Any]:
    """What a server is sent: a job, and variables to set for it."""
    return {"job": job.to_dict(), "environment": dict(environment)}


class Forks:
    """A server, seen from the process that started it. One job at a time."""

    def __init__(self) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-P", "-m", "sweeps.pools.fork"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def run(self, job: Job) -> Outcome:
        """Run `job` in a process of its own, in this process's environment."""
        assert self._popen.stdin is not None, "its input is a pipe"
        assert self._popen.stdout is not None, "its output is a pipe"
        with suppress(BrokenPipeError):  # found out by the end of its output
            self._popen.stdin.write(json.dumps(message(job, os.environ)).encode() + b"\n")
            self._popen.stdin.flush()
        line = self._popen.stdout.readline()
        return Outcome.from_dict(json.loads(line)) if line else lost(job, "the worker process was lost")

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def close(self) -> None:
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        self._popen.wait()


# -- the server ---------------------------------------------------------------------------------


class _Input:
    """Lines from a descriptor, of which it is known at any time whether it has ended."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self.ended = descriptor, False
        self._buffer = b""

    def poll(self, seconds: float) -> None:
        """Take in what comes within that time."""
        if self.ended:
            time.sleep(seconds)
            return
        ready, _, _ = select.select([self.descriptor], [], [], seconds)
        if ready:
            data = os.read(self.descriptor, 1 << 16)
            self.ended = not data
            self._buffer += data

    def lines(self) -> Iterator[bytes]:
        """Each line, until there are no more to come."""
        while True:
            line, newline, rest = self._buffer.partition(b"\n")
            if newline:
                self._buffer = rest
                yield line
            elif self.ended:
                return
            else:
                self.poll(3600.0)


def main() -> None:
    """Serve until the input ends; the only thing on the output are outcomes."""
    from sweeps.pools.local import load_what_runs_need

    answers = os.dup(1)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    load_what_runs_need()
    source = _Input(0)
    for line in source.lines():
        asked = json.loads(line)
        job = Job.from_dict(asked["job"])
        server = os.getpid()
        child = os.fork()
        if child == 0:
            _be_the_job(job, asked["environment"], server, answers)
        code = _wait(child, source)
        if code < 0:
            _answer(answers, lost(job, f"the worker process was killed by {signal.Signals(-code).name}"))
        elif code > 0:
            _answer(answers, lost(job, f"the worker process ended with exit code {code}"))


def _be_the_job(job: Job, environment: Mapping[str, str], server: int, answers: int) -> None:
    """The child's whole life."""
    code = 1
    try:
        _die_with(server)
        os.close(0)
        os.open(os.devnull, os.O_RDONLY)
        os.environ.update(environment)
        _answer(answers, run_job(job))
        code = 0
    finally:
        os._exit(code)


def _die_with(server: int) -> None:
    """SIGTERM, should the server die; Linux only, elsewhere the job runs to its end."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != server:
        os._exit(1)


def _wait(child: int, source: _Input) -> int:
    """The child's exit code (negative: the signal). Asks it to stop when the input ends."""
    asked_at: float | None = None
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        source.poll(POLL_S)
        now = time.monotonic()
        if source.ended and asked_at is None:
            asked_at = now
            os.kill(child, signal.SIGTERM)
        elif asked_at is not None and now - asked_at > STOP_S:
            os.kill(child, signal.SIGKILL)


def _answer(answers: int, outcome: Outcome) -> None:
    data = json.dumps(outcome.to_dict()).encode() + b"\n"
    with suppress(BrokenPipeError):  # nobody listens any more; the outcome lies beside the journal
        while data:
            data = data[os.write(answers, data) :]


if __name__ == "__main__":
    main()
